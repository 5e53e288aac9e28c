"""A saved model: the same when it comes back, whole whenever its writer is killed, refused when
anything about it is wrong, and never unpickled."""
import datetime as dt, hashlib, json, os, pickle, random, shutil, stat, sys, time, zipfile
from copy import deepcopy
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import safetensors.torch as st
import torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.learner import Learner, load_learner
from hypothesis import given, settings, strategies as hs

import collab_notes.files as files
from collab_notes.bayes import BayesianPMF
from collab_notes.coldstart import new_item, new_user
from collab_notes.newcomers import add_item, add_user
from collab_notes.core import TENSORS, LayeredNet, Surface, as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.deep import CollabNN, HybridDot, hybrid_model, nn_learner
from collab_notes.errors import (
    BadRatingError, CorruptFileError, ForeignFileError, ModelFileError, OtherFormatError, SettingError,
    TruncatedFileError, UnsavableError, UnseenIdError, UnsoundModelError)
from collab_notes.ials import ImplicitALS
from collab_notes.files import load, pack_classes, read_tensors, save, write_tensors
from collab_notes.overall import rating_counts
from collab_notes.lists import recommend
from collab_notes.models import DotProduct, DotProductBias, DotProductBiasParams
from collab_notes.protocol import Model
from collab_notes.ranking import EASE, Blend, Popularity, RankDot, fit_ranking
from collab_notes.ridge import ItemRidge
from collab_notes.topn import top_rows
from collab_notes.training import fit
from collab_notes.vocab import History
from conftest import Child, can_fork, ratings_of, stops_in_files, surface_of

def a_surface(n=7, m=5, k=3, seed=0, dtype=torch.float32, users=None, items=None, y_range=(0,5.5)):
    items = items or [f'i{o} é' for o in range(1, m)]
    s = surface_of(users or n-1, items, k, seed, y_range, names=('user','film'))
    return s.replace(**{o:getattr(s, o).to(dtype) for o in TENSORS})

def same_ids(a, b):
    typed = lambda classes: [(type(k), k, [(type(o), repr(o)) for o in v])
                             for k,v in classes.items()]
    assert a.classes==b.classes and typed(a.classes)==typed(b.classes)

def same_history(a, b):
    assert (a is None)==(b is None)
    for k in ('pairs','ratings','held_out') if a is not None else ():
        x,y = getattr(a, k),getattr(b, k)
        assert x is y is None or (x.dtype==y.dtype and torch.equal(x, y))

def same(a, b):
    "Two surfaces, bit by bit"
    for o in TENSORS:
        x,y = getattr(a, o),getattr(b, o)
        assert x.dtype==y.dtype and torch.equal(x, y)
    same_ids(a, b)
    assert (a.y_range,a.rates)==(b.y_range,b.rates)
    same_scores(a, b)

def same_scores(a, b):
    us,js = torch.arange(a.vocab.n_users),torch.arange(a.vocab.n_items)
    assert torch.equal(a.pair_scores(us[:,None], js), b.pair_scores(us[:,None], js))
    assert torch.equal(a.scores(us), b.scores(us))

def same_model(a, b):
    "Two models of any kind"
    assert type(a) is type(b) and a.rates is b.rates
    same_ids(a, b)
    same_history(a.history, b.history)
    same_scores(a, b)

def there_and_back(o, path, **kw):
    "Saved and loaded; saved once more it is the same file"
    got = load(save(o, path, **kw))
    raw = path.read_bytes()
    assert save(got, path).read_bytes()==raw
    return got

@pytest.fixture
def path(tmp_path): return tmp_path/'m.safetensors'

@pytest.fixture(scope='module')
def table():
    df = ratings_of(150, n_items=15)
    film = df['item'].str.replace('i', 'f')
    return pd.DataFrame(dict(user=df.user+100, film=film, rating=df.rating.astype(int)))

@pytest.fixture(scope='module')
def dls(table): return RatingsDataLoaders.from_df(table, user_name='user', item_name='film', seed=1)

@pytest.fixture(scope='module')
def learn(dls): return fit(dls, n_epoch=1, n_factors=4, progress=False)

@pytest.fixture(scope='module')
def bayes(dls):
    m = BayesianPMF(n_factors=2, likelihood='gaussian', implicit=False, n_sweeps=6, burn_in=3,
                    seed=1)
    return m.fit(dls, progress=False)

class Odds(Model):
    "A kind of one's own, whose state has one of each"
    rates = False
    def __init__(self, data, **kw):
        super().__init__(data, item_name='film')
        vars(self).update(kw)
    def scores(self, users, items=None):
        x = self.history.counts().float().repeat(len(users), 1)
        return x if items is None else x[:,items]

# there and back

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('y_range', [(0,5.5), (0.1,1/3), None])
def test_round_trip(path, dtype, y_range):
    s = a_surface(dtype=dtype, y_range=y_range)
    before = [getattr(s, o).clone() for o in TENSORS]
    assert save(s, path)==path
    got = load(path)
    same(s, got)
    assert type(got) is Surface and got.history is None and got.about=={}
    assert all(torch.equal(a, getattr(s, o)) for a,o in zip(before, TENSORS))
    assert y_range is None or list(map(type, got.y_range))==list(map(type, y_range))
    assert s.save(path.with_name('2')).read_bytes()==path.read_bytes()

@pytest.mark.parametrize('make', [DotProduct, DotProductBias, DotProductBiasParams, HybridDot])
def test_models_of_the_book(path, dls, make):
    model = make.from_dls(dls, 4)
    same(as_model(model), load(save(model, path)))
    same(as_model(model, dls), load(save(model, path, history=dls)))   # as any verb takes it

def test_fastais_own_learner_and_ours(path, table, dls, learn):
    stock = collab_learner(CollabDataLoaders.from_df(table, item_name='film', seed=1), n_factors=4,
                           y_range=(0,5.5))
    for o in (stock,learn):
        s = there_and_back(o, path, history=True)
        same(as_model(o), s)
        same_history(as_model(o).history, s.history)
        assert rating_counts(s).ratings.tolist()==rating_counts(o).ratings.tolist()
        pairs = s.history.pairs
        assert torch.equal(top_rows(s, exclude=pairs)[0], top_rows(o, exclude=pairs)[0])
        pd.testing.assert_frame_equal(recommend(s, n=4), recommend(o, n=4))

def test_an_exported_learner(path, tmp_path, dls, learn):
    learn.export(tmp_path/'learn.pkl')
    alone = load_learner(tmp_path/'learn.pkl')
    with pytest.raises(SettingError, match='exported Learner.*give history='):
        save(alone, path, history=True)
    assert not path.exists()
    got = load(save(alone, path))
    assert got.history is None and torch.equal(got.item_factors[1:], alone.model.item_factors[1:])
    same_model(as_model(learn), load(save(alone, path, history=dls)))

def test_the_bayesian_model(path, bayes, table):
    "With its samples: it still says how sure it is"
    got = there_and_back(bayes, path, note='x')
    same_model(bayes, got)
    pd.testing.assert_frame_equal(got.predict(table), bayes.predict(table))
    assert 'std' in got.predict(table) and got.about==dict(note='x')
    same(bayes.as_surface(), load(save(bayes.as_surface(), path)))

def test_ease(path, table):
    o = EASE(table, reg=3., item_name='film')
    got = there_and_back(o, path, note='x')
    same_model(o, got)
    assert torch.equal(got.weights, o.weights) and (got.reg,got.about)==(3.,dict(note='x'))
    pd.testing.assert_frame_equal(recommend(got), recommend(o))
    raw = path.read_bytes()
    with pytest.raises(SettingError, match='EASE.*always holds'): save(o, path, history=False)
    o.weights[1,2] = torch.nan
    with pytest.raises(UnsoundModelError, match='weights: 1 of'): save(o, path)
    assert path.read_bytes()==raw
    few = load(save(got, path, history=table[:40]))   # other choices, the same weights
    assert len(few.history)==40 and torch.equal(few.weights, got.weights)

def test_popularity(path, dls):
    h = History.of(dls)
    for o in (Popularity(h), Popularity(History.of(h.table()[['user','film']], h.vocab))):
        got = there_and_back(o, path)
        same_model(o, got)
        pd.testing.assert_frame_equal(recommend(got), recommend(o))
    assert got.history.ratings is None   # only who chose what

def test_the_model_for_lists(path, dls):
    model = RankDot.from_dls(dls, 3)
    same(as_model(model), load(save(model, path)))
    assert load(path).rates is False and 'score' in recommend(load(path), exclude=None)

def test_a_kind_of_ones_own(path, table):
    t = torch.arange(6).view(2, 3)
    own = dict(t=t, yes=torch.tensor([True,False]), one=torch.tensor(2.), empty=torch.zeros(0, 4),
               views=[t.T, t[:,1:], t], pair=(1,(2.5,'é')), none=None, no=False, big=10**30,
               more={'a':{'b':t+1}, 'a.b':t+2, 'vocab':t+3, 'header':t+4, 'tensor':'x'},
               x=np.arange(3, dtype=np.float32), n=np.float64(0.5), header=t+5)
    h = History.of(table, item_name='film')
    o = Odds(table, **own, part=Popularity(h), parts=[Popularity(h),EASE(h, 3.)])
    got = there_and_back(o, path)
    same_model(o, got)
    def equal(a, b):
        if isinstance(a, dict): return a.keys()==b.keys() and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, (list,tuple)): return type(a) is type(b) and all(map(equal, a, b))
        if isinstance(a, torch.Tensor): return a.dtype==b.dtype and torch.equal(a, b)
        if isinstance(a, np.ndarray): return a.dtype==b.dtype and (a==b).all()
        return a==b and (type(a) is type(b) or isinstance(a, np.generic))
    assert all(equal(v, vars(got)[k]) for k,v in own.items())
    for a,b in zip([o.part,*o.parts], [got.part,*got.parts]): same_model(a, b)
    assert got.part.history is got.history is got.parts[1].history
    assert sum('pairs' in k for k in read_tensors(path)[1])==1   # which the file holds once

@pytest.mark.parametrize('part,says', [
    (dict(x=object()), 'x: a file.*object'), (dict(x=[{1}]), 'x.0: a file.*set'),
    (dict(x={1:2}), 'dict'), (dict(x=float('nan')), 'nan'), (dict(x=np.float32('inf')), 'inf'),
    (dict(x=np.array(['a'])), 'ndarray'), (dict(x=np.arange(3, dtype='>i4')), 'ndarray'),
    (dict(x=torch.eye(2).to_sparse()), 'plain tensors'), (dict(x=torch.ones(1)*1j), 'real'),
    (dict(x=torch.tensor([1,torch.inf])), 'not finite'), (dict(scores=1), 'scores'),
    (dict(_x=1), '_x'), (dict(about=1), 'about'), (dict(rates='yes'), 'whether')], ids=range(14))
def test_what_a_state_cannot_hold(path, table, part, says):
    class Own(Odds):
        def state(self): return part
    o = Own(table)
    o.rates = part.get('rates', False)
    with pytest.raises((UnsavableError,UnsoundModelError), match=says): save(o, path)
    assert not path.exists()

def test_each_kind_has_a_home():
    "A file can be loaded before the chapter that defines its kind has been imported"
    for k,v in files._HOMES.items():
        assert getattr(import_module(f'collab_notes.{v}'), k) is Model.kinds[k]
    ours = {k:v.__module__ for k,v in Model.kinds.items() if v.__module__[:13]=='collab_notes.'}
    rest = {v for k,v in ours.items() if k not in files._HOMES}
    assert rest <= {'collab_notes.surface','collab_notes.core','collab_notes.matrix'}   # the latter for tests

def test_a_model_with_a_newcomer(path, learn):
    save(learn, path, history=True)
    for m in (learn, load(path)):
        more = add_user(m, 777, new_user(m, {'f1':5., 'f2':1.}))
        got = there_and_back(more, path)
        same_model(more, got)
        assert got.vocab.rows([777], is_item=False).tolist()==[21]
        assert len(got.history)==len(as_model(learn).history)+2
        df = recommend(got, 777, n=99)
        assert df.film.tolist()==recommend(more, 777, n=99).film.tolist()
        assert len(df)==13 and not {'f1','f2'} & set(df.film)   # which they have rated
    item = add_item(got, 'f99', new_item(got, {777:4., 101:2.}))
    same_model(item, there_and_back(item, path))
    assert load(path).history.table().tail(2).values.tolist()==[[777,'f99',4.],[101,'f99',2.]]

@pytest.mark.parametrize('kind', ['ease','popularity','blend','net','ridge','ials'])
def test_newcomers_of_other_kinds(path, dls, learn, kind):
    make = dict(ease=lambda: EASE(dls, 3.), popularity=lambda: Popularity(dls),
                blend=lambda: Blend([learn,EASE(dls, 3.)], [1,1]),
                net=lambda: as_model(nn_learner(dls, [4], [2,2])),
                ridge=lambda: ItemRidge(dls, some_facts(History.of(dls)), 3.),
                ials=lambda: ImplicitALS(dls, 2, n_sweeps=2, n_models=2))
    m = load(save(make[kind](), path))
    got = there_and_back(add_user(m, 777, m.new_user({'f1':5., 'f2':1.})), path)
    assert len(got.history)==len(m.history)+2
    assert not {'f1','f2'} & set(recommend(got, 777, n=99).film)
    assert len(recommend(got, 777, n=99))==13

def test_tensors_that_share_or_skip_memory(path):
    s = a_surface(n=6, m=6)
    odd = s.replace(user_factors=s.user_factors.T.contiguous().T, item_factors=s.user_factors,
                    item_bias=s.user_bias, y_range=None)
    same(odd, load(save(odd, path)))

NETS = dict(
    plain=lambda d: CollabNN.from_dls(d, [3,2]),
    no_range=lambda d: CollabNN.from_dls(d, [3,2], y_range=None), hybrid=lambda d: a_hybrid(d),
    stock=lambda d: collab_learner(d, use_nn=True, emb_szs={'user':3,'film':2}, layers=[6,4],
                                   y_range=(0,5.5)),
    drop=lambda d: nn_learner(d, [6], [2,4], config=dict(ps=[0.3], embed_p=0.1, bn_final=True)),
    late=lambda d: nn_learner(d, [6,5], config=dict(lin_first=False, act_cls=torch.nn.Tanh())),
    no_norm=lambda d: nn_learner(d, [6], config=dict(use_bn=False)))

def a_hybrid(dls):
    side = pd.DataFrame(dict(user=list(dls.classes['user'])[1:])).assign(age=np.arange(20))
    res = hybrid_model(dls, users=side, layers=[4,3], n_factors=3, p=0.2)
    torch.nn.init.normal_(res.layers[-1].weight)
    return res

@pytest.mark.parametrize('kind', NETS)
def test_nets(path, dls, table, kind):
    net = NETS[kind](dls)
    if isinstance(net, Learner):   # so that batch norm has seen something
        with net.no_bar(), net.no_logging(): net.fit(1)
    got,was = there_and_back(net, path, history=dls, note='x'),as_model(net, dls)
    assert type(got) is LayeredNet and got.about==dict(note='x') and len(got.history)==len(table)
    same_model(was, got)
    pd.testing.assert_frame_equal(recommend(got, n=3), recommend(was, n=3))
    assert load(save(got, path, history=False)).history is None

def test_nets_that_a_file_cannot_keep(path, dls):
    class Twice(CollabNN):
        def forward(self, x): return 2*super().forward(x)
    class Odd(torch.nn.Module):
        classes = dls.classes
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))
        def forward(self, x): return x.sum(1)*self.w
    class Object:
        def predict(self, users, items): return np.ones(len(users))
    hooked = CollabNN.from_dls(dls)
    hooked.register_forward_hook(lambda m, x, y: y+1)
    gelu = nn_learner(dls, [6], config=dict(act_cls=torch.nn.GELU()))
    for o in (Twice.from_dls(dls), Odd(), hooked, gelu):
        with pytest.raises(UnsavableError, match='learn.export.*pickle'): save(o, path)
    with pytest.raises(UnsavableError, match="can't keep a Object"):
        save(as_model(Object(), dls), path)
    with pytest.raises(UnsavableError, match='another make'):   # nor one with such a part
        save(Blend([as_model(Odd(), dls), EASE(dls, 3.)], [1,1]), path)
    bad = CollabNN.from_dls(dls)
    torch.nn.init.constant_(bad.layers[0].bias, torch.nan)
    with pytest.raises(UnsoundModelError, match='not finite'): save(bad, path)
    assert not path.exists()

def test_blends(path, dls, learn, table, bayes):
    rank = fit_ranking(dls, n_epoch=1, progress=False)
    inner = Blend([EASE(dls, 3.), NETS['stock'](dls)], [1.5,0.25])
    back = load(save(learn, path, history=True))
    for o in (Blend([learn, rank, EASE(dls, 3.)], [0.5,1,-2]), inner,
              Blend([inner, rank, back, Popularity(dls), bayes], [1,1,1,0.01,2]),
              Blend([as_model(learn).without_history()], [1.])):
        got = there_and_back(o, path, note='x')
        same_model(o, got)
        assert got.weights==o.weights and got.about==dict(note='x')
        for a,b in zip(o.parts, got.parts): same_model(a, b)
        how = dict(exclude='history' if o.history is not None else None)
        pd.testing.assert_frame_equal(recommend(got, **how), recommend(o, **how))
        n = sum(k.endswith('pairs') for k in read_tensors(path)[1])
        assert n==(o.history is not None)   # what all parts know is there once
    few = load(save(Blend([learn,EASE(dls, 3.)], [1,1]), path, history=table[:50]))
    assert [len(m.history) for m in (few,*few.parts)]==[50]*3
    with pytest.raises(SettingError, match='Blend'): save(inner, path, history=False)
    assert load(save(Blend([learn,Popularity(dls)], [1,1]), path, history=False)).history is None
    raw,ease = path.read_bytes(),EASE(dls, 3.)
    ease.weights[1,2] = torch.nan
    with pytest.raises(UnsoundModelError, match='parts.1 is not fit.*weights: 1'):
        save(Blend([learn,ease], [1,1]), path)
    assert path.read_bytes()==raw

def test_parts_that_know_different_things(path, table):
    s = a_surface()
    some = pd.DataFrame(dict(user=[1,2,3], film=['i1 é','i2 é','i3 é'], rating=[1.,2.,3.]))
    o = Blend([s.with_history(some), s, s.with_history(some[:2])], [1,1,1])
    got = there_and_back(o, path)
    same_model(o, got)
    lens = [m.history and len(m.history) for m in (got,*got.parts)]
    assert lens==[3,3,None,2] and got.parts[0].history is got.history

# ids

many_ids = dict(
    int=[1,-5,2**70], str=['1','é \u2028 "\\','\ud800','','0'*64], float=[0.1,-0.0,1e-308,1.5],
    bool=[True,False], np_int=[np.int64(3),np.int8(4),np.uint64(2**63)],
    np_float=[np.float32(0.1),np.float64(0.2),np.float16(0.5)], np_str=[np.str_('a'),np.str_('é')],
    stamps=[pd.Timestamp('2020-01-01'), pd.Timestamp('2020-01-01 00:00:00.000000001'),
            pd.Timestamp('2020-01-01').as_unit('s')+pd.Timedelta(days=1),
            pd.Timestamp('2020-10-25 02:30', tz='UTC').tz_convert('Europe/Berlin')],
    dates=[dt.date(2020,1,1),dt.date(1,1,1)],
    datetimes=[dt.datetime(2020,1,1,1,2,3,4),
               dt.datetime(2020,1,2,tzinfo=dt.timezone(dt.timedelta(hours=2)))],
    mixed=[1,'1',2.5,np.int64(7),pd.Timestamp('2020-01-01')])

@pytest.mark.parametrize('kind', many_ids)
def test_ids_keep_their_types(path, kind):
    s = a_surface(users=tuple(many_ids[kind]))
    got = load(save(s, path))
    same(s, got)
    assert got.vocab.rows([many_ids[kind][0]], is_item=False).tolist()==[1]

ids = hs.one_of(
    hs.integers(), hs.text(), hs.floats(allow_nan=False, allow_infinity=False), hs.dates(),
    hs.datetimes().map(lambda o: o.replace(fold=0)), hs.integers(-9,9).map(np.int32),
    hs.datetimes(dt.datetime(1700,1,1), dt.datetime(2200,1,1)).map(pd.Timestamp))
@given(hs.lists(ids, min_size=1, max_size=20, unique=True))
@settings(max_examples=100)
def test_any_ids_survive(ids):
    got = files._unpack_classes(pack_classes({'u':('#na#',*ids), 5:('#na#','x')}))
    assert list(got)==['u',5] and list(map(repr, got['u']))==list(map(repr, ('#na#',*ids)))
    assert [type(o) for o in got['u'][1:]]==[type(o) for o in ids]

@pytest.mark.parametrize('id,says', [
    ((1,2), 'tuple.*astype'), (None, 'NoneType'), (b'x', 'bytes'), (float('nan'), 'missing|finite'),
    (float('inf'), 'finite'), (np.float32('nan'), 'missing|finite'), (pd.NaT, 'NaT|missing'),
    (np.datetime64('2020'), 'datetime64')], ids=range(8))
def test_ids_that_cannot_be_kept(path, id, says):
    with pytest.raises((UnsavableError,UnsoundModelError), match=says):
        save(a_surface(users=(1, id)), path)
    assert not path.exists()

def test_many_ids(path):
    films = tuple(f'A film of a longish name ({o})' for o in range(59_000))
    s = a_surface(k=1, users=tuple(range(162_000)), items=films)
    assert load(save(s, path)).classes==s.classes
    assert path.read_bytes().index(b'}}') < 5000   # they are not in the header

# what comes with a model

def test_same_model_same_bytes(path, tmp_path):
    s,more = a_surface(),dict(a=1, b=dict(c=[2, None, True, 'é']))
    save(s, path, **more)
    again = save(load(path), tmp_path/'again')
    assert again.read_bytes()==path.read_bytes()==save(s, tmp_path/'third', **more).read_bytes()
    assert load(save(load(path), path, a=3)).about=={**more, 'a':3}

def test_settings(path):
    save(a_surface(), path, n=np.int64(3), x=np.float32(0.5), t=(1,2), zeros='0'*64)
    assert load(path).about==dict(n=3, x=0.5, t=[1,2], zeros='0'*64)
    deep = []
    for _ in range(99_999): deep = [deep]
    for bad in (object(), float('nan'), {1,2}, 'x'*10**6, np.float32('inf'), deep):
        with pytest.raises(UnsavableError): save(a_surface(), path, x=bad)
    assert load(path).about['n']==3

def test_history(path, table, dls):
    model = DotProductBias.from_dls(dls, 3)
    save(model, path)
    assert load(path).history is None
    h = load(save(model, path, history=dls)).history
    both = pd.concat([h.table(), h.table(held_out=True)]).astype({'rating':int})
    both = both.sort_values(['user','film'])
    assert (both.values==table.sort_values(['user','film']).values).all()
    assert (len(h.table()),len(h.table(held_out=True)))==(120,30)
    m = load(save(model, path, history=table[:50]))
    h = m.history
    assert (h.table().values==table[:50].values).all() and len(h.table(held_out=True))==0
    assert len(load(save(m, path)).history)==len(load(save(m, path, history=True)).history)==50
    assert load(save(m, path, history=False)).history is None
    assert len(load(save(model, path, history=table[:0])).history)==0
    chosen = load(save(model, path, history=table[['user','film']])).history   # not how they rated
    assert chosen.ratings is None and chosen.table().equals(table[['user','film']])

def test_histories_that_are_refused(path, table, dls):
    model = DotProductBias.from_dls(dls, 3)
    other = RatingsDataLoaders.from_df(table.assign(user=table.user+1), item_name='film', seed=1)
    nan = table.assign(rating=table.rating.where(table.index>0))
    for error,says,h in (
            (UnseenIdError, "'new'", pd.concat([table, table[:1].assign(film='new')])),
            (SettingError, 'Learner', True), (SettingError, '.', [1]), (SettingError, 'str', 'x'),
            (SettingError, 'other ids', other), (BadRatingError, 'finite', nan),
            (SettingError, 'rows', [[1,99]]), (SettingError, 'rows', [[0,1]])):
        with pytest.raises(error, match=says): save(model, path, history=h)
    m = as_model(model, history=table)
    m.history.ratings[0] = torch.nan
    with pytest.raises(UnsoundModelError, match='finite'): save(m, path)   # nor its own
    assert not path.exists()

def test_folders_and_missing_files(tmp_path):
    assert save(a_surface(), tmp_path)==tmp_path/'model.safetensors' and load(str(tmp_path))
    same(as_model(str(tmp_path)), a_surface())
    with pytest.raises(FileNotFoundError, match='nowhere'): load(tmp_path/'nowhere')
    with pytest.raises(OSError): save(a_surface(), tmp_path/'no'/'such'/'folder')

def test_every_reader_of_safetensors_opens_it(path):
    s = a_surface()
    ts = st.load_file(save(s, path))
    assert all(torch.equal(ts[o], getattr(s, o)) for o in TENSORS)
    assert sorted(ts)==sorted([*TENSORS,'vocab'])

# refused

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole')/'m.safetensors'
    few = pd.DataFrame(dict(user=[1,2], film=['i1 é','i2 é'], rating=[3,4.]))
    return save(a_surface(n=4, m=3, k=2), path, history=few, note='é').read_bytes()

def refusal(path, raw=None):
    if raw is not None: path.write_bytes(raw)
    with pytest.raises(ModelFileError) as e: load(path)
    assert path.name in str(e.value) and '\n' not in str(e.value)
    return type(e.value)

def test_cut_anywhere(path, whole):
    path.write_bytes(whole)
    for n in range(len(whole)-1, -1, -1):
        os.truncate(path, n)
        with pytest.raises(TruncatedFileError): load(path)

def test_a_bit_flipped_anywhere(path, whole):
    rng,kinds = random.Random(0),{}
    path.write_bytes(whole)
    with open(path, 'r+b', buffering=0) as f:
        for at,o in enumerate(whole):
            f.seek(at), f.write(bytes([o ^ 1<<rng.randrange(8)]))
            with pytest.raises(ModelFileError) as e: load(path)
            kinds.setdefault(e.type, []).append(at)
            f.seek(at), f.write(bytes([o]))
    assert load(path)
    start = 8+len(files._START)
    assert kinds[ForeignFileError]==list(range(8, start))
    assert set(kinds) <= {ForeignFileError, CorruptFileError, TruncatedFileError}
    # a wrong length may look like a missing end
    assert max(kinds.get(TruncatedFileError, [0])) < 8
    assert len(kinds[CorruptFileError]) > 0.9*(len(whole)-start)

@given(hs.data())
@settings(max_examples=200)
def test_edited_anyhow(whole, tmp_path_factory, data):
    path,raw = tmp_path_factory.getbasetemp()/'edited',bytearray(whole)
    a = data.draw(hs.integers(0, len(raw)))
    b = data.draw(hs.integers(a, min(len(raw), a+20)))
    raw[a:b] = data.draw(hs.binary(max_size=20))
    if raw!=whole: refusal(path, raw)

def test_damage_is_located(path, whole):
    head = json.loads(whole[8:8+int.from_bytes(whole[:8], 'little')])
    ends = {v['data_offsets'][1]:k for k,v in head.items() if k!='__metadata__'}
    path.write_bytes(whole[:-1]+bytes([whole[-1]^1]))
    with pytest.raises(CorruptFileError, match=ends[max(ends)]): load(path)

@pytest.mark.parametrize('raw', [
    b'user,item,rating\n1,a,5\n', b'\x93NUMPY\x01\x00'+b'x'*99, b'PK\x03\x04'+b'x'*99,
    b'PAR1'+b'x'*99, st.save({'x':torch.ones(3)}), st.save({'x':torch.ones(3)}, {'format':'pt'}),
    st.save({o:torch.ones(2) for o in TENSORS}), pickle.dumps([1]*99), b'{"a":1}'*9,
    bytes(range(1, 9))+b'x'*99], ids=range(10))
def test_foreign_files(path, raw): assert refusal(path, raw) is ForeignFileError

def test_files_of_ours_that_hold_no_model(path):
    for kind in ('checkpoint','Surface'):
        write_tensors(path, kind, dict(x=torch.ones(2)), dict(run='{}'))
        assert refusal(path) is ForeignFileError
    _,ts,meta = read_tensors(save(a_surface(), path))
    assert refusal(write_tensors(path, 'checkpoint', ts, meta)) is ForeignFileError
    assert refusal(write_tensors(path, 'Surface', ts, [meta])) is ForeignFileError
    for kind,error in (('EASE',UnsoundModelError), ('NetModel',UnsoundModelError),
                       ('os.system',OtherFormatError), ('Model',OtherFormatError)):
        assert refusal(write_tensors(path, kind, ts, {**meta, 'model':kind})) is error

def test_a_large_foreign_file_is_not_read(path):
    "A terabyte, of which nothing is on the disk: who reads it runs out of memory or of time"
    with open(path, 'wb') as f: f.truncate(2**40)
    with pytest.raises(ForeignFileError): load(path)

def resealed(raw, edit=lambda o: o, around=lambda o: o):
    "A file whose header was edited (its own text, or all of it), with a checksum that is right"
    n = 8+int.from_bytes(raw[:8], 'little')
    head = json.loads(raw[8:n])
    text = head['__metadata__']['collab_notes']
    own = json.loads(text)['checksums']['header']
    head['__metadata__']['collab_notes'] = edit(text.replace(own, '0'*64))
    new = around(json.dumps(head, separators=(',',':'))).encode()
    new += b' '*(-len(new)%8)
    start = len(new).to_bytes(8, 'little')+new
    return start.replace(b'0'*64, hashlib.sha256(start).hexdigest().encode(), 1)+raw[n:]

def test_other_formats(path, whole):
    assert resealed(whole)==whole
    for n in (1,3,99,True,None,'x',[2]):
        edit = lambda o: o.replace('"format": 2', f'"format": {json.dumps(n)}')
        path.write_bytes(resealed(whole, edit))
        with pytest.raises(OtherFormatError, match='written by collab-notes .*format 2'): load(path)
    assert refusal(path, resealed(whole, edit)[:-5]) is OtherFormatError   # whatever else it holds
    assert refusal(path, resealed(whole, lambda o: o.replace('"format": 2, ', ''))) is \
        OtherFormatError

@pytest.mark.parametrize('edit', [
    lambda o: '['*100_000, lambda o: '5', lambda o: 'x', lambda o: o.replace('"checksums"', '"x"'),
    lambda o: o.replace('"kind"', '"x"'), lambda o: o.replace('"meta"', '"x"'),
    lambda o: o.replace('"kind": "Surface"', '"kind": ["Surface"]'),
    lambda o: o.replace('"model": "Surface"', '"model": '+'['*50_000+']'*50_000),
    lambda o: o.replace('5.5', '1e999'), lambda o: o.replace('5.5', 'NaN'),
    lambda o: o.replace('5.5', '1'*5000), lambda o: o.replace('5.5', '9'*400)], ids=range(12))
def test_headers_made_up(path, whole, edit): refusal(path, resealed(whole, edit))

@pytest.mark.parametrize('around', [
    lambda o: o[:-1]+',"x":'+'['*100_000+']'*100_000+'}', lambda o: o[:-1]+',"x":5}',
    lambda o: o.replace('"shape":[4]', '"shape":[5]'), lambda o: o.replace('"F32"', '"F99"'),
    lambda o: o.replace('"F32"', '"F8_E4M3"'), lambda o: o.replace('data_offsets', 'offsets'),
    lambda o: o.replace('"data_offsets":[', '"data_offsets":[-'),
    lambda o: o.replace('"data_offsets":[', '"data_offsets":[1e400,'),
    lambda o: o.replace('"item_bias"', '"item_bios"')], ids=range(9))
def test_frames_made_up(path, whole, around): refusal(path, resealed(whole, around=around))

def forged(path, m, meta={}, tensors={}, without=()):
    "The file of `m` with other things in it, by the way to them, and checksums that are right"
    kind,ts,flat = read_tensors(save(m, path))
    for where,v in meta.items():
        *way,last = [int(o) if o.isdigit() else o for o in where.split('/')]
        o = flat
        for k in way: o = o[k]
        if v is ...: del o[last]
        else: o[last] = v
    ts = {**{k:t for k,t in ts.items() if k not in without}, **tensors}
    return write_tensors(path, kind, ts, flat)

as_bytes = lambda o: torch.frombuffer(bytearray(o), dtype=torch.uint8)
as_ids = lambda *columns: dict(tensors=dict(vocab=as_bytes(json.dumps(columns).encode())))
column = lambda name, *runs: [[['str',[name]]], [['str',['#na#']], *map(list, runs)]]
users,films = column('u', ('int',[1,2,3,4,5,6])),column('i', ('str',[*'abcd']))
i32 = lambda *rows: torch.tensor(rows, dtype=torch.int32)
deep = 'x'
for _ in range(300): deep = dict(dict=dict(a=deep))

unsound = dict(
    sound=as_ids(users, films), nan=dict(tensors=dict(item_bias=torch.tensor([0,1,torch.nan,0,0]))),
    inf=dict(tensors=dict(user_bias=torch.full((7,), torch.inf))),
    rows=dict(tensors=dict(user_bias=torch.zeros(6))),
    factors=dict(tensors=dict(item_factors=torch.zeros(5, 4))),
    no_factors=dict(tensors=dict(user_factors=torch.zeros(7, 0), item_factors=torch.zeros(5, 0))),
    ints=dict(tensors=dict(item_bias=torch.zeros(5).int())),
    types=dict(tensors=dict(item_bias=torch.zeros(5).double())),
    dims=dict(tensors=dict(user_factors=torch.zeros(7))), missing=dict(without=['item_factors']),
    a_list=dict(meta={'state/user_bias':[0.]*7}), no_part=dict(meta={'state/user_bias':...}),
    array=dict(meta={'state/user_bias':dict(array='user_bias')}),
    y_range=dict(meta={'state/y_range':[5,1]}), y_range_text=dict(meta={'state/y_range':'ab'}),
    y_range_number=dict(meta={'state/y_range':3}), no_y_range=dict(meta={'state/y_range':...}),
    y_range_bools=dict(meta={'state/y_range':dict(tuple=[False,True])}),
    y_range_wide=dict(meta={'state/y_range':dict(tuple=[-1e308,1e308])}),
    y_range_wider=dict(meta={'state/y_range':dict(tuple=[0,10**400])}),
    y_range_float32=dict(meta={'state/y_range':dict(tuple=[0,1e39])}),
    rates=dict(meta={'state/rates':1}), rates_text=dict(meta={'state/rates':'no'}),
    other_tag=dict(meta={'state/y_range':dict(set=[0,5])}), deep=dict(meta={'state/y_range':deep}),
    two_tags=dict(meta={'state/y_range':dict(tuple=[0,5], list=[1])}),
    no_tag=dict(meta={'state/y_range':{}}), nowhere=dict(meta={'state/user_bias':dict(tensor='?')}),
    tensor_list=dict(meta={'state/user_bias':dict(tensor=['user_bias'])}),
    state=dict(meta={'state':[]}), no_state=dict(meta={'state':...}),
    hides=dict(meta={'state/scores':1}), private=dict(meta={'state/_history':1}),
    other_vocab=dict(meta={'state/vocab':1}), nameless=dict(meta={'state/':1}),
    about=dict(meta={'about':[1]}), about_none=dict(meta={'about':None}),
    no_about=dict(meta={'about':...}),
    # ids
    no_vocab=dict(without=['vocab']), no_json=dict(tensors=dict(vocab=as_bytes(b'['))),
    deep_json=dict(tensors=dict(vocab=as_bytes(b'['*100_000))),
    floats=dict(tensors=dict(vocab=torch.ones(9).bfloat16())), one_column=as_ids(users),
    three_columns=as_ids(users, films, column('x')), same_name=as_ids(users, column('u')),
    no_na=as_ids([[['str',['u']]], [['int',[*range(7)]]]], films), no_ids=as_ids(users, films[:1]),
    twice=as_ids(column('u', ('int',[1,2,3,4,5]), ('float',[5.])), films),
    kind=as_ids(column('u', ('eval',['1']*6)), films), few=as_ids(column('u', ('int',[1])), films),
    too_big=as_ids(column('u', ('numpy.int8',[300,1,2,3,4,5])), films),
    not_a_date=as_ids(column('u', ('date',['x']*6)), films),
    bare_date=as_ids(column('u', ('timestamp',['x']*6)), films),
    lists=as_ids(column('u', ('float',[[1]]*6)), films),
    not_a_time=as_ids(column('u', ('int',[*range(5)]), ('timestamp',[['NaT','s',None]])), films),
    zone=as_ids(column('u', ('timestamp',[['2020-01-01T00:00+00:00','s','Nowhere']]*6)), films),
    zone_dir=as_ids(column('u', ('timestamp',[['2020-01-01T00:00+00:00','s','America']]*6)), films),
    no_number=as_ids(column('u', ('int',[*range(5)]), ('float',['nan'])), films))

@pytest.mark.parametrize('case', unsound)
def test_whole_but_unsound(path, case):
    forged(path, a_surface(), **unsound[case])
    if case=='sound': assert load(path).classes=={'u':('#na#',*range(1,7)), 'i':('#na#',*'abcd')}
    else: assert refusal(path) is UnsoundModelError

known = pd.DataFrame(dict(user=[1,2], film=['i1 é','i2 é'], rating=[3,4.]))
histories = dict(
    sound={}, same=dict(meta={'history':'same'}), text=dict(meta={'history':'x'}),
    number=dict(meta={'history':1}), empty=dict(meta={'history':{}}),
    bare=dict(meta={'history/dict':{}}), none=dict(meta={'history':...}),
    model=dict(meta={'history':dict(model='Surface', state={}, history=None)}),
    more=dict(meta={'history/dict/x':1}), no_pairs=dict(meta={'history/dict/pairs':None}),
    no_held_out=dict(meta={'history/dict/held_out':None}),
    lists=dict(meta={'history/dict/pairs':[[1,1],[2,2]]}),
    array=dict(meta={'history/dict/pairs':dict(array='history.pairs')}),
    rows=dict(tensors={'history.pairs':i32([9,1],[1,1])}),
    items=dict(tensors={'history.pairs':i32([1,1],[1,9])}),
    na=dict(tensors={'history.pairs':i32([0,1],[1,1])}),
    negative=dict(tensors={'history.pairs':i32([-1,1],[1,1])}),
    wide=dict(tensors={'history.pairs':i32([1,1,1],[2,2,2])}),
    flat=dict(tensors={'history.pairs':i32(1,1,2,2)}),
    longs=dict(tensors={'history.pairs':torch.ones(2, 2).long()}),
    floats=dict(tensors={'history.pairs':torch.ones(2, 2)}),
    fewer=dict(tensors={'history.ratings':torch.ones(1)}),
    columns=dict(tensors={'history.ratings':torch.ones(2, 1)}),
    doubles=dict(tensors={'history.ratings':torch.ones(2).double()}),
    nan=dict(tensors={'history.ratings':torch.tensor([1,torch.nan])}),
    held_ints=dict(tensors={'history.held_out':torch.zeros(2).int()}),
    held_more=dict(tensors={'history.held_out':torch.zeros(3).bool()}),
    missing=dict(without=['history.ratings']))

@pytest.mark.parametrize('case', histories)
def test_unsound_histories(path, case):
    s = a_surface().with_history(known)
    forged(path, s, **histories[case])
    if case=='sound': same_model(s, load(path))
    else: assert refusal(path) is UnsoundModelError

def a_net(layers=None, y_range=(0,5.5), **more):
    s = a_surface()
    layers = layers or [['linear',None],['relu',None],['batch_norm',1e-5],['linear',None]]
    ts = {'user_factors':s.user_factors, 'item_factors':s.item_factors,
          'layers.0.weight':torch.ones(4, 6), 'layers.0.bias':torch.ones(4),
          **{f'layers.2.{o}':torch.ones(4) for o in ('weight','bias','running_mean','running_var')},
          'layers.3.weight':torch.ones(1, 4), 'layers.3.bias':torch.ones(1)}
    return LayeredNet({**ts, **more}, layers, y_range, s.vocab)

layers = lambda *kinds: dict(meta={'state/layers':list(kinds)})
linear,relu,norm = ['linear',None],['relu',None],['batch_norm',1e-5]
tensor = lambda name, t: dict(tensors={name:t}, meta={f'state/{name}':dict(tensor=name)})
odd_nets = dict(
    sound={}, kind=layers(['eval',None]), none=layers(), texts=layers('linear'), numbers=layers(1),
    a_dict=layers({}), one=layers(['linear']), three=layers(['linear',None,None]),
    listed=layers([['linear'],None], relu, norm, linear), text=dict(meta={'state/layers':'linear'}),
    true=dict(meta={'state/layers':True}), nothing=dict(meta={'state/layers':None}),
    no_eps=layers(linear, relu, ['batch_norm',None], linear),
    eps_text=layers(linear, relu, ['batch_norm','1e-5'], linear),
    eps_true=layers(linear, relu, ['batch_norm',True], linear),
    eps_below=layers(linear, relu, ['batch_norm',-1.], linear),
    wide=tensor('layers.0.weight', torch.ones(4, 5)), flat=tensor('layers.0.weight', torch.ones(4)),
    bias=tensor('layers.0.bias', torch.ones(3)), two_out=dict(tensors={
        'layers.3.weight':torch.ones(2, 4), 'layers.3.bias':torch.ones(2)}),
    norm=tensor('layers.2.running_var', torch.ones(5)),
    negative=tensor('layers.2.running_var', -torch.ones(4)), part=dict(without=['layers.2.bias']),
    no_part=dict(meta={'state/layers.2.bias':...}), no_weight=dict(without=['layers.0.weight']),
    no_factors=dict(tensors=dict(user_factors=torch.ones(7, 0), item_factors=torch.ones(5, 0),
                                 **{'layers.0.weight':torch.ones(4, 0)})),
    rows=tensor('user_factors', torch.ones(6, 3)), dims=tensor('user_factors', torch.ones(7)),
    more_dims=tensor('user_factors', torch.ones(7, 3, 1)),
    ints=tensor('item_factors', torch.ones(5, 3).int()),
    types=tensor('item_factors', torch.ones(5, 3).double()),
    listed_factors=dict(meta={'state/item_factors':[[1.]*3]*5}),
    nan=tensor('layers.3.bias', torch.full((1,), torch.nan)),
    half_a_dot=tensor('user_bias', torch.ones(7)),
    dot_of_other=dict(tensors=dict(user_bias=torch.ones(7), item_bias=torch.ones(4)), meta={
        f'state/{o}':dict(tensor=o) for o in ('user_bias','item_bias')}),
    y_range=dict(meta={'state/y_range':[5,1]}), y_range_text=dict(meta={'state/y_range':'ab'}),
    y_range_wide=dict(meta={'state/y_range':[-1e308,1e308]}),
    y_range_bools=dict(meta={'state/y_range':[False,True]}),
    rates=dict(meta={'state/rates':'x'}), no_rates=dict(meta={'state/rates':...}))

@pytest.mark.parametrize('case', odd_nets)
def test_unsound_nets(path, case):
    forged(path, a_net(), **odd_nets[case])
    if case=='sound': same_model(a_net(), load(path))
    else: assert refusal(path) is UnsoundModelError

def test_a_net_by_hand(path):
    s,m = a_surface(),load(save(a_net(), path))
    h = torch.cat([s.user_factors[2],s.item_factors[3]])
    x = ((h.sum()+1).relu()-1)/(1+1e-5)**0.5+1
    assert torch.isclose(m.pair_scores(2, 3), 5.5*torch.sigmoid(4*x+1), atol=1e-5)

part = lambda **kw: dict(model='Surface', history=None, state={}, **kw)
odd_blends = dict(
    sound={}, more=dict(meta={'state/weights':[1.,2.,3.]}), none=dict(meta={'state/weights':None}),
    texts=dict(meta={'state/weights':['a','b']}), bools=dict(meta={'state/weights':[True,1.]}),
    ints=dict(meta={'state/weights':[1,1]}), number=dict(meta={'state/weights':2.}),
    no_weights=dict(meta={'state/weights':...}), empty=dict(meta={'state/parts':[]}),
    no_parts=dict(meta={'state/parts':...}), numbers=dict(meta={'state/parts':[1,2]}),
    a_number=dict(meta={'state/parts/1':5}), a_null=dict(meta={'state/parts/1':None}),
    a_text=dict(meta={'state/parts':'ab'}),
    tensors=dict(meta={'state/parts/1':dict(tensor='vocab')}),
    a_dict=dict(meta={'state/parts/1':dict(dict={})}), bare=dict(meta={'state/parts/1':part()}),
    y_range=dict(meta={'state/parts/1/state/y_range':[5,1]}),
    rows=dict(tensors={'parts.1.user_bias':torch.zeros(6)}),
    nan=dict(tensors={'parts.1.user_bias':torch.full((7,), torch.nan)}),
    pairs=dict(tensors={'history.pairs':i32([99,1],[1,1])}),
    kind=dict(meta={'state/parts/1/model':'x'}), unnamed=dict(meta={'state/parts/1/model':['x']}),
    no_kind=dict(meta={'state/parts/1/model':...}), hides=dict(meta={'state/total':1}),
    inner=dict(meta={'state/parts/1':dict(model='Blend', history=None, state=dict(
        weights=[1.], parts=[]))}),
    never=dict(meta={'state/parts/1':dict(model='NetModel', history=None, state=dict(net=1))}),
    object=dict(meta={'state/parts/1':dict(model='ObjectModel', history=None, state={})}))

@pytest.mark.parametrize('case', odd_blends)
def test_unsound_blends(path, case):
    blend = Blend([a_surface().with_history(known), a_surface(seed=1)], [1.,1.])
    forged(path, blend, **odd_blends[case])
    if case=='sound': same_model(blend, load(path))
    else: assert refusal(path) is (OtherFormatError if case=='kind' else UnsoundModelError)

@pytest.mark.parametrize('case', range(12))
def test_unsound_tables(path, case):
    few = History.of(known, item_name='film')
    for n,(m,kw) in enumerate([
            *((EASE(few, 1.), o) for o in (
                dict(tensors=dict(weights=torch.ones(3, 3))), dict(meta={'state/reg':True}),
                dict(tensors=dict(weights=torch.zeros(2, 3))), dict(meta={'state/reg':0.}),
                dict(meta={'state/reg':'1'}), dict(meta={'state/reg':...}),
                dict(meta={'state/weights':...}), dict(meta={'state/chosen':1}))),
            *((Popularity(few), o) for o in (
                dict(tensors=dict(counts=-torch.ones(3))), dict(tensors=dict(counts=torch.ones(4))),
                dict(tensors=dict(counts=torch.ones(3).int())), dict(meta={'state':{}})))]):
        if n==case: assert refusal(forged(path, m, **kw)) is UnsoundModelError

def test_kinds_that_nobody_knows(path, table):
    class Gone(Odds): pass
    save(Gone(table), path)
    assert type(load(path)) is Gone
    del Model.kinds['own Gone']
    with pytest.raises(OtherFormatError, match="Gone'.*not known here.*defines its class"):
        load(path)

def test_unsound_models_are_not_saved(path):
    s,na = a_surface(),('#na#',*'abcd')
    ids = lambda users, items=na: s.vocab.__class__({'u':users, 'i':items})
    for bad in (dict(item_bias=torch.full((5,), torch.nan)), dict(user_bias=torch.zeros(3)),
                dict(vocab=ids(('#na#',*'abcdee'))), dict(vocab=ids(tuple('abcdefg'))),
                dict(y_range=(1,0)), dict(y_range=(-1e308,1e308)), dict(y_range=(0,10**400)),
                dict(item_bias=torch.zeros(5).long()), dict(item_bias=torch.zeros(5).half()),
                dict(user_factors=s.user_factors[:,:0], item_factors=s.item_factors[:,:0]),
                dict(rates=None), dict(history=History(ids(('#na#',*range(9))), [[8,1]]))):
        with pytest.raises(UnsoundModelError): save(s.replace(**bad), path)
    for bad in (dict(y_range=(1,0)), dict(layers=[linear])):
        with pytest.raises(UnsoundModelError): save(a_net(**bad), path)
    assert not path.exists()

ODD = [None, True, 0, -1, 0.5, 1e308, 10**400, 'x', '', [], [[]], {}, dict(tensor='vocab'),
       dict(tensor='?'), dict(array='vocab'), dict(tuple=[]), dict(dict={}), dict(model='EASE'),
       dict(model='Surface', state={}, history=None), 'same', ['x','y'], [None,1.], False, 1, 1.5, 10**30,
       dict(tensor='users'), dict(array='users'), dict(tuple=[1]), dict(dict=dict(a=1)), dict(tuple=dict(tensor='vocab'))]

def nodes(o, at=()):
    "The way to everything in a JSON value"
    if at: yield at
    for k,v in o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ():
        yield from nodes(v, (*at,k))

def but(o, at, v):
    "A copy, with something else at one place"
    o = x = deepcopy(o)
    for k in at[:-1]: x = x[k]
    x[at[-1]] = v
    return o

def some_facts(h):
    ids = h.vocab.classes['film'][1:]
    return pd.DataFrame(dict(film=ids, kind=['a','b']*(len(ids)//2)+['a']*(len(ids)%2)))

@pytest.fixture(scope='module')
def grades(table):
    "Samples of grades, with effects, columns about users, and two chains"
    dls = RatingsDataLoaders.from_df(table.assign(day=range(len(table))), user_name='user', item_name='film', seed=1)
    users = pd.DataFrame(dict(user=list(dls.classes['user'])[1:]))
    m = BayesianPMF(n_factors=2, effects=['day'], chains=2, n_sweeps=5, burn_in=2, seed=1)
    return m.fit(dls, users=users.assign(age=range(len(users)), same=1), progress=False)

def asked(m):
    "All that can be asked of samples"
    m.diagnose(), m.as_surface(), m.intervals(m.history.table(), effects=False), repr(m)
    for o in (False,True):
        if m.columns[m.vocab.name(o)]: m.link_table(o)

def odd_tensors(t):
    "Other tensors in its place: of other shapes and types, and with other numbers"
    yield from (t[None], t.reshape(-1)[:0], torch.cat([t.reshape(-1)]*2))
    yield from (t.to(o) for o in (torch.float64,torch.float16,torch.int64,torch.bool,torch.uint8) if o!=t.dtype)
    if t.is_floating_point(): yield from (torch.full_like(t, o) for o in (torch.nan,torch.inf,3e38,-1e30,1e9))

@pytest.mark.parametrize('kind', ['bayes','grades'])
def test_any_tensor_in_place_of_samples(path, kind, bayes, grades):
    "Samples that are made up are refused, or predict ratings"
    m = dict(bayes=bayes, grades=grades)[kind]
    name,ts,meta = read_tensors(save(m, path))
    lo,hi = m.posterior.levels[[0,-1]].tolist()
    for k,t in ts.items():
        for v in odd_tensors(t):
            path.write_bytes(b''.join(files._pack({**ts, k:v.contiguous()}, written_by='1', kind=name, meta=meta)))
            try: got = load(path)
            except ModelFileError as e: assert path.name in str(e) and len(str(e))<1000
            else: assert ((x := got.scores([0,1,2]))>=lo-1e-3).all() and (x<=hi+1e-3).all()

@pytest.mark.parametrize('kind', ['surface','net','lists','blend','bayes','grades','ridge','ials'])
def test_anything_in_place_of_anything(path, kind, bayes, grades):
    "A file that is made up is refused, or it holds a model that can be asked"
    few = History.of(known, item_name='film')
    m = dict(surface=lambda: a_surface().with_history(known), net=a_net, bayes=lambda: bayes,
             grades=lambda: grades,
             lists=lambda: EASE(few, 1.), ials=lambda: ImplicitALS(few, 2, n_sweeps=1, n_models=2),
             ridge=lambda: ItemRidge(few, some_facts(few), 1.),
             blend=lambda: Blend([EASE(few, 1.), Popularity(few)], [1.,0.5]))[kind]()
    name,ts,meta = read_tensors(save(m, path))
    rng = random.Random(0)
    for at in nodes(meta):
        for v in rng.sample(ODD, 3 if kind in ('bayes','grades') else 6):
            raw = files._pack(dict(ts), written_by='1', kind=name, meta=but(meta, at, v))
            path.write_bytes(b''.join(raw))
            try: got = load(path)
            except ModelFileError as e: assert path.name in str(e) and len(str(e))<1000
            else:
                if isinstance(got, BayesianPMF) and got.history is not None: asked(got)
                if all(o.history is not None or not o.needs_history for o in getattr(got, 'parts', [got])):
                    got.scores([0,1])
                    if got.history is not None: recommend(got)

# nothing is unpickled

class Boom:
    def __reduce__(self): return exec, ("import collab_notes; collab_notes._boom = True",)

def test_no_pickle_on_the_load_path(path, monkeypatch, whole, dls, bayes):
    import collab_notes
    save(Blend([bayes, EASE(dls, 3.), NETS['plain'](dls)], [1,1,1]), path.with_name('blend'))
    path.write_bytes(whole)
    boom = pickle.dumps(Boom())
    def explode(*args, **kwargs): raise AssertionError('somebody unpickles')
    ways = {pickle:('load','loads','Unpickler','_Unpickler'), torch:('load',), np:('load',),
            zipfile:('ZipFile',), sys.modules['builtins']:('eval','exec')}
    for o,names in ways.items():
        for n in names: monkeypatch.setattr(o, n, explode)
    assert load(path).classes['user']==('#na#',1,2,3)
    assert len(load(path.with_name('blend')).parts)==3
    for raw in (boom, whole[:200]+boom): refusal(path, raw)
    monkeypatch.undo()
    torch.save(Boom(), path)
    with pytest.raises(ForeignFileError): load(path)
    assert not hasattr(collab_notes, '_boom')

# whole at any moment

@pytest.mark.parametrize('where', ['fsync','replace','copymode'])
@pytest.mark.parametrize('error', [OSError('disk full'), KeyboardInterrupt()], ids=repr)
def test_a_failed_save_leaves_the_old_file(path, monkeypatch, where, error):
    old = save(a_surface(), path).read_bytes()
    def fail(*args, **kw): raise error
    monkeypatch.setattr(shutil if where=='copymode' else os, where, fail)
    with pytest.raises(type(error)): save(a_surface(seed=1), path)
    monkeypatch.undo()
    assert path.read_bytes()==old and [o.name for o in path.parent.iterdir()]==[path.name]

def test_leftovers_are_swept_when_old(path):
    names = f'.{path.name}.00000000.part',f'.{path.name}.11111111.part','.other.22222222.part'
    old,fresh,other = (path.with_name(o) for o in names)
    for o in (old,fresh,other): o.write_bytes(b'x')
    for o in (old,other): os.utime(o, (time.time()-3600,)*2)
    save(a_surface(), path)
    assert not old.exists() and fresh.exists() and other.exists()

@pytest.mark.skipif(os.name=='nt', reason='modes and links of Unix')
def test_modes_and_links(path, tmp_path):
    umask = os.umask(0o027)
    try: save(a_surface(), path)
    finally: os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode)==0o640
    path.chmod(0o604)
    save(a_surface(), path)
    assert stat.S_IMODE(path.stat().st_mode)==0o604
    (tmp_path/'link').symlink_to(path)
    save(a_surface(seed=5), tmp_path/'link')
    assert (tmp_path/'link').is_symlink()
    same(load(path), a_surface(seed=5))

@can_fork
@pytest.mark.parametrize('n_before', [0,1,2])
def test_kill_9_at_any_moment(path, n_before):
    """A process that saves stands still at each of its steps, is looked at, and is killed there:
    what is there is the old model (or none) or the new one, whole."""
    old,new = (a_surface(seed=o, users=tuple(range(300))) for o in (0,1))
    def run(at):
        for n in range(n_before): save(old, path, n=n)
        stops_in_files(at)
        save(new, path, n='new')
    def check(there):
        if there or n_before:
            m = load(path)
            same(m, new if there else old)
            assert m.about['n']==('new' if there else n_before-1)
        else: assert not path.exists()
    with Child(run) as c:
        for _ in c: check('after replace' in c.told)
    steps = c.told
    wanted = {'opened','half written','before fsync','after fsync','before replace','after replace'}
    assert c.code==0 and wanted <= set(steps)
    for i,where in enumerate(steps):
        path.unlink(missing_ok=True)
        with Child(run) as c:
            for _ in c:
                if len(c.told)==i+1: c.kill()
        put = 'after replace' in c.told
        assert c.code==-9 and c.told==steps[:i+1]
        check(put)
        left = [o for o in path.parent.iterdir() if o!=path]
        assert len(left)==(not put), where   # cut off in the middle: under another name
        for o in left: o.unlink()
