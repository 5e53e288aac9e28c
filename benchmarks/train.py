"""How long training takes and what loss it reaches: `collab_notes.training.fit` beside stock fastai, on the same splits, in one process

    python benchmarks/train.py              # seeds 21 22 23, about six minutes; writes benchmarks/results/train.{md,json,png}
    python benchmarks/train.py --quick      # a tenth of the ratings, one seed, seconds: to try the script; writes nothing
"""
import gc, inspect, json, sys, warnings
from collections import namedtuple
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np, pandas as pd, torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.tabular.core import TabDataLoader
from fastai.torch_core import set_seed
from fastcore.script import call_parse
from fastcore.test import test_eq
from matplotlib.figure import Figure

from collab_notes.data import RatingsDataLoaders, random_split
from collab_notes.movielens import movielens_ratings
from collab_notes.latent import baseline_losses
from collab_notes.training import fit, fused_adamw
from common import RESULTS, describe, machine, md_table, mean_sd, verdict

def stock_dls(df, split, seed, **kwargs):
    "fastai's own loaders, which make the split themselves from `seed`"
    set_seed(seed)   # a loader draws the seed of its orders when it is made
    return CollabDataLoaders.from_df(df, item_name='title', seed=seed, bs=64, **kwargs)

def our_dls(df, split, seed): return RatingsDataLoaders.from_df(df, item_name='title', duplicates='keep', splits=split, seed=seed, bs=64)

def train_ours(dls, seed): return fit(dls, seed=seed, progress=False)

def train_stock(dls, seed):
    "The chapter's model at the chapter's settings"
    set_seed(seed)
    learn = collab_learner(dls, n_factors=50, y_range=(0,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5, 5e-3, wd=0.1)
    return learn

def recipe():
    "What `fit` does by default in this run: a result is good for this recipe only"
    ps,opt = inspect.signature(fit).parameters,fused_adamw.keywords['opt'].keywords
    return {**{k:ps[k].default for k in ('n_epoch','n_factors','wd','lr','std','moms')}, **{k:opt[k] for k in ('betas','eps')}}

Contestant = namedtuple('Contestant', 'dls train about')
OURS,AS_INSTALLED,CORRECT,OUR_DL = 'collab_notes `fit`','stock, as installed','stock, correct epoch','stock, on our loader'
CONTESTANTS = {
    OURS:         Contestant(our_dls, train_ours, '`collab_notes.training.fit(dls)`, all defaults'),
    AS_INSTALLED: Contestant(stock_dls, train_stock, '`collab_learner(CollabDataLoaders.from_df(…, bs=64), n_factors=50, y_range=(0,5.5))`, `fit_one_cycle(5, 5e-3, wd=0.1)`'),
    CORRECT:      Contestant(lambda *o: stock_dls(*o, dl_type=TabDataLoader), train_stock, 'the same with `dl_type=TabDataLoader`: each epoch is every training rating once'),
    OUR_DL:       Contestant(our_dls, train_stock, 'the same learner on `RatingsDataLoaders`, still in batches of 64'),
}

def timed(f, *args):
    "Result of `f(*args)`, wall seconds, and CPU seconds of all threads of this process"
    gc.collect()
    wall,cpu = perf_counter(),process_time()
    res = f(*args)
    return res, perf_counter()-wall, process_time()-cpu

def run(name, dls, seed):
    "Train a contestant; what it took and what it reached after the last epoch"
    learn,wall,cpu = timed(CONTESTANTS[name].train, dls, seed)
    mse = learn.recorder.values[-1][1]
    print(f'seed {seed}  {name:22} {wall:6.2f} s  valid MSE {mse:.4f}', file=sys.stderr, flush=True)
    return dict(seed=seed, contestant=name, bs=learn.dls.bs, mse=mse, rmse=mse**0.5, wall=wall, cpu=cpu)

def prepare(df, seed):
    "Loaders of all contestants, seconds to make them, and baselines; every one holds back the same rows"
    split = random_split(df, seed=seed)
    made = {k:timed(c.dls, df, split, seed) for k,c in CONTESTANTS.items()}
    for dls,*_ in made.values():
        test_eq(np.sort(dls.valid_ds.items.index), np.sort(split[1]))
        test_eq(np.sort(dls.train_ds.items.index), np.sort(split[0]))
    return {k:o[0] for k,o in made.items()}, {k:o[1] for k,o in made.items()}, baseline_losses(made[OURS][0])['valid MSE'].to_dict()

def one_seed(dls, # loaders by contestant
             seed:int, repeats:int): # of the short contestant, between any two of the long ones
    "A row for each contestant; the speed of a long run is set against the median of the short ones right before and after it"
    short = lambda: [run(OURS, dls[OURS], seed) for _ in range(repeats)]
    around,res = [short()],[]
    for k in list(CONTESTANTS)[1:]:
        res.append(run(k, dls[k], seed))
        around.append(short())
        for o in ('wall','cpu'): res[-1][f'{o}_ratio'] = res[-1][o] / median(r[o] for r in around[-2]+around[-1])
    every = sum(around, [])
    res.insert(0, {**every[0], **{o:median(r[o] for r in every) for o in ('wall','cpu')}, 'wall_ratio':1., 'cpu_ratio':1.})
    for r in res: r['distinct'] = len(np.unique(np.asarray(dls[r['contestant']].train.get_idxs())))
    return res

def summary(df):
    "Rows of the main table: mean ± standard deviation over seeds"
    return [{'contestant':k, 'batch':g.bs.iloc[0], 'distinct training ratings in an epoch':f'{g.distinct.mean():,.0f}', 'valid MSE':mean_sd(g.mse,4), 'valid RMSE':mean_sd(g.rmse,4),
             'wall s':mean_sd(g.wall,2), 'CPU s':mean_sd(g.cpu,2), **({'wall, × ours':'1', 'CPU, × ours':'1'} if k==OURS else {'wall, × ours':mean_sd(g.wall_ratio,1), 'CPU, × ours':mean_sd(g.cpu_ratio,1)})}
            for k,g in df.groupby('contestant', sort=False)]

def by_seed(df):
    "Rows of the table of single runs"
    return [{'seed':o.seed, 'contestant':o.contestant, 'valid MSE':f'{o.mse:.4f}', 'valid RMSE':f'{o.rmse:.4f}', 'wall s':f'{o.wall:.2f}', 'CPU s':f'{o.cpu:.2f}',
             'wall, × ours':f'{o.wall_ratio:.1f}', 'CPU, × ours':f'{o.cpu_ratio:.1f}'} for o in df.itertuples()]

def targets(df):
    "Is ours 25 times as fast as stock, at equal or lower loss?"
    mean = df.groupby('contestant')[['mse','wall_ratio']].mean()
    low = df.groupby('contestant').wall_ratio.min()
    for k in (AS_INSTALLED,CORRECT):
        yield verdict(f'at least 25× as fast as {k}, at equal or lower valid loss (means over seeds)', mean.wall_ratio[k]>=25 and mean.mse[OURS]<=mean.mse[k],
                      f'{mean.wall_ratio[k]:.1f}× (at the least {low[k]:.1f}×, over seeds), valid MSE {mean.mse[OURS]:.4f} and {mean.mse[k]:.4f}')

def plot(df, base): # `base`: baselines, a row for each seed
    "Time against valid loss, a dot for each seed and contestant"
    fig = Figure(figsize=(8,5.5), layout='constrained')
    ax = fig.subplots()
    for (k,g),m in zip(df.groupby('contestant', sort=False), 'o^sD'): ax.scatter(g.wall, g.mse, marker=m, label=k.replace('`',''), alpha=0.8)
    for (k,v),ls in zip(base.mean().items(), ('--',':')):
        shown = v < 1.05*max(df.mse.max(), base.mean().min())
        if shown: ax.axhline(v, color='k', lw=0.8, ls=ls)
        ax.plot([], [], color='k', lw=0.8, ls=ls if shown else '', label=f'{k}: {v:.3f}' + ('' if shown else ', far above'))
    ax.set(xscale='log', xlabel='training time, s (wall, logarithmic)', ylabel='valid loss (MSE)', title='MovieLens 100K, random 80/20 splits: further left is faster, lower is better')
    ticks = [o for o in (.1,.2,.5,1,2,5,10,20,50,100,200) if df.wall.min()/2 < o < df.wall.max()*2]
    ax.set_xticks(ticks, [f'{o:g}' for o in ticks])
    ax.minorticks_off()
    fig.legend(loc='outside lower center', ncols=3, fontsize=9)
    return fig

NOTES = """Valid MSE and RMSE are of the last epoch; nothing is chosen on validation rows. A seed is the seed of the split and of training. The settings of `fit` were found on
splits 1 to 15 and 42 (notebook 03); splits from 21 on had no part in that. Validation rows are asserted to be the same for all.
Time is that of making the learner and training it, with validation after each epoch, and without data preparation; one untimed short run of
each contestant comes first. `fit` runs {repeats}× before and after each longer run: its time is the median of all of these,
and *× ours* the longer run's time over the median of those right before and after it. CPU time is the sum over threads. ± is one standard deviation over seeds."""

def report(df, base, prep, about, used, repeats, quick): # `used`: the recipe
    "The whole result, as markdown"
    trivial = [{'baseline':k, 'valid MSE':mean_sd(v,4), 'valid RMSE':mean_sd(v**0.5,4)} for k,v in base.items()]
    title = '# Training: time and valid loss' + (' (only a try with --quick: not a result, and the target does not apply)' if quick else '')
    parts = [title, 'Written by `python benchmarks/train.py`.', describe(about)+'.', f'Defaults of `fit` in this run: {describe(used)}.', md_table(summary(df)), md_table(trivial), '\n'.join(targets(df)),
             '## Who is who', '\n'.join(f'- **{k}**: {c.about}' for k,c in CONTESTANTS.items()), '## How it is measured', NOTES.format(repeats=repeats),
             'Data preparation, once, not part of the above: ' + ', '.join(f'{v:.2f} s ({k})' for k,v in prep.items()) + '.', '## Seed by seed', md_table(by_seed(df))]
    return '\n\n'.join(parts) + '\n'

@call_parse
def main(seeds:Annotated[int, {'nargs':'+'}]=(21,22,23), # of splits and training
         repeats:int=3, # runs of `fit` before and after each longer run
         threads:int=None, # torch threads (torch's own default if not given)
         quick:bool=False, # a tenth of the ratings, the first seed, one repeat: only to try the script
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Train ours and stock fastai side by side: time, valid loss, and whether the target is met"
    if threads: torch.set_num_threads(threads)
    about = machine(**{'torch threads':torch.get_num_threads()})
    used,df = recipe(),movielens_ratings(titles=True)
    small = df.sample(10_000, random_state=0, ignore_index=True)
    if quick: df,seeds,repeats = small,seeds[:1],1
    else: out = out or RESULTS
    for k,dls in prepare(small[:2000], seeds[0])[0].items(): CONTESTANTS[k].train(dls, 0)   # the first run in a process pays for what is loaded on demand
    rows,base,prep = [],{},None
    for s in seeds:
        dls,secs,base[s] = prepare(df, s)
        prep = prep or secs
        rows += one_seed(dls, s, repeats)
    df,base = pd.DataFrame(rows),pd.DataFrame(base).T
    md = report(df, base, prep, about, used, repeats, quick)
    print(md)
    if not out: return
    out.mkdir(parents=True, exist_ok=True)
    (out/'train.md').write_text(md + '\n![Training time against valid loss; fit at the left, stock fastai at the right](train.png)\n', encoding='utf-8')
    (out/'train.json').write_text(json.dumps(dict(machine=about, recipe=used, repeats=repeats, runs=rows, baselines=base.to_dict('index'), preparation=prep), indent=1), encoding='utf-8')
    plot(df, base).savefig(out/'train.png', dpi=120)
