"""Predicted ratings on many sets: everything of ours and every peer, on the same rows of each, in one run

    python benchmarks/datasets.py --folder FOLDER   # every set whose file is in the folder; others are fetched, or left out and named
    python benchmarks/datasets.py --quick           # three made-up sets and MovieLens 100K, few sweeps, to try the script; writes nothing
    python benchmarks/datasets.py --list            # the sets: files, sources, licences

A set's file is either as its source has it, or FOLDER/NAME.csv with the columns user, item, rating (and split, of 'train' and 'test', where the
split is given). Nothing of them is in this repository. Writes benchmarks/results/datasets.{md,json}.
"""
import hashlib, io, json, sys, urllib.request, warnings, zipfile
from collections import namedtuple
from functools import cached_property
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np, pandas as pd, torch
from fastcore.script import CliError, call_parse
from fastcore.test import test_close

from collab_notes.bayes import BayesianPMF
from collab_notes.core import as_model
from collab_notes.data import RatingsDataLoaders, random_split
from collab_notes.lists import evaluate, ndcg_of
from collab_notes.movielens import movielens_ratings
from collab_notes.quick import fit_quick
from collab_notes.ranking import EASE, Popularity, fit_ranking
from collab_notes.training import fit
from collab_notes.vocab import History
from common import RESULTS, describe, machine, md_table, verdict
from peers import NAMES, PeerData

# the sets

RAW = 'https://raw.githubusercontent.com/'
CASEREC = RAW+'caserec/Datasets-for-Recommender-Systems/4180b4dc4103452c591a1718560d29bdf1f48540/Processed%20Datasets/'
MONTI = 'Monti et al. 2017, by github.com/riannevdberg/gc-mc and github.com/muhanzhang/IGMC'

# `digest`: of the rows as read, see `digest_of`; `most`: users that take part, drawn with seed 0 where there are more; `published`: the best test RMSE on this split
Source = namedtuple('Source', 'about licence file read url digest most published', defaults=(None,None,None,None,None,None))

def table(file, sep=',', header=None, columns=(0,1,2), names=('user','item','rating')):
    "Three columns of a text file; ids stay text"
    df = pd.read_csv(file, sep=sep, header=header, dtype=str, engine='python' if len(sep)>1 else 'c').iloc[:,list(columns)].set_axis(names, axis=1)
    return df.assign(rating=df.rating.astype(float))

def zipped(member, **kwargs):
    "A reader of one file in a zip"
    def read(file):
        with zipfile.ZipFile(file) as z: return table(io.BytesIO(z.read(member)), **kwargs)
    return read

def monti(file):
    "The ratings of an HDF5 file of Monti et al., with their split (needs h5py)"
    import h5py
    with h5py.File(file) as z: m,train,test = (np.array(z[o]).T for o in ('M','Otraining','Otest'))
    u,i = np.nonzero(train+test)
    return pd.DataFrame(dict(user=(u+1).astype(str), item=(i+1).astype(str), rating=m[u,i], split=np.where(test[u,i]>0, 'test', 'train')))

def plain(file):
    "NAME.csv: user, item, rating; perhaps split; perhaps others, which are not looked at"
    df = pd.read_csv(file, dtype={'user':str, 'item':str})
    if lack := [o for o in ('user','item','rating') if o not in df]: raise CliError(f"{file.name} has no column {lack[0]}: there are {', '.join(df)}")
    return df[[o for o in ('user','item','rating','split') if o in df]]

SOURCES = {
    'MovieLens 100K': Source('GroupLens; by title, as in the book', 'research, not to be passed on', read=lambda _: movielens_ratings(titles=True).rename(columns=dict(title='item'))[['user','item','rating']]),
    'ML-latest-small': Source('GroupLens, September 2018', 'may be passed on for research, with its terms', 'ml-latest-small.zip', zipped('ml-latest-small/ratings.csv', header=0), 'https://files.grouplens.org/datasets/movielens/ml-latest-small.zip'),
    'ML-1M part': Source('GroupLens; a part of MovieLens 1M that lies beside a copy of LibRec', 'research, not to be passed on', 'ml_1m_part.csv', table, most=500),
    'FilmTrust': Source('Guo et al. 2013, by github.com/ajbc/spf', 'none stated; its authors ask to be cited', 'filmtrust.txt', lambda o: table(o, sep=r'\s+'), RAW+'ajbc/spf/a2f9712a852d67dbf0659c8e5fe7bd5a46df1ac5/dat/filmtrust/raw/ratings.txt'),
    'Flixster': Source(MONTI, 'none stated; not to be passed on', 'flixster.mat', monti, published=(0.872,'IGMC')),
    'Douban': Source(MONTI, 'none stated; not to be passed on', 'douban.mat', monti, published=(0.721,'IGMC')),
    'Yahoo music': Source(MONTI, 'Yahoo Webscope: research, not to be passed on', 'yahoo_music.mat', monti, published=(18.7,'IMC-GAE')),
    'Amazon music': Source('McAuley et al., a part by github.com/caserec/Datasets-for-Recommender-Systems', 'research; its authors ask to be cited', 'amazon_music.dat', lambda o: table(o, sep='\t')),
    'Ciao': Source('Tang et al. 2012, by github.com/JiahaoWuGit/DcRec', 'none stated; its authors ask to be cited', 'ciao.txt', lambda o: table(o, sep=r'\s+'), RAW+'JiahaoWuGit/DcRec/d442f33d8f970da71dbcc8c6b7935b46a7c8bc56/data/ciao/ratings.txt', most=500),
    'Jester': Source('Goldberg et al. 2001, the 5,000 users of the R package recommenderlab', 'research; its authors ask to be cited', 'jester.csv', plain, most=500),
    'Anime': Source('MyAnimeList, a part by github.com/caserec/Datasets-for-Recommender-Systems', 'none stated with this part', 'anime.zip', zipped('anime/anime_ratings.dat', sep='\t', header=0), CASEREC+'Anime/anime.zip', most=500),
    'Book-Crossing': Source('Ziegler et al. 2005, a part by github.com/caserec/Datasets-for-Recommender-Systems', 'research; its authors ask to be cited', 'book_crossing.zip', zipped('book_crossing/book_ratings.dat', sep='\t', header=0), CASEREC+'BookCrossing/book_crossing.zip'),
    'Restaurants': Source('Vargas-Govea et al. 2011, UCI Machine Learning Repository', 'CC BY 4.0', 'rating_final.csv', lambda o: table(o, header=0)),
    'Steam': Source('bought or not, a part by github.com/caserec/Datasets-for-Recommender-Systems', 'none stated with this part', 'steam.zip', zipped('steam/game_purchase.dat', sep='\t', header=0), CASEREC+'Steam/steam.zip', most=2000),
}

def digest_of(df):
    "SHA-256 of the rows in any order: the same for the same ratings, however their file is packed"
    rows = sorted(f'{u}\t{i}\t{y:g}' for u,i,y in zip(df.user, df['item'], df.rating))
    return hashlib.sha256('\n'.join(rows).encode()).hexdigest()

def key(name): return name.lower().replace(' ', '_').replace('-', '_')

def fetched(url, folder, file):
    "The file at `url`, kept in `folder`; `None` where it can't be had"
    if url is None or folder is None: return None
    try:
        with urllib.request.urlopen(url, timeout=20) as r: data = r.read()
    except OSError as e: return print(f'{url}: {e}', file=sys.stderr)
    (folder/file).write_bytes(data)
    return folder/file

def read_set(name, folder, fetch):
    "A set's rows, or `None`: FOLDER/NAME.csv, else the file as its source has it, else fetched"
    s = SOURCES[name]
    if s.file is None: return s.read(None)
    here = [o for o in (folder and folder/f'{key(name)}.csv', folder and folder/s.file) if o and o.is_file()]
    file = here[0] if here else fetched(s.url, folder, s.file) if fetch else None
    if file is None: return None
    return plain(file) if file.name==f'{key(name)}.csv' else s.read(file)

# made-up sets of other kinds

def made_up(seed, n=8000, users=300, items=200, head=1.0, per_user=1.0, k=4, lo=1., hi=5., step=1., spread=0.22, factors=0.12, noise=0.16):
    "Ratings of biases, `k` factors and noise, whose spreads are shares of the scale; `head` and `per_user` say how unevenly items and users are drawn (0: evenly)"
    rng = np.random.default_rng(seed)
    pu,pi = (rng.permutation((np.arange(m)+5.)**-a) for m,a in ((users,per_user),(items,head)))
    pairs = np.unique(rng.choice(users, 4*n, p=pu/pu.sum())*items + rng.choice(items, 4*n, p=pi/pi.sum()))
    u,i = np.divmod(rng.permutation(pairs)[:n], items)
    dot = (rng.normal(size=(users,k))[u]*rng.normal(size=(items,k))[i]).sum(1)/k**0.5
    z = 0.6 + spread/2**0.5*(rng.normal(size=users)[u]+rng.normal(size=items)[i]) + factors*dot + noise*rng.normal(size=len(u))
    y = lo+(hi-lo)*z.clip(0, 1)
    return pd.DataFrame(dict(user=u.astype(str), item=i.astype(str), rating=np.round(y/step)*step if step else y))

def likes(seed):
    "Only that something was liked: each user likes items of two of ten kinds, popular ones more"
    rng = np.random.default_rng(seed)
    u = np.repeat(np.arange(400), 5+rng.poisson(15, 400))
    kind = rng.integers(0, 10, (400,2))[u, rng.integers(0, 2, len(u))]
    i = 30*kind + np.minimum(rng.exponential(8, len(u)).astype(int), 29)
    return pd.DataFrame(dict(user=u.astype(str), item=i.astype(str), rating=1.)).drop_duplicates(ignore_index=True)

MADE_UP = {
    'halves':         ('0.5 to 5 in steps of a half', lambda s: made_up(s, lo=0.5, hi=5, step=0.5)),
    '1 to 10':        ('whole numbers', lambda s: made_up(s, lo=1, hi=10)),
    '0 to 100':       ('whole numbers, 101 levels', lambda s: made_up(s, lo=0, hi=100)),
    '−10 to 10':      ('any number between', lambda s: made_up(s, lo=-10, hi=10, step=0)),
    'two an id':      ('two ratings an id on average', lambda s: made_up(s, n=2000, users=500, items=500, head=0.5, per_user=0.5)),
    'heavy head':     ('ten of 2,000 items have most ratings, and most items one or two', lambda s: made_up(s, users=600, items=2000, head=1.8)),
    'noise only':     ('nothing to learn but the mean', lambda s: made_up(s, n=3000, spread=0, factors=0, noise=0.25)),
    'ten in all':     ('ten ratings of five users', lambda s: made_up(s, n=10, users=5, items=6, head=0, per_user=0)),
    'one user':       ('100 ratings by one user, and two by each of two others', lambda s: pd.concat([made_up(s, n=100, users=1, items=120), made_up(s+1, n=4, users=2, items=20).assign(user=list('1122')).drop_duplicates(['user','item'])], ignore_index=True)),
    'likes only':     ('only that something was liked', likes),
}

# who takes part

class Split:
    "Loaders for ours and numbers for the peers, of the same rows"
    def __init__(self, df, split, seed):
        self.df,self.rows,self.seed = df,split,seed
        self.peers = PeerData(df, split, item='item')
        t,v = self.peers.parts
        self.cold = ~np.isin(v['user'], t['user']) | ~np.isin(v['item'], t['item'])

    @cached_property
    def dls(self): # made when first asked for: a table that is refused is a result of ours
        res = RatingsDataLoaders.from_df(self.df, user_name='user', item_name='item', rating_name='rating', splits=self.rows, seed=self.seed)
        test_close(res.valid_ds.ys.iloc[:,0].to_numpy(dtype=float), self.peers.parts[1]['rating'], 1e-5*max(map(abs, self.peers.scale)))   # float32 there
        return res

    def judge(self, preds):
        """RMSE of all rows, and of cold ones; by how much the mean square of these is above the damped means', and the standard error of that;
        share of predictions that leave the scale by more than rounding"""
        v,(lo,hi) = self.peers.parts[1],self.peers.scale
        preds = np.asarray(preds, dtype=float)
        err = np.clip(preds, lo, hi)-v['rating']
        rmse = lambda e: float(np.sqrt((e**2).mean())) if len(e) else None
        eps = 1e-4*(hi-lo)
        more = (err**2-(np.clip(self.peers.fallback, lo, hi)-v['rating'])**2)[self.cold]
        paired = dict(cold_more=float(more.mean()), cold_se=float(more.std()/len(more)**0.5)) if len(more) else {}
        return dict(rmse=rmse(err), rmse_cold=rmse(err[self.cold]), **paired, outside=float(((preds<lo-eps) | (preds>hi+eps)).mean()))

    def ndcg(self, lists):
        "Mean nDCG of lists of ten, for users with training rows; `lists`: a row of item numbers, -1 for none, for each user in the validation rows, in order"
        t,v = self.peers.parts
        who,at = np.unique(v['user'], return_inverse=True)
        pairs,n = set(zip(at.tolist(), v['item'].tolist())),np.bincount(at)
        hits = torch.tensor([[(r,i) in pairs for i in row] for r,row in enumerate(lists.tolist())])
        known = torch.from_numpy(np.isin(who, t['user']))
        return float(ndcg_of(hits.double(), torch.from_numpy(n))[known].mean())

def baseline(get):
    def run(s, seed, quick): return dict(fit_wall=0., **s.judge(get(s)))
    return run

def means_of(who):
    "The plain mean of the user's, or of the item's, training ratings; the global mean where there are none"
    def get(s):
        t,v = s.peers.parts
        m = pd.Series(t['rating']).groupby(t[who]).mean()
        return pd.Series(v[who]).map(m).fillna(s.peers.mean).to_numpy()
    return get

def timed(f, *args, **kwargs):
    wall,cpu = perf_counter(),process_time()
    res = f(*args, **kwargs)
    return res,dict(fit_wall=perf_counter()-wall, fit_cpu=process_time()-cpu)

def answers(model, s):
    "A model's ratings of the validation rows"
    return model.pair_scores(*History.of(s.dls).part(held_out=True)[:2]).numpy()

def trained(**kwargs):
    def run(s, seed, quick):
        learn,took = timed(fit, s.dls, seed=seed, progress=False, **kwargs)
        return dict(took, **s.judge(answers(as_model(learn), s)))
    return run

def quick_fit(**kwargs):
    def run(s, seed, quick):
        model,took = timed(fit_quick, s.dls, seed=seed, **kwargs)
        return dict(took, **s.judge(answers(model, s)))
    return run

def bayes(**kwargs):
    def run(s, seed, quick):
        few = dict(n_sweeps=12, burn_in=4) if quick else {}
        model,took = timed(BayesianPMF(**kwargs, **few, seed=seed).fit, s.dls, progress=False)
        return dict(took, **s.judge(model.valid_preds.numpy()))
    return run

OURS = {   # name → (set, seed, quick) → what it took and reached; this is the place for a new one
    'fit_quick':        quick_fit(),
    'fit':              trained(),
    'fit, 8 models':    trained(n_models=8),
    'BayesianPMF, ids': bayes(implicit=False),
    'BayesianPMF':      bayes(),
}
BASELINES = {
    'global mean':  baseline(lambda s: np.full(len(s.peers.fallback), s.peers.mean)),
    'user means':   baseline(means_of('user')),
    'item means':   baseline(means_of('item')),
    'damped means': baseline(lambda s: s.peers.fallback),
}
FEW = dict(sweeps=12)
PEERS = {   # name → function in peer_models.py, settings, settings for warming up
    'Surprise SVD':      ('surprise', {}, {}),
    'Surprise baseline': ('surprise', dict(algo='BaselineOnly'), {}),
    'cmfrec':            ('cmfrec', {}, {}),
    'LensKit ALS':       ('lenskit', {}, {}),
    'myFM, ids':         ('myfm', dict(rank=10, sweeps=200, burn=30, standard=True), dict(sweeps=12, burn=2)),
    'myFM, ratings':     ('myfm', dict(rank=10, sweeps=200, burn=30, standard=True, implicit=True), dict(sweeps=12, burn=2)),
}

def listed(make):
    def run(s, seed, quick):
        model,took = timed(make, s.dls, seed)
        e = evaluate(model, n=10, unseen='skip')
        return dict(took, ndcg=float(e.ndcg.iloc[0]))
    return run

LISTS_OURS = {
    'Popularity':  listed(lambda dls, seed: Popularity(dls)),
    'fit_ranking': listed(lambda dls, seed: fit_ranking(dls, seed=seed, progress=False)),
    'EASE':        listed(lambda dls, seed: EASE(dls)),
}
LISTS_PEERS = {'implicit ALS':('implicit_lists', {}, {}), 'LensKit ALS':('lenskit_lists', {}, {})}

# running

def prepared(df, most=None):
    "Each pair once (the last), and at most `most` users"
    df = df.drop_duplicates(['user','item'], keep='last', ignore_index=True)
    users = df.user.unique()
    if most is None or len(users)<=most: return df
    return df[df.user.isin(np.random.default_rng(0).choice(users, most, replace=False))].reset_index(drop=True)

def split_of(df, seed):
    "The set's own, or 80/20 at random"
    if 'split' not in df: return random_split(df, seed=seed, user_name='user', item_name='item')
    return np.flatnonzero(df.split=='train'),np.flatnonzero(df.split=='test')

def attempt(run, *args):
    "What `run` returns, or what it says on refusing"
    try: return run(*args)
    except Exception as e: return dict(error=f'{type(e).__name__}: {e}')   # a refusal is a result, and told in the table

def run_one(s, seed, threads, quick, only=None, kept={}):
    "A row for each contestant on one split; `kept`: rows of peers from another run on the same rows"
    lists = s.df.rating.nunique()==1
    ours,peers = (LISTS_OURS,LISTS_PEERS) if lists else ({**BASELINES,**OURS},PEERS)
    ours,peers = ({k:v for k,v in o.items() if not only or only in k or only=='ours' and o is ours or only=='peers' and o is peers} for o in (ours,peers))
    for k,run in ours.items(): yield dict(contestant=k, **attempt(run, s, seed, quick))
    if quick: peers = {k:(p,{**o,'sweeps':14,'burn':4} if p=='myfm' else o,q) for k,(p,o,q) in peers.items()}
    yield from kept.values()
    peers = {k:o for k,o in peers.items() if k not in kept}
    for k,o in (s.peers.run_all(peers, seed, threads) if peers else {}).items():
        if 'error' not in o: o = {**o, **(dict(ndcg=s.ndcg(o['preds'])) if lists else s.judge(o['preds']))}
        yield dict(contestant=k, **{a:b for a,b in o.items() if a not in ('preds','trace','predict_wall')})

def seeds_for(seeds, make):
    "Five times as many for tiny tables, where a single split says little"
    return [5*s+o for s in seeds for o in range(5)] if len(make(seeds[0]))<200 else seeds

def kept_of(runs, name, seed, digest):
    "What peers reached on these very rows with this seed: contestant → its row"
    return {o['contestant']:{k:v for k,v in o.items() if k not in FACTS} for o in runs if (o['set'],o['seed'],o.get('digest'))==(name,seed,digest) and o['contestant'] in {**PEERS,**LISTS_PEERS} and 'error' not in o}

FACTS = 'set seed rows users items cold per_id digest'.split()

def run_set(name, make, seeds, threads, quick, only, reuse=()):
    "`make`: seed → rows"
    for seed in seeds_for(seeds, make):
        df = make(seed)
        s = Split(df, split_of(df, seed), seed)
        t = s.peers.parts[0]
        facts = dict(set=name, seed=seed, rows=len(df), users=s.peers.n_users, items=s.peers.n_items, cold=float(s.cold.mean()), per_id=len(t['user'])/(len(np.unique(t['user']))+len(np.unique(t['item']))), digest=digest_of(df)[:16])
        for o in run_one(s, seed, threads, quick, only, kept_of(reuse, name, seed, facts['digest'])):
            said = o.get('error') or (f"nDCG {o['ndcg']:.4f}" if 'ndcg' in o else f"RMSE {o['rmse']:.4f}")
            print(f"{name:16} {seed:3} {o['contestant']:18} {o.get('fit_wall', 0):7.2f} s  {said[:90]}", file=sys.stderr, flush=True)
            yield {**facts, **o}

# reporting

def mean_of(df, what):
    "Mean over seeds: sets × contestants; NaN where somebody refused at any seed"
    if what not in df: return pd.DataFrame()
    df = df[df[what].notna() | df.get('error', pd.Series(index=df.index, dtype=object)).notna()]
    return df.pivot_table(index='set', columns='contestant', values=what, aggfunc=lambda o: o.mean(skipna=False), sort=False, dropna=False).dropna(axis=0, how='all').dropna(axis=1, how='all')

def number(x): return '–' if pd.isna(x) else f'{x:.2f}' if abs(x)>=10 else f'{x:.4f}'

def results(df, what, best=min, before=None):
    "Lines of the table: a set each, the best of a line in bold"
    m,facts,old = mean_of(df, what),df.groupby('set', sort=False).first(),mean_of(before, what) if before is not None else pd.DataFrame()
    order = [o for o in dict.fromkeys(df.contestant) if o in m]
    for k,r in m.iterrows():
        top,f = best(r.dropna()),facts.loc[k]
        def cell(c):
            res = number(r[c]) if r[c]!=top else f'**{number(r[c])}**'
            was = old[c].get(k) if c in old and c not in BASELINES and c not in PEERS and c not in LISTS_PEERS else None
            return res if was is None or number(was)==number(r[c]) else f'{number(was)} → {res}'
        published = SOURCES[k].published if k in SOURCES else None
        yield {'set':k, 'ratings':f'{f.rows:,}', 'per id':f'{f.per_id:.0f}' if f.per_id>=2 else f'{f.per_id:.1f}', **{c:cell(c) for c in order}, **({'published':f'{published[0]:g} ({published[1]})' if published else ''} if what=='rmse' else {})}

MARGIN = 1.002   # what counts as no worse: two thousandths

def worse(m, a, b, margin=MARGIN):
    "Sets on which `a` is worse than `b`, or refuses"
    return [f'{k} ({number(r[a])} against {number(r[b])})' for k,r in m.iterrows() if not r[a]<=margin*r[b]]

def targets(df):
    m,cold = mean_of(df, 'rmse'),mean_of(df, 'rmse_cold')
    peers,yard = [o for o in PEERS if o in m],'damped means'
    if yard not in m: return
    def told(claim, bad): return verdict(claim, not bad, '; '.join(bad) or f'on none of {len(m)} sets')
    for k in (o for o in OURS if o in m): yield told(f'`{k}` is nowhere worse than damped means', worse(m, k, yard))
    more,se = mean_of(df, 'cold_more'),mean_of(df, 'cold_se')
    for k in (o for o in OURS if o in more):
        bad = [f'{o} ({number(cold[k][o])} against {number(cold[yard][o])})' for o in more.index if not more[k][o]<=2*se[k][o]]
        yield told(f'nor, by more than two standard errors, on rows of users or items without training ratings (`{k}`)', bad)
    if 'BayesianPMF' in m and peers:
        yield told('`BayesianPMF` is nowhere behind a peer', [f'{k} ({number(r["BayesianPMF"])} against {number(r[peers].min())}, {r[peers].idxmin()})' for k,r in m.iterrows() if not r['BayesianPMF']<=r[peers].min()*MARGIN])
        has = [k for k,s in SOURCES.items() if s.published and k in m.index]
        digits = lambda o: len(str(o).partition('.')[2])
        if has: yield told('and behind no published number, at its digits', [f'{k} ({number(m["BayesianPMF"][k])} against {SOURCES[k].published[0]:g})' for k in has if not round(m['BayesianPMF'][k], digits(SOURCES[k].published[0]))<=SOURCES[k].published[0]])
    out = mean_of(df, 'outside')
    seen = [c for c in OURS if c in out]
    yield told(f"no prediction leaves the scale of the ratings ({', '.join(f'`{o}`' for o in seen)})", [f'{c} on {k} ({v:.1%})' for c in seen for k,v in out[c].items() if v>0])

def refusals(df):
    if 'error' not in df: return []
    n = df.groupby(['contestant','set']).size()
    rows = df[df.error.notna()].groupby(['contestant','set'], sort=False).error.agg(['first','size'])
    return [f"- {o.Index[0]} on {o.Index[1]}{'' if o.size==n[o.Index] else f' ({o.size} of {n[o.Index]} runs)'}: {o.first.splitlines()[0][:160]}" for o in rows.set_axis(['first','size'], axis=1).itertuples()]

NOTES = """**Rows.** A set's own split where there is one (Monti's masks), else 80/20 at random, with the seed of the run; of tables under 200 rows, five splits (and five tables) for each seed. Everybody gets the same rows and is judged by the same code: predictions are kept within the lowest and
the highest training rating. A pair that occurs twice counts once, with its last rating. Of large sets some users take part, drawn once: see below. *per id*: training ratings over users and items that have any. Where a peer has no prediction for a row (LensKit, cmfrec), it gets that of the damped means.

**Settings.** All at their defaults, everywhere the same: nothing is chosen on a set. myFM has no defaults for sweeps: rank 10, 200 sweeps, the first 30 left out, as `BayesianPMF`'s, on ratings of mean 0 and deviation 1 (on a scale up to 100 it is far off otherwise). *myFM, ratings* and *BayesianPMF* also see who rated what among the training rows, the others don't.

**Baselines.** *damped means*: Koren's, damping 5 (`latent.damped_means`). *user means*, *item means*: plain, and the global mean for who has none.

**Likes** have one value, so nothing can be said of ratings: lists of ten, without what was liked in the training rows, by nDCG, a mean over the users with rows in both parts. implicit and LensKit are judged by lists of their own ALS for choices.

**Time** is that of `fit`, after a run on few rows that is not counted. All peers of a split share a process, and other programs may have been running (see the load): `frontier.py` is for times."""

def sources(used, digests):
    return [{'set':k, 'from':s.about, 'licence':s.licence, 'users at most':'all' if s.most is None else f'{s.most:,}', 'published':'' if not s.published else f'{s.published[0]:g} ({s.published[1]})', 'SHA-256 of rows':f'`{digests[k][:16]}…`'} for k,s in SOURCES.items() if k in used]

def report(df, about, versions, digests, missing, quick, before=None):
    df = df.assign(set=df.set)
    title = '# Many sets' + (' (only a try with --quick: not a result)' if quick else '')
    def section(head, rows): return [head, md_table(rows)] if rows else []
    real = df[df.set.isin(SOURCES)]
    rated = lambda d: d[d.get('ndcg', pd.Series(index=d.index, dtype=float)).isna() & ~d.contestant.isin({**LISTS_OURS,**LISTS_PEERS}.keys()-PEERS.keys())]
    has = lambda d, what: what in d and d[what].notna().any()
    parts = [title, 'Written by `python benchmarks/datasets.py`.', describe(about)+'.', f'Peers: {describe(versions)}.']
    for head,d in (('## RMSE, sets from elsewhere', real), ('## RMSE, made-up sets', df[~df.set.isin(SOURCES)])):
        if has(d, 'rmse'): parts += section(head + (', ours before → after' if before is not None else ''), list(results(rated(d), 'rmse', before=before)))
    parts += ['\n'.join(targets(rated(df)))]
    if has(df, 'ndcg'): parts += section('## Likes: nDCG of lists of ten', list(results(df[df.contestant.isin({**LISTS_OURS,**LISTS_PEERS}) & df.set.isin(df[df.ndcg.notna()].set)], 'ndcg', max, before)))
    if has(df, 'rmse_cold'): parts += section('## RMSE on rows whose user or item has no training rating', [{'set':o['set'], 'share':f"{df[df.set==o['set']].cold.mean():.1%}", **{k:v for k,v in o.items() if k not in ('set','ratings','per id')}} for o in results(rated(df)[lambda d: d.contestant.isin({**BASELINES,**OURS})], 'rmse_cold', before=before)])
    if has(df, 'fit_wall'): parts += section('## Seconds to fit', [{'set':k, **{c:'–' if pd.isna(v) else f'{v:.2f}' for c,v in r.items() if c not in BASELINES}} for k,r in mean_of(rated(df), 'fit_wall').iterrows()])
    if bad := refusals(df): parts += ['## Who refused what', '\n'.join(bad)]
    if digests: parts += section('## The sets', sources(set(df.set), digests))
    made = [f'- *{k}*: {MADE_UP[k][0]}' for k in MADE_UP if k in set(df.set)]
    if made: parts += ['Made up (biases, factors and noise, see `made_up`):', '\n'.join(made)]
    if missing: parts += [f"Not run, for want of a file: {', '.join(missing)}."]
    return '\n\n'.join([*parts, '## How it is measured', NOTES]) + '\n'

def chosen_sets(names, folder, fetch, quick):
    "name → (seed → rows); digests; what has no file"
    all_names = [*SOURCES,*MADE_UP]
    if bad := set(names or ())-set(all_names): raise CliError(f"--sets: no set is called {bad.pop()!r}; there are {', '.join(all_names)}")
    names,res,digests,missing = names or (['MovieLens 100K','halves','ten in all','likes only'] if quick else all_names),{},{},[]
    for k in names:
        if k in MADE_UP: res[k] = MADE_UP[k][1]
        elif (df := read_set(k, folder, fetch)) is None: missing.append(k)
        else:
            df = prepared(df, SOURCES[k].most)
            digests[k],res[k] = digest_of(df),lambda seed, df=df: df
    return res,digests,missing

def save(out, runs, about, digests, missing):
    out.mkdir(parents=True, exist_ok=True)
    runs = [{k:v for k,v in o.items() if isinstance(v, str) or pd.notna(v)} for o in runs]
    (out/'datasets.json').write_text(json.dumps(dict(machine=about, digests=digests, not_run=missing, runs=runs), indent=1), encoding='utf-8')

def read_runs(file): return json.loads(file.read_text(encoding='utf-8'))['runs'] if file else []

@call_parse
def main(folder:Path=None, # with the sets' files
         fetch:bool=True, # fetch into the folder what is not there and has an address?
         sets:Annotated[str, {'nargs':'+'}]=None, # only these
         seeds:Annotated[int, {'nargs':'+'}]=(1,2), # of splits, models and made-up sets
         threads:int=2, # for everyone, at most
         only:str=None, # contestants whose name has this, 'ours' or 'peers' (then nothing is written, unless told where)
         reuse:Path=None, # a datasets.json: peers that ran on the same rows with the same seed are not run again
         before:Path=None, # a datasets.json of another day: ours are shown before → after
         list:bool=False, # only list the sets
         quick:bool=False, # few sets, few sweeps, one seed
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Predict held-back ratings of many sets: ours, the peers, the means"
    if list: return print(md_table([{'set':k, 'file':s.file or '', 'or':f'{key(k)}.csv', 'fetched from':s.url or '', 'from':s.about, 'licence':s.licence} for k,s in SOURCES.items()]))
    torch.set_num_threads(threads)
    about = machine(**{'threads, at most':threads})
    makers,digests,missing = chosen_sets(sets, folder, fetch, quick)
    small = Split(df:=made_up(0, n=500, users=40, items=40), split_of(df, 0), 0)
    for run in (trained(), quick_fit(), bayes(n_sweeps=2, burn_in=0)): run(small, 0, False)   # the first run in a process pays for what is loaded on demand
    runs,there = [],read_runs(reuse)
    for k,make in makers.items():
        runs += run_set(k, make, seeds[:1] if quick else seeds, threads, quick, only, there)
        if out: save(out, runs, about, digests, missing)   # a long run that is broken off has left something to --reuse
    df = pd.DataFrame(runs)
    versions = {NAMES[p.removesuffix('_lists')]:v for p,v in df.dropna(subset='version').groupby('peer').version.first().items()} if 'version' in df else {}
    md = report(df, about, versions, digests, missing, quick, pd.DataFrame(read_runs(before)) if before else None)
    print(md)
    if (quick or only) and not out: return
    save(out or RESULTS, runs, about, digests, missing)
    ((out or RESULTS)/'datasets.md').write_text(md, encoding='utf-8')
