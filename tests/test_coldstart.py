"""New users and items: what the notebook does not show. Properties of folding in, models without biases or range, odd facts and ids, the two sides being one."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders, collab_learner
from hypothesis import given, settings, strategies as st

from collab_notes.coldstart import Prior, decay_prior, fit_metadata, fold_in, learn_prior, new_item, new_user, next_questions, question_gains, representative
from collab_notes.core import LayeredNet, Surface, as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import (BadRatingError, DuplicateRatingsError, KnownIdError, MissingColumnError, MixedIdsError, NullIdError, RatingRangeError, RatingsError, SettingError,
                                 SideTableError, UnseenIdError, UnsupportedError)
from collab_notes.files import load, save
from collab_notes.interpret import pca_map, similar
from collab_notes.lists import recommend
from collab_notes.models import DotProduct, DotProductBias, DotProductBiasParams
from collab_notes.newcomers import Newcomer, add_item, add_user
from collab_notes.protocol import Model
from collab_notes.ranking import RankDot
from collab_notes.topn import top_rows
from collab_notes.vocab import History
from conftest import choices_of, ratings_by, surface_of

N_USERS, N_ITEMS = 40, 30
ITEMS = [f'film {i:02}' for i in range(N_ITEMS)]

def true_surface(seed=0, k=3, y_range=(0, 5.5), biases=True):
    "A surface with strong tastes"
    return surface_of(N_USERS, ITEMS, k, seed, y_range, sd=(1, 1, float(biases), float(biases)))

@pytest.fixture(scope='module')
def s(): return true_surface()
@pytest.fixture(scope='module')
def ratings(s): return ratings_by(s)
@pytest.fixture(scope='module')
def prior(s, ratings): return learn_prior(s, ratings)
@pytest.fixture(scope='module')
def item_prior(s, ratings): return learn_prior(s, ratings, is_item=True)
@pytest.fixture(scope='module')
def facts():
    rng = np.random.default_rng(0)
    return pd.DataFrame(dict(user=range(1, N_USERS+1), age=rng.integers(18, 60, N_USERS).astype(float), job=rng.choice(['cook', 'clerk', 'pilot'], N_USERS)))
@pytest.fixture(scope='module')
def meta(s, facts, prior): return fit_metadata(s, facts, prior, n_epoch=2, n_nets=1)

GIVEN = {'film 03': 5, 'film 07': 1, 'film 11': 3.5}
both = lambda f: torch.cat([f.vectors, f.biases[:, None]], dim=1)
mine = lambda w: torch.cat([w.vector, torch.tensor([w.bias])])

def test_no_rating_gives_the_prior(s, prior):
    f = fold_in(s, pd.DataFrame(dict(user=[], item=[], rating=[])), prior, ids=['a', 'b'])
    assert torch.allclose(both(f).double(), prior.mean.expand(2, -1), atol=1e-6) and torch.allclose(f.cov[0], prior.cov, atol=1e-6)
    w = new_user(s, prior=prior)
    assert w.rung == 'mean' and w.notes == ('no ratings given: the best guess for anybody',) and len(w.top) == 10

rated = st.dictionaries(st.sampled_from(ITEMS), st.floats(0.5, 5), max_size=12)

@settings(max_examples=25)
@given(people=st.lists(rated, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_together_is_one_by_one_in_any_order(s, prior, people, seed):
    df = pd.DataFrame([(u, i, r) for u, d in enumerate(people) for i, r in d.items()], columns=['user', 'item', 'rating'])
    free = replace(prior, scale=None)
    f = fold_in(s, df.sample(frac=1, random_state=seed), free, ids=range(len(people)))
    for u, d in enumerate(people): assert torch.allclose(both(f)[u], mine(new_user(s, d, prior=free)), atol=1e-3)

@settings(max_examples=25)
@given(rated=rated)
def test_sides_are_symmetric(s, prior, rated):
    "Folding a user into a model is folding an item into its transpose"
    t = Surface(s.item_factors, s.user_factors, s.item_bias, s.user_bias, dict(u=s.classes['item'], i=s.classes['user']), s.y_range)
    free = replace(prior, scale=None)
    a, b = new_user(s, rated, prior=free), new_item(t, rated, prior=replace(free, is_item=True))
    assert torch.allclose(mine(a), mine(b), atol=1e-6) and np.allclose(a.predictions.prediction, b.predictions.prediction, atol=1e-5)

@settings(max_examples=25)
@given(rated=rated)
def test_ratings_only_make_surer(s, prior, rated):
    w = new_user(s, rated, prior=replace(prior, scale=None))
    assert torch.linalg.eigvalsh(prior.cov-w.cov).min() > -1e-6 and torch.linalg.eigvalsh(w.cov).min() > -1e-9

def loss(s, p, x, items, y):
    z = torch.cat([s.item_factors, torch.ones(len(s.item_factors), 1)], 1).double()[s.vocab.rows(items)]@x + s.item_bias[s.vocab.rows(items)].double()
    f = z if s.y_range is None else s.y_range[0]+(s.y_range[1]-s.y_range[0])*z.sigmoid()
    d = x-p.mean
    return ((f-y)**2).sum()/p.noise + d@torch.linalg.pinv(p.cov)@d

@pytest.mark.parametrize('y_range', [(0, 5.5), None, (-3, 20)])
def test_is_at_the_bottom(y_range):
    s = true_surface(3, y_range=y_range)
    p = learn_prior(s, ratings_by(s))
    p = replace(p, scale=None)
    x = new_user(s, GIVEN, prior=p).mean.clone().requires_grad_()
    loss(s, p, x, list(GIVEN), torch.tensor(list(GIVEN.values())).double()).backward()
    assert x.grad.abs().max() < 0.02   # in units where a step of one standard deviation costs 1

def test_without_a_range_it_is_linear_regression():
    s = true_surface(1, y_range=None)
    p = Prior(torch.zeros(4).double(), torch.eye(4).double(), 0.5)
    i = s.vocab.rows(list(GIVEN))
    a, y = torch.cat([s.item_factors[i], torch.ones(3, 1)], 1).double(), torch.tensor(list(GIVEN.values())).double()-s.item_bias[i]
    assert torch.allclose(mine(new_user(s, GIVEN, prior=p)).double(), torch.linalg.solve(a.T@a/0.5+torch.eye(4).double(), a.T@y/0.5), atol=1e-5)

def test_extreme_ratings_and_priors_stay_finite(s, prior):
    for noise in (1e-4, 1e4):
        for cov in (1e-8, 1e4):
            p = replace(prior, noise=noise, cov=cov*torch.eye(4).double(), scale=None)
            w = new_user(s, {o: r for o, r in zip(ITEMS, [5.5, 0, 9, -9]*7)}, prior=p)
            assert torch.isfinite(w.mean).all() and np.isfinite(w.predictions[['prediction', 'sd']]).all(axis=None)

def test_a_model_without_biases(ratings):
    s = true_surface(2, biases=False)
    df = ratings_by(s)
    p = learn_prior(s, df)
    w = new_user(s, GIVEN, prior=p)
    assert w.bias == 0 and w.vector.abs().sum() > 0   # nobody has a bias, so the newcomer has none
    assert add_user(s, 99, w).user_bias.abs().sum() == 0

def test_learned_from_few():
    s = true_surface(0)
    with pytest.raises(SettingError, match='users with 1 ratings or more there are 1'): learn_prior(s, pd.DataFrame(dict(user=[1, 1], item=ITEMS[:2], rating=[1., 2.])))
    with pytest.raises(SettingError, match='20 ratings or more'): learn_prior(s, ratings_by(s, 30), min_ratings=20)
    two = pd.DataFrame(dict(user=[1, 1, 2], item=ITEMS[:3], rating=[1., 2., 5.]))
    assert torch.isfinite(new_user(s, GIVEN, prior=replace(learn_prior(s, two), scale=None)).mean).all()

def test_a_bare_surface(s):
    p = learn_prior(s)
    assert len(p.rows) == N_USERS and p.scale == (0, 5.5)
    assert torch.allclose(p.mean[:3].float(), s.user_factors[1:].mean(0), atol=1e-6)
    no_range = s.replace(y_range=None)
    with pytest.raises(SettingError, match='noise=…'): learn_prior(no_range)
    assert learn_prior(no_range, noise=2.).noise == 2.
    with pytest.raises(SettingError, match='min_ratings=5'): learn_prior(s, min_ratings=5)
    assert new_user(s, GIVEN).rung == 'ratings'

def test_who_has_no_training_rating_is_left_out(s, ratings):
    df = ratings[ratings.user > 5]
    assert learn_prior(s, df).rows.min() == 6 and representative(s, df, min_ratings=1) > 5

@pytest.mark.parametrize('make', [lambda d: DotProduct.from_dls(d, 4, y_range=(0, 6)), lambda d: DotProductBias.from_dls(d, 4, y_range=(0, 6)), lambda d: DotProductBiasParams.from_dls(d, 4, y_range=(0, 6))])
def test_any_model(ratings, make):
    dls = RatingsDataLoaders.from_df(ratings, seed=0)
    m = make(dls)
    before = [p.clone() for p in m.parameters()]
    w = new_user(m, GIVEN, prior=learn_prior(m, dls))
    x = add_item(add_user(m, 99, w), 'film 99', new_item(m, {1: 5, 2: 1}, prior=learn_prior(m, dls, is_item=True)))
    assert len(x.classes['user']) == N_USERS+2 and all(torch.equal(a, b) for a, b in zip(before, m.parameters()))

@pytest.mark.filterwarnings('ignore')
def test_fastais_learner(ratings):
    learn = collab_learner(CollabDataLoaders.from_df(ratings, seed=0), n_factors=3, y_range=(0, 6))
    w = new_user(learn, GIVEN)
    assert w.rung == 'ratings' and len(w.predictions) == N_ITEMS
    assert len(next_questions(learn, w, n=3)) == 3 and isinstance(decay_prior(learn), Prior)

BAD = [({'film 3': 4}, UnseenIdError, 'did you mean'), ({'#na#': 4}, UnseenIdError, 'stands for the unknown'), ({'film 03': 6}, RatingRangeError, 'outside'), ({'film 03': -1}, RatingRangeError, 'outside'),
       ({'film 03': np.nan}, BadRatingError, 'finite'), ({'film 03': None}, BadRatingError, 'finite'), ({'film 03': np.inf}, BadRatingError, 'finite'), ({'film 03': 'x'}, BadRatingError, 'finite'),
       ({'film 03': np.nan, 'film 04': np.nan}, BadRatingError, '2 rows have'), ([('film 03', 4), ('film 03', 4)], DuplicateRatingsError, 'more than once'), ({None: 4}, NullIdError, 'is missing'),
       (pd.DataFrame(dict(film=['film 03'], rating=[4.])), MissingColumnError, "'item'"), (pd.DataFrame(dict(item=['film 03'])), MissingColumnError, 'rating'), (['film 03'], RatingsError, 'pairs'),
       ([('film 03',)], RatingsError, 'pairs')]

@pytest.mark.parametrize('bad,error,match', BAD)
def test_bad_ratings(s, prior, bad, error, match):
    with pytest.raises(error, match=match): new_user(s, bad, prior=prior)

def test_bad_ratings_of_many(s, prior):
    df = pd.DataFrame(dict(user=['a', 'b'], item=['film 03', 'film 04'], rating=[4., 2.]))
    assert fold_in(s, df, prior).ids == ['a', 'b']
    with pytest.raises(UnseenIdError, match="'b' has ratings"): fold_in(s, df, prior, ids=['a'])
    with pytest.raises(DuplicateRatingsError): fold_in(s, pd.concat([df, df]), prior)
    with pytest.raises(RatingRangeError): fold_in(s, df.assign(rating=7.), prior)
    with pytest.raises(MissingColumnError): fold_in(s, df.drop(columns='rating'), prior)
    with pytest.raises(MissingColumnError): fold_in(s, df.rename(columns=dict(user='person')), prior)
    with pytest.raises(SettingError, match='1 newcomers'): fold_in(s, df, replace(prior, mean=prior.mean[None]))
    with pytest.raises(SettingError, match='more than once'): fold_in(s, df, prior, ids=['a', 'b', 'a'])

def test_empty_ratings_are_no_ratings(s, prior):
    for none in (None, {}, [], pd.Series(dtype=float), pd.DataFrame(dict(item=[], rating=[]))): assert new_user(s, none, prior=prior).rung == 'mean'

def test_int_and_numpy_ratings(s, prior):
    a = new_user(s, {'film 03': 4}, prior=prior).mean
    for r in (4., np.int64(4), np.float32(4)): assert torch.allclose(new_user(s, {'film 03': r}, prior=prior).mean, a)

def test_settings(s, prior, item_prior, meta):
    for n in (0, 1.5): pytest.raises(SettingError, new_user, s, prior=prior, n=n)
    with pytest.raises(SettingError, match='fit_metadata'): new_user(s, metadata=dict(age=3))
    with pytest.raises(SettingError, match='not of items'): new_item(s, {1: 4}, prior=prior)
    with pytest.raises(SettingError, match='not of items'): new_item(s, {1: 4}, meta=meta)
    assert len(new_user(s, prior=prior, n=1000).top) == N_ITEMS

def test_rungs(s, meta, facts):
    d = dict(age=30, job='cook')
    assert [new_user(s, r, m, meta=meta).rung for r, m in ((None, None), (None, d), (GIVEN, None), (GIVEN, d))] == ['mean', 'metadata', 'ratings', 'both']
    assert torch.allclose(new_user(s, None, d, meta=meta).mean, meta(d)[0])
    assert torch.allclose(new_user(s, None, pd.DataFrame([d]), meta=meta).mean, meta(d)[0])
    assert torch.allclose(new_user(s, None, facts[:1], meta=meta).mean, meta(facts)[0], atol=1e-6)   # its id column is not a fact

@pytest.mark.parametrize('kind', ['tabular', 'ridge'])
def test_missing_and_unseen_facts(s, facts, prior, kind):
    gaps = facts.assign(age=facts.age.where(facts.user > 3), job=facts.job.where(facts.user < 30))
    for table in (facts, gaps):
        m = fit_metadata(s, table, prior, kind, n_epoch=2, n_nets=1)
        median = table.age.median()
        same = torch.allclose(m(dict(job='cook')), m(dict(job='cook', age=median)), atol=1e-5)
        assert same == (table is facts)   # a missing number is the median; where others lacked it, too, that is a fact of its own
        assert torch.allclose(m(dict(age=20, job='diver')), m(dict(age=20)), atol=1e-5)          # new is as good as missing
        assert torch.allclose(m(dict(age=None, job=np.nan)), prior.mean[None])
        assert torch.isfinite(m(table)).all()
        w = new_user(s, GIVEN, dict(job='diver'), meta=m)
        assert w.rung == 'both' and w.notes == ('missing: age', "job: 'diver' is new, taken as #na#")

def test_the_ridge_is_the_same_for_any_unseen_word(s, prior):
    "A word never met leaves the mean of those that were"
    df = pd.DataFrame(dict(user=range(1, N_USERS+1), job=['cook', 'clerk']*(N_USERS//2)))
    m = fit_metadata(s, df, prior, 'ridge')
    assert torch.allclose(m(dict(job='diver')), (m(dict(job='cook'))+m(dict(job='clerk')))/2, atol=1e-5)

def test_facts_of_other_kinds(s, item_prior):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(item=ITEMS, year=pd.array([*range(1970, 1970+N_ITEMS-1), None], dtype='Int64'), genres=rng.choice(['a|b', 'b', 'c|a', None], N_ITEMS), colour=rng.random(N_ITEMS) > 0.5,
                           studio=pd.Categorical(rng.choice(['X', 'Y'], N_ITEMS))))
    for kind in ('tabular', 'ridge'):
        m = fit_metadata(s, df.set_index('item'), item_prior, kind, n_epoch=1, n_nets=1)
        assert torch.isfinite(m(df)).all() and m.is_item
        assert new_item(s, {3: 4}, dict(genres='a|zz', year=1999, colour=True), meta=m).rung == 'both'
    for cols in (['year'], ['studio'], ['genres']): assert torch.isfinite(fit_metadata(s, df[['item', *cols]], item_prior, n_epoch=1, n_nets=1)(df)).all()

def test_bad_facts(s, facts, prior, meta):
    for bad, error, match in ((dict(Age=3), MissingColumnError, "'Age'"), (dict(age='old'), SideTableError, 'finite'), (dict(age=np.inf), SideTableError, 'finite'),
                              (facts[:2], SideTableError, 'one newcomer'), (pd.DataFrame(dict(x=[1])), MissingColumnError, 'age, job')):
        with pytest.raises(error, match=match): new_user(s, None, bad, meta=meta)
    contradiction = pd.concat([facts, facts.assign(age=facts.age+1)])
    for bad, error, match in ((facts.drop(columns='user'), MissingColumnError, "'user'"), (contradiction, SideTableError, 'contradict'), (facts.assign(user=facts.user+1000), SideTableError, 'not in the table'),
                              (facts.assign(user=facts.user+N_USERS-1), UnseenIdError, 'one of them only'), (facts[['user']], SideTableError, 'ids only'),
                              (facts[['user']].assign(age=np.nan, name=[f'n{i}' for i in range(N_USERS)]), SideTableError, r'age \(nothing in it\), name \(different for everyone\)')):
        with pytest.raises(error, match=match): fit_metadata(s, bad, prior, n_nets=1)
    with pytest.raises(SettingError, match="'tabular' or 'ridge'"): fit_metadata(s, facts, prior, kind='forest')
    some = fit_metadata(s, facts.assign(planet='Earth'), prior, n_nets=1, n_epoch=1)
    assert new_user(s, None, dict(age=30, job='cook', planet='Mars'), meta=some).notes[0].startswith('planet: not used')
    assert new_user(s, None, {}, meta=meta).notes == ('metadata says nothing', 'no ratings given: the best guess for anybody')

def test_metadata_does_not_disturb_random_numbers(s, facts, prior):
    torch.manual_seed(3); a = torch.rand(1)
    torch.manual_seed(3); x = fit_metadata(s, facts, prior, n_epoch=1, n_nets=1)(facts); b = torch.rand(1)
    assert a == b and torch.equal(x, fit_metadata(s, facts, prior, n_epoch=1, n_nets=1)(facts))

def test_facts_that_matter_are_found(s):
    "Users of two kinds, and a column that says which"
    kind = torch.arange(N_USERS+1) % 2
    t = s.replace(user_factors=0.1*s.user_factors + torch.where(kind[:, None] > 0, 1., -1.))
    df = pd.DataFrame(dict(user=range(1, N_USERS+1), kind=np.where(kind[1:], 'odd', 'even')))
    for how, kw in (('tabular', dict(n_nets=1, n_epoch=20, lr=0.05, wd=0.01, ps=0., bs=20)), ('ridge', dict(alpha=1.))):
        m = fit_metadata(t, df, learn_prior(t), how, **kw)
        assert (m(dict(kind='odd'))[0, :3] > 0.25).all() and (m(dict(kind='even'))[0, :3] < -0.25).all()

def test_gains_are_the_fall_in_variance_and_more_if_less_is_known(s, prior):
    w = torch.ones(N_ITEMS+1, dtype=torch.double)
    g = question_gains(s, prior.mean[None], prior.cov[None], prior.noise, w)
    assert (g >= 0).all() and (question_gains(s, prior.mean[None], prior.cov[None]/4, prior.noise, w) <= g+1e-12).all()
    assert torch.allclose(question_gains(s, prior.mean[None], 0*prior.cov[None], prior.noise, w), torch.zeros(1, N_ITEMS+1).double())

@pytest.mark.parametrize('by', ['gain', 'expected gain', 'disagreement', 'popularity', 'random'])
def test_questions(s, ratings, prior, by):
    w = new_user(s, GIVEN, prior=prior)
    q = next_questions(s, w, n=100, by=by, history=ratings)
    assert sorted(q['item']) == sorted(set(ITEMS)-set(GIVEN)) and np.isfinite(q.score).all()
    assert q['item'].tolist() == next_questions(s, w, n=100, by=by, history=ratings)['item'].tolist()
    with pytest.raises(SettingError): next_questions(s, w, n=0, by=by, history=ratings)

def test_questions_know_their_limits(s, prior, item_prior):
    assert len(next_questions(s, n=2, by='gain', prior=prior)) == 2
    for by in ('popularity', 'expected gain'):
        with pytest.raises(SettingError, match='needs the ratings'): next_questions(s, by=by, prior=prior)
    with pytest.raises(SettingError, match='new item'): next_questions(s, new_item(s, {1: 3}, prior=item_prior), by='gain')

def test_adding(s, prior, item_prior):
    w = new_user(s, GIVEN, prior=prior)
    x = add_user(s, 99, w)
    assert x is not s and len(s.classes['user']) == N_USERS+1 and x.classes['user'][-1] == 99
    assert similar(x, 99, n=3, is_item=False).shape[0] == 3 and len(pca_map(x, is_item=False, n_components=2)) == N_USERS+1
    items, preds = top_rows(x, [N_USERS+1], n=3, exclude=[(N_USERS+1, r) for r in w.rated])
    assert [x.classes['item'][i] for i in items[0]] == w.top['item'][:3].tolist() and np.allclose(preds[0], w.top.prediction[:3], atol=1e-5)
    y = add_item(x, 'film 99', new_item(x, {99: 5, 1: 2}, prior=item_prior))      # who has just come may rate at once
    assert similar(y, 'film 99', n=2).shape[0] == 2
    z = add_user(y, 100, w)                                                       # made before the item was there: still good
    assert torch.equal(z.user_factors[-1], w.vector) and len(z.item_bias) == N_ITEMS+2

def test_adding_what_does_not_fit(s, prior):
    w = new_user(s, GIVEN, prior=prior)
    for id, error in ((1, KnownIdError), ('x', MixedIdsError), (None, NullIdError), (np.nan, NullIdError), ('', NullIdError), ([7, 8], SettingError), ('#na#', NullIdError)):
        with pytest.raises(error): add_user(s, id, w)
    with pytest.raises(SettingError, match='use add_user'): add_item(s, 'film 99', w)
    with pytest.raises(SettingError, match='another model'): add_user(true_surface(5), 99, w)
    with pytest.raises(SettingError, match='another model'): add_user(true_surface(0, k=2), 99, w)
    with pytest.raises(SettingError, match='new_user'): add_user(s, 99, GIVEN)

def test_newcomers_are_frozen(s, prior):
    w = new_user(s, GIVEN, prior=prior)
    with pytest.raises(AttributeError): w.rung = 'x'
    assert isinstance(w, Newcomer) and 'rung: ratings, 3 ratings' in repr(w)

# all kinds of models

def net_of(history, rates=True, biases=True, seed=0):
    "A net of two layers on embeddings, of random numbers"
    g, v = torch.Generator().manual_seed(seed), history.vocab
    rand = lambda *size: torch.randn(*size, generator=g)
    t = {'user_factors': rand(v.n_users, 3), 'item_factors': rand(v.n_items, 3), 'layers.0.weight': rand(5, 6), 'layers.2.weight': rand(1, 5)}
    if biases: t |= {'user_bias': rand(v.n_users)/2, 'item_bias': rand(v.n_items)/2}
    return LayeredNet(t, [['linear', None], ['tanh', None], ['linear', None]], (0, 5.5) if rates else None, v, rates, history)

class Means:
    "Somebody's own object: whatever the user, what the item got on the mean"
    def __init__(self, df): self.user, self.item = df.groupby('user').rating.mean(), df.groupby('item').rating.mean()
    def predict(self, users, items): return (self.user.reindex(users).to_numpy()+self.item.reindex(items).to_numpy())/2

class Sums(Model):
    "A kind of one's own, whose scores are an order: how often those who chose what somebody chose chose each item"
    rates = False
    def scores(self, users, items=None):
        x = self.history.chosen(torch.arange(self.vocab.n_users))
        res = x[users]@(x.T@x)
        return res if items is None else res[:, items]

KINDS = 'surface', 'order', 'net', 'net without biases', 'net for lists', 'own object', 'own kind'

@pytest.fixture(scope='module')
def kinds(s, ratings):
    h = History.of(ratings, s.vocab)
    return dict(zip(KINDS, (s.with_history(h), s.replace(rates=False, y_range=None, history=h, user_bias=s.user_bias*0), net_of(h), net_of(h, biases=False), net_of(h, rates=False),
                            as_model(Means(ratings), history=ratings), Sums(ratings))))

@pytest.mark.parametrize('is_item', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_newcomers_to_all_kinds(kinds, kind, is_item):
    m = kinds[kind]
    f, ids, part = (new_item, {1: 5, 2: 4, 3: 1}, 'user') if is_item else (new_user, GIVEN, 'item')
    col = 'prediction' if m.rates else 'score'
    nobody, w = f(m), f(m, ids)
    assert (nobody.rung, w.rung, len(nobody.rated), len(w.rated)) == ('mean', 'ratings', 0, 3) and 'best guess for anybody' in nobody.notes[-1]
    assert ('ratings count as choices' in w.notes) == (not m.rates)
    for o in (nobody, w):
        p = o.predictions
        assert list(p)[:2] == [part, col] and list(p)[2:] in ([], ['sd']) and len(p) == m.vocab.size(not is_item)-1 and not p.isna().any(axis=None)
        assert len(o.top) == 10 and not set(o.rated) & set(m.vocab.rows(list(o.top[part]), not is_item).tolist()) and repr(o)
    assert m.rates or 'sd' not in w.predictions
    assert f(m, ids).predictions.equals(w.predictions)   # nothing is left to chance
    x = w.predictions.set_index(part)[col]
    base = nobody.predictions.set_index(part)[col]
    if m.rates: assert ((x[list(ids)]-pd.Series(ids))**2).sum() < ((base[list(ids)]-pd.Series(ids))**2).sum()
    elif not is_item or kind=='order': assert x.rank(pct=True)[list(ids)].mean() >= base.rank(pct=True)[list(ids)].mean()

@pytest.mark.parametrize('is_item', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_adding_to_all_kinds(kinds, kind, is_item):
    m = kinds[kind]
    f, add, id, ids = (new_item, add_item, 'film 99', {1: 5, 2: 4, 3: 1}) if is_item else (new_user, add_user, 99, GIVEN)
    w = f(m, ids)
    if kind in ('own object', 'own kind'):
        with pytest.raises(UnsupportedError, match='scores only the rows it was made with'): add(m, id, w)
        return
    x, row = add(m, id, w), m.vocab.size(is_item)
    assert x.vocab.size(is_item) == row+1 and m.vocab.size(is_item) == row and len(x.history) == len(m.history)+3 and x.rates == m.rates
    others, y = x.history.of_row(row, is_item)
    assert x.history.vocab == x.vocab and tuple(others.tolist()) == w.rated and torch.allclose(y, torch.tensor(w.ratings, dtype=torch.float32))
    same = torch.arange(m.vocab.size(False)), torch.arange(m.vocab.size(True))
    assert torch.allclose(x.scores(*same), m.scores(*same), atol=1e-6)
    mine = x.scores(same[0], torch.tensor([row]))[:, 0] if is_item else x.scores(torch.tensor([row]))[0]
    assert np.allclose(mine[1:], w.predictions.iloc[:, 1], atol=1e-4)

def test_recommend_does_not_give_back_what_has_just_been_rated(kinds, tmp_path):
    for kind in ('surface', 'order', 'net'):
        loaded = load(save(kinds[kind], tmp_path/f'{kind}.model', history=True))
        w = new_user(loaded, GIVEN)
        lists = recommend(add_user(loaded, 99, w), [99], n=N_ITEMS)
        assert len(lists) == N_ITEMS-3 and not set(GIVEN) & set(lists['item'])
        assert lists['item'].tolist()[:5] == w.top['item'].tolist()[:5]
        assert len(recommend(loaded, [1], n=N_ITEMS)) == N_ITEMS-int(loaded.history.counts(False)[1])

def test_an_order_is_at_the_top_of_its_likelihood(kinds):
    m = kinds['order']
    for f, ids, is_item in ((new_user, GIVEN, False), (new_item, {1: 5, 9: 1}, True)):
        w = f(m, ids)
        x, p = w.mean.clone().requires_grad_(), w.prior
        q, b = (m.user_factors, m.user_bias) if is_item else (m.item_factors, m.item_bias)
        z, rows = torch.cat([q, torch.ones(len(q), 1)], 1).double()@x + b.double(), torch.tensor(w.rated)
        if is_item: fit = torch.nn.functional.logsigmoid(z[rows]-m.scores(rows)[:, 1:].double().logsumexp(1)).sum()
        else: fit = z[1:].log_softmax(0)[rows-1].sum()
        d = p.root.T@torch.linalg.pinv(p.cov)@(x-p.mean)
        (d@d/2-fit).backward()
        assert (p.root.T@x.grad).abs().max() < 1e-4

def test_what_only_factors_have(kinds):
    for kind in ('net', 'own object', 'own kind'):
        m, w = kinds[kind], new_user(kinds[kind], GIVEN)
        for f in (learn_prior, decay_prior, lambda o: fold_in(o, pd.DataFrame(dict(user=[1], item=ITEMS[:1], rating=[3.]))),
                  lambda o: fit_metadata(o, pd.DataFrame(dict(user=[1, 2], age=[3, 4]))), lambda o: new_user(o, GIVEN, prior=learn_prior(kinds['surface'])),
                  lambda o: w.vector, lambda o: w.bias, lambda o: w.cov, lambda o: next_questions(o, by='gain')):
            with pytest.raises(UnsupportedError): f(m)
    order = kinds['order']
    assert new_user(order, GIVEN).vector.shape == (3,) and len(fold_in(order, pd.DataFrame(dict(user=['a', 'b'], item=ITEMS[:2], rating=[3., 4.]))).ids) == 2
    for f in (decay_prior, lambda o: new_user(o, GIVEN).cov, lambda o: next_questions(o, by='expected gain')):
        with pytest.raises(UnsupportedError, match='order'): f(order)

@pytest.mark.parametrize('kind', KINDS)
def test_questions_and_representatives_of_all_kinds(kinds, kind):
    m, by = kinds[kind], 'expected gain' if kind=='surface' else 'disagreement'
    assert next_questions(m, n=4).equals(next_questions(m, n=4, by=by))
    assert not set(GIVEN) & set(next_questions(m, new_user(m, GIVEN), n=30)['item'])
    for o in ('popularity', 'random', 'disagreement'): assert len(next_questions(m, n=3, by=o)) == 3
    for is_item, some in ((False, range(1, N_USERS+1)), (True, ITEMS)): assert representative(m, is_item=is_item, min_ratings=3) in some
    with pytest.raises(SettingError, match='min_ratings=999: nobody has so many'): representative(m, min_ratings=999)

def test_a_mixture_follows_the_people_who_say_so(s, ratings):
    m = as_model(Means(ratings), history=ratings)
    low, high = (new_user(m, {o: r for o in ITEMS[:8]}).predictions.prediction.mean() for r in (1, 5))
    assert high > low+0.3

def test_choices_without_ratings(s, ratings):
    "A history that knows who chose what takes a list of what was chosen"
    m = s.replace(rates=False, y_range=None, history=History.of(ratings[['user', 'item']], s.vocab))
    w = new_user(m, ['film 03', 'film 07'])
    assert w.notes == () and w.predictions.equals(new_user(m, {'film 03': 5, 'film 07': 1}).predictions)
    x = add_user(m, 99, w)
    assert x.history.of_row(N_USERS+1)[0].tolist() == list(w.rated) and x.history.ratings is None
    with pytest.raises(SettingError, match='choices only'): next_questions(m, by='disagreement')
    assert len(next_questions(m, n=3)) == 3
    with pytest.raises(RatingsError, match='as pairs'): new_user(m.with_history(ratings), ['film 03'])

def test_a_trained_model_for_lists():
    dls = RatingsDataLoaders.from_df(choices_of(), seed=1)
    torch.manual_seed(0)
    rank = RankDot.from_dls(dls, 4)
    for p in rank.parameters(): torch.nn.init.normal_(p)
    with pytest.raises(Exception): new_user(rank, {'film 001': 5.}).cov
    w = new_user(rank, {'film 001': 5., 'film 003': 4.}, history=dls)
    assert list(w.predictions) == ['item', 'score'] and w.folded.sd is None
