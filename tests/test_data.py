"""Splits and loaders when things are not as they should be: odd sizes, odd types, bad splits. The ordinary way is shown and tested in
`nbs/00_data.ipynb`."""
import pickle, random, warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import choices_of, ratings_of
from fastai.learner import Learner, load_learner
from fastai.losses import MSELossFlat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_tables import good, good_tables

from collab_notes.data import RatingsDataLoaders, kfold_splits, leave_last_out, random_split, stratified_split, temporal_split
from collab_notes.errors import (DuplicateRatingsError, EmptyRatingsError, MissingColumnError, NullIdError, RatingsError, SettingError,
                                 UnseenIdError)
from collab_notes.models import DotProductBias
from collab_notes.tables import check_ratings

# splits

def rng_states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

@st.composite
def timed_tables(draw):
    rows = draw(st.lists(st.tuples(st.integers(0,5), st.integers(0,8), st.integers(0,12)), min_size=3, max_size=40))
    df = pd.DataFrame(rows, columns=['user','item','timestamp'])
    df['rating'] = 3.
    how = draw(st.sampled_from(['int','date','text','Int64']))
    day = pd.Timestamp('2020-01-01') + pd.to_timedelta(df.timestamp, unit='D')
    df['timestamp'] = {'int':df.timestamp, 'date':day, 'text':day.dt.strftime('%Y-%m-%d'), 'Int64':df.timestamp.astype('Int64')}[how]
    df.index = draw(st.permutations(range(len(df))))
    return df

def check_split(df, split, again=None):
    "A partition, with the right unseen ids, that comes out the same again"
    train,valid = split
    assert sorted([*train, *valid]) == list(range(len(df))) and len(train) and len(valid)
    for col,found in ('user',split.unseen_users), ('item',split.unseen_items):
        assert len(found)==len(set(found)) and set(found) == set(df[col].iloc[valid]) - set(df[col].iloc[train])
    assert f'{len(split.unseen_users):,} users' in repr(split)
    if again is not None: assert [o.tolist() for o in again] == [o.tolist() for o in split]

@settings(max_examples=80)
@given(timed_tables(), st.floats(0.05, 0.95), st.integers(0, 2**40))
def test_splits_are_partitions(df, pct, seed):
    before,states = df.copy(deep=True),rng_states()
    n_valid = int(pct*len(df))
    if n_valid:
        split = random_split(df, pct, seed)
        check_split(df, split, random_split(df, pct, seed))
        assert len(split[1]) == n_valid
    k = min(len(df), 2+seed%4)
    folds = kfold_splits(df, k, seed)
    for f,g in zip(folds, kfold_splits(df, k, seed)): check_split(df, f, g)
    sizes = [len(f[1]) for f in folds]
    assert sum(sizes) == len(df) and max(sizes)-min(sizes) <= 1
    assert sorted(i for f in folds for i in f[1]) == list(range(len(df)))
    try: split = temporal_split(df, pct)
    except RatingsError: assert n_valid==0 or df.timestamp.nunique()==1 or (df.timestamp>=df.timestamp.sort_values().iloc[-n_valid-1]).mean() > 0
    else:
        check_split(df, split, temporal_split(df, pct))
        assert df.timestamp.iloc[split[0]].max() < df.timestamp.iloc[split[1]].min() and len(split[1]) <= n_valid
    assert rng_states() == states
    pd.testing.assert_frame_equal(df, before)

@settings(max_examples=80)
@given(timed_tables(), st.integers(1, 3), st.integers(0, 99))
def test_leave_last_out_as_by_hand(df, n, seed):
    counts = df.user.value_counts()
    if not (counts>n).any():
        with pytest.raises(RatingsError): leave_last_out(df, n, seed)
        return
    split = leave_last_out(df, n, seed)
    check_split(df, split, leave_last_out(df, n, seed))
    train,valid = (df.iloc[o] for o in split)
    for u,c in counts.items():
        mine,held = train[train.user==u],valid[valid.user==u]
        assert len(held) == (n if c>n else 0)
        if len(held): assert held.timestamp.min() >= mine.timestamp.max()

def test_seeds_decide():
    df = ratings_of(300).assign(timestamp=0)   # all of the same moment
    for f in (random_split, lambda df, seed: kfold_splits(df, seed=seed)[0], lambda df, seed: leave_last_out(df, seed=seed), stratified_split):
        a,b,c = (f(df, seed=o)[1].tolist() for o in (1,1,2))
        assert a == b != c

@given(st.integers(0, 5), st.floats(0.1, 0.9), st.sampled_from(['item','user']))
@settings(max_examples=30)
def test_stratified(seed, pct, by):
    df = choices_of(300, seed)
    tr,va = split = stratified_split(df, pct, seed, by)
    check_split(df, split, stratified_split(df, pct, seed, by))
    n = df[by].value_counts().sort_index()
    kept = df.iloc[tr][by].value_counts().reindex(n.index, fill_value=0)
    assert (kept==np.round((1-pct)*n)).all()

def test_stratified_refuses():
    df = choices_of(300)
    for kw in (dict(by='film'), dict(valid_pct=0), dict(valid_pct=1.5)):
        with pytest.raises(SettingError): stratified_split(df, **kw)
    with pytest.raises(EmptyRatingsError): stratified_split(df[:0])
    with pytest.raises(RatingsError): stratified_split(pd.DataFrame(dict(user=[1,2], item=[1,2], rating=[1,2])), 0.1)   # nothing left to validate on

def test_a_split_can_be_sent_to_another_process():
    split = random_split(good, 0.5)
    again = pickle.loads(pickle.dumps(split))
    assert repr(again) == repr(split) and again.unseen_items == split.unseen_items

@pytest.mark.parametrize('f,err', [
    (lambda: random_split(good, 2), SettingError), (lambda: random_split(good, 0), SettingError), (lambda: random_split(good, float('nan')), SettingError), (lambda: random_split(good, 0.1), RatingsError),
    (lambda: random_split(good[:0], 0.5), RatingsError), (lambda: kfold_splits(good, 1), SettingError), (lambda: kfold_splits(good, 5), SettingError), (lambda: kfold_splits(good, 2.5), SettingError),
    (lambda: temporal_split(good), MissingColumnError), (lambda: temporal_split(good.assign(timestamp=1)), RatingsError),
    (lambda: temporal_split(good.assign(timestamp=[1,None,2,3])), RatingsError), (lambda: leave_last_out(good), MissingColumnError), (lambda: leave_last_out(good.assign(timestamp=1), 0), SettingError),
    (lambda: leave_last_out(good.assign(timestamp=1, user=[1,1,None,1])), NullIdError), (lambda: random_split(good.assign(item=['a',None,'b','c']), 0.5), NullIdError),
    (lambda: temporal_split(good.assign(timestamp=['12/31/2019','01/02/2020','02/01/2020','03/01/2020']), 0.5), RatingsError)])
def test_splits_that_cannot_be(f, err):
    with pytest.raises(err): f()

# loaders

def some_ratings(n, seed=0):
    "`n` ratings of distinct values, so that each row is known by its rating"
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(40*50)[:n]
    return pd.DataFrame(dict(user=pairs//50, item=[f'i{o}' for o in pairs%50], rating=np.arange(n)/8))

def epoch(dl): return [o for _,y in dl for o in y[:,0].tolist()]

@settings(max_examples=80)
@given(n=st.integers(1, 200), bs=st.integers(1, 210), drop_last=st.booleans(), shuffle=st.booleans(), seed=st.integers(0, 2**32-1))
@example(n=1, bs=1, drop_last=True, shuffle=True, seed=0)
@example(n=1, bs=2, drop_last=True, shuffle=True, seed=0)
@example(n=128, bs=64, drop_last=True, shuffle=True, seed=0)
@example(n=129, bs=64, drop_last=True, shuffle=True, seed=0)
def test_an_epoch_is_every_rating_once(n, bs, drop_last, shuffle, seed):
    df = some_ratings(n+3)
    dls = RatingsDataLoaders.from_df(df, splits=(range(n), range(n,n+3)), bs=4)
    dl = dls.train.new(bs=bs, drop_last=drop_last, shuffle=shuffle, seed=seed)
    want,kept = df.rating[:n].tolist(),n - (n%bs if drop_last else 0)
    first,second = epoch(dl),epoch(dl)
    for e in (first,second):
        assert len(e)==len(set(e))==kept and set(e)<=set(want)
        if kept==n: assert sorted(e)==want
        if not shuffle: assert e==want[:kept]
    assert len(dl) == (n//bs if drop_last else -(-n//bs))
    if shuffle and kept>20: assert first!=second
    dl.reseed(seed)
    assert [epoch(dl), epoch(dl)] == [first,second]
    again = dl.new()
    assert [epoch(again), epoch(again)] == [first,second]
    assert epoch(dls.valid) == df.rating[n:].tolist()

@settings(max_examples=30)
@given(good_tables(), st.integers(0, 9), st.sampled_from([None, (0,1)]))
def test_batches_say_what_the_table_says(df, seed, which):
    "Decoded, an epoch of each loader is the rows of its part of the split, whatever the types of ids and the index."
    split = random_split(df, 0.4, seed)
    dls = RatingsDataLoaders.from_df(df, splits=split, bs=3, seed=seed)
    for dl,rows in zip(dls.loaders, split):
        got = [(dls.classes['user'][u], dls.classes['item'][i], y) for x,ys in dl for (u,i),(y,) in zip(x.tolist(), ys.tolist())]
        want = list(zip(df.user.iloc[rows], df.item.iloc[rows], df.rating.iloc[rows].astype(float)))
        assert Counter(got) == Counter(want)
        if dl is dls.valid: assert got == want

def test_from_df_is_seeded_and_leaves_other_randomness_alone():
    df,states = some_ratings(100),rng_states()
    make = lambda seed: [epoch(dl) for dl in RatingsDataLoaders.from_df(df, bs=16, seed=seed).loaders]
    assert make(3) == make(3) != make(4)
    assert rng_states() == states
    assert make(None) != make(None)

def test_both_loaders_of_two_epochs_are_in_new_orders_with_workers_too():
    dl = RatingsDataLoaders.from_df(some_ratings(50), splits=(range(40), range(40,50)), bs=16, seed=1).train
    first = epoch(dl.new(num_workers=0))
    assert sorted(epoch(dl.new(num_workers=1))) == sorted(first)
    sub = epoch(dl.new(n=10))
    assert len(sub) == len(set(sub)) == 10

@pytest.mark.parametrize('splits,err', [
    (([0,1],[1,2]), SettingError), (([0,1],[2,99]), SettingError), (([0,-1],[2]), SettingError), (([],[1,2]), SettingError), (([0,1],), SettingError), (([0,1],[2],[3]), SettingError),
    ((np.arange(20)<10, np.arange(20)>=10), SettingError), (([0.5,1.5],[3]), SettingError)])
def test_splits_that_loaders_refuse(splits, err):
    with pytest.raises(err): RatingsDataLoaders.from_df(some_ratings(20), splits=splits)

def test_settings_that_loaders_refuse():
    df = some_ratings(20)
    for kw in dict(bs=0), dict(valid_pct=1.5), dict(duplicates='no'):
        with pytest.raises(SettingError): RatingsDataLoaders.from_df(df, **kw)
    twice = pd.concat([df, df[:1]])
    with pytest.raises(DuplicateRatingsError): RatingsDataLoaders.from_df(twice)
    with pytest.raises(SettingError, match='check_ratings first'): RatingsDataLoaders.from_df(twice, duplicates='first', splits=(range(10), range(10,15)))
    with pytest.raises(MissingColumnError): RatingsDataLoaders.from_df(df, item_name='film')
    with pytest.raises(MissingColumnError): RatingsDataLoaders.from_df(df[['user','item']])

def test_columns_by_position_and_by_number():
    df = some_ratings(20).set_axis(['who','what','how'], axis=1)
    assert list(RatingsDataLoaders.from_df(df, seed=0).classes) == ['who','what']
    dls = RatingsDataLoaders.from_df(df.set_axis([0,1,2], axis=1), seed=0, bs=4)
    assert dls.one_batch()[0].shape == (4,2) and dls.test_dl(df.set_axis([0,1,2], axis=1)).one_batch()[0].shape == (4,2)

@pytest.fixture(scope='module')
def trained():
    df = some_ratings(300)
    dls = RatingsDataLoaders.from_df(df.assign(rating=df.rating%5), bs=32, seed=0)
    learn = Learner(dls, DotProductBias.from_dls(dls, 4), loss_func=MSELossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.1)
    return learn

def scores(learn, df, **kw):
    with learn.no_bar(): return learn.get_preds(dl=learn.dls.test_dl(df, **kw))[0].flatten()

pairs = some_ratings(90)[['user','item']]

@pytest.mark.parametrize('change', [
    lambda df: df, lambda df: df.assign(rating=3.), lambda df: df.assign(rating=np.nan), lambda df: df.assign(genre='x', when=pd.Timestamp('2020')), lambda df: df[['item','user']], lambda df: df.set_axis([5]*len(df)),
    lambda df: df.assign(item=pd.Categorical(df.item, categories=sorted(set(df.item), reverse=True))), lambda df: df.assign(item=df.item.astype('category').cat.add_categories(['a','zz'])),
    lambda df: df.assign(user=df.user.astype(float)), lambda df: df.assign(user=df.user.astype('Int64')), lambda df: df.assign(user=df.user.astype('int16')), lambda df: df.astype(object), lambda df: df.assign(user=df.user.astype('category'))],
    ids='same with_ratings with_empty_ratings more_columns other_order index categories_reversed more_categories float Int64 int16 object category'.split())
def test_test_dl_scores_the_same_pairs_the_same(trained, change):
    "In the order of the table, one by one as all together; and the table is not changed."
    df = change(pairs.copy())
    before = df.copy(deep=True)
    m,c = trained.model,trained.dls.classes
    want = torch.stack([m(torch.tensor([[c['user'].o2i[u], c['item'].o2i[i]]]))[0].detach() for u,i in zip(pairs.user, pairs.item)])
    assert torch.allclose(scores(trained, df), want, atol=1e-6)
    assert torch.allclose(scores(trained, df, bs=7), want, atol=1e-6)
    pd.testing.assert_frame_equal(df, before)

def test_test_dl_and_unseen_ids(trained):
    odd = pairs.assign(user=pairs.user.where(pairs.index%2==0, 777))
    rows = np.flatnonzero(odd.user==777).tolist()
    with pytest.raises(UnseenIdError) as e: trained.dls.test_dl(odd)
    assert (e.value.column, e.value.rows) == ('user', rows)
    x = torch.cat([b[0] for b in trained.dls.test_dl(odd, unseen='na')])
    assert (x[:,0]==0).nonzero().flatten().tolist() == rows and (x[:,1]>0).all()
    with pytest.raises(UnseenIdError, match='int, not str'): trained.dls.test_dl(pairs.astype({'user':str}))   # of another type: '5' is not 5
    with pytest.raises(NullIdError): trained.dls.test_dl(pairs.assign(item=None))
    with pytest.raises(MissingColumnError): trained.dls.test_dl(pairs[['user']])
    with pytest.raises(EmptyRatingsError): trained.dls.test_dl(pairs[:0])
    assert sum(len(b[0]) for b in trained.dls.test_dl(odd, unseen='skip')) == len(odd)-len(rows)
    with pytest.raises(EmptyRatingsError): trained.dls.test_dl(pairs.assign(user=777), unseen='skip')
    with pytest.raises(SettingError): trained.dls.test_dl(pairs, unseen='drop')

def test_predictions_for_the_loaders_come_in_their_order(trained):
    with trained.no_bar(): preds,targ = trained.get_preds()
    x,y = trained.dls.valid.tensors()
    assert torch.equal(targ, y) and torch.equal(preds.flatten(), trained.model(x.long()).detach())

def test_pickle_and_export(trained, tmp_path):
    dls = pickle.loads(pickle.dumps(trained.dls))
    assert epoch(dls.valid) == epoch(trained.dls.valid) and sorted(epoch(dls.train)) == sorted(epoch(trained.dls.train))
    trained.export(tmp_path/'m.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)   # fastai says that pickles can do harm
        again = load_learner(tmp_path/'m.pkl')
    assert torch.equal(scores(again, pairs), scores(trained, pairs))

def test_show_batch_shows_ids(trained, monkeypatch):
    from fastai.tabular import core, data as tabular_data
    shown = []
    for o in (core, tabular_data):
        if hasattr(o, 'display_df'): monkeypatch.setattr(o, 'display_df', shown.append)
    trained.dls.show_batch()
    for dl in (trained.dls.test_dl(pairs), trained.dls.test_dl(pairs.assign(rating=3.))): dl.show_batch()
    with trained.no_bar(): trained.show_results()
    assert len(shown) == 3   # (`show_results` shows its table in another way)
    for o in shown[1:3]: assert list(zip(o.user, o.item)) == list(zip(pairs.user, pairs.item))[:len(o)]
    for o in shown: assert {'user','item'} <= set(o.columns) and str(o.item.iloc[0]).startswith('i')
def test_checked_tables_train():
    "Every kind of column that passes the check also makes loaders."
    n = 12
    user,item,y = [i%4 for i in range(n)],[i//4 for i in range(n)],[1+i%5 for i in range(n)]
    for u in (user, pd.array(user, dtype='Int64'), pd.Categorical([f'u{o}' for o in user]), [o+0.5 for o in user], pd.to_datetime(user), np.array(user, dtype=object)):
        for r in (y, np.array(y, dtype='float32'), pd.array(y, dtype='Int64'), np.array(y, dtype=object), [o>2 for o in y]):
            df = pd.DataFrame(dict(user=u, item=item, rating=r))
            x,t = RatingsDataLoaders.from_df(check_ratings(df), valid_pct=0.25, seed=0).train.new(shuffle=False, bs=n).one_batch()
            assert x.shape == (9,2) and t.dtype == torch.float32
