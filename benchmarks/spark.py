"""From where on Spark pays: `SparkALS` and Spark's ALS alone beside `fit` and `fit_quick`, on made-up ratings

    pip install '.[spark]' && .ci/java.sh
    python benchmarks/spark.py                       # 0.1, 1, 5 and 25 million; 16 GiB of free memory; writes benchmarks/results/spark.{md,json}
    python benchmarks/spark.py --sizes 100000        # a minute and 4 GiB
    python benchmarks/spark.py --quick               # 20,000, to try the script; writes nothing

The ratings are those of growth.py: of MovieLens 25M's shape, by biases, 8 factors and noise, in steps of a half.
"""
import gc, json, os, re, sys, warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable|.*chained_assignment.*|PySpark does not')

import numpy as np, pandas as pd
from fastcore.script import call_parse

from common import RESULTS, describe, machine, md_table
from growth import in_child, peak, stream
from large import means_rmse, rmse

COLS = ['userId','movieId','rating']
WDS = 0.05,0.07,0.1,0.15,0.25                  # for Spark's ALS one of them is taken, by an inner part of the training rows
ALIKE = dict(n_factors=20, n_epoch=10)         # for both that are Spark's
CHOOSE = 1_000_000                             # the choice is made at this size at the most, and holds for larger ones

def make(n, folder, seed):
    "`n` ratings as parquet: to train on, to measure on, and the first once more in two parts, to choose settings by; how many there are of what"
    df = pd.concat([pd.DataFrame({k:o[k] for k in COLS}) for o in stream(n, seed)], ignore_index=True)
    part = np.random.default_rng(seed).random((2, len(df)))
    held,inner = part<0.2
    for name,m in dict(train=~held, valid=held, inner=~held&~inner, inner_valid=~held&inner).items(): df[m].to_parquet(folder/f'{name}.parquet', index=False)
    return dict(rows=len(df), users=df.userId.nunique(), items=df.movieId.nunique(), means=means_of(df[~held], df[held]))

def means_of(train, valid):
    "RMSE of damped user and item means"
    codes = [pd.Index(np.unique(np.r_[train[c],valid[c]])) for c in COLS[:2]]
    (u,i),(a,b) = ([o.get_indexer(t[c]) for o,c in zip(codes, COLS)] for t in (train,valid))
    return means_rmse(dict(u=u, i=i, y=train.rating.to_numpy()), a, b, valid.rating.to_numpy(), *map(len, codes))

# each in a process of its own: seconds from the files to the model, memory, RMSE

def alone(how, folder, names, seed, threads, conn):
    "Ours on one machine"
    import torch
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.quick import fit_quick
    from collab_notes.training import fit
    torch.set_num_threads(threads)
    start = perf_counter()
    parts = [pd.read_parquet(folder/f'{o}.parquet') for o in names]
    n = len(parts[0])
    df = pd.concat(parts, ignore_index=True)
    dls = RatingsDataLoaders.from_df(df, splits=(np.arange(n), np.arange(n, len(df))), seed=seed)
    o = fit(dls, seed=seed, progress=False) if how=='fit' else fit_quick(dls, seed=seed)
    took,gib = perf_counter()-start,peak()
    from collab_notes.core import predict
    conn.send(dict(seconds=took, gib=gib, rmse=rmse(predict(o, parts[1][COLS[:2]]).prediction.to_numpy(float), parts[1].rating.to_numpy())))

def session(threads, gigabytes):
    from collab_notes.sparksession import spark_session
    return spark_session(f'local[{threads}]', {'spark.driver.memory':f'{gigabytes}g', 'spark.ui.enabled':'false', 'spark.sql.shuffle.partitions':2*threads}, os.devnull)

def java_peak(spark):
    "GiB of Spark's own process, at the most"
    text = Path(f'/proc/{spark.sparkContext._gateway.proc.pid}/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+)', text)[1])/2**20

def in_spark(how, folder, names, seed, threads, wd, gigabytes, conn):
    "Ours in Spark, or Spark's own ALS; a session is started first, and does not count"
    from collab_notes.sparkals import SparkALS
    from collab_notes.sparkcluster import shuffled
    spark = session(threads, gigabytes)
    train,valid = (str(folder/f'{o}.parquet') for o in names)
    spark.read.parquet(train).count()
    before = shuffled(spark)
    peak(reset=True)
    start = perf_counter()
    held = pd.read_parquet(valid)
    if how=='SparkALS':
        als = SparkALS(**ALIKE, seed=seed)   # it chooses its weight decay itself, and is timed with that
        m = als.fit(train, duplicates='keep', spark=spark)
        took,sent,wd = perf_counter()-start,shuffled(spark)-before,als.wd_
        preds = m.predict(held[COLS[:2]], unseen='na').prediction
    else:
        from pyspark.ml.recommendation import ALS
        m = ALS(rank=ALIKE['n_factors'], maxIter=ALIKE['n_epoch'], regParam=wd, seed=seed, userCol=COLS[0], itemCol=COLS[1], ratingCol=COLS[2]).fit(spark.read.parquet(train))
        took,sent = perf_counter()-start,shuffled(spark)-before
        df = m.transform(spark.read.parquet(valid)).select(*COLS, 'prediction').toPandas()
        mean = pd.read_parquet(train, columns=['rating']).rating.mean()
        held,preds = df,df.prediction.fillna(mean)
    conn.send(dict(seconds=took, gib=peak()+java_peak(spark), shuffled=sent/2**30, wd=wd, rmse=rmse(preds.to_numpy(float), held.rating.to_numpy())))
    spark.stop()

def choose(folder, seed, threads, gigabytes):
    "The weight decay that is best on an inner part of the training rows"
    runs = {wd:in_child(in_spark, "Spark's ALS", folder, ('inner','inner_valid'), seed, threads, wd, gigabytes)['rmse'] for wd in WDS}
    print(f'  {runs}', file=sys.stderr, flush=True)
    return min(runs, key=runs.get),runs

def run_size(n, seed, threads, gigabytes, chosen):
    with TemporaryDirectory(prefix='spark-') as d:
        folder = Path(d)
        facts = make(n, folder, seed)
        print(f"{facts['rows']:,} ratings; user + item means {facts['means']:.4f}", file=sys.stderr, flush=True)
        if n<=CHOOSE or not chosen: chosen[:] = choose(folder, seed, threads, gigabytes)
        wd,runs = chosen[0],{str(k):v for k,v in chosen[1].items()}
        for how in ("Spark's ALS",'SparkALS','fit','fit_quick'):
            args = (how, folder, ('train','valid'), seed, threads)
            res = in_child(alone, *args) if how.startswith('fit') else in_child(in_spark, *args, wd, gigabytes)
            gc.collect()
            print(f"  {how:12} {res['seconds']:8.1f} s {res['gib']:6.2f} GiB  RMSE {res['rmse']:.4f}", file=sys.stderr, flush=True)
            yield dict(facts, model=how, **{'wd':None, **res}, tried=runs if how=="Spark's ALS" else None, load=os.getloadavg()[0])

NOTES = """**Time** is from the parquet files to a model, in a process of its own; starting Spark, some five to ten seconds, is not counted. **Memory** is the most that the process held, and for Spark that of Java as well, which takes what it is given. **Shuffled** is what Spark has written between its stages: a cluster sends it over the network.
**RMSE** on a fifth of the ratings, drawn at random, the same for all; predictions are kept within the scale. Both that are Spark's have {n_factors} factors and {n_epoch} epochs. `SparkALS` chooses its weight decay itself, and its seconds hold that. It is in other units, see `choose_wd`. For Spark's ALS we chose the best of {wds} on an inner part of the training rows, at a million ratings at the most; that is not counted.
`fit` and `fit_quick` run with their defaults. All of it is one machine, on which Spark brings nothing but its own cost: it pays where ratings no longer fit on one, or already lie in a cluster."""

def slopes(rows, model):
    "Seconds, GiB and GiB shuffled for each rating more, between the two largest sizes"
    a,b = sorted((o for o in rows if o['model']==model), key=lambda o: o['rows'])[-2:]
    return {k:(b[k]-a[k])/(b['rows']-a['rows']) for k in ('seconds','gib','shuffled') if k in a}

def on_paper(rows, threads):
    "What a billion ratings would cost, if each million more goes on to cost what it did between the two largest sizes"
    n,spark,quick = 1e9,slopes(rows, 'SparkALS'),slopes(rows, 'fit_quick')
    core = lambda o: f"{n*o['seconds']*threads/3600:.1f} core hours"
    fits = ', '.join(f"{gib/quick['gib']/1e6:,.0f} million into {gib} GiB" for gib in (16,64,256))
    wait = f"{60*n*spark['seconds']*threads/3600/64:.0f} minutes on 64 cores"
    of = lambda k, m: {o['rows']:o[k] for o in rows if o['model']==m}
    won = {k:sum(of(k, 'fit_quick')[n]<v for n,v in of(k, 'SparkALS').items()) for k in ('seconds','rmse')}
    return f"""`SparkALS`: {core(spark)} ({wait}, if these have nothing to wait for), and {n*spark['shuffled']:.0f} GiB shuffled. `fit_quick`: {core(quick)} and {n*quick['gib']:,.0f} GiB in one process.

By memory, `fit_quick` takes {fits}. That is where one machine ends. On the same cores, of {len(of('rmse', 'fit_quick'))} sizes here, `fit_quick` is faster than `SparkALS` at {won['seconds']} and has the lower RMSE at {won['rmse']}.
[`14_spark`](../../nbs/14_spark.ipynb) computes what an epoch sends, how many blocks and how many machines it takes."""

def tried(rows):
    "RMSE on the inner part by weight decay"
    return md_table([{'ratings':f"{o['rows']:,}", **{k:f'{v:.4f}' for k,v in o['tried'].items()}}
                     for o in rows if o['tried'] and o['rows']<=CHOOSE])

def report(rows, about):
    parts = ['# When one machine is not enough: what Spark costs', 'Written by `python benchmarks/spark.py`.', describe(about)+'.']
    for n in dict.fromkeys(o['rows'] for o in rows):
        at = [o for o in rows if o['rows']==n]
        parts += [f"## {n:,} ratings, {at[0]['users']:,} users, {at[0]['items']:,} items", f"User + item means reach {at[0]['means']:.4f}.",
                  md_table([{'model':o['model'], 'wd':'' if o['wd'] is None else o['wd'], 's':f"{o['seconds']:.1f}", 'GiB':f"{o['gib']:.1f}", 'GiB shuffled':f"{o['shuffled']:.2f}" if 'shuffled' in o else '', 'RMSE':f"{o['rmse']:.4f}", 'load':f"{o['load']:.1f}"} for o in at])]
    if len({o['rows'] for o in rows})>1: parts += ['## A billion, on paper', on_paper(rows, about['threads'])]
    parts += ["## Weight decay of Spark's ALS", 'RMSE on the inner part of the training rows, by which it is chosen:', tried(rows)]
    return '\n\n'.join([*parts, '## How it is measured', NOTES.format(**ALIKE, wds=', '.join(map(str, WDS)))])+'\n'

@call_parse
def main(sizes:Annotated[int, {'nargs':'+'}]=(100_000,1_000_000,5_000_000,25_000_000), # numbers of ratings
         seed:int=0, # of the ratings, the split and the models
         threads:int=2, # for everyone
         gigabytes:int=10, # of memory for Spark
         quick:bool=False, # 20,000 ratings
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Everybody trains on the same made-up ratings"
    from collab_notes.sparksession import need_spark
    need_spark()
    from importlib.metadata import version
    about,chosen = machine(pyspark=version('pyspark'), threads=threads),[]
    rows = [o for n in ((20_000,) if quick else sizes) for o in run_size(n, seed, threads, gigabytes, chosen)]
    md = report(rows, about)
    print(md)
    if quick and not out: return
    out = out or RESULTS
    (out/'spark.md').write_text(md, encoding='utf-8')
    (out/'spark.json').write_text(json.dumps(dict(machine=about, runs=rows), indent=1)+'\n', encoding='utf-8')
