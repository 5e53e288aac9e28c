"""Feedback loops: the Gini coefficient and its companions against brute force, copies, lists compared, policies, the simulated loop, bad input."""
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from collab_notes.feedback import (LoopState, Truth, clone_users, concentration, discount_popularity, gini, group_shelves, list_agreement,
                                   show_best, show_discounted, show_exploring, show_guarded, show_popular, show_random, simulate_loop)
from collab_notes.errors import CollabError, EmptyRatingsError, MissingColumnError, NullIdError, SettingError, UnseenIdError
from conftest import surface_of

quick = settings(max_examples=60)
counts = st.lists(st.integers(0, 10**6), min_size=1, max_size=40).filter(any)

made_surface = partial(surface_of, 30, 40, sd=(.3, .3, .3, .5))

def start(n_users=30, n_items=40, each=5, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor([[u, i] for u in range(1, n_users+1) for i in 1+rng.choice(n_items, each, replace=False)])

@pytest.fixture(scope='module')
def truth(): return Truth(made_surface())
@pytest.fixture
def state():
    pairs = start()
    return LoopState(made_surface(seed=1), pairs, torch.full((len(pairs),), 3.), torch.Generator().manual_seed(0))

# how concentrated

@quick
@given(counts)
def test_gini_is_half_the_relative_mean_difference(c):
    x = np.array(c, dtype=float)
    assert gini(c) == pytest.approx(np.abs(x[:, None]-x).mean()/(2*x.mean()), abs=1e-9)

@quick
@given(counts, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_gini_knows_neither_unit_nor_order(c, scale, rnd):
    shuffled = c[:]
    rnd.shuffle(shuffled)
    assert gini(np.array(shuffled)*scale) == pytest.approx(gini(c), abs=1e-9)
    assert 0 <= gini(c) <= 1-1/len(c)+1e-12
    assert gini(c+c) == pytest.approx(gini(c), abs=1e-9)          # the same shares, of twice as many

@quick
@given(st.integers(1, 500), st.floats(0.1, 1e9))
def test_gini_at_its_ends(n, x):
    assert gini([x]*n) == pytest.approx(0, abs=1e-12)
    assert gini([0]*(n-1)+[x]) == pytest.approx(1-1/n)

@quick
@given(counts)
def test_taking_from_the_poor_raises_gini(c):
    assume(min(c) > 0 and len(c) > 1)
    x = sorted(c)
    assert gini([x[0]-1, *x[1:-1], x[-1]+1]) > gini(x)

@pytest.mark.parametrize('bad, what', [([], EmptyRatingsError), ([0, 0], EmptyRatingsError), ([1, -1], SettingError), ([1, np.nan], SettingError), ([np.inf, 1], SettingError),
                                       ([[1, 2], [3, 4]], SettingError), (3, SettingError), (['x'], SettingError), (None, SettingError)])
def test_no_counts(bad, what):
    with pytest.raises(what): gini(bad)

def test_measures_by_hand():
    items = [1]*6 + [2]*3 + [3]
    c = concentration(items, 200, popularity=range(200)).loc['all']
    p = np.array([.6, .3, .1])
    assert c.slots == 10 and c.coverage == 3/200 and c.top1 == pytest.approx(.9)     # 1% of 200 are two items
    assert c.effective == pytest.approx(np.exp(-(p*np.log(p)).sum())) and c.popularity == pytest.approx(.3*1+.1*2)
    assert c.gini == pytest.approx(gini([6, 3, 1]+[0]*197))
    assert list(concentration(items, 3)) == ['slots', 'gini', 'top1', 'coverage', 'effective']

@quick
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from('abc')), min_size=1, max_size=60))
def test_groups_are_the_parts(rows):
    items, groups = zip(*rows)
    pop = np.arange(9)
    res = concentration(items, 9, pop, groups)
    assert list(res.index) == ['all', *sorted(set(groups))] and res.slots['all'] == res.slots[1:].sum()
    assert (res.popularity[1:]*res.slots[1:]).sum()/res.slots['all'] == pytest.approx(res.popularity['all'])
    for g in set(groups):
        alone = concentration([i for i, o in rows if o == g], 9, pop)
        pd.testing.assert_series_equal(res.loc[g], alone.loc['all'], check_names=False)

def test_ids_lists_and_empty_places():
    by_id = concentration(['x', 'y', 'x'], ['x', 'y', 'z'], pd.Series({'y': 5, 'z': 9}))
    by_row = concentration([1, 2, 1], 3, [0, 5, 9])
    pd.testing.assert_frame_equal(by_id, by_row)
    as_lists = concentration(torch.tensor([[1, 2], [1, 0]]), 3, [0, 5, 9])
    pd.testing.assert_frame_equal(as_lists, by_row)
    df = pd.DataFrame(dict(movie=[10, 20, 10], sex=['f', 'm', 'f']))
    assert concentration(df.movie, sorted(df.movie.unique()), groups=df.sex).slots.to_dict() == {'all': 3, 'f': 2, 'm': 1}
    nothing = concentration(torch.tensor([[1, 2], [0, 0]]), 3, groups=['a', 'b'])
    assert nothing.slots['b'] == 0 and np.isnan(nothing.gini['b'])

@pytest.mark.parametrize('kw, what, says', [
    (dict(items=[1, 4], catalogue=3), UnseenIdError, '4 is not in the catalogue of 3'), (dict(items=[-1], catalogue=3), UnseenIdError, '-1'),
    (dict(items=['q'], catalogue=['x']), UnseenIdError, "'q'"), (dict(items=['q'], catalogue=3), SettingError, 'row numbers'),
    (dict(items=['x'], catalogue=['x', 'x']), SettingError, 'twice'), (dict(items=[], catalogue=3), EmptyRatingsError, 'none'),
    (dict(items=[[0, 0]], catalogue=3), EmptyRatingsError, 'none'), (dict(items=[1], catalogue=0), SettingError, 'catalogue=0'),
    (dict(items=[1], catalogue=3, popularity=[1]), SettingError, 'for each of the 3'), (dict(items=[1], catalogue=1, popularity=[-1]), SettingError, 'popularity'),
    (dict(items=[1, 2], catalogue=3, groups=['a']), SettingError, '1 of them'), (dict(items=[1, 2], catalogue=3, groups='gender'), SettingError, "'gender'"),
    (dict(items=[1, 2], catalogue=3, groups=['a', None]), SettingError, 'position 1 is missing'), (dict(items=[1], catalogue=3, groups=['all']), SettingError, 'everybody'),
    (dict(items=np.ones((1, 1, 1), dtype=int), catalogue=3), SettingError, 'column')])
def test_what_cannot_be_measured(kw, what, says):
    with pytest.raises(what, match=says): concentration(**kw)

# who sets the lists

def test_copies_are_new_people():
    df = pd.DataFrame(dict(user=[7, 7, 9], item=[1, 2, 1], rating=[5., 4, 1], note=list('abc')))
    new = clone_users(df, [9, 7, 9], times=2)
    assert len(new) == 6 and new.user.nunique() == 4 and new.user.min() == 10 and list(new) == list(df)
    assert sorted(map(tuple, new[['item', 'rating', 'note']].values)) == sorted(2*[(1, 5., 'a'), (2, 4., 'b'), (1, 1., 'c')])
    assert not pd.concat([df, new]).duplicated(['user', 'item']).any()
    texts = clone_users(df.assign(user=df.user.astype(str)), ['7'], times=2)
    assert texts.user.unique().tolist() == ['7 (copy 1)', '7 (copy 2)']
    again = pd.concat([df.assign(user=df.user.astype(str)), texts])
    with pytest.raises(SettingError, match='already'): clone_users(again, ['7'])

@pytest.mark.parametrize('users, times, what', [([], 1, UnseenIdError), ([3], 1, UnseenIdError), ([7], 0, SettingError), ([7], 1.5, SettingError)])
def test_nobody_to_copy(users, times, what):
    with pytest.raises(what): clone_users(pd.DataFrame(dict(user=[7, 9], item=[1, 2], rating=[5, 4])), users, times)

def test_no_table_to_copy_from():
    with pytest.raises(MissingColumnError): clone_users(pd.DataFrame(dict(user=[7], item=[1])), [7])
    with pytest.raises(NullIdError): clone_users(pd.DataFrame(dict(user=[7, None, 8], item=[1, 2, 2], rating=[1, 2, 3])), [7])

def rbo_by_hand(a, b, p):
    n, x = len(a), lambda d: len(set(a[:d]) & set(b[:d]))
    return (1-p)/p*sum(x(d)/d*p**d for d in range(1, n+1)) + x(n)/n*p**n

@quick
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(*[st.permutations(range(1, 12)).map(lambda o: o[:n])]*2)), st.floats(0.05, 0.95))
def test_agreement_by_hand(ab, p):
    a, b = ab
    res = list_agreement([a], [b], p).iloc[0]
    assert res.jaccard == pytest.approx(len(set(a) & set(b))/len(set(a) | set(b))) and res.rbo == pytest.approx(rbo_by_hand(a, b, p))
    pd.testing.assert_frame_equal(list_agreement([a], [b], p), list_agreement([b], [a], p))
    assert list_agreement([a], [a], p).iloc[0].tolist() == pytest.approx([1, 1])

def test_empty_places_agree_with_nothing():
    res = list_agreement([[1, 0, 0], [0, 0, 0]], [[1, 2, 0], [0, 0, 0]])
    assert res.jaccard[0] == 1/2 and np.isnan(res.jaccard[1]) and res.rbo[1] == 0

@pytest.mark.parametrize('a, b, p', [([[1, 2]], [[1]], .9), ([1, 2], [1, 2], .9), ([[1, 1]], [[1, 2]], .9), ([[1]], [[1]], 1), ([[1]], [[1]], 0), ([[1]], [[1]], 'x'), ([], [], .9)])
def test_not_lists(a, b, p):
    with pytest.raises(SettingError): list_agreement(a, b, p)

# policies

policies = dict(best=show_best, random=show_random, popular=show_popular, exploring=show_exploring, discounted=show_discounted,
                guarded=partial(show_guarded, groups=['a', 'b', 'b']*10, shelves={'a': [1, 2, 3, 4, 5], 'b': range(6, 41)}))

@pytest.mark.parametrize('n', [1, 3, 10, 38, 60])
@pytest.mark.parametrize('name', policies)
def test_nothing_rated_and_nothing_twice(state, name, n):
    k = {dict(exploring='n_random', guarded='n_own').get(name): 1} if name in ('exploring', 'guarded') and n < 3 else {}
    shown = policies[name](state, n, **k)
    assert shown.shape == (30, min(n, 40)) and shown.dtype == torch.long
    rated = {u: set(state.pairs[state.pairs[:, 0] == u, 1].tolist()) for u in range(1, 31)}
    for u, o in enumerate(shown.tolist(), 1):
        some = [i for i in o if i]
        assert len(some) == len(set(some)) == min(n, 35) and not rated[u] & set(some)

def test_policies_leave_the_state_alone(state):
    before = [t.clone() for t in (state.model.item_bias, state.model.item_factors, state.pairs)]
    for o in policies.values(): o(state, 5)
    assert all(torch.equal(a, b) for a, b in zip(before, (state.model.item_bias, state.model.item_factors, state.pairs)))

def test_what_the_policies_promise(state):
    best = show_best(state, 10)
    assert torch.equal(show_exploring(state, 10, n_random=2)[:, [0, 1, 2, 3]], best[:, :4]) and (show_exploring(state, 10)[:, 4] != best[:, 4]).any()
    assert torch.equal(show_discounted(state, 10, strength=0), best)
    seldom, plain = (concentration(o, 40, state.counts[1:]).popularity['all'] for o in (show_discounted(state, 10, strength=1), best))
    assert seldom < plain < concentration(show_popular(state, 10), 40, state.counts[1:]).popularity['all']
    shelf = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])
    shown = show_guarded(state, 10, ['a']*30, {'a': shelf}, n_own=3)
    assert (torch.isin(shown, shelf).sum(1) >= 3).all()
    with pytest.raises(SettingError, match='places'): show_guarded(state, 2, ['a']*30, {'a': shelf})
    with pytest.raises(SettingError, match="group 'b'"): show_guarded(state, 5, ['a', 'b', 'b']*10, {'a': shelf})
    with pytest.raises(SettingError, match='one for each of the 30'): show_guarded(state, 5, 'gender', {'a': shelf})
    with pytest.raises(SettingError, match='n_random=0'): show_exploring(state, 5, n_random=0)

def test_discount(state):
    s = state.model
    d = discount_popularity(s, state.counts, 0.5)
    assert torch.allclose(d.item_bias, s.item_bias-0.5*torch.log1p(state.counts.float())) and d.item_factors is s.item_factors
    for bad in (dict(counts=[1, 2]), dict(counts=-state.counts-1), dict(counts=state.counts, strength=np.nan), dict(counts=state.counts, strength='x')):
        with pytest.raises(SettingError): discount_popularity(s, **bad)

@quick
@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from('abc')), min_size=1, max_size=80), st.floats(0.05, 1))
def test_shelves(rows, share):
    items, groups = zip(*rows)
    res = group_shelves(items, groups, 12, share=share)
    n = max(1, round(12*share))
    assert set(res) == set(groups) and all(len(o) == len(set(o.tolist())) == n and o.min() >= 1 and o.max() <= 12 for o in res.values())

def test_shelves_of_nobody():
    with pytest.raises(SettingError, match='share=0'): group_shelves([1], ['a'], 3, share=0)
    with pytest.raises(SettingError): group_shelves([1, 2], ['a'], 3)
    with pytest.raises(EmptyRatingsError): group_shelves([], [], 3)

# truth and loop

def test_truth_is_the_models_word_plus_noise():
    s = made_surface()
    plain = Truth(s, taste=1, pair_sd=0, rating_sd=0)
    assert torch.allclose(plain.utility[3, 5], s.pair_scores(3, 5)) and (plain.n_users, plain.n_items) == (30, 40)
    assert torch.equal(Truth(s, seed=3).utility, Truth(s, seed=3).utility) and not torch.equal(Truth(s, seed=3).utility, Truth(s, seed=4).utility)
    rated = Truth(s, rating_sd=5).rate(start(), torch.Generator().manual_seed(0))
    assert set(rated.tolist()) == {1, 2, 3, 4, 5}

@pytest.mark.parametrize('kw', [dict(pair_sd=-1), dict(sure=np.inf), dict(order=np.nan), dict(taste='x'), dict(rating_sd=None), dict(scale=(5, 1))])
def test_no_truth(kw):
    with pytest.raises(SettingError): Truth(made_surface(), **kw)

def test_choices(truth):
    gen, shown = torch.Generator().manual_seed(0), torch.tensor([[1, 2, 3, 0]]*30)
    chosen = truth.choose(shown, 2, gen)
    assert chosen.shape == (60, 2) and len(chosen.unique(dim=0)) == 60 and (chosen[:, 1] > 0).all()
    assert len(truth.choose(shown, 4, gen)) == 90                             # three each: there are no more
    firm = Truth(made_surface(), sure=1e4, order=0)                           # who is that sure takes the best
    best = firm.utility[1:, [1, 2, 3]].argmax(1)+1
    assert torch.equal(firm.choose(shown, 1, gen)[:, 1], best)
    lazy = Truth(made_surface(), sure=0, order=1e4)                           # and who is that lazy the first
    assert (lazy.choose(shown, 1, gen)[:, 1] == 1).all()

groups = ['a', 'b', 'b']*10
def loop(truth, **kw): return simulate_loop(truth, start(), **{**dict(n_rounds=2, n_shown=5, n_chosen=2, n_factors=3, n_epoch=2), **kw})

def test_a_loop_is_reproducible_and_complete(truth):
    state = torch.random.get_rng_state()
    a, b, c = loop(truth, groups=groups), loop(truth, groups=groups), loop(truth, groups=groups, seed=1)
    pd.testing.assert_frame_equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), state) and not a.equals(c)
    assert a.groupby('round').group.apply(list).tolist() == [['all', 'a', 'b']]*2 and not a.isna().any().any()
    assert (a.slots == [150, 50, 100]*2).all() and np.allclose(a.regret, a.best-a.utility)
    shelves = dict(a=torch.tensor([1, 2]))
    own = loop(truth, groups=groups, shelves=shelves)
    assert own.own.notna().tolist() == [False, True, False]*2 and own.own.max() <= 1 and set(own)-set(a) == {'own', 'best_own'}
    assert 'own' not in loop(truth)

def test_the_table_grows_by_what_is_chosen(truth):
    sizes = []
    def spy(state, n):
        sizes.append((len(state.pairs), len(state.ratings), state.model))
        assert len(state.pairs.unique(dim=0)) == len(state.pairs) and not hasattr(state, 'utility')
        return show_best(state, n)
    loop(truth, policy=spy, n_rounds=3)
    assert [o[:2] for o in sizes] == [(150, 150), (210, 210), (270, 270)] and sizes[0][2] is not sizes[1][2]
    sizes.clear()
    loop(truth, policy=spy, n_rounds=3, retrain=False)
    assert sizes[0][2] is sizes[1][2] is sizes[2][2]

def test_the_direction_of_things(truth):
    best, some, none = (loop(truth, policy=o, n_rounds=3).iloc[-1] for o in (show_best, show_exploring, show_random))
    assert best.coverage < some.coverage < none.coverage and best.ratings_gini > none.ratings_gini and best.effective < none.effective
    ideal = loop(truth, policy=lambda state, n: truth.utility.index_put((state.pairs[:, 0], state.pairs[:, 1]), torch.tensor(-9.))[1:, 1:].topk(n).indices+1).iloc[-1]
    assert ideal.utility > best.utility > none.utility and abs(ideal.regret) < 0.3

def test_until_all_is_rated(truth):
    all_of = dict(n_shown=12, n_chosen=12, policy=show_random)                 # 35 unrated items each
    res = loop(truth, n_rounds=3, **all_of)
    assert res.slots.tolist() == [360, 360, 330]
    with pytest.raises(EmptyRatingsError, match='rated all'): loop(truth, n_rounds=4, **all_of)
    more = loop(truth, n_rounds=1, n_shown=60, n_chosen=60)                     # more places than items
    assert more.slots.tolist() == [30*35]

@pytest.mark.parametrize('kw', [dict(n_rounds=0), dict(n_rounds=1.5), dict(n_shown=0), dict(n_chosen=0), dict(n_chosen=6), dict(groups=['a']), dict(groups='gender'), dict(groups=[None]*30),
                                dict(policy=lambda state, n: show_best(state, n+1)), dict(policy=lambda state, n: None), dict(policy=lambda state, n: torch.ones(30, n, dtype=torch.long)),
                                dict(policy=lambda state, n: state.pairs[:, 1].reshape(30, 5))])
def test_no_loop(truth, kw):
    with pytest.raises(SettingError): loop(truth, **kw)

@pytest.mark.parametrize('pairs', [torch.zeros(0, 2), [[1, 41]], [[0, 1]], [[31, 1]], [[1, 1], [1, 1]], [1, 2], [[1, 2, 3]]])
def test_no_start(truth, pairs):
    with pytest.raises(CollabError): simulate_loop(truth, pairs, n_rounds=1)
