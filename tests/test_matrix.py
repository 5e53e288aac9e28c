"""Every object that a verb can be given × every verb: each works, or refuses with a reason that is true of its mathematics."""
import pytest

from conftest import drawn_not_rendered, ratings_of

NETS = 'CollabNN', 'collab_learner, use_nn', 'nn_learner'   # without biases
BLACK_BOXES = "somebody's module", "somebody's object"      # of which nothing is known but what they say
UNBIASED = *NETS, *BLACK_BOXES, 'EASE', 'ItemRidge', 'ItemRidge, 3 factors', 'Popularity', 'Blend', 'a Model of one method'
NO_FACTORS = *UNBIASED, 'hybrid_learner, layers'
FILE = 'save, load', *(f'collab-notes {o}' for o in 'evaluate recommend similar explain new-user plot'.split())
SAME_FOR_ALL = 'Popularity counts'

# verb → for which objects it has no answer, and how the reason starts
REFUSALS = {
    'bias_table': ((*UNBIASED, 'ImplicitALS'), '{} has no biases'),
    **dict.fromkeys(('learn_prior', 'fold_in'), (NO_FACTORS, '{} is not made of factors and biases')),
    **dict.fromkeys(('add_user', 'add_item'), (BLACK_BOXES, '{} scores only the rows it was made with')),
    **dict.fromkeys(FILE, (BLACK_BOXES, None)),
    **dict.fromkeys(('why', 'similar items', 'similar users', 'pca_map'), (('Popularity',), SAME_FOR_ALL))}
for verb in 'explain', 'similar', 'plot':
    objects, _ = REFUSALS[f'collab-notes {verb}']
    REFUSALS[f'collab-notes {verb}'] = (*objects, 'Popularity'), None

@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch): drawn_not_rendered(monkeypatch)

@pytest.fixture(scope='module')
def everything(tmp_path_factory):
    "One of each object, as a `Case`"
    import warnings
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.matrix import Case, every_kind
    df = ratings_of(300, n_users=24, n_items=18, noise=0.6).rename(columns=dict(item='movie'))
    dls = RatingsDataLoaders.from_df(df.assign(user=df.user+1), seed=0, bs=32)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)   # fastai says that pickles can do harm
        made = every_kind(dls, tmp_path_factory.mktemp('kinds'))
    return {k: Case(o, None if knows else dls) for k, (o, knows) in made.items()}

KINDS = ['fit', 'fit, 2 models', 'fit_ranking', 'fit_ranking, bpr', 'collab_learner', 'collab_learner, use_nn', 'nn_learner',
         'hybrid_learner', 'hybrid_learner, layers', 'Surface', 'BayesianPMF', 'BayesianPMF, gaussian', 'EASE', 'Popularity',
         'ItemRidge', 'ItemRidge, 3 factors', 'ImplicitALS', 'ItemRidge, saved', 'ItemRidge, 3 factors, saved', 'ImplicitALS, saved',
         'a Model of one method', 'Blend', 'fit, saved', 'nn_learner, saved', 'hybrid_learner, layers, saved', 'fit_ranking, saved',
         'BayesianPMF, saved', 'BayesianPMF, gaussian, saved', 'EASE, saved', 'Popularity, saved', 'a Model of one method, saved',
         'Blend, saved', 'a file', 'after add_user', 'a module', 'Surface, alone', 'CollabNN', 'fit, saved without history',
         'an exported Learner', "somebody's module", "somebody's object"]
VERBS = ['predict', 'predict, unknown ids', 'predict_one', 'recommend', 'recommend, everybody', 'top_rows', 'evaluate', 'user_metrics',
         'why', 'similar items', 'similar users', 'rating_counts', 'bias_table', 'top_items', 'pca_map', 'representative', 'new_user',
         'new_user, nothing rated', 'new_item', 'add_user', 'add_item', 'next_questions', 'learn_prior', 'fold_in', 'Blend', *FILE]

def test_the_lists_are_whole(everything):
    from collab_notes.matrix import VERBS as there
    assert sorted(everything) == sorted(KINDS) and sorted(there) == sorted(VERBS)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('verb', VERBS)
def test_works_or_refuses_for_a_true_reason(everything, kind, verb):
    from collab_notes.matrix import try_verb
    case = everything[kind]
    why = try_verb(verb, case)
    objects, reason = REFUSALS.get(verb, ((), ''))
    if kind.removesuffix(', saved') not in objects: assert why == ''
    else: assert why.startswith(reason.format(type(case.m).__name__) if reason else ''), why
    if kind.startswith('Popularity') and why and 'biases' not in why: assert SAME_FOR_ALL in why

@pytest.mark.parametrize('kind', KINDS)
def test_somebody_who_rates_a_thing_twice(everything, kind):
    "The policies of tables: an error that names them, or what they say"
    import numpy as np
    from collab_notes.coldstart import new_user
    from collab_notes.errors import DuplicateRatingsError
    c = everything[kind]
    a,b = c.m.classes[c.m.item_name][1:3]
    given = [(a,5.), (b,2.), (a,1.)]
    with pytest.raises(DuplicateRatingsError, match="rated more than once; choose with duplicates='keep', 'first'"): new_user(c.o, given, **c.kw)
    says = lambda ratings, **kw: new_user(c.o, ratings, **c.kw, **kw).predictions.iloc[:,1].to_numpy()
    for how,y in dict(first=5., last=1., mean=3.).items():
        np.testing.assert_allclose(says(given, duplicates=how), says({a:y, b:2.} if how!='last' else {b:2., a:y}), rtol=1e-4, atol=1e-6)
    assert np.isfinite(says(given, duplicates='keep')).all()

@pytest.mark.parametrize('kind', ['fit', 'EASE', 'BayesianPMF', 'nn_learner', "somebody's object"])
def test_messages_show_ids_as_python_does(everything, kind):
    "5, not np.int64(5)"
    import re
    import numpy as np
    import pandas as pd
    from collab_notes.coldstart import new_item, new_user
    from collab_notes.core import predict, predict_one
    from collab_notes.errors import CollabError
    from collab_notes.explain import why
    from collab_notes.interpret import similar
    from collab_notes.lists import evaluate, recommend
    from collab_notes.newcomers import add_user
    c = everything[kind]
    item,user,u = c.m.classes[c.m.item_name][1],c.m.user_name,np.int64(9999)
    table = pd.DataFrame({user:[9999], c.m.item_name:[item], 'rating':[3.]})
    for f in (lambda: predict(c.o, table, unseen='error'), lambda: predict_one(c.o, u, item, unseen='error'), lambda: recommend(c.o, [u], **c.kw), lambda: recommend(c.o, u, **c.kw), lambda: why(c.o, u, item, **c.kw), lambda: similar(c.o, u, is_item=False, **c.kw),
              lambda: evaluate(c.o, table, **c.kw), lambda: new_item(c.o, {u:3.}, **c.kw), lambda: new_item(c.o, [(u-1,3.)]*2, **c.kw), lambda: new_user(c.o, {item:np.float64('nan')}, **c.kw),
              lambda: new_user(c.o, {np.str_('zz'):3.}, **c.kw), lambda: add_user(c.m, np.int64(c.m.classes[user][1]), new_user(c.o, {item:3.}, **c.kw))):
        with pytest.raises(CollabError) as e: f()
        assert not re.search(r'np\.(int|float|str)', str(e.value)), e.value
