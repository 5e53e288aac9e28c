"""Time of training against valid loss: ours, stock fastai and the peers, on the same splits in one run

    python benchmarks/frontier.py              # seeds 21 22 23, about six minutes; writes benchmarks/results/frontier.{md,json,png}
    python benchmarks/frontier.py --set Douban --folder FOLDER   # the same on another set of datasets.py → results/frontier_douban.{md,json,png}
    python benchmarks/frontier.py --quick      # the first seed, without stock fastai and with short runs, to try the script; writes nothing
    python benchmarks/frontier.py --tune       # how the peers' settings were found: a search on split 1; minutes; only prints
"""
import json, os, sys, warnings
from collections import namedtuple
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np, pandas as pd, torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.tabular.core import TabDataLoader
from fastai.torch_core import set_seed
from fastcore.script import CliError, call_parse
from fastcore.test import test_eq
from matplotlib.figure import Figure

from collab_notes.bayes import BayesianPMF
from collab_notes.data import RatingsDataLoaders, random_split
from collab_notes.movielens import movielens_ratings
from collab_notes.quick import fit_quick
from collab_notes.training import fit
from collab_notes.vocab import History
from common import RESULTS, describe, machine, md_table, verdict
from datasets import SOURCES, key, prepared, read_set, split_of
from peers import NAMES, PeerData

def item_of(df): return 'title' if 'title' in df else 'item'

def loaders(df, split, seed):
    dls = RatingsDataLoaders.from_df(df, user_name='user', item_name=item_of(df), rating_name='rating', duplicates='keep', splits=split, seed=seed)
    test_eq(np.sort(dls.valid_ds.items.index), np.sort(split[1]))
    return dls

def ours(**kwargs):
    def run(df, split, data, seed, threads):
        dls = loaders(df, split, seed)
        wall,cpu = perf_counter(),process_time()
        learn = fit(dls, seed=seed, progress=False, **kwargs)
        wall,cpu = perf_counter()-wall,process_time()-cpu
        with learn.no_bar(): preds = learn.get_preds()[0]
        return dict(fit_wall=wall, fit_cpu=cpu, rmse=data.rmse(preds.numpy().ravel()))
    return run

def quick_fit(**kwargs):
    def run(df, split, data, seed, threads):
        dls = loaders(df, split, seed)
        wall,cpu = perf_counter(),process_time()
        model = fit_quick(dls, seed=seed, **kwargs)
        wall,cpu = perf_counter()-wall,process_time()-cpu
        return dict(fit_wall=wall, fit_cpu=cpu, rmse=data.rmse(model.pair_scores(*History.of(dls).part(held_out=True)[:2]).numpy()))
    return run

def bayes(**kwargs):
    def run(df, split, data, seed, threads):
        dls,model = loaders(df, split, seed),BayesianPMF(**kwargs, seed=seed)
        wall,cpu = perf_counter(),process_time()
        model.fit(dls, progress=False)
        wall,cpu = perf_counter()-wall,process_time()-cpu
        return dict(fit_wall=wall, fit_cpu=cpu, rmse=data.rmse(model.valid_preds.numpy()))
    return run

def stock(**kwargs):
    "The chapter's learner at its settings, on fastai's own loaders, which make the same split themselves"
    def run(df, split, data, seed, threads):
        set_seed(seed)
        dls = CollabDataLoaders.from_df(df, item_name='title', seed=seed, bs=64, **kwargs)
        test_eq(np.sort(dls.valid_ds.items.index), np.sort(split[1]))
        wall,cpu = perf_counter(),process_time()
        learn = collab_learner(dls, n_factors=50, y_range=(0,5.5))
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5, 5e-3, wd=0.1)
        wall,cpu = perf_counter()-wall,process_time()-cpu
        with learn.no_bar(): preds,targs = learn.get_preds()
        return dict(fit_wall=wall, fit_cpu=cpu, rmse=float(((preds.ravel().clamp(1, 5)-targs.ravel())**2).mean().sqrt()))
    return run

def peer(name, **settings):
    def run(df, split, data, seed, threads): return data.run(name, seed, threads, settings, dict(sweeps=12) if name=='myfm' else {})
    return run

HOME = 'MovieLens 100K'
Contestant = namedtuple('Contestant', 'who about run')
CONTESTANTS = {
    'fit_quick':        Contestant('collab_notes', '`fit_quick(dls)`, all defaults', quick_fit()),
    'fit':              Contestant('collab_notes', '`fit(dls)`, all defaults', ours()),
    'fit, 8 models':    Contestant('collab_notes', '`fit(dls, n_models=8)`', ours(n_models=8)),
    'BayesianPMF, ids, 50 sweeps': Contestant('collab_notes', '`BayesianPMF(implicit=False, n_sweeps=50, burn_in=10)`', bayes(implicit=False, n_sweeps=50, burn_in=10)),
    'BayesianPMF, 50 sweeps':  Contestant('collab_notes', '`BayesianPMF(n_sweeps=50, burn_in=10)`', bayes(n_sweeps=50, burn_in=10)),
    'BayesianPMF, 100 sweeps': Contestant('collab_notes', '`BayesianPMF(n_sweeps=100, burn_in=20)`', bayes(n_sweeps=100, burn_in=20)),
    'BayesianPMF':             Contestant('collab_notes', '`BayesianPMF()`, all defaults', bayes()),
    'BayesianPMF, 4 chains':   Contestant('collab_notes', '`BayesianPMF(chains=4)`', bayes(chains=4)),
    'stock, as installed': Contestant('fastai', '`collab_learner(CollabDataLoaders.from_df(…, bs=64), n_factors=50, y_range=(0,5.5))`, `fit_one_cycle(5, 5e-3, wd=0.1)`', stock()),
    'stock, correct epoch': Contestant('fastai', 'the same with `dl_type=TabDataLoader`: each epoch is every training rating once', stock(dl_type=TabDataLoader)),
}
PEERS = {   # a peer → its function in peer_models.py, settings by default, settings found by --tune
    'Surprise SVD':   ('surprise', {}, dict(n_factors=100, n_epochs=60, lr_all=0.01, reg_all=0.1)),
    'Surprise SVD++': ('surprise', dict(algo='SVDpp'), None),
    'cmfrec':         ('cmfrec', {}, dict(k=5, lambda_=10.)),
    'LensKit ALS':    ('lenskit', {}, dict(embedding_size=50, regularization=0.12)),
    'implicit ALS':   ('implicit', {}, None),
    'myFM':           ('myfm', dict(rank=8, sweeps=100), dict(rank=10, sweeps=512)),
    'myFM, ratings':  ('myfm', dict(rank=10, sweeps=512, implicit=True), None),
}
for k,(f,default,found) in PEERS.items():
    for label,o in (('',default),(', tuned' if f!='myfm' else ', 512 sweeps',found)):
        if o is not None: CONTESTANTS[k+label] = Contestant(NAMES[f], ', '.join(f'`{a}={b!r}`' for a,b in o.items()) or 'all defaults', peer(f, **o))

GRID = {   # around the best of a first, wider search
    'Surprise SVD': ('surprise', dict(n_factors=[50,100], n_epochs=[30,60], lr_all=[0.01,0.02], reg_all=[0.1,0.15])),
    'cmfrec':       ('cmfrec', dict(k=[5,10,20], lambda_=[5.,7.,10.])),
    'LensKit ALS':  ('lenskit', dict(embedding_size=[20,50,100], regularization=[0.1,0.12,0.15])),
}

def tune(df, threads):
    "Every combination in GRID on split 1, which is not among those of the table"
    data = PeerData(df, random_split(df, seed=1), 'title')
    for k,(f,grid) in GRID.items():
        rows = [(dict(zip(grid, o)), data.run(f, 1, threads, dict(zip(grid, o)))) for o in product(*grid.values())]
        rows.sort(key=lambda o: o[1]['rmse'])
        print(f'{k}\n\n' + md_table([{**s, 'RMSE':f"{r['rmse']:.4f}", 'fit s':f"{r['fit_wall']:.2f}"} for s,r in rows]) + '\n', flush=True)

def rows_for(df, seed): return split_of(df, seed) if 'split' in df else random_split(df, seed=seed)

def run_all(df, seeds, threads, names):
    for seed in seeds:
        split = rows_for(df, seed)
        data = PeerData(df, split, item_of(df))
        for k in names:
            res = dict(seed=seed, contestant=k, **CONTESTANTS[k].run(df, split, data, seed, threads))
            res.pop('trace', 0)
            print(f"seed {seed}  {k:24} {res['fit_wall']:6.2f} s  valid RMSE {res['rmse']:.4f}", file=sys.stderr, flush=True)
            yield res
        for k,v in (('user + item means',data.fallback),('global mean',np.full(len(data.fallback), data.mean))): yield dict(seed=seed, contestant=k, fit_wall=0., fit_cpu=0., rmse=data.rmse(v))

CLOCKS = dict(wall='fit_wall', cpu='fit_cpu')

def summary(df, clock='wall'): # rows of runs
    "Means over seeds, quickest first; `front`: no other is as quick and has as low a loss"
    m = df.assign(mse=df.rmse**2).groupby('contestant', sort=False)[['fit_wall','fit_cpu','rmse','mse']].mean()
    t,loss = m[CLOCKS[clock]],m.rmse
    m['front'] = [not ((t<=t[k]) & (loss<=loss[k]) & ((t<t[k]) | (loss<loss[k]))).any() for k in m.index]
    return m.assign(took=t).sort_values('took')

def rows_of(df, clock):
    m = summary(df, clock)
    sd = df.groupby('contestant')[['fit_wall','rmse']].std()
    pm = lambda k,c,d: f'{m[c][k]:.{d}f}' + ('' if np.isnan(sd[c][k]) else f' ± {sd[c][k]:.{d}f}')
    who = lambda k: CONTESTANTS[k].who if k in CONTESTANTS else 'baseline'
    return [{'model':f'**{k}**' if who(k)=='collab_notes' else k, 'of':who(k), 'fit s':pm(k, 'fit_wall', 2) if k in CONTESTANTS else '0', 'CPU s':f'{m.fit_cpu[k]:.2f}', 'valid RMSE':pm(k, 'rmse', 4), 'valid MSE':f'{m.mse[k]:.4f}',
             'on the frontier':'yes' if m.front[k] else ''} for k in m.index]

def targets(df, clock):
    m = summary(df, clock)
    own = lambda k: k in CONTESTANTS and CONTESTANTS[k].who=='collab_notes'
    front = [k for k in m.index[m.front] if k in CONTESTANTS]
    yield verdict('the frontier is ours alone', all(map(own, front)), ', '.join(front))
    for k in (o for o in m.index if own(o) and not m.front[o]):
        better = m[(m.took<=m.took[k]) & (m.rmse<=m.rmse[k])].index.drop(k)
        yield verdict(f'`{k}`, off it, is behind nobody but ours', all(map(own, better)), f"{m.took[k]:.2f} {'s' if clock=='wall' else 'CPU s'}, RMSE {m.rmse[k]:.4f}; behind {', '.join(better)}")

def label(fig, ax, marks): # (text, x, y)
    "Texts beside their marks, each at the first place where it covers neither a text nor a mark"
    fig.draw_without_rendering()
    px = 72/fig.dpi   # points of a pixel
    at = {k:ax.transData.transform((x,y))*px for k,x,y in marks}
    taken = [(x-5,y-5,x+5,y+5) for x,y in at.values()]
    free = lambda b: not any(b[0]<o[2] and o[0]<b[2] and b[1]<o[3] and o[1]<b[3] for o in taken)
    for k,x,y in marks:
        wide,(px_x,px_y) = 4.4*len(k),at[k]
        places = [(side*7,up) for up in (2,-9,12,-19,22,-29,32) for side in (1,-1)]
        box = lambda dx,dy: (px_x+dx-(wide if dx<0 else 0), px_y+dy, px_x+dx+(0 if dx<0 else wide), px_y+dy+9)
        dx,dy = next((o for o in places if free(box(*o))), places[0])
        taken.append(box(dx, dy))
        ax.annotate(k, (x,y), xytext=(dx,dy), textcoords='offset points', fontsize=8, ha='right' if dx<0 else 'left')

def plot(df, name, clock):
    "Time against loss, a mark for each contestant, the frontier as a line"
    fig = Figure(figsize=(9,6), layout='constrained')
    ax,m = fig.subplots(),summary(df, clock)
    m = m[m.index.isin(list(CONTESTANTS))]
    who = {k:CONTESTANTS[k].who for k in m.index}
    colors = dict(zip(dict.fromkeys(['collab_notes',*who.values()]), ('#D55E00','#0072B2','#009E73','#CC79A7','#E69F00','#56B4E9','#000000','#999999')))
    f = m[m.front]
    ax.step(np.r_[f.took, m.took.max()*1.5], np.r_[f.rmse, f.rmse.iloc[-1]], where='post', color='#D55E00', lw=1, ls='--', label='frontier')
    for k,o in m.iterrows():
        ax.scatter(o.took, o.rmse, s=90 if who[k]=='collab_notes' else 45, color=colors[who[k]], marker='*' if who[k]=='collab_notes' else 'o', zorder=3)
    ax.axhline(summary(df).rmse['user + item means'], color='gray', lw=0.8)
    ax.text(m.took.min(), summary(df).rmse['user + item means'], 'user + item means', fontsize=8, color='gray', va='bottom')
    ax.set(xscale='log', xlabel='seconds to fit (log scale)' if clock=='wall' else 'CPU seconds to fit (log scale)', ylabel='valid RMSE', title=f"{'Split of Monti et al.' if name in SOURCES and SOURCES[name].published else 'Random 80/20 splits'}: {name}, means over seeds")
    ax.margins(x=0.15)
    ax.legend(loc='upper right')
    label(fig, ax, [(k,o.took,o.rmse) for k,o in m.iterrows()])
    return fig

NOTES = """All hold back the same rows, 20% of them (Monti's test rows where a set has them; asserted for fastai's loaders, which split by themselves). Films are told apart by title, as in the book. Each peer is fitted in a process of its own, after a short run that is not counted; *fit s* is the time of its `fit` alone: without
turning arrays into its own tables, without predictions. Ours and fastai's validate after each epoch or sweep, and this is counted. Predictions are kept within the lowest and the highest training rating.

`BayesianPMF` and *myFM, ratings* also see who rated what among the training rows; *BayesianPMF, ids* and all others see ratings only.

*Tuned*: the best of a search on split 1 (`python benchmarks/frontier.py --tune` prints its last round). The settings of `fit` were found on splits 1 to 15 and 42. SVD++ and implicit run as they come. myFM runs at the settings of its two examples for this data, with ids only: what it does with more information
is in `accuracy.py`.

implicit ranks items and does not predict ratings: its scores enter a least-squares fit together with the user's and the item's mean, on a tenth of the training rows that were held back for it. Its place here says little of what it is for; see `topn.py` for its speed at that."""

def report(df, about, versions, quick, name, command, clock):
    title = '# Training: the frontier of time and valid loss' + ('' if name==HOME else f', {name}') + (' (only a try with --quick: not a result)' if quick else '')
    return '\n\n'.join([title, f'Written by `{command}`.', describe(about)+'.', f'Peers: {describe(versions)}.', md_table(rows_of(df, clock)), *(['The frontier is that of CPU seconds: other programs were running, which raises these less than wall seconds. All are higher than on a quiet machine.'] if clock=='cpu' else []), '\n'.join(targets(df, clock)),
                        '## Who is who', '\n'.join(f'- **{k}** ({c.who}): {c.about}' for k,c in CONTESTANTS.items() if k in set(df.contestant)), '## How it is measured', NOTES,
                        '## Seed by seed', md_table([{'seed':o.seed, 'model':o.contestant, 'fit s':f'{o.fit_wall:.2f}', 'CPU s':f'{o.fit_cpu:.2f}', 'valid RMSE':f'{o.rmse:.4f}'} for o in df.itertuples()])]) + '\n'

def ratings_of(name, folder):
    "MovieLens 100K by title, or another set"
    if name==HOME: return movielens_ratings(titles=True)
    if name not in SOURCES: raise CliError(f"--set: no set is called {name!r}; there are {', '.join(SOURCES)}")
    df = read_set(name, folder, True)
    if df is None: raise CliError(f"--set: {name} needs its file in --folder: {SOURCES[name].file}, or {key(name)}.csv")
    return prepared(df, SOURCES[name].most)

@call_parse
def main(seeds:Annotated[int, {'nargs':'+'}]=(21,22,23), # of splits and training
         threads:int=2, # for everyone, at most
         clock:str='wall', # or cpu: by what time the frontier is drawn; for a busy machine, with one thread
         stock:bool=True, # train stock fastai, too?
         quick:bool=False, # the first seed, without stock fastai and long runs
         tune:bool=False, # only search for the peers' settings
         set:str=HOME, # or another of datasets.py, without stock fastai
         folder:Path=None, # with that set's file, see datasets.py
         only:str=None, # contestants whose name has this (then nothing is written, unless told where)
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Train everyone on the same splits: who is quick, who is near, and who is both"
    torch.set_num_threads(threads)
    about,df = machine(**{'threads, at most':threads}),ratings_of(set, folder)
    if tune: return globals()['tune'](df, threads)
    if clock not in CLOCKS: raise CliError(f'--clock: {clock!r} is neither wall nor cpu')
    names = [k for k in CONTESTANTS if not ((quick or set!=HOME or not stock) and 'stock' in k) and not (quick and any(o in k for o in ('512','chains','myFM, ratings'))) and (not only or only in k)]
    small = df.sample(min(5000, len(df)), random_state=0, ignore_index=True)
    for k in names:   # the first run in a process pays for what is loaded on demand
        if CONTESTANTS[k].who in ('collab_notes','fastai') and 'sweeps' not in k and 'chains' not in k: CONTESTANTS[k].run(small, s:=random_split(small, seed=1), PeerData(small, s, item_of(small)), 1, threads)
    res = pd.DataFrame(run_all(df, seeds[:1] if quick else seeds, threads, names))
    about['load at end'] = f'{os.getloadavg()[0]:.1f}'
    versions = {} if 'peer' not in res else {NAMES[p]:v for p,v in res[res.peer.notna()].groupby('peer').version.first().items()}
    stem = 'frontier' if set==HOME else f'frontier_{key(set)}'
    md = report(res, about, versions, quick, set, 'python benchmarks/frontier.py' + ('' if set==HOME else f' --set {set!r} --folder FOLDER') + ('' if clock=='wall' else f' --clock {clock} --threads {threads}'), clock)
    print(md)
    if (quick or only) and not out: return
    out = out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    (out/f'{stem}.md').write_text(md + f'\n![Seconds to fit against valid RMSE, with the frontier]({stem}.png)\n', encoding='utf-8')
    runs = [{k:v for k,v in o.items() if pd.notna(v)} for o in res.to_dict('records')]
    (out/f'{stem}.json').write_text(json.dumps(dict(machine=about, peers=versions, settings={k:c.about for k,c in CONTESTANTS.items()}, runs=runs), indent=1), encoding='utf-8')
    plot(res, set, clock).savefig(out/f'{stem}.png', dpi=120)
