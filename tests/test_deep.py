"""Nets and side tables on small, odd input: what is wrong is told in our words, nothing the caller passed in is changed."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders, collab_learner

from collab_notes.data import CollabError, MissingColumnError, RatingsDataLoaders, SettingError, UnseenIdError
from collab_notes.deep import *
from collab_notes.models import NotAFactorModelError, surface
from collab_notes.training import ratings_learner

torch.set_num_threads(1)

def ratings_of(n=300, seed=0, n_users=20, n_items=30):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users*n_items)[:n]
    u,i = pairs//n_items,pairs%n_items
    return pd.DataFrame(dict(user=u, item=[f'i{o}' for o in i], rating=np.clip(3+np.where((u%2==0)==(i<15), 1.5, -1.5)+rng.normal(0, .4, n), 1, 5).round()))

ratings = ratings_of()
users = pd.DataFrame(dict(user=range(20), kind=['a','b']*10, age=np.arange(20)))
items = pd.DataFrame(dict(item=[f'i{o}' for o in range(30)], tags=[['x'],['x','y']]*15, year=pd.array([1990,None,2000]*10, dtype='Int64')))

@pytest.fixture
def dls(): return RatingsDataLoaders.from_df(ratings, bs=32, seed=0)

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

def test_order_and_index_of_a_side_table_do_not_matter(dls):
    a = side_columns(users, 'user', dls.classes['user'])
    b = side_columns(users.sample(frac=1, random_state=0), 'user', dls.classes['user'])
    c = side_columns(users.set_index('user'), 'user', dls.classes['user'])
    assert torch.equal(a.x, b.x) and torch.equal(a.x, c.x) and a.names == b.names == c.names == ['kind=a','kind=b','age']

def test_extra_rows_do_not_matter(dls):
    more = pd.concat([users, pd.DataFrame(dict(user=[99,100], kind=['z','z'], age=[1000,2000]))])
    assert torch.equal(side_columns(users, 'user', dls.classes['user']).x, side_columns(more, 'user', dls.classes['user']).x)

@pytest.mark.parametrize('table,err,says', [
    (users.rename(columns=dict(user='id')), MissingColumnError, 'join by'), (users[5:], SideTableError, '5 of 20'), (users.assign(user=users.user.astype(str)), SideTableError, '20 of 20'),
    (users[:0], SideTableError, '20 of 20'), (pd.concat([users, users[:1].assign(age=77)]), SideTableError, 'contradict'), (users.assign(age=np.inf), SideTableError, 'infinite'),
    (users.assign(d=[{'a':1}]*20), SideTableError, 'dicts'), (users.assign(z=1j), SideTableError, 'z'),     (users.to_numpy(), TypeError, 'DataFrame'), (pd.concat([users, users[['age']]], axis=1), SideTableError, 'age')], ids=range(10))
def test_bad_side_tables(table, err, says, dls):
    with pytest.raises(err, match=says) as e: side_columns(table, 'user', dls.classes['user'])
    assert isinstance(e.value, (CollabError, TypeError))

def test_ids_at_fault_are_named(dls):
    with pytest.raises(SideTableError) as e: side_columns(users[2:], 'user', dls.classes['user'])
    assert e.value.ids == [0,1]
    x = side_columns(users[2:], 'user', dls.classes['user'], absent='na')
    assert 'age=#na#' in x.names and x.x[1:3,x.names.index('age=#na#')].tolist() == [1,1] and torch.isfinite(x.x).all()
    with pytest.raises(SideTableError, match='20 of 20'): side_columns(users.assign(user=users.user+100), 'user', dls.classes['user'], absent='na')
    with pytest.raises(SettingError, match='absent'): side_columns(users, 'user', dls.classes['user'], absent='skip')

def test_odd_columns(dls):
    odd = users.assign(const=1, none=None, nan=np.nan, b=[True,None]*10, when=pd.date_range('2020', periods=20), cat=pd.Categorical(['p|q','r']*10), name=[f'n{o}' for o in range(20)], mixed=[1,'a']*10, took=pd.Timedelta('1h')*users.age)
    s = side_columns(odd, 'user', dls.classes['user'])
    assert s.left_out == ['const','none','nan','name'] and torch.isfinite(s.x).all() and len(s.names) == s.x.shape[1]
    assert {'b=True','b=#na#','when','took','cat=p|q','mixed=1','mixed=a'} <= set(s.names)
    learn = quiet_fit(hybrid_learner(dls, odd, items, seed=0))
    assert np.isfinite(learn.recorder.values[-1][1])

def test_table_with_ids_only_is_no_table(dls):
    a,b = (quiet_fit(hybrid_learner(dls, t, seed=0)).model for t in (users[['user']], None))
    assert torch.equal(a.user_factors, b.user_factors)

@pytest.mark.parametrize('layers', [None, [8], [8,4]], ids=str)
def test_hybrid_learns_and_saves(layers, dls, tmp_path):
    learn = quiet_fit(hybrid_learner(dls, users, items, layers=layers, n_factors=5, seed=0), 10)
    assert learn.recorder.values[-1][1] < 0.8*learn.recorder.values[0][1]
    other = hybrid_learner(dls, users, items, layers=layers, n_factors=5, seed=9).model
    torch.save(learn.model.state_dict(), tmp_path/'m.pth')
    other.load_state_dict(torch.load(tmp_path/'m.pth', weights_only=True))
    x = dls.valid.tensors()[0].long()
    with torch.no_grad(): assert torch.equal(other.eval()(x), learn.model.eval()(x))
    if layers:
        with pytest.raises(NotAFactorModelError): surface(learn)
    else: assert torch.allclose(surface(learn).predict(*x.unbind(1)), learn.model(x).detach(), atol=1e-5)

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

def learners():
    dls,stock = RatingsDataLoaders.from_df(ratings, bs=32, seed=0),CollabDataLoaders.from_df(ratings, seed=0, bs=32)
    yield 'hybrid', hybrid_learner(dls, users, items, layers=[4], seed=0)
    yield 'nn', nn_learner(dls)
    yield 'ours', ratings_learner(dls)
    yield 'stock', collab_learner(stock, y_range=(0,5.5))
    yield 'stock nn', collab_learner(stock, use_nn=True, y_range=(0,5.5))

@pytest.mark.parametrize('name,learn', [pytest.param(*o, id=o[0]) for o in learners()])
def test_predict(name, learn):
    quiet_fit(learn, 1)
    was = [list(o) for o in learn.recorder.values]
    learn.model.train()
    pairs = pd.DataFrame(dict(item=['i3','i4','i3'], user=[5,5,7], x=1), index=[9,9,2])
    out = predict_pairs(learn, pairs)
    assert list(out.index) == [9,9,2] and list(out) == ['item','user','x','prediction'] and list(pairs) == ['item','user','x']
    for u,i,p in zip(pairs.user, pairs.item, out.prediction): assert abs(predict_one(learn, u, i)-p) < 1e-5
    assert learn.model.training and [list(o) for o in learn.recorder.values] == was
    with pytest.raises(UnseenIdError, match='55'): predict_one(learn, 55, 'i3')
    with pytest.raises(UnseenIdError, match='5'): predict_one(learn, '5', 'i3')
    assert np.isfinite(predict_one(learn, 55, 'i3', unseen='na'))
    quiet_fit(learn, 1)

def test_who_rated_what_sees_training_rows_only(dls):
    by_user,by_item = who_rated_what(dls)
    assert by_user['rated item'].map(len).sum() == by_item['rated by user'].map(len).sum() == len(dls.train_ds)
    quiet_fit(hybrid_learner(dls, users.merge(by_user, how='left'), items.merge(by_item, how='left'), seed=0), 1)

def test_one_rating_everywhere_with_a_range():
    "A range that is given is not worked out from the ratings, which would fail when all are alike"
    flat = RatingsDataLoaders.from_df(ratings.assign(rating=3.), seed=0)
    for learn in hybrid_learner(flat, y_range=(0,5)), nn_learner(flat, layers=[4], y_range=(0,5)): assert learn.model.y_range == (0,5)
    with pytest.raises(CollabError, match='nothing to learn'): nn_learner(flat)
