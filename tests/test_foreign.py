"""What others' objects and modules answer is a number for each pair, or the error says what it was; and nothing fails without its name."""
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from conftest import loaders_of, ratings_of

class Own:
    def __init__(self, f): self.f = f
    def predict(self, users, items): return self.f(len(users))

class Net(nn.Module):
    def __init__(self, f): super().__init__(); self.f = f
    def forward(self, x): return self.f(len(x))

WRONG = {   # what is returned → what the error says of it
    'too few': (lambda n: torch.ones(n-1), r'gave the shape \(19,\)'), 'two each': (lambda n: torch.ones(n, 2), r'the shape \(20, 2\)'),
    'one for all': (lambda n: torch.tensor(3.), r'the shape \(\)'), 'nothing': (lambda n: None, 'a NoneType, None'),
    'a text': (lambda n: 'abc', "a str, 'abc'"), 'texts': (lambda n: ['a']*n, r"a list, \['a'"), 'a dict': (lambda n: {}, 'a dict, {}'),
    'a generator': (lambda n: (o for o in range(n)), 'a generator'), 'complex': (lambda n: torch.ones(n, dtype=torch.cfloat), 'complex numbers'),
    'no numbers': (lambda n: torch.full((n,), torch.nan), r'none \(NaN\)'), 'infinity': (lambda n: torch.full((n,), torch.inf), 'not finite'),
    'dates': (lambda n: np.array(['2020-01-01']*n, 'M8[D]'), 'a ndarray'), 'ragged': (lambda n: [[1,2],[3]]*(n//2), 'a list'),
    'huge': (lambda n: [10**400]*n, 'a list'), 'an error': (lambda n: 1/0, "failed, with ZeroDivisionError: 'division by zero'")}
RIGHT = {'list': lambda n: [1.]*n, 'array': np.ones, 'column': lambda n: np.ones((n,1)), 'tensor': torch.ones, 'with gradients': lambda n: torch.ones(n, requires_grad=True),
         'whole numbers': lambda n: np.ones(n, dtype=int), 'true and false': lambda n: np.ones(n, dtype=bool)}

@pytest.fixture(scope='module')
def dls(): return loaders_of(ratings_of(200, n_users=12, n_items=20))

@pytest.mark.parametrize('make', [Own, Net])
@pytest.mark.parametrize('case', WRONG)
def test_wrong_answers_are_told(dls, make, case):
    from collab_notes.errors import CollabError
    from collab_notes.lists import recommend
    f,says = WRONG[case]
    with pytest.raises(CollabError, match=f'{make.__name__}.* was asked about 20 pairs of .*{says}') as e: recommend(make(f), 3, history=dls)
    assert len(str(e.value))<400

@pytest.mark.parametrize('make', [Own, Net])
@pytest.mark.parametrize('case', RIGHT)
def test_right_answers_of_any_type(dls, make, case):
    from collab_notes.lists import recommend
    assert (recommend(make(RIGHT[case]), 3, history=dls).prediction==1).all()

def test_tables_of_pandas_are_answers(dls):
    from collab_notes.core import as_model
    for f in (lambda n: pd.Series(np.ones(n), index=range(5, 5+n)), lambda n: pd.DataFrame(dict(a=np.ones(n)))):
        assert as_model(Own(f), dls).scores([1,2]).eq(1).all()

@pytest.mark.parametrize('case', ['too few','two each','one for all','nothing','a text','complex','no numbers'])
def test_kinds_of_ones_own_are_asked_as_strictly(dls, case):
    from collab_notes.errors import CollabError
    from collab_notes.protocol import Model
    class Mine(Model):
        def scores(self, users, items=None): return WRONG[case][0](20)
    with pytest.raises(CollabError, match='Mine.scores was asked for 20 items for each of 12 users'): Mine(dls).recommend()
    del Model.kinds['own Mine']

def test_what_is_no_model(dls):
    from collab_notes.core import as_model
    from collab_notes.errors import NotAModelError
    class Pair:
        rates = 'x'
        def predict(self, users, items): return np.ones(len(users))
    odd = type('Odd', (Pair,), dict(classes=5, rates=True))
    for o,says in ((None,'NoneType is nothing'), (Own,'The class Own is nothing'), (len,'is nothing that scores'), (dls,'RatingsDataLoaders is nothing'),
                   (odd(),'Odd.classes is 5'), (type('Odd', (odd,), dict(classes=dict(a=[1], b=3)))(),'Odd.classes is .*should be a dict')):
        for h in (None,dls):
            with pytest.raises(NotAModelError, match=says): as_model(o, h)
    with pytest.raises(NotAModelError, match="Pair.rates is 'x': it should be True"): as_model(Pair(), dls)
    with pytest.raises(NotAModelError, match='Own does not tell which users and items there are: give history=…, a ratings table') as e: as_model(Own(len))
    assert 'from_dls' not in str(e.value)
    with pytest.raises(NotAModelError, match='Linear does not know .*: give the Learner'): as_model(nn.Linear(2, 1))

def test_ids_as_people_remember_them():
    from collab_notes.errors import UnseenIdError
    from collab_notes.vocab import Vocab
    v = Vocab(dict(user=('#na#','u005','u500','U7','x010'), item=('#na#',10,7)))
    assert [v.near(o, False, 1) for o in ('u5','U005','u0007','X10')]==[['u005'],['u005'],['U7'],['x010']]
    assert v.near('010')==[10]
    with pytest.raises(UnseenIdError, match="did you mean 'u005'"): v.rows('u5', False)
