"""Every object that a verb can be given × every verb: each works, or refuses with a reason that is true of its mathematics."""
import pytest

from conftest import drawn_not_rendered, ratings_of

NETS = 'CollabNN', 'collab_learner, use_nn', 'nn_learner'   # without biases
BLACK_BOXES = "somebody's module", "somebody's object"      # of which nothing is known but what they say
UNBIASED = *NETS, *BLACK_BOXES, 'EASE', 'Popularity', 'Blend', 'a Model of one method'
NO_FACTORS = *UNBIASED, 'hybrid_learner, layers'
FILE = 'save, load', *(f'collab-notes {o}' for o in 'evaluate recommend similar explain new-user plot'.split())
SAME_FOR_ALL = 'Popularity counts'

# verb → for which objects it has no answer, and how the reason starts
REFUSALS = {
    'bias_table': (UNBIASED, '{} has no biases'),
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
