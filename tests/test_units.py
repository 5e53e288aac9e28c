"""The unit of the ratings: multiplied or shifted, they make the same model, whose predictions are multiplied or shifted."""
import numpy as np
import pytest
import torch

from conftest import ratings_of

TIMES = 1e-6, 0.3, 1000., 1e12

def fit_(dls, **kw):
    from collab_notes.training import fit
    return fit(dls, 3, n_factors=4, seed=0, progress=False, **kw)

def trained(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, learn.lr)
    return learn

def hybrid(dls, **kw):
    from collab_notes.deep import hybrid_learner
    return trained(hybrid_learner(dls, n_factors=4, seed=0, **kw))

def net(dls):
    from collab_notes.deep import nn_learner
    torch.manual_seed(0)
    return trained(nn_learner(dls, [6], [3,2], lr=0.01))

def bayes(dls, **kw):
    from collab_notes.bayes import BayesianPMF
    return BayesianPMF(n_factors=2, n_sweeps=8, burn_in=3, seed=0, **kw).fit(dls, progress=False)

def absolute(dls):
    from fastai.losses import L1LossFlat
    return fit_(dls, loss_func=L1LossFlat())

MAKERS = {'fit': fit_, 'ensemble': lambda dls: fit_(dls, n_models=3), 'another loss': absolute, 'hybrid': hybrid,
          'hybrid net': lambda dls: hybrid(dls, layers=[4]), 'net': net, 'grades': bayes,
          'numbers': lambda dls: bayes(dls, likelihood='gaussian')}

def scores(maker, times=1., plus=0.):
    "What a model of ratings in another unit says, in stars; so, too, of a newcomer, with what is uncertain in it"
    from collab_notes.coldstart import new_user
    from collab_notes.core import as_model
    from collab_notes.data import RatingsDataLoaders
    df = ratings_of(300, noise=0.8)
    dls = RatingsDataLoaders.from_df(df.assign(rating=df.rating*times+plus), bs=32, seed=0)
    m = as_model(MAKERS[maker](dls))
    one = new_user(m, {'i1':5*times+plus, 'i20':2*times+plus}).predictions
    every = m.scores(torch.arange(m.vocab.n_users)).double()
    sd = one.sd.to_numpy(float)/times if 'sd' in one else np.zeros(1)
    return [(every.numpy()-plus)/times, (one.prediction.to_numpy(float)-plus)/times, sd]

@pytest.fixture(scope='module')
def in_stars():
    made = {}
    def f(maker):
        if maker not in made: made[maker] = scores(maker)
        return made[maker]
    return f

@pytest.mark.parametrize('times', TIMES)
@pytest.mark.parametrize('maker', MAKERS)
def test_another_unit_is_the_same_model(in_stars, maker, times):
    for a,b in zip(in_stars(maker), scores(maker, times)): np.testing.assert_allclose(b, a, rtol=1e-4, atol=5e-4)

@pytest.mark.parametrize('plus', [-20., 100.])
@pytest.mark.parametrize('maker', MAKERS)
def test_shifted_ratings_are_the_same_model(in_stars, maker, plus):
    size = abs(plus)+5
    for a,b in zip(in_stars(maker), scores(maker, plus=plus)): np.testing.assert_allclose(b, a, atol=1e-4*size)
