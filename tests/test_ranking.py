"""Models for lists: what they learn, what is refused, newcomers, and files."""
import numpy as np
import pandas as pd
import pytest
import torch

from collab_notes.core import as_model
from collab_notes.data import RatingsDataLoaders, stratified_split
from collab_notes.errors import CollabError, EmptyRatingsError, SettingError, UnsoundModelError, UnsupportedError
from collab_notes.files import load
from collab_notes.lists import evaluate, rank_metrics, recommend
from collab_notes.ranking import (
    EASE, Blend, Popularity, RankDot, bpr_loss, fit_ranking, list_loss, list_ndcg, ranking_learner, ranking_recipe, ranking_wd, sampled_loss)
from collab_notes.training import auto_wd, fit
from collab_notes.vocab import History
from conftest import of_chosen

ratings,split,train,dls,learn,ranked = map(of_chosen, 'ratings split train dls learn ranked'.split())

# --- training for lists

def test_losses_learn_two_tastes(dls, ranked):
    t = recommend(ranked, n=10)
    same = (t.user%2 == t['item'].str[-3:].astype(int)%2).mean()
    assert same > 0.75
    for loss in ('bpr','sampled'):
        a,b = (fit_ranking(dls, 2, loss=loss, seed=1, n_factors=4, progress=False, bs=64) for _ in range(2))
        assert a.recorder.values==b.recorder.values
        assert torch.equal(as_model(a).item_factors, as_model(b).item_factors)
        assert not as_model(a).user_bias.any()
    m = as_model(ranked)
    assert m.y_range is None and not m.rates and isinstance(ranked.model, RankDot)
    assert np.isclose(ranked.recorder.values[-1][2], evaluate(ranked, n_boot=5).ndcg.item(), atol=1e-6)     # one nDCG

@pytest.mark.filterwarnings('ignore')   # of an infinite learning rate
def test_ranking_refuses(dls):
    for kw in (dict(loss='mse'), dict(n_neg=3), dict(loss='bpr', n_neg=0)):
        with pytest.raises(SettingError): ranking_learner(dls, **kw)
    with pytest.raises(SettingError, match='have no range'): RankDot(3, 3, 2, y_range=(0,5))
    with pytest.raises(SettingError): fit_ranking(dls, 0)
    with pytest.raises(CollabError): fit_ranking(dls, 2, lr=float('inf'), progress=False, seed=0)

def test_scores_of_pairs_and_of_lists(dls):
    model,x = RankDot.from_dls(dls, 4),torch.tensor([[1,5],[2,7]])
    torch.nn.init.normal_(model.item_bias_emb.weight)
    torch.testing.assert_close(model(x), as_model(model).pair_scores(*x.T))
    assert model(x[:,None].expand(2,3,2)).shape == (2,3)

def test_losses_by_hand():
    scores,y = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)),torch.zeros(4, 30)
    y[:,3],y[:2,5],y[:,7] = 1,1,-1
    p = scores.masked_fill(y<0, -torch.inf).softmax(1)
    torch.testing.assert_close(list_loss(scores, y), -p[y>0].log().mean())
    top = scores.masked_fill(y<0, -torch.inf).topk(10).indices
    want = rank_metrics(y.gather(1, top)>0, (y>0).sum(1)).ndcg.mean()
    assert np.isclose(list_ndcg(scores, y).item(), want)
    for f,n in ((bpr_loss,2), (sampled_loss,5)): assert np.isclose(f(torch.zeros(3, 5)), np.log(n))

def test_recipes(dls):
    r = ranking_recipe('bpr')
    r['lr'] = 9.
    assert ranking_recipe('bpr')['lr'] == 0.05                       # what is given out is a copy
    assert ranking_wd(dls, 'bpr') == auto_wd(dls, 4.6) and ranking_wd(dls) == auto_wd(dls, 9.3)
    with pytest.raises(SettingError, match='softmax'): ranking_recipe('mse')

# --- EASE

def test_ease_by_loops(train, dls):
    o = EASE(dls, reg=7.)
    x = o.history.chosen(torch.arange(41)).double()
    for i in (1, 17, 60):                                            # each column is a ridge regression without the item itself
        rest = [j for j in range(61) if j!=i]
        a = x[:,rest].T@x[:,rest] + 7*torch.eye(60, dtype=torch.double)
        assert torch.allclose(torch.linalg.solve(a, x[:,rest].T@x[:,i]), o.weights[rest,i].double(), atol=1e-5)
    same = EASE(train, reg=7.)
    assert recommend(same, exclude=dls)['item'].tolist() == recommend(o)['item'].tolist()
    for bad in (dict(reg=-1), dict(reg=float('nan')), dict(reg='x')):
        with pytest.raises(SettingError): EASE(dls, **bad)
    with pytest.raises(EmptyRatingsError): EASE(train[:0])

def test_ease_of_somebody_unknown(train):
    "Nobody's own choices: what everybody likes, a new list when the history is another"
    o = EASE(train, reg=7.)
    x = o.history.chosen(torch.arange(1, 41))
    assert torch.allclose(o.scores([0])[0], x.mean(0), atol=1e-5)
    few = o.with_history(train[train.user<=4])
    assert torch.allclose(few.scores([0,30])[0], few.history.chosen(torch.arange(1, 5)).mean(0), atol=1e-5)
    assert torch.allclose(*few.scores([0,30]), atol=1e-5) and not torch.allclose(*few.scores([0,3]), atol=1e-2)
    with pytest.raises(SettingError, match='give history'): o.without_history().scores([1])

def test_neighbours(train, dls):
    o = EASE(dls, 7.)
    assert torch.equal(o.vectors().fill_diagonal_(0), o.weights) and (o.weights.diagonal()==0).all()
    x = torch.nn.functional.normalize(o.vectors()[1:], dim=1)
    near = (x@x.T).fill_diagonal_(-1).argmax(1)
    assert ((near-torch.arange(60))%2==0).float().mean() > 0.8       # films of the same kind of people
    assert o.vectors(is_item=False).shape == (41,61)
    for is_item in (True,False):
        with pytest.raises(UnsupportedError, match='nearer'): Popularity(train).vectors(is_item)

# --- together

def test_blend(dls, learn, ranked, train):
    ease = EASE(dls, 20)
    b,u,i = Blend([ranked, ease, learn], [1,2,0.5]),torch.tensor([3,7]),torch.tensor([5,2,9])
    want = as_model(ranked).scores(u, i)+2*ease.scores(u, i)+0.5*as_model(learn).scores(u, i)
    for x in (b.scores(u, i), b.scorer(i)(u), b.pair_scores(u[:,None], i[None]), b.scores(u)[:,i]): assert torch.allclose(x, want, atol=1e-5)
    assert not b.rates and b.history is not None and b.needs_history
    mean = Blend([learn, learn], [0.3,0.7])
    assert mean.rates and not mean.needs_history and torch.allclose(mean.scores(u), as_model(learn).scores(u), atol=1e-5)
    assert evaluate({'a':learn,'b':mean}, n_boot=5).rmse.round(5).nunique() == 1
    assert not Blend([learn, ranked], [0.5,0.5]).rates and not Blend([learn], [2]).rates
    bare = as_model(learn).without_history()
    assert Blend([bare, ease], [1,1]).history is ease.history and Blend([bare], [1]).history is None
    few = b.with_history(train[train.user<=4])
    assert len(few.history) == (train.user<=4).sum() and few.parts[1].history is few.history and ease.history is not few.history
    assert few.without_history().parts[1].history is None
    for models,w in (([ease],[1,2]), ([],[]), ([ease],[float('inf')])):
        with pytest.raises(SettingError, match='A finite weight'): Blend(models, w)
    with pytest.raises(SettingError, match='other ids'): Blend([ease, EASE(train.assign(user=train.user+1))], [1,1])

# --- newcomers

@pytest.mark.parametrize('is_item', [False,True])
def test_newcomers_are_as_if_they_had_been_there(train, is_item):
    "Who is left out of the ratings and folded in, is scored as if they had been in from the start"
    who,name = ('film 060','item') if is_item else (40,'user')
    kept,own = train[train[name]!=who],train[train[name]==who]
    assert len(own)>5
    for make in (lambda df: EASE(df, 9.), Popularity, lambda df: Blend([EASE(df, 9.), Popularity(df)], [1,0.1])):
        m,full = make(kept),make(train)
        rows = m.vocab.rows(own['user' if is_item else 'item'], not is_item)
        assert m.vocab.size(not is_item) == full.vocab.size(not is_item)
        f = m.fold(rows, torch.tensor(own.rating.to_numpy()), is_item)
        assert f.sd is None and len(f.scores) == m.vocab.size(not is_item)
        new = m.with_row(who, f, rows, torch.tensor(own.rating.to_numpy()), is_item)
        assert new.vocab == full.vocab and len(new.history) == len(full.history) and new.history.vocab == new.vocab
        assert not len(recommend(new, None if is_item else [who], n=99).merge(own, on=['user','item']))
        row = new.vocab.row(who, is_item)
        told = (new.scores(range(1, 41), [row])[:,0] if is_item else new.scores([row])[0,1:])
        if isinstance(m, Popularity) and not is_item: told[rows-1] -= 1      # they count themselves, now
        if isinstance(m, Blend) and not is_item: told[rows-1] -= 0.1
        assert torch.allclose(f.scores[1:], told, atol=1e-4)
        if is_item or isinstance(m, Popularity): assert torch.allclose(new.scores(range(1, 41)), full.scores(range(1, 41)), atol=1e-3)
        nobody = m.fold(rows[:0], None, is_item)                     # with nothing said: as of anybody
        if not is_item: assert torch.allclose(nobody.scores, m.scores([0])[0], atol=1e-5)
        with pytest.raises(UnsupportedError, match='prior'): m.fold(rows, None, is_item, prior=object())
        assert m.vocab.size(is_item) == full.vocab.size(is_item)-1  # the model itself stays as it was

def test_newcomers_by_the_front_door(train, ranked):
    from collab_notes.coldstart import new_user
    from collab_notes.newcomers import add_user
    for m in (EASE(train, 9.), Popularity(train), Blend([ranked, EASE(as_model(ranked).history, 9.)], [1,1])):
        who = new_user(m, {'film 002':5, 'film 004':4, 'film 010':5, 'film 032':3})
        assert who.top['item'].isin(['film 002','film 004','film 010','film 032']).sum() == 0 and list(who.top) == ['item','score']
        more = add_user(m, 99, who)
        assert recommend(more, 99, n=4)['item'].tolist() == who.top['item'][:4].tolist()
        if not isinstance(m, Popularity): assert (who.top['item'].str[-3:].astype(int)%2==0).mean() > 0.7

# --- files

def test_saved(dls, learn, ranked, train, tmp_path):
    ease,pop = EASE(dls, 20),Popularity(dls)
    for o in (ease, pop, Blend([ranked, ease, learn], [1,2,0.5]), Blend([learn, pop], [1,0.]), as_model(ranked)):
        back = load(o.save(tmp_path/'m', note='hi'))
        assert type(back) is type(o) and back.rates == o.rates and back.about['note'] == 'hi'
        assert torch.equal(back.scores([0,3,9]), o.scores([0,3,9]))
        pd.testing.assert_frame_equal(recommend(back), recommend(o))
        pd.testing.assert_frame_equal(evaluate(back, n_boot=5), evaluate(o, n_boot=5))
    bare = load(pop.save(tmp_path/'m', history=False))
    assert bare.history is None and torch.equal(bare.counts, pop.counts)
    for o in (ease, Blend([learn, ease], [1,1])):
        with pytest.raises(SettingError, match='history'): o.save(tmp_path/'m', history=False)

def test_unsound(dls, learn, tmp_path):
    ease,pop,blend = EASE(dls, 20),Popularity(dls),Blend([learn], [1])
    ease.weights.fill_diagonal_(1.)
    pop.counts -= 1e3
    blend.weights = []
    for o in (ease, pop, blend):
        with pytest.raises(UnsoundModelError): o.save(tmp_path/'m')
