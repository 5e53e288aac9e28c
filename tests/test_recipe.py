"""The ridge between items, implicit ALS, popularity for those with few ratings, settings and weights found inside the training part."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as hs

from collab_notes.choices import FEW, few_of, liking, liking_scale, liking_table, shares
from collab_notes.coldstart import new_user
from collab_notes.core import as_model
from collab_notes.errors import CollabError, SettingError, SideTableError
from collab_notes.files import load
from collab_notes.ials import ImplicitALS
from collab_notes.lists import evaluate, recommend
from collab_notes.newcomers import add_user
from collab_notes.ranking import EASE, Blend, Popularity
from collab_notes.recipe import blend_weights, fit_blend, fit_lists, held_ndcg, inner_part, ladder, newcomers_of, tune_model
from collab_notes.rerank import discounted, trade_off
from collab_notes.ridge import ItemRidge
from collab_notes.vocab import History
from conftest import of_chosen, ratings_of

train = of_chosen('train')
quick_als = lambda data, **kw: ImplicitALS(data, 4, n_sweeps=3, n_models=2, **kw)
MAKES = dict(ridge=lambda d: ItemRidge(d, reg=9.), ials=quick_als, ease=lambda d: EASE(d, 9.))

@pytest.fixture(scope='module')
def facts(train): return pd.DataFrame(dict(item=sorted(train['item'].unique()))).assign(half=lambda t: t['item'].str[-1].astype(int)%2, size=range(60))

# --- how it was liked

@given(hs.lists(hs.floats(-1e6, 1e6, width=32), min_size=2, max_size=20))
def test_liking_on_any_scale(ys):
    df = pd.DataFrame(dict(user=range(len(ys)), item=range(len(ys)), rating=ys))
    h = History.of(df)
    s = liking_scale(h)
    x = liking(h.ratings, s, len(ys))
    assert (np.abs(x)<=1).all() and np.isfinite(x).all()
    if min(h.ratings.tolist())<max(h.ratings.tolist()): assert x.max()==1 and x.min()==-1
    assert (np.diff(x[h.ratings.argsort()])>=0).all()

@pytest.mark.parametrize('scale', [lambda y: y/2, lambda y: 25*(y-1), lambda y: -y*3+4], ids=['halves','0 to 100','upside down'])
def test_a_scale_changes_nothing(train, scale):
    "But its direction"
    a,b = (ItemRidge(o, reg=9.) for o in (train, train.assign(rating=scale(train.rating))))
    if scale(1.)<scale(2.): assert torch.allclose(a.weights, b.weights, atol=1e-5)
    else: assert not torch.allclose(a.weights, b.weights, atol=1e-3)

def test_choices_alone_and_one_rating_for_all(train):
    a,b = ItemRidge(train[['user','item']], reg=9.),ItemRidge(train.assign(rating=4.), reg=9.)
    assert torch.equal(a.weights, b.weights) and not a.reads_ratings and not b.reads_ratings
    assert 'ratings count as choices' in new_user(b, {'film 002':4., 'film 004':4.}).notes
    assert new_user(a, ['film 002','film 004']).notes == ()

def test_twice_is_once(train):
    again = pd.concat([train, train])
    assert torch.allclose(ItemRidge(again, reg=9.).weights, ItemRidge(train, reg=9.).weights, atol=1e-6)
    assert liking_table(History.of(again), liking_scale(History.of(train))).nnz == len(train)

# --- facts

def test_facts_of_any_kind(train, facts):
    a = ItemRidge(train, facts, reg=9.)
    assert a.facts.shape == (61,2) and len(a.weights) == 63
    many = facts.assign(words=facts['item'].str[-1], labels=['a|b','b','c|a']*20, when=pd.date_range('2020-01-01', periods=60), gap=[np.nan,1.]*30)
    for t in (many, many.sample(frac=1, random_state=0), many.set_index('item')):
        assert torch.allclose(ItemRidge(train, t, reg=9.).scores([1,5]), ItemRidge(train, many, reg=9.).scores([1,5]), atol=1e-4)
    for t in (facts[['item']], facts.assign(half='x', size=3)): assert ItemRidge(train, t, reg=9.).facts is None
    with pytest.raises(SideTableError): ItemRidge(train, facts.assign(item='?'))
    with pytest.raises(CollabError): ItemRidge(train, facts.rename(columns=dict(item='film')))
    with pytest.raises(CollabError): ItemRidge(train, 'facts')

# --- those with few ratings

@pytest.mark.parametrize('kind', MAKES)
def test_nobody_gets_what_everybody_likes(train, kind):
    m = MAKES[kind](train)
    assert torch.equal(m.fold([]).scores, shares(m.history)) and torch.allclose(m.scores([0])[0], shares(m.history))
    assert new_user(m).top['item'].tolist() == new_user(Popularity(train)).top['item'].tolist()

@pytest.mark.parametrize('kind', MAKES)
@pytest.mark.parametrize('n', [0,1,2,3,9,10,14])
def test_a_newcomer_is_scored_as_when_added(train, kind, n):
    m = MAKES[kind](train)
    given = dict(zip(sorted(train['item'].unique())[:n], [5.,1.,3.,4.]*4))
    who = new_user(m, given)
    more = add_user(m, 99, who)
    assert torch.allclose(more.scores([more.vocab.row(99, False)])[0], who.folded.scores, atol=1e-4)
    assert recommend(more, 99, n=10)['item'].tolist() == who.top['item'].tolist()
    known = m.history.of_row(3)
    assert torch.allclose(m.fold(*known).scores, m.scores([3])[0], atol=1e-4)

def test_never_behind_popularity_where_it_is_learned(train):
    "The largest weight tried is popularity itself"
    rest,new = newcomers_of(train, 8)
    t = ladder({'popularity':Popularity(rest), **{k:f(rest) for k,f in MAKES.items()}}, new, (0,1,20))
    assert (t.loc[0]==t.loc[0,'popularity']).all() and (t.loc[20].drop('popularity')>t.loc[20,'popularity']).all()
    with pytest.raises(SettingError, match='in all'): newcomers_of(train, 40)

# --- settings and weights

def test_the_inner_part(train, dls):
    for o in (train, History.of(train), dls):
        inner,whole = History.of(inner_part(o)),History.of(o)
        assert len(inner) == (~whole.held_out).sum() and 0 < inner.held_out.sum() <= 0.2*len(inner)
        assert inner.vocab.classes['user'] == whole.vocab.classes['user']

dls = of_chosen('dls')

def test_tuning(train):
    t = tune_model(lambda d, **kw: ItemRidge(d, **kw), train, dict(reg=[1.,9.,99.], star=[0.,0.3]), n_trials=5)
    assert len(t) == 5 and t.ndcg.is_monotonic_decreasing and set(t.attrs['best']) <= {'reg','star'}
    best = held_ndcg(ItemRidge(inner_part(train), **t.attrs['best']))
    assert np.isclose(best, t.ndcg.iloc[0])
    for space in ({}, None, [1]):
        with pytest.raises(SettingError, match='space'): tune_model(ItemRidge, train, space)
    with pytest.raises(CollabError): inner_part(train[:30], 0.01)

def test_weights_of_a_blend(train):
    inner = inner_part(train)
    parts = [f(inner) for f in MAKES.values()]
    w = blend_weights(parts)
    assert w[0] == 1 and all(o>=0 for o in w) and held_ndcg(Blend(parts, w)) >= held_ndcg(parts[0])-1e-6
    noise = Popularity(inner)
    noise.counts = torch.randn(61, generator=torch.Generator().manual_seed(0))
    m = fit_blend(list(MAKES.values()), train)
    assert m.weights == w and len(m.history) == len(train)
    with pytest.raises(SettingError, match='inner_part'): blend_weights([f(train) for f in MAKES.values()])

def test_a_model_by_size(train, facts):
    said = []
    for gb,n in ((8,None), (1e-6,128)): assert fit_lists(train, facts, gb, said.append).n_factors == n
    assert 'take' in said[0] and 'in its 128 strongest directions' in said[1]

@pytest.mark.parametrize('side', [False, True])
def test_directions(train, facts, side):
    "With all of them the model is the exact one, with few it is near it, from a file as before, and refuses what is no number of them"
    side = facts if side else None
    a,b,c = (ItemRidge(train, side, reg=9., n_factors=o) for o in (None,500,12))
    users = torch.arange(1, 9)
    assert torch.allclose(a.scores(users), b.scores(users), atol=1e-4)
    assert torch.allclose(a.scores(users, [3,1]), b.scores(users, [3,1]), atol=1e-4)
    assert c.weights.shape[1] == 12 and np.corrcoef(a.scores(users).ravel(), c.scores(users).ravel())[0,1] > 0.8
    assert torch.equal(c.weights, ItemRidge(train, side, reg=9., n_factors=12).weights)
    for o in (0, -1, 2.5, True, 'many'):
        with pytest.raises(SettingError, match='n_factors'): ItemRidge(train, n_factors=o)
    for k,v in dict(onto=None, n_factors=None).items(): assert ItemRidge.from_state({**c.state(), k:v}, c.vocab, c.history).unsound()
    assert ItemRidge.from_state({**c.state(), 'onto':c.onto[:,1:]}, c.vocab, c.history).unsound() and not c.unsound()

# --- what lists are made of

def test_discount(train):
    m = ItemRidge(train, reg=9.)
    t = trade_off(m, train, exclude=None, n_boot=5)
    assert t.popularity.iloc[-1] < t.popularity.iloc[0] and t.gini.between(0, 1).all()
    assert np.allclose(t['never shown']+t.coverage, 1)
    assert recommend(discounted(m, 0))['item'].tolist() == recommend(m)['item'].tolist()
    with pytest.raises(SettingError, match='give history'): discounted(as_model(m).without_history(), 1)

def test_gini_is_that_of_feedback(train):
    from collab_notes.feedback import concentration
    m = EASE(train, 9.)
    rows = recommend(m, n=5)
    want = concentration(rows['item'], sorted(train['item'].unique())).loc['all']
    t = evaluate(m, train.groupby('user').head(1), n=5, exclude='history', n_boot=5)
    assert np.isclose(t.gini.item(), want.gini) and np.isclose(t.coverage.item(), want.coverage)

# --- files

@pytest.mark.parametrize('kind', ['ridge','ials'])
def test_saved(train, facts, tmp_path, kind):
    m = ItemRidge(train, facts, reg=9.) if kind=='ridge' else quick_als(train)
    back = load(m.save(tmp_path/'m', note='hi'))
    assert type(back) is type(m) and torch.equal(back.scores([0,3,9]), m.scores([0,3,9]))
    assert torch.equal(back.fold([2]).scores, m.fold([2]).scores)
    for bad in (dict(star=2.), dict(half=-1.), dict(middle=None), dict(reg=0), dict(star='x')):
        assert type(m).from_state({**m.state(), **bad}, m.vocab, m.history).unsound()

@pytest.mark.parametrize('make', [ItemRidge, ImplicitALS])
def test_settings_refused(train, make):
    for k,v in dict(reg=0, star=1.1).items():
        for bad in (v, -1, float('nan'), 'x', True, 10**400, None):
            with pytest.raises(SettingError, match=f'{k}='): make(train, **{k:bad})

@settings(max_examples=15)
@given(hs.integers(2, 5), hs.integers(2, 5), hs.integers(0, 9))
def test_tiny_tables(n_users, n_items, seed):
    df = ratings_of(n_users*n_items, seed, n_users, n_items).iloc[:-1]
    for m in (ItemRidge(df), ImplicitALS(df, n_sweeps=1, n_models=1)):
        assert m.scores(range(m.vocab.n_users)).isfinite().all() and len(recommend(m, exclude=None))
        assert m.fold([1]).scores.isfinite().all() and m.fold([1], is_item=True).scores.isfinite().all()
