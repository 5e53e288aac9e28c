"""Seconds and memory to an equal RMSE, up to 25 million made-up ratings: ours beside LensKit and implicit

    python benchmarks/large.py             # 2.5 and 25 million; half an hour, and some 12 GiB of free memory; writes benchmarks/results/large.{md,json,png}
    python benchmarks/large.py --quick     # 100,000, to try the script; writes nothing

The ratings are those of growth.py: of MovieLens 25M's shape, by biases, 8 factors and noise, in steps of a half.
"""
import gc, json, os, sys, warnings
from collections import namedtuple
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np
from fastcore.script import CliError, call_parse
from matplotlib.figure import Figure

from common import RESULTS, describe, machine, md_table
from growth import in_child, peak, stream
from peers import NAMES, child

def make(n, folder, seed=0):
    "`n` ratings in peer_models.py's form, a fifth of them held back; how many there are of what"
    parts = [(o['userId'],o['movieId'],o['rating']) for o in stream(n, seed)]
    u,i,y = (np.concatenate([p[k] for p in parts]) for k in range(3))
    del parts
    (users,u),(items,i) = (np.unique(o, return_inverse=True) for o in (u,i))
    held = np.random.default_rng(seed).random(len(y))<0.2
    cols = {f'{p}_{k}':v[m] for p,m in (('train',~held),('valid',held)) for k,v in (('user',u.astype('int32')),('item',i.astype('int32')),('rating',y))}
    cols |= {f'{p}_effects':np.zeros((m.sum(),0), dtype='int8') for p,m in (('train',~held),('valid',held))}
    sides = {f'{w}_{k}':np.zeros(s) for w,m in (('user',len(users)),('item',len(items))) for k,s in (('features',(m,0)),('groups',0))}
    np.savez(folder/'data.npz', n_users=len(users), n_items=len(items), effect_names=np.array([], dtype=str), scale=(y.min(),y.max()), **cols, **sides)
    t = {k:v[~held] for k,v in (('u',u),('i',i),('y',y))}
    return dict(rows=len(y), users=len(users), items=len(items), means=means_rmse(t, u[held], i[held], y[held], len(users), len(items)))

def means_rmse(t, u, i, y, n_users, n_items):
    from collab_notes.latent import damped_means
    b = damped_means(t['u'], t['i'], t['y'], n_users, n_items)
    return rmse(b.mean + b.user_bias[u] + b.item_bias[i], y)

def rmse(preds, y): return float(np.sqrt(((np.clip(preds, y.min(), y.max())-y)**2).mean(dtype=float)))

def ours(how, folder, seed, threads, conn):
    "One training of ours, in a process of its own: `how` is (module, function, arguments)"
    import pandas as pd, torch
    from collab_notes.data import RatingsDataLoaders
    torch.set_num_threads(threads)
    z = np.load(folder/'data.npz')
    df = pd.DataFrame({k:np.concatenate([z[f'train_{k}'],z[f'valid_{k}']]) for k in ('user','item','rating')})
    n,y = len(z['train_user']),z['valid_rating']
    small = df.sample(5000, random_state=0, ignore_index=True)
    trainer(*how, small, np.arange(4000), np.arange(4000, 5000), seed)   # the first run in a process pays for what is loaded on demand
    gc.collect()
    peak(reset=True)
    preds,took = trainer(*how, df, np.arange(n), np.arange(n, len(df)), seed)
    conn.send(dict(took, gib=peak(), rmse=rmse(preds, y)))

def trainer(kind, kwargs, df, train, valid, seed):
    "Predictions for the validation rows, and seconds of fitting alone"
    from collab_notes.data import RatingsDataLoaders
    dls = RatingsDataLoaders.from_df(df, user_name='user', item_name='item', rating_name='rating', splits=(train,valid), seed=seed)
    del df
    wall,cpu = perf_counter(),process_time()
    res = KINDS[kind](dls, seed, kwargs)
    took = dict(fit_wall=perf_counter()-wall, fit_cpu=process_time()-cpu)
    if kind=='quick':
        from collab_notes.vocab import History
        u,i,_ = History.of(dls).part(held_out=True)
        return np.concatenate([res.pair_scores(a, b).numpy() for a,b in zip(u.split(500_000), i.split(500_000))]),took
    if kind=='bayes': return res.valid_preds.numpy(),took
    with res.no_bar(): return res.get_preds()[0].numpy().ravel(),took

def _fit(dls, seed, kwargs):
    from collab_notes.training import fit
    return fit(dls, seed=seed, progress=False, **kwargs)

def _bayes(dls, seed, kwargs):
    from collab_notes.bayes import BayesianPMF
    return BayesianPMF(**kwargs, seed=seed).fit(dls, progress=False)

def _quick(dls, seed, kwargs):
    from collab_notes.quick import fit_quick
    return fit_quick(dls, seed=seed, **kwargs)

KINDS = dict(fit=_fit, quick=_quick, bayes=_bayes)
Contestant = namedtuple('Contestant', 'who runs most')   # `runs`: settings, from the quickest on; `most`: ratings that it takes part with
CONTESTANTS = {
    'fit_quick':    Contestant('quick', [dict(n_sweeps=o) for o in (3,6,9)], None),
    'fit':          Contestant('fit', [dict(n_epoch=o) for o in (1,2,3,6)], None),
    'BayesianPMF':  Contestant('bayes', [dict(implicit=False, n_sweeps=o, burn_in=o//4, keep=5) for o in (20,60)], 2_500_000),
    'LensKit ALS':  Contestant('lenskit', [dict(epochs=o) for o in (2,5,10)], None),
    'implicit ALS': Contestant('implicit', [dict(iterations=o) for o in (2,5,15)], None),
}
OURS = [k for k,c in CONTESTANTS.items() if c.who in KINDS]

def peer_run(who, kwargs, folder, seed, threads):
    "A peer in a process of its own"
    (folder/'jobs.json').write_text(json.dumps([dict(peer=who, seed=seed, threads=threads, settings=kwargs, quick={})]), encoding='utf-8')
    res, = child('peer_models.py', folder, threads)
    if 'error' in res: raise CliError(f"{who} failed: {res['error']}")
    preds = np.load(folder/'preds0.npy')
    z = np.load(folder/'data.npz')
    return dict(fit_wall=res['fit_wall'], fit_cpu=res['fit_cpu'], gib=res['gib'], version=res['version'], rmse=rmse(np.where(np.isnan(preds), z['train_rating'].mean(), preds), z['valid_rating']), filled=int(np.isnan(preds).sum()))

def run_size(n, seed, threads, only=None):
    "Everybody at one size"
    with TemporaryDirectory(prefix='large-') as d:
        folder = Path(d)
        facts = make(n, folder, seed)
        print(f"{facts['rows']:,} ratings, {facts['users']:,} users, {facts['items']:,} items; user + item means {facts['means']:.4f}", file=sys.stderr, flush=True)
        for k,c in CONTESTANTS.items():
            if (c.most and n>c.most) or (only and only not in k): continue
            for kwargs in c.runs:
                res = in_child(ours, (c.who,kwargs), folder, seed, threads) if c.who in KINDS else peer_run(c.who, kwargs, folder, seed, threads)
                print(f"  {k:14} {str(kwargs):60} {res['fit_wall']:8.2f} s  {res['gib']:6.2f} GiB  RMSE {res['rmse']:.4f}", file=sys.stderr, flush=True)
                yield {**facts, 'contestant':k, 'settings':kwargs, **res, 'load':os.getloadavg()[0]}

# reporting

CLOCKS = dict(wall='fit_wall', cpu='fit_cpu')

def first(runs, level, time):
    "The quickest run at `level` or below; `None` if there is none"
    return min((o for o in runs if o['rmse']<=level), key=lambda o: o[time], default=None)

def equal(rows, clock):
    "Each of ours beside each peer: both at the best RMSE that both reach"
    by = {k:[o for o in rows if o['contestant']==k] for k in CONTESTANTS}
    for a in OURS:
        for b in (o for o in CONTESTANTS if o not in OURS):
            if not by[a] or not by[b]: continue
            level = max(min(o['rmse'] for o in by[k]) for k in (a,b))
            time = CLOCKS[clock]
            x,y = first(by[a], level, time),first(by[b], level, time)
            yield {'ratings':f"{rows[0]['rows']:,}", 'RMSE both reach':f'{level:.4f}', 'ours':a, 's' if clock=='wall' else 'CPU s':f"{x[time]:.1f}", 'GiB':f"{x['gib']:.2f}", 'peer':b, 'its s' if clock=='wall' else 'its CPU s':f"{y[time]:.1f}", 'its GiB':f"{y['gib']:.2f}"}

def show(kwargs): return ', '.join(f'`{k}={v!r}`' for k,v in kwargs.items())

NOTES = """**Measure.** RMSE on a fifth of the ratings, drawn at random, the same for all; predictions are kept within the scale. LensKit's `BiasedMFScorer` predicts ratings. implicit does not: its scores enter a least-squares fit with the user's and the item's mean, on a tenth of the training rows that it has not
seen (see `frontier.py`), and only the fit on all training rows is timed. That measures what its factors know of ratings; lists are what it is for (`topn.py`, `datasets.py`).

**Equal RMSE.** Everybody trains anew with few and with more epochs (sweeps, iterations); of two, the level is the better RMSE that both reach, and each is counted with its quickest run at that level.

**Time** is that of fitting, in a process of its own, after a short run that is not counted, without turning arrays into the library's own tables and without predictions; ours validates after each epoch, and this is counted.
**Memory** is the most that the process held (resident), from its own tables on to the predictions; the arrays of the ratings are included, for everybody."""

def report(rows, about, versions, quick, clock):
    sizes = list(dict.fromkeys(o['rows'] for o in rows))
    parts = ['# Large tables: seconds and memory to an equal RMSE' + (' (only a try with --quick: not a result)' if quick else ''), 'Written by `python benchmarks/large.py`.', describe(about)+'.', f'Peers: {describe(versions)}.']
    parts += [md_table(e)] if (e := [l for n in sizes for l in equal([o for o in rows if o['rows']==n], clock)]) else []
    for n in sizes:
        at = [o for o in rows if o['rows']==n]
        parts += [f"## {n:,} ratings, {at[0]['users']:,} users, {at[0]['items']:,} items", f"User + item means reach {at[0]['means']:.4f}.",
                  md_table([{'model':f"**{o['contestant']}**" if o['contestant'] in OURS else o['contestant'], 'settings':show(o['settings']), 'fit s':f"{o['fit_wall']:.1f}", 'CPU s':f"{o['fit_cpu']:.1f}", 'GiB':f"{o['gib']:.2f}", 'RMSE':f"{o['rmse']:.4f}", 'load':f"{o['load']:.1f}"} for o in at])]
    return '\n\n'.join([*parts, '## How it is measured', NOTES]) + '\n'

def plot(rows, clock):
    "Seconds against RMSE, and memory against RMSE, at the largest size"
    n = max(o['rows'] for o in rows)
    fig = Figure(figsize=(11,4.5), layout='constrained')
    for ax,what,label in zip(fig.subplots(1, 2), (CLOCKS[clock],'gib'), ('seconds to fit (log scale)' if clock=='wall' else 'CPU seconds to fit (log scale)','peak memory, GiB')):
        for k,color in zip(CONTESTANTS, ('#CC79A7','#D55E00','#E69F00','#0072B2','#009E73')):
            at = [o for o in rows if o['rows']==n and o['contestant']==k]
            if at: ax.plot([o[what] for o in at], [o['rmse'] for o in at], marker='*' if k in OURS else 'o', ms=11 if k in OURS else 6, color=color, label=k)
        ax.axhline(rows[-1]['means'], color='gray', lw=0.8, label='user + item means')
        ax.set(xlabel=label, ylabel='valid RMSE', title=f'{n:,} made-up ratings')
        ax.legend(fontsize=8)
        if what!='gib': ax.set_xscale('log')
    return fig

@call_parse
def main(sizes:Annotated[int, {'nargs':'+'}]=(2_500_000,25_000_000), # numbers of ratings
         seed:int=0, # of the ratings, the split and the models
         threads:int=2, # for everyone, at most
         only:str=None, # contestants whose name has this (then nothing is written, unless told where)
         clock:str='wall', # or cpu: the time that is compared; for a busy machine, with one thread
         quick:bool=False, # 100,000 ratings
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Everybody trains on the same made-up ratings, in a process of its own"
    if clock not in CLOCKS: raise CliError(f'--clock: {clock!r} is neither wall nor cpu')
    about = machine(**{'threads, at most':threads})
    rows = [o for n in ((100_000,) if quick else sizes) for o in run_size(n, seed, threads, only)]
    versions = {NAMES[CONTESTANTS[o['contestant']].who]:o['version'] for o in rows if 'version' in o}
    md = report(rows, about, versions, quick, clock)
    print(md)
    if (quick or only) and not out: return
    out = out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    (out/'large.md').write_text(md + '\n![Seconds to fit and peak memory against valid RMSE](large.png)\n', encoding='utf-8')
    (out/'large.json').write_text(json.dumps(dict(machine=about, peers=versions, runs=rows), indent=1), encoding='utf-8')
    plot(rows, clock).savefig(out/'large.png', dpi=120)
