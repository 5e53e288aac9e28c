"""What `nbs/01_latent_factors.ipynb` no longer shows: what the functions refuse, and what they leave as it was."""
import numpy as np
import pytest
import torch
from conftest import ratings_of

from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import DivergedError, SettingError, ShapeError
from collab_notes.latent import autograd_gradients, dot, init_factors, learn_factors, mf_gradients, mse, predict_ratings, sgd_epoch

u,v = init_factors(9, 7, 3, std=1.)
users,items = torch.tensor([1,8,1,3]),torch.tensor([2,0,6,6])
y = torch.tensor([5.,1.,3.,4.])

@pytest.fixture(scope='module')
def dls(): return RatingsDataLoaders.from_df(ratings_of(), bs=100, seed=1, device=torch.device('cpu'))

@pytest.mark.parametrize('f,words', [
    (lambda: dot(u[0], torch.ones(2)), r'\(3,\) and \(2,\)'), (lambda: dot(u[0], torch.ones(3,1)), 'vectors of one length'), (lambda: dot(torch.tensor(1.), u[0]), 'vectors of one length'),
    (lambda: predict_ratings(u, v, users*0-1, items), '-1'), (lambda: predict_ratings(u, v, users, items*0+7), '0 to 6'), (lambda: predict_ratings(u, v, users, items[:2]), 'A user for each item'),
    (lambda: predict_ratings(u[:,:2], v, users, items), 'one length'), (lambda: mse(y, y[:,None]), r'\(4,\) and \(4, 1\)'),
    *((lambda f=f: f(u, v, users, items, y[:,None]), 'A rating for each user') for f in (mf_gradients,autograd_gradients))])
def test_shapes_that_do_not_belong_together(f, words):
    with pytest.raises(ShapeError, match=words): f()

def test_init_factors_of_no_size():
    for bad in (0, -1, 1.5):
        with pytest.raises(SettingError, match='n_factors'): init_factors(9, 7, bad)
    assert torch.equal(init_factors(9, 7, 3, std=1.)[1], v) and not torch.equal(init_factors(9, 7, 3, std=1., seed=1)[1], v)
    assert abs(init_factors(944, 1665)[1].std()-0.01) < 1e-4

def test_gradients_touch_nothing_and_take_any_whole_numbers():
    before = u.clone(),v.clone()
    for f in (mf_gradients,autograd_gradients):
        a,b = f(u, v, users, items, y),f(u, v, users.int(), items.int(), y)
        assert all(torch.allclose(o, p) for o,p in zip(a, b))
    for o,p in zip((u,v), before): assert torch.equal(o, p) and not o.requires_grad and o.grad is None
    sgd_epoch(u, v, [(torch.stack([users,items], 1), y[:,None])], 1.)
    assert torch.equal(u, before[0])

def test_the_gradient_is_a_difference_quotient():
    a,b,r,eps = u.double(),v.double(),y.double(),1e-6
    loss = lambda o: mse(predict_ratings(o, b, users, items), r)
    for k,f in np.ndindex(*a.shape):
        up,down = a.clone(),a.clone()
        up[k,f] += eps; down[k,f] -= eps
        assert abs((loss(up)-loss(down))/(2*eps) - mf_gradients(a, b, users, items, r)[1][k,f]) < 1e-7

def test_learn_factors(dls):
    state = dls.train.rng.getstate()
    one,other,auto = (learn_factors(dls, 4, 3, lr=0.5, gradients=f) for f in (mf_gradients,mf_gradients,autograd_gradients))
    assert dls.train.rng.getstate()==state   # the caller's loader goes on as if nothing had been
    assert torch.equal(one.user_factors, other.user_factors) and one.losses.equals(other.losses)
    assert np.allclose(one.losses, auto.losses, atol=1e-5) and list(one.losses.columns)==['train MSE','valid MSE'] and len(one.losses)==4
    assert len(learn_factors(dls, 4, 0).losses)==1
    with pytest.raises(DivergedError, match='lr=1000 is too large'): learn_factors(dls, 5, 5, lr=1000)
    with pytest.raises(SettingError, match='n_epochs'): learn_factors(dls, 4, -1)

def test_a_start_from_larger_numbers_leaves_them_in_rare_items(dls):
    "An item without training ratings keeps its vector, one with many has another direction; and the loss is higher"
    small,large = (learn_factors(dls, 20, 60, lr=1., std=o) for o in (0.01,0.3))
    assert small.losses['valid MSE'].min() < large.losses['valid MSE'].min()
    start = init_factors(*(len(o) for o in dls.classes.values()), 20, 0.3)[1]
    n = torch.bincount(dls.train.tensors()[0][:,1].long(), minlength=len(start))
    left = torch.cosine_similarity(start, large.item_factors)
    assert left[n==0].min() > 0.999 > left[n>=n.median()].median()
