"""Reasons of every kind of model, and settings that are searched for."""
import numpy as np
import pandas as pd
import pytest
import torch

from collab_notes.core import LayeredNet, Surface, as_model
from collab_notes.data import RatingsDataLoaders, stratified_split
from collab_notes.deep import nn_learner
from collab_notes.errors import SettingError, UnseenIdError, UnsupportedError
from collab_notes.explain import LogUniform, tune, why
from collab_notes.plots import plot_tuning
from collab_notes.protocol import Model
from collab_notes.ranking import EASE, Blend, Popularity, fit_ranking
from collab_notes.training import fit
from conftest import of_chosen

ratings,split,dls,learn,ranked = map(of_chosen, 'ratings split dls learn ranked'.split())
@pytest.fixture(scope='module')
def mine(ratings, split): return ratings.iloc[split[0]].query('user==5')

# --- reasons

def test_reasons(learn, ranked, dls, mine):
    ease = EASE(dls, 20)
    for o in (learn, ranked, ease):
        t = why(o, 5, 'film 007', n=100)
        assert sorted(t['item']) == sorted(mine['item']) and t.adds.abs().is_monotonic_decreasing
        assert t.set_index('item').rating.to_dict() == mine.set_index('item').rating.to_dict()
        assert np.isclose(t.adds.sum(), t.attrs['own'], atol=1e-5)
        assert len(why(o, 5, 'film 007')) == 5 and list(why(o, 5, 'film 007')) == ['item','rating','adds']
        pd.testing.assert_frame_equal(as_model(o).why(5, 'film 007', n=100), t)
    t = why(ease, 5, 'film 007', n=100)
    assert np.isclose(t.attrs['own'], t.attrs['score'], atol=1e-5) and np.isclose(t.attrs['rest'], 0, atol=1e-5)
    m = as_model(ranked)
    t = why(ranked, 5, 'film 007', n=100)
    assert np.isclose(t.attrs['own']+t.attrs['rest'], (m.user_factors[m.vocab.row(5, False)]@m.item_factors[m.vocab.row('film 007')]).item(), atol=1e-4)
    with pytest.raises(SettingError, match='rating column'): why(learn, 5, 'film 007', history=mine[['user','item']])
    assert 'rating' not in why(ranked, 5, 'film 007', history=mine[['user','item']])
    with pytest.raises(UnseenIdError, match='has no ratings'): why(learn, 6, 'film 007', history=mine)
    with pytest.raises(UnseenIdError, match='film 999'): why(learn, 1, 'film 999')
    with pytest.raises(SettingError, match='give history'): why(m.without_history(), 1, 'film 003')
    with pytest.raises(SettingError, match='n=0'): why(learn, 5, 'film 007', n=0)

def test_reasons_are_exact_for_a_ridge_solution():
    "Factors of a user that really are the ridge solution: nothing is left over"
    g = torch.Generator().manual_seed(0)
    v,r = torch.randn(31, 4, generator=g),torch.rand(12, generator=g)*4+1
    b = 3+torch.zeros(31)
    j = torch.arange(1, 13)
    p = torch.linalg.solve(v[j].T@v[j]+2*torch.eye(4), v[j].T@(r-3))
    s = Surface(torch.stack([p*0, p]), v, torch.tensor([0.,3.]), b*0, dict(user=('#na#','me'), item=('#na#',*range(1, 31))), None)
    t = why(s, 'me', 30, n=12, history=pd.DataFrame(dict(user='me', item=j.numpy(), rating=r.numpy())))
    assert abs(t.attrs['rest'])<1e-4 and np.isclose(t.attrs['score'], 3+t.adds.sum(), atol=1e-4)
    by_item = t.set_index('item').adds
    inv = torch.linalg.inv(v[j].T@v[j]+2*torch.eye(4))
    assert np.allclose(by_item[j.numpy()], (v[30]@inv@v[j].T*(r-3)).numpy(), atol=1e-4)

def test_reasons_of_a_blend(learn, ranked, dls, mine):
    ease,pop = EASE(dls, 20),Popularity(dls)
    a = why(Blend([ranked, ease, learn], [1,2,0.5]), 5, 'film 007', n=100).set_index('item')
    parts = [why(o, 5, 'film 007', n=100) for o in (ranked, ease, learn)]
    want = sum(w*o.set_index('item').adds[a.index] for w,o in zip((1,2,0.5), parts))
    assert np.allclose(a.adds, want, atol=1e-6) and len(a) == len(mine) and 'note' not in a.attrs
    assert np.isclose(a.attrs['own']+a.attrs['rest'], sum(w*(o.attrs['own']+o.attrs['rest']) for w,o in zip((1,2,0.5), parts)), atol=1e-4)
    b = why(Blend([ease, pop], [1,0.01]), 5, 'film 007', n=100)
    assert np.allclose(b.adds, parts[1].adds) and 'counts' in b.attrs['note'] and b.attrs['score'] > b.attrs['own']
    bare = as_model(learn).without_history()                         # a part that doesn't know goes by what the blend knows
    pd.testing.assert_frame_equal(why(Blend([bare, ease], [1,0]), 5, 'film 007'), why(learn, 5, 'film 007'), atol=1e-6)
    for o in (pop, Blend([pop], [1])):
        with pytest.raises(UnsupportedError, match='own reason'): why(o, 5, 'film 007')

class Like(Model):
    "A kind of one's own: what people say who rated the same items"
    def scores(self, users, items=None):
        x,(u,i,y) = self.history.chosen(torch.arange(self.vocab.n_users)),self.history.part()
        r = torch.zeros_like(x).index_put((u,i), y)
        w = (x[users]@x.T)**2+0.01
        res = (w@r)/(w@x).clamp(min=1e-3)
        return res if items is None else res[:,items]

def test_reasons_by_leaving_out(dls, ratings, split, mine):
    net = nn_learner(dls, [5])
    with net.no_bar(), net.no_logging(): net.fit(2, 0.01)
    for o in (net, Like(dls)):
        m = as_model(o)
        assert not isinstance(m, Surface)
        t = why(m, 5, 'film 007', n=100)
        assert sorted(t['item']) == sorted(mine['item']) and t.adds.abs().sum() > 0 and t.notna().all(axis=None)
        assert np.isclose(t.attrs['score'], m.scores([m.vocab.row(5, False)], [m.vocab.row('film 007')]).item(), atol=1e-5)
        j,y = m.history.of_row(m.vocab.row(5, False))
        i,k = m.vocab.row('film 007'),(j==m.vocab.row(t['item'][0])).nonzero().item()
        rest = torch.arange(len(j))!=k
        assert np.isclose(t.adds[0], (m.fold(j, y).scores[i]-m.fold(j[rest], y[rest]).scores[i]).item(), atol=1e-6)
        assert np.isclose(t.attrs['own']+t.attrs['rest'], (m.fold(j, y).scores[i]-m.fold(j[:0], y[:0]).scores[i]).item(), atol=1e-5)
    assert isinstance(as_model(net), LayeredNet)

def test_reasons_of_very_many_ratings(dls):
    "Not all are left out one by one, and it says so"
    df = pd.DataFrame(dict(user=1, item=range(1, 251), rating=[1.]*25+[3.]*200+[5.]*25))
    df = pd.concat([df, df.assign(user=2, rating=4.)])
    t = why(Like(df), 1, 7, n=999)
    assert len(t) == 200 and 'of 250 ratings, only 200 were left out' in t.attrs['note']
    assert set(range(1, 26)) | set(range(226, 251)) <= set(t['item'])        # those that say most are among them

# --- settings

def test_tune(dls, ratings, split):
    space = dict(n_factors=[2,4], wd=LogUniform(0.05, 2), n_epoch=[1])
    a = tune(dls, space, n_trials=3, seed=1)
    assert list(a) == ['n_factors','wd','n_epoch','mean'] and a['mean'].is_monotonic_increasing and set(a.attrs['best']) == set(space)
    pd.testing.assert_frame_equal(a, tune(dls, space, n_trials=3, seed=1))
    other = RatingsDataLoaders.from_df(ratings.assign(rating=ratings.rating.mask(ratings.index.isin(split[1]), 3.)), splits=split, seed=0)
    pd.testing.assert_frame_equal(a, tune(other, space, n_trials=3, seed=1))      # the validation part has no say
    fit(dls, seed=0, progress=False, **a.attrs['best'])
    b = tune(dls, dict(n_factors=[2], n_epoch=[1,2]), n_trials=9, folds=2, objective='ndcg')
    assert len(b) == 3 and list(b) == ['n_factors','n_epoch','mean','std'] and b['mean'].is_monotonic_decreasing
    assert len(plot_tuning(a)) == 3

@pytest.mark.parametrize('space', [None, dict(wd=[30.], n_epoch=[1]), dict(shrink=[9.]), dict(std=[1.], lr=[0.5])])
def test_tune_never_ends_worse_than_the_default(dls, space):
    "What is done by default is trial 0, whatever the space; what is best can be given to `fit`"
    t = tune(dls, space, n_trials=2, seed=1)
    assert t['mean'].iloc[0] <= t['mean'][0]
    quiet = fit(dls, seed=0, progress=False, **t.attrs['best'])
    assert np.isfinite(quiet.recorder.values[-1][1])

@pytest.mark.parametrize('kw', [dict(objective='rmse'), dict(n_trials=0), dict(folds=0), dict(space={}), dict(space=[1])])
def test_tune_refuses(dls, kw):
    with pytest.raises(SettingError): tune(dls, **kw)
