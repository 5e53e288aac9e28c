"""New users and items: what the notebook does not show. Properties of folding in, models without biases or range, odd facts and ids, the two sides being one."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders, collab_learner
from hypothesis import given, settings, strategies as st

from collab_notes.coldstart import (KnownIdError, MetadataError, Newcomer, Prior, add_item, add_user, decay_prior, fit_metadata, fold_in, learn_prior,
                                    new_item, new_user, next_questions, question_gains, representative)
from collab_notes.data import (BadRatingError, CollabError, DuplicateRatingsError, MissingColumnError, MixedIdsError, NullIdError, RatingRangeError, RatingsDataLoaders,
                               RatingsError, SettingError, UnseenIdError)
from collab_notes.interpret import pca_map, similar_items, similar_users, top_codes
from collab_notes.models import DotProduct, DotProductBias, DotProductBiasParams, Surface, surface
from collab_notes.recommend import RankDot

torch.set_num_threads(1)

N_USERS, N_ITEMS = 40, 30
ITEMS = [f'film {i:02}' for i in range(N_ITEMS)]

def true_surface(seed=0, k=3, y_range=(0, 5.5), biases=True):
    "A surface with strong tastes"
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g)
    b = 1. if biases else 0.
    return Surface(r(N_USERS+1, k), r(N_ITEMS+1, k), b*r(N_USERS+1), b*r(N_ITEMS+1), dict(user=('#na#', *range(1, N_USERS+1)), item=('#na#', *ITEMS)), y_range)

def table(s, n=500, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(user=rng.integers(1, N_USERS+1, n), item=rng.choice(ITEMS, n))).drop_duplicates(ignore_index=True)
    p = s.predict(s.codes(df.user, False), s.codes(df['item'])).numpy() + noise*rng.standard_normal(len(df))
    return df.assign(rating=np.clip(p, *(s.y_range or (-9, 9))).round(2))

@pytest.fixture(scope='module')
def s(): return true_surface()
@pytest.fixture(scope='module')
def ratings(s): return table(s)
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
    assert w.rung == 'mean' and w.notes == ('no ratings given',) and len(w.top) == 10

rated = st.dictionaries(st.sampled_from(ITEMS), st.floats(0.5, 5), max_size=12)

@settings(max_examples=25, deadline=None)
@given(people=st.lists(rated, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_together_is_one_by_one_in_any_order(s, prior, people, seed):
    df = pd.DataFrame([(u, i, r) for u, d in enumerate(people) for i, r in d.items()], columns=['user', 'item', 'rating'])
    free = replace(prior, scale=None)
    f = fold_in(s, df.sample(frac=1, random_state=seed), free, ids=range(len(people)))
    for u, d in enumerate(people): assert torch.allclose(both(f)[u], mine(new_user(s, d, prior=free)), atol=1e-3)

@settings(max_examples=25, deadline=None)
@given(rated=rated)
def test_sides_are_symmetric(s, prior, rated):
    "Folding a user into a model is folding an item into its transpose"
    t = Surface(s.item_factors, s.user_factors, s.item_bias, s.user_bias, dict(u=s.classes['item'], i=s.classes['user']), s.y_range)
    free = replace(prior, scale=None)
    a, b = new_user(s, rated, prior=free), new_item(t, rated, prior=replace(free, is_item=True))
    assert torch.allclose(mine(a), mine(b), atol=1e-6) and np.allclose(a.predictions.predicted, b.predictions.predicted, atol=1e-5)

@settings(max_examples=25, deadline=None)
@given(rated=rated)
def test_ratings_only_make_surer(s, prior, rated):
    w = new_user(s, rated, prior=replace(prior, scale=None))
    assert torch.linalg.eigvalsh(prior.cov-w.cov).min() > -1e-6 and torch.linalg.eigvalsh(w.cov).min() > -1e-9

def loss(s, p, x, items, y):
    z = torch.cat([s.item_factors, torch.ones(len(s.item_factors), 1)], 1).double()[s.codes(items)]@x + s.item_bias[s.codes(items)].double()
    f = z if s.y_range is None else s.y_range[0]+(s.y_range[1]-s.y_range[0])*z.sigmoid()
    d = x-p.mean
    return ((f-y)**2).sum()/p.noise + d@torch.linalg.pinv(p.cov)@d

@pytest.mark.parametrize('y_range', [(0, 5.5), None, (-3, 20)])
def test_is_at_the_bottom(y_range):
    s = true_surface(3, y_range=y_range)
    p = learn_prior(s, table(s))
    p = replace(p, scale=None)
    x = new_user(s, GIVEN, prior=p).mean.clone().requires_grad_()
    loss(s, p, x, list(GIVEN), torch.tensor(list(GIVEN.values())).double()).backward()
    assert x.grad.abs().max() < 0.02   # in units where a step of one standard deviation costs 1

def test_without_a_range_it_is_linear_regression():
    s = true_surface(1, y_range=None)
    p = Prior(torch.zeros(4).double(), torch.eye(4).double(), 0.5)
    i = s.codes(list(GIVEN))
    a, y = torch.cat([s.item_factors[i], torch.ones(3, 1)], 1).double(), torch.tensor(list(GIVEN.values())).double()-s.item_bias[i]
    assert torch.allclose(mine(new_user(s, GIVEN, prior=p)).double(), torch.linalg.solve(a.T@a/0.5+torch.eye(4).double(), a.T@y/0.5), atol=1e-5)

def test_extreme_ratings_and_priors_stay_finite(s, prior):
    for noise in (1e-4, 1e4):
        for cov in (1e-8, 1e4):
            p = replace(prior, noise=noise, cov=cov*torch.eye(4).double(), scale=None)
            w = new_user(s, {o: r for o, r in zip(ITEMS, [5.5, 0, 9, -9]*7)}, prior=p)
            assert torch.isfinite(w.mean).all() and np.isfinite(w.predictions[['predicted', 'sd']]).all(axis=None)

def test_a_model_without_biases(ratings):
    s = true_surface(2, biases=False)
    df = table(s)
    p = learn_prior(s, df)
    w = new_user(s, GIVEN, prior=p)
    assert w.bias == 0 and w.vector.abs().sum() > 0   # nobody has a bias, so the newcomer has none
    assert surface(add_user(s, 99, w)).user_bias.abs().sum() == 0

def test_learned_from_few():
    s = true_surface(0)
    with pytest.raises(SettingError, match='1 user with'): learn_prior(s, pd.DataFrame(dict(user=[1, 1], item=ITEMS[:2], rating=[1., 2.])))
    with pytest.raises(SettingError, match='20 ratings or more'): learn_prior(s, table(s, 30), min_ratings=20)
    two = pd.DataFrame(dict(user=[1, 1, 2], item=ITEMS[:3], rating=[1., 2., 5.]))
    assert torch.isfinite(new_user(s, GIVEN, prior=replace(learn_prior(s, two), scale=None)).mean).all()

def test_a_bare_surface(s):
    p = learn_prior(s)
    assert len(p.rows) == N_USERS and p.scale == (0, 5.5)
    assert torch.allclose(p.mean[:3].float(), s.user_factors[1:].mean(0), atol=1e-6)
    no_range = replace(s, y_range=None)
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

BAD = [({'film 3': 4}, UnseenIdError, 'did you mean'), ({'#na#': 4}, UnseenIdError, 'not in the table'), ({'film 03': 6}, RatingRangeError, 'outside'), ({'film 03': -1}, RatingRangeError, 'outside'),
       ({'film 03': np.nan}, BadRatingError, 'finite'), ({'film 03': None}, BadRatingError, 'finite'), ({'film 03': np.inf}, BadRatingError, 'finite'), ({'film 03': 'x'}, BadRatingError, 'finite'),
       ({'film 03': np.nan, 'film 04': np.nan}, BadRatingError, '2 rows have'), ([('film 03', 4), ('film 03', 4)], DuplicateRatingsError, 'more than once'), ({None: 4}, NullIdError, 'of nothing'),
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
        assert torch.allclose(m(dict(job='cook')), m(dict(job='cook', age=median)), atol=1e-5)
        assert torch.allclose(m(dict(age=20, job='diver')), m(dict(age=20)), atol=1e-5)          # new is as good as missing
        assert torch.allclose(m(dict(age=None, job=np.nan)), prior.mean[None])
        assert torch.isfinite(m(table)).all()
        w = new_user(s, GIVEN, dict(job='diver'), meta=m)
        assert w.rung == 'both' and w.notes == ('missing: age', "job 'diver' is new, taken as #na#")

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
    for bad, error, match in ((dict(Age=3), MissingColumnError, "'Age'"), (dict(age='old'), MetadataError, 'finite'), (dict(age=np.inf), MetadataError, 'finite'), ({}, MissingColumnError, 'age, job'),
                              (facts[:2], MetadataError, 'one newcomer'), (pd.DataFrame(dict(x=[1])), MissingColumnError, 'age, job')):
        with pytest.raises(error, match=match): new_user(s, None, bad, meta=meta)
    for bad, error, match in ((facts.drop(columns='user'), MissingColumnError, "'user'"), (pd.concat([facts, facts]), MetadataError, 'more than one row'), (facts.assign(user=facts.user+1000), UnseenIdError, 'hardly any'),
                              (facts.assign(age=np.nan), MetadataError, 'nothing in this column'), (facts.assign(name=[f'n{i}' for i in range(N_USERS)]), MetadataError, 'different for everyone'),
                              (facts[['user']], MetadataError, 'no facts')):
        with pytest.raises(error, match=match): fit_metadata(s, bad, prior, n_nets=1)

def test_metadata_does_not_disturb_random_numbers(s, facts, prior):
    torch.manual_seed(3); a = torch.rand(1)
    torch.manual_seed(3); x = fit_metadata(s, facts, prior, n_epoch=1, n_nets=1)(facts); b = torch.rand(1)
    assert a == b and torch.equal(x, fit_metadata(s, facts, prior, n_epoch=1, n_nets=1)(facts))

def test_facts_that_matter_are_found(s):
    "Users of two kinds, and a column that says which"
    kind = torch.arange(N_USERS+1) % 2
    t = replace(s, user_factors=0.1*s.user_factors + torch.where(kind[:, None] > 0, 1., -1.))
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
    q = next_questions(s, w, n=100, by=by, ratings=ratings)
    assert sorted(q['item']) == sorted(set(ITEMS)-set(GIVEN)) and np.isfinite(q.score).all()
    assert q['item'].tolist() == next_questions(s, w, n=100, by=by, ratings=ratings)['item'].tolist()
    with pytest.raises(SettingError): next_questions(s, w, n=0, by=by, ratings=ratings)

def test_questions_know_their_limits(s, prior, item_prior):
    assert len(next_questions(s, n=2, by='gain', prior=prior)) == 2
    for by in ('popularity', 'expected gain'):
        with pytest.raises(SettingError, match='needs the ratings'): next_questions(s, by=by, prior=prior)
    with pytest.raises(SettingError, match='new item'): next_questions(s, new_item(s, {1: 3}, prior=item_prior), by='gain')

def test_adding(s, prior, item_prior):
    w = new_user(s, GIVEN, prior=prior)
    x = add_user(s, 99, w)
    assert x is not s and len(s.classes['user']) == N_USERS+1 and x.classes['user'][-1] == 99
    assert similar_users(x, 99, n=3).shape[0] == 3 and len(pca_map(x, is_item=False, k=2)) == N_USERS+1
    items, preds = top_codes(x, [N_USERS+1], n=3, exclude=[(N_USERS+1, r) for r in w.rated])
    assert [x.classes['item'][i] for i in items[0]] == w.top['item'][:3].tolist() and np.allclose(preds[0], w.top.predicted[:3], atol=1e-5)
    y = add_item(x, 'film 99', new_item(x, {99: 5, 1: 2}, prior=item_prior))      # who has just come may rate at once
    assert similar_items(y, 'film 99', n=2).shape[0] == 2
    z = add_user(y, 100, w)                                                       # made before the item was there: still good
    assert torch.equal(z.user_factors[-1], w.vector) and len(z.item_bias) == N_ITEMS+2

def test_adding_what_does_not_fit(s, prior):
    w = new_user(s, GIVEN, prior=prior)
    for id, error in ((1, KnownIdError), ('x', MixedIdsError), (None, NullIdError), (np.nan, NullIdError), ('', NullIdError), ([7, 8], SettingError), ('#na#', KnownIdError)):
        with pytest.raises(error): add_user(s, id, w)
    with pytest.raises(SettingError, match='use add_user'): add_item(s, 'film 99', w)
    with pytest.raises(SettingError, match='another model'): add_user(true_surface(5), 99, w)
    with pytest.raises(SettingError, match='another model'): add_user(true_surface(0, k=2), 99, w)
    with pytest.raises(SettingError, match='new_user'): add_user(s, 99, GIVEN)

def test_all_errors_are_ours():
    for e in (KnownIdError, MetadataError): assert issubclass(e, CollabError) and issubclass(e, ValueError)

def test_newcomers_are_frozen(s, prior):
    w = new_user(s, GIVEN, prior=prior)
    with pytest.raises(AttributeError): w.rung = 'x'
    assert isinstance(w, Newcomer) and 'rung: ratings, 3 ratings' in repr(w)

def test_a_model_for_lists_takes_no_newcomers():
    dls = RatingsDataLoaders.from_df(pd.DataFrame(dict(user=[1,1,2,2,3,3], item=list('abbcca'), rating=[5,3,4,2,1,5])), seed=1)
    rank = RankDot.from_dls(dls, 2)
    torch.nn.init.normal_(rank.item_bias_emb.weight)
    for f in (lambda: learn_prior(rank), lambda: new_user(rank, {'a':5.})):
        with pytest.raises(SettingError, match='no ratings'): f()
