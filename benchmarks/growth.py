"""How time and memory grow with the number of ratings: from 100,000 to 25 million, shaped like MovieLens 25M

    python benchmarks/growth.py             # about four minutes and 5 GiB of free memory; writes benchmarks/results/growth.{md,json,png}
    python benchmarks/growth.py --quick     # the two smallest sizes, seconds: to try the script; writes nothing
"""
import gc, json, multiprocessing as mp, sys, warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np
from fastcore.script import CliError, call_parse
from matplotlib.figure import Figure

from common import RESULTS, describe, machine, md_table, verdict

SIZES = 100_000, 1_000_000, 5_000_000, 25_000_000
ML25M = dict(rows=25_000_000, users=162_541, items=59_047)

# ratings out of nowhere

def shape_for(n):
    "Users and items for `n` ratings: as many ratings per user as in MovieLens 25M; items grow as the square root"
    share = n/ML25M['rows']
    return max(50, round(ML25M['users']*share)), max(100, round(ML25M['items']*share**0.5))

def activity(rng, n, n_users, n_items):
    "How many items each user rates, `n` in all: 20 or more, lognormal, as in MovieLens"
    c = np.minimum(20+rng.lognormal(3.9, 1.2, n_users), n_items/4)
    c = np.maximum(1, c*n/c.sum()).astype(int)
    np.add.at(c, rng.integers(0, n_users, max(0, n-c.sum())), 1)   # what rounding took
    return c

def popularity(n_items):
    "Cumulative chances of items: a power law with a flat head, and a long tail"
    p = (np.arange(n_items)+30.)**-1.5
    return np.cumsum(0.95*p/p.sum() + 0.05/n_items)

def draw_items(rng, counts, cdf):
    "`counts[u]` different items for each u: sorted keys u*len(cdf)+item"
    n,keys,lack = len(cdf),np.zeros(0, dtype=np.int64),counts
    while lack.any():
        u = np.repeat(np.arange(len(counts)), np.where(lack>0, lack+lack//2+4, 0))   # more than are wanted, since some are there already
        new = np.sort(u*n + np.minimum(np.searchsorted(cdf, rng.random(len(u))), n-1))
        new = new[np.diff(new, prepend=-1)>0]
        new = new[~np.isin(new, keys, assume_unique=True)]
        new = new[np.lexsort((rng.random(len(new)), new//n))]                  # by user, in any order
        u = new//n
        keys = np.sort(np.concatenate([keys, new[np.arange(len(u))-np.searchsorted(u, u) < lack[u]]]), kind='stable')
        lack = counts-np.bincount(keys//n, minlength=len(counts))
    return keys

def stream(n, seed=0, chunk=1_000_000):
    "Tables of `n` ratings in all, about `chunk` rows at a time: biases, 8 factors and noise, in steps of a half, sorted by user"
    rng = np.random.default_rng(seed)
    n_users,n_items = shape_for(n)
    counts,cdf = activity(rng, n, n_users, n_items),popularity(n_items)
    ids,q,bi = rng.permutation(4*n_items)[:n_items]+1,rng.normal(0, 0.35, (n_items,8)),rng.normal(-0.2, 0.45, n_items)
    ends = np.searchsorted(np.cumsum(counts), np.arange(chunk, n+chunk, chunk))+1
    for a,b in zip([0,*ends[:-1]], np.minimum(ends, n_users)):
        if a>=b: continue
        u,i = np.divmod(draw_items(rng, counts[a:b], cdf), n_items)
        p,bu = rng.normal(0, 0.7, (b-a,8)),rng.normal(0, 0.4, b-a)
        y = 3.6+bu[u]+bi[i]+np.einsum('nk,nk->n', p[u], q[i])+rng.normal(0, 0.75, len(u))
        yield dict(userId=u+a+1, movieId=ids[i], rating=np.clip(np.round(2*y)/2, 0.5, 5), timestamp=1_100_000_000+rng.integers(0, 4e8, b-a)[u]+np.arange(len(u))%86_400)

def write_csv(file, n, seed=0):
    "The stream as a file like MovieLens' `ratings.csv`; rows written"
    import pyarrow as pa
    from pyarrow.csv import CSVWriter, WriteOptions
    rows,writer = 0,None
    for o in stream(n, seed):
        t = pa.table(o)
        writer = writer or CSVWriter(file, t.schema, write_options=WriteOptions(quoting_style='needed'))
        writer.write_table(t)
        rows += len(t)
    writer.close()
    return rows

# measuring

def peak(reset=False):
    "Most memory this process has had since the last reset, GiB"
    if reset: Path('/proc/self/clear_refs').write_text('5')
    return next(int(l.split()[1]) for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmHWM'))/2**20

class Stages(dict):
    "Seconds and peak memory by stage"
    def run(self, name, f, *args, **kwargs):
        gc.collect()
        peak(reset=True)
        start = perf_counter()
        res = f(*args, **kwargs)
        self[name] = dict(seconds=perf_counter()-start, gib=peak())
        print(f'  {name:30} {self[name]["seconds"]:8.2f} s {self[name]["gib"]:7.2f} GiB', file=sys.stderr, flush=True)
        return res

MAKE,IDLE,EPOCH,PLAIN,TOP = 'make the file','nothing','an epoch','an epoch, plain model','top 10 for all users'

def idle(folder, threads):
    "Whatever is loaded on demand is loaded, on a table of 5,000"
    import torch
    from collab_notes.core import as_model
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.tables import read_ratings
    from collab_notes.topn import top_rows
    from collab_notes.training import fit
    if threads: torch.set_num_threads(threads)
    file = Path(folder)/'small.csv'
    write_csv(file, 5000)
    top_rows(as_model(fit(RatingsDataLoaders.from_df(read_ratings(file), seed=0), 1, seed=0, progress=False)))

def measure(n, folder, threads, conn):
    "All stages on `n` ratings; runs in a process of its own"
    from collab_notes.core import as_model
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.models import DotProductBias
    from collab_notes.tables import check_ratings, read_ratings
    from collab_notes.topn import top_rows
    from collab_notes.training import auto_range, fit
    file,s = Path(folder)/f'{n}.csv',Stages()
    idle(folder, threads)
    rows = s.run(MAKE, write_csv, file, n)
    s.run(IDLE, lambda: None)
    df = s.run('read', read_ratings, file)
    s.run('check', check_ratings, df)
    dls = s.run('split and load', RatingsDataLoaders.from_df, df, seed=0)
    del df
    learn = s.run(EPOCH, fit, dls, 1, seed=0, progress=False)
    s.run(PLAIN, lambda: fit(dls, 1, seed=0, progress=False, model=DotProductBias.from_dls(dls, 50, y_range=auto_range(dls), std=0.002)))
    surf = as_model(learn)
    s.run(TOP, lambda: top_rows(surf, exclude=learn.dls.train.tensors()[0]))
    conn.send(dict(rows=rows, users=len(surf.user_factors)-1, items=len(surf.item_factors)-1, bs=learn.dls.bs, steps=len(learn.dls.train), file_mb=file.stat().st_size/1e6, stages=dict(s)))
    file.unlink()

def compare_batches(n, folder, threads, conn):
    "A whole `fit` in batches of 2,048, the same with less decay, and in the default's batches"
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.tables import read_ratings
    from collab_notes.latent import baseline_losses
    from collab_notes.training import auto_wd, fit
    file,res = Path(folder)/f'{n}.csv',[]
    idle(folder, threads)
    write_csv(file, n)
    dls = RatingsDataLoaders.from_df(read_ratings(file), seed=0)
    base = baseline_losses(dls)['valid MSE']
    for bs,wd in ((2048,1), (2048,0.3), (None,1)):
        start = perf_counter()
        learn = fit(dls, seed=0, bs=bs, wd=wd*auto_wd(dls), progress=False)
        res.append(dict(bs=learn.dls.bs, wd=wd, steps=len(learn.dls.train), seconds=perf_counter()-start, mse=learn.recorder.values[-1][1], base=base.min()))
    conn.send(res)
    file.unlink()

def in_child(f, *args):
    "Result of `f(*args, conn)` in a new process"
    ctx = mp.get_context('spawn')
    ours,theirs = ctx.Pipe()
    p = ctx.Process(target=f, args=(*args, theirs))
    p.start()
    theirs.close()
    try: res = ours.recv()
    except EOFError:
        p.join()
        raise CliError(f'The process for {args[0]} ended with exit code {p.exitcode} (-9: out of memory)') from None
    p.join()
    return res

# reporting

def slopes(rows, get):
    "Exponents of growth with rows, where `get` gives seconds or GiB: by regression over all sizes from a million on, and of the last step"
    big = [r for r in rows if r['rows']>=1_000_000]
    if len(big)<2: big = rows
    x,y = np.log([r['rows'] for r in big]),np.log([max(get(r), 1e-6) for r in big])
    return np.polyfit(x, y, 1)[0], (y[-1]-y[-2])/(x[-1]-x[-2])

seconds = lambda stage: lambda r: r['stages'][stage]['seconds']
highest = lambda r: max(v['gib'] for k,v in r['stages'].items() if k not in (MAKE,PLAIN))
above = lambda r: highest(r)-r['stages'][IDLE]['gib']

def targets(rows):
    last = rows[-1]
    for what,get in (('time of an epoch',seconds(EPOCH)), ('memory (above that of an idle process)',above)):
        fit_,step = slopes(rows, get)
        yield verdict(f'{what} grows no faster than rows to the power 1.1', max(fit_, step)<=1.1, f'{fit_:.2f} by regression, {step:.2f} in the last step')
    if last['rows']<25_000_000: return
    yield verdict('25 million ratings fit into 16 GiB', highest(last)<=16, f'{highest(last):.1f} GiB at the highest')
    yield verdict('an epoch on 25 million ratings takes less than 60 s', seconds(EPOCH)(last)<60, f'{seconds(EPOCH)(last):.1f} s')

def plot(rows):
    "Time and memory against rows, both on logarithmic axes"
    fig = Figure(figsize=(11,4.5), layout='constrained')
    a,b = fig.subplots(1, 2)
    x = [r['rows'] for r in rows]
    for (k,m) in zip([o for o in rows[0]['stages'] if o not in (MAKE,IDLE)], 'o^sDvP'):
        a.plot(x, [seconds(k)(r) for r in rows], marker=m, label=k)
        b.plot(x, [r['stages'][k]['gib'] for r in rows], marker=m, label=k)
    a.plot(x, [seconds(EPOCH)(rows[-1])*o/x[-1] for o in x], 'k:', lw=0.8, label='linear')
    b.plot(x, [r['stages'][IDLE]['gib'] for r in rows], 'k--', lw=0.8, label='an idle process')
    a.axhline(60, color='grey', lw=0.8)
    b.axhline(16, color='grey', lw=0.8)
    a.set(xscale='log', yscale='log', xlabel='ratings', ylabel='seconds', title='Time (grey: 60 s)')
    b.set(xscale='log', yscale='log', xlabel='ratings', ylabel='peak memory, GiB', title='Memory (grey: 16 GiB)')
    a.legend(fontsize=8)
    b.legend(fontsize=8)
    return fig

HOW = """The ratings are made by a seeded generator, a million rows at a time, and written to a csv file like MovieLens' `ratings.csv` (sorted by user). With 25 million rows there are MovieLens 25M's 162,541 users and 59,047 items; with fewer, users shrink in proportion
(154 ratings each on average, 20 or more as a rule, lognormal) and items with the square root. Items follow a power law with a flat head and a long tail; ratings are biases, 8 factors and noise, in steps of a half.
Each size runs in a process of its own. Peak memory is the process's resident memory at its highest within a stage, everything included that is kept from the stages before (the kernel's high-water mark, reset before each). *read* is `read_ratings`, *check* `check_ratings`, *split and load*
`RatingsDataLoaders.from_df` (which checks again and makes a random split), *an epoch* `fit(dls, 1)` with its validation, *plain model* the same with
`DotProductBias` where `fit` takes `DotProductBiasBlocks` (batches above 4,096), *top 10* `top_rows` for all users, without what they have rated in training. Exponents are slopes of log(seconds) or log(GiB) over log(rows), from a million rows on,
where fixed costs no longer hide the growth; the idle process's memory is taken off."""

def report(rows, batches, about, quick):
    stages = [o for o in rows[0]['stages'] if o not in (MAKE,IDLE)]
    time = [{'ratings':f"{r['rows']:,}", 'users':f"{r['users']:,}", 'items':f"{r['items']:,}", 'batch':f"{r['bs']:,}", **{k:f'{seconds(k)(r):.2f} s' for k in stages}} for r in rows]
    time.append({'ratings':'*exponent*', 'users':'', 'items':'', 'batch':'', **{k:'{:.2f} (last step {:.2f})'.format(*slopes(rows, seconds(k))) for k in stages}})
    mem = [{'ratings':f"{r['rows']:,}", 'file':f"{r['file_mb']:,.0f} MB", 'idle':f"{r['stages'][IDLE]['gib']:.2f} GiB", **{k:f"{r['stages'][k]['gib']:.2f} GiB" for k in stages}} for r in rows]
    b = [{'batch':f"{o['bs']:,}", 'steps in an epoch':o['steps'], 'wd':f"{o['wd']:g} × auto_wd", 'seconds':f"{o['seconds']:.1f}", 'valid MSE':f"{o['mse']:.4f}"} for o in batches['runs']]
    why = f"""`fit` never cuts a table into more than 50 batches an epoch, so that a large table does not cost more steps, each of which moves every user's and item's factors. Is that as good? A whole `fit` (6 epochs) on {batches['rows']:,} of these ratings; small batches want less decay than the recipe has, so they are tried with that, too. User + item means reach {batches['runs'][0]['base']:.4f}:"""
    title = '# How time and memory grow with the number of ratings' + (' (only a try with --quick: not a result)' if quick else '')
    return '\n\n'.join([title, 'Written by `python benchmarks/growth.py`.', describe(about)+'.', '\n'.join(targets(rows)), '## Time', md_table(time), '## Peak memory', md_table(mem), '## Large batches', why, md_table(b), '## How it is measured', HOW]) + '\n'

@call_parse
def main(sizes:Annotated[int, {'nargs':'+'}]=SIZES, # numbers of ratings, growing
         threads:int=None, # torch threads (torch's own default if not given)
         quick:bool=False, # the two smallest sizes
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Time and memory of each stage, at growing sizes"
    import torch
    about = machine(**{'torch threads':threads or torch.get_num_threads()})
    if quick: sizes = sizes[:2]
    else: out = out or RESULTS
    if len(sizes)<2: raise CliError("Give two sizes or more: growth is between them")
    rows = []
    with TemporaryDirectory() as d:
        for n in sorted(sizes):
            print(f'{n:,}', file=sys.stderr, flush=True)
            rows.append(in_child(measure, n, d, threads))
        n = sorted(sizes)[1]
        batches = dict(rows=n, runs=in_child(compare_batches, n, d, threads))
    md = report(rows, batches, about, quick)
    print(md)
    if not out: return
    out.mkdir(parents=True, exist_ok=True)
    (out/'growth.md').write_text(md + '\n![Seconds and peak memory of each stage against the number of ratings, on logarithmic axes](growth.png)\n', encoding='utf-8')
    (out/'growth.json').write_text(json.dumps(dict(machine=about, sizes=rows, batches=batches), indent=1), encoding='utf-8')
    plot(rows).savefig(out/'growth.png', dpi=120)
