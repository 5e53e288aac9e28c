"""Reading a model: what the notebook does not show. Odd ids, tables that do not fit, models without biases or counts, learners that were saved."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.learner import load_learner
from matplotlib import pyplot as plt

from collab_notes.data import CollabError, MissingColumnError, RatingsDataLoaders, SettingError, UnseenIdError
from collab_notes.interpret import bias_table, pca_map, place_labels, plot_pca, rating_counts, similar_items, similar_users, top_items
from collab_notes.models import DotProductBias, NotAFactorModelError, Surface

torch.set_num_threads(1)
plt.switch_backend('agg')

def table(n=400, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(user=rng.integers(1, 31, n), item=rng.choice([f'film {c} ({i})' for i in range(4) for c in 'abcde'], n)))
    return df.drop_duplicates().assign(rating=lambda d: rng.integers(1, 6, len(d)).astype(float)).reset_index(drop=True)

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
    near = similar_items(s, 'a')
    assert near['item'].tolist() == ['b', 'c'] and np.allclose(near.similarity, [1, 0])
    assert np.allclose(similar_items(s, 'a', metric='dot').similarity, [2, 0])
    far = similar_items(s, 'a', metric='euclidean')
    assert list(far) == ['item', 'distance'] and np.allclose(far.distance, [1, 2**0.5])
    assert bias_table(s)['item'].tolist() == ['a', 'b', 'c'] and bias_table(s, n=1)['item'].tolist() == ['a', 'c']
    assert top_items(s, 1)['item'].tolist() == ['c']
    assert np.allclose(top_items(s, by='predicted').predicted, [5, 5, 3])   # dot + user bias 1 + item bias
    assert similar_users(s, 1).empty                                       # nobody else

@pytest.mark.parametrize('counts', [{'a': 5, 'b': 1}, pd.Series({'a': 5, 'b': 1}), pd.DataFrame(dict(user=1, item=list('aaaaab'), rating=4.))])
def test_counts_from_anything(counts):
    s = surf()
    assert rating_counts(s, counts).ratings.tolist() == [5, 1, 0]
    assert similar_items(s, 'a', ratings=counts)['item'].tolist() == ['b']             # c has none
    assert similar_items(s, 'a', ratings=counts, min_ratings=0)['item'].tolist() == ['b', 'c']
    assert bias_table(s, ratings=counts, min_ratings=2)['item'].tolist() == ['a']
    assert pca_map(s, n=2, k=1, ratings=counts)['item'].tolist() == ['a', 'b']
    with pytest.raises(UnseenIdError, match='no training ratings'): similar_items(s, 'c', ratings=counts)

def test_a_table_without_ratings_column_counts(ratings, model):
    res = rating_counts(model, ratings[['user', 'item']])
    assert list(res) == ['item', 'ratings'] and res.ratings.sum() == len(ratings)

@pytest.mark.parametrize('bad,error,match', [
    (pd.DataFrame(dict(user=[1], film=['a'], rating=[1.])), MissingColumnError, "'item'"),
    (pd.DataFrame(dict(user=[1], item=['z'], rating=[1.])), UnseenIdError, "'z'"),
    ({'z': 3}, UnseenIdError, "'z'"), ('ratings.csv', SettingError, 'not str'), ([1, 2], SettingError, 'not list')])
def test_ratings_that_do_not_fit(bad, error, match):
    for f in (rating_counts, lambda s, r: bias_table(s, ratings=r), lambda s, r: similar_items(s, 'a', ratings=r)):
        with pytest.raises(error, match=match): f(surf(), bad)

def test_loaders_of_another_table(model):
    other = RatingsDataLoaders.from_df(table(100, seed=5).query("item!='film a (0)'"), seed=0)
    with pytest.raises(SettingError, match='trained on'): rating_counts(model, other)

@pytest.mark.parametrize('kw,match', [(dict(metric='cos'), 'euclidean'), (dict(metric=None), 'euclidean'), (dict(n=0), 'n=0'), (dict(n=1.5), 'n=1.5'), (dict(min_ratings=-1), 'min_ratings'),
                                      (dict(min_ratings=2.5), 'min_ratings'), (dict(min_ratings=5), 'give ratings=')])
def test_settings(model, kw, match):
    with pytest.raises(SettingError, match=match): similar_items(model, 'film a (1)', **kw)
    if 'metric' not in kw:
        with pytest.raises(SettingError, match=match): bias_table(model, **kw)
        with pytest.raises(SettingError, match=match): top_items(model, **kw)

def test_ids(model):
    with pytest.raises(UnseenIdError, match=r"film a \(1\)"): similar_items(model, 'Film A (1)')
    with pytest.raises(UnseenIdError, match="did you mean 7 or"): similar_users(model, '7')
    for bad in ('#na#', None, 3, float('nan'), ''):
        with pytest.raises(UnseenIdError): similar_items(model, bad)
    with pytest.raises(SettingError, match='one item'): similar_items(model, ['film a (1)'])
    assert len(similar_users(model, 7, n=99)) == 29
    assert len(similar_users(model, np.int64(7), n=99)) == 29

def test_pca(model):
    m = pca_map(model, k=4)
    assert len(m) == 20 and np.isclose(sum(m.attrs['share']), 1) and np.allclose(m[['pc1', 'pc2']].mean(), 0, atol=1e-6)
    assert np.allclose(pca_map(model, items=m['item'].tolist()[::-1]).pc1[::-1], m.pc1)
    assert list(pca_map(model, is_item=False))[:2] == ['user', 'pc1']
    for kw,match in ((dict(k=5), 'at most'), (dict(k=0), 'k=0'), (dict(n=5), 'give ratings='), (dict(items=[]), 'at most'), (dict(n=3, items=['film a (1)']), 'not both')):
        with pytest.raises(SettingError, match=match): pca_map(model, **kw)
    for items in (['film z'], ['film a (1)', '#na#']):
        with pytest.raises(UnseenIdError): pca_map(model, items=items)
    same = surf(factors=((1, 1),)*4)
    assert pca_map(same, k=1).attrs['share'] == [0] and (pca_map(same, k=1).pc1 == 0).all()

def test_plots(model):
    m = pca_map(model)
    ax = plot_pca(m, x=2, y=3, hue={'film a (1)': 'x', 'film b (1)': 'y'})
    assert len(ax.texts) == 20 and ax.get_xlabel().startswith('component 2')
    assert len(plot_pca(m, n_labels=0).texts) == 0
    n = len(plt.get_fignums())
    with pytest.raises(SettingError, match='larger k'): plot_pca(m, y=4)
    assert len(plt.get_fignums()) == n
    fig, ax = plt.subplots(figsize=(1, 1))
    assert len(place_labels(ax, [0.5]*40, [0.5]*40, ['far too long for it']*40)) < 40 and place_labels(ax, [], [], []) == []
    plt.close('all')

def test_not_factors():
    for f in (rating_counts, bias_table, top_items, pca_map, lambda o: similar_items(o, 'a'), lambda o: similar_users(o, 1)):
        with pytest.raises(NotAFactorModelError): f(torch.nn.Linear(2, 2))

def test_stock_loaders_and_a_saved_learner(ratings, tmp_path):
    learn = collab_learner(CollabDataLoaders.from_df(ratings, seed=0, bs=16), n_factors=3, y_range=(0, 5.5), path=tmp_path)
    assert rating_counts(learn).ratings.sum() == len(learn.dls.train_ds) and bias_table(learn, n=2).shape == (4, 4)
    learn.export('m.pkl')
    loaded = load_learner(tmp_path/'m.pkl')
    assert list(similar_items(loaded, 'film a (1)', n=2)) == ['item', 'similarity']     # it has no rows any more, so no counts
    assert issubclass(UnseenIdError, CollabError)
