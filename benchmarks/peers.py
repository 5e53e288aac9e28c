"""The libraries that ours is measured against, in a virtual environment of their own

    python benchmarks/peers.py      # makes .venv-peers (about 1.6 GB; needs a C and C++ compiler; minutes), or says that it is there

The benchmarks that need it make it too when it is not there. The environment variable `COLLAB_NOTES_PEERS` may name the Python of
another environment that has what peers.txt lists.
"""
import json, os, subprocess, sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np, pandas as pd
from fastcore.script import CliError, call_parse

from collab_notes.movielens import movielens_movies, movielens_users
from collab_notes.latent import damped_means

HERE = Path(__file__).parent
VENV = HERE.parent/'.venv-peers'
NAMES = dict(surprise='Surprise', cmfrec='cmfrec', lenskit='LensKit', implicit='implicit', myfm='myFM')
LATE = 'cmfrec'   # left to itself it is built against an old numpy, and then fails to import with the one that is there

def make_venv():
    "Install what peers.txt lists"
    run = lambda *args: subprocess.run([str(o) for o in args], check=True, stdout=sys.stderr)
    pip = VENV/'bin/python', '-m', 'pip', 'install', '-q', '--disable-pip-version-check'
    listed = [o for o in (HERE/'peers.txt').read_text(encoding='utf-8').splitlines() if o and o[0]!='#']
    run(sys.executable, '-m', 'venv', '--clear', VENV)
    run(*pip, *(o for o in listed if not o.startswith(LATE)))
    run(*pip, '--no-build-isolation', '--no-cache-dir', '--no-binary', LATE, *(o for o in listed if o.startswith(LATE)))
    (VENV/'complete').touch()

def peers_python():
    "The Python of the environment with the peers, which is made if need be"
    if given := os.environ.get('COLLAB_NOTES_PEERS'): return given
    if not (VENV/'complete').exists():
        print(f'Installing the peers into {VENV.name}, once', file=sys.stderr, flush=True)
        try: make_venv()
        except subprocess.CalledProcessError as e: raise CliError(f"The peers could not be installed: {e}") from None
    return VENV/'bin/python'

def thread_limits(n):
    "What to set in the environment of a child so that no library takes more than `n` threads"
    one = dict(OPENBLAS_NUM_THREADS='1', LK_NUM_BACKEND_THREADS='1', LK_NUM_PROCS='1')   # those that have threads of their own, and call OpenBLAS in each
    return {**os.environ, **{f'{o}_NUM_THREADS':str(n) for o in ('OMP','MKL','NUMBA','RAYON','LK')}, **one, 'TOKENIZERS_PARALLELISM':'false'}

def child(script, folder, threads):
    "Run one of our scripts by the peers' Python; what it left in result.json"
    r = subprocess.run([peers_python(), HERE/script, folder], env=thread_limits(threads), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if r.returncode: raise CliError(f"{script} failed:\n{r.stderr[-3000:]}")
    return json.loads((Path(folder)/'result.json').read_text(encoding='utf-8'))

def _one_hot(s): # a column
    return pd.get_dummies(s, prefix=s.name, dtype=float)

def side_information():
    "What MovieLens tells of people and films, as 0/1 columns: age by decades, gender, occupation, region (first sign of the zip); genres, decade"
    u,m = movielens_users().set_index('user'),movielens_movies().set_index('movie')
    genres = m.genres.str.get_dummies().astype(float)
    return ([_one_hot((u.age//10).clip(1,6)), _one_hot(u.gender), _one_hot(u.occupation), _one_hot(u.zip.str[0])],
            [genres.div(genres.sum(1), axis=0), _one_hot((m.year.fillna(1995).astype(int)//10).clip(lower=192))])

def _features(tables, ids):
    tables = [o.reindex(ids).fillna(0) for o in tables]
    return np.concatenate([o.to_numpy(dtype='float32') for o in tables], 1), np.repeat(np.arange(len(tables)), [o.shape[1] for o in tables])

def effect_name(o): return o if isinstance(o, str) else ' × '.join(o)

class PeerData:
    "A split of a ratings table, in numbers, in a folder that goes when this object does"
    def __init__(self, df, # columns user, `item` and rating (such as `movielens_ratings()`), and those of effects
                 split, # (train, valid)
                 item='movie', # MovieLens' number of a film; any other column has no features here
                 effects=()): # columns, or tuples of columns, whose levels may have an effect
        self.folder = TemporaryDirectory(prefix='peers-')
        (users,user_ids),(items,item_ids) = (pd.factorize(df[o]) for o in ('user',item))
        cols = dict(user=users, item=items, rating=df.rating.to_numpy(dtype=float), effects=np.zeros((len(df),0), dtype=int))
        if effects: cols['effects'] = np.column_stack([df.groupby([o] if isinstance(o, str) else list(o), sort=False).ngroup() for o in effects])
        self.parts,self.n_users,self.n_items = [{k:v[idx] for k,v in cols.items()} for idx in split],len(user_ids),len(item_ids)
        self.effects = [effect_name(o) for o in effects]
        sides = side_information() if item=='movie' else ([pd.DataFrame(index=user_ids)],[pd.DataFrame(index=item_ids)])
        made = {who:_features(t, ids) for who,t,ids in (('user',sides[0],user_ids), ('item',sides[1],item_ids))}
        t,v = self.parts
        self.scale = float(t['rating'].min()),float(t['rating'].max())
        np.savez(Path(self.folder.name)/'data.npz', scale=self.scale, n_users=self.n_users, n_items=self.n_items, effect_names=self.effects,
                 **{f'{p}_{k}':v for p,o in zip(('train','valid'), self.parts) for k,v in o.items()},
                 **{f'{who}_{k}':v for who,o in made.items() for k,v in zip(('features','groups'), o)})
        b = damped_means(t['user'], t['item'], t['rating'], self.n_users, self.n_items)
        self.mean,self.fallback = b.mean,b.mean + b.user_bias[v['user']] + b.item_bias[v['item']]

    def rmse(self, preds): # for the validation rows
        "Root of the mean squared error of `preds`, kept within the scale of the training ratings (1 to 5 in MovieLens)"
        return float(np.sqrt(((np.clip(preds, *self.scale)-self.parts[1]['rating'])**2).mean()))

    def run(self, peer:str, # a function of peer_models.py
            seed:int, threads:int, settings:dict,
            quick:dict={}): # settings for warming up, such as few sweeps
        "Train a peer in a process of its own; what it took and what it reached"
        res, = self._child([dict(peer=peer, seed=seed, threads=threads, settings=settings, quick=quick)])
        if 'error' in res: raise CliError(f"{peer} failed: {res['error']}")
        return {k:v for k,v in res.items() if k!='preds'}

    def run_all(self, jobs:dict, # name → peer, settings, settings for warming up
                seed:int, threads:int):
        "Several peers in one process, for where their times matter little: name → what `run` returns and `preds`, or `error`"
        todo = [dict(peer=p, seed=seed, threads=threads, settings=s, quick=q) for p,s,q in jobs.values()]
        try: res = self._child(todo)
        except CliError: res = [self._alone(o) for o in todo]   # one took the process with it: which?
        return dict(zip(jobs, res))

    def _alone(self, job):
        try: return self._child([job])[0]
        except CliError as e: return dict(peer=job['peer'], error=str(e).splitlines()[-1])

    def _child(self, jobs):
        folder = Path(self.folder.name)
        (folder/'jobs.json').write_text(json.dumps(jobs), encoding='utf-8')
        return [self._judged(job, o, folder/f'preds{n}.npy') for n,(job,o) in enumerate(zip(jobs, child('peer_models.py', folder, jobs[0]['threads'])))]

    def _judged(self, job, res, file):
        if 'error' in res: return dict(res, peer=job['peer'])
        preds = np.load(file)
        if job['peer'].endswith('_lists'): return dict(res, peer=job['peer'], preds=preds.astype(int))
        filled = np.isnan(preds)
        preds = np.where(filled, self.fallback, preds)
        return dict(res, peer=job['peer'], rmse=self.rmse(preds), filled=int(filled.sum()), preds=preds)

@call_parse
def main():
    "Install the peers, unless they are there"
    print(f'The peers are there: {peers_python()}' if os.environ.get('COLLAB_NOTES_PEERS') else f'The peers are in {Path(peers_python()).parent.parent.name}')
