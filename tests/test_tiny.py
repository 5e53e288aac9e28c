"""Tables of a row, a column, or hardly more: every kind of model × every verb answers rightly, or refuses with an error that says why."""
import re

import numpy as np
import pandas as pd
import pytest
import torch

ROWS = (1,1), (1,2), (1,5), (2,1), (5,1)   # of one user, or of one item
# whatever else is refused would be a fault
REASONS = ("there is nothing to learn", "how they differ can't be learned from that", r"have \d components at most",
           "there is only .*; a model needs at least two", "no column of the table says anything .*the same for everyone")

def tiny(n, m, same=False):
    "Every user has rated every item"
    y = np.full(n*m, 3.) if same else np.random.default_rng(0).permutation(n*m)%5+1.
    return pd.DataFrame(dict(user=np.arange(n*m)//m+1, movie=np.arange(n*m)%m+1, rating=y))

def loaders(df, n_valid=1):
    from collab_notes.data import RatingsDataLoaders
    rows = np.random.default_rng(1).permutation(len(df))
    return RatingsDataLoaders.from_df(df, splits=(rows[n_valid:], rows[:n_valid]), seed=0, bs=32)

def trained(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    return learn

def kinds():
    "Name → how one is made of `RatingsDataLoaders`"
    from collab_notes.bayes import BayesianPMF
    from collab_notes.core import as_model
    from collab_notes.deep import CollabNN, hybrid_learner, nn_learner, who_rated_what
    from collab_notes.ranking import fit_ranking
    from collab_notes.training import fit
    few = dict(n_factors=4, seed=0)
    rank = lambda loss: lambda d: fit_ranking(d, 2, loss=loss, progress=False, **few)
    bayes = lambda **kw: lambda d: BayesianPMF(n_factors=2, n_sweeps=4, burn_in=1, seed=0, **kw).fit(d, progress=False)
    return {'fit': lambda d: fit(d, 2, progress=False, y_range=(0,6), **few), 'range found': lambda d: fit(d, 1, progress=False, **few),
            'ensemble': lambda d: fit(d, 2, n_models=2, y_range=(0,6), progress=False, **few),
            **{o: rank(o) for o in ('softmax','sampled','bpr')},
            'nn': lambda d: trained(nn_learner(d, [6], [3,2], y_range=(0,6))), 'own net': lambda d: as_model(CollabNN.from_dls(d), d),
            'hybrid': lambda d: trained(hybrid_learner(d, *who_rated_what(d), absent='na', y_range=(0,6), **few)),
            'hybrid net': lambda d: trained(hybrid_learner(d, layers=[4], y_range=(0,6), **few)),
            'grades': bayes(), 'numbers': bayes(likelihood='gaussian', implicit=False, chains=2), **of_histories()}

def of_histories():
    "Name → how one is made of anything that `History.of` takes"
    from collab_notes.core import as_model
    from collab_notes.matrix import ItemCosine, OwnNet, OwnObject
    from collab_notes.ranking import EASE, Blend, Popularity
    from collab_notes.vocab import History
    own = lambda d: History.of(d).vocab
    return {'EASE': lambda d: EASE(d, reg=5.), 'Popularity': Popularity, 'ItemCosine': ItemCosine,
            'Blend': lambda d: Blend([EASE(d, reg=5.), Popularity(d)], [1,0.5]),
            'a module': lambda d: as_model(OwnNet(own(d).n_users, own(d).n_items), d), 'an object': lambda d: as_model(OwnObject(), d)}

def history(n, m):
    from collab_notes.vocab import History, Vocab
    v = Vocab(dict(user=('#na#',*range(1, n+1)), movie=('#na#',*range(1, m+1))))
    pairs = [(a,b) for a in range(1, n+1) for b in range(1, m+1)]
    return History(v, pairs, torch.arange(len(pairs))%5+1.)

def surface(h, **kw):
    from conftest import surface_of
    return surface_of(h.vocab.n_users-1, h.vocab.n_items-1, 2, names=('user','movie')).replace(history=h, **kw)

def bayes_of(h):
    from collab_notes.bayes import BayesianPMF
    return BayesianPMF(n_factors=2, n_sweeps=4, burn_in=1, seed=0).fit(h, progress=False)

def try_all(o):
    "Every verb; whatever is refused is refused for a reason that is true of so small a table"
    from collab_notes.errors import CollabError
    from collab_notes.matrix import VERBS, Case, try_verb
    c = Case(o)
    x = c.m.scores(torch.arange(c.m.vocab.n_users))
    assert x.shape==(c.m.vocab.n_users,c.m.vocab.n_items) and x.isfinite().all()
    for verb in (o for o in VERBS if not o.startswith('collab-notes')):   # the command is tried elsewhere
        try: try_verb(verb, c)
        except CollabError as e: assert any(re.search(o, str(e)) for o in REASONS), (verb, str(e))

@pytest.mark.parametrize('n,m,same', [(2,2,False), (2,3,True), (3,2,False), (8,8,False)])
def test_every_kind_and_every_verb(n, m, same):
    from collab_notes.errors import CollabError
    for make in kinds().values():
        try: o = make(loaders(tiny(n, m, same)))
        except CollabError as e: assert any(re.search(r, str(e)) for r in REASONS), str(e)
        else: try_all(o)

@pytest.mark.parametrize('n,m', ROWS)
def test_loaders_need_two_users_and_two_items(n, m):
    from collab_notes.errors import TooFewIdsError
    with pytest.raises(TooFewIdsError, match=REASONS[3]): loaders(tiny(n, m))

@pytest.mark.parametrize('n,m', ROWS)
def test_models_of_one_row_or_one_column(n, m):
    h = history(n, m)
    for o in [*(make(h) for make in of_histories().values()), surface(h), surface(h, rates=False, y_range=None)]: try_all(o)
    if n*m>1: try_all(bayes_of(h))

def test_learners_with_nothing_to_validate_on():
    from collab_notes.errors import SettingError
    from collab_notes.lists import evaluate
    from collab_notes.training import fit
    d = loaders(tiny(3, 3), 0)
    for name,make in kinds().items():
        if name in ('range found','ensemble','own net','hybrid','numbers'): continue   # nothing new
        o = make(d)
        with pytest.raises(SettingError, match='no validation ratings here'): evaluate(o)
        assert evaluate(o, tiny(3, 3), exclude=None).ndcg.item()>0
    for kw in dict(patience=1), dict(restore_best=True):
        with pytest.raises(SettingError, match=f'{next(iter(kw))}=.*validation rows'): fit(d, 1, progress=False, **kw)

def test_a_split_that_leaves_nothing_says_so():
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.errors import RatingsError
    with pytest.raises(RatingsError, match='leaves 4 rows to train on and 0 to validate on'): RatingsDataLoaders.from_df(tiny(2, 2), seed=0)

def test_lists_are_cut_to_the_items_there_are():
    from collab_notes.lists import evaluate, recommend
    from collab_notes.ranking import Popularity
    df = tiny(4, 3)
    m = Popularity(loaders(df, 4))
    whole = evaluate(m, df, n=10, exclude=None)   # all is relevant and all is on the list
    assert whole.ndcg.item()==1 and whole.recall.item()==1
    assert len(recommend(m, n=10, exclude=None))==12
    again = evaluate(m, df, n=10)   # what was rated in training is not on it, nor looked for
    assert again.ndcg.item()==1 and again.users.item()==4-(df.groupby('user').size()-loaders(df, 4).valid_ds.items.groupby('user').size()).isna().sum()

def test_ndcg_while_training_is_that_of_the_items_there_are():
    from collab_notes.ranking import list_ndcg
    x,y = torch.tensor([[9.,2.,1.]]),torch.tensor([[-1.,0.,1.]])
    want = 1/np.log2(3)   # second of two
    for n in (2,3,10,10**9): assert list_ndcg(x, y, n).item()==pytest.approx(want)
    assert list_ndcg(x, torch.tensor([[-1.,1.,1.]]), 10).item()==pytest.approx(1)   # no list could be better
    assert list_ndcg(x, torch.tensor([[-1.,1.,0.]]), 1).item()==1
