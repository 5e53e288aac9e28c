"""A saved model: the same when it comes back, whole whenever its writer is killed, refused when anything about it is wrong, and never unpickled."""
import datetime as dt, json, multiprocessing, os, pickle, random, signal, stat, sys, time, zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch as st
import torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.learner import Learner
from hypothesis import given, settings, strategies as hs

import collab_notes.recommend as rec
import collab_notes.training as training
from collab_notes.data import CollabError, RatingsDataLoaders, SettingError, UnseenIdError
from collab_notes.deep import CollabNN, HybridDot, hybrid_model, nn_learner
from collab_notes.interpret import rating_counts, top_codes
from collab_notes.models import DotProduct, DotProductBias, DotProductBiasParams, NotAFactorModelError, Surface, _TENSORS, surface
from collab_notes.recommend import (EASE, Blend, CorruptFileError, ForeignFileError, ModelFileError, NewerFormatError, Popularity, SavedModel, SavedNet, TruncatedFileError, UnsavableError,
                                    UnsoundModelError, as_ranker, fit_ranking, load_model, recommend, save_model)
from collab_notes.training import fit

def a_surface(n=7, m=5, k=3, seed=0, dtype=torch.float32, users=None, items=None, y_range=(0,5.5)):
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g).to(dtype)
    users,items = users or tuple(range(1, n)),items or tuple(f'i{o} é' for o in range(1, m))
    return Surface(r(len(users)+1, k), r(len(items)+1, k), r(len(users)+1), r(len(items)+1), {'user':('#na#',*users), 'film':('#na#',*items)}, y_range)

text_bytes = lambda o: torch.frombuffer(bytearray(o), dtype=torch.uint8)

def same(a, b):
    for o in _TENSORS: assert getattr(a, o).dtype==getattr(b, o).dtype and torch.equal(getattr(a, o), getattr(b, o))
    assert list(a.classes)==list(b.classes) and [type(o) for o in a.classes]==[type(o) for o in b.classes]
    for x,y in zip(a.classes.values(), b.classes.values()): assert x==y and [type(o) for o in x]==[type(o) for o in y] and list(map(repr, x))==list(map(repr, y))
    assert a.y_range==b.y_range
    us,js = torch.arange(len(a.user_factors))[:,None],torch.arange(len(a.item_factors))
    assert torch.equal(a.predict(us, js), b.predict(us, js))

@pytest.fixture
def path(tmp_path): return tmp_path/'m.safetensors'

@pytest.fixture(scope='module')
def table():
    rng = np.random.default_rng(0)
    pairs = rng.permutation(20*15)[:150]
    return pd.DataFrame(dict(user=pairs//15+100, film=[f'f{o}' for o in pairs%15], rating=rng.integers(1, 6, 150)))

@pytest.fixture(scope='module')
def dls(table): return RatingsDataLoaders.from_df(table, user_name='user', item_name='film', seed=1)

# there and back

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('y_range', [(0,5.5), (0.1,1/3), None])
def test_round_trip(path, dtype, y_range):
    s = a_surface(dtype=dtype, y_range=y_range)
    before = [getattr(s, o).clone() for o in _TENSORS]
    assert save_model(s, path)==path
    same(s, load_model(path))
    assert type(load_model(path)) is SavedModel and all(torch.equal(a, getattr(s, o)) for a,o in zip(before, _TENSORS))
    assert load_model(path).y_range is None or [type(o) for o in load_model(path).y_range]==[type(o) for o in y_range]

@pytest.mark.parametrize('make', [DotProduct, DotProductBias, DotProductBiasParams, HybridDot])
def test_models_of_the_book(path, dls, make):
    model = make.from_dls(dls, 4)
    save_model(model, path)
    same(surface(model), load_model(path))

def test_fastais_own_learner_and_ours(path, table, dls):
    stock = collab_learner(CollabDataLoaders.from_df(table, item_name='film', seed=1), n_factors=4, y_range=(0,5.5))
    for learn in (stock, fit(dls, n_epoch=1, n_factors=4, progress=False)):
        save_model(learn, path, history=True)
        s = load_model(path)
        same(surface(learn), s)
        assert rating_counts(s, s.trained_on).ratings.tolist()==rating_counts(learn).ratings.tolist()
        assert torch.equal(top_codes(s, exclude=s.history['pairs'])[0], top_codes(learn, exclude=s.history['pairs'])[0])

def test_the_bayesian_model(path, dls):
    "Of which the file keeps the surface: the mean of its samples."
    from collab_notes.bayes import BayesianPMF
    model = BayesianPMF(n_factors=2, likelihood='gaussian', implicit=False, n_sweeps=6, burn_in=1, seed=1).fit(dls, progress=False)
    save_model(model, path)
    same(surface(model), load_model(path))

def test_ease(path, table):
    o = EASE(table, reg=3., item_name='film')
    assert save_model(o, path, note='x')==path
    got = load_model(path)
    assert type(got) is EASE and torch.equal(got.weights, o.weights) and torch.equal(got.trained_on, o.trained_on) and got.classes==o.classes and (got.reg, got.about)==(3., dict(note='x'))
    pd.testing.assert_frame_equal(recommend(got), recommend(o))
    raw = path.read_bytes()
    assert save_model(got, path).read_bytes()==raw
    with pytest.raises(SettingError, match='EASE'): save_model(o, path, history=table)
    o.weights[1,2] = torch.nan
    with pytest.raises(UnsoundModelError, match='weights'): save_model(o, path)
    assert path.read_bytes()==raw
    vocab = torch.frombuffer(bytearray(rec._vocab_bytes(got.classes)), dtype=torch.uint8)
    for w,p in ((o.weights, got.trained_on), (got.weights[1:], got.trained_on), (got.weights, got.trained_on+99), (got.weights, got.trained_on[:,:1])):
        assert refusal(path, b''.join(rec._pack(dict(weights=w.contiguous(), pairs=p.int().contiguous(), vocab=vocab), kind='ease', reg=1., about={}))) is UnsoundModelError

def test_the_model_for_lists(path, dls):
    from collab_notes.recommend import RankDot
    model = RankDot.from_dls(dls, 3)
    save_model(model, path)
    same(surface(model), load_model(path))

def test_a_model_with_a_newcomer(path, dls, table):
    from collab_notes.coldstart import add_user, new_user
    learn = fit(dls, n_epoch=1, n_factors=4, progress=False)
    save_model(learn, path, history=True)
    for m in (learn, load_model(path)):
        more = add_user(m, 777, new_user(m, {'f1':5., 'f2':1.}))
        save_model(more, path)
        same(surface(more), load_model(path))
        assert load_model(path).codes([777], is_item=False).tolist()==[21]
        save_model(learn, path, history=True)

def test_tensors_that_share_or_skip_memory(path):
    s = a_surface(n=6, m=6)
    odd = Surface(s.user_factors.T.contiguous().T, s.user_factors, s.user_bias, s.user_bias, s.classes, None)
    save_model(odd, path)
    same(odd, load_model(path))

def nets(dls):
    side = pd.DataFrame(dict(user=list(dls.classes['user'])[1:])).assign(age=lambda o: np.arange(len(o)))
    hybrid = hybrid_model(dls, users=side, layers=[4,3], n_factors=3, p=0.2)
    torch.nn.init.normal_(hybrid.layers[-1].weight)
    return dict(plain=CollabNN.from_dls(dls, [3,2]), no_range=CollabNN.from_dls(dls, [3,2], y_range=None), hybrid=hybrid, stock=collab_learner(dls, use_nn=True, emb_szs={'user':3,'film':2}, layers=[6,4], y_range=(0,5.5)),
                drop=nn_learner(dls, [6], [2,4], config=dict(ps=[0.3], embed_p=0.1, bn_final=True)), late=nn_learner(dls, [6,5], config=dict(lin_first=False, act_cls=torch.nn.Tanh())), no_norm=nn_learner(dls, [6], config=dict(use_bn=False)))

@pytest.mark.parametrize('kind', ['plain','no_range','hybrid','stock','drop','late','no_norm'])
def test_nets(path, dls, table, kind):
    net = nets(dls)[kind]
    if isinstance(net, Learner):
        with net.no_bar(), net.no_logging(): net.fit(1)   # so that batch norm has seen something
    save_model(net, path, history=dls, note='x')
    got,was = load_model(path),as_ranker(net)
    us,js = (torch.arange(len(o)) for o in was.classes.values())
    assert type(got) is SavedNet and torch.equal(got.predict(us[:,None], js), was.predict(us[:,None], js)) and got.classes==was.classes and got.about==dict(note='x')
    assert len(got.trained_on)+len(got.held_out)==len(table)
    pd.testing.assert_frame_equal(recommend(got, n=3), recommend(was, n=3, exclude=dls))
    raw = path.read_bytes()
    assert save_model(got, path).read_bytes()==raw
    assert load_model(save_model(got, path, history=False)).history is None

def test_nets_that_a_file_cannot_keep(path, dls):
    class Twice(CollabNN):
        def forward(self, x): return 2*super().forward(x)
    class Odd(torch.nn.Module):
        classes = dls.classes
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.ones(1))
        def forward(self, x): return x.sum(1)*self.w
    for o in (Twice.from_dls(dls), Odd()):
        with pytest.raises(NotAFactorModelError, match='learn.export.*pickle'): save_model(o, path)
    hooked = CollabNN.from_dls(dls)
    hooked.register_forward_hook(lambda m, x, y: y+1)
    with pytest.raises(NotAFactorModelError): save_model(hooked, path)
    with pytest.raises(UnsavableError, match='GELU'): save_model(nn_learner(dls, [6], config=dict(act_cls=torch.nn.GELU())), path)
    with pytest.raises(UnsavableError, match='Popularity'): save_model(Popularity(dls), path)
    bad = CollabNN.from_dls(dls)
    torch.nn.init.constant_(bad.layers[0].bias, torch.nan)
    with pytest.raises(UnsoundModelError, match='not finite'): save_model(bad, path)
    assert not path.exists()

def net_file(layers=(('linear',None),('relu',None),('batch_norm',1e-5),('linear',None)), y_range=(0,5.5), without=(), **tensors):
    s = a_surface()
    ts = {'user_factors':s.user_factors, 'item_factors':s.item_factors, 'layers.0.weight':torch.ones(4,6), 'layers.0.bias':torch.ones(4), 'layers.3.weight':torch.ones(1,4), 'layers.3.bias':torch.ones(1),
          **{f'layers.2.{o}':torch.ones(4) for o in ('weight','bias','running_mean','running_var')}, 'vocab':text_bytes(rec._vocab_bytes(s.classes)), **{k.replace('__','.'):v for k,v in tensors.items()}}
    return b''.join(rec._pack({k:v.clone() for k,v in ts.items() if k not in without}, written_by='1', kind='net', y_range=y_range, layers=layers, about={}))

odd_nets = dict(kind=dict(layers=[['eval',None]]), none=dict(layers=[]), pairs=dict(layers=['linear']), wide=dict(layers__0__weight=torch.ones(4,5)), flat=dict(layers__0__weight=torch.ones(4)), bias=dict(layers__0__bias=torch.ones(3)), two_out=dict(layers__3__weight=torch.ones(2,4), layers__3__bias=torch.ones(2)),
    norm=dict(layers__2__running_var=torch.ones(5)), negative=dict(layers__2__running_var=-torch.ones(4)), eps=dict(layers=[('linear',None),('relu',None),('batch_norm',None),('linear',None)]), part=dict(without=['layers.2.bias']), no_weight=dict(without=['layers.0.weight']),
    rows=dict(user_factors=torch.ones(6,3)), dims=dict(user_factors=torch.ones(7)), ints=dict(item_factors=torch.ones(5,3).int()), nan=dict(layers__3__bias=torch.full((1,), torch.nan)), half_a_dot=dict(user_bias=torch.ones(7)), dot_of_other=dict(user_bias=torch.ones(7), item_bias=torch.ones(4)), y_range=dict(y_range=(5,1)))

@pytest.mark.parametrize('case', odd_nets)
def test_unsound_nets(path, case): assert refusal(path, net_file(**odd_nets[case])) is UnsoundModelError

def test_a_sound_net_by_hand(path):
    path.write_bytes(net_file())
    s,h = a_surface(),torch.cat([a_surface().user_factors[2],a_surface().item_factors[3]])
    x = ((h.sum()+1).relu()-1)/(1+1e-5)**0.5+1
    assert torch.isclose(load_model(path).predict(2, 3), 5.5*torch.sigmoid(4*x+1), atol=1e-5)

def test_blends(path, dls, table):
    learn,rank = fit(dls, n_epoch=1, n_factors=4, progress=False),fit_ranking(dls, n_epoch=1, progress=False)
    inner = Blend([EASE(dls, 3.), nets(dls)['stock']], [1.5,0.25])
    for o in (Blend([learn, rank, EASE(dls, 3.)], [0.5,1,-2]), inner, Blend([inner, rank, load_model(save_model(learn, path, history=True))], [1,1,1]), Blend([surface(learn)], [1.])):
        save_model(o, path, note='x')
        got,raw = load_model(path),path.read_bytes()
        assert type(got) is Blend and got.weights==o.weights and got.classes==o.classes and got.about==dict(note='x')
        assert (got.trained_on is None)==(o.trained_on is None) and (o.trained_on is None or torch.equal(got.trained_on, o.trained_on))
        exclude = 'train' if o.trained_on is not None else None
        pd.testing.assert_frame_equal(recommend(got, exclude=exclude), recommend(o, exclude=exclude))
        assert save_model(got, path).read_bytes()==raw
    with pytest.raises(SettingError, match='Blend'): save_model(o, path, history=table)
    with pytest.raises(UnsavableError, match='Popularity'): save_model(Blend([learn, Popularity(dls)], [1,1]), path)
    ease = EASE(dls, 3.)
    ease.weights[1,2] = torch.nan
    with pytest.raises(UnsoundModelError, match='part 1: weights'): save_model(Blend([learn, ease], [1,1]), path)
    assert path.read_bytes()==raw

@pytest.mark.parametrize('meta', [dict(weights=[1,2]), dict(weights=['a']), dict(weights=[float('1e999')]), dict(parts=[]), dict(parts=[dict(kind='factors', y_range=(5,1), about={})]), dict(parts=[dict(kind='blend', weights=[1], parts=[], about={})]), dict(parts=[dict(kind='x')]), dict(pairs=torch.full((2,2), 99).int())], ids=range(8))
def test_unsound_blends(path, meta):
    s = a_surface()
    ts = {**{f'0.{o}':getattr(s, o) for o in _TENSORS}, 'vocab':text_bytes(rec._vocab_bytes(s.classes)), **({'pairs':meta['pairs']} if 'pairs' in meta else {})}
    good = dict(weights=[1.], parts=[dict(kind='factors', y_range=(0,5.5), about={})])
    raw = b''.join(rec._pack(ts, written_by='1', kind='blend', about={}, **{**good, **{k:v for k,v in meta.items() if k!='pairs'}}))
    assert refusal(path, raw) is UnsoundModelError

many_ids = dict(int=[1,-5,2**70], str=['1','é \u2028 "\\','\ud800','','0'*64], float=[0.1,-0.0,1e-308,1.5], bool=[True,False], np_int=[np.int64(3),np.int8(4),np.uint64(2**63)], np_float=[np.float32(0.1),np.float64(0.2),np.float16(0.5)],
    np_str=[np.str_('a'),np.str_('é')], stamps=[pd.Timestamp('2020-01-01'),pd.Timestamp('2020-01-01 00:00:00.000000001'),pd.Timestamp('2020-01-01').as_unit('s')+pd.Timedelta(days=1),pd.Timestamp('2020-10-25 02:30', tz='UTC').tz_convert('Europe/Berlin')],
    dates=[dt.date(2020,1,1),dt.date(1,1,1)], datetimes=[dt.datetime(2020,1,1,1,2,3,4),dt.datetime(2020,1,2,tzinfo=dt.timezone(dt.timedelta(hours=2)))], mixed=[1,'1',2.5,np.int64(7),pd.Timestamp('2020-01-01')])

@pytest.mark.parametrize('kind', many_ids)
def test_ids_keep_their_types(path, kind):
    s = a_surface(users=tuple(many_ids[kind]))
    save_model(s, path)
    same(s, load_model(path))
    assert load_model(path).codes([many_ids[kind][0]], is_item=False).tolist()==[1]

ids = hs.one_of(hs.integers(), hs.text(), hs.floats(allow_nan=False, allow_infinity=False), hs.dates(), hs.datetimes().map(lambda o: o.replace(fold=0)), hs.datetimes(dt.datetime(1700,1,1), dt.datetime(2200,1,1)).map(pd.Timestamp), hs.integers(-9,9).map(np.int32))
@given(hs.lists(ids, min_size=1, max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_any_ids_survive(ids):
    got = rec._vocab(rec._vocab_bytes({'u':('#na#',*ids), 5:('#na#','x')}))
    assert list(got)==['u',5] and list(map(repr, got['u']))==list(map(repr, ('#na#',*ids))) and [type(o) for o in got['u'][1:]]==[type(o) for o in ids]

@pytest.mark.parametrize('id,says', [((1,2), 'tuple.*astype'), (None, 'NoneType'), (b'x', 'bytes'), (float('nan'), 'finite'), (float('inf'), 'finite'), (np.float32('nan'), 'finite'), (pd.NaT, 'NaT'), (np.datetime64('2020'), 'datetime64')])
def test_ids_that_cannot_be_kept(path, id, says):
    with pytest.raises(UnsavableError, match=says): save_model(a_surface(users=(1, id)), path)
    assert not path.exists()

def test_many_ids(path):
    s = a_surface(k=1, users=tuple(range(162_000)), items=tuple(f'A film of a longish name ({o})' for o in range(59_000)))
    save_model(s, path)
    got = load_model(path)
    assert got.classes==s.classes and path.read_bytes().index(b'}}') < 5000   # they are not in the header

def test_same_model_same_bytes(path, tmp_path, dls):
    s = a_surface()
    save_model(s, path, a=1, b=dict(c=[2, None, True, 'é']))
    again = save_model(load_model(path), tmp_path/'again')
    assert again.read_bytes()==path.read_bytes()==save_model(s, tmp_path/'third', a=1, b=dict(c=[2, None, True, 'é'])).read_bytes()
    assert load_model(save_model(load_model(path), path, a=3)).about==dict(a=3, b=dict(c=[2, None, True, 'é']))

def test_settings(path):
    save_model(a_surface(), path, n=np.int64(3), x=np.float32(0.5), t=(1,2), zeros='0'*64)
    assert load_model(path).about==dict(n=3, x=0.5, t=[1,2], zeros='0'*64)
    for bad in (dict(x=object()), dict(x=float('nan')), dict(x={1,2}), dict(x='x'*10**6)):
        with pytest.raises(UnsavableError): save_model(a_surface(), path, **bad)
    assert load_model(path).about['n']==3

def test_history(path, table, dls):
    model = DotProductBias.from_dls(dls, 3)
    save_model(model, path)
    assert load_model(path).history is None and load_model(path).trained_on is None and load_model(path).held_out is None
    m = load_model(save_model(model, path, history=dls))
    both = pd.concat([m.trained_on, m.held_out]).sort_values(['user','film'], ignore_index=True)
    assert (both.astype({'rating':int}).values==table.sort_values(['user','film']).values).all() and (len(m.trained_on), len(m.held_out))==(120,30)
    m = load_model(save_model(model, path, history=table[:50]))
    assert (m.trained_on.values==table[:50].values).all() and len(m.held_out)==0
    assert len(load_model(save_model(m, path)).trained_on)==50 and load_model(save_model(m, path, history=False)).history is None
    with pytest.raises(UnseenIdError, match="'new'"): save_model(model, path, history=pd.concat([table, table[:1].assign(film='new')]))
    with pytest.raises(CollabError, match='rating'): save_model(model, path, history=table[['user','film']])
    with pytest.raises(SettingError, match='Learner'): save_model(model, path, history=True)
    with pytest.raises(SettingError, match='list'): save_model(model, path, history=[1])
    other = RatingsDataLoaders.from_df(table.assign(user=table.user+1), item_name='film', seed=1)
    with pytest.raises(SettingError, match='other ids'): save_model(model, path, history=other)

def test_folders_and_missing_files(tmp_path):
    assert save_model(a_surface(), tmp_path)==tmp_path/'model.safetensors' and load_model(str(tmp_path))
    with pytest.raises(FileNotFoundError, match='nowhere'): load_model(tmp_path/'nowhere')
    with pytest.raises(OSError): save_model(a_surface(), tmp_path/'no'/'such'/'folder')

def test_every_reader_of_safetensors_opens_it(path):
    s = a_surface()
    save_model(s, path)
    ts = st.load_file(path)
    assert all(torch.equal(ts[o], getattr(s, o)) for o in _TENSORS) and sorted(ts)==sorted([*_TENSORS,'vocab'])

# refused

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole')/'m.safetensors'
    s = a_surface(n=4, m=3, k=2)
    save_model(s, path, history=pd.DataFrame(dict(user=[1,2], film=['i1 é','i2 é'], rating=[3,4.])), note='é')
    return path.read_bytes()

def refusal(path, raw):
    path.write_bytes(raw)
    with pytest.raises(ModelFileError) as e: load_model(path)
    assert path.name in str(e.value) and '\n' not in str(e.value)
    return type(e.value)

def test_cut_anywhere(path, whole):
    path.write_bytes(whole)
    for n in range(len(whole)-1, -1, -1):
        os.truncate(path, n)
        with pytest.raises(TruncatedFileError): load_model(path)

def test_a_bit_flipped_anywhere(path, whole):
    rng,kinds = random.Random(0),{}
    path.write_bytes(whole)
    with open(path, 'r+b', buffering=0) as f:
        for at,o in enumerate(whole):
            f.seek(at), f.write(bytes([o ^ 1<<rng.randrange(8)]))
            with pytest.raises(ModelFileError) as e: load_model(path)
            kinds.setdefault(e.type, []).append(at)
            f.seek(at), f.write(bytes([o]))
    assert load_model(path)
    start = 8+len(rec._START)
    assert kinds[ForeignFileError]==list(range(8, start)) and set(kinds) <= {ForeignFileError, CorruptFileError, TruncatedFileError}
    assert max(kinds.get(TruncatedFileError, [0])) < 8   # a wrong length may look like a missing end
    assert len(kinds[CorruptFileError]) > 0.9*(len(whole)-start)

@given(hs.data())
@settings(max_examples=200, deadline=None)
def test_edited_anyhow(whole, tmp_path_factory, data):
    path,raw = tmp_path_factory.getbasetemp()/'edited',bytearray(whole)
    a = data.draw(hs.integers(0, len(raw)))
    b = data.draw(hs.integers(a, min(len(raw), a+20)))
    raw[a:b] = data.draw(hs.binary(max_size=20))
    if raw!=whole: refusal(path, raw)

def test_damage_is_located(path, whole):
    meta = json.loads(whole[8:8+int.from_bytes(whole[:8],'little')])
    at = len(whole)-1
    part = next(k for k,v in meta.items() if k!='__metadata__' and v['data_offsets'][1]==max(o['data_offsets'][1] for n,o in meta.items() if n!='__metadata__'))
    path.write_bytes(whole[:-1]+bytes([whole[-1]^1]))
    with pytest.raises(CorruptFileError, match=part): load_model(path)

@pytest.mark.parametrize('raw', [b'user,item,rating\n1,a,5\n', b'\x93NUMPY\x01\x00'+b'x'*99, b'PK\x03\x04'+b'x'*99, b'PAR1'+b'x'*99, st.save({'x':torch.ones(3)}), st.save({'x':torch.ones(3)}, {'format':'pt'}), st.save(dict.fromkeys([*_TENSORS]) and {o:torch.ones(2) for o in _TENSORS}), pickle.dumps([1]*99), b'{"a":1}'*9, os.urandom(8)+b'x'*99], ids=range(10))
def test_foreign_files(path, raw): assert refusal(path, raw) is ForeignFileError

def test_a_large_foreign_file_is_not_read(path, monkeypatch):
    with open(path, 'wb') as f: f.truncate(2**40)   # a terabyte, of which nothing is on the disk
    t = time.perf_counter()
    with pytest.raises(ForeignFileError): load_model(path)
    assert time.perf_counter()-t < 1

def packed(s, y_range=(0,5.5), tensors={}, without=(), **meta):
    ts = {**{o:getattr(s, o) for o in _TENSORS}, 'vocab':torch.frombuffer(bytearray(rec._vocab_bytes(s.classes)), dtype=torch.uint8), **tensors}
    return b''.join(rec._pack({k:v for k,v in ts.items() if k not in without}, **{'written_by':'1', 'kind':'factors', 'y_range':y_range, 'about':{}, **meta}))

def test_a_newer_format(path):
    path.write_bytes(packed(a_surface(), format=2, written_by='7.1'))
    with pytest.raises(NewerFormatError, match='format 2.*7.1.*upgrade'): load_model(path)
    assert refusal(path, packed(a_surface(), format=99, without=_TENSORS, y_range='other')) is NewerFormatError
    assert refusal(path, packed(a_surface(), format=99)[:-5]) is NewerFormatError

history = lambda **kw: {f'history.{k}':v for k,v in dict(dict(pairs=torch.ones(2, 2, dtype=torch.int32), ratings=torch.ones(2), held_out=torch.zeros(2, dtype=torch.bool)), **kw).items()}
unsound = dict(nan=dict(tensors=dict(item_bias=torch.tensor([0,1,torch.nan,0,0]))), inf=dict(tensors=dict(user_bias=torch.full((7,), torch.inf))), rows=dict(tensors=dict(user_bias=torch.zeros(6))), factors=dict(tensors=dict(item_factors=torch.zeros(5,4))),
    ints=dict(tensors=dict(item_bias=torch.zeros(5, dtype=torch.int32))), dims=dict(tensors=dict(user_factors=torch.zeros(7))), missing=dict(without=['item_factors']), no_vocab=dict(without=['vocab']), no_json=dict(tensors=dict(vocab=text_bytes(b'[')) ),
    one_column=dict(tensors=dict(vocab=text_bytes(b'[[[["str",["u"]]],[["str",["#na#"]]]]]'))), no_na=dict(tensors=dict(vocab=text_bytes(json.dumps([[[['str',['u']]],[['int',list(range(7))]]],[[['str',['i']]],[['str',['#na#',*'abcd']]]]]).encode()))),
    twice=dict(tensors=dict(vocab=text_bytes(json.dumps([[[['str',['u']]],[['str',['#na#']],['int',[1,2,3,4,5]],['float',[5.0]]]],[[['str',['i']]],[['str',['#na#',*'abcd']]]]]).encode()))), kind=dict(tensors=dict(vocab=text_bytes(b'[[[["str",["u"]]],[["eval",["1"]]]]]'))),
    y_range=dict(y_range=(5,1)), y_range_text=dict(y_range='ab'), y_range_number=dict(y_range=3), other_kind=dict(kind='os.system'), as_ease=dict(kind='ease'), deep=dict(tensors=dict(vocab=text_bytes(b'['*100_000))),
    history_rows=dict(tensors=history(pairs=torch.full((2,2), 9, dtype=torch.int32))), history_na=dict(tensors=history(pairs=torch.zeros(2, 2, dtype=torch.int32))), history_lengths=dict(tensors=history(ratings=torch.ones(3))), history_nan=dict(tensors=history(ratings=torch.full((2,), torch.nan))),
    history_part=dict(tensors={'history.pairs':torch.ones(2, 2, dtype=torch.int32)}))

@pytest.mark.parametrize('case', unsound)
def test_whole_but_unsound(path, case): assert refusal(path, packed(a_surface(), **unsound[case])) is UnsoundModelError

def test_the_untouched_one_is_fine(path):
    path.write_bytes(packed(a_surface(), tensors=history()))
    same(a_surface(), load_model(path))

def test_unsound_models_are_not_saved(path):
    s = a_surface()
    def but(**kw): return Surface(**{**{o:getattr(s, o) for o in (*_TENSORS,'classes','y_range')}, **kw})
    for bad in (dict(item_bias=torch.full((5,), torch.nan)), dict(user_bias=torch.zeros(3)), dict(classes={'u':('#na#',*'abcdee'[:6]),'i':('#na#',*'abcd')}), dict(classes={'u':tuple('abcdefg'),'i':('#na#',*'abcd')}), dict(y_range=(1,0)), dict(item_bias=torch.zeros(5).long())):
        with pytest.raises(UnsoundModelError): save_model(but(**bad), path)
    assert not path.exists()

# nothing is unpickled

class Boom:
    def __reduce__(self): return exec, ("import collab_notes; collab_notes._boom = True",)

def test_no_pickle_on_the_load_path(path, monkeypatch, whole):
    import collab_notes
    path.write_bytes(whole)
    boom = pickle.dumps(Boom())
    def explode(*args, **kwargs): raise AssertionError('somebody unpickles')
    for o,names in {pickle:('load','loads','Unpickler','_Unpickler'), torch:('load',), np:('load',), zipfile:('ZipFile',), sys.modules['builtins']:('eval','exec')}.items():
        for n in names: monkeypatch.setattr(o, n, explode)
    m = load_model(path)
    assert m.classes['user']==('#na#',1,2,3)
    for raw in (boom, whole[:200]+boom): refusal(path, raw)
    monkeypatch.undo()
    torch.save(Boom(), path)
    with pytest.raises(ForeignFileError): load_model(path)
    assert not hasattr(collab_notes, '_boom')

# whole at any moment

@pytest.mark.parametrize('where', ['fsync','replace','copymode'])
@pytest.mark.parametrize('error', [OSError('disk full'), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file(path, monkeypatch, where, error):
    save_model(a_surface(), path)
    old = path.read_bytes()
    def fail(*args, **kw): raise error
    monkeypatch.setattr(training.shutil if where=='copymode' else training.os, where, fail)
    with pytest.raises(type(error)): save_model(a_surface(seed=1), path)
    monkeypatch.undo()
    assert path.read_bytes()==old and [o.name for o in path.parent.iterdir()]==[path.name]

def test_leftovers_are_swept_when_old(path):
    old,fresh,other = (path.with_name(o) for o in (f'.{path.name}.00000000.part', f'.{path.name}.11111111.part', '.other.22222222.part'))
    for o in (old,fresh,other): o.write_bytes(b'x')
    for o in (old,other): os.utime(o, (time.time()-3600,)*2)
    save_model(a_surface(), path)
    assert not old.exists() and fresh.exists() and other.exists()

@pytest.mark.skipif(os.name=='nt', reason='modes and links of Unix')
def test_modes_and_links(path, tmp_path):
    umask = os.umask(0o027)
    try: save_model(a_surface(), path)
    finally: os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode)==0o640
    path.chmod(0o604)
    save_model(a_surface(), path)
    assert stat.S_IMODE(path.stat().st_mode)==0o604
    (tmp_path/'link').symlink_to(path)
    save_model(a_surface(seed=5), tmp_path/'link')
    assert (tmp_path/'link').is_symlink() and torch.equal(load_model(path).item_bias, a_surface(seed=5).item_bias)

_save_for_ever = '''
import torch
from collab_notes.models import Surface
from collab_notes.recommend import save_model
torch.set_num_threads(1)
def version(v): return Surface(torch.full((3001,50), float(v)), torch.full((2001,50), float(v)), torch.full((3001,), float(v)), torch.full((2001,), float(v)), {'u':('#na#',*range(3000)), 'i':('#na#',*range(2000))}, None)
versions,n = [version(0),version(1)],0
while True:
    save_model(versions[n%2], path, n=n)
    n += 1
    if n==2: ready.set()
'''

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL') or 'forkserver' not in multiprocessing.get_all_start_methods(), reason='kill -9 is of Unix')
def test_kill_9_at_any_moment(path):
    "A process that saves a megabyte over and over is killed at random moments: what is there is one of its two models, whole."
    ctx,rng = multiprocessing.get_context('forkserver'),random.Random(1)
    ctx.set_forkserver_preload(['collab_notes.training', 'collab_notes.latent', 'collab_notes.recommend', 'torch._dynamo', 'matplotlib.backends.backend_agg'])
    cut = 0
    for turn in range(15):
        ready = ctx.Event()
        p = ctx.Process(target=exec, args=(_save_for_ever, dict(path=path, ready=ready)), daemon=True)
        p.start()
        assert ready.wait(60)
        time.sleep(rng.random()*0.15)
        while turn%2 and not any(path.parent.glob('.*.part')): pass   # every other time in the middle of a write
        os.kill(p.pid, signal.SIGKILL)
        p.join()
        assert p.exitcode==-signal.SIGKILL
        m = load_model(path)
        v = m.about['n']%2
        assert all((getattr(m, o)==v).all() for o in _TENSORS) and m.about['n']>=1
        cut += len(list(path.parent.glob('.*.part')))
        for o in path.parent.glob('.*.part'): o.unlink()
    assert cut   # some were killed in the middle
