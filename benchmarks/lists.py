"""Lists of ten: ours beside implicit, LensKit and cmfrec, in one run, with settings that the same search found inside the training part

    python benchmarks/lists.py              # three splits; about ten minutes; writes benchmarks/results/lists.{md,json,png}
    python benchmarks/lists.py --quick      # one split, three trials each, to try the script; writes nothing
"""
import json, sys, warnings
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np, pandas as pd, torch
from fastcore.script import call_parse
from matplotlib.figure import Figure
from sklearn.model_selection import ParameterSampler

from collab_notes.data import stratified_split
from collab_notes.explain import LogUniform
from collab_notes.ials import ImplicitALS
from collab_notes.lists import bootstrap, ndcg_of, user_metrics
from collab_notes.movielens import movielens_movies, movielens_ratings
from collab_notes.ranking import EASE, Blend, Popularity
from collab_notes.recipe import blend_weights, ials_space, inner_part, ridge_space
from collab_notes.ridge import ItemRidge
from collab_notes.vocab import History
from common import RESULTS, describe, machine, md_table, mean_sd, verdict
from peers import child

L = LogUniform
SPACES = {   # the peers': where the search looks, wide enough for what their authors advise
    'als':dict(factors=[16,32,64,128], regularization=L(0.01, 30), alpha=L(1, 40), iterations=[10,15,20], star=[0.,0.2,0.4]),
    'bpr':dict(factors=[32,64,128], learning_rate=L(0.005, 0.1), regularization=L(0.001, 0.1), iterations=[50,100,200]),
    'bm25':dict(K=[50,100,200,400], K1=L(0.1, 10), B=[0.,0.2,0.4,0.6,0.8]),
    'cmfrec':dict(k=[16,32,64], lambda_=L(0.1, 50), alpha=L(0.5, 40), niter=[10,20], star=[0.,0.2,0.4]),
    'lenskit_als':dict(embedding_size=[16,32,64], regularization=L(0.01, 3), weight=L(1, 60), epochs=[10,20]),
    'lenskit_knn':dict(max_nbrs=[20,50,100,200,400], min_sim=[1e-6,0.01,0.05])}
NAMES = {'als':'implicit, ALS', 'bpr':'implicit, BPR', 'bm25':'implicit, BM25', 'cmfrec':'cmfrec, implicit', 'lenskit_als':'LensKit, ALS', 'lenskit_knn':'LensKit, item neighbours'}
NARROW = 'ItemRidge, 48 directions'
OURS = 'Popularity','EASE','ImplicitALS',NARROW,'ItemRidge','ItemRidge + ImplicitALS'

def draw(space, n, seed, first={}):
    return [first, *ParameterSampler(space, n-1, random_state=seed)]

def judge(h, lists): # lists of item rows (users, 10), in the order of user rows from 1
    "nDCG of each user who had something held out"
    u,i,_ = h.part(True)
    want = torch.zeros(h.vocab.n_users, h.vocab.n_items, dtype=torch.bool)
    want[u,i] = True
    some = want.any(1)
    some[0] = False
    return ndcg_of(want[1:].gather(1, torch.as_tensor(lists))[some[1:]], want[some].sum(1)).numpy()

def clocked(f):
    wall,cpu = perf_counter(),process_time()
    res = f()
    return res,perf_counter()-wall,process_time()-cpu

# ours: name → from ratings and settings a model, and where to look
def ours(genres):
    return {'Popularity':(lambda h: Popularity(h), None), 'EASE':(lambda h, reg=400.: EASE(h, reg), dict(reg=L(100, 2000))),
            'ImplicitALS':(ImplicitALS, ials_space), NARROW:(lambda h, **kw: ItemRidge(h, genres, n_factors=48, **kw), ridge_space), 'ItemRidge':(lambda h, **kw: ItemRidge(h, genres, **kw), ridge_space)}

def run_ours(h, inner, genres, trials, seed):
    "Each of ours: settings from the inner part, nDCG of the outer one, seconds of the last training"
    best,took = {},{}
    for name,(make,space) in ours(genres).items():
        tries = [{}] if space is None else draw(space, trials, seed)
        best[name] = max(tries, key=lambda o: user_metrics(make(inner, **o)).ndcg.mean())
        make(inner, **best[name])   # the first training in a process pays for what is loaded on demand
        m,wall,cpu = clocked(lambda: make(h, **best[name]))
        took[name] = m,wall,cpu
        yield dict(model=name, library='ours', wall=wall, cpu=cpu, settings=best[name], per_user=user_metrics(m).ndcg.to_numpy())
    pair = 'ItemRidge','ImplicitALS'
    w = blend_weights([ours(genres)[o][0](inner, **best[o]) for o in pair])
    m = Blend([took[o][0] for o in pair], w)
    yield dict(model=' + '.join(pair), library='ours', wall=sum(took[o][1] for o in pair), cpu=sum(took[o][2] for o in pair), settings=dict(weights=w), per_user=user_metrics(m).ndcg.to_numpy())

def ask(h, peer, trials, seed, threads):
    "A peer's lists for each of some settings, trained on the training part of `h`"
    u,i,y = h.part()
    with TemporaryDirectory(prefix='peers-') as d:
        d = Path(d)
        np.savez(d/'data.npz', pairs=torch.stack([u,i], 1).numpy()-1, ratings=y.numpy(), shape=[h.vocab.n_users-1,h.vocab.n_items-1])
        (d/'job.json').write_text(json.dumps(dict(peer=peer, trials=[{k:v if not hasattr(v, 'item') else v.item() for k,v in o.items()} for o in trials], seed=seed, threads=threads)))
        res = child('list_peers.py', d, threads)
        return res,np.load(d/'lists.npz')['lists']+1

def run_peer(h, inner, peer, trials, seed, threads):
    tries = draw(SPACES[peer], trials, seed, dict(K=100, K1=1.2, B=0.75) if peer=='bm25' else {})
    res,lists = ask(inner, peer, tries, seed, threads)
    best = tries[int(np.argmax([judge(inner, o).mean() for o in lists]))]
    res,lists = ask(h, peer, [best], seed, threads)
    return dict(model=NAMES[peer], library=res['version'], wall=res['times'][0][0], cpu=res['times'][0][1], settings=best, per_user=judge(h, lists[0]))

def with_held(df, split):
    "A `History` of all rows, of which the second part is held out"
    h = History.of(df)
    held = torch.zeros(len(df), dtype=torch.bool)
    held[torch.from_numpy(np.asarray(split[1]))] = True
    return History(h.vocab, h.pairs, h.ratings, held)

def run_all(df, genres, seeds, trials, threads):
    rows = []
    for s in seeds:
        h = with_held(df, stratified_split(df, seed=s))
        inner = inner_part(h, seed=s)
        makers = [run_ours(h, inner, genres, trials, s), *((run_peer(h, inner, p, trials, s, threads) for p in [o]) for o in SPACES)]
        for o in (r for m in makers for r in m):
            rows.append(dict(o, split=s, ndcg=float(o['per_user'].mean()), interval=bootstrap(o['per_user'])))
            print(f"{s:4} {o['model']:28} nDCG@10 {rows[-1]['ndcg']:.4f}  {o['wall']:.2f} s  {o['settings']}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows)

def front(t): # by model: `ndcg`, `cpu`
    "Models that none beats in nDCG at no more seconds"
    return [k for k,o in t.iterrows() if not ((t.ndcg>o.ndcg) & (t.cpu<=o.cpu)).any()]

def summary(res): return res.groupby('model', sort=False)[['ndcg','wall','cpu']].mean()

def rows_of(res):
    t,best = summary(res),front(summary(res))
    for k,o in t.sort_values('ndcg', ascending=False).iterrows():
        own = res[res.model==k]
        yield {'model':k, 'nDCG@10':mean_sd(own.ndcg, 4), **{f'split {s}':f"{r.ndcg:.4f} ({r.interval[0]:.3f} to {r.interval[1]:.3f})" for s,r in own.set_index('split').iterrows()},
               'seconds to train':f'{o.wall:.2f}', 'CPU seconds':f'{o.cpu:.2f}', 'on the front':'yes' if k in best else ''}

def targets(res):
    t = summary(res)
    best = max(o for k,o in t.ndcg.items() if k not in OURS)
    yield verdict('better lists than any peer', t.ndcg['ItemRidge']>best, f"ItemRidge {t.ndcg['ItemRidge']:.4f}, the best peer {best:.4f}")
    yield verdict('only ours on the front of nDCG against CPU seconds', set(front(t))<=set(OURS), ', '.join(front(t)))

NOTES = """MovieLens 100K, the split of the *Recommenders* benchmark (a quarter of each film's ratings is held out; its public seed is 42) and others like it; ten films
for each person, without those rated in training, all held-out films relevant. The settings of each model are the best of {trials} (the library's own defaults, and draws at random
from a space wide enough for what its authors advise), judged by nDCG@10 on a fifth of the training ratings; that part is the same for all. ItemRidge takes genres; no peer's model here takes facts.
The time is of one training with those settings on all training ratings, {threads} thread(s) each; making the scores of everybody is in it for the peers, and by item and person next to nothing but for LensKit's
neighbours, which score in Python. A blend's time is the sum of its parts'. The form of ItemRidge was found with split 42 in view. Intervals are by bootstrap over users."""

def report(res, about, trials, threads, quick):
    title = '# Lists of ten, beside other libraries' + (' (only a try with --quick: not a result)' if quick else '')
    libs = ', '.join(f'{k} {v}' for k,v in res[~res.model.isin(OURS)].drop_duplicates('model').set_index('model').library.items())
    return '\n\n'.join([title, 'Written by `python benchmarks/lists.py`.', f'{describe(about)}. {libs}.', md_table(list(rows_of(res))), '\n'.join(targets(res)),
                        '## How it is measured', NOTES.format(trials=trials, threads=threads)]) + '\n'

def plot(res):
    t = summary(res)
    fig = Figure(figsize=(8,5), layout='constrained')
    ax,best = fig.subplots(),front(t)
    for k,o in t.iterrows():
        ax.plot(o.cpu, o.ndcg, 'o', color='#D55E00' if k in OURS else '#0072B2')
        ax.annotate(k, (o.cpu,o.ndcg), textcoords='offset points', xytext=(6,-3), fontsize=8)
    line = t.loc[best].sort_values('cpu')
    ax.step(line.cpu, line.ndcg, where='post', color='#D55E00', lw=1)
    ax.set(xscale='log', xlim=(t.cpu.min()/2, t.cpu.max()*8), xlabel='CPU seconds to train', ylabel='nDCG@10', title=f'Lists of ten on MovieLens 100K, mean of {res.split.nunique()} splits')
    return fig

@call_parse
def main(seeds:Annotated[int, {'nargs':'+'}]=(42,7,8), # of splits
         trials:int=15, # settings to try for each model and split
         threads:int=1, # for all
         quick:bool=False, # one split and three trials
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Lists of ours and of the peers, in one table"
    torch.set_num_threads(threads)
    if quick: seeds,trials = seeds[:1],3
    about = machine(threads=threads)
    res = run_all(movielens_ratings(), movielens_movies()[['movie','genres']], seeds, trials, threads)
    md = report(res, about, trials, threads, quick)
    print(md)
    if quick and not out: return
    out = out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    (out/'lists.md').write_text(md + '\n![nDCG@10 against CPU seconds, ours and the peers](lists.png)\n', encoding='utf-8')
    (out/'lists.json').write_text(json.dumps(dict(machine=about, runs=res.drop(columns='per_user').to_dict('records')), indent=1, default=lambda o: o.item() if hasattr(o, 'item') else str(o)), encoding='utf-8')
    plot(res).savefig(out/'lists.png', dpi=120)
