"""Bayesian matrix factorization on small, odd input: errors in our words, behaviour where there is no data, nothing of the caller's disturbed; saved with its samples."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders

from collab_notes.bayes import BayesianPMF, time_columns
from collab_notes.coldstart import new_user
from collab_notes.core import Surface, as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import (
    CollabError, MissingColumnError, NotAModelError, RatingsError, SettingError, SideTableError, UnsavableError, UnseenIdError, UnsoundModelError, UnsupportedError)
from collab_notes.files import load, read_tensors, write_tensors
from collab_notes.interpret import top_items
from collab_notes.models import DotProductBias
from collab_notes.sampler import Gibbs
from collab_notes.topn import top_rows
from collab_notes.vocab import History
from conftest import ratings_of

ratings = ratings_of(400, n_users=24, noise=0.6).assign(day=lambda o: np.random.default_rng(1).integers(0, 9, len(o)))
users = pd.DataFrame(dict(user=range(24), kind=['a','b']*12, age=np.arange(24.)))
items = pd.DataFrame(dict(item=[f'i{o}' for o in range(30)], half=['x']*15+['y']*15, year=[1990.,None,2000.]*10))
SHORT = dict(n_factors=2, n_sweeps=12, burn_in=6, seed=0)

def loaders(df=ratings, **kw): return RatingsDataLoaders.from_df(df, **{'seed':0, **kw})
def fitted(dls=None, users=None, items=None, init=None, absent='error', **kw):
    return BayesianPMF(**{**SHORT, **kw}).fit(loaders() if dls is None else dls, users, items, init=init, absent=absent, progress=False)

@pytest.mark.parametrize('bad', [dict(n_factors=0), dict(n_factors=2.5), dict(likelihood='probit'), dict(n_sweeps=0), dict(burn_in=12), dict(burn_in=-1), dict(chains=0), dict(keep=0), dict(link_rank=0)], ids=str)
def test_bad_settings(bad):
    with pytest.raises(SettingError, match=next(iter(bad))): BayesianPMF(**{**SHORT, **bad})

def test_fits_ratings_in_any_form():
    "fastai's loaders, a table, a history; the same rows in the same order give the same numbers"
    df = ratings.sort_values(['user','item'], ignore_index=True)
    split = np.arange(len(df)),[]
    ours = fitted(loaders(df, splits=split), effects=['day'])
    assert ours.predict(df).equals(fitted(df, effects=['day']).predict(df))
    stock = fitted(CollabDataLoaders.from_df(df, seed=0), effects=['day'])           # in an order of its own
    assert str(stock.history)=='320 ratings and 80 held out' and stock.valid_rmse<1.3
    ids = fitted(History.of(df))
    assert ids.predict(df).equals(fitted(df).predict(df)) and ids.valid_rmse is None
    with pytest.raises(MissingColumnError, match='day'): fitted(History.of(df), effects=['day'])
    with pytest.raises(SettingError, match='no ratings'): fitted(History(ids.vocab, ids.history.pairs))
    with pytest.raises(CollabError): fitted(7)

def test_not_fitted_yet(tmp_path):
    m = BayesianPMF()
    assert 'not fitted' in repr(m)
    for f in (lambda: m.predict(ratings), lambda: m.dist(ratings), lambda: m.intervals(ratings), lambda: m.scores([1]), lambda: top_rows(m), m.as_surface, m.diagnose, m.link_table,
              lambda: m.thin(2), lambda: m.save(tmp_path/'m'), lambda: m.factors(), lambda: new_user(m, {'i0':5})):
        with pytest.raises(NotAModelError, match='call fit first'): f()

# --- tables about users and items
@pytest.mark.parametrize('kw,says,ids', [(dict(users=users[:-2]), '2 of 24', [22,23]), (dict(items=items[1:]), '1 of 30', ['i0']), (dict(users=users.assign(user=users.user.astype(str))), '24 of 24', None),
    (dict(users=users.assign(age=np.inf)), 'no finite number', None), (dict(users=pd.concat([users, users[:1].assign(age=99)])), 'contradict', [0])], ids=['a user','an item','other type','inf','twice'])
def test_tables_that_do_not_go_with_the_ratings(kw, says, ids):
    with pytest.raises(SideTableError, match=says) as e: fitted(**kw)
    if ids: assert e.value.ids == ids

def test_missing_rows_can_be_allowed():
    m = fitted(users=users[:-2], absent='na')
    assert 'age=#na#' in m.columns['user'] and np.isfinite(m.valid_rmse)

def test_constant_and_empty_columns_are_left_out_and_named():
    m = fitted(users=users.assign(planet='Earth', fax=None, nothing=np.nan))
    assert list(m.left_out['user']) == ['planet','fax','nothing'] and all(m.left_out['user'].values()) and m.columns['user'] == ['kind=a','kind=b','age']
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
    with pytest.raises(RatingsError, match='gaussian'): fitted(loaders(fine), likelihood='ordinal')
    assert fitted(loaders(fine)).likelihood=='gaussian' and fitted().likelihood=='ordinal'
    m = fitted(loaders(fine), likelihood='gaussian')
    p = m.predict(fine)
    assert m.as_surface().y_range is None and fine.rating.min() <= p.prediction.min() <= p.prediction.max() <= fine.rating.max()

def test_one_level_teaches_nothing():
    for lik in ('ordinal','gaussian'):
        with pytest.raises(CollabError, match='nothing to learn'): fitted(loaders(ratings.assign(rating=3.)), likelihood=lik)

@pytest.mark.parametrize('lik', ['ordinal','gaussian'])
@pytest.mark.parametrize('scale', [lambda y: (y>3)*1., lambda y: y/2, lambda y: 10*y-30], ids=['two levels','halves','negative'])
def test_other_scales(lik, scale):
    df = ratings.assign(rating=scale(ratings.rating))
    m = fitted(loaders(df), likelihood=lik, n_sweeps=30, burn_in=12)
    assert m.valid_rmse < df.rating.std()*0.8
    d = m.dist(df[:50])
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
    s = m.as_surface()
    assert all(torch.isfinite(o).all() for o in (s.user_factors, s.item_factors, s.user_bias, s.item_bias))

def test_unknown_ids():
    m = fitted()
    for bad,what in ((dict(user=[99], item=['i0']), '99'), (dict(user=[0], item=['zz']), 'zz'), (dict(user=['0'], item=['i0']), "'0'")):
        with pytest.raises(UnseenIdError, match=what): m.predict(pd.DataFrame(bad))
        assert np.isfinite(m.predict(pd.DataFrame(bad), unseen='na').prediction).all()
    with pytest.raises(MissingColumnError, match='item'): m.predict(ratings[['user']])
    assert list(m.predict(ratings[:0]).columns)==[*ratings.columns,'prediction','std','mean_std'] and m.dist(ratings[:0]).shape==(0,5)
    some = pd.concat([ratings[:3], ratings[3:5].assign(user=99), ratings[5:7].assign(item='zz')])
    for f in (m.predict, m.intervals, m.dist):
        pd.testing.assert_frame_equal(f(some, unseen='skip'), f(ratings[:3]))
        with pytest.raises(SettingError, match='unseen'): f(ratings, unseen='drop')
    with pytest.raises(SettingError, match='effects'): m.predict(ratings, effects='yes')
    with pytest.raises(CollabError, match='table'): m.predict([(0,'i0')])

@pytest.mark.parametrize('shape', [(2,2), (3,30), (24,3)])
def test_tiny_tables(shape):
    df = ratings_of(n=shape[0]*shape[1]-(1 if min(shape)>2 else 0), n_users=shape[0], n_items=shape[1]).assign(rating=lambda d: 1.+np.arange(len(d))%3)
    m = fitted(loaders(df, splits=(np.arange(len(df)), [])), users=users, chains=2)
    assert m.valid_rmse is None and np.isfinite(m.predict(df).prediction).all() and len(m.as_surface().user_factors)==len(m.classes['user'])

# --- effects
def by_day():
    "Ratings that depend on the day as well"
    shift = np.random.default_rng(1).normal(0, 1, 9)
    return ratings.assign(rating=np.clip(ratings.rating+shift[ratings.day], 0, 6).round())

def test_effects():
    m = fitted(loaders(by_day()), effects=['day', ('user','day')])
    assert m.effects == [('day',), ('user','day')] and len(m.effect_levels[1][1]) > len(m.effect_levels[0][1])
    new = m.predict(ratings.assign(day=1000))
    assert new['std'].mean() > m.predict(ratings)['std'].mean()                    # a new day could be any
    gone = m.predict(ratings.drop(columns='day'), effects=False)
    np.testing.assert_allclose(gone.prediction, new.prediction, atol=1e-6)
    assert m.predict(ratings.drop(columns='day')).prediction.equals(gone.prediction)            # without the column, as without its effects
    assert m.predict(ratings).equals(m.predict(ratings, effects=True)) and not m.predict(ratings).prediction.equals(m.predict(ratings, effects=False).prediction)
    with pytest.raises(MissingColumnError, match='day'): m.predict(ratings.drop(columns='day'), effects=True)
    with pytest.raises(RatingsError, match='day'): m.predict(ratings.assign(day=None))
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
    assert a.valid_rmse==b.valid_rmse!=c.valid_rmse and torch.equal(a.factors(False), b.factors(False))
    after = torch.rand(1),np.random.rand()
    torch.manual_seed(5); np.random.seed(5)
    assert (torch.rand(1),np.random.rand())==after                                # nobody else's random numbers moved

def test_chains_are_independent_of_each_other():
    m = fitted(chains=2)
    u = m.posterior.samples[0]['users']
    assert u.shape==(2,25,7) and not torch.allclose(u[0], u[1]) and m.trace('user bias sd').shape==(2,6)

def test_held_out_rows_do_not_matter():
    split = np.arange(300),np.arange(300, 400)
    other = ratings.copy()
    other.loc[300:,'rating'] = 1.
    other.loc[300:,'item'] = other.item[300:].to_numpy()[::-1]
    a,b = (fitted(loaders(o, splits=split, duplicates='keep'), users, items) for o in (ratings,other))
    assert a.predict(ratings).prediction.tolist()==b.predict(ratings).prediction.tolist()

def test_samples_are_thinned():
    m = fitted(n_sweeps=40, burn_in=10, keep=7)
    s = m.posterior.samples
    assert len(s)==6 and s[0]['users'].dtype==torch.float32       # every fifth of 30

def interrupt_at(monkeypatch, n):
    sweep,count = Gibbs.sweep,iter(range(1000))
    def stopped(self, adapt=False):
        if next(count)==n: raise KeyboardInterrupt
        return sweep(self, adapt)
    monkeypatch.setattr(Gibbs, 'sweep', stopped)

def test_ctrl_c_keeps_what_there_is(monkeypatch):
    interrupt_at(monkeypatch, 9)
    with pytest.warns(UserWarning, match='9 of 12 sweeps'): m = fitted()
    assert len(m.posterior.samples)==3 and len(m.rmse_by_sweep)==9 and np.isfinite(m.predict(ratings).prediction).all() and torch.isfinite(m.factors()).all()

def test_ctrl_c_during_burn_in_is_an_interrupt(monkeypatch):
    m = fitted()
    before = m.predict(ratings)
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt): m.fit(loaders(ratings[ratings.user!=3]), progress=False)
    assert m.predict(ratings).equals(before)                                      # it is what it was
    with pytest.raises(NotAModelError, match='fit first'): BayesianPMF().predict(ratings)

def test_start_from_a_model():
    dls = loaders()
    start = DotProductBias.from_dls(dls, 5)
    assert np.isfinite(fitted(dls, init=start).valid_rmse)
    with pytest.raises(SettingError, match='init'): fitted(loaders(ratings[ratings.user!=3]), init=start)
    assert np.isfinite(fitted(dls, init=fitted(dls)).valid_rmse)                  # of its own kind, too
    with pytest.raises(NotAModelError): fitted(dls, init=torch.nn.Linear(1, 1))

def test_refit_is_a_new_start():
    m = BayesianPMF(**SHORT)
    a = m.fit(loaders(), progress=False).predict(ratings).prediction
    f = m.factors()
    b = m.fit(loaders(), progress=False).predict(ratings).prediction
    assert a.equals(b) and torch.equal(f, m.factors())

def test_silence(capsys):
    fitted()
    assert capsys.readouterr().out == ''

def test_caller_is_left_alone():
    before = [o.copy() for o in (ratings,users,items)]
    m = fitted(users=users, items=items)
    out = m.predict(ratings)
    for a,b in zip((ratings,users,items), before): pd.testing.assert_frame_equal(a, b)
    assert list(out.columns)==[*ratings.columns,'prediction','std','mean_std'] and out.index.equals(ratings.index)

# --- as any other model
KINDS = {'ordinal':dict(), 'alike':dict(user_scale=False, implicit=False), 'gaussian':dict(likelihood='gaussian'), 'chains':dict(chains=3, implicit=False),
         'effects':dict(effects=['day',('user','day'),('name','flag')]), 'tables':dict(users=users, items=items, chains=2)}
named = ratings.assign(name=np.where(ratings.day>4, 'late', 'soon'), flag=ratings.day%2==0)

@pytest.mark.parametrize('kw', KINDS.values(), ids=KINDS)
def test_scores_are_the_posterior_mean(kw):
    "All items at once, pair by pair, and by id: users and items without ratings among them"
    split = np.flatnonzero((ratings.user<22)&(ratings.item!='i3')),np.flatnonzero((ratings.user>=22)|(ratings.item=='i3'))
    m = fitted(loaders(named, splits=split), **kw)
    u,i = torch.cartesian_prod(torch.arange(25), torch.arange(31)).unbind(1)
    x = m.scores(torch.arange(25))
    torch.testing.assert_close(x.flatten(), m.pair_scores(u, i), atol=2e-5, rtol=0)
    torch.testing.assert_close(m.scores([3,24], [0,5,4]), x[[3,24]][:,[0,5,4]], atol=2e-6, rtol=0)
    df = pd.DataFrame({'user':m.vocab.ids(u, False), 'item':m.vocab.ids(i)})[(u>0).numpy()&(i>0).numpy()]
    np.testing.assert_allclose(m.predict(df).prediction, x[1:,1:].flatten(), atol=2e-5)
    rows,shown = top_rows(m, n=5)
    torch.testing.assert_close(shown, m.pair_scores(torch.arange(1, 25)[:,None], rows), atol=2e-5, rtol=0)
    assert m.rates and as_model(m) is m and m.pair_scores(torch.zeros(0).long(), 3).shape==(0,)

def test_surface_is_near_the_posterior_mean():
    m = fitted(n_sweeps=40, burn_in=15, users=users)
    s = m.as_surface()
    p,q = (o.predict(ratings).prediction.to_numpy() for o in (m,s))
    assert ((p-q)**2).mean()**0.5 < 0.12 and s.y_range==(1.,5.) and tuple(s.classes)==('user','item')
    assert isinstance(s, Surface) and s is m.as_surface() and s.history is m.history and len(m.history)==400
    assert torch.equal(m.factors(), s.item_factors) and torch.equal(m.biases(False), s.user_bias) and torch.equal(m.vectors(), s.vectors())
    assert len(m.similar('i0', n=3))==3 and len(top_items(m, n=4))==4
    other = m.with_history(ratings[:50])
    assert len(other.as_surface().history)==50 and len(m.as_surface().history)==400 and torch.equal(other.factors(), m.factors())

# --- saved
def everything(m, df):
    "All that can be asked of a model, as numbers"
    new = new_user(m, {'i0':5, 'i20':1, 'i4':4})
    res = [f(df).select_dtypes('number') for f in (m.predict, m.dist, m.intervals)] + [m.predict(df[:3].assign(user=99), unseen='na')[['prediction','std','mean_std']], m.diagnose(), new.predictions.select_dtypes('number'),
        m.recommend(n=4).select_dtypes('number'), m.evaluate(n=4)]
    return [o.to_numpy(dtype=float) for o in res] + [o.numpy() for o in (m.scores(torch.arange(5)), *m.as_surface().state().values()) if isinstance(o, torch.Tensor)]

@pytest.mark.parametrize('kw', KINDS.values(), ids=KINDS)
def test_a_file_keeps_everything(kw, tmp_path):
    m = fitted(loaders(named), **kw)
    got = load(m.save(tmp_path/'m.safetensors', note='x'))
    for a,b in zip(everything(m, named), everything(got, named), strict=True): np.testing.assert_array_equal(a, b)
    assert type(got) is BayesianPMF and got.about==dict(note='x') and got.vocab==m.vocab and repr(got)==repr(m) and got.effects==m.effects
    assert (got.valid_rmse,got.seconds,got.columns,got.left_out)==(m.valid_rmse,m.seconds,m.columns,m.left_out) and torch.equal(got.valid_preds, m.valid_preds)
    pd.testing.assert_frame_equal(got.rmse_by_sweep, m.rmse_by_sweep)
    if m.columns['item']: pd.testing.assert_frame_equal(got.link_table(), m.link_table())
    again = got.save(tmp_path/'again.safetensors', note='x')
    assert again.read_bytes()==(tmp_path/'m.safetensors').read_bytes()
    assert got.fit(loaders(named), **{k:kw[k] for k in ('users','items') if k in kw}, progress=False).valid_rmse==m.valid_rmse      # it can be fitted anew

def test_a_file_without_history_or_validation(tmp_path):
    m = fitted(loaders(splits=(np.arange(400), [])))
    got = load(m.save(tmp_path/'m.safetensors', history=False))
    assert got.history is None and got.as_surface().history is None and got.valid_rmse is got.valid_preds is None and len(got.rmse_by_sweep)==0
    assert got.predict(ratings).equals(m.predict(ratings)) and 'samples' in repr(got)

def test_thinned(tmp_path):
    m = fitted(n_sweeps=40, burn_in=10, chains=2)
    t = m.thin(7)
    assert len(m.posterior.samples)==30 and len(t.posterior.samples)==7 and '7 samples of 2 chains' in repr(t) and len(m.thin(99).posterior.samples)==30
    a,b = (o.save(tmp_path/str(k)).stat().st_size for k,o in enumerate((m,t)))
    for size,o in ((a,m),(b,t)): assert 0 < size-o.nbytes < 25_000 and f'{o.nbytes/1e6:.1f} MB' in repr(o)
    assert b < a/2 and abs(t.predict(ratings).prediction-m.predict(ratings).prediction).max() < 0.5
    got = load(tmp_path/'1')
    assert got.predict(ratings).equals(t.predict(ratings)) and torch.equal(got.as_surface().item_factors, t.as_surface().item_factors)
    assert not torch.equal(t.as_surface().item_factors[:,:1], m.as_surface().item_factors[:,:1])
    for bad in (0, 2.5):
        with pytest.raises(SettingError, match='n='): m.thin(bad)

@pytest.mark.parametrize('levels', [pd.date_range('2000-01-01', periods=9), pd.date_range('2000-01-01', periods=9, tz='Europe/Paris'), pd.Categorical(list('abcdefghi')), np.arange(9)/2,
    np.array([1,'a',2.5,True]*2+['z'], dtype=object), pd.array(range(9), dtype='Int64')], ids=['dates','zoned','categories','halves','mixed','Int64'])
def test_levels_come_back(levels, tmp_path):
    df = ratings.assign(when=pd.Series(levels).iloc[ratings.day].to_numpy() if not hasattr(levels, 'dtype') else pd.Series(levels).iloc[ratings.day].reset_index(drop=True))
    m = fitted(loaders(df), effects=['when',('user','when')])
    got = load(m.save(tmp_path/'m'))
    assert got.predict(df).equals(m.predict(df))
    for (a,b),(c,d) in zip(m.effect_levels, got.effect_levels):
        for x,y in zip([*a,b], [*c,d]): assert x.equals(y) and x.dtype==y.dtype and list(map(type, x))==list(map(type, y))

def test_levels_that_no_file_keeps(tmp_path):
    df = ratings.assign(when=[(o,) for o in ratings.day])
    with pytest.raises(UnsavableError, match='when'): fitted(loaders(df), effects=['when']).save(tmp_path/'m')
    assert not (tmp_path/'m').exists()

def test_unsound_files(tmp_path):
    "Whole, but not what `save` would write"
    m = fitted(effects=['day'], users=users, chains=2)
    kind,tensors,meta = read_tensors(m.save(tmp_path/'m'))
    assert kind=='BayesianPMF' and load(write_tensors(tmp_path/'same', kind, tensors, meta)).predict(ratings).equals(m.predict(ratings))
    for k,f in (('users',lambda o: o[:,:,1:]), ('users',lambda o: o[:0]), ('items',lambda o: o[...,1:]), ('users',lambda o: o.double()), ('more.cuts',lambda o: -o), ('more.cuts',lambda o: o[...,1:]), ('more.var.0',lambda o: -o),
                ('more.cold.1',lambda o: o[:,:1]), ('levels',lambda o: o.flip(0)), ('levels',lambda o: o[1:]), ('is_cold.0',lambda o: ~o), ('is_cold.1',lambda o: o.float()), ('more.effects.0',lambda o: o[...,1:]),
                ('more.common',lambda o: o*np.nan), ('more.link.0',lambda o: o[...,1:])):
        with pytest.raises(UnsoundModelError): load(write_tensors(tmp_path/'bad', kind, {**tensors, k:f(tensors[k]).contiguous()}, meta))
    settings = meta['state']['settings']['dict']
    for k,bad in (('chains',3), ('likelihood','gaussian'), ('n_factors',0), ('burn_in',-1)):
        new = {**meta, 'state':{**meta['state'], 'settings':{'dict':{**settings, k:bad}}}}
        with pytest.raises(UnsoundModelError): load(write_tensors(tmp_path/'bad', kind, tensors, new))
    m.posterior.samples[0]['users'][0,1,0] = torch.nan
    with pytest.raises(UnsoundModelError, match='users'): m.save(tmp_path/'m')

def test_diagnose():
    d = fitted(chains=2, n_sweeps=30, burn_in=10, effects=['day']).diagnose()
    assert list(d.columns)==['mean','sd','rhat','ess'] and 'sd of day' in d.index and np.isfinite(d).all().all()
