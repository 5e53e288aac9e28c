"""Bayesian matrix factorization on small, odd input: errors in our words, behaviour where there is no data, nothing of the caller's disturbed."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders

from collab_notes.bayes import time_columns
from collab_notes.bayes import BayesianPMF
from collab_notes.data import CollabError, EmptyRatingsError, MissingColumnError, RatingsDataLoaders, RatingsError, SettingError, UnseenIdError
from collab_notes.deep import SideTableError
from collab_notes.interpret import similar_items, top_items
from collab_notes.models import DotProductBias, NotAFactorModelError, surface

torch.set_num_threads(1)

def ratings_of(n=400, seed=0, n_users=24, n_items=30):
    "Even users like the first half of the items, odd users the others"
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users*n_items)[:n]
    u,i = pairs//n_items,pairs%n_items
    y = np.clip(3+np.where((u%2==0)==(i<n_items//2), 1.5, -1.5)+rng.normal(0, .6, n), 1, 5).round()
    return pd.DataFrame(dict(user=u, item=[f'i{o}' for o in i], rating=y, day=rng.integers(0, 9, n)))

ratings = ratings_of()
users = pd.DataFrame(dict(user=range(24), kind=['a','b']*12, age=np.arange(24.)))
items = pd.DataFrame(dict(item=[f'i{o}' for o in range(30)], half=['x']*15+['y']*15, year=[1990.,None,2000.]*10))
SHORT = dict(n_factors=2, n_sweeps=12, burn_in=6, seed=0)

def loaders(df=ratings, **kw): return RatingsDataLoaders.from_df(df, **{'seed':0, **kw})
def fitted(dls=None, users=None, items=None, init=None, absent='error', **kw):
    return BayesianPMF(**{**SHORT, **kw}).fit(loaders() if dls is None else dls, users, items, init=init, absent=absent, progress=False)

@pytest.mark.parametrize('bad', [dict(n_factors=0), dict(n_factors=2.5), dict(likelihood='probit'), dict(n_sweeps=0), dict(burn_in=12), dict(burn_in=-1), dict(chains=0), dict(keep=0), dict(link_rank=0)], ids=str)
def test_bad_settings(bad):
    with pytest.raises(SettingError, match=next(iter(bad))): BayesianPMF(**{**SHORT, **bad})

def test_needs_our_loaders():
    with pytest.raises(TypeError, match='RatingsDataLoaders'): fitted(CollabDataLoaders.from_df(ratings, seed=0))

def test_not_fitted_yet():
    m = BayesianPMF()
    with pytest.raises(SettingError, match='fitted'): m.predict(ratings)
    with pytest.raises((NotAFactorModelError, SettingError)): surface(m)

# --- tables about users and items
@pytest.mark.parametrize('kw,says,ids', [(dict(users=users[:-2]), '2 of 24', [22,23]), (dict(items=items[1:]), '1 of 30', ['i0']), (dict(users=users.assign(user=users.user.astype(str))), '24 of 24', None),
    (dict(users=users.assign(age=np.inf)), 'infinite', None), (dict(users=pd.concat([users, users[:1].assign(age=99)])), 'contradict', [0])], ids=['a user','an item','other type','inf','twice'])
def test_tables_that_do_not_go_with_the_ratings(kw, says, ids):
    with pytest.raises(SideTableError, match=says) as e: fitted(**kw)
    if ids: assert e.value.ids == ids

def test_missing_rows_can_be_allowed():
    m = fitted(users=users[:-2], absent='na')
    assert 'age=#na#' in m.columns['user'] and np.isfinite(m.valid_rmse)

def test_constant_and_empty_columns_are_left_out_and_named():
    m = fitted(users=users.assign(planet='Earth', fax=None, nothing=np.nan))
    assert m.left_out['user'] == ['planet','fax','nothing'] and m.columns['user'] == ['kind=a','kind=b','age']
    assert m.valid_rmse == fitted(users=users).valid_rmse
    for t in (users[['user']].assign(planet='Earth'), users[['user']].assign(fax=np.nan), users[['user']]):
        with pytest.raises(SideTableError, match='says anything'): fitted(users=t)

def test_gaps_in_a_column_get_an_indicator():
    m = fitted(items=items)
    assert m.columns['item'] == ['half=x','half=y','year','year=#na#'] and np.isfinite(m.link_table()).all().all()

def test_no_table_no_link_table():
    with pytest.raises(SettingError, match='without a table'): fitted().link_table()

# --- ratings
def test_ordinal_needs_few_levels():
    fine = ratings.assign(rating=ratings.rating+np.random.default_rng(0).random(len(ratings)))
    with pytest.raises(RatingsError, match='gaussian'): fitted(loaders(fine))
    m = fitted(loaders(fine), likelihood='gaussian')
    p = m.predict(fine)
    assert m.y_range is None and fine.rating.min() <= p.prediction.min() <= p.prediction.max() <= fine.rating.max()

def test_one_level_teaches_nothing():
    for lik in ('ordinal','gaussian'):
        with pytest.raises(CollabError, match='nothing to learn'): fitted(loaders(ratings.assign(rating=3.)), likelihood=lik)

@pytest.mark.parametrize('lik', ['ordinal','gaussian'])
@pytest.mark.parametrize('scale', [lambda y: (y>3)*1., lambda y: y/2, lambda y: 10*y-30], ids=['two levels','halves','negative'])
def test_other_scales(lik, scale):
    df = ratings.assign(rating=scale(ratings.rating))
    m = fitted(loaders(df), likelihood=lik, n_sweeps=30, burn_in=12)
    assert m.valid_rmse < df.rating.std()*0.8
    d = m.predict_dist(df[:50])
    assert [float(o) for o in d.columns] == sorted(df.rating.unique()) and np.allclose(d.sum(axis=1), 1) and (d>=0).all().all()

def test_learns_and_is_honest():
    m = fitted(n_sweeps=40, burn_in=15, chains=2)
    t = ratings.iloc[m_valid(m)]
    assert m.valid_rmse < 0.9 < ratings.rating.std()
    iv = m.intervals(t, 0.8)
    assert ((iv.low<=t.rating)&(t.rating<=iv.high)).mean() > 0.7 and (iv.low<=iv.high).all()
    wide = m.intervals(t, 0.99)
    assert ((wide.high-wide.low)>=(iv.high-iv.low)).all()
    for bad in (0, 1, 1.5):
        with pytest.raises(SettingError, match='level'): m.intervals(t, bad)

def m_valid(m): return loaders().valid_ds.items.index

# --- where there is nothing to go by
def test_user_without_ratings_is_expected_to_be_like_their_columns():
    split = np.flatnonzero(ratings.user<22),np.flatnonzero(ratings.user>=22)
    m = fitted(loaders(splits=split), users=users[['user','kind']], implicit=False, n_sweeps=40, burn_in=15)
    p = m.predict(pd.DataFrame(dict(user=[22,22,23,23], item=['i0','i29']*2)))
    assert p.prediction[0] > p.prediction[1]+0.5 and p.prediction[3] > p.prediction[2]+0.5      # 22 is even, kind a
    known = m.predict(pd.DataFrame(dict(user=[0,0], item=['i0','i29'])))
    assert p.mean_std.mean() > known.mean_std.mean()

@pytest.mark.parametrize('kw', [dict(), dict(implicit=False), dict(likelihood='gaussian'), dict(user_scale=False)], ids=str)
def test_user_and_item_without_ratings_get_the_prior(kw):
    split = np.flatnonzero((ratings.user<22)&(ratings.item!='i3')),np.flatnonzero((ratings.user>=22)|(ratings.item=='i3'))
    m = fitted(loaders(splits=split), n_sweeps=20, burn_in=10, **kw)
    p = m.predict(pd.DataFrame(dict(user=[22,23,0,22], item=['i0','i0','i3','i3'])))
    assert np.isfinite(p[['prediction','std','mean_std']]).all().all() and abs(p.prediction[0]-p.prediction[1]) < 1e-3
    assert p.prediction.between(1.5, 4.5).all() and (p['std']>0.5).all() and np.isfinite(m.valid_rmse)
    s = surface(m)
    assert all(torch.isfinite(o).all() for o in (s.user_factors, s.item_factors, s.user_bias, s.item_bias))

def test_unknown_ids():
    m = fitted()
    for bad,what in ((dict(user=[99], item=['i0']), '99'), (dict(user=[0], item=['zz']), 'zz'), (dict(user=['0'], item=['i0']), "'0'")):
        with pytest.raises(UnseenIdError, match=what): m.predict(pd.DataFrame(bad))
        assert np.isfinite(m.predict(pd.DataFrame(bad), unseen='na').prediction).all()
    with pytest.raises(MissingColumnError, match='item'): m.predict(ratings[['user']])
    with pytest.raises(EmptyRatingsError): m.predict(ratings[:0])
    with pytest.raises(SettingError, match='unseen'): m.predict(ratings, unseen='skip')
    with pytest.raises(TypeError, match='table'): m.predict([(0,'i0')])

@pytest.mark.parametrize('shape', [(2,2), (3,30), (24,3)])
def test_tiny_tables(shape):
    df = ratings_of(n=shape[0]*shape[1]-(1 if min(shape)>2 else 0), n_users=shape[0], n_items=shape[1]).assign(rating=lambda d: 1.+np.arange(len(d))%3)
    m = fitted(loaders(df, splits=(np.arange(len(df)), [])), users=users, chains=2)
    assert m.valid_rmse is None and np.isfinite(m.predict(df).prediction).all() and len(surface(m).user_factors)==len(m.classes['user'])

# --- effects
def by_day():
    "Ratings that depend on the day as well"
    shift = np.random.default_rng(1).normal(0, 1, 9)
    return ratings.assign(rating=np.clip(ratings.rating+shift[ratings.day], 0, 6).round())

def test_effects():
    m = fitted(loaders(by_day()), effects=['day', ('user','day')])
    assert m.effects == [('day',), ('user','day')] and len(m.vocabs[1][1]) > len(m.vocabs[0][1])
    new = m.predict(ratings.assign(day=1000))
    assert new['std'].mean() > m.predict(ratings)['std'].mean()                    # a new day could be any
    gone = m.predict(ratings.drop(columns='day'), effects=False)
    np.testing.assert_allclose(gone.prediction, new.prediction, atol=1e-6)
    with pytest.raises(MissingColumnError, match='day'): m.predict(ratings.drop(columns='day'))
    with pytest.raises(MissingColumnError, match='month'): fitted(effects=['month'])
    with pytest.raises(RatingsError, match='day') as e: fitted(loaders(ratings.assign(day=ratings.day.where(ratings.index!=loaders().train_ds.items.index[0]))), effects=['day'])
    assert len(e.value.rows)==1

def test_an_effect_is_found():
    more = dict(implicit=False, n_sweeps=30, burn_in=12)
    assert fitted(loaders(by_day()), effects=['day'], **more).valid_rmse < fitted(loaders(by_day()), **more).valid_rmse

def test_time_columns():
    df = ratings.assign(timestamp=880_000_000+61*np.arange(len(ratings)))
    a,b = time_columns(df),time_columns(df.assign(timestamp=pd.to_datetime(df.timestamp, unit='s')))
    cols = ['date','hour','ten','ten_shifted','minute','minute_shifted']
    pd.testing.assert_frame_equal(a[cols], b[cols])
    assert list(df.columns)==list(a.columns)[:5] and (a.minute_shifted-a.minute).isin([0,1]).all()
    with pytest.raises(MissingColumnError, match='time'): time_columns(ratings)

# --- running
@pytest.mark.parametrize('kw', [dict(), dict(likelihood='gaussian'), dict(chains=3)], ids=str)
def test_same_seed_same_numbers(kw):
    torch.manual_seed(5); np.random.seed(5)
    a,b,c = (fitted(**{**kw, 'seed':s}) for s in (1,1,2))
    assert a.valid_rmse==b.valid_rmse!=c.valid_rmse and torch.equal(a.user_factors, b.user_factors)
    after = torch.rand(1),np.random.rand()
    torch.manual_seed(5); np.random.seed(5)
    assert (torch.rand(1),np.random.rand())==after                                # nobody else's random numbers moved

def test_chains_are_independent_of_each_other():
    m = fitted(chains=2)
    u = m.samples[0]['users']
    assert u.shape==(2,25,3) and not torch.allclose(u[0], u[1]) and m.trace('user bias sd').shape==(2,6)

def test_held_out_rows_do_not_matter():
    split = np.arange(300),np.arange(300, 400)
    other = ratings.copy()
    other.loc[300:,'rating'] = 1.
    other.loc[300:,'item'] = other.item[300:].to_numpy()[::-1]
    a,b = (fitted(loaders(o, splits=split, duplicates='keep'), users, items) for o in (ratings,other))
    assert a.predict(ratings).prediction.tolist()==b.predict(ratings).prediction.tolist()

def test_samples_are_thinned():
    m = fitted(n_sweeps=40, burn_in=10, keep=7)
    assert len(m.samples)==6 and m.samples[0]['users'].dtype==torch.float32       # every fifth of 30

def interrupt_at(monkeypatch, n):
    sweep,count = BayesianPMF._sweep,iter(range(1000))
    def _sweep(self, adapt=False):
        if next(count)==n: raise KeyboardInterrupt
        return sweep(self, adapt)
    monkeypatch.setattr(BayesianPMF, '_sweep', _sweep)

def test_ctrl_c_keeps_what_there_is(monkeypatch):
    interrupt_at(monkeypatch, 9)
    with pytest.warns(UserWarning, match='9 of 12 sweeps'): m = fitted()
    assert len(m.samples)==3 and len(m.history)==9 and np.isfinite(m.predict(ratings).prediction).all() and torch.isfinite(m.item_factors).all()

def test_ctrl_c_during_burn_in_is_an_interrupt(monkeypatch):
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt): fitted()

def test_start_from_a_model():
    dls = loaders()
    start = DotProductBias.from_dls(dls, 5)
    assert np.isfinite(fitted(dls, init=start).valid_rmse)
    with pytest.raises(SettingError, match='init'): fitted(loaders(ratings[ratings.user!=3]), init=start)
    with pytest.raises(NotAFactorModelError): fitted(dls, init=torch.nn.Linear(1, 1))

def test_refit_is_a_new_start():
    m = BayesianPMF(**SHORT)
    a = m.fit(loaders(), progress=False).predict(ratings).prediction
    f = m.user_factors
    b = m.fit(loaders(), progress=False).predict(ratings).prediction
    assert a.equals(b) and torch.equal(f, m.user_factors)

def test_silence(capsys):
    fitted()
    assert capsys.readouterr().out == ''

def test_caller_is_left_alone():
    before = [o.copy() for o in (ratings,users,items)]
    m = fitted(users=users, items=items)
    out = m.predict(ratings)
    for a,b in zip((ratings,users,items), before): pd.testing.assert_frame_equal(a, b)
    assert list(out.columns)==[*ratings.columns,'prediction','std','mean_std'] and out.index.equals(ratings.index)

def test_surface_is_near_the_posterior_mean():
    m = fitted(n_sweeps=40, burn_in=15, users=users)
    s,p = surface(m),m.predict(ratings).prediction.to_numpy()
    q = s.predict(s.codes(ratings.user, False), s.codes(ratings.item)).numpy()
    assert ((p-q)**2).mean()**0.5 < 0.12 and m.y_range==(1.,5.) and tuple(s.classes)==('user','item')
    assert len(similar_items(m, 'i0', n=3, ratings=ratings))==3 and len(top_items(m, n=4, ratings=ratings))==4

def test_diagnose():
    d = fitted(chains=2, n_sweeps=30, burn_in=10, effects=['day']).diagnose()
    assert list(d.columns)==['mean','sd','rhat','ess'] and 'sd of day' in d.index and np.isfinite(d).all().all()
