"""What is read and checked when it is not as it should be: odd ids, odd files, bad rows. The ordinary way is shown and tested in
`nbs/library/tables.ipynb`."""
import csv, gzip, io, random, re, zipfile
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab_notes.errors import (BadRatingError, CollabError, DuplicateRatingsError, EmptyRatingsError, MissingColumnError, MixedIdsError,
                                 NullIdError, RatingRangeError, RatingsError, SettingError, TooFewIdsError)
from collab_notes.tables import check_ratings, read_ratings

# reading

plain = re.compile(r'0|-?[1-9][0-9]{0,17}')
def as_read(ids): return [int(o) for o in ids] if all(plain.fullmatch(o) for o in ids) else list(ids)
def no_number_in_blanks(o): return o==o.strip() or not re.fullmatch(r'[-+]?[0-9]+', o.strip())

words = st.sampled_from(['NA','nan','NaN','null','NULL','None','<NA>','N/A','-','007','00','-0','+5','1.0','1e3','True','inf','a,b','a;b','a|b','a::b','a\tb','"','""','it\'s','#x','å','東京','٣','1٣','🎬',' ','x ','1_0','0x1F'])
texts = st.text(st.characters(codec='utf-8', exclude_characters='\0'), min_size=1, max_size=6).filter(no_number_in_blanks)
ints = st.integers(-10**18+1, 10**18-1).map(str)
def id_lists(n): return st.one_of(st.lists(o, min_size=n, max_size=n) for o in (ints, words, texts, ints|words))
tables = st.integers(1, 6).flatmap(lambda n: st.tuples(id_lists(n), id_lists(n), st.lists(st.integers(-4, 20).map(lambda o: o/2), min_size=n, max_size=n)))

@settings(max_examples=150)
@given(tables, st.sampled_from(',\t;|'), st.sampled_from(['utf-8','utf-8-sig']), st.sampled_from(['', '.gz', '.bz2', '.zip']), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, table, sep, encoding, ext, quoting, index):
    f = tmp_path_factory.getbasetemp()/f'r.csv{ext}'
    user,item,rating = table
    pd.DataFrame(dict(user=user, item=item, rating=rating)).to_csv(f, sep=sep, encoding=encoding, quoting=quoting, index=index)
    df = read_ratings(f)
    assert list(df.columns)[:3] == ['user','item','rating']
    assert (df.user.tolist(), df.item.tolist(), df.rating.tolist()) == (as_read(user), as_read(item), rating)

@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10).map(lambda o: o/2), st.integers(8*10**8, 2*10**9)), min_size=1, max_size=6),
       st.sampled_from(['\t','::',',',';','|','~','^',' ']), st.sampled_from([3,4]), st.sampled_from(['utf-8','utf-8-sig']), st.booleans())
def test_files_without_a_header(tmp_path_factory, rows, sep, n, encoding, end):
    f = tmp_path_factory.getbasetemp()/'r.dat'
    f.write_text('\n'.join(sep.join(map(str, o[:n])) for o in rows) + '\n'*end, encoding=encoding)
    df = read_ratings(f, sep=sep if sep in '~^ ' else None)
    assert list(df.columns) == ['user','item','rating','timestamp'][:n]
    assert [tuple(o) for o in df.itertuples(index=False)] == [o[:n] for o in rows]

def write(folder, content, name='r.csv'):
    (folder/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder/name

@pytest.mark.parametrize('content,user,item', [
    ('user,item,rating\n1,a,5\n2,7,3\n', [1,2], ['a','7']),                         # digits beside text stay text
    ('user,item,rating\n01,7,5\n2,8,3\n', ['01','2'], [7,8]),
    ('user,item,rating\n1,12345678901234567890123,5\n2,8,3\n', [1,2], ['12345678901234567890123','8']),
    ('1,"Matrix, The",5\n2,b,3\n', [1,2], ['Matrix, The','b']),
    ('user,item,rating,a|b|genres\n1,2,5,A|B\n', [1], [2]),
    ('userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,306,3.5,1147868817\n', [1,1], [296,306]),   # 25M
    ('1::1193::5::978300760\n1::661::3::978302109\n', [1,1], [1193,661]),             # 1M
    ('user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n', [196], [242]),
    ('user;item;rating\r\n1;é::x;5\r\n2;b;3\r\n', [1,2], ['é::x','b'])])
def test_ids_and_layouts(tmp_path, content, user, item):
    df = read_ratings(write(tmp_path, content))
    assert (df.iloc[:,0].tolist(), df.iloc[:,1].tolist()) == (user,item)

def test_all_integers_are_integers_whatever_is_missing(tmp_path):
    df = read_ratings(write(tmp_path, 'user,item,rating\n1,2,5\n,3,4\n2,,3\n3,2,\n'))
    assert [str(o) for o in df.dtypes[:2]] == ['Int64','Int64']
    assert df.user.dropna().tolist() == [1,2,3]
    with pytest.raises(BadRatingError) as e: check_ratings(df)
    assert e.value.rows == [3]
    for col,row in ('user',1), ('item',2):
        with pytest.raises(NullIdError) as e: check_ratings(df[:3] if col=='user' else df[[0,2][0]:3].dropna(subset=['user']))
        assert (e.value.column, e.value.rows) == (col, [row if col=='user' else 1])

def test_a_missing_text_id_is_found_but_na_is_an_id(tmp_path):
    df = read_ratings(write(tmp_path, 'user,item,rating\nNA,a,5\nnull,b,4\n,c,4\n'))
    assert df.user.tolist()[:2] == ['NA','null']
    with pytest.raises(NullIdError) as e: check_ratings(df)
    assert (e.value.column, e.value.rows) == ('user', [2])

def zip_of(**files):
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w') as z:
        for n,b in files.items(): z.writestr(n, b)
    return f.getvalue()

packed = gzip.compress(b'user,item,rating\n' + b''.join(b'%d,%d,3\n' % (i, i*7919%1000) for i in range(2000)))

@pytest.mark.parametrize('content,name,err,says', [
    (b'', 'r.csv', EmptyRatingsError, 'empty'), (b'\n\n', 'r.csv', EmptyRatingsError, 'empty'), (b'', 'r.csv.gz', RatingsError, ''),
    ('user,item,rating\n1,Café,5\n'.encode('latin-1'), 'r.csv', RatingsError, 'encoding='), ('1::Café::5\n'.encode('latin-1'), 'r.dat', RatingsError, 'encoding='),
    ('user,item,rating\n1,a,5\n'.encode('utf-16-le'), 'r.csv', RatingsError, "encoding='utf-16-le'"),
    (random.Random(0).randbytes(3000), 'r.csv', RatingsError, ''), (bytes(3000), 'r.csv', RatingsError, ''), (random.Random(0).randbytes(300_000).replace(b'\n', b''), 'r.csv', RatingsError, ''),
    (b'user,item,rating\n', 'r.csv.gz', RatingsError, 'gzip'), (packed[:-900], 'r.csv.gz', RatingsError, ''), (packed[:400]+bytes(99)+packed[499:], 'r.csv.gz', RatingsError, ''),
    (b'PK\3\4'+bytes(99), 'r.zip', RatingsError, ''), (zip_of(a=b'1,2,3\n', b=b'1,2,3\n'), 'r.zip', RatingsError, ''), (b'PAR1 it is not', 'r.parquet', RatingsError, 'parquet'),
    (b'user,item,rating\n1,a,5\n2,Matrix, The,3\n', 'r.csv', RatingsError, 'line 3: 4 fields'), (b'user,item,rating\n1,Matrix, The,5\n2,b,3\n', 'r.csv', RatingsError, 'line 2: 4 fields'),
    (b'"user","item","rating"\n"1",7,3,5\n"2",7,4,2\n', 'r.csv', RatingsError, 'line 2: 4 fields'),
    (b'who,what,rating\n1,a,5\n', 'r.csv', MissingColumnError, 'user_name='), (b'who what rating\n1 2 3\n', 'r.csv', MissingColumnError, 'user_name=')])
def test_what_is_no_table_is_told_in_our_words(tmp_path, content, name, err, says):
    with pytest.raises(err) as e: read_ratings(write(tmp_path, content, name))
    assert says in str(e.value)

def test_not_a_file(tmp_path):
    for o in (tmp_path, tmp_path/'none.csv', str(tmp_path/'none.parquet')):
        with pytest.raises(FileNotFoundError, match='No file'): read_ratings(o)

def test_a_header_alone_is_read_and_then_refused(tmp_path):
    df = read_ratings(write(tmp_path, 'user,item,rating\n'))
    assert list(df.columns) == ['user','item','rating'] and not len(df)
    with pytest.raises(EmptyRatingsError): check_ratings(df)

def test_columns_named_by_the_caller(tmp_path):
    f = write(tmp_path, 'when,stars,what,who\n5,4.5,007,a\n6,3,8,b\n')
    df = read_ratings(f, 'who', 'what', 'stars', 'when')
    assert list(df.columns) == ['who','what','stars','when'] and df.what.tolist() == ['007','8']
    with pytest.raises(MissingColumnError, match="No column 'film'"): read_ratings(f, 'who', 'film', 'stars')

def test_parquet(tmp_path, monkeypatch):
    pytest.importorskip('pyarrow')
    df = pd.DataFrame(dict(extra=[1,2], rating=[4.5,3.], item=['007','NA'], user=pd.array([1,None], dtype='Int64')))
    df.to_parquet(tmp_path/'r.parquet')
    res = read_ratings(tmp_path/'r.parquet')
    assert list(res.columns) == ['user','item','rating','extra']
    assert res.item.tolist() == ['007','NA'] and res.user.isna().tolist() == [False,True]
    def absent(*args, **kwargs): raise ImportError("Missing optional dependency 'pyarrow'")
    monkeypatch.setattr(pd, 'read_parquet', absent)
    with pytest.raises(CollabError, match=r"collab-notes\[parquet\]"): read_ratings(tmp_path/'r.parquet')

def test_a_dataframe_is_taken_as_it_is():
    df = pd.DataFrame(dict(rating=[5.], item=['x'], user=['007']), index=[9])
    res = read_ratings(df)
    assert list(df.columns) == ['rating','item','user'] and list(res.columns) == ['user','item','rating'] and res.index.tolist() == [9]

# checking

@st.composite
def good_tables(draw, max_rows=25, index=True):
    "A table with nothing wrong, on any index"
    pairs = draw(st.lists(st.tuples(st.integers(0,6), st.integers(0,6)), unique=True, min_size=2, max_size=max_rows))
    pairs = list(dict.fromkeys(pairs + [(7,0),(0,7)]))
    n = len(pairs)
    kind = draw(st.sampled_from(['int','text','category','Int64','object']))
    items = [i for _,i in pairs]
    items = {'int':items, 'text':[f'i{o}' for o in items], 'category':pd.Categorical([f'i{o}' for o in items]), 'Int64':pd.array(items, dtype='Int64'), 'object':pd.Series(items, dtype=object).to_numpy()}[kind]
    ratings = draw(st.lists(st.integers(1,5), min_size=n, max_size=n))
    ratings = draw(st.sampled_from([lambda o: o, lambda o: np.array(o, dtype='float32'), lambda o: pd.array(o, dtype='Int64'), lambda o: pd.array(o, dtype='Float64'), lambda o: np.array(o, dtype=object)]))(ratings)
    df = pd.DataFrame(dict(rating=ratings, item=items, when=range(n), user=[u for u,_ in pairs]))
    if index: df.index = draw(st.sampled_from([range(n), range(n)[::-1], [7]*n, [f'r{i}' for i in range(n)]]))
    return df

@settings(max_examples=60)
@given(good_tables(), st.sampled_from(['error','keep','first','last','mean']))
def test_a_good_table_comes_back_itself(df, policy):
    before = df.copy(deep=True)
    assert check_ratings(df, scale=(1,5), duplicates=policy) is df
    pd.testing.assert_frame_equal(df, before)

def put_at(df, col, rows, value):
    vals = list(df[col])
    for r in rows: vals[r] = value
    return df.assign(**{col:pd.Series(vals, index=df.index, dtype=object)})

def _other_type(df, rows): return put_at(df, 'item', rows, 3.5 if isinstance(df.item.iloc[0], str) else 'text')
mutations = {'null id':(NullIdError, 'user', lambda df,rows: put_at(df, 'user', rows, None)), 'nan id':(NullIdError, 'item', lambda df,rows: put_at(df, 'item', rows, np.nan)),
             'NA id':(NullIdError, 'user', lambda df,rows: df.assign(user=put_at(df, 'user', rows, pd.NA).user.astype('Int64'))), 'no text':(NullIdError, 'item', lambda df,rows: put_at(df.assign(item=df.item.astype(str)), 'item', rows, '')),
             'no category':(NullIdError, 'item', lambda df,rows: df.assign(item=put_at(df, 'item', rows, None).item.astype('category'))),
             'nan':(BadRatingError, 'rating', lambda df,rows: put_at(df, 'rating', rows, np.nan)), 'inf':(BadRatingError, 'rating', lambda df,rows: df.assign(rating=put_at(df, 'rating', rows, -np.inf).rating.astype(float))),
             'NA':(BadRatingError, 'rating', lambda df,rows: df.assign(rating=put_at(df, 'rating', rows, pd.NA).rating.astype('Float64'))), 'word':(BadRatingError, 'rating', lambda df,rows: put_at(df, 'rating', rows, 'three')),
             'word among texts':(BadRatingError, 'rating', lambda df,rows: put_at(df.assign(rating=df.rating.astype(str)), 'rating', rows, 'three')),
             'digits':(BadRatingError, 'rating', lambda df,rows: put_at(df, 'rating', rows, '4')), 'decimal':(BadRatingError, 'rating', lambda df,rows: put_at(df, 'rating', rows, Decimal('4.5'))),
             'complex':(BadRatingError, 'rating', lambda df,rows: put_at(df, 'rating', rows, 1j)), 'high':(RatingRangeError, 'rating', lambda df,rows: put_at(df, 'rating', rows, 5.5)), 'low':(RatingRangeError, 'rating', lambda df,rows: put_at(df, 'rating', rows, 0))}

@pytest.mark.parametrize('kind', mutations)
@settings(max_examples=12)
@given(df=good_tables(), draw=st.data())
def test_bad_rows_are_named(kind, df, draw):
    "Positions, whatever the index; and the caller's table stays as it was."
    err,col,spoil = mutations[kind]
    rows = sorted(draw.draw(st.sets(st.integers(0, len(df)-1), min_size=1, max_size=3)))
    bad = spoil(df, rows)
    before = bad.copy(deep=True)
    with pytest.raises(err) as e: check_ratings(bad, scale=(1,5))
    assert (type(e.value), e.value.column, e.value.rows) == (err, col, rows)
    assert f'row {rows[0]}' in str(e.value) and isinstance(e.value, ValueError)
    pd.testing.assert_frame_equal(bad, before)

@settings(max_examples=30)
@given(good_tables(), st.data())
def test_mixed_ids_are_named(df, draw):
    row = draw.draw(st.integers(0, len(df)-1))
    for as_category in (False, True):
        bad = _other_type(df, [row])
        if as_category: bad['item'] = bad.item.astype('category')
        with pytest.raises(MixedIdsError) as e: check_ratings(bad)
        assert (e.value.column, e.value.rows) == ('item', [row])

good = pd.DataFrame(dict(user=[1,1,2,3], item=['a','b','a','c'], rating=[4.,3.,5.,1.]))

@pytest.mark.parametrize('rating', [['4','3','5','1'], ['4','three','5','1'], pd.Categorical([4,3,5,1]), [Decimal(4),Decimal(3),Decimal(5),Decimal(1)], [4,np.nan,5,np.inf], pd.array([4,None,5,1], dtype='Int64')],
                         ids='digits word category decimal inf NA'.split())
def test_the_remedy_for_ratings_works(rating):
    "Until the table is fit, do what the message says."
    df = pd.DataFrame(dict(user=[1,1,2,3,4], item=['a','b','a','b','b'], rating=pd.Series(rating).iloc[[0,1,2,3,0]].reset_index(drop=True)))
    good,steps = pd.to_numeric(df.rating.astype(object), errors='coerce').abs()<9,0
    while True:
        try: check_ratings(df)
        except BadRatingError as e:
            ns = dict(df=df, read_ratings=read_ratings)
            if fix := re.search(r"df\['rating'\] = .*", str(e)): exec(fix[0], ns)
            elif fix := re.search(r"(missing='.*?') \(of read_ratings", str(e)): exec(f'df = read_ratings(df, {fix[1]})', ns)
            else:
                assert 'Mend' in str(e)
                ns['df'] = df[good]
            df,steps = ns['df'],steps+1
        else: break
        assert steps<3
    assert steps and df.index.tolist() == good[good].index.tolist()   # no rating is lost

@pytest.mark.parametrize('df,kw,err', [
    (good[:0], {}, EmptyRatingsError), (good.drop(columns='item'), {}, MissingColumnError), (good, dict(rating_name='stars'), MissingColumnError), (good.assign(user=1), {}, TooFewIdsError),
    (good.assign(item='a'), {}, TooFewIdsError), (good, dict(user_name='item', item_name='item'), MissingColumnError), (good, dict(duplicates='drop'), SettingError),
    (good, dict(scale=(5,1)), SettingError), (good, dict(scale=5), SettingError), (good.set_axis(['user','rating','rating'], axis=1).assign(item='a'), {}, MissingColumnError)])
def test_tables_that_are_bad_as_a_whole(df, kw, err):
    with pytest.raises(err): check_ratings(df, **kw)

@pytest.mark.parametrize('rating', [[True,False,True,True], pd.array([True,False,True,True], dtype='boolean'), np.array([4,3,5,1], dtype='uint8'), [4,3,5,-1]])
def test_odd_ratings_that_are_numbers(rating): check_ratings(df := good.assign(rating=rating)) is df

repeats = st.lists(st.tuples(st.integers(0,3), st.integers(0,3), st.integers(1,5)), min_size=2, max_size=30).map(lambda o: [(0,9,1),(9,0,2)]+o)

@settings(max_examples=60)
@given(repeats, st.sampled_from(['int64','float32','Int64','category']))
def test_duplicates_as_pandas_would(rows, dtype):
    df = pd.DataFrame(rows, columns=['user','item','rating'], index=range(100, 100+len(rows)))
    if dtype=='category': df['user'] = df.user.astype('category')
    else: df['rating'] = df.rating.astype(dtype)
    before,by = df.copy(deep=True),df.groupby(['user','item'], sort=False, observed=True)
    assert check_ratings(df, duplicates='keep') is df
    for o in 'first', 'last':
        want = df.loc[sorted(by.apply(lambda g: g.index[0 if o=='first' else -1]))]
        pd.testing.assert_frame_equal(check_ratings(df, duplicates=o), want)
    res = check_ratings(df, duplicates='mean')
    want = by.rating.mean()
    assert list(zip(res.user, res.item)) == list(want.index) and np.allclose(res.rating.astype(float), want.astype(float))
    if len(want)<len(df):
        with pytest.raises(DuplicateRatingsError) as e: check_ratings(df)
        assert sorted(e.value.rows) == np.flatnonzero(df.duplicated(['user','item'], keep=False)).tolist()
    pd.testing.assert_frame_equal(df, before)
