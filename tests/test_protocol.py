"""What a model of any kind can be asked, and with which ratings: found by asking in unusual ways."""
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from collab_notes.coldstart import new_user
from collab_notes.core import as_model, predict, predict_one
from collab_notes.data import RatingsDataLoaders
from collab_notes.deep import nn_learner
from collab_notes.errors import (
    BadRatingError, DivergedError, EmptyRatingsError, MissingColumnError, SettingError, ShapeError)
from collab_notes.explain import why
from collab_notes.lists import evaluate, recommend
from collab_notes.newcomers import add_item, add_user
from collab_notes.coldstart import new_item
from collab_notes.protocol import Model
from collab_notes.ranking import EASE, Blend, Popularity, fit_ranking
from collab_notes.training import fit
from collab_notes.vocab import History
from conftest import loaders_of, ratings_of

@pytest.fixture(scope='module')
def loaders(): return loaders_of()
@pytest.fixture(scope='module')
def learn(loaders): return fit(loaders, 2, n_factors=4, seed=0, progress=False)
@pytest.fixture(scope='module')
def one(): return ratings_of().query('user==7')

def test_history_says_who_rated_what_and_changes_no_prediction(loaders, learn, one):
    pairs = ratings_of()[['user','item']].head(20)
    net = nn_learner(loaders, [5], [3,2])
    for o in (learn, net, fit_ranking(loaders, 1, n_factors=4, seed=0, progress=False)):
        m = as_model(o)
        want = m.predict(pairs)
        for h in (one, loaders, History.of(one, m.vocab)):
            pd.testing.assert_frame_equal(predict(o, pairs, history=h), want)
            assert torch.equal(as_model(o, h).scores([1,2]), m.with_history(h).scores([1,2]))

def test_a_bare_module_is_not_filled_but_for_na(loaders, learn, one):
    a,b = as_model(learn.model, history=one),learn.model
    assert torch.equal(a.user_factors[1:], b.user_factors[1:])

def test_numbers_that_are_none_are_no_success(loaders, learn):
    m = as_model(learn)
    bad = m.replace(user_bias=m.user_bias*torch.nan)
    for f in (evaluate, recommend):
        with pytest.raises(DivergedError): f(bad)

class Wide(Model):
    def scores(self, users, items=None): return np.ones((len(users), self.vocab.n_items))

class Learned(Model):
    def __init__(self, data):
        super().__init__(data)
        self.w = nn.Parameter(torch.ones(self.vocab.n_items))
    def scores(self, users, items=None): return (self.w if items is None else self.w[items]).repeat(len(users), 1)

class Numpy(Model):
    def scores(self, users, items=None):
        n = self.vocab.n_items if items is None else len(items)
        return np.tile(np.arange(n), (len(users), 1))

def test_scores_of_ones_own_kind(loaders):
    pairs = ratings_of()[['user','item']].head(3)
    for kind in (Learned, Numpy):
        m = kind(loaders)
        assert len(m.predict(pairs)) == 3 and len(m.recommend(7, n=3)) == 3 and len(m.similar('i1', n=3)) == 3
        assert m.evaluate(n=3).rmse.notna().all()
    with pytest.raises(ShapeError, match='Wide.scores was asked'): Wide(loaders).predict(pairs)

class Looks:
    "An object that looks ids up, and so knows no '#na#'"
    def __init__(self, df): self.mean = df.groupby('item').rating.mean()
    def predict(self, users, items): return self.mean[items].to_numpy()

def test_an_object_is_never_asked_about_the_unknown(loaders):
    df = ratings_of()
    m = as_model(Looks(df), history=loaders)
    strange = pd.DataFrame(dict(user=[7,999,999], item=['i1','i1','never']))
    assert predict(m, strange, 'na').prediction.notna().all()
    assert np.isclose(predict_one(m, 999, 'i1', 'na'), predict_one(m, 7, 'i1'))
    assert len(recommend(m, [7,999], n=3, unseen='na')) == 6
    with pytest.raises(SettingError, match='unseen'): predict_one(m, 999, 'i1', 'skip')

def test_ratings_under_another_name(loaders, learn):
    df = ratings_of().rename(columns=dict(rating='points'))
    for f in (lambda: evaluate(learn, df), lambda: predict(learn, df, history=df), lambda: as_model(learn.model, df)):
        with pytest.raises(MissingColumnError, match='rating'): f()
    assert as_model(learn.model, df[['user','item']]).history.ratings is None   # choices

def test_ratings_that_are_none(learn):
    df = ratings_of()
    for bad in (df.assign(rating=df.rating.where(df.index>0)), df.assign(rating='good')):
        with pytest.raises(BadRatingError): why(learn, 7, 'i1', history=bad)

def test_rows_that_are_none(learn):
    for bad in ([[999,1]], [[-1,2]], [[0,1]]):
        with pytest.raises(SettingError, match='Pairs of rows'): recommend(learn, 7, history=bad)
    assert len(recommend(learn, 7, n=2, exclude=[])) == 2
    with pytest.raises(ShapeError): History(as_model(learn).vocab, [[1,1],[1,2]], [5.])

def test_an_exported_learner_has_no_ratings(learn, tmp_path):
    from fastai.learner import load_learner
    learn.export(tmp_path/'l.pkl')
    with pytest.warns(UserWarning, match='pickle'): again = load_learner(tmp_path/'l.pkl')
    for kind in (EASE, Popularity):
        with pytest.raises(EmptyRatingsError, match='exported'): kind(again.dls)

def test_parts_that_know_other_ratings(loaders, learn):
    m = as_model(learn)
    m = Blend([m, EASE(History.of(ratings_of(), m.vocab))], [1,0.1])
    for u in range(20): assert np.isfinite(why(m, u, 'i1').adds).all()

def test_newcomers_one_after_the_other(loaders, learn):
    for o in (learn, EASE(loaders), Popularity(loaders), Blend([EASE(loaders), Popularity(loaders)], [1,0.1])):
        a,b = new_user(o, {'i1':5., 'i2':1.}),new_user(o, {'i3':4.})
        c = new_item(o, {7:5.})
        m = add_user(add_item(add_user(o, 1001, a), 'new', c), 1002, b)
        assert not set(recommend(m, 1001, n=50)['item']) & {'i1','i2'} and not set(recommend(m, 1002, n=50)['item']) & {'i3'}

def test_a_newcomer_brings_the_history_along(loaders, learn):
    m = add_user(learn.model, 99, new_user(learn.model, {'i1':5.}, history=loaders))
    assert len(m.history) == len(History.of(loaders))+1 and 'i1' not in set(recommend(m, 99, n=50)['item'])

def test_no_validation_rows(loaders):
    df = ratings_of()
    dls = RatingsDataLoaders.from_df(df, splits=(np.arange(len(df)),[]), bs=32, seed=0)
    assert np.isfinite(as_model(fit(dls, 2, n_factors=4, seed=0, progress=False)).scores([1]).numpy()).all()

def test_half_precision(loaders, learn):
    m = as_model(learn)
    for dtype in (torch.float16, torch.bfloat16):
        half = m.replace(**{k:getattr(m, k).to(dtype) for k in ('user_factors','item_factors','user_bias','item_bias')})
        assert len(half.predict(ratings_of().head(2))) == 2
        more = add_user(half, 77, new_user(half, {'i1':5.}))
        assert more.user_factors.dtype == dtype and more.unsound() == ''

def test_a_loss_that_is_not_of_differences(loaders):
    "Grades of 0 and 1 stay what they are for cross-entropy"
    df = ratings_of().assign(rating=lambda o: (o.rating>3).astype(float))
    dls = RatingsDataLoaders.from_df(df, bs=32, seed=0)
    bce = lambda p, y: nn.functional.binary_cross_entropy_with_logits(p.reshape(-1), y.reshape(-1))
    learn = fit(dls, 2, n_factors=4, seed=0, progress=False, y_range=(-9,9), loss_func=bce)
    assert learn.recorder.values[-1][0] < 0.75
