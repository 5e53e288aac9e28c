"""implicit's `recommend` for all users, on factors that it is given. Run by the Python of `.venv-peers` (see topn.py)

    python topn_implicit.py FOLDER    # reads FOLDER/job.json and FOLDER/factors.npz, leaves FOLDER/result.json and FOLDER/lists.npz
"""
import json, sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse as sps

def main(folder):
    job,z = json.loads((folder/'job.json').read_text()),np.load(folder/'factors.npz')
    model = AlternatingLeastSquares(factors=z['users'].shape[1], num_threads=job['threads'])
    model.user_factors,model.item_factors = z['users'],z['items']
    (u,i),n = z['seen'].T,(len(z['users']),len(z['items']))
    start = perf_counter()
    seen = sps.csr_matrix((np.ones(len(u), dtype='float32'), (u,i)), shape=n)
    prepare = perf_counter()-start
    model.recommend(np.arange(50), seen[:50], N=job['n'])   # the first call pays for what is loaded on demand
    runs = []
    for _ in range(job['repeats']):
        wall,cpu = perf_counter(),process_time()
        items,scores = model.recommend(np.arange(n[0]), seen, N=job['n'])
        runs.append([perf_counter()-wall, process_time()-cpu])
    np.savez(folder/'lists.npz', items=items, scores=scores)
    (folder/'result.json').write_text(json.dumps(dict(runs=runs, prepare=prepare, version=version('implicit'))))

if __name__=='__main__': main(Path(sys.argv[1]))
