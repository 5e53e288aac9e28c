"""How near predicted ratings come: `BayesianPMF` and `fit` beside the best peers, on the official folds, random splits and a split in time

    python benchmarks/accuracy.py              # a quarter of an hour on two quiet cores; writes benchmarks/results/accuracy.{md,json,png}
    python benchmarks/accuracy.py --quick      # a few sweeps and splits, to try the script; writes nothing
"""
import json, sys, warnings
from collections import namedtuple
from pathlib import Path
from time import perf_counter, process_time

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np, pandas as pd, torch
from fastcore.script import call_parse
from fastcore.test import test_eq
from matplotlib.figure import Figure

from collab_notes.bayes import ALL_INFORMATION, BayesianPMF, item_table, time_columns, user_table
from collab_notes.data import RatingsDataLoaders, random_split, temporal_split
from collab_notes.movielens import movielens_movies, movielens_ratings, movielens_users, official_fold
from collab_notes.training import fit
from common import RESULTS, describe, machine, md_table, mean_sd, verdict
from peers import NAMES, PeerData, effect_name

EFFECTS = ALL_INFORMATION['effects']
DATES = ['date', ('user','date')]
CHAINS = 4
PUBLISHED = [   # on official fold 1
    ('myFM, ordered probit', 0.8808, 'features, dates, implicit part', 'its examples/ml-100k-extended.ipynb'), ('myFM, regression', 0.8833, 'features, dates, implicit part', 'the same'),
    ('GHRS', 0.887, 'features of users', 'Darban & Valipour 2022'), ('GLocal-K', 0.8889, 'ratings only', "Han et al. 2021, their repository's page"),
    ('IGMC', 0.905, 'ratings only', 'Zhang & Chen 2020')]

class Split:
    "Loaders for ours and numbers for the peers, of the same rows"
    def __init__(self, name, df, split):
        self.name,self.peers = name,PeerData(df, split, effects=EFFECTS)
        self.dls = RatingsDataLoaders.from_df(df, item_name='movie', splits=split, seed=1, bs=4096)
        test_eq(self.dls.valid_ds.ys.iloc[:,0].to_numpy(dtype=float), self.peers.parts[1]['rating'])

    def baselines(self): return {'global mean':self.peers.rmse(np.full(len(self.peers.fallback), self.peers.mean)), 'user + item means':self.peers.rmse(self.peers.fallback)}

def bayes(tables=False, **kwargs):
    "A `BayesianPMF` at its defaults but for `kwargs`; its times are those of sampling, validation after each sweep included"
    def run(split, seed, threads, quick):
        few = dict(n_sweeps=12, burn_in=4) if quick else {}
        model = BayesianPMF(**{**kwargs, **few}, seed=seed)
        wall,cpu = perf_counter(),process_time()
        model.fit(split.dls, **(dict(users=user_table(movielens_users()), items=item_table(movielens_movies())) if tables else {}), progress=False)
        wall,cpu = perf_counter()-wall,process_time()-cpu
        h = model.rmse_by_sweep
        return dict(rmse=split.peers.rmse(model.valid_preds.numpy()), fit_wall=wall, fit_cpu=cpu, trace=[[int(n),float(s),float(r)] for n,s,r in zip(h.index, h['seconds'], h['running mean'])][few.get('burn_in', model.burn_in):])
    return run

def trained(**kwargs):
    "`fit` at its defaults but for `kwargs`"
    def run(split, seed, threads, quick):
        wall,cpu = perf_counter(),process_time()
        learn = fit(split.dls, seed=seed, progress=False, **kwargs)
        wall,cpu = perf_counter()-wall,process_time()-cpu
        with learn.no_bar(): preds = learn.get_preds()[0]
        return dict(rmse=split.peers.rmse(preds.numpy().ravel()), fit_wall=wall, fit_cpu=cpu)
    return run

def peer(name, **settings):
    def run(split, seed, threads, quick):
        if name!='myfm': return split.peers.run(name, seed, threads, settings)
        sweeps = 14 if quick else 512 if split.name=='fold 1' else 250
        return split.peers.run(name, seed, threads, {**settings, 'sweeps':min(sweeps, settings.get('sweeps', sweeps))}, dict(sweeps=12))
    return run

# What a model may know. `features`: of users and films; `implicit`: who rated what, of training rows only; `times`: when the *held-out* ratings were given
Contestant = namedtuple('Contestant', 'knows features implicit times on run')
IDS,RATINGS,FEATURES,DATED,ALL = 'ids only','ratings only','ratings and features','features and dates','all information'
AS_MYFM = dict(burn_in=10)   # of single chains: as many sweeps are left out of the mean as in myFM's examples
FOLD1,EVERY,NOT_TIME = ('fold 1',),('fold','random','temporal'),('fold','random')
CONTESTANTS = {
    'fit':                             Contestant(IDS, '–', '–', '–', EVERY, trained()),
    'fit, 8 models':                   Contestant(IDS, '–', '–', '–', EVERY, trained(n_models=8)),
    'BayesianPMF, ids':                Contestant(IDS, '–', '–', '–', ('fold 1','temporal'), bayes(implicit=False, **AS_MYFM)),
    f'BayesianPMF, ids, {CHAINS} chains': Contestant(IDS, '–', '–', '–', FOLD1, bayes(implicit=False, n_factors=16, chains=CHAINS, n_sweeps=400, burn_in=40)),
    'BayesianPMF, ratings':            Contestant(RATINGS, '–', 'yes', '–', ('fold 1','temporal'), bayes(implicit=True, **AS_MYFM)),
    f'BayesianPMF, ratings, {CHAINS} chains': Contestant(RATINGS, '–', 'yes', '–', FOLD1, bayes(implicit=True, chains=CHAINS)),
    'BayesianPMF, dates':              Contestant(DATED, 'yes', 'yes', 'dates', FOLD1, bayes(tables=True, implicit=True, effects=DATES, **AS_MYFM)),
    'BayesianPMF, all':                Contestant(ALL, 'yes', 'yes', 'to the minute', FOLD1, bayes(tables=True, **ALL_INFORMATION, **AS_MYFM)),
    f'BayesianPMF, all, {CHAINS} chains': Contestant(ALL, 'yes', 'yes', 'to the minute', NOT_TIME, bayes(tables=True, **ALL_INFORMATION, chains=CHAINS)),
    f'BayesianPMF, features, {CHAINS} chains': Contestant(FEATURES, 'yes', 'yes', '–', ('fold 1','temporal'), bayes(tables=True, implicit=True, chains=CHAINS)),
    'Surprise SVD':                    Contestant(IDS, '–', '–', '–', EVERY, peer('surprise')),
    'Surprise SVD++':                  Contestant(RATINGS, '–', 'yes', '–', ('fold 1','temporal'), peer('surprise', algo='SVDpp')),
    'LensKit ALS':                     Contestant(IDS, '–', '–', '–', EVERY, peer('lenskit')),
    'cmfrec':                          Contestant(IDS, '–', '–', '–', EVERY, peer('cmfrec')),
    'cmfrec, features':                Contestant(FEATURES, 'yes', '–', '–', EVERY, peer('cmfrec', side=True)),
    'myFM, ids':                       Contestant(IDS, '–', '–', '–', FOLD1, peer('myfm')),
    'myFM, ratings':                   Contestant(RATINGS, '–', 'yes', '–', ('fold 1','temporal'), peer('myfm', implicit=True)),
    'myFM, dates':                     Contestant(DATED, 'yes', 'yes', 'dates', FOLD1, peer('myfm', implicit=True, features=True, effects=['date'])),
    'myFM, dates, probit':             Contestant(DATED, 'yes', 'yes', 'dates', NOT_TIME, peer('myfm', implicit=True, features=True, effects=['date'], ordinal=True)),
    'myFM, all, probit':               Contestant(ALL, 'yes', 'yes', 'to the minute', FOLD1, peer('myfm', implicit=True, features=True, effects=[effect_name(o) for o in EFFECTS], ordinal=True, sweeps=250)),
    'myFM, features, probit':        Contestant(FEATURES, 'yes', 'yes', '–', ('temporal',), peer('myfm', implicit=True, features=True, ordinal=True)),
}
OURS = [k for k in CONTESTANTS if k.startswith(('fit','Bayesian'))]

def takes_part(c, split): return any(split.startswith(o) for o in c.on)

def run_all(splits, seed, threads, quick, only=None):
    "A row for each contestant on each split it takes part in"
    for s in splits:
        for name,c in CONTESTANTS.items():
            if not takes_part(c, s.name) or (only and only not in name): continue
            res = dict(split=s.name, contestant=name, **c.run(s, seed, threads, quick))
            print(f"{s.name:10} {name:36} {res['fit_wall']:6.1f} s  RMSE {res['rmse']:.4f}", file=sys.stderr, flush=True)
            yield res

def fold_rows(df, base):
    "The table of official fold 1, best first within what models know"
    order = [IDS,RATINGS,FEATURES,DATED,ALL]
    rows = sorted(df[df.split=='fold 1'].to_dict('records'), key=lambda o: (order.index(CONTESTANTS[o['contestant']].knows), o['rmse']))
    res = []
    for o in rows:
        c = CONTESTANTS[o['contestant']]
        name = f"**{o['contestant']}**" if o['contestant'] in OURS else o['contestant']
        res.append({'knows':c.knows, 'model':name, 'features':c.features, 'implicit part':c.implicit, 'times of held-out ratings':c.times, 'RMSE':f"{o['rmse']:.4f}", 'fit s':f"{o['fit_wall']:.1f}", 'CPU s':f"{o['fit_cpu']:.1f}"})
    return res + [{'knows':'baseline', 'model':k, 'features':'–', 'implicit part':'–', 'times of held-out ratings':'–', 'RMSE':f'{v:.4f}', 'fit s':'', 'CPU s':''} for k,v in base['fold 1'].items()]

def table(df, base, kind, metric=lambda o: o):
    "A row for each contestant with a result on every split of this kind: each split's, then the mean"
    df = df[df.split.str.startswith(kind)]
    names = list(dict.fromkeys(df.split))
    res = []
    for k,g in df.groupby('contestant', sort=False):
        if len(g)<len(names): continue
        r = metric(g.set_index('split').rmse)
        c = CONTESTANTS[k]
        res.append((r.mean(), {'model':f'**{k}**' if k in OURS else k, 'knows':c.knows, 'times of held-out ratings':c.times, **{n:f'{r[n]:.4f}' for n in names},
                               **({'mean':mean_sd(r,4)} if len(names)>1 else {}), 'fit s, mean':f'{g.fit_wall.mean():.1f}'}))
    for k in base[names[0]]:
        r = metric(pd.Series({n:base[n][k] for n in names}))
        res.append((r.mean(), {'model':k, 'knows':'baseline', 'times of held-out ratings':'–', **{n:f'{v:.4f}' for n,v in r.items()}, **({'mean':mean_sd(r,4)} if len(names)>1 else {}), 'fit s, mean':''}))
    return [o for _,o in sorted(res, key=lambda o: o[0])]

PAIRS = [('BayesianPMF, ids','myFM, ids'), ('BayesianPMF, ratings','myFM, ratings'), ('BayesianPMF, dates','myFM, dates, probit'), ('BayesianPMF, all','myFM, all, probit')]

def reached(trace, level):
    "Seconds until the running mean was first at `level` or below; None if never"
    return next((s for _,s,r in trace if r<=level), None)

def races(df):
    "For each pair that knows the same: at levels of RMSE down to the best that both reach, who is there first"
    traces = {o.contestant:o.trace for o in df[df.split=='fold 1'].itertuples() if isinstance(o.trace, list)}
    for ours,theirs in PAIRS:
        if ours not in traces or theirs not in traces: continue
        best = min(r for *_,r in traces[theirs])
        levels = sorted({round(best+o, 4) for o in (0.02,0.01,0.005,0.002,0.001,0.0005)}, reverse=True)
        yield ours,theirs,best,[(l, reached(traces[ours], l), reached(traces[theirs], l)) for l in levels]

def race_rows(df):
    text = lambda s: 'not reached' if s is None else f'{s:.1f}'
    return [{'same information':f'{ours} / {theirs}', 'RMSE':f'{l:.4f}', 'ours, s':text(a), 'myFM, s':text(b)} for ours,theirs,_,levels in races(df) for l,a,b in levels]

def targets(df):
    "The promises of the issue"
    r = df[df.split=='fold 1'].set_index('contestant')
    chains = lambda k: f'BayesianPMF, {k}, {CHAINS} chains'
    many = chains('all')
    def fold1(claim, name, most, seconds=None):
        met = r.rmse[name]<=most and (seconds is None or r.fit_wall[name]<seconds)
        return verdict(f'official fold 1, {claim}: RMSE ≤ {most}' + (f' in less than {seconds} s' if seconds else ''), met, f'{r.rmse[name]:.4f} in {r.fit_wall[name]:.1f} s ({name})')
    yield fold1('ids only, no implicit part', chains('ids'), 0.900)
    yield fold1('ratings only', chains('ratings'), 0.886)
    yield fold1('all information', many, 0.875)
    yield fold1('all information, one chain', 'BayesianPMF, all', 0.879, 20)
    folds = df[df.split.str.startswith('fold')].groupby('contestant').rmse.agg(['mean','size'])
    folds = folds[folds['size']==folds['size'].max()]['mean']
    rest = folds.drop(OURS, errors='ignore')
    yield verdict('mean of the official folds, all information: below every peer', folds[many]<rest.min(), f'{folds[many]:.4f}; the best peer {rest.min():.4f} ({rest.idxmin()})')
    mse = df[df.split.str.startswith('random') & (df.contestant==many)].rmse**2
    yield verdict('random splits: MSE ≤ 0.745 on average', mse.mean()<=0.745, mean_sd(mse, 4))
    for ours,theirs,best,levels in races(df):
        met = all(a is not None and (b is None or a<=b) for _,a,b in levels)
        l,a,b = levels[-1]
        yield verdict(f'at equal RMSE no slower than {theirs} ({ours}, at each level of the table)', met, f"at {l:.4f} {'never' if a is None else f'{a:.1f} s'} and {'never' if b is None else f'{b:.1f} s'}")
    t = df[df.split=='temporal'].sort_values('rmse')
    if len(t):
        best = {o:t[t.contestant.isin(OURS)==o].iloc[0] for o in (True,False)}
        yield f'- On the split in time the best of ours is {best[True].contestant} with {best[True].rmse:.4f}, the best peer {best[False].contestant} with {best[False].rmse:.4f}.'

NOTES = """**What a number may know.** *Times of held-out ratings*: effects of dates (and of a user's hours and minutes) use when each *held-out* rating was given. That is known when missing
ratings of the past are filled in, as myFM's published figures do, and unknown when the future is predicted: the rows without it, and the split in time, are the ones to go by for recommendation. The *implicit part* is who rated what in the
training rows; held-out rows never count. *Features* are what MovieLens tells of people (decade of age, gender, occupation, region) and films (genres, decade).

**Splits.** The official folds are GroupLens' own. Random splits hold back 20% of rows. The split in time holds back the last 20% of all ratings; many of its users have no training rating. All contestants get the same rows.
Where a peer has no prediction (a user or item without training ratings, in LensKit and cmfrec), it gets that of the user and item means. All predictions are clipped to 1 to 5.

**Choice of settings.** `BayesianPMF` and `fit` run at their defaults, which were chosen on parts of training rows (notebooks 07 and 03). Two things differ: single chains leave out the first 10 sweeps, as myFM does, and not 30; and four chains from ids only have 16 factors and 400 sweeps, as notebook 07 found, for 200. Surprise, LensKit and cmfrec run at theirs; settings found for them are in `frontier.py`. myFM runs as in its examples for this
data: rank 10, 512 sweeps on official fold 1 (250 elsewhere, and with *all*, whose sweeps take longest), of which the first 10 are not averaged; *dates* is
the combination with which its figures were published (date of the rating, features, who rated what, both ways), *all* has the effects of a user's dates, hours and minutes that ours has.

**Time** is that of fitting, in a process of its own for each peer, after a short run that is not counted, and without turning arrays into the library's own tables. Ours predicts the validation rows after each sweep, and this is counted; for myFM its trace is not. CPU time is the sum over threads:
above wall time, more than one was at work."""

def plot(df):
    "RMSE of the running mean against time, on fold 1"
    fig = Figure(figsize=(9,5.5), layout='constrained')
    ax = fig.subplots()
    traces = {o.contestant:o.trace for o in df[df.split=='fold 1'].itertuples() if isinstance(o.trace, list)}
    for (ours,theirs),color in zip(PAIRS, ('#0072B2','#D55E00','#009E73','#CC79A7')):
        for k,ls in ((ours,'-'),(theirs,':')):
            if k in traces: ax.plot([o[1] for o in traces[k]], [o[2] for o in traces[k]], ls, color=color, lw=2, label=k)
    for name,value,*_ in PUBLISHED[:4:3]:
        ax.axhline(value, color='gray', lw=0.8)
        ax.text(0.99, value, f'{name}, published', fontsize=8, ha='right', va='bottom', color='gray', transform=ax.get_yaxis_transform(), clip_on=True)
    ends = [o[2] for t in traces.values() for o in t]
    if ends: ax.set_ylim(min(ends)-0.003, min(max(ends), 0.93))
    ax.set(xscale='log', xlabel='seconds of sampling (log scale)', ylabel='RMSE on official fold 1', title='Mean over the sweeps so far: BayesianPMF (lines) and myFM (dots)')
    ax.legend(fontsize=8)
    return fig

def report(df, base, about, versions, quick):
    title = '# Accuracy' + (' (only a try with --quick: not a result, and the targets do not apply)' if quick else '')
    has = lambda kind: df.split.str.startswith(kind).any()
    parts = [title, 'Written by `python benchmarks/accuracy.py`.', describe(about)+'.', f'Peers: {describe(versions)}.', '\n'.join(targets(df)), '## Official fold 1', md_table(fold_rows(df, base)),
             'Published, on the same fold:', md_table([{'model':n, 'RMSE':v, 'knows':k, 'source':s} for n,v,k,s in PUBLISHED])]
    if df.split.str.startswith('fold').sum()>len(df[df.split=='fold 1']): parts += ['## All official folds, RMSE', md_table(table(df, base, 'fold'))]
    if has('random'): parts += ['## Random splits 80/20, MSE', md_table(table(df, base, 'random', lambda o: o**2))]
    if has('temporal'): parts += ['## A split in time, RMSE', md_table(table(df, base, 'temporal'))]
    return '\n\n'.join([*parts, '## Time to reach an RMSE', md_table(race_rows(df)), '## How it is measured', NOTES]) + '\n'

@call_parse
def main(seed:int=1, # of the models; splits have their own
         threads:int=2, # for everyone
         only:str=None, # contestants whose name has this (then no targets are judged and nothing is written)
         split:str=None, # splits whose name begins so, such as 'fold 1' (likewise)
         quick:bool=False, # few sweeps, fewer splits
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Compare predicted ratings with those held back: ours, the peers, the published"
    torch.set_num_threads(threads)
    about,df = machine(**{'threads, at most':threads}),time_columns(movielens_ratings())
    rows = {**{f'fold {k}':official_fold(df, k) for k in range(1, 3 if quick else 6)}, **{f'random {s}':random_split(df, seed=s) for s in ((21,) if quick else (21,22,23))}, 'temporal':temporal_split(df)}
    splits = [Split(k, df, o) for k,o in rows.items() if k.startswith(split or '')]
    base = {s.name:s.baselines() for s in splits}
    trained()(splits[0], 0, threads, True)   # the first run in a process pays for what is loaded on demand
    bayes(n_sweeps=2, burn_in=0)(splits[0], 0, threads, False)
    res = pd.DataFrame(run_all(splits, seed, threads, quick, only))
    if only or split: return print(md_table([{k:o[k] for k in ('split','contestant','rmse','fit_wall','fit_cpu')} for o in res.to_dict('records')]))
    versions = {NAMES[p]:v for p,v in res[res.peer.notna()].groupby('peer').version.first().items()}
    md = report(res, base, about, versions, quick)
    print(md)
    if quick and not out: return
    out = out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    (out/'accuracy.md').write_text(md + '\n![RMSE of the mean over sweeps so far, against seconds](accuracy.png)\n', encoding='utf-8')
    thin = [{k:o['trace'][::10]+o['trace'][-1:] if k=='trace' else v for k,v in o.items() if isinstance(v, list) or pd.notna(v)} for o in res.to_dict('records')]
    (out/'accuracy.json').write_text(json.dumps(dict(machine=about, peers=versions, seed=seed, baselines=base, published=PUBLISHED, runs=thin), indent=1), encoding='utf-8')
    plot(res).savefig(out/'accuracy.png', dpi=120)
