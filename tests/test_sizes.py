"""Sizes: what is no whole number is refused by name, what is more than there is is cut, what can't fit is refused before it is made."""
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import loaders_of, ratings_of, surface_of

NO_SIZES = -1, True, False, 1.5, float('nan'), '3', np.float64(2), np.int64(-1), np.bool_(True), -10**5000
HUGE = 10**9, np.int64(2**62), 2**64, 10**30, 10**5000

@pytest.fixture(scope='module')
def w():
    "A small world: ratings of 12 people and 20 items"
    from collab_notes.bayes import BayesianPMF
    from collab_notes.ranking import EASE
    from collab_notes.vocab import History
    df = ratings_of(200, n_users=12, n_items=20)
    dls = loaders_of(df)
    m = surface_of(dls.classes['user'][1:], dls.classes['item'][1:]).replace(history=History.of(dls))
    bayes = BayesianPMF(n_factors=2, n_sweeps=4, burn_in=1, seed=0).fit(dls, progress=False)
    return SimpleNamespace(df=df, dls=dls, m=m, ease=EASE(dls), bayes=bayes)

def of(name): return lambda *args, **kw: getattr(import_module(f"collab_notes.{name.split('.')[0]}"), name.split('.')[1])(*args, **kw)
def train(w, **kw): return of('training.fit')(w.dls, **{**dict(n_epoch=1, n_factors=2, seed=0, progress=False), **kw})
def rank(w, **kw): return of('ranking.fit_ranking')(w.dls, **{**dict(n_epoch=1, n_factors=2, seed=0, progress=False), **kw})
def bayes(w, **kw): return of('bayes.BayesianPMF')(**{**dict(n_factors=2, n_sweeps=2, burn_in=0, seed=0), **kw}).fit(w.dls, progress=False)
def dot(*args): return of('models.DotProductBias')(*args)

# cut to what there is: (argument, how many there are) → how it is given
CUT = {
    'n, stable_topk': (9, lambda w, n: of('topn.stable_topk')(torch.arange(27.).view(3, 9), n)[0]),
    'n, top_rows': (20, lambda w, n: of('topn.top_rows')(w.m, n=n)[0]),
    'block, top_rows': (12, lambda w, n: of('topn.top_rows')(w.m, block=n)[0]),
    'n, recommend': (20, lambda w, n: of('lists.recommend')(w.m, 3, n=n)),
    'block, recommend': (12, lambda w, n: of('lists.recommend')(w.m, block=n)),
    'n, user_metrics': (20, lambda w, n: of('lists.user_metrics')(w.m, n=n)[['ndcg','recall','map','novelty']]),
    'n, evaluate': (20, lambda w, n: of('lists.evaluate')(w.m, n=n).drop(columns='precision')),
    'n, similar': (20, lambda w, n: of('interpret.similar')(w.m, 'i3', n)),
    'n, similar users': (12, lambda w, n: of('interpret.similar')(w.ease, 3, n, is_item=False)),
    'n, bias_table': (20, lambda w, n: of('interpret.bias_table')(w.m, n)),
    'n, top_items': (20, lambda w, n: of('interpret.top_items')(w.m, n)),
    'n, pca_map': (20, lambda w, n: of('interpret.pca_map')(w.m, n)),
    'n, why': (20, lambda w, n: of('explain.why')(w.m, 3, 'i3', n)),
    'n, near': (20, lambda w, n: pd.Series(w.m.vocab.near('i99', n=n))),
    'n, new_user': (20, lambda w, n: of('coldstart.new_user')(w.m, {'i3':4}, n=n).top),
    'n, new_item': (12, lambda w, n: of('coldstart.new_item')(w.m, {3:4}, n=n).top),
    'n, next_questions': (20, lambda w, n: of('coldstart.next_questions')(w.m, n=n)),
    'n, thin': (3, lambda w, n: w.bayes.thin(n).posterior.samples[-1]['users']),
    'n_factors, mean_surface': (40, lambda w, n: w.bayes.mean_surface(n).item_bias),
    'keep': (2, lambda w, n: bayes(w, keep=n).as_surface().item_bias),
    'link_rank': (13, lambda w, n: bayes(w, link_rank=n).as_surface().item_bias),
    'bs, loaders': (160, lambda w, n: pd.Series(len(loaders_of(w.df, bs=n).train.one_batch()[0]))),
    'bs, fit': (160, lambda w, n: train(w, bs=n).model.user_bias.detach()),
    'bs, fit_ranking': (12, lambda w, n: rank(w, bs=n).model.item_bias.detach())}

# refused where they can't fit
REFUSED = {
    'n_factors, by hand': lambda w, n: of('latent.init_factors')(5, 5, n), 'n_factors, a model': lambda w, n: of('models.DotProduct')(5, 5, n), 'n_users': lambda w, n: dot(n, 5, 2), 'n_items': lambda w, n: dot(5, n, 2),
    'n_factors, fit': lambda w, n: train(w, n_factors=n), 'n_models': lambda w, n: train(w, n_models=n),
    'n_factors, fit_ranking': lambda w, n: rank(w, n_factors=n), 'n_neg': lambda w, n: rank(w, loss='bpr', n_neg=n),
    'n_act': lambda w, n: of('deep.CollabNN')((5,2), (5,2), n_act=n),
    'layers, nn_learner': lambda w, n: of('deep.nn_learner')(w.dls, [n,n]), 'layers, hybrid': lambda w, n: of('deep.hybrid_learner')(w.dls, layers=[n,n]),
    'layers, facts': lambda w, n: of('coldstart.fit_metadata')(w.m, pd.DataFrame(dict(user=w.m.classes['user'][1:], age=range(12))), layers=[n,n]),
    'emb_szs': lambda w, n: of('deep.nn_learner')(w.dls, [4], [n,n]), 'n_factors, hybrid': lambda w, n: of('deep.hybrid_learner')(w.dls, n_factors=n),
    'n_factors, BayesianPMF': lambda w, n: bayes(w, n_factors=n), 'n_sweeps': lambda w, n: bayes(w, n_sweeps=n), 'chains': lambda w, n: bayes(w, chains=n),
    'n_boot': lambda w, n: of('lists.bootstrap')([1.,2.], n), 'times': lambda w, n: of('feedback.clone_users')(w.df, [3], n),
    'catalogue': lambda w, n: of('feedback.concentration')(np.array([[1,2]]), n), 'n_trials': lambda w, n: of('explain.tune')(w.dls, n_trials=n)}

# how often something is done takes time, and no memory; of the others, more than there can be is refused by name
COUNTS = {
    'n_epochs, by hand': lambda w, n: of('latent.learn_factors')(w.dls, n_epochs=n), 'n_epoch, fit': lambda w, n: train(w, n_epoch=n), 'n_epoch, fit_ranking': lambda w, n: rank(w, n_epoch=n), 'patience': lambda w, n: train(w, patience=n),
    'n_nets': lambda w, n: of('coldstart.fit_metadata')(w.m, pd.DataFrame(dict(user=w.m.classes['user'][1:], age=range(12))), n_nets=n),
    'rounds': lambda w, n: of('coldstart.learn_prior')(w.m, rounds=n), 'steps': lambda w, n: of('coldstart.fold_in')(w.m, w.df.head(1), steps=n),
    'n_rounds': lambda w, n: of('feedback.simulate_loop')(of('feedback.Truth')(w.m), [[1,1]], n_rounds=n)}
MOST = {
    'n_components': lambda w, n: of('interpret.pca_map')(w.m, n_components=n), 'k': lambda w, n: of('data.kfold_splits')(w.df, n),
    'burn_in': lambda w, n: bayes(w, burn_in=n), 'folds': lambda w, n: of('explain.tune')(w.dls, folds=n)}
LEAST = {
    'min_ratings, recommend': lambda w, n: of('lists.recommend')(w.m, 3, min_ratings=n), 'min_ratings, evaluate': lambda w, n: of('lists.evaluate')(w.m, min_ratings=n),
    'min_ratings, similar': lambda w, n: of('interpret.similar')(w.m, 'i3', min_ratings=n), 'min_ratings, bias_table': lambda w, n: of('interpret.bias_table')(w.m, min_ratings=n),
    'min_ratings, top_items': lambda w, n: of('interpret.top_items')(w.m, min_ratings=n), 'min_ratings, representative': lambda w, n: of('coldstart.representative')(w.m, min_ratings=n),
    'min_ratings, learn_prior': lambda w, n: of('coldstart.learn_prior')(w.m, min_ratings=n)}
SEEDS = {
    'fit': lambda w, n: train(w, seed=n), 'fit_ranking': lambda w, n: rank(w, seed=n), 'BayesianPMF': lambda w, n: bayes(w, seed=n),
    'hybrid_learner': lambda w, n: of('deep.hybrid_learner')(w.dls, n_factors=2, seed=n), 'random_split': lambda w, n: of('data.random_split')(w.df, seed=n),
    'kfold_splits': lambda w, n: of('data.kfold_splits')(w.df, seed=n), 'stratified_split': lambda w, n: of('data.stratified_split')(w.df, seed=n),
    'leave_last_out': lambda w, n: of('data.leave_last_out')(w.df.assign(time=0), seed=n), 'loaders': lambda w, n: import_module('collab_notes.data').RatingsDataLoaders.from_df(w.df, seed=n),
    'bootstrap': lambda w, n: of('lists.bootstrap')([1.,2.], seed=n), 'tune': lambda w, n: of('explain.tune')(w.dls, space=dict(n_factors=[2]), n_trials=1, seed=n),
    'next_questions': lambda w, n: of('coldstart.next_questions')(w.m, by='random', seed=n), 'Truth': lambda w, n: of('feedback.Truth')(w.m, seed=n),
    'init_factors': lambda w, n: of('latent.init_factors')(3, 3, 2, seed=n)}

def refused(f, w, n, *words):
    from collab_notes.errors import SettingError
    with pytest.raises(SettingError) as e: f(w, n)
    for o in words: assert o in str(e.value), str(e.value)
    assert len(str(e.value))<500 and 'np.' not in str(e.value)

def same(a, b):
    if isinstance(a, torch.Tensor): assert torch.equal(a, b)
    else: (pd.testing.assert_frame_equal if isinstance(a, pd.DataFrame) else pd.testing.assert_series_equal)(a, b)

EVERY = {**{k:f for k,(_,f) in CUT.items()}, **REFUSED, **COUNTS, **MOST, **LEAST}

@pytest.mark.parametrize('name', EVERY)
def test_what_is_no_size_is_refused_by_name(w, name):
    zero = name.startswith(('min_ratings','burn_in','rounds','n_epochs'))
    for n in (*NO_SIZES, *([] if zero else [0])):
        if n is True and name.startswith('catalogue'): continue   # a list of ids it may be, too
        refused(EVERY[name], w, n, f"{name.split(',')[0]}")

@pytest.mark.parametrize('name', CUT)
def test_more_than_there_is_is_cut(w, name):
    most,f = CUT[name]
    want = f(w, most)
    for n in (np.int32(most+7), *HUGE): same(f(w, n), want)

@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_fit_is_refused_before_it_is_made(w, name):
    for n in (10**12, *HUGE[1:]): refused(REFUSED[name], w, n, name.split(',')[0], 'it would take', 'GB')

@pytest.mark.parametrize('name', MOST)
def test_more_than_there_can_be_is_refused_by_name(w, name):
    for n in HUGE: refused(MOST[name], w, n, f'{name}=')

@pytest.mark.parametrize('name', LEAST)
def test_nothing_has_so_many_ratings(w, name):
    for n in HUGE:
        try: assert not len(LEAST[name](w, n))
        except ValueError as e: assert 'ratings' in str(e) and len(str(e))<300

@pytest.mark.parametrize('name', SEEDS)
def test_seeds(w, name):
    for n in (*NO_SIZES, 2**32, 10**5000): refused(SEEDS[name], w, n, 'seed=')
    for n in (0, np.int64(7), 2**32-1): SEEDS[name](w, n)

def test_ease_counts_its_items_first(monkeypatch, w):
    from collab_notes import sizes
    from collab_notes.errors import SettingError
    from collab_notes.ranking import EASE
    from collab_notes.vocab import History, Vocab
    v = Vocab(dict(user=('#na#',1,2), item=('#na#',*range(3000))))
    monkeypatch.setattr(sizes, 'available_memory', lambda: 10**8)
    with pytest.raises(SettingError, match='EASE of 3,000 items: it would take about 0.2 GB of memory, and 0.1 GB are free. Leave out rare items'):
        EASE(History(v, [[1,1],[2,2]], [1.,2.]))

def test_memory_that_a_container_leaves(tmp_path, monkeypatch):
    from collab_notes import sizes
    (tmp_path/'memory.max').write_text('1000000')
    (tmp_path/'memory.current').write_text('400000')
    (tmp_path/'memory.stat').write_text('anon 5\ninactive_file 100000\n')
    assert sizes._left(tmp_path)==700000
    (tmp_path/'memory.max').write_text('max')
    assert sizes._left(tmp_path) is None and sizes._left(tmp_path/'none') is None
    monkeypatch.setattr(sizes, '_free', lambda: None)
    monkeypatch.setattr(sizes, '_groups', lambda root: [])
    assert sizes.available_memory() is None   # then only what no machine has is refused
    sizes.check_memory('n=1', 10**11)

def test_an_empty_list_is_empty(w):
    from collab_notes import coldstart, interpret, lists
    assert not len(lists.recommend(w.m, [])) and not len(lists.recommend(w.m, 3, items=[])) and not len(lists.recommend(w.m, [], items=[]))
    assert list(lists.recommend(w.m, 3, items=[]).columns)==['user','item','rank','prediction']
    assert not len(interpret.pca_map(w.m, items=[])) and list(interpret.pca_map(w.m, items=[]).columns[:4])==['item','pc1','pc2','pc3']
    assert not len(w.m.predict(w.df[:0]))
    assert not len(coldstart.fold_in(w.m, w.df[:0]).ids) and len(coldstart.new_user(w.m, {}).predictions)==20

def test_min_ratings_is_asked_in_one_way(w):
    from collab_notes import interpret, lists
    from collab_notes.errors import SettingError
    alone = w.m.without_history()
    for f in (lambda: lists.recommend(alone, 3, exclude=None, min_ratings=1), lambda: interpret.similar(alone, 'i3', min_ratings=1),
              lambda: interpret.bias_table(alone, min_ratings=1)):
        with pytest.raises(SettingError, match='min_ratings=1: how many ratings there are is not known here'): f()
    assert len(lists.recommend(alone, 3, n=99, exclude=None, min_ratings=0))==20
    assert len(lists.recommend(alone, 3, n=99, exclude=w.df[w.df.user==3]))==20-(w.df.user==3).sum()   # what is left out says nothing of the others
