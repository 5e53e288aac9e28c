"""Lists and what they are worth: measures against brute force and a library, odd tables, models of every kind, settings that are refused."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import ndcg_score

from collab_notes.data import CollabError, EmptyRatingsError, RatingsDataLoaders, SettingError, UnseenIdError
from collab_notes.deep import CollabNN, nn_learner
from collab_notes.interpret import top_codes
from collab_notes.latent import ShapeError
from collab_notes.models import DotProductBias, NotAFactorModelError, Surface, surface
from collab_notes.recommend import (EASE, Blend, LogUniform, Popularity, RankDot, as_ranker, bootstrap, evaluate, fit_ranking, plot_tuning,
                                    rank_metrics, ranking_learner, recommend, stratified_split, tune, user_metrics, why)
from collab_notes.training import fit

torch.set_num_threads(1)

def table(n=1500, seed=0, n_users=40, n_items=60):
    "Two tastes: even users choose mostly even items"
    rng = np.random.default_rng(seed)
    u,i = rng.integers(1, n_users+1, n),rng.integers(1, n_items+1, n)
    i = np.where(rng.random(n)<0.8, np.where((i-u)%2, i%n_items+1, i), i)
    df = pd.DataFrame(dict(user=u, item=[f'film {o:03}' for o in i])).drop_duplicates(ignore_index=True)
    return df.assign(rating=rng.integers(1, 6, len(df)).astype(float))

@pytest.fixture(scope='module')
def ratings(): return table()
@pytest.fixture(scope='module')
def split(ratings): return stratified_split(ratings, seed=1)
@pytest.fixture(scope='module')
def valid(ratings, split): return ratings.iloc[split[1]]
@pytest.fixture(scope='module')
def dls(ratings, split): return RatingsDataLoaders.from_df(ratings, splits=split, seed=0)
@pytest.fixture(scope='module')
def learn(dls): return fit(dls, 2, seed=0, n_factors=4, progress=False)
@pytest.fixture(scope='module')
def ranked(dls): return fit_ranking(dls, 20, seed=0, n_factors=8, progress=False, bs=8)

# --- measures

def brute(hits, n_relevant):
    res = []
    for h,n in zip(hits, n_relevant):
        k = len(h)
        dcg = sum(1/np.log2(r+2) for r in range(k) if h[r])
        best = sum(1/np.log2(r+2) for r in range(min(k, n)))
        ap = sum(sum(h[:r+1])/(r+1) for r in range(k) if h[r])/n
        res.append((dcg/best, sum(h)/k, sum(h)/n, ap))
    return np.array(res).reshape(-1, 4)

@st.composite
def some_hits(draw):
    k,m = draw(st.integers(1, 12)),draw(st.integers(1, 6))
    hits = draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=m, max_size=m))
    return hits,[max(1, sum(h)+draw(st.integers(0, 15))) for h in hits]

@given(some_hits())
@settings(max_examples=60, deadline=None)
def test_measures_against_brute_force(o):
    res = rank_metrics(*o)
    assert list(res) == ['ndcg','precision','recall','map'] and np.allclose(res, brute(*o), atol=1e-12)
    assert (res.to_numpy()>=0).all() and (res.to_numpy()<=1+1e-12).all()
    assert (res['map']<=res.recall+1e-12).all()

@given(st.integers(1, 20), st.integers(1, 20))
def test_a_perfect_list(k, n):
    hits = [[True]*min(k, n) + [False]*(k-min(k, n))]
    res = rank_metrics(hits, [n]).iloc[0]
    assert np.isclose(res.ndcg, 1) and np.isclose(res.recall, min(k, n)/n) and np.isclose(res.precision, min(k, n)/k) and np.isclose(res['map'], min(k, n)/n)

@given(some_hits(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_hit_further_up_is_better(o, data):
    hits,n = o
    at = [(a,b) for a,h in enumerate(hits) for b in range(1, len(h)) if h[b] and not h[b-1]]
    if not at: return
    a,b = data.draw(st.sampled_from(at))
    better = [list(h) for h in hits]
    better[a][b-1],better[a][b] = True,False
    old,new = rank_metrics(hits, n).iloc[a],rank_metrics(better, n).iloc[a]
    assert new.ndcg>old.ndcg and new['map']>old['map'] and new.precision==old.precision and new.recall==old.recall

@pytest.mark.parametrize('hits,n', [([1,0],[1,1]), ([[1,0]],[1,1]), ([[]],[1]), ([[1,1]],[1]), ([[0,0]],[0])])
def test_measures_refuse(hits, n):
    with pytest.raises(ShapeError): rank_metrics(hits, n)

def test_against_trec_and_sklearn(learn, valid, ratings, split):
    trec = pytest.importorskip('pytrec_eval')
    for k in (1, 5, 10, 30):
        mine,lists = user_metrics(learn, k=k),recommend(learn, n=k)
        run = {str(u):{i:-float(r) for i,r in zip(g['item'], g['rank'])} for u,g in lists.groupby('user')}
        ev = trec.RelevanceEvaluator({str(u):{i:1 for i in g} for u,g in valid.groupby('user')['item']}, {f'{o}.{k}' for o in ('ndcg_cut','P','recall','map_cut')})
        theirs = pd.DataFrame({int(u):{c:v[f'{o}_{k}'] for c,o in zip(('ndcg','precision','recall','map'), ('ndcg_cut','P','recall','map_cut'))} for u,v in ev.evaluate(run).items()}).T
        assert np.allclose(mine[list(theirs)], theirs.loc[mine.index], atol=1e-9)
    s = surface(learn)
    score = s.predict(torch.arange(1, len(s.user_factors))[:,None], torch.arange(1, len(s.item_factors))[None]).numpy().astype(float)
    truth,(u,i) = np.zeros_like(score),(pd.Index(s.classes[c][1:]) for c in ('user','item'))
    truth[u.get_indexer(valid.user),i.get_indexer(valid['item'])] = 1
    seen = ratings.iloc[split[0]]
    score[u.get_indexer(seen.user),i.get_indexer(seen['item'])] = -9
    keep = truth.sum(1)>0
    assert np.isclose(ndcg_score(truth[keep], score[keep], k=10), user_metrics(learn).ndcg.mean(), atol=1e-6)

# --- splits

@given(st.integers(0, 5), st.floats(0.1, 0.9), st.sampled_from(['item','user']))
@settings(max_examples=30, deadline=None)
def test_stratified(seed, pct, by):
    df = table(300, seed)
    tr,va = stratified_split(df, pct, seed, by)
    assert sorted([*tr,*va]) == list(range(len(df)))
    n = df[by].value_counts().sort_index()
    kept = df.iloc[tr][by].value_counts().reindex(n.index, fill_value=0)
    assert (kept==np.round((1-pct)*n)).all()
    assert all((a==b).all() for a,b in zip((tr,va), stratified_split(df, pct, seed, by)))

def test_stratified_refuses(ratings):
    for kw in (dict(by='film'), dict(valid_pct=0), dict(valid_pct=1.5)):
        with pytest.raises(SettingError): stratified_split(ratings, **kw)
    with pytest.raises(EmptyRatingsError): stratified_split(ratings[:0])
    with pytest.raises(CollabError): stratified_split(pd.DataFrame(dict(user=[1,2], item=[1,2], rating=[1,2])), 0.1)   # nothing left to validate on

# --- lists

def kinds(dls, learn, ranked):
    return dict(learner=learn, model=learn.model, surface=surface(learn), ranked=ranked, ease=EASE(dls, 20), popularity=Popularity(dls), net=nn_learner(dls, [5]),
                bare_net=CollabNN.from_dls(dls, [3,3], y_range=(0,5.5)), blend=Blend([ranked, EASE(dls, 20), learn], [1,1,0.1]))

def test_every_kind_of_model(dls, learn, ranked, valid, ratings, split):
    models,seen = kinds(dls, learn, ranked),ratings.iloc[split[0]]
    for name,o in models.items():
        state,mode = torch.random.get_rng_state(),getattr(getattr(o, 'model', o), 'training', None)
        t = recommend(o, n=5, exclude=dls)
        assert list(t) == ['user','item','rank','score'], name
        assert not t.duplicated(['user','item']).any() and (t.groupby('user')['rank'].agg(list).map(lambda r: r==[1,2,3,4,5])).all()
        assert t.groupby('user').score.apply(lambda v: v.is_monotonic_decreasing).all()
        assert len(t.merge(valid)) and not len(t.merge(seen[['user','item']]))
        assert t.user.dtype.kind=='i'                                # ids keep their type
        pd.testing.assert_frame_equal(t, recommend(o, n=5, exclude=dls, block=7))
        assert torch.equal(torch.random.get_rng_state(), state) and getattr(getattr(o, 'model', o), 'training', None)==mode
    res = evaluate(models, valid, exclude=dls, n_boot=20)
    assert list(res.index) == list(models) and (res.ndcg.between(0, 1)).all() and (res.coverage.between(0, 1)).all()
    assert res.rmse.isna().to_dict() == {k:k in ('ranked','ease','popularity','blend') for k in models}
    assert res.ndcg[['ranked','ease','blend']].min() > res.ndcg['popularity']
    assert (res['ndcg low']<=res.ndcg+1e-9).all() and (res['ndcg high']>=res.ndcg-1e-9).all()

def test_nothing_seen_is_recommended(ratings, split, learn):
    seen = ratings.iloc[split[0]]
    assert not len(recommend(learn, n=100).merge(seen, on=['user','item']))
    assert len(recommend(learn, n=100, exclude=None)) == 40*60
    some = recommend(learn, [3,1,3], n=4, items=['film 003','film 004','film 010'], exclude=None)
    assert some.user.tolist() == [3]*3+[1]*3+[3]*3 and set(some['item']) == {'film 003','film 004','film 010'}
    assert recommend(learn, 3, exclude=ratings, n=100, items=list(ratings['item'][ratings.user==3])).empty     # all were seen

def test_ties_in_order_of_rows(dls):
    s = surface(DotProductBias.from_dls(dls, 2))
    flat = Surface(*(torch.zeros_like(o) for o in (s.user_factors, s.item_factors, s.user_bias, s.item_bias)), s.classes, None)
    assert recommend(flat, [1,2], n=3, exclude=None)['item'].tolist() == list(s.classes['item'][1:4])*2

@given(st.integers(1, 400), st.integers(1, 30), st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_top_of_rows_with_many_ties(n_items, n, levels, seed):
    g = torch.Generator().manual_seed(seed)
    bias = torch.randint(0, levels, (n_items+1,), generator=g).float()
    s = Surface(torch.zeros(4, 1), torch.zeros(n_items+1, 1), torch.zeros(4), bias, dict(user=('#na#',1,2,3), item=('#na#',*range(n_items))), None)
    rows,scores = top_codes(s, n=n)
    want = bias[1:].sort(descending=True, stable=True).indices[:n]+1
    assert torch.equal(rows[0,:len(want)], want) and (rows[:,len(want):]==0).all() and scores[0,len(want):].isnan().all()

def test_names_that_are_unknown(learn):
    with pytest.raises(UnseenIdError, match="'film 003'"): recommend(learn, 1, items=['film_003'])
    with pytest.raises(UnseenIdError, match='41'): recommend(learn, [1,41])
    with pytest.raises(UnseenIdError, match="'1'"): recommend(learn, '1')
    with pytest.raises(UnseenIdError): recommend(learn, '#na#')
    with pytest.raises(UnseenIdError): why(learn, 1, 'film 999')

@pytest.mark.parametrize('kw,msg', [(dict(n=0), 'n=0'), (dict(n=2.5), 'n=2.5'), (dict(exclude='none'), "'train'"), (dict(min_ratings=-1), 'min_ratings'), (dict(exclude=[1,2]), r'\(m, 2\)')])
def test_settings_refused(learn, kw, msg):
    with pytest.raises(SettingError, match=msg): recommend(learn, 1, **kw)

def test_what_does_not_know_is_not_guessed(learn, dls, valid):
    s = surface(learn)
    for f in (lambda: recommend(s, 1), lambda: why(s, 1, 'film 003'), lambda: evaluate(s, valid), lambda: recommend(s, 1, exclude=None, min_ratings=1), lambda: evaluate(s, exclude=dls)):
        with pytest.raises(SettingError, match='give|known'): f()
    with pytest.raises(NotAFactorModelError): recommend(torch.nn.Linear(2, 1))

def test_min_ratings(ratings, split, learn):
    n = ratings.iloc[split[0]]['item'].value_counts()
    t = recommend(learn, n=60, min_ratings=int(n.median()))
    assert n[t['item']].min() >= n.median() and t['item'].nunique() == (n>=n.median()).sum()

# --- evaluate

def test_relevance_users_and_groups(learn, valid):
    high = user_metrics(learn, valid, at_least=4)
    assert (high.relevant == valid[valid.rating>=4].user.value_counts().reindex(high.index, fill_value=0)).all()
    assert high.ndcg.isna().equals(high.relevant==0)
    res = evaluate({'a':learn}, valid, by={u:'odd' if u%2 else 'even' for u in range(1, 41)}, n_boot=10)
    assert [o[1] for o in res.index] == ['all','even','odd'] and res.users.iloc[1:].sum() == res.users.iloc[0]
    t = user_metrics(learn, valid)
    assert np.isclose(res.ndcg['a','odd'], t.ndcg[t.index%2==1].mean())
    err = (t.squared[t.index%2==1].sum()/t.ratings[t.index%2==1].sum())**0.5
    assert np.isclose(res.rmse['a','odd'], err)
    with pytest.raises(SettingError, match='more than one row'): evaluate(learn, valid, by=pd.Series(['a','b'], index=[1,1]))
    with pytest.raises(SettingError, match='by'): evaluate(learn, valid, by='age')

def test_a_validation_rating_that_was_seen_does_not_count(ratings, split, valid, learn):
    both = pd.concat([valid, ratings.iloc[split[0]]])
    assert user_metrics(learn, both).relevant.equals(user_metrics(learn, valid).relevant)
    twice = pd.concat([valid, valid])
    assert user_metrics(learn, twice).ndcg.equals(user_metrics(learn, valid).ndcg)

def test_evaluate_refuses(learn, valid):
    with pytest.raises(EmptyRatingsError): evaluate(learn, valid[:0])
    with pytest.raises(SettingError): evaluate(learn, valid, unseen='na')
    with pytest.raises(SettingError): evaluate(learn, valid.to_dict())
    with pytest.raises(SettingError): evaluate({}, valid)
    with pytest.raises(CollabError): evaluate(learn, valid.rename(columns={'item':'film'}))
    with pytest.raises(UnseenIdError): evaluate(learn, valid.assign(user=valid.user+10))
    with pytest.raises(UnseenIdError): evaluate(learn, valid.assign(user=valid.user+1000), unseen='skip')

@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_bootstrap(v):
    low,high = bootstrap(v, n=50)
    assert min(v)-1e-9 <= low <= high <= max(v)+1e-9 and bootstrap(v, n=50)==(low,high)
    assert np.allclose(bootstrap([*v, np.nan], n=50), (low,high))

# --- training for lists

def test_losses_learn_two_tastes(dls, ranked):
    t = recommend(ranked, n=10)
    same = (t.user%2 == t['item'].str[-3:].astype(int)%2).mean()
    assert same > 0.75
    for loss in ('bpr','sampled'):
        a,b = (fit_ranking(dls, 2, loss=loss, seed=1, n_factors=4, progress=False, bs=64) for _ in range(2))
        assert a.recorder.values==b.recorder.values
        assert torch.equal(surface(a).item_factors, surface(b).item_factors)
        assert not surface(a).user_bias.any()
    assert as_ranker(ranked).y_range is None and isinstance(ranked.model, RankDot)

@pytest.mark.filterwarnings('ignore')   # of an infinite learning rate
def test_ranking_refuses(dls):
    for kw in (dict(loss='mse'), dict(n_neg=3), dict(loss='bpr', n_neg=0)):
        with pytest.raises(SettingError): ranking_learner(dls, **kw)
    with pytest.raises(SettingError): fit_ranking(dls, 0)
    with pytest.raises(CollabError): fit_ranking(dls, 2, lr=float('inf'), progress=False, seed=0)

def test_ease_by_loops(ratings, split, dls):
    o = EASE(dls, reg=7.)
    x = o.lists(torch.arange(41)).double()
    for i in (1, 17, 60):                                            # each column is a ridge regression without the item itself
        rest = [j for j in range(61) if j!=i]
        a = x[:,rest].T@x[:,rest] + 7*torch.eye(60, dtype=torch.double)
        assert torch.allclose(torch.linalg.solve(a, x[:,rest].T@x[:,i]), o.weights[rest,i].double(), atol=1e-5)
    same = EASE(ratings.iloc[split[0]], reg=7.)
    assert recommend(same, exclude=dls)['item'].tolist() == recommend(o)['item'].tolist()
    for bad in (dict(reg=-1), dict(reg=float('nan')), dict(max_gb=1e-6)):
        with pytest.raises(SettingError): EASE(dls, **bad)
    with pytest.raises(EmptyRatingsError): EASE(ratings[:0])

# --- reasons

def test_reasons(learn, ranked, dls, ratings, split):
    ease = EASE(dls, 20)
    mine = ratings.iloc[split[0]].query('user==5')
    for o in (learn, ranked, ease):
        t = why(o, 5, 'film 007', n=100)
        assert sorted(t['item']) == sorted(mine['item']) and t.adds.abs().is_monotonic_decreasing
        assert np.isclose(t.adds.sum(), t.attrs['own'], atol=1e-5)
        assert len(why(o, 5, 'film 007')) == 5
    t = why(ease, 5, 'film 007', n=100)
    assert np.isclose(t.attrs['own'], t.attrs['score'], atol=1e-5) and np.isclose(t.attrs['rest'], 0, atol=1e-5)
    s = surface(ranked)
    t = why(ranked, 5, 'film 007', n=100)
    assert np.isclose(t.attrs['own']+t.attrs['rest'], (s.user_factors[s.codes(5, False)]@s.item_factors[s.codes('film 007')][0]).item(), atol=1e-4)
    with pytest.raises(SettingError): why(learn, 5, 'film 007', ratings=mine[['user','item']])
    assert 'rating' not in why(ranked, 5, 'film 007', ratings=mine[['user','item']])
    with pytest.raises(UnseenIdError, match='has no ratings'): why(learn, 6, 'film 007', ratings=mine)

def test_reasons_are_exact_for_a_ridge_solution():
    "Factors of a user that really are the ridge solution: nothing is left over"
    g = torch.Generator().manual_seed(0)
    v,r = torch.randn(31, 4, generator=g),torch.rand(12, generator=g)*4+1
    b = 3+torch.zeros(31)
    j = torch.arange(1, 13)
    p = torch.linalg.solve(v[j].T@v[j]+2*torch.eye(4), v[j].T@(r-3))
    s = Surface(torch.stack([p*0, p]), v, torch.tensor([0.,3.]), b*0, dict(user=('#na#','me'), item=('#na#',*range(1, 31))), None)
    t = why(s, 'me', 30, n=12, ratings=pd.DataFrame(dict(user='me', item=j.numpy(), rating=r.numpy())))
    assert abs(t.attrs['rest'])<1e-4 and np.isclose(t.attrs['score'], 3+t.adds.sum(), atol=1e-4)
    by_item = t.set_index('item').adds
    inv = torch.linalg.inv(v[j].T@v[j]+2*torch.eye(4))
    assert np.allclose(by_item[j.numpy()], (v[30]@inv@v[j].T*(r-3)).numpy(), atol=1e-4)

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
    assert len(b) == 2 and list(b) == ['n_factors','n_epoch','mean','std'] and b['mean'].is_monotonic_decreasing
    assert len(plot_tuning(a)) == 3

@pytest.mark.parametrize('kw', [dict(objective='rmse'), dict(n_trials=0), dict(folds=0), dict(space={}), dict(space=[1])])
def test_tune_refuses(dls, kw):
    with pytest.raises(SettingError): tune(dls, **kw)
