"""The peers' models for lists. This file is run by the Python of `.venv-peers` (see peers.py) and imports nothing of ours.

    python list_peers.py FOLDER    # reads FOLDER/job.json and FOLDER/data.npz, leaves FOLDER/result.json and FOLDER/lists.npz
"""
import json, sys, warnings
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time

warnings.filterwarnings('ignore')

import numpy as np
from scipy import sparse as sps

# Each peer: (0/1 table users × items, ratings in the same cells, seed, threads, settings) → a function without arguments that trains, and
# one from what it gives to scores (users, items). Turning tables into the library's own is not counted.

def als(x, r, seed, threads, star=0., **kw):
    from implicit.cpu.als import AlternatingLeastSquares
    m = AlternatingLeastSquares(random_state=seed, num_threads=threads, **kw)
    w = x.copy()
    w.data = (1+star*(r.data-3)/2).astype('float32')
    def train():
        m.fit(w, show_progress=False)
        return m.user_factors@m.item_factors.T
    return train

def bpr(x, r, seed, threads, **kw):
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    m = BayesianPersonalizedRanking(random_state=seed, num_threads=threads, **kw)
    def train():
        m.fit(x, show_progress=False)
        return m.user_factors@m.item_factors.T
    return train

def bm25(x, r, seed, threads, K, K1, B):
    from implicit.nearest_neighbours import BM25Recommender
    m = BM25Recommender(K=K, K1=K1, B=B, num_threads=threads)
    def train():
        m.fit(x, show_progress=False)
        return np.asarray((x@m.similarity).todense())
    return train

def cmfrec(x, r, seed, threads, star=0., **kw):
    import cmfrec
    m = cmfrec.CMF_implicit(random_state=seed, nthreads=threads, verbose=False, **kw)
    w = sps.coo_matrix(x)
    w.data = (1+star*(r.data-3)/2).astype('float64')
    def train():
        m.fit(w)
        return m.A_[:,:]@m.B_[:,:].T
    return train

def _lenskit(x, r, rated=False):
    import pandas as pd
    from lenskit.data import from_interactions_df
    u,i = x.nonzero()
    df = pd.DataFrame(dict(user_id=u, item_id=i))
    return from_interactions_df(df.assign(rating=r.data) if rated else df)

def lenskit_als(x, r, seed, threads, **kw):
    from lenskit.als import ImplicitMFScorer
    from lenskit.training import TrainingOptions
    m,ds = ImplicitMFScorer(**kw),_lenskit(x, r)
    def train():
        m.train(ds, TrainingOptions(rng=seed))
        out = np.full(x.shape, -np.inf, dtype='float32')
        s = np.asarray(m.user_embeddings)@np.asarray(m.item_embeddings).T
        out[np.ix_(np.asarray(m.users.ids()),np.asarray(m.items.ids()))] = s
        return out
    return train

def lenskit_knn(x, r, seed, threads, **kw):
    from lenskit.knn import ItemKNNScorer
    from lenskit.data import RecQuery, ItemList
    from lenskit.training import TrainingOptions
    m,ds = ItemKNNScorer(feedback='implicit', **kw),_lenskit(x, r)
    def train():
        m.train(ds, TrainingOptions(rng=seed))
        every,out = ItemList(item_ids=np.arange(x.shape[1])),np.full(x.shape, -np.inf, dtype='float32')
        for u in range(x.shape[0]):
            mine = ItemList(item_ids=x[u].indices)
            out[u] = np.nan_to_num(m(RecQuery(user_id=u, user_items=mine), every).scores(), nan=-1e9)
        return out
    return train

PEERS = dict(als=als, bpr=bpr, bm25=bm25, cmfrec=cmfrec, lenskit_als=lenskit_als, lenskit_knn=lenskit_knn)
LIBRARY = dict(als='implicit', bpr='implicit', bm25='implicit', cmfrec='cmfrec', lenskit_als='lenskit', lenskit_knn='lenskit')

def main(folder):
    job,z = json.loads((folder/'job.json').read_text()),np.load(folder/'data.npz')
    (u,i),y,shape = z['pairs'].T,z['ratings'].astype('float32'),tuple(z['shape'])
    r = sps.csr_matrix((y, (u,i)), shape=shape)
    r.sort_indices()
    x = sps.csr_matrix((np.ones_like(r.data), r.indices, r.indptr), shape=shape)
    seen,lists,times = x.nonzero(),[],[]
    for o in job['trials']:
        train = PEERS[job['peer']](x, r, job['seed'], job['threads'], **o)
        wall,cpu = perf_counter(),process_time()
        s = np.array(train())[:shape[0],:shape[1]]
        times.append([perf_counter()-wall, process_time()-cpu])
        s[seen] = -np.inf
        top = np.argpartition(-s, 10, axis=1)[:,:10]
        lists.append(np.take_along_axis(top, np.argsort(-np.take_along_axis(s, top, 1), axis=1, kind='stable'), 1))
    np.savez(folder/'lists.npz', lists=np.stack(lists))
    (folder/'result.json').write_text(json.dumps(dict(times=times, version=version(LIBRARY[job['peer']]))))

if __name__=='__main__': main(Path(sys.argv[1]))
