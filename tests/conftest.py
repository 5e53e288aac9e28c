"""What all tests share: made-up ratings and models, one thread, and processes that stand still until they are killed.
None depends on how fast the machine is, and none waits for ever: `timeout` in pyproject.toml ends a test, `LIMIT` a wait."""
import builtins, io, os, select, signal, traceback

os.environ.update(MPLBACKEND='Agg', OMP_NUM_THREADS='1')   # for child processes, too

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

# pytest's first process only deals out the tests, so what takes seconds to load (torch, fastai) is imported where it is used

LIMIT = 200   # seconds that a test waits for another process: much more than it takes, less than the `timeout` of a test

# the same examples everywhere and always, however slow they are
settings.register_profile('suite', deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('suite')

@pytest.fixture(autouse=True, scope='session')
def one_thread():
    import torch
    torch.set_num_threads(1)

# ratings

def ratings_of(n=300, seed=0, n_users=20, n_items=30, noise=0.4):
    "Ratings with something to learn in them: users with even numbers like the first half of items"
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users*n_items)[:n]
    u,i = pairs//n_items,pairs%n_items
    y = np.clip(3 + np.where((u%2==0)==(i<n_items/2), 1.5, -1.5) + rng.normal(0, noise, n), 1, 5).round()
    return pd.DataFrame(dict(user=u, item=[f'i{o}' for o in i], rating=y))

def choices_of(n=1500, seed=0, n_users=40, n_items=60):
    "Ratings that say nothing, of choices that do: users with even numbers choose mostly items with even numbers"
    rng = np.random.default_rng(seed)
    u,i = rng.integers(1, n_users+1, n),rng.integers(1, n_items+1, n)
    i = np.where(rng.random(n)<0.8, np.where((i-u)%2, i%n_items+1, i), i)
    df = pd.DataFrame(dict(user=u, item=[f'film {o:03}' for o in i])).drop_duplicates(ignore_index=True)
    return df.assign(rating=rng.integers(1, 6, len(df)).astype(float))

def ratings_by(s, n=500, seed=0, noise=0.3):
    "Ratings of random pairs by the surface `s`, with noise"
    rng = np.random.default_rng(seed)
    users,items = ([*o][1:] for o in s.classes.values())
    df = pd.DataFrame(dict(user=rng.choice(users, n), item=rng.choice(items, n))).drop_duplicates(ignore_index=True)
    p = s.pair_scores(s.vocab.rows(df.user, False), s.vocab.rows(df['item'])).numpy() + noise*rng.standard_normal(len(df))
    return df.assign(rating=np.clip(p, *(s.y_range or (-9,9))).round(2))

def shapes_of(seed=0):
    "Ratings of many kinds: name → table. Biases and two tastes, put on a scale"
    rng = np.random.default_rng(seed)
    def made(n, n_users, n_items, grade, head=0., taste=0.5):
        w = 1/(1+np.arange(n_items))**head
        u,i = rng.integers(n_users, size=n),rng.choice(n_items, n, p=w/w.sum())
        p,q = rng.normal(size=(n_users,2)),rng.normal(size=(n_items,2))
        z = 0.6*rng.normal(size=n_users)[u] + 0.5*rng.normal(size=n_items)[i] + taste*(p[u]*q[i]).sum(1) + 0.7*rng.normal(size=n)
        return pd.DataFrame(dict(user=u, item=i, rating=grade(z))).drop_duplicates(['user','item'], ignore_index=True)
    def stars(z): return np.clip(np.round(3.6+z), 1, 5)
    return {'stars':made(2000, 60, 80, stars), 'halves':made(2000, 60, 80, lambda z: np.clip(np.round(2*(3.5+z))/2, 0.5, 5)),
            '1 to 10':made(2000, 60, 80, lambda z: np.clip(np.round(7+2*z), 1, 10)), '0 to 100':made(1500, 500, 250, lambda z: np.clip(np.round(70+30*z), 0, 100)),
            '-10 to 10':made(2000, 100, 40, lambda z: np.clip(5*z, -10, 10)), 'two a user':made(1600, 800, 200, stars), 'one a user':made(1500, 1500, 150, stars),
            'heavy head':made(2000, 200, 200, stars, head=1.3), 'no taste':made(2000, 130, 130, stars, taste=0.), 'few':made(200, 30, 30, stars),
            'ten in all':made(10, 4, 4, stars)}

def loaders_of(df=None, bs=32, **kw):
    "`RatingsDataLoaders` of a table, or of `ratings_of(**kw)`"
    from collab_notes.data import RatingsDataLoaders
    return RatingsDataLoaders.from_df(ratings_of(**kw) if df is None else df, bs=bs, seed=0)

@pytest.fixture
def dls(): return loaders_of()

def drawn_not_rendered(monkeypatch):
    "Pictures are drawn, but not turned into dots, which takes most of a test's time"
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda self, to, **kwargs: to.write(b"\x89PNG"*500))

# models

def surface_of(users=20, items=30, k=3, seed=0, y_range=(0,5.5), sd=(1.,1.,1.,1.), names=('user','item')):
    "A surface of random numbers: user factors, item factors, user biases, item biases with standard deviations `sd`; ids 1, 2 … where only their number is given"
    import torch
    from collab_notes.core import Surface
    users,items = (range(1, o+1) if isinstance(o, int) else o for o in (users,items))
    g,(n,m) = torch.Generator().manual_seed(seed),(len(users)+1,len(items)+1)
    parts = [torch.randn(*size, generator=g)*o for size,o in zip(((n,k),(m,k),(n,),(m,)), sd)]
    return Surface(*parts, dict(zip(names, (('#na#',*users),('#na#',*items)))), y_range)

@pytest.fixture(scope='module')
def chosen():
    "Choices by taste, their split and loaders, a model for ratings and one for lists"
    from types import SimpleNamespace
    from collab_notes.data import RatingsDataLoaders, stratified_split
    from collab_notes.ranking import fit_ranking
    from collab_notes.training import fit
    df = choices_of()
    split = stratified_split(df, seed=1)
    dls = RatingsDataLoaders.from_df(df, splits=split, seed=0)
    return SimpleNamespace(
        ratings=df, split=split, train=df.iloc[split[0]], valid=df.iloc[split[1]], dls=dls,
        learn=fit(dls, 2, seed=0, n_factors=4, progress=False),
        ranked=fit_ranking(dls, 20, seed=0, n_factors=8, progress=False, bs=8))

def of_chosen(name):
    "A part of `chosen` as a fixture of a test file"
    return pytest.fixture(lambda chosen: getattr(chosen, name), scope='module', name=name)

def weights(model): return {k:v.detach().clone() for k,v in model.state_dict().items()}

def same_weights(a, b):
    import torch
    return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def values(learn):
    "Losses and metrics of each epoch"
    return [list(o) for o in learn.recorder.values]

# processes that stand still

can_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='kills a forked process')

class Child:
    """A forked process that runs `f(at)`. Each `at('where')` in it tells us and stands still until we ask for the next:

        with Child(f) as c:
            for where in c:                   # it stands still while we look
                if where=='here': c.kill()    # and the loop ends

    `code` is its exit code: -9 if it was killed, 0 if `f` came to its end. It doesn't outlive the `with`"""
    def __init__(self, f): self.f,self.pid,self.code,self.told = f,None,None,[]

    def __enter__(self):
        (self.news,told),(go,self.go) = os.pipe(),os.pipe()
        if pid := os.fork():
            self.pid = pid
            for o in (told,go): os.close(o)
            return self
        code = 1
        try:
            for o in (self.news,self.go): os.close(o)
            def at(where):
                os.write(told, where.encode()+b'\n')
                if not os.read(go, 1): os._exit(1)   # whoever asked for us has gone
            self.f(at)
            code = 0
        except BaseException: os.write(2, traceback.format_exc().encode())
        finally: os._exit(code)

    def __iter__(self):
        while self.code is None:
            if not select.select([self.news], [], [], LIMIT)[0]: raise TimeoutError(f'Nothing for {LIMIT} s after {self.told[-3:]}')
            where = os.read(self.news, 4096).decode().strip()
            if not where: return self._ended()
            self.told.append(where)
            yield where
            if self.code is None: os.write(self.go, b'.')

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def _ended(self): self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def __exit__(self, *args):
        if self.code is None: self.kill()
        for o in (self.news,self.go): os.close(o)

def stops_in_files(at):
    "From now on, this process stops when it has opened a file to write bytes, half-way through each write, before and after each `fsync` and `replace`"
    def around(name, was):
        def f(*args, **kwargs):
            at(f'before {name}')
            res = was(*args, **kwargs)
            at(f'after {name}')
            return res
        setattr(os, name, f)
    for o in ('fsync','replace'): around(o, getattr(os, o))
    def opened(file, mode='r', *args, was=open, **kwargs):
        f = was(file, mode, *args, **kwargs)
        if 'b' in mode and set(mode) & set('wxa'):
            at('opened')
            whole = f.write
            def write(b):
                half = len(b)//2
                n = whole(b[:half])
                f.flush()
                at('half written')
                return n+whole(b[half:])
            f.write = write
        return f
    builtins.open = io.open = opened

@pytest.fixture(scope='session')
def start():
    "Start code in a process of its own, forked from one that has the modules loaded, so that it starts at once. What is still there in the end is killed"
    import multiprocessing
    ctx = multiprocessing.get_context('forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn')
    ctx.set_forkserver_preload(['collab_notes.training', 'torch._dynamo', 'matplotlib.backends.backend_agg'])
    ps = []
    def f(code, **names):
        p = ctx.Process(target=exec, args=(code, {'__name__':'child', **names}), daemon=True)
        p.start()
        ps.append(p)
        return p
    yield f
    for p in ps: p.kill()
