"""What models, their surface and training promise beyond what notebooks 01 to 03 show: nothing is changed behind one's back, the same seed gives
the same numbers anywhere, odd input is told in our words."""
import copy, pickle, random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.collab import CollabDataLoaders, EmbeddingDotBias, collab_learner
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collab_notes.core import LayeredNet, as_model
from collab_notes.data import *
from collab_notes.errors import CollabError, NotAModelError, NullIdError, RatingRangeError, SettingError, ShapeError, UnseenIdError, UnsupportedError
from collab_notes.latent import autograd_gradients, baseline_losses, damped_means, dot, init_factors, learn_factors, mf_gradients, predict_ratings
from collab_notes.models import *
from collab_notes.training import even_batch, fit, ratings_learner
from conftest import LIMIT, ratings_of, same_weights, values, weights

four = 'user_factors','item_factors','user_bias','item_bias'
each_model = pytest.mark.parametrize('M', [DotProduct, DotProductBias, DotProductBiasParams])

def rng_states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

# models

@each_model
@pytest.mark.parametrize('kw', [dict(std=0), dict(std=-1), dict(std=float('nan')), dict(std=float('inf')), dict(std='small'), dict(y_range=(5,0)), dict(y_range=(1,1)), dict(y_range=5),
    dict(y_range=(0,)), dict(y_range=(0,5,10)), dict(y_range=(0,float('nan'))), dict(y_range=(float('-inf'),5)), dict(y_range='05'), dict(n_factors=0), dict(n_factors=-3), dict(n_factors=2.5), dict(n_factors='5'), dict(n_factors=None)], ids=str)
def test_settings_that_make_no_sense(M, kw, dls):
    with pytest.raises(SettingError, match=next(iter(kw))): M.from_dls(dls, **kw)
    with pytest.raises(SettingError, match=next(iter(kw))): M(5, 6, **{'n_factors':3, **kw})

@each_model
def test_sizes_that_make_no_sense(M):
    for args in (0,6,3), (5,-1,3), (5,6.5,3), (None,6,3):
        with pytest.raises(SettingError): M(*args)

@each_model
def test_a_range_that_ratings_leave(M, dls):
    with pytest.raises(RatingRangeError, match='1 to 5'): M.from_dls(dls, 3, y_range=(0,4.5))
    with pytest.raises(RatingRangeError): M.from_dls(dls, 3, y_range=(1.5,6))

@each_model
@settings(max_examples=25)
@given(n_users=st.integers(1,8), n_items=st.integers(1,8), k=st.integers(1,5), y_range=st.sampled_from([None,(0,5.5),(-1,1)]), data=st.data())
def test_models_are_the_formula(M, n_users, n_items, k, y_range, data):
    "Whatever the sizes and numbers; a row at a time as all at once; and `Surface` predicts the same."
    model = M(n_users, n_items, k, y_range=y_range)
    for p in model.parameters(): p.data.normal_(0, 1)
    model.classes = dict(user=['#na#',*range(1,n_users)], item=['#na#',*range(1,n_items)])
    x = torch.tensor(data.draw(st.lists(st.tuples(st.integers(0,n_users-1), st.integers(0,n_items-1)), min_size=1, max_size=9)))
    u,i = x.unbind(1)
    uf,itf,ub,ib = (getattr(model, o).detach() for o in four)
    want = torch.stack([uf[a]@itf[b] + ub[a] + ib[b] for a,b in zip(u,i)])
    if y_range: want = torch.sigmoid(want)*(y_range[1]-y_range[0]) + y_range[0]
    with torch.no_grad(): got,single = model(x),torch.cat([model(o[None]) for o in x])
    assert torch.allclose(got, want, atol=1e-5) and torch.allclose(single, got, atol=1e-5)
    assert torch.allclose(as_model(model).pair_scores(u, i), got, atol=1e-5)

@each_model
def test_what_a_learner_has_trained_can_be_pickled(M, dls):
    model = M.from_dls(dls, 3)
    again = pickle.loads(pickle.dumps(model))
    x = dls.one_batch()[0]
    assert torch.equal(again(x), model(x)) and again.classes == model.classes

@each_model
@pytest.mark.parametrize('y_range', [(0,5.5), None], ids=str)
def test_gradients_go_to_rows_that_were_looked_up(M, y_range, dls):
    "To all of these, to no others; and eight ratings can be learned by heart"
    torch.manual_seed(42)
    model = M.from_dls(dls, 10, y_range=y_range)
    x,y = (o[:8] for o in dls.one_batch())
    out = model(x)
    assert out.shape==(8,) and (y_range is None or y_range[0]<out.min() and out.max()<y_range[1])
    MSELossFlat()(out, y).backward()
    for k,n in ((0,'user'),(1,'item')):
        for p in (o for name,o in model.named_parameters() if name.startswith(n)):
            assert p.grad.abs().reshape(len(p), -1).sum(1).nonzero().squeeze(1).tolist()==sorted(set(x[:,k].tolist()))
    opt = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        opt.zero_grad(); loss = MSELossFlat()(model(x), y); loss.backward(); opt.step()
    assert loss<1e-3

@each_model
def test_sizes_and_loaders_of_others(M, dls):
    "numpy's integers are integers, a list is a range; fastai's own loaders know names, too"
    m = M.from_dls(dls, np.int64(4), y_range=[0,5.5])
    assert m.y_range==(0,5.5) and M.from_dls(dls).n_factors==50
    x = dls.one_batch()[0]
    assert torch.equal(copy.deepcopy(m)(x), m(x))
    theirs = M.from_dls(CollabDataLoaders.from_df(ratings_of(), bs=8, seed=1), 5)
    assert as_model(theirs).item_name=='item'

def test_parameters_begin_small():
    torch.manual_seed(42)
    p = create_params([944,50])
    assert p.shape==(944,50) and isinstance(p, nn.Parameter) and p.requires_grad
    assert abs(p.std().item()-0.01)<2e-4 and abs(p.mean().item())<2e-4

# surface

@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('make', [lambda dls: Learner(dls, DotProduct.from_dls(dls, 4), loss_func=MSELossFlat()), lambda dls: Learner(dls, DotProductBias.from_dls(dls, 4), loss_func=MSELossFlat()),
    lambda dls: Learner(dls, DotProductBiasParams.from_dls(dls, 4), loss_func=MSELossFlat()), lambda dls: collab_learner(dls, n_factors=4, y_range=(0,5.5)), lambda dls: ratings_learner(dls, n_factors=4)],
    ids='DotProduct DotProductBias Params collab_learner recipe'.split())
def test_surface_looks_and_does_not_touch(dls, make, training):
    learn = make(dls)
    model = learn.model.train(training)
    next(iter(model.parameters())).requires_grad_(False)
    nxt = learn.dls.train.rng.getstate()
    before = weights(model),[p.requires_grad for p in model.parameters()],[p.device for p in model.parameters()],[p.data_ptr() for p in model.parameters()],rng_states()
    s = as_model(learn)
    assert same_weights(weights(model), before[0])
    assert ([p.requires_grad for p in model.parameters()],[p.device for p in model.parameters()],[p.data_ptr() for p in model.parameters()],rng_states()) == before[1:]
    assert all(m.training==training for m in model.modules()) and learn.dls.train.rng.getstate()==nxt
    x = dls.train.tensors()[0].long()
    with torch.no_grad(): assert torch.allclose(s.raw_pairs(x[:,0], x[:,1]), model(x).flatten(), atol=1e-5)
    for n in four:
        assert not getattr(s, n).requires_grad
        getattr(s, n).fill_(9)
    assert same_weights(weights(model), before[0])
    assert list(s.classes.values()) == [tuple(o) for o in dls.classes.values()]
    assert as_model(s) is s

def test_surface_of_the_same_numbers_is_the_same(dls):
    "fastai's model, ours, and ours on parameters"
    ours = DotProductBias.from_dls(dls, 4)
    theirs = EmbeddingDotBias(4, *(len(o) for o in dls.classes.values()), y_range=(0,5.5))
    for layer,n in zip((theirs.u_weight, theirs.i_weight, theirs.u_bias, theirs.i_bias), four): layer.weight.data.copy_(getattr(ours, n).detach().view_as(layer.weight))
    params = DotProductBiasParams.from_dls(dls, 4)
    for n in four: getattr(params, n).data.copy_(getattr(ours, n).detach())
    a,b,c = as_model(ours, dls),as_model(Learner(dls, theirs, loss_func=MSELossFlat())),as_model(params, dls)
    for n in four: assert torch.equal(getattr(a,n), getattr(b,n)) and torch.equal(getattr(a,n), getattr(c,n))
    assert a.classes == b.classes == c.classes and a.y_range == b.y_range == c.y_range == (0,5.5)

def test_what_has_no_factors(dls):
    net = collab_learner(dls, use_nn=True, layers=[5], y_range=(0,5.5))
    for o in (net, as_model(net)):
        m = as_model(o)
        assert type(m)==LayeredNet and m.pair_scores([1,2],[3,4]).shape==(2,)
        for f in (m.factors, m.biases):
            with pytest.raises(UnsupportedError): f()
    for o in (nn.Linear(3,2), nn.Sequential(), None, 3):
        with pytest.raises(NotAModelError): as_model(o)
    with pytest.raises(NotAModelError, match='from_dls'): as_model(DotProductBias(5,6,3))
    model = DotProductBias.from_dls(dls, 3)
    model.classes = dict(user=['#na#',1], item=['#na#',2])
    with pytest.raises(NotAModelError, match='same data'): as_model(model)

def test_whose_names_a_surface_has(dls):
    "The model's own, or those of the Learner's loaders; fastai's models may have the columns the other way round"
    m = DotProductBias(*(len(o) for o in dls.classes.values()), 3)
    assert as_model(Learner(dls, m, loss_func=MSELossFlat())).item_name=='item' and m.classes is None
    wrapped = nn.DataParallel(DotProductBias.from_dls(dls, 3))
    assert as_model(wrapped).user_factors.shape==(len(dls.classes['user']),3)
    swap = as_model(EmbeddingDotBias.from_classes(3, dls.classes, user='item', item='user'))
    assert swap.user_name=='item' and swap.item_factors.shape==(len(dls.classes['user']),3)

def test_codes_and_predict(dls):
    s = as_model(DotProductBias.from_dls(dls, 3))
    for is_item in (True, False):
        c = s.classes[s.item_name if is_item else s.user_name]
        assert s.vocab.rows(c[1:], is_item=is_item).tolist() == list(range(1, len(c)))
        assert s.vocab.rows(pd.Series(c[1:4]), is_item=is_item).tolist() == s.vocab.rows(np.array(c[1:4]), is_item=is_item).tolist() == [1,2,3]
    assert s.vocab.rows('i7').shape == (1,) and s.vocab.rows([]).shape == (0,)
    for bad,rows,error in (['i1','nope',None], [1,2], UnseenIdError), ('5', [0], UnseenIdError), ([None], [0], NullIdError):
        with pytest.raises(error) as e: s.vocab.rows(bad)
        assert (e.value.column, e.value.rows) == ('item', rows)
    with pytest.raises(UnseenIdError): s.vocab.rows('5', is_item=False)   # ids of users are numbers: '5' is not 5
    assert s.pair_scores(torch.arange(3)[:,None], torch.arange(4)[None]).shape == (3,4)
    for u,i in ([-1],[0]), ([0],[-1]), ([999],[0]), ([0],[999]):
        with pytest.raises(IndexError): s.pair_scores(u, i)
    assert pickle.loads(pickle.dumps(s)).classes == s.classes

# by hand

@settings(max_examples=40)
@given(st.integers(1,5), st.integers(1,5), st.integers(1,4), st.integers(1,12), st.integers(0,2**31))
def test_gradients_by_formula_and_by_autograd(n_users, n_items, k, n, seed):
    g = torch.Generator().manual_seed(seed)
    uf,itf = init_factors(n_users, n_items, k, std=1., seed=seed)
    u,i,y = torch.randint(n_users, (n,), generator=g),torch.randint(n_items, (n,), generator=g),torch.randn(n, generator=g)
    before = uf.clone(),itf.clone()
    for a,b in zip(mf_gradients(uf, itf, u, i, y), autograd_gradients(uf, itf, u, i, y)): assert torch.allclose(a, b, atol=1e-5)
    assert torch.equal(uf, before[0]) and torch.equal(itf, before[1]) and not uf.requires_grad
    assert torch.allclose(predict_ratings(uf, itf, u, i), torch.stack([uf[a]@itf[b] for a,b in zip(u,i)]), atol=1e-5)

def test_shapes_that_do_not_go_together():
    a,b = init_factors(3, 4, 2)
    for f in (lambda: dot(a, torch.zeros(3)), lambda: dot(torch.tensor(1.), torch.tensor(2.)), lambda: predict_ratings(a, b, torch.tensor([0,1]), torch.tensor([0])), lambda: predict_ratings(a, b, torch.tensor([3]), torch.tensor([0])),
              lambda: predict_ratings(a, b, torch.tensor([0]), torch.tensor([-1])), lambda: mf_gradients(a, b, torch.tensor([0]), torch.tensor([0]), torch.tensor([[3.]]))):
        with pytest.raises(ShapeError): f()

@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0,4), st.integers(0,4), st.integers(1,5)), min_size=1, max_size=30), st.sampled_from([0,1.5,5,1e6]))
def test_damped_means_by_hand(rows, damping):
    u,i,y = (np.array(o) for o in zip(*rows))
    b = damped_means(u, i, y, 5, 5, damping)
    item = [(y[i==o]-y.mean()).sum()/((i==o).sum()+damping) if (i==o).any() else 0 for o in range(5)]
    assert np.allclose(b.item_bias, item, atol=1e-6)
    assert np.allclose(b.user_bias, [(y[u==o]-y.mean()-b.item_bias[i[u==o]]).sum()/((u==o).sum()+damping) if (u==o).any() else 0 for o in range(5)], atol=1e-6)

def test_baselines_of_a_table_and_of_its_loaders_agree(dls):
    df = ratings_of()
    a,b = baseline_losses(dls),baseline_losses(df, random_split(df, seed=0))
    pd.testing.assert_frame_equal(a, b, rtol=1e-5)
    for f in (lambda: baseline_losses(df), lambda: baseline_losses(dls, random_split(df))):
        with pytest.raises(SettingError): f()
    assert np.isfinite(baseline_losses(CollabDataLoaders.from_df(df, bs=16))).all(axis=None)   # fastai's own loaders

def test_learning_by_hand_leaves_the_loaders_alone(dls):
    state,states = dls.train.rng.getstate(),rng_states()
    a,b = learn_factors(dls, 3, 2, lr=1.),learn_factors(dls, 3, 2, lr=1.)
    assert torch.equal(a.user_factors, b.user_factors) and dls.train.rng.getstate()==state and rng_states()==states

# training

trained_elsewhere = '''
import sys, torch
sys.path.insert(0, here)
torch.set_num_threads(1)
from collab_notes.training import fit
from conftest import loaders_of, values, weights
learn = fit(loaders_of(), 2, seed=7, progress=False)
torch.save(dict(weights=weights(learn.model), values=values(learn)), out)
'''

def test_the_same_seed_gives_the_same_model_in_any_process(dls, tmp_path, start):
    ps = [start(trained_elsewhere, here=str(Path(__file__).parent), out=str(tmp_path/f'{i}.pt')) for i in range(2)]
    for p in ps: p.join(LIMIT)
    assert [p.exitcode for p in ps] == [0,0]
    a,b = (torch.load(tmp_path/f'{i}.pt') for i in range(2))
    random.seed(1); np.random.seed(2); torch.manual_seed(3)
    here = fit(dls, 2, seed=7, progress=False)
    assert same_weights(a['weights'], b['weights']) and a['values']==b['values']
    far = max((v-a['weights'][k]).abs().max().item() for k,v in weights(here.model).items())
    assert far < 1e-6
    assert same_weights(weights(here.model), weights(fit(dls, 2, seed=7, progress=False).model))
    assert not same_weights(weights(here.model), weights(fit(dls, 2, seed=8, progress=False).model))
    assert not same_weights(weights(fit(dls, 1, progress=False).model), weights(fit(dls, 1, progress=False).model))

def test_fit_leaves_everything_else_as_it_was(dls):
    class Counter(Callback):
        n = 0
        def after_epoch(self): self.n += 1
    df,cb = ratings_of(),Counter()
    cbs = [cb]
    bs,order,states,path = [o.bs for o in dls.loaders],dls.train.rng.getstate(),rng_states(),dls.path
    learn = fit(dls, 3, seed=1, progress=False, cbs=cbs, patience=5, restore_best=True)
    assert cbs == [cb] and cb.n == 3 and cb not in learn.cbs
    assert ([o.bs for o in dls.loaders], dls.train.rng.getstate(), rng_states(), dls.path) == (bs, order, states, path)
    assert {type(o).__name__ for o in learn.cbs} == {type(o).__name__ for o in Learner(dls, learn.model, loss_func=MSELossFlat()).cbs} | {'ShrinkBiases','FillUnknown','StandardScale','StopDiverged'}
    assert sorted(y for _,ys in dls.train for y in ys[:,0].tolist()) == sorted(df.rating.iloc[random_split(df, seed=0)[0]])
    assert fit(dls, 1, progress=False, cbs=Counter()).recorder.values   # one callback, not in a list

def test_the_result_has_the_surface_and_learns(dls):
    learn = fit(dls, 15, seed=1, progress=False, n_factors=5)
    loss = values(learn)[-1][1]   # (`validate` starts the record anew)
    assert loss < 0.6*baseline_losses(dls).loc['user + item means','valid MSE']
    s = as_model(learn)
    assert all(torch.equal(getattr(s, n), getattr(learn.model, n).detach()) for n in four)
    with learn.no_bar(): assert np.isclose(learn.validate()[0], loss, atol=1e-5)

def test_patience_and_best_epoch(dls):
    kw = dict(seed=1, progress=False, lr=0.3, wd=0.)
    last,stopped,best = fit(dls, 12, **kw),fit(dls, 12, patience=2, **kw),fit(dls, 12, restore_best=True, **kw)
    losses = [o[1] for o in values(last)]
    low = int(np.argmin(losses))
    assert low < 9, 'this test needs a model that overfits'
    assert len(values(stopped)) < 12 and [o[1] for o in values(stopped)] == losses[:len(values(stopped))]
    assert [o[1] for o in values(best)] == losses
    with best.no_bar(): assert np.isclose(best.validate()[0], losses[low], atol=1e-5)
    with last.no_bar(): assert np.isclose(last.validate()[0], losses[-1], atol=1e-5)

@pytest.mark.parametrize('n', [2,3,5,64,65,130])
@pytest.mark.parametrize('kw', [{}, dict(bs=1), dict(bs=4096)], ids=str)
def test_tables_of_any_size(n, kw):
    df = ratings_of(n+3, n_users=20)
    df.loc[[0,1],'rating'] = [1.,5.]
    dls = RatingsDataLoaders.from_df(df, splits=(range(n), range(n,n+3)), seed=0)
    learn = fit(dls, 1, seed=0, progress=False, y_range=(0,5.5), **kw)
    assert np.isfinite(values(learn)).all() and sum(len(y) for _,y in learn.dls.train)==n

@settings(max_examples=200)
@given(st.integers(1, 3_000_000))
def test_even_batch(n):
    bs = even_batch(n)
    assert 1 <= bs <= min(n, max(2048, -(-n//50))) and n-(-(-n//bs)-1)*bs > 0 and -(-n//bs) <= 50

def test_loaders_that_leave_out_the_last_batch():
    dls = RatingsDataLoaders.from_df(ratings_of(103), splits=(range(100), range(100,103)), bs=32, seed=0, drop_last=True)
    learn = fit(dls, 1, seed=0, progress=False, bs=32)
    assert [len(y) for _,y in learn.dls.train] == [32]*3 and np.isfinite(values(learn)).all()

def test_one_rating_everywhere(dls):
    "Nothing to learn, and the range can't be guessed; with one that is given, training runs."
    dls = RatingsDataLoaders.from_df(ratings_of().assign(rating=3.), seed=0)
    with pytest.raises(CollabError, match='y_range'): fit(dls, 1, progress=False)

def test_one_rating_everywhere_with_a_range():
    dls = RatingsDataLoaders.from_df(ratings_of().assign(rating=3.), seed=0)
    assert np.isfinite(values(fit(dls, 1, progress=False, y_range=(0,5)))).all()

def test_what_fit_refuses(dls):
    with pytest.raises(SettingError, match='n_epoch'): fit(dls, 0, progress=False)
    with pytest.raises(SettingError, match='bs'): fit(dls, 1, progress=False, bs=0)
    with pytest.raises(SettingError, match='n_factors'): fit(dls, 1, progress=False, n_factors=0)
    with pytest.raises(RatingRangeError): fit(dls, 1, progress=False, y_range=(0,3))
    with pytest.raises(SettingError, match='RatingsDataLoaders'): fit(CollabDataLoaders.from_df(ratings_of(), bs=16), 1, progress=False)

def test_a_model_and_callbacks_of_your_own(dls, tmp_path):
    model = DotProductBiasParams.from_dls(dls, 3)
    start = weights(copy.deepcopy(model))
    learn = fit(dls, 2, model=model, progress=False, cbs=[SaveModelCallback(fname='best', with_opt=False)], path=tmp_path)
    assert learn.model is model and not same_weights(weights(model), start) and (tmp_path/'models/best.pth').exists()
