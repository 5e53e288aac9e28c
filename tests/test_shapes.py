"""On ratings of any kind `fit` is not worse than damped means, predictions stay within the scale, and nobody known about nothing known is the mean."""
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collab_notes.core import as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import CollabError, EmptyRatingsError, MeansAreBetterWarning, SettingError, TooFewIdsError
from collab_notes.latent import damped_means
from collab_notes.quick import fit_quick
from collab_notes.shrink import means_model, shrunk_means
from collab_notes.training import fit
from collab_notes.vocab import History
from conftest import ratings_of, shapes_of

SHAPES = [*shapes_of()]
quiet = partial(fit, seed=0, progress=False)

@pytest.fixture(scope='module')
def tables():
    "Each shape, drawn twice"
    drawn = [shapes_of(s) for s in (0,1)]
    return {k:[RatingsDataLoaders.from_df(o[k], seed=1) for o in drawn] for k in SHAPES}

MAKERS = {'fit':quiet, 'fit, 2 models':partial(quiet, n_models=2), 'fit_quick':fit_quick, 'means_model':means_model}

@pytest.fixture(scope='module')
def made(tables):
    "What `MAKERS[how]` makes of a shape's drawing number `k`, trained once"
    have = {}
    def f(how, shape, k=0):
        if (how,shape,k) not in have:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', MeansAreBetterWarning)
                have[how,shape,k] = as_model(MAKERS[how](tables[shape][k]))
        return have[how,shape,k]
    return f

def losses(dls, m):
    "Squared errors on validation rows, of the model and of damped means, in variances of the ratings"
    h = History.of(dls)
    (u,i,y),(uv,iv,yv) = h.part(),h.part(True)
    b = damped_means(u, i, y, h.vocab.n_users, h.vocab.n_items)
    means = torch.tensor(b.mean+b.user_bias[uv]+b.item_bias[iv]).clamp(y.min(), y.max())
    return [((p-yv)**2).double()/y.var() for p in (as_model(m).pair_scores(uv, iv),means)]

@pytest.mark.parametrize('how', MAKERS)
@pytest.mark.parametrize('shape', SHAPES)
def test_never_worse_than_damped_means(tables, made, shape, how):
    "But for noise: two standard errors of the difference, rows of the drawings together, and a hundredth of the variance"
    draws = (0,1) if how!='fit, 2 models' else () if shape in SHAPES[1:6] else (0,)
    if not draws: return   # trained as `fit` is
    ours,means = (torch.cat(o) for o in zip(*(losses(tables[shape][k], made(how, shape, k)) for k in draws)))
    off = ours-means
    assert off.mean() < 2*off.std(correction=0)/len(off)**0.5 + 0.01

@pytest.mark.parametrize('how', ['fit','fit_quick'])
def test_better_where_there_is_taste(tables, made, how):
    shapes = 'stars','halves','1 to 10','-10 to 10'
    ours,means = (torch.cat(o) for o in zip(*(losses(tables[o][k], made(how, o, k)) for o in shapes for k in (0,1))))
    assert ours.mean() < (0.97 if how=='fit' else 1)*means.mean()

@pytest.mark.parametrize('how', ['fit','fit_quick','means_model'])
@pytest.mark.parametrize('shape', SHAPES)
def test_the_scale_is_never_left(tables, made, shape, how):
    m,y = made(how, shape),History.of(tables[shape][0]).part()[2]
    p = m.pair_scores(torch.arange(m.vocab.n_users)[:,None], torch.arange(m.vocab.n_items))
    assert y.min()<=p.min() and p.max()<=y.max()
    assert torch.isclose(p[0,0], y.mean(), atol=1e-4*float(y.std()))
    if shape in ('one a user','0 to 100'): return   # thousands of people are slow to learn a prior from
    new = m.new_user({o:y.max().item() for o in [*m.classes[m.item_name]][1:4]})
    assert new.predictions.prediction.between(y.min().item(), y.max().item()).all()

def test_one_user_and_all_equal():
    "Refused with the reason, or learned"
    with pytest.raises(TooFewIdsError): RatingsDataLoaders.from_df(pd.DataFrame(dict(user=1, item=range(20), rating=[1.,5.]*10)), seed=0)
    flat = RatingsDataLoaders.from_df(ratings_of().assign(rating=3.), seed=0)
    with pytest.raises(CollabError, match='nothing to learn'): quiet(flat)
    for m in (fit_quick(flat), means_model(flat), as_model(quiet(flat, n_epoch=1, y_range=(0,5.5)))):
        assert torch.allclose(m.pair_scores(torch.arange(5)[:,None], torch.arange(5)), torch.tensor(3.))
    with pytest.raises(EmptyRatingsError): shrunk_means([], [], [], 2, 2)

# the unknown

def unknown_of(d, m):
    "Of an unknown user with each item, and of an unknown item with each user: what is said; shrunk means; all in standard deviations"
    h = History.of(d)
    (u,i,y),m = h.part(),as_model(m)
    s = shrunk_means(u, i, y, h.vocab.n_users, h.vocab.n_items)
    for is_item,b in ((True,s.item_bias),(False,s.user_bias)):
        rows = (h.counts(is_item)>0).nonzero()[:,0]
        p = m.pair_scores(0, rows) if is_item else m.pair_scores(rows, 0)
        yield (p.double()-s.mean)/y.std(), b[rows]/y.std()

@pytest.mark.parametrize('shape', ['stars','0 to 100','two a user','heavy head'])
@pytest.mark.parametrize('how', MAKERS)
def test_an_unknown_user_finds_the_items_shrunk_mean(tables, made, shape, how):
    if how=='fit, 2 models' and shape=='0 to 100': return   # slow
    for said,shrunk in unknown_of(tables[shape][0], made(how, shape)):
        assert abs(said.mean()-shrunk.mean()) < 0.15 and ((said-shrunk)**2).mean()**0.5 < 0.3
        assert torch.corrcoef(torch.stack([said,shrunk]))[0,1] > 0.8

@pytest.fixture(scope='module')
def everything(tmp_path_factory):
    from collab_notes.matrix import every_kind
    df = ratings_of(300, n_users=24, n_items=18, noise=0.6).rename(columns=dict(item='movie'))
    dls = RatingsDataLoaders.from_df(df.assign(user=df.user+1), seed=0, bs=32)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return dls,every_kind(dls, tmp_path_factory.mktemp('kinds'))

def test_every_kind_that_rates(everything):
    "Within the scale, and the mean of the training ratings where nothing is known"
    dls,made = everything
    y,seen = History.of(dls).part()[2],[]
    for k,(o,knows) in made.items():
        m = as_model(o, None if knows else dls)
        if not m.rates or m.kind.startswith('Bayesian'): continue   # these have their own tests
        n = m.vocab.n_users,m.vocab.n_items
        p = m.pair_scores(torch.arange(n[0])[:,None], torch.arange(n[1]))
        assert y.min()-1e-6<=p.min() and p.max()<=y.max()+1e-6, k
        assert torch.isclose(p[0,0], m.history.part()[2].mean(), atol=0.05), k
        seen.append(k)
    assert len(seen)>15

def test_the_scale_is_known_without_a_history(everything, tmp_path):
    made = everything[1]
    for k in ('fit','nn_learner','hybrid_learner, layers'):
        m = as_model(made[k][0])
        bare = as_model(made[k][0].model)
        assert bare.limits==m.limits==as_model(m.save(tmp_path/'m.safetensors', history=False)).limits

def test_lists_are_not_cut_off():
    "What is above the scale is still in its order"
    from conftest import surface_of
    s = surface_of(y_range=None).replace(scale=(1.,3.,5.), user_bias=torch.full((21,), 9.))
    df = s.recommend(users=[1], n=30, exclude=None)
    assert (df.prediction==5).all()
    raw = s.raw_pairs(1, s.vocab.rows(df['item']))
    assert (raw.diff()<=0).all() and len(raw)==30

# the setting

def test_shrink(tables):
    d = tables['few'][0]
    few = [as_model(quiet(d, shrink=o)).user_bias for o in (0.5,1.,4.)]
    assert few[0].std()>few[1].std()>few[2].std()
    for bad in (-1, float('nan'), float('inf'), 'x', True):
        with pytest.raises(SettingError, match='shrink'): quiet(d, shrink=bad)

def test_says_when_means_are_better(tables):
    d = tables['one a user'][0]
    with pytest.warns(MeansAreBetterWarning, match='means_model'): quiet(d, shrink=0., wd=0.)
    with warnings.catch_warnings():
        warnings.simplefilter('error', MeansAreBetterWarning)
        quiet(tables['-10 to 10'][0])

@settings(max_examples=15)
@given(n=st.integers(3, 30), k=st.floats(1e-3, 1e4), seed=st.integers(0, 99))
def test_shrunk_means_in_any_unit(n, k, seed):
    "Between the mean and the row's own mean but for what is usual; units cancel; no ids are lost"
    df = ratings_of(n, seed, 5, 8)
    a,b = (History.of(df.assign(rating=df.rating*o)) for o in (1,k))
    s,t = (shrunk_means(*h.part(), h.vocab.n_users, h.vocab.n_items) for h in (a,b))
    for p,q in zip(s[:3], t[:3]): np.testing.assert_allclose(np.asarray(q), np.asarray(p)*k, rtol=1e-3, atol=1e-5*k)
    assert all(np.isfinite(np.asarray(o)).all() for o in s) and min(s[5:])>0
