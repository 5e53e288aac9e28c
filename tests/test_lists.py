"""Lists and what they are worth: measures against brute force and a library, odd tables, models of every kind, settings that are refused."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import ndcg_score

from collab_notes.core import Surface, as_model
from collab_notes.data import RatingsDataLoaders, stratified_split
from collab_notes.deep import CollabNN, nn_learner
from collab_notes.errors import CollabError, EmptyRatingsError, NotAModelError, SettingError, ShapeError, UnseenIdError
from collab_notes.lists import bootstrap, check_groups, evaluate, ndcg_of, rank_metrics, recommend, user_metrics
from collab_notes.models import DotProductBias
from collab_notes.protocol import Model
from collab_notes.ranking import EASE, Blend, Popularity, fit_ranking
from collab_notes.topn import top_rows
from collab_notes.training import fit
from collab_notes.vocab import History
from conftest import of_chosen

ratings,split,valid,dls,learn,ranked = map(of_chosen, 'ratings split valid dls learn ranked'.split())

# --- measures

def brute(hits, n_relevant):
    res = []
    for h,r in zip(hits, n_relevant):
        n = len(h)
        dcg = sum(1/np.log2(k+2) for k in range(n) if h[k])
        best = sum(1/np.log2(k+2) for k in range(min(n, r)))
        ap = sum(sum(h[:k+1])/(k+1) for k in range(n) if h[k])/r
        res.append((dcg/best, sum(h)/n, sum(h)/r, ap))
    return np.array(res).reshape(-1, 4)

@st.composite
def some_hits(draw):
    n,m = draw(st.integers(1, 12)),draw(st.integers(1, 6))
    hits = draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=m, max_size=m))
    return hits,[max(1, sum(h)+draw(st.integers(0, 15))) for h in hits]

@given(some_hits())
@settings(max_examples=60)
def test_measures_against_brute_force(o):
    res = rank_metrics(*o)
    assert list(res) == ['ndcg','precision','recall','map'] and np.allclose(res, brute(*o), atol=1e-12)
    assert (res.to_numpy()>=0).all() and (res.to_numpy()<=1+1e-12).all()
    assert (res['map']<=res.recall+1e-12).all()
    assert np.allclose(ndcg_of(torch.tensor(o[0]), torch.tensor(o[1])), res.ndcg, atol=1e-6)      # what training shows

@given(st.integers(1, 20), st.integers(1, 20))
def test_a_perfect_list(n, r):
    hits = [[True]*min(n, r) + [False]*(n-min(n, r))]
    res = rank_metrics(hits, [r]).iloc[0]
    assert np.isclose(res.ndcg, 1) and np.isclose(res.recall, min(n, r)/r) and np.isclose(res.precision, min(n, r)/n) and np.isclose(res['map'], min(n, r)/r)

@given(some_hits(), st.data())
@settings(max_examples=60)
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
    for n in (1, 5, 10, 30):
        mine,lists = user_metrics(learn, n=n),recommend(learn, n=n)
        run = {str(u):{i:-float(r) for i,r in zip(g['item'], g['rank'])} for u,g in lists.groupby('user')}
        ev = trec.RelevanceEvaluator({str(u):{i:1 for i in g} for u,g in valid.groupby('user')['item']}, {f'{o}.{n}' for o in ('ndcg_cut','P','recall','map_cut')})
        theirs = pd.DataFrame({int(u):{c:v[f'{o}_{n}'] for c,o in zip(('ndcg','precision','recall','map'), ('ndcg_cut','P','recall','map_cut'))} for u,v in ev.evaluate(run).items()}).T
        assert np.allclose(mine[list(theirs)], theirs.loc[mine.index], atol=1e-9)
    m = as_model(learn)
    score = m.scores(torch.arange(m.vocab.n_users))[1:,1:].numpy().astype(float)
    truth,(u,i) = np.zeros_like(score),(pd.Index(m.classes[c][1:]) for c in ('user','item'))
    truth[u.get_indexer(valid.user),i.get_indexer(valid['item'])] = 1
    seen = ratings.iloc[split[0]]
    score[u.get_indexer(seen.user),i.get_indexer(seen['item'])] = -9
    keep = truth.sum(1)>0
    assert np.isclose(ndcg_score(truth[keep], score[keep], k=10), user_metrics(learn).ndcg.mean(), atol=1e-6)

# --- lists

class Means(Model):
    "A kind of one's own: the mean rating of each item"
    def scores(self, users, items=None):
        _,i,y = self.history.part()
        counts = self.history.counts()
        means = torch.zeros(len(counts)).index_add(0, i, y)/counts.clamp(min=1)
        return (means if items is None else means[items]).repeat(len(users), 1)

class Answers:
    "An object of somebody else's"
    def predict(self, users, items): return np.array([len(str(o))+u%3 for u,o in zip(users, items)])

def kinds(dls, learn, ranked):
    "name → model, and the history it has to be given"
    known = dict(learner=learn, ranked=ranked, ease=EASE(dls, 20), popularity=Popularity(dls), net=nn_learner(dls, [5]), own=Means(dls),
                 blend=Blend([ranked, EASE(dls, 20), learn], [1,1,0.1]), mean=Blend([learn, Means(dls)], [0.5,0.5]))
    bare = dict(model=learn.model, bare_net=CollabNN.from_dls(dls, [3,3], y_range=(0,5.5)), other=Answers())
    return {**{k:(o,None) for k,o in known.items()}, **{k:(o,dls) for k,o in bare.items()}}

ORDERS = 'ranked','ease','popularity','blend'

def test_every_kind_of_model(dls, learn, ranked, valid, ratings, split):
    models,seen = kinds(dls, learn, ranked),ratings.iloc[split[0]]
    for name,(o,history) in models.items():
        state,mode = torch.random.get_rng_state(),getattr(getattr(o, 'model', o), 'training', None)
        t = recommend(o, n=5, history=history)
        assert list(t) == ['user','item','rank','score' if name in ORDERS else 'prediction'], name
        assert not t.duplicated(['user','item']).any() and (t.groupby('user')['rank'].agg(list).map(lambda r: r==[1,2,3,4,5])).all()
        assert t.groupby('user')[t.columns[3]].apply(lambda v: v.is_monotonic_decreasing).all() and t.notna().all(axis=None)
        assert len(t.merge(valid, on=['user','item'])) and not len(t.merge(seen, on=['user','item']))
        assert t.user.dtype.kind=='i'                                # ids keep their type
        pd.testing.assert_frame_equal(t, recommend(o, n=5, history=history, block=7))
        pd.testing.assert_frame_equal(t, as_model(o, history).recommend(n=5))
        assert torch.equal(torch.random.get_rng_state(), state) and getattr(getattr(o, 'model', o), 'training', None)==mode
    res = pd.concat([evaluate({k:o}, history=h, n_boot=20) for k,(o,h) in models.items()])
    assert (res.ndcg.between(0, 1)).all() and (res.coverage.between(0, 1)).all()
    assert res.rmse.isna().to_dict() == {k:k in ORDERS for k in models}
    assert res.ndcg[['ranked','ease','blend']].min() > res.ndcg['popularity']
    assert (res['ndcg low']<=res.ndcg+1e-9).all() and (res['ndcg high']>=res.ndcg-1e-9).all()
    every = evaluate({k:o for k,(o,h) in models.items() if h is None}, valid, n_boot=20)
    pd.testing.assert_frame_equal(every, res.loc[every.index])

def test_no_column_is_empty(dls, learn, valid):
    "What no model of a table can say is no column of it"
    pop = Popularity(dls)
    lists = ['ndcg','ndcg low','ndcg high','precision','recall','map','coverage','novelty','popularity','gini','never shown','users','left out']
    assert list(evaluate(pop, valid, n_boot=5)) == lists
    both = evaluate({'a':pop, 'b':learn}, valid, n_boot=5)
    assert list(both) == ['rmse','mae',*lists] and both.drop(columns=['rmse','mae']).notna().all(axis=None) and both.loc['b'].notna().all()
    assert list(evaluate(learn, valid[['user','item']], n_boot=5)) == lists           # who chose what, without ratings
    assert 'squared' not in user_metrics(learn, valid[['user','item']])
    bare = evaluate(learn.model, valid, exclude=None, n_boot=5)
    assert list(bare) == ['rmse','mae',*(o for o in lists if o not in ('novelty','popularity'))]   # of what nobody is known to have rated
    seen = evaluate(learn, History.of(dls).table(), n_boot=5)        # all of it was seen: only errors are left
    assert list(seen) == ['rmse','mae','coverage','novelty','popularity','gini','never shown','users','left out'] and seen.users.item()==0

def test_errors_are_the_models_own(dls, valid):
    "A model that makes something of more columns of a table is measured by what it makes of them"
    class Late(Means):
        def predict(self, pairs, unseen='error'): return super().predict(pairs, unseen).assign(prediction=pairs['rating']-pairs['shift'])
    m,shift = Late(dls),np.linspace(0, 1, len(valid))
    res = evaluate(m, valid.assign(shift=shift), n_boot=5)
    assert np.isclose(res.rmse.item(), (shift**2).mean()**0.5, atol=1e-5) and np.isclose(res.mae.item(), shift.mean(), atol=1e-5)

def test_unknown_users(learn, valid, ratings):
    known = recommend(learn, [3,1], n=3)
    with pytest.raises(UnseenIdError, match='77'): recommend(learn, [3,77,1], n=3)
    pd.testing.assert_frame_equal(recommend(learn, [3,77,1], n=3, unseen='skip'), known)
    some = recommend(learn, [3,77,1,78], n=3, unseen='na')
    assert some.user.tolist() == [3]*3+[77]*3+[1]*3+[78]*3 and some[some.user==77]['item'].tolist() == some[some.user==78]['item'].tolist()
    new = valid.assign(user=valid.user.replace({5:77, 6:78}))
    t,old = user_metrics(learn, new, unseen='na'),user_metrics(learn, valid)
    assert t.index.tolist()[:-2] == [o for o in old.index if o not in (5,6)] and set(t.index[-2:]) == {77,78} and t.index.dtype.kind=='i'
    assert t.relevant[77] == (valid.user==5).sum() and t.ratings[77] == (valid.user==5).sum()
    m = as_model(learn)
    p = m.pair_scores(0, m.vocab.rows(valid['item'][valid.user==5])).numpy()
    assert np.isclose(t.absolute[77], np.abs(p-valid.rating[valid.user==5]).sum(), atol=1e-4)
    pd.testing.assert_frame_equal(t.drop(index=[77,78]), old.drop(index=[5,6]))
    assert not len(recommend(learn, [77], unseen='skip'))
    with pytest.raises(SettingError, match='unseen'): recommend(learn, [77], unseen='mean')

def test_nothing_seen_is_recommended(ratings, split, learn):
    seen = ratings.iloc[split[0]]
    assert not len(recommend(learn, n=100).merge(seen, on=['user','item']))
    assert len(recommend(learn, n=100, exclude=None)) == 40*60
    some = recommend(learn, [3,1,3], n=4, items=['film 003','film 004','film 010'], exclude=None)
    assert some.user.tolist() == [3]*3+[1]*3+[3]*3 and set(some['item']) == {'film 003','film 004','film 010'}
    assert recommend(learn, 3, exclude=ratings, n=100, items=list(ratings['item'][ratings.user==3])).empty     # all were seen

def test_what_is_left_out_in_any_form(ratings, split, dls, learn):
    want,seen = recommend(learn, n=4),ratings.iloc[split[0]]
    m = as_model(learn)
    pairs = torch.stack([m.vocab.rows(seen.user, False), m.vocab.rows(seen['item'])], 1)
    for o in (seen, dls, learn, pairs, pairs.tolist(), History.of(dls), seen[['user','item']]):
        pd.testing.assert_frame_equal(recommend(learn, n=4, exclude=o), want)
        pd.testing.assert_frame_equal(recommend(learn.model, n=4, exclude=o, min_ratings=1), want)
        pd.testing.assert_frame_equal(recommend(learn.model, n=4, history=o), want)
    assert len(recommend(learn, n=100, exclude=seen[:0])) == 40*60

def test_ties_in_order_of_rows(dls):
    s = as_model(DotProductBias.from_dls(dls, 2))
    flat = s.replace(**{k:torch.zeros_like(getattr(s, k)) for k in ('user_factors','item_factors','user_bias','item_bias')})
    assert recommend(flat, [1,2], n=3, exclude=None)['item'].tolist() == list(s.classes['item'][1:4])*2

@given(st.integers(1, 400), st.integers(1, 30), st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=40)
def test_top_of_rows_with_many_ties(n_items, n, levels, seed):
    g = torch.Generator().manual_seed(seed)
    bias = torch.randint(0, levels, (n_items+1,), generator=g).float()
    s = Surface(torch.zeros(4, 1), torch.zeros(n_items+1, 1), torch.zeros(4), bias, dict(user=('#na#',1,2,3), item=('#na#',*range(n_items))), None)
    rows,scores = top_rows(s, n=n)
    want = bias[1:].sort(descending=True, stable=True).indices[:n]+1
    assert torch.equal(rows[0,:len(want)], want) and (rows[:,len(want):]==0).all() and scores[0,len(want):].isnan().all()

def test_names_that_are_unknown(learn):
    with pytest.raises(UnseenIdError, match="'film 003'"): recommend(learn, 1, items=['film_003'])
    with pytest.raises(UnseenIdError, match='41'): recommend(learn, [1,41])
    with pytest.raises(UnseenIdError, match="'1'"): recommend(learn, '1')
    with pytest.raises(UnseenIdError): recommend(learn, '#na#')

@pytest.mark.parametrize('kw,msg', [(dict(n=0), 'n=0'), (dict(n=2.5), 'n=2.5'), (dict(exclude='none'), "'history'"), (dict(min_ratings=-1), 'min_ratings'), (dict(exclude=[1,2]), r'\(m, 2\)')])
def test_settings_refused(learn, kw, msg):
    with pytest.raises(SettingError, match=msg): recommend(learn, 1, **kw)

def test_what_does_not_know_is_not_guessed(learn, dls, valid):
    s = as_model(learn).without_history()
    for f in (lambda: recommend(s, 1), lambda: evaluate(s, valid), lambda: recommend(s, 1, exclude=None, min_ratings=1), lambda: evaluate(s, exclude=dls)):
        with pytest.raises(SettingError, match='give|known'): f()
    with pytest.raises(NotAModelError): recommend(torch.nn.Linear(2, 1))

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
    some = evaluate(learn, valid, by={1:7, 2:30, 3:7}, n_boot=10)                   # users without a group are in none
    assert [o[1] for o in some.index] == ['all',7,30] and np.isclose(some.ndcg['model',7], t.ndcg[[1,3]].mean())
    with pytest.raises(SettingError, match='more than one row'): evaluate(learn, valid, by=pd.Series(['a','b'], index=[1,1]))
    with pytest.raises(SettingError, match='by'): evaluate(learn, valid, by='age')
    with pytest.raises(SettingError, match="'all'"): evaluate(learn, valid, by={1:'all'})
    with pytest.raises(SettingError, match='at_least'): user_metrics(learn, valid[['user','item']], at_least=4)

def test_who_and_what_is_left_out(learn, valid):
    "An item that no model could know is missed; ids of users without anything relevant are named"
    some = valid[valid.user<20]
    old,more = user_metrics(learn, some),user_metrics(learn, pd.concat([some, pd.DataFrame(dict(user=[1], item=['film 999'], rating=[5.]))]))
    assert more.relevant[1] == old.relevant[1]+1 and more.recall[1] <= old.recall[1]
    low = pd.concat([some[some.user!=1], some[some.user==1].assign(rating=1.)])
    res = evaluate(learn, low, at_least=2, n_boot=5)
    assert 1 in res.attrs['left_out']['model']['nothing relevant'] and res['left out'].item()>=1
    pd.testing.assert_frame_equal(res, as_model(learn).evaluate(low, at_least=2, n_boot=5))

def test_groups_from_a_table(learn, valid):
    people = pd.DataFrame(dict(user=range(1, 41), town=['Ulm','Rom']*20))
    res = evaluate(learn, valid, users=people, by='town', n_boot=50)
    ulm = user_metrics(learn, valid).ndcg.loc[lambda o: o.index%2==1]
    assert np.allclose(bootstrap(ulm, 50), res.loc[('model','Ulm'),['ndcg low','ndcg high']].astype(float))
    with pytest.raises(SettingError, match="columns \\['user', 'town'\\]"): evaluate(learn, valid, users=people, by='age')
    with pytest.raises(SettingError, match='by=…'): evaluate(learn, valid, users=people)

def test_groups():
    g,names = check_groups([2,1,2], 3)
    assert g.tolist() == [2,1,2] and names == [1,2] and check_groups(None, 2)[1] == [] and check_groups(['b',1], 2)[1] == ['b',1]
    for bad in (['a'], 'ab', [['a','b']], ['a',None], ['a','all']):
        with pytest.raises(SettingError, match='groups'): check_groups(bad, 2)

def test_a_validation_rating_that_was_seen_does_not_count(ratings, split, valid, learn):
    both = pd.concat([valid, ratings.iloc[split[0]]])
    assert user_metrics(learn, both).relevant.equals(user_metrics(learn, valid).relevant)
    twice = pd.concat([valid, valid])
    assert user_metrics(learn, twice).ndcg.equals(user_metrics(learn, valid).ndcg)

def test_evaluate_refuses(learn, valid):
    with pytest.raises(EmptyRatingsError): evaluate(learn, valid[:0])
    with pytest.raises(SettingError): evaluate(learn, valid, unseen='mean')
    with pytest.raises(SettingError): evaluate(learn, valid.to_dict())
    with pytest.raises(SettingError): evaluate({}, valid)
    with pytest.raises(CollabError): evaluate(learn, valid.rename(columns={'item':'film'}))
    with pytest.raises(CollabError): evaluate(learn, valid.assign(rating=np.nan))
    with pytest.raises(UnseenIdError): evaluate(learn, valid.assign(user=valid.user+10))
    with pytest.raises(UnseenIdError): evaluate(learn, valid.assign(user=valid.user+1000), unseen='skip')

def test_bootstrap_as_the_usual_formula():
    v = np.random.default_rng(0).normal(size=400)
    low,high = bootstrap(v)
    assert abs((high-low)/2-1.96*v.std()/20)<0.01 and low<v.mean()<high and bootstrap([0.5,0.5,np.nan])==(0.5,0.5)

@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
@settings(max_examples=40)
def test_bootstrap(v):
    low,high = bootstrap(v, n_boot=50)
    assert min(v)-1e-9 <= low <= high <= max(v)+1e-9 and bootstrap(v, n_boot=50)==(low,high)
    assert np.allclose(bootstrap([*v, np.nan], n_boot=50), (low,high))
