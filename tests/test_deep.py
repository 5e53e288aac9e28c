"""Nets and side tables on small, odd input: what is wrong is told in our words, nothing the caller passed in is changed."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.torch_core import no_random
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.learner import Learner
from fastai.losses import MSELossFlat

from collab_notes.core import LayeredNet, Surface, as_model, predict, predict_one
from collab_notes.data import RatingsDataLoaders
from collab_notes.deep import *
from collab_notes.errors import CollabError, MissingColumnError, SettingError, SideTableError, UnseenIdError
from collab_notes.training import ratings_learner
from conftest import ratings_of, same_weights, values, weights

ratings = ratings_of()
users = pd.DataFrame(dict(user=range(20), kind=['a','b']*10, age=np.arange(20)))
items = pd.DataFrame(dict(item=[f'i{o}' for o in range(30)], tags=[['x'],['x','y']]*15, year=pd.array([1990,None,2000]*10, dtype='Int64')))

def quiet_fit(learn, n=2):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(n)
    return learn

@pytest.mark.parametrize('bad', [[5], [5,6,7], [5,0], [5,-1], [5,2.5], [5,True], [5,'6'], 5, 'ab', {'movie':3}, {'user':None}, [(20,5),(31,5)]], ids=str)
def test_bad_emb_szs(bad, dls):
    with pytest.raises(SettingError, match='emb_szs'): nn_learner(dls, emb_szs=bad)
    with pytest.raises(SettingError, match='emb_szs'): CollabNN.from_dls(dls, bad)

def test_nn_learner_leaves_config(dls):
    cfg = dict(ps=[.1,.2])
    learn = nn_learner(dls, layers=(7,3), config=cfg)
    assert cfg == dict(ps=[.1,.2]) and learn.model.y_range == learn.model.layers[-1].__dict__.get('range', learn.model.y_range)
    assert nn_learner(dls, config=dict(y_range=(0,6))).model.y_range == (0,6)

def test_side_table_is_left_as_it_is():
    before = [users.copy(), items.copy()]
    quiet_fit(hybrid_learner(ratings, users, items, seed=1), 1)
    pd.testing.assert_frame_equal(users, before[0]); pd.testing.assert_frame_equal(items, before[1])

def test_columns_and_what_is_left_out(dls):
    odd = users.assign(const=1, name=[f'n{o}' for o in range(20)], b=[True,None]*10)
    learn = quiet_fit(hybrid_learner(dls, odd, items, seed=0))
    assert np.isfinite(learn.recorder.values[-1][1]) and learn.model.columns['user'] == ['kind=a','kind=b','age','b=#na#','b=True']
    assert learn.model.left_out == dict(user=dict(const='the same for everyone', name='different for everyone'), item={})

def test_bad_side_tables(dls):
    for bad,err,says in ((users[5:], SideTableError, '5 of 20'), (users.drop(columns='user'), MissingColumnError, 'join by'), (users[['user']], SideTableError, 'ids only'), (users.to_numpy(), SideTableError, 'DataFrame')):
        with pytest.raises(err, match=says): hybrid_learner(dls, bad)
    assert quiet_fit(hybrid_learner(dls, users[5:], absent='na'), 1).model.user_x.shape == (21,5)
    with pytest.raises(SettingError, match='valid_pct: settings for a ratings table'): hybrid_learner(dls, valid_pct=0.1)

def test_loaders_do_as_well_as_a_table(dls):
    a,b = (quiet_fit(hybrid_learner(o, users, items, seed=0, **kw), 1) for o,kw in ((dls,{}), (ratings,{})))
    assert same_weights(weights(a.model), weights(b.model))

@pytest.mark.parametrize('layers', [None, [8], [8,4]], ids=str)
def test_hybrid_learns_and_saves(layers, dls, tmp_path):
    learn = quiet_fit(hybrid_learner(dls, users, items, layers=layers, n_factors=5, seed=0), 10)
    assert learn.recorder.values[-1][1] < 0.8*learn.recorder.values[0][1]
    other = hybrid_learner(dls, users, items, layers=layers, n_factors=5, seed=9).model
    torch.save(learn.model.state_dict(), tmp_path/'m.pth')
    other.load_state_dict(torch.load(tmp_path/'m.pth', weights_only=True))
    x = dls.valid.tensors()[0].long()
    with torch.no_grad(): assert torch.equal(other.eval()(x), learn.model.eval()(x))
    m = as_model(learn)
    assert isinstance(m, LayeredNet if layers else Surface)
    assert torch.allclose(m.pair_scores(*x.unbind(1)), learn.model(x).detach(), atol=1e-5)

def test_every_parameter_is_in_one_group(dls):
    m = hybrid_learner(dls, users, items, layers=[4]).model
    got = [id(p) for g in hybrid_groups(m) for p in g]
    assert len(got) == len(set(got)) == len(list(m.parameters()))

@pytest.mark.parametrize('bad', [dict(layers=[0]), dict(layers=[2.5]), dict(layers='ab'), dict(n_factors=0), dict(y_range=(5,0)), dict(layers=[4], model_kwargs=dict(p=2))], ids=str)
def test_bad_settings(bad, dls):
    with pytest.raises(SettingError): hybrid_learner(dls, users, items, **bad)

def test_seed_leaves_global_state(dls):
    torch.manual_seed(3); a = torch.rand(1)
    torch.manual_seed(3); hybrid_learner(dls, users, items, layers=[4], seed=1); assert torch.equal(torch.rand(1), a)

def learners(df, **kw):
    "Each kind of learner that this library makes or wraps, not trained"
    torch.manual_seed(0)
    dls,stock = RatingsDataLoaders.from_df(df, bs=32, seed=0, **kw),CollabDataLoaders.from_df(df, seed=0, bs=32)
    yield 'hybrid', hybrid_learner(dls, users, items, seed=0)
    yield 'hybrid net', hybrid_learner(dls, users, items, layers=[4], seed=0)
    yield 'nn', nn_learner(dls)
    yield 'CollabNN', Learner(dls, CollabNN.from_dls(dls), loss_func=MSELossFlat(), lr=0.03)
    yield 'ours', ratings_learner(dls)
    yield 'ensemble', ratings_learner(dls, n_models=3)
    yield 'stock', collab_learner(stock, y_range=(0,5.5), lr=0.03)
    yield 'stock nn', collab_learner(stock, use_nn=True, y_range=(0,5.5), lr=0.03)

def each_learner(df, **kw): return pytest.mark.parametrize('name,learn', [pytest.param(*o, id=o[0]) for o in learners(df, **kw)])

@each_learner(ratings)
def test_predict(name, learn):
    quiet_fit(learn, 1)
    was = values(learn)
    learn.model.train()
    pairs = pd.DataFrame(dict(item=['i3','i4','i3'], user=[5,5,7], x=1), index=[9,9,2])
    out = predict(learn, pairs)
    assert list(out.index) == [9,9,2] and list(out) == ['item','user','x','prediction'] and list(pairs) == ['item','user','x']
    for u,i,p in zip(pairs.user, pairs.item, out.prediction): assert abs(predict_one(learn, u, i)-p) < 1e-5
    assert learn.model.training and values(learn) == was
    with pytest.raises(UnseenIdError, match='55'): predict_one(learn, 55, 'i3')
    with pytest.raises(UnseenIdError, match='5'): predict_one(learn, '5', 'i3')
    assert np.isfinite(predict_one(learn, 55, 'i3', unseen='na'))
    quiet_fit(learn, 1)

high = ratings.assign(rating=(ratings.rating/2+2.5))   # from 3 to 5, far from the middle of the range, and user 19 is for validation only
late = (high.user==19).to_numpy()

@each_learner(high, splits=(np.flatnonzero(~late), np.flatnonzero(late)))
def test_somebody_unknown_is_near_the_mean(name, learn):
    with no_random(0): quiet_fit(learn, 12)   # fastai's own loader draws its rows
    m = as_model(learn)
    rows = torch.arange(1, m.vocab.n_users-1)
    of = lambda u,i: m.scores(torch.as_tensor(u), torch.as_tensor(i)).mean().item()
    mean,every = of(rows, range(1, m.vocab.n_items)),range(1, m.vocab.n_items)
    assert abs(mean-high.rating.mean()) < 0.3
    assert abs(of([0], every)-mean) < 0.15                      # a stranger
    assert abs(of([m.vocab.row(19, False)], every)-mean) < 0.2   # a user without training ratings
    assert abs(of(rows, [0])-mean) < 0.15                       # an unknown item
    assert abs(predict_one(learn, 'nobody', 'nothing', unseen='na')-mean) < 0.5

@pytest.mark.parametrize('layers', [None, [4], 'nn'], ids=str)
def test_our_learners_fill_their_own_rows(layers):
    "What is not known is the mean of what is, in the model itself: embeddings, and columns of facts"
    dls = RatingsDataLoaders.from_df(high, seed=0, splits=(np.flatnonzero(~late), np.flatnonzero(late)))
    learn = quiet_fit(nn_learner(dls) if layers=='nn' else hybrid_learner(dls, users, items, layers=layers, seed=0))
    m = getattr(learn.model, 'dot', learn.model)
    tables = [o.weight for o in m.embeds] if layers=='nn' else [o.weight for o in (m.user_emb, m.item_emb, m.user_bias_emb, m.item_bias_emb)]
    for k,t in enumerate(tables):
        rated = torch.arange(1, 31 if k%2 else 20)
        assert torch.allclose(t[0], t[rated].mean(0), atol=1e-6) and t[0].abs().sum()>0
        if k%2==0: assert torch.allclose(t[20], t[0], atol=1e-6)   # user 19, who has no training ratings
    if layers=='nn': return
    for x,n in ((m.user_x,20),(m.item_x,31)): assert torch.allclose(x[0], x[1:n].mean(0), atol=1e-6) and x[0].abs().sum()>0
    assert not torch.allclose(m.user_x[20], m.user_x[0])   # but facts about user 19 are known

def test_who_rated_what_sees_training_rows_only(dls):
    by_user,by_item = who_rated_what(dls)
    assert by_user['rated item'].map(len).sum() == by_item['rated by user'].map(len).sum() == len(dls.train_ds)
    quiet_fit(hybrid_learner(dls, users.merge(by_user, how='left'), items.merge(by_item, how='left'), seed=0), 1)

def test_one_rating_everywhere_with_a_range():
    "A range that is given is not worked out from the ratings, which would fail when all are alike"
    flat = RatingsDataLoaders.from_df(ratings.assign(rating=3.), seed=0)
    for learn in hybrid_learner(flat, y_range=(0,5)), nn_learner(flat, layers=[4], y_range=(0,5)): assert learn.model.y_range == (0,5)
    with pytest.raises(CollabError, match='nothing to learn'): nn_learner(flat)

def test_net_is_that_of_fastai(dls):
    "The same seed, the same parameters; and the same output from the lesson's rebuilt net in training, too, with the same gradients"
    torch.manual_seed(0); a = nn_learner(dls, y_range=(0,5.5)).model
    torch.manual_seed(0); b = collab_learner(dls, use_nn=True, layers=[100,50], y_range=(0,5.5)).model
    assert all(torch.equal(p, q) for p,q in zip(a.parameters(), b.parameters()))
    x,y = dls.valid.tensors()
    grads = []
    for m in (a, b):
        m.train(); m.zero_grad(); MSELossFlat()(m(x.long()), y).backward()
        grads.append([p.grad for p in m.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) and all(torch.equal(p, q) for p,q in zip(*grads))

def test_columns_and_net_take_smaller_steps(dls):
    learn = hybrid_learner(dls, users, items, layers=[4], lr=0.02, wd=0.5)
    assert learn.lr == [0.02,0.002,0.02] and learn.wd == [0.5,0.5,0.]
    quiet_fit(learn, 1)
    a,b,c = (h['lr'] for h in learn.opt.hypers)
    assert abs(b-a/10) < 1e-9 and a == c and [h['wd'] for h in learn.opt.hypers] == [0.5,0.5,0.]

def test_what_fastai_itself_does_with_strangers():
    "`predict` fails; a test loader scores anything, as row 0; sizes in a list are an error of Python's"
    stock = CollabDataLoaders.from_df(ratings, seed=0, bs=32)
    learn = collab_learner(stock, n_factors=5, y_range=(0,5.5))
    with pytest.raises(TypeError): learn.predict(pd.Series(dict(user=3, item='i3')))
    with learn.no_bar(): silently = learn.get_preds(dl=stock.test_dl(pd.DataFrame(dict(user=[999,-5], item='no such item'))))[0]
    assert torch.allclose(silently, learn.model(torch.zeros(2, 2, dtype=torch.long)).detach(), atol=1e-5)
    with pytest.raises(AttributeError, match="'list' object has no attribute 'get'"): collab_learner(stock, use_nn=True, emb_szs=[(20,5), (31,5)])
