"""Reading a model: what the notebook does not show. Odd ids, tables that do not fit, models without biases or counts, learners that were saved."""
import copy, re

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.learner import load_learner
from matplotlib import pyplot as plt

from collab_notes.core import Surface, as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import CollabError, MissingColumnError, NotAModelError, RatingsError, SettingError, UnseenIdError, UnsupportedError
from collab_notes.interpret import bias_table, pca_map, similar, top_items
from collab_notes.models import DotProduct, DotProductBias
from collab_notes.overall import rating_counts
from collab_notes.plots import place_labels, plot_pca
from collab_notes.protocol import Model
from collab_notes.training import ratings_learner
from conftest import ratings_of

def table(n=400, seed=0):
    "Of films that share their names, but for the year"
    return ratings_of(n, seed, n_users=30, n_items=20).assign(user=lambda o: o.user+1, item=lambda o: [f'film {"abcde"[i%5]} ({i//5})' for i in o['item'].str[1:].astype(int)])

@pytest.fixture(scope='module')
def ratings(): return table()
@pytest.fixture(scope='module')
def dls(ratings): return RatingsDataLoaders.from_df(ratings, seed=0)
@pytest.fixture
def model(dls):
    torch.manual_seed(0)
    res = DotProductBias.from_dls(dls, 4)
    for p in res.parameters(): p.data.normal_()
    return res

def surf(items=('#na#', 'a', 'b', 'c'), factors=((0, 0), (1, 0), (2, 0), (0, 1)), bias=(0, 1, 2, 3)):
    return Surface(torch.ones(2, 2), torch.tensor(factors, dtype=torch.float), torch.tensor([0., 1.]), torch.tensor(bias, dtype=torch.float), dict(user=('#na#', 1), item=items), None)

def test_by_hand():
    s = surf()
    near = similar(s, 'a')
    assert near['item'].tolist() == ['b', 'c'] and np.allclose(near.similarity, [1, 0])
    assert np.allclose(similar(s, 'a', metric='dot').similarity, [2, 0])
    far = similar(s, 'a', metric='euclidean')
    assert list(far) == ['item', 'distance'] and np.allclose(far.distance, [1, 2**0.5])
    assert bias_table(s)['item'].tolist() == ['a', 'b', 'c'] and bias_table(s, n=1)['item'].tolist() == ['a', 'c']
    assert top_items(s, 1)['item'].tolist() == ['c']
    assert np.allclose(top_items(s, by='prediction').prediction, [5, 5, 3])   # dot + user bias 1 + item bias
    assert similar(s, 1, is_item=False).empty                                       # nobody else

@pytest.mark.parametrize('counts', [{'a': 5, 'b': 1}, pd.Series({'a': 5, 'b': 1}), pd.DataFrame(dict(user=1, item=list('aaaaab'), rating=4.))])
def test_counts_from_anything(counts):
    s = surf()
    assert rating_counts(s, counts).ratings.tolist() == [5, 1, 0]
    assert similar(s, 'a', history=counts)['item'].tolist() == ['b']             # c has none
    assert similar(s, 'a', history=counts, min_ratings=0)['item'].tolist() == ['b', 'c']
    assert bias_table(s, history=counts, min_ratings=2)['item'].tolist() == ['a']
    assert pca_map(s, n=2, n_components=1, history=counts)['item'].tolist() == ['a', 'b']
    with pytest.raises(UnseenIdError, match='no training ratings'): similar(s, 'c', history=counts)

def test_a_table_without_ratings_column_counts(ratings, model):
    res = rating_counts(model, ratings[['user', 'item']])
    assert list(res) == ['item', 'ratings'] and res.ratings.sum() == len(ratings)

@pytest.mark.parametrize('bad,error,match', [
    (pd.DataFrame(dict(user=[1], film=['a'], rating=[1.])), MissingColumnError, "'item'"),
    (pd.DataFrame(dict(user=[1], item=['z'], rating=[1.])), UnseenIdError, "'z'"),
    ({'z': 3}, UnseenIdError, "'z'"), ('ratings.csv', SettingError, 'not str'), ([1, 2], SettingError, r'not \(2,\)')])
def test_ratings_that_do_not_fit(bad, error, match):
    for f in (rating_counts, lambda s, r: bias_table(s, history=r), lambda s, r: similar(s, 'a', history=r)):
        with pytest.raises(error, match=match): f(surf(), bad)

def test_loaders_of_another_table(model):
    other = RatingsDataLoaders.from_df(table(100, seed=5).query("item!='film a (0)'"), seed=0)
    with pytest.raises(SettingError, match='trained on'): rating_counts(model, other)

@pytest.mark.parametrize('kw,match', [(dict(metric='cos'), 'euclidean'), (dict(metric=None), 'euclidean'), (dict(n=0), 'n=0'), (dict(n=1.5), 'n=1.5'), (dict(min_ratings=-1), 'min_ratings'),
                                      (dict(min_ratings=2.5), 'min_ratings'), (dict(min_ratings=5), 'give history=')])
def test_settings(model, kw, match):
    with pytest.raises(SettingError, match=match): similar(model, 'film a (1)', **kw)
    if 'metric' not in kw:
        with pytest.raises(SettingError, match=match): bias_table(model, **kw)
        with pytest.raises(SettingError, match=match): top_items(model, **kw)

def test_ids(model):
    with pytest.raises(UnseenIdError, match=r"film a \(1\)"): similar(model, 'Film A (1)')
    with pytest.raises(UnseenIdError, match=r"did you mean 7 \(int, not str\) or"): similar(model, '7', is_item=False)
    for bad in ('#na#', None, 3, float('nan'), ''):
        with pytest.raises(RatingsError): similar(model, bad)
    with pytest.raises(SettingError, match='one item'): similar(model, ['film a (1)'])
    assert len(similar(model, 7, n=99, is_item=False)) == 29
    assert len(similar(model, np.int64(7), n=99, is_item=False)) == 29

def test_pca(model):
    m = pca_map(model, n_components=4)
    assert len(m) == 20 and np.isclose(sum(m.attrs['share']), 1) and np.allclose(m[['pc1', 'pc2']].mean(), 0, atol=1e-6)
    assert np.allclose(pca_map(model, items=m['item'].tolist()[::-1]).pc1[::-1], m.pc1)
    assert list(pca_map(model, is_item=False))[:2] == ['user', 'pc1']
    for kw,match in ((dict(n_components=5), 'at most'), (dict(n_components=0), 'n_components=0'), (dict(n=5), 'give history='), (dict(items=['film a (1)']), 'at most'), (dict(n=3, items=['film a (1)']), 'not both')):
        with pytest.raises(SettingError, match=match): pca_map(model, **kw)
    for items in (['film z'], ['film a (1)', '#na#']):
        with pytest.raises(UnseenIdError): pca_map(model, items=items)
    same = surf(factors=((1, 1),)*4)
    assert pca_map(same, n_components=1).attrs['share'] == [0] and (pca_map(same, n_components=1).pc1 == 0).all()

def test_plots(model):
    m = pca_map(model)
    ax = plot_pca(m, x=2, y=3, hue={'film a (1)': 'x', 'film b (1)': 'y'})
    assert len(ax.texts) == 20 and ax.get_xlabel().startswith('component 2')
    assert len(plot_pca(m, n_labels=0).texts) == 0
    n = len(plt.get_fignums())
    with pytest.raises(SettingError, match='larger n_components'): plot_pca(m, y=4)
    assert len(plt.get_fignums()) == n
    fig, ax = plt.subplots(figsize=(1, 1))
    assert len(place_labels(ax, [0.5]*40, [0.5]*40, ['far too long for it']*40)) < 40 and place_labels(ax, [], [], []) == []
    plt.close('all')

def test_nothing_that_scores():
    for f in (rating_counts, bias_table, top_items, pca_map, lambda o: similar(o, 'a'), lambda o: similar(o, 1, is_item=False)):
        for o in (torch.nn.Linear(2, 2), 3):
            with pytest.raises(NotAModelError): f(o)

class Order(Model):
    "Scores that are an order only, and no factors"
    rates = False
    def scores(self, users, items=None):
        x = torch.sin(torch.arange(self.vocab.n_users)[:,None]*torch.arange(self.vocab.n_items)*0.3)[users]
        return x if items is None else x[:,items]

class Lonely(Order):
    def vectors(self, is_item=True): raise UnsupportedError('nobody is near')

def test_models_without_factors(ratings):
    m = Order(ratings)
    assert len(rating_counts(m)) == 20 and rating_counts(m).ratings.sum() == len(ratings)
    top = top_items(m, 3)
    assert list(top) == ['item', 'score', 'ratings', 'mean_rating']
    assert np.allclose(top.score.iloc[0], m.scores(torch.arange(1, 31))[:,1:].mean(0).max(), atol=1e-6)
    for f in (bias_table, lambda o: top_items(o, by='bias')):
        with pytest.raises(UnsupportedError, match="by='prediction'"): f(m)
    pd.testing.assert_frame_equal(m.similar('film a (1)', n=4), similar(m, 'film a (1)', n=4))
    for is_item,id in ((True,'film a (1)'),(False,7)):
        x = m.vectors(is_item)
        near = similar(m, id, n=1, is_item=is_item)
        rest = [o for o in range(1, len(x)) if o!=m.vocab.row(id, is_item)]
        best = max(torch.cosine_similarity(x[o], x[m.vocab.row(id, is_item)], dim=0).item() for o in rest)
        assert np.isclose(near.similarity[0], best, atol=1e-5)
    assert len(pca_map(m, n_components=2)) == 20
    for f in (lambda o: similar(o, 'film a (1)'), pca_map):
        with pytest.raises(UnsupportedError, match='nobody is near'): f(Lonely(ratings))

def test_a_model_knows_its_ratings_and_may_be_told_others(dls, ratings, model):
    m = as_model(model, dls)
    assert rating_counts(m).ratings.sum() == len(dls.train_ds) and rating_counts(m, ratings).ratings.sum() == len(ratings)
    assert list(rating_counts(m.without_history())) == ['item'] and 'ratings' not in similar(m.without_history(), 'film a (1)')

def test_stock_loaders_and_a_saved_learner(ratings, tmp_path):
    learn = collab_learner(CollabDataLoaders.from_df(ratings, seed=0, bs=16), n_factors=3, y_range=(0, 5.5), path=tmp_path)
    assert rating_counts(learn).ratings.sum() == len(learn.dls.train_ds) and bias_table(learn, n=2).shape == (4, 4)
    learn.export('m.pkl')
    loaded = load_learner(tmp_path/'m.pkl')
    assert list(similar(loaded, 'film a (1)', n=2)) == ['item', 'similarity']     # it has no rows any more, so no counts
    assert issubclass(UnseenIdError, CollabError)

def look(o, **kw):
    "Everything that reads a model, on `o`"
    id = 'film a (1)'
    return (bias_table(o, n=3, **kw), top_items(o, 3, **kw), top_items(o, 3, by='prediction', **kw), pca_map(o, n_components=2, **kw),
            similar(o, id, n=3, **kw), similar(o, id, n=3, metric='euclidean', **kw), similar(o, 7, n=3, is_item=False, **kw))

@pytest.mark.parametrize('make', [ratings_learner, lambda d: collab_learner(d, n_factors=3, y_range=(0, 5.5))], ids=['ours', 'stock'])
def test_looked_at_and_not_touched(make, dls):
    "Weights, mode, and random numbers are as they were; a bare model or what was read off it says the same, given the ratings"
    learn = make(dls)
    learn.model.train()
    state,before,rows = torch.random.get_rng_state(),copy.deepcopy(learn.model.state_dict()),dls.train.rng.getstate()
    results = look(learn)
    for p in (learn.model, as_model(learn).without_history()):
        for a,b in zip(look(p, history=dls), results): pd.testing.assert_frame_equal(a, b)
    for k,v in learn.model.state_dict().items(): assert torch.equal(v, before[k])
    assert all(o.training for o in learn.model.modules())
    assert torch.equal(torch.random.get_rng_state(), state) and dls.train.rng.getstate() == rows
    near = results[4]
    near.iloc[:,1] = 0
    assert similar(learn, 'film a (1)', n=3).similarity.abs().max() > 0   # results are copies

def test_an_item_in_validation_only(ratings):
    lonely = 'film b (2)'
    out = (ratings['item']==lonely).to_numpy()
    m = as_model(ratings_learner(RatingsDataLoaders.from_df(ratings, seed=0, splits=(np.flatnonzero(~out), np.flatnonzero(out)))))
    with pytest.raises(UnseenIdError, match='no training ratings'): similar(m, lonely)
    assert len(similar(m, lonely, n=3, min_ratings=0)) == 3
    for f in (lambda k: similar(m, 'film a (1)', n=99, min_ratings=k), lambda k: bias_table(m, min_ratings=k), lambda k: top_items(m, 99, min_ratings=k)):
        assert lonely not in set(f(None)['item']) and lonely in set(f(0)['item'])
        assert '#na#' not in set(f(0)['item']) and f(0)['item'].is_unique
    assert lonely in set(similar(m.without_history(), 'film a (1)', n=99)['item'])   # nothing is known of counts

def test_shares_are_those_of_sklearn_and_the_furthest_point_is_positive(model):
    from sklearn.decomposition import PCA
    m = pca_map(model, n_components=3)
    x = as_model(model).item_factors[1:].numpy()
    assert np.allclose(m.attrs['share'], PCA(3).fit(x).explained_variance_ratio_, atol=1e-5)
    for p in ('pc1','pc2','pc3'): assert m[p].max() == m[p].abs().max()

def test_mean_predictions_are_the_mean_over_users(model, dls):
    s = as_model(model)
    users = torch.arange(1, s.vocab.n_users)
    top = top_items(s, 99, by='prediction', history=dls)
    for o in top.head(3).itertuples():
        assert np.isclose(o.prediction, s.pair_scores(users, torch.full_like(users, s.vocab.row(o.item))).mean().item(), atol=1e-5)
    assert list(top_items(as_model(DotProduct.from_dls(dls, 3, y_range=(0, 5.5))).without_history())) == ['item', 'prediction']   # it has no biases

def test_mistyped_titles():
    titles = ['#na#', 'Silence of the Lambs, The (1991)', 'Shawshank Redemption, The (1994)', 'Kolya (1996)']
    for typed,meant in (('Silence of the Lambs', 1), ('The Silence of the Lambs', 1), ('Shawshank', 2)):
        with pytest.raises(UnseenIdError, match=re.escape(titles[meant])): similar(surf(items=titles), typed)

def test_signs_in_ids_are_drawn_as_they_are():
    "A `$` is no formula, a control character no command: on the map, in its labels and in its groups"
    ids = ['#na#', '$x$', 'a\x1b[2Jb', '$^{2$', '_', '\\frac{1}']
    s = surf(items=ids, factors=[(0, 0), (1, 0), (2, 0), (0, 1), (3, 2), (1, 2)], bias=range(6))
    ax = plot_pca(pca_map(s, n_components=2), hue={o:f'${o}' for o in ids[1:]}, title='$ by $', fontsize=4)
    ax.figure.canvas.draw()
    texts = [o.get_text() for o in (*ax.texts, *ax.get_legend().get_texts(), ax.title)]
    assert '$x$' in texts and '$ by $' in texts and not any('\x1b' in o for o in texts)
    plt.close('all')
