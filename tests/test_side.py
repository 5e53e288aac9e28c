"""Tables of facts: what is wrong is told in our words, odd columns become numbers or are left out, and new rows become the same numbers."""
import numpy as np
import pandas as pd
import pytest
import torch

from collab_notes.errors import CollabError, MissingColumnError, SettingError, SideTableError
from collab_notes.side import SideTable, side_columns, side_rows
from collab_notes.vocab import Vocab

users = pd.DataFrame(dict(user=range(20), kind=['a','b']*10, age=np.arange(20)))
facts = users.drop(columns='user')
ids = ['#na#',*range(20)]

def columns(table, **kw): return side_columns(table, 'user', ids, **kw)

def test_order_and_index_of_a_table_do_not_matter():
    a,b,c = columns(users),columns(users.sample(frac=1, random_state=0)),columns(users.set_index('user'))
    assert torch.equal(a.x, b.x) and torch.equal(a.x, c.x) and a.names == b.names == c.names == ['kind=a','kind=b','age']
    vocab = Vocab(dict(user=ids, item=['#na#','x']))
    assert torch.equal(a.x, side_columns(users, 'user', vocab).x)

def test_a_table_is_left_as_it_is():
    odd = users.assign(age=users.age.where(users.age>3))
    before = odd.copy()
    columns(odd).encoder.codes(odd)
    pd.testing.assert_frame_equal(odd, before)

def test_extra_rows_do_not_matter():
    more = pd.concat([users, pd.DataFrame(dict(user=[99,100], kind=['z','z'], age=[1000,2000]))])
    assert torch.equal(columns(users).x, columns(more).x)

@pytest.mark.parametrize('table,err,says', [
    (users.rename(columns=dict(user='id')), MissingColumnError, 'join by'), (users[5:], SideTableError, '5 of 20'), (users.assign(user=users.user.astype(str)), SideTableError, '20 of 20'),
    (users[:0], SideTableError, '20 of 20'), (pd.concat([users, users[:1].assign(age=77)]), SideTableError, 'contradict'), (users.assign(age=np.inf), SideTableError, 'age: inf is no finite'),
    (users.assign(d=[{'a':1}]*20), SideTableError, 'dicts'), (users.assign(d=[[['a']],['b']]*10), SideTableError, 'd: labels are'), (users.assign(d=[({},)]+['a']*19), SideTableError, 'd: '),
    (users.assign(z=1j), SideTableError, 'z'), (users.to_numpy(), SideTableError, 'DataFrame'), (users.assign(age=1e200*users.age), SideTableError, 'age: its numbers are too large'),
    (pd.concat([users, users[['age']]], axis=1), SideTableError, 'age'), (users.assign(**{'1':1}).assign(**{'2':2}).rename(columns={'2':1}), SideTableError, "'1'")], ids=range(14))
def test_bad_tables(table, err, says):
    with pytest.raises(err, match=says) as e: columns(table)
    assert isinstance(e.value, CollabError)

def test_errors_name_ids_and_columns():
    with pytest.raises(SideTableError) as e: columns(users[2:])
    assert e.value.ids == [0,1]
    with pytest.raises(SideTableError) as e: columns(users.assign(age=np.inf))
    assert e.value.column == 'age'
    with pytest.raises(SideTableError, match='20 of 20'): columns(users.assign(user=users.user+100), absent='na')
    for bad in ('skip',None,True):
        with pytest.raises(SettingError, match='absent'): columns(users, absent=bad)

def test_absent_ids_are_missing_in_every_column():
    s = columns(users[2:], absent='na')
    x = pd.DataFrame(s.x.numpy(), columns=s.names, index=ids)
    assert (x.loc[[0,1],['age=#na#','kind=#na#']]==1).all().all() and (x.loc[2:,['age=#na#','kind=#na#']]==0).all().all()
    assert (x.loc['#na#']==0).all() and torch.isfinite(s.x).all()
    assert x.loc[2,'age'] < x.loc[0,'age'] < x.loc[19,'age']   # the median

odd = facts.assign(const=1, none=None, nan=np.nan, b=[True,None]*10, b2=pd.array([True,None]*10, dtype='boolean'), when=pd.date_range('2020', periods=20), zone=pd.date_range('2020', periods=20, tz='UTC'),
                   cat=pd.Categorical(['p|q','r']*10), codes=pd.Categorical([5,7]*10), name=[f'n{o}' for o in range(20)], mixed=[1,'a']*10, both=[1,'1']*10, took=pd.Timedelta('1h')*users.age,
                   whole=pd.array([1,None]*10, dtype='Int64'), tags=[['x'],{'x','y'}]*10, text=pd.array(['u|v',None]*10, dtype='string'), same=[['x']]*20, nolabels=[[]]*20, nat=pd.NaT, period=list(pd.period_range('2020', periods=2, freq='M'))*10)

def test_odd_columns():
    s = columns(odd.assign(user=users.user))
    assert s.left_out == dict(const='the same for everyone', none='nothing in it', nan='nothing in it', name='different for everyone', both='the same for everyone', same='the same for everyone',
                              nolabels='nothing in it', nat='nothing in it')
    assert torch.isfinite(s.x).all() and len(s.names) == s.x.shape[1] == len(set(s.names))
    assert {'b=True','b=#na#','b2=#na#','when','zone','took','cat=p|q','codes=5','mixed=1','mixed=a','whole=#na#','tags=y','text=v','period=2020-01'} <= set(s.names)
    assert s.encoder.kinds['when']=='date' and s.encoder.kinds['took']=='duration' and s.encoder.kinds['text']=='labels'

def test_rows_one_by_one_are_the_rows_of_the_table():
    side = SideTable(odd)
    x,(codes,rest) = side(odd),side.codes(odd)
    assert codes.shape[1] == len(side.sizes) and codes.shape[1]+sum(k!='word' for k in side.kinds.values()) == len(side.kinds)
    assert (codes.max(0).values < torch.tensor([n for n,_ in side.sizes])).all() and torch.isfinite(rest).all()
    for i in (0,1,19):
        one = odd.iloc[i].dropna().to_dict()
        assert torch.equal(side(one)[0], x[i]) and not [o for o in side.notes(one) if 'not used' not in o]
        for a,b in zip(side.codes(one), (codes,rest)): assert torch.equal(a[0], b[i])
    assert torch.equal(side(odd.sample(frac=1, random_state=0, axis=1)), x)

def test_no_row_and_nothing_known():
    side = SideTable(facts)
    assert side(facts[:0]).shape == (0,3) and side.codes(facts[:0])[0].shape == (0,1)
    assert torch.allclose(side({})[0], side(facts).mean(0), atol=0.1)   # shares of words, median
    assert side.codes({})[0].tolist() == [[0]]
    nothing = SideTable(facts[:0])
    assert set(nothing.left_out) == {'kind','age'} and nothing({}).shape == (1,0)

def test_what_a_newcomer_says_that_is_new():
    side = SideTable(odd)
    says = side.notes(dict(kind='c', tags=['x','z'], const=2, cat='s'))
    assert says == ["kind: 'c' is new, taken as #na#", "cat: 's' is new, taken as #na#", "tags: 'z' is new, left out", 'const: not used (the same for everyone)']
    assert torch.equal(side(dict(kind='c')), side({})) and torch.equal(side(dict(tags=['x','z'])), side(dict(tags='x')))
    assert torch.equal(side(dict(codes='5')), side(dict(codes=5.)))

@pytest.mark.parametrize('bad,err,says', [(dict(age='old'), SideTableError, "age: 'old'"), (dict(age=-np.inf), SideTableError, 'age: -inf'), (dict(when='soon'), SideTableError, "when: 'soon' is no date"),
    (dict(when=pd.Timestamp('2020', tz='UTC')), SideTableError, 'when'), (dict(took='long'), SideTableError, 'took'), (dict(kind={'a':1}), SideTableError, 'kind'), (dict(shoe=44), MissingColumnError, "'shoe'"),
    (dict(tags=[['x']]), SideTableError, 'tags'), ([1,2], SideTableError, 'dict'), (None, SideTableError, 'dict'), (pd.DataFrame(dict(shoe=[4])), MissingColumnError, "'shoe'")], ids=range(11))
def test_bad_newcomers(bad, err, says):
    with pytest.raises(err, match=says): SideTable(odd).encode(bad)

def test_a_table_that_says_nothing():
    for t,says in ((facts[[]], 'there are ids only'), (facts[[]].assign(a=1), 'a: the same for everyone')):
        with pytest.raises(SideTableError, match=f'user: no column of the table says anything .{says}'): SideTable(t).check('user')
    side = SideTable(facts)
    assert side.check('user') is side

def test_rows_by_id():
    assert list(side_rows(users, 'user', [3,99,1], 'skip').age) == [3,1]
    assert side_rows(users, 'user', [3,99,1], 'na').age.isna().tolist() == [False,True,False]
    with pytest.raises(SideTableError, match='1 of 3'): side_rows(users, 'user', [3,99,1])
    with pytest.raises(SideTableError, match='1 of 1'): side_rows(users, 'user', [99], 'skip')
