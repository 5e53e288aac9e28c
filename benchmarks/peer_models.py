"""The peers themselves. This file is run by the Python of `.venv-peers` (see peers.py) and imports nothing of ours.

    python peer_models.py FOLDER    # reads FOLDER/jobs.json and FOLDER/data.npz, leaves FOLDER/result.json, and FOLDER/preds0.npy … for each job
"""
import json, random, sys, warnings
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time

warnings.filterwarnings('ignore')

import numpy as np
from scipy import sparse as sps

Rows = namedtuple('Rows', 'user item rating effects')   # effects: a column for each

class Data:
    "Training and validation rows, as numbers from 0 on; features of users and items, a group for each column"
    def __init__(self, z):
        self.train,self.valid = (Rows(*(z[f'{p}_{o}'] for o in Rows._fields)) for p in ('train','valid'))
        self.n_users,self.n_items,self.effect_names = int(z['n_users']),int(z['n_items']),z['effect_names'].tolist()
        self.scale = tuple(z['scale'].tolist())   # of the training ratings
        self.sides = {o:(z[f'{o}_features'],z[f'{o}_groups']) for o in ('user','item')}

    def head(self, n=1000):
        "The same with few rows, to warm up on"
        res = object.__new__(Data)
        res.__dict__.update(self.__dict__)
        res.train,res.valid = (Rows(*(o[:n] for o in r)) for r in (self.train,self.valid))
        return res

class Clock:
    "Wall and CPU seconds of what runs inside `with`"
    def __init__(self): self.wall = self.cpu = 0.
    def __enter__(self): self._t = perf_counter(),process_time()
    def __exit__(self, *_):
        self.wall += perf_counter()-self._t[0]
        self.cpu += process_time()-self._t[1]

def dots(a, b, u, i, step=500_000):
    "Dot products of rows `u` of `a` with rows `i` of `b`, without a table of all of them"
    return np.concatenate([np.einsum('nk,nk->n', a[u[n:n+step]], b[i[n:n+step]]) for n in range(0, max(1, len(u)), step)])

def peak_gib(reset=False):
    "Most memory that this process has had since the last reset, GiB (Linux; else None)"
    try:
        if reset: Path('/proc/self/clear_refs').write_text('5')
        return next(int(l.split()[1]) for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmHWM'))/2**20
    except OSError: return None

# Each peer: (data, seed, threads, settings) → (predictions for the validation rows, NaN where it has none; what else is worth noting).
# `fit` and `predict` are clocks; what is outside of both, such as turning arrays into the library's own tables, is not counted.

def surprise(d, fit, predict, seed, threads, algo='SVD', **kw):
    import pandas as pd, surprise
    df = pd.DataFrame(dict(user=d.train.user, item=d.train.item, rating=d.train.rating))
    train = surprise.Dataset.load_from_df(df, surprise.Reader(rating_scale=d.scale)).build_full_trainset()
    random.seed(seed)
    np.random.seed(seed)
    model = getattr(surprise, algo)(**(kw if algo=='BaselineOnly' else dict(kw, random_state=seed)))   # the former draws nothing
    with fit: model.fit(train)
    with predict: preds = [model.predict(u, i).est for u,i in zip(d.valid.user, d.valid.item)]
    return preds,{}

def cmfrec(d, fit, predict, seed, threads, side=False, **kw):
    import pandas as pd, cmfrec
    df = pd.DataFrame(dict(UserId=d.train.user, ItemId=d.train.item, Rating=d.train.rating))
    def table(who, name): return pd.DataFrame(d.sides[who][0]).assign(**{name:range(len(d.sides[who][0]))})
    extra = dict(U=table('user','UserId'), I=table('item','ItemId')) if side else {}
    model = cmfrec.CMF(verbose=False, random_state=seed, nthreads=threads, **kw)
    with fit: model.fit(df, **extra)
    known = np.isin(d.valid.user, d.train.user) & np.isin(d.valid.item, d.train.item)
    preds = np.full(len(known), np.nan)
    with predict: preds[known] = model.predict(d.valid.user[known], d.valid.item[known])
    return preds,{}

def lenskit(d, fit, predict, seed, threads, **kw):
    import pandas as pd
    from lenskit.als import BiasedMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions
    df = pd.DataFrame(dict(user_id=d.train.user, item_id=d.train.item, rating=d.train.rating))
    data = from_interactions_df(df.groupby(['user_id','item_id'], as_index=False).rating.mean())   # it takes no pair twice; by title there are some
    model = BiasedMFScorer(**kw)
    with fit: model.train(data, TrainingOptions(rng=seed))
    with predict:   # by its factors and biases: its own pipeline takes users one by one
        u,i = (v.numbers(o, missing='negative') for v,o in ((data.users,d.valid.user),(data.items,d.valid.item)))
        b = model.bias
        preds = dots(np.asarray(model.user_embeddings), np.asarray(model.item_embeddings), u, i) + b.global_bias + b.user_biases[u] + b.item_biases[i]
        preds[(u<0) | (i<0)] = np.nan
    return preds,{}

def implicit(d, fit, predict, seed, threads, **kw):
    "Its scores rank items, and are no ratings. They get the means of the user and the item beside them, and weights by least squares on a tenth of the training rows that it has not seen"
    from implicit.cpu.als import AlternatingLeastSquares
    def train(r):
        model = AlternatingLeastSquares(random_state=seed, num_threads=threads, **kw)
        model.fit(sps.csr_matrix((r.rating.astype('float32'), (r.user,r.item)), shape=(d.n_users,d.n_items)), show_progress=False)
        return model
    part = np.random.default_rng(seed).random(len(d.train.rating))<0.1
    most,rest = (Rows(*(o[p] for o in d.train)) for p in (~part,part))
    mean = most.rating.mean()
    ub,ib = (np.bincount(o, most.rating-mean, n)/(np.bincount(o, minlength=n)+5) for o,n in ((most.user,d.n_users),(most.item,d.n_items)))
    def inputs(model, r): return np.column_stack([np.ones(len(r.user)), ub[r.user], ib[r.item], dots(model.user_factors, model.item_factors, r.user, r.item)])
    weights = np.linalg.lstsq(inputs(train(most), rest), rest.rating, rcond=None)[0]
    with fit: model = train(d.train)
    with predict: preds = inputs(model, d.valid)@weights
    return preds,{}

def _best(scores, d, n): # scores of all items for some users (m, n_items), and who they are
    scores,who = scores
    seen = sps.csr_matrix((np.ones(len(d.train.user), dtype=bool), (d.train.user,d.train.item)), shape=(d.n_users,d.n_items))[who].toarray()
    scores = np.where(seen | (np.bincount(d.train.item, minlength=d.n_items)==0), -np.inf, scores)   # as ours: nothing known already, nothing without training rows
    top = np.argsort(-scores, axis=1, kind='stable')[:,:n]
    return np.where(np.isneginf(np.take_along_axis(scores, top, 1)), -1, top)

def implicit_lists(d, fit, predict, seed, threads, n=10, **kw):
    "The `n` best items of each user in the validation rows, -1 for an empty place"
    from implicit.cpu.als import AlternatingLeastSquares
    model = AlternatingLeastSquares(random_state=seed, num_threads=threads, **kw)
    chosen = sps.csr_matrix((np.ones(len(d.train.user), dtype='float32'), (d.train.user,d.train.item)), shape=(d.n_users,d.n_items))
    with fit: model.fit(chosen, show_progress=False)
    who = np.unique(d.valid.user)
    with predict: return _best((model.user_factors[who]@model.item_factors.T, who), d, n),{}

def lenskit_lists(d, fit, predict, seed, threads, n=10, **kw):
    "The same by LensKit's ALS for choices; -1 throughout for a user without training rows"
    import pandas as pd
    from lenskit.als import ImplicitMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions
    df = pd.DataFrame(dict(user_id=d.train.user, item_id=d.train.item)).drop_duplicates()
    data,model = from_interactions_df(df),ImplicitMFScorer(use_ratings=False, **kw)
    with fit: model.train(data, TrainingOptions(rng=seed))
    who = np.unique(d.valid.user)
    with predict:
        u,i = data.users.numbers(who, missing='negative'),data.items.numbers(np.arange(d.n_items), missing='negative')
        scores = np.asarray(model.user_embeddings)[u]@np.asarray(model.item_embeddings)[i].T
        res = _best((np.where(i<0, -np.inf, scores), who), d, n)
    return np.where((u<0)[:,None], -1, res),{}

def one_hot(codes, n):
    "A row for each of `codes`; -1 is a row of zeros"
    at = np.flatnonzero(codes>=0)
    return sps.csr_matrix((np.ones(len(at)), (at,codes[at])), shape=(len(codes),n))

def myfm_table(d, implicit, features, effects):
    "Main table of training and of validation rows, a block for users and one for items, a group number for each column: as in myFM's examples for MovieLens"
    from myfm import RelationBlock
    t,sizes,main = d.train,[],[]
    for o in effects:   # a level that no training row has is a row of zeros
        j = d.effect_names.index(o)
        levels,codes = np.unique(t.effects[:,j], return_inverse=True)
        at = np.searchsorted(levels, d.valid.effects[:,j]).clip(max=len(levels)-1)
        main.append([one_hot(codes, len(levels)), one_hot(np.where(levels[at]==d.valid.effects[:,j], at, -1), len(levels))])
        sizes.append(len(levels))
    seen = sps.csr_matrix((np.ones(len(t.user)), (t.user,t.item)), shape=(d.n_users,d.n_items))
    blocks = []
    for who,n,m in (('user',d.n_users,seen),('item',d.n_items,seen.T.tocsr())):
        cols = [sps.identity(n, format='csr')]
        sizes.append(n)
        if features:
            x,groups = d.sides[who]
            cols.append(sps.csr_matrix(x.astype(float)))
            sizes += np.bincount(groups).tolist()
        if implicit:
            cols.append(sps.diags(1/np.sqrt(np.maximum(np.asarray(m.sum(1)).ravel(), 1))) @ m)
            sizes.append(m.shape[1])
        blocks.append(sps.hstack(cols, format='csr'))
    x = [sps.hstack([o[j] for o in main], format='csr') if main else None for j in (0,1)]
    rel = [[RelationBlock(getattr(r, who).astype('int64'), b) for who,b in zip(('user','item'), blocks)] for r in (d.train,d.valid)]
    return x,rel,np.repeat(np.arange(len(sizes)), sizes).tolist()

def myfm(d, fit, predict, seed, threads, rank=10, sweeps=512, burn=10, ordinal=False, implicit=False, features=False, effects=(), standard=False):
    "The mean over all sweeps after `burn`, with a trace of its error; the time that the trace takes is not part of `fit`. `standard`: ratings with mean 0 and deviation 1, which its priors expect"
    import myfm
    x,rel,grouping = myfm_table(d, implicit, features, effects)
    y,total,trace = d.train.rating,np.zeros(len(d.valid.rating)),[]
    mid,sd = (float(y.mean()),float(y.std()) or 1.) if standard else (0.,1.)
    x_valid = sps.csr_matrix((len(total),0)) if x[1] is None else x[1]
    def look(i, fm, hyper, history):
        fit.__exit__()
        with predict:
            if i>=burn:
                if ordinal: total[:] += 1+fm.oprobit_predict_proba(x_valid, rel[1], 0)@np.arange(5)
                else: total[:] += mid+sd*fm.predict_score(x_valid, rel[1])
                trace.append([i+1, fit.wall, float(np.sqrt(((np.clip(total/(i+1-burn), *d.scale)-d.valid.rating)**2).mean()))])
        fit.__enter__()
        return False,None
    model = (myfm.MyFMOrderedProbit if ordinal else myfm.MyFMRegressor)(rank=rank, random_seed=seed)
    y = (y-1).astype('int32') if ordinal else (y.astype(float)-mid)/sd
    with fit: model.fit(x[0], y, X_rel=rel[0], grouping=grouping, n_iter=sweeps, n_kept_samples=1, callback=look)
    return total/(sweeps-burn),dict(trace=trace)

def do(job, d, file):
    "One job: predictions go to `file`; what it took"
    run,args = globals()[job['peer']],dict(seed=job['seed'], threads=job['threads'])
    run(d.head(), Clock(), Clock(), **args, **{**job['settings'], **job['quick']})   # the first run in a process pays for what is loaded on demand
    fit,predict = Clock(),Clock()
    peak_gib(reset=True)
    preds,more = run(d, fit, predict, **args, **job['settings'])
    np.save(file, np.asarray(preds, dtype=float))
    library = job['peer'].removesuffix('_lists')
    return dict(fit_wall=fit.wall, fit_cpu=fit.cpu, gib=peak_gib(), predict_wall=predict.wall, version=version(dict(surprise='scikit-surprise').get(library, library)), **more)

def main(folder):
    d,res = Data(np.load(folder/'data.npz')),[]
    for n,job in enumerate(json.loads((folder/'jobs.json').read_text())):
        try: res.append(do(job, d, folder/f'preds{n}.npy'))
        except Exception as e: res.append(dict(error=f'{type(e).__name__}: {e}'))   # told in the table: peers may refuse a set
    (folder/'result.json').write_text(json.dumps(res))

if __name__=='__main__': main(Path(sys.argv[1]))
