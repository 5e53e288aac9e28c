"""Ratings come back as they were written, whatever the file; and what can't be read is told in words that say what to type. All data is made up."""
import bz2, csv, gzip, io, itertools, json, lzma, re, sys, zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from collab_notes.columns import rating_columns
from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import BadRatingError, CollabError, MissingColumnError, NullIdError, RatingsError, SettingError
from collab_notes.tables import check_ratings, code_note, how_read, read_ratings, read_texts

def write(folder, content, name='r.csv'):
    (folder/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder/name

def read(folder, content, name='r.csv', **kw): return read_ratings(write(folder, content, name), **kw)

def table(n=12, seed=0):
    "Ratings with ids that are easily harmed"
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(36)[:n]
    users = np.array(['007','NA','ann','é','-1','+5'])[pairs//6]
    return [(u, int(i), float(y), int(t)) for u,i,y,t in zip(users, pairs%6+1, rng.integers(1, 10, n)/2, rng.integers(8*10**8, 2*10**9, n))]

def text_of(rows, sep=',', header=True, decimal='.', newline='\n', quoted=False, end=True):
    f = lambda o: str(o).replace('.', decimal) if isinstance(o, float) else str(o)
    q = (lambda o: f'"{o}"') if quoted else str
    lines = [['userId','movieId','rating','timestamp']]*header + [[f(o) for o in r] for r in rows]
    return newline.join(sep.join(map(q, r)) for r in lines) + newline*end

def zipped(b):
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w') as z: z.writestr('r.csv', b)
    return f.getvalue()

packings = {'':bytes, '.gz':gzip.compress, '.bz2':bz2.compress, '.xz':lzma.compress, '.zip':zipped}
seps,newlines,encodings = (',',';','\t','|','::',' ','  \t'),('\n','\r\n','\r'),('utf-8','utf-8-sig','utf-16','utf-32','utf-16-le','latin-1','cp1252')
named = 'utf-16-le','latin-1','cp1252'   # what no first bytes say

def same(df, rows): return [tuple(o) for o in df.itertuples(index=False)] == rows

@pytest.mark.parametrize('sep', seps)
def test_every_layout(tmp_path, sep):
    "Separator × header × decimal sign × quotes × blank lines at the end, and each newline with a third of them"
    rows = table()
    for (header,decimal,quoted,end),newline in zip(itertools.product((True,False), '.,', (False,True), (0,3)), itertools.cycle(newlines)):
        if decimal==sep and not quoted or quoted and sep=='::': continue
        df = read(tmp_path, text_of(rows, sep, header, decimal, newline, quoted, end))
        assert same(df, rows), (sep, header, decimal, newline, quoted, end)
        assert list(df.columns) == (['userId','movieId','rating','timestamp'] if header else ['user','item','rating','timestamp'])
        assert how_read(df)['header'] == header

@pytest.mark.parametrize('ext', packings)
def test_every_packing_and_encoding(tmp_path, ext):
    "Packing × encoding × separator, and each newline with a third of them; the name of the file says nothing, but where it is read from a pipe"
    rows = table(seed=1)
    for (encoding,sep,name),newline in zip(itertools.product(encodings, (',','::'), (f'r.csv{ext}', 'standard input')), itertools.cycle(newlines)):
        raw = packings[ext](text_of(rows, sep, newline=newline).encode(encoding))
        df = read(tmp_path, raw, name, **(dict(encoding=encoding) if encoding in named else {}))
        assert same(df, rows), (encoding, newline, sep, name)

@settings(max_examples=100, phases=[Phase.generate])
@given(st.integers(0, 10**6), st.sampled_from(seps), st.booleans(), st.sampled_from('.,'), st.sampled_from(encodings), st.sampled_from([*packings]), st.sampled_from(newlines), st.booleans())
def test_any_combination(tmp_path_factory, seed, sep, header, decimal, encoding, ext, newline, quoted):
    rows = table(8, seed)
    if decimal==sep: quoted = True
    if sep=='::': quoted = False
    raw = packings[ext](text_of(rows, sep, header, decimal, newline, quoted).encode(encoding))
    said = {k:v for k,v in dict(sep=sep if len(sep)<3 else r'\s+', header=header, decimal=decimal, encoding=encoding).items() if seed%2 or k=='encoding' and encoding in named}
    assert same(read(tmp_path_factory.getbasetemp(), raw, f'r.csv{ext}', **said), rows)

@pytest.mark.parametrize('name,module', [('.zst','zstandard'), ('.xlsx','openpyxl')])
def test_extras(tmp_path, monkeypatch, name, module):
    rows = table()
    if name=='.xlsx':
        with pytest.raises(CollabError) as e: read(tmp_path, b'PK\3\4'+bytes(99), 'r.xlsx')
    else:
        with pytest.raises(CollabError) as e: read(tmp_path, b'\x28\xb5\x2f\xfd0000', 'r.csv.zst')
    lib = pytest.importorskip(module)
    for header,decimal in itertools.product((True,False), '.,'):
        if name=='.zst': df = read(tmp_path, lib.ZstdCompressor().compress(text_of(rows, ';', header, decimal).encode()), 'r.csv.zst')
        else:
            df = pd.DataFrame(rows, columns=['userId','movieId','rating','timestamp'])
            if decimal==',': df['rating'] = df.rating.astype(str).str.replace('.', ',')
            df.to_excel(tmp_path/'r.xlsx', index=False, header=header)
            df = read_ratings(tmp_path/'r.xlsx')
        assert same(df, rows)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CollabError, match=rf'collab-notes\[{name[1:4] if name==".zst" else "xlsx"}\]'): read_ratings(tmp_path/('r.csv.zst' if name=='.zst' else 'r.xlsx'))

# the shapes of public files, made up

J = '{"reviewerID":"A%d","asin":"00%d","overall":%d.0,"unixReviewTime":136600000%d,"summary":"it, is; fine"}\n'
shapes = {
    'MovieLens 1M': ('1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n', {}, [(1,1193,5),(1,661,3),(2,1193,4)]),
    'MovieLens latest': ('userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,3,.5,964981247\n', {}, [(1,1,4),(1,3,.5)]),
    'MovieLens 100K': ('196\t242\t3\t881250949\n186\t302\t3\t891717742\n', {}, [(196,242,3),(186,302,3)]),
    'Amazon 2014 csv': ('A1,0132,5.0,1365811200\nA2,0132,1.0,1341100800\n', {}, [('A1','0132',5),('A2','0132',1)]),
    'Amazon 2018 csv': ('0132,A1,5.0,1365811200\n0132,A2,1.0,1341100800\n', dict(user_name=2, item_name=1), [('A1','0132',5),('A2','0132',1)]),
    'Amazon 2018 JSON': (''.join(J % (k%3, k%2, k%5+1, k) for k in range(4)), {}, [('A0','000',1),('A1','001',2),('A2','000',3),('A0','001',4)]),
    'Amazon 2014 JSON': ("{'reviewerID': 'A1', 'asin': '0132', 'helpful': [0, 1], 'overall': 5.0}\n{'reviewerID': u'A2', 'asin': '0132', 'overall': 1.0}\n", {}, [('A1','0132',5),('A2','0132',1)]),
    'Amazon 2023': ('rating,title,user_id,parent_asin,timestamp\n5.0,Great,A1,B7,1588687728923\n1.0,Meh,A2,B7,1588687728924\n', {}, [('A1','B7',5),('A2','B7',1)]),
    'Amazon customer reviews': ('marketplace\tcustomer_id\treview_id\tproduct_id\tproduct_parent\tproduct_title\tstar_rating\treview_date\nUS\t7\tR1\tB7\t1\tA "thing"\t5\t2015-08-31\nUS\t8\tR2\tB7\t1\tA thing\t4\t2015-08-31\n', {}, [(7,'B7',5),(8,'B7',4)]),
    'Yelp': ('{"review_id":"r1","user_id":"u1","business_id":"b1","stars":4.0,"date":"2018-07-07 22:09:11","text":"a\\nb"}\n{"review_id":"r2","user_id":"u2","business_id":"b1","stars":1.0,"date":"2018-07-07 22:09:11","text":"c"}\n', {}, [('u1','b1',4),('u2','b1',1)]),
    'Goodreads JSON': ('{"user_id":"8842","book_id":"18245960","review_id":"dfdb","rating":5,"date_added":"Sun Jul 30"}\n{"user_id":"8843","book_id":"16981","review_id":"a5d2","rating":3,"date_added":"Mon"}\n', {}, [('8842','18245960',5),('8843','16981',3)]),
    'Goodreads interactions': ('user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n0,947,1,4,1\n', {}, [(0,948,5),(0,947,4)]),
    'Goodbooks': ('user_id,book_id,rating\n1,258,5\n2,4081,4\n', {}, [(1,258,5),(2,4081,4)]),
    'Book-Crossing': ('"User-ID";"ISBN";"Book-Rating"\r\n"276725";"034545104X";"0"\r\n"276726";"0155061224";"5"\r\n'.encode('latin-1'), {}, [(276725,'034545104X',0),(276726,'0155061224',5)]),
    'Book-Crossing, escaped': ('"User-ID";"ISBN";"Book-Rating"\n"1";"a\\";\\"b";"5"\n"2";"c";"6"\n', {}, [(1,'a";"b',5),(2,'c',6)]),
    'Book-Crossing, 0 left out': ('"User-ID";"ISBN";"Book-Rating"\n"1";"a";"0"\n"2";"c";"6"\n', dict(missing=0), [(2,'c',6)]),
    'Jester': ('2;99;-7.82;8,79\n1;4,08;99;99\n'.replace(',', '.'), dict(wide=True, missing=99), [(1,2,-7.82),(1,3,8.79),(2,1,4.08)]),
    'Netflix': ('1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n2:\n885013,4,2005-10-19\n', {}, [(1488844,1,3),(822109,1,5),(885013,2,4)]),
    'Yahoo KDD': ('0|2\n10\t90\t3811\t13:24:00\n11\t0\t3811\t13:24:00\n1|1\n10\t50\t3811\t13:24:00\n', {}, [(0,10,90),(0,11,0),(1,10,50)]),
    'Yahoo R3': ('1\t14\t5\n1\t35\t1\n', {}, [(1,14,5),(1,35,1)]),
    'Last.fm': ('userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n', dict(rating_name='weight'), [(2,51,13883),(2,52,11690)]),
    'Epinions': ('22605 42915   5 \n22605 42916   1 \n5052 42913   2 \n', {}, [(22605,42915,5),(22605,42916,1),(5052,42913,2)]),
    'FilmTrust': ('1 1 2\n1 2 4\n2 1 3.5\n', {}, [(1,1,2),(1,2,4),(2,1,3.5)]),
    'KONECT': ('% sym weighted\n% 3 2 2\n1 1 2\n1 2 4\n2 1 3\n', {}, [(1,1,2),(1,2,4),(2,1,3)]),
    'a line of counts': ('3\n1 1 2\n1 2 4\n2 1 3\n', {}, [(1,1,2),(1,2,4),(2,1,3)]),
    'Douban': ('ID,Movie_Name_EN,Username,Date,Star,Like\n0,Up,ann,2017-05-22,3,7\n1,Up,bob,2017-05-22,5,1\n', {}, [('ann','Up',3),('bob','Up',5)]),
    'anime': ('user_id,anime_id,rating\n1,20,-1\n2,24,8\n', dict(missing=-1), [(2,24,8)]),
    'BeerAdvocate': ('beer/beerId,beer/name,review/profileName,review/overall,review/taste,review/time\n47986,A,stcules,1.5,2,1234817823\n48213,B,ann,3,3,1235915097\n', {}, [('stcules',47986,1.5),('ann',48213,3)]),
    'Steam': ('151603712,"The Elder Scrolls V Skyrim",purchase,1.0,0\n151603712,"Fallout, 4",play,87.0,0\n', {}, [(151603712,'The Elder Scrolls V Skyrim',1),(151603712,'Fallout, 4',87)]),
    'Food.com': ('user_id,recipe_id,date,rating,review\n38094,40893,2003-02-17,4,"Great, with\nsalad"\n1293707,40894,2011-12-21,5,"x"\n', {}, [(38094,40893,4),(1293707,40894,5)]),
    'UCI restaurants': ('userID,placeID,rating,food_rating,service_rating\nU1077,135085,2,2,2\nU1078,135038,2,2,1\n', {}, [('U1077',135085,2),('U1078',135038,2)]),
    'RecBole': ('user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n1\t3\t2\t881250949\n', {}, [(196,242,3),(1,3,2)]),
    'Excel in Europe': ('sep=;\nuser;item;rating\n1;2;3,5\n2;2;4\n', {}, [(1,2,3.5),(2,2,4)]),
    'Matrix Market': ('%%MatrixMarket matrix coordinate real general\n% made up\n2 2 2\n1 2 5\n2 1 3\n', {}, [(1,2,5),(2,1,3)]),
    'a crosstab': (',a,b\nann,5,\nbob,,3\n', dict(wide=True), [('ann','a',5),('bob','b',3)]),
    'dates, no header': ('11,901,5,2005-09-06\n12,901,3,2005-09-07\n', {}, [(11,901,5),(12,901,3)]),
    'five columns, no header': ('11,901,5,978300760,x\n12,901,3,978300760,y\n', {}, [(11,901,5),(12,901,3)]),
    'the time before the rating': ('11,901,978300760,5\n12,901,978300761,3\n', {}, [(11,901,5),(12,901,3)])}

@pytest.mark.parametrize('shape', shapes)
def test_shapes_of_public_files(tmp_path, shape):
    text,kw,want = shapes[shape]
    df = read(tmp_path, text, **kw)
    assert [tuple(o) for o in df.iloc[:,:3].itertuples(index=False)] == want
    assert str(how_read(df)).startswith('Columns: users from ')

refused = {
    'wide': ('user,film 1,film 2\nann,5,\nbob,,3\n', 'wide=True'), 'Jester': ('3;1;2;3;4;5;6;7\n2;1;99;3;4;5;6;7\n', 'wide=True'), 'no header, words': ('ann,matrix,good\nbob,dune,bad\n', 'header=False'),
    'two kinds of items': ('user_id,artist_id,track_id,rating\n1,2,3,4\n', "'artist_id' or 'track_id'? Say which: item_name="), 'number of a column': ('1,2,3\n4,5,6\n', 'header=True'),
    'HTML': ('<!DOCTYPE html>\n<html>', 'HTML'), 'a JSON object over lines': ('{\n"user": 1\n}\n', 'line 1: it is no JSON object'), 'half a JSON object': ('{"user":1,"item":2,"rating":3}\n{"user":1,"it', 'line 2'),
    'latin-1': ('user,item,rating\n1,a,5\n2,é,4\n'.encode('latin-1'), "line 3: byte 0xe9 is not in UTF-8. Say which encoding it is in: encoding='latin-1'"), 'late latin-1': ('user,item,rating\n'.encode()+b'1,a,5\n'*60000+b'2,\xe9,4\n', 'line 60002: byte 0xe9'),
    'two files': (zipped(b'1,2,3\n')[:0], 'empty'), 'rar': (b'Rar!\x1a\x07', 'unpack it'), 'xls': (b'\xd0\xcf\x11\xe0\xa1', 'save the ratings in it as csv'), 'a comment below': ('user,item,rating\n1,2,3\n# so far\n', "comment='#'"),
    'zero bytes': (b'user,item,rating\n1,2,3\n'+bytes(5), 'zero byte'), 'no ratings': ('user,item\n1,2\n', 'rated=False')}

@pytest.mark.parametrize('kind', refused)
def test_refusals_say_what_to_type(tmp_path, kind):
    content,says = refused[kind]
    kw = dict(user_name='who') if kind=='number of a column' else {}
    with pytest.raises(RatingsError, match=re.escape(says)) as e: read(tmp_path, content, **kw)
    assert '{"' not in str(e.value) and '\\x0' not in str(e.value) and len(str(e.value)) < 400

@settings(max_examples=150)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80), st.lists(st.lists(st.sampled_from(['1','2','4,5','.5','a','','"','user','rating','2005-09-06','99','é',':','{','[','#','1:','NA','-1']), min_size=1, max_size=5), max_size=6).map(lambda o: '\n'.join(','.join(r) for r in o)),
                 st.lists(st.text('0123456789,;.\t |:#"\n-', max_size=12), max_size=6).map('\n'.join)),
       st.sampled_from([{}, dict(wide=True), dict(header=False), dict(header=True), dict(missing=0), dict(decimal=','), dict(comment='#'), dict(sep=' '), dict(sep='ab'), dict(encoding='utf-16'), dict(rated=False), dict(user_name='2')]))
def test_any_text_is_read_or_refused(tmp_path_factory, text, kw):
    "Whatever stands in a file, an error has a type, and a first row is not lost without a word"
    try: df = read(tmp_path_factory.getbasetemp(), text if isinstance(text, bytes) else text.encode(), **kw)
    except CollabError as e: assert str(e)
    else: assert how_read(df)['rows'] == len(df) and {'user','item','rating'} <= how_read(df)['columns'].keys()

# what is found is told

def test_how_it_was_read(tmp_path):
    df = read(tmp_path, text_of(table(), ';', False, ',').encode('utf-16'), missing='1.5')
    says = str(how_read(df))
    for o in ("users from 'user'", 'No header; the first line was read as user: ', 'Separator: ;', 'Encoding: utf-16', 'Decimal: comma', 'user_name=2, item_name=1'): assert o in says
    assert json.loads(json.dumps(df.attrs)) and how_read(df.copy()) is how_read(df)
    assert how_read(df[:3]) and how_read(pd.DataFrame()) is None

def test_lines_of_rows(tmp_path):
    "A row at fault has its line, through comments, blank lines, quotes and what was left out; not where rows have moved"
    df = read(tmp_path, '# made up\nuser,item,rating\n1,a,0\n\n1,"b\nc",3\n2,a,4\n2,"d",5\n3,a,x\n', missing=0)
    with pytest.raises(BadRatingError, match=r"row 3 \(line 9\): rating='x'"): check_ratings(df)
    with pytest.raises(BadRatingError, match=r"row 3: rating='x'"): check_ratings(df.reset_index(drop=True))
    big = read(tmp_path, 'user,item,rating\n'+''.join(f'{k},{k%7},3\n' for k in range(30))+'x,,3\n')
    with pytest.raises(NullIdError, match=r'row 30 \(line 32\)'): check_ratings(big)

def test_decimal_commas_lose_nothing(tmp_path):
    text = 'user;item;rating\n'+''.join(f'{u};{i};{["1","2","3","3,5","4,5"][(u*i)%5]}\n' for u in range(1,30) for i in range(1,20))
    df = read(tmp_path, text)
    assert len(check_ratings(df)) == 551 and df.rating.isin([1,2,3,3.5,4.5]).all()
    given = pd.DataFrame(dict(user=[1,1,2], item=[1,2,1], rating=['3,5','4','2']))
    with pytest.raises(BadRatingError, match="decimal=','"): check_ratings(given)
    assert check_ratings(read_ratings(given, decimal=',')).rating.tolist() == [3.5,4,2]
    with pytest.raises(BadRatingError): check_ratings(read(tmp_path, 'user;item;rating\n1;1;1,234\n2;2;5,678\n'))   # thousands?
    with pytest.raises(SettingError, match='decimal='): read(tmp_path, text, decimal='comma')

@pytest.mark.parametrize('code', [0, -1, 99])
def test_codes_for_not_rated_are_told_and_left_out(tmp_path, code):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=np.arange(600)//20, item=np.arange(600)%20)).assign(rating=np.where(rng.random(600)<.4, code, rng.integers(1, 11, 600)))
    df.to_csv(tmp_path/'r.csv', index=False)
    found = read_ratings(tmp_path/'r.csv')
    assert len(found)==600 and f'missing={code}' in str(how_read(found))
    left = read_ratings(tmp_path/'r.csv', missing=code)
    assert left.rating.tolist() == df.rating[df.rating!=code].tolist() and f'{(df.rating==code).sum()} rows left out' in str(how_read(left)) and 'missing=' not in str(how_read(left))
    with pytest.warns(UserWarning, match=f'missing={code}'): RatingsDataLoaders.from_df(df, seed=0)
    assert read_ratings(df, missing=code).index.tolist() == df.index[df.rating!=code].tolist()

def test_missing_texts_and_blanks(tmp_path):
    text = 'user,item,rating\n1,a,4\n1,b,\n2,a,NR\n2,b,5\n'
    for kw,n in ((dict(missing=['NR','']), 2), (dict(missing=('NR',float('nan'),99)), 2), (dict(missing='NR'), 3)): assert len(read(tmp_path, text, **kw)) == n

# tables of other makes

pairs = pd.DataFrame(dict(user=[1,1,2,2,3]*2, item=[1,2,1,3,2,3,4,4,5,5], rating=[3,4,5,2,1,3,4,5,2,1]))

class Foreign:
    "A lazy table of a library that is not pandas"
    def collect(self): return type('Eager', (), dict(to_pandas=lambda self: pairs.copy()))()

def makes():
    from scipy.sparse import coo_matrix
    yield from dict(array=pairs.to_numpy(), dict=pairs.to_dict('list'), rows=pairs.to_dict('records'), lists=pairs.values.tolist(), records=pairs.to_records(index=False), foreign=Foreign(),
                    sparse=coo_matrix((pairs.rating, (pairs.user, pairs['item'])))).items()
    try: import pyarrow as pa; yield 'pyarrow', pa.Table.from_pandas(pairs)
    except ImportError: pass
    try: import polars as pl; df = pl.DataFrame(pairs.to_dict('list')); yield from (('polars', df), ('lazy', df.lazy()))
    except ImportError: pass

def test_tables_of_any_make():
    for name,o in makes():
        for f in (read_ratings, check_ratings): assert f(o).sort_values(['user','item']).values.tolist() == pairs.sort_values(['user','item']).values.tolist(), name
        assert list(RatingsDataLoaders.from_df(o, seed=0).classes) == ['user','item'], name
    for o in (None, 3, np.zeros(3), pairs.rating, [(1,2)], dict(user=1), object()):
        for f in (read_ratings, check_ratings, RatingsDataLoaders.from_df):
            with pytest.raises(CollabError): f(o)

def test_from_df_takes_names_first(tmp_path):
    df = pairs.rename(columns=dict(item='recipe_id', user='user_id')).assign(timestamp=9)[['user_id','recipe_id','timestamp','rating']]
    dls = RatingsDataLoaders.from_df(df, seed=0)
    assert (list(dls.classes), list(dls.train_ds.y_names)) == (['user_id','recipe_id'], ['rating'])
    with pytest.raises(MissingColumnError, match='rating_name='): RatingsDataLoaders.from_df(df.rename(columns=dict(rating='how')))
    assert list(RatingsDataLoaders.from_df(pairs.set_axis([*'abc'], axis=1), seed=0).classes) == ['a','b']
    pairs.to_csv(tmp_path/'r.csv', index=False, sep=';')
    assert len(RatingsDataLoaders.from_df(tmp_path/'r.csv', seed=0).train_ds) == len(RatingsDataLoaders.from_csv(tmp_path/'r.csv', seed=0, sep=';').train_ds) == 8
    pairs[['item','user','rating']].to_csv(tmp_path/'r.csv', index=False, header=False)
    dls = RatingsDataLoaders.from_csv(tmp_path/'r.csv', user_name=2, item_name=1, seed=0)
    assert [*dls.classes['user']][1:] == [1,2,3]

@pytest.mark.parametrize('columns,want', [
    ('user_id name business_id stars', 'user_id business_id stars'), ('rating title parent_asin asin user_id timestamp', 'user_id parent_asin rating'), ('userID placeID rating food_rating', 'userID placeID rating'),
    ('steamid app_id app_name score', None), ('player_id game_id game_name score', 'player_id game_id score'), ('CustomerId ArticleNo Grade', 'CustomerId ArticleNo Grade'), ('username movie_name my_rating average_rating', 'username movie_name my_rating'),
    ('user_id review_id xyz_id rating', 'user_id xyz_id rating'), ('user_id title rating', 'user_id title rating'), ('reviewerID reviewerName asin overall', 'reviewerID asin overall'), ('user user_rating item', 'user item user_rating'),
    ('USERID ITEMID RATING', 'USERID ITEMID RATING'), ('user_id book_id author_id rating', 'user_id book_id rating'), ('user_id foo_id bar_id rating', None), ('user_id item_id taste_rating look_rating', None)])
def test_columns_are_known_by_their_words(columns, want):
    df = pd.DataFrame(columns=columns.split())
    if want: assert list(rating_columns(df)[:3]) == want.split()
    else:
        with pytest.raises(MissingColumnError, match='_name=…'): rating_columns(df)

def test_the_reserved_id():
    for df in (pairs.assign(item=[f'i{o}' if o!=5 else '#na#' for o in pairs['item']]), pairs.assign(user=pairs.user.map({1:'#na#', 2:'b', 3:'c'}).astype('category'))):
        with pytest.raises(NullIdError, match="'#na#' stands for the unknown"): check_ratings(df)

def test_read_texts_of_any_packing(tmp_path):
    for raw in (b'user;age\n007;\n', gzip.compress(b'user,age\n007,\n'), 'user\tage\n007\t\n'.encode('utf-16')): assert read_texts(write(tmp_path, raw, 't')).values.tolist() == [['007','']]

# the command

@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    "Run the command in this process"
    from collab_notes.cli import main
    from conftest import drawn_not_rendered
    drawn_not_rendered(monkeypatch)
    monkeypatch.chdir(tmp_path)
    def f(*args):
        try: code = main([*map(str, args)])
        except SystemExit as e: code = e.code
        return code or 0, *capsys.readouterr()
    return f

def many(n=200, users=12, items=30, seed=0):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users*items)[:n]
    return pd.DataFrame(dict(user=pairs//items+1, item=pairs%items+1, rating=rng.integers(1, 6, n)))

quick = '--n-epoch','1','--n-factors','2','--out','mine'

def test_command_tells_how_a_file_was_read(run, tmp_path):
    "The columns, always; without a header the first line, too, and an option to exchange them; what was found of codes, and an option to leave them out"
    df = many()
    df.to_csv('own.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick)
    assert (code, err) == (0, '') and "Columns: users from 'user', items from 'item', ratings from 'rating'." in out
    amazon = df.assign(item='B'+df['item'].astype(str), user='A'+df.user.astype(str))[['item','user','rating']]
    amazon.to_csv('amazon.csv', index=False, header=False)
    code,out,err = run('train', 'amazon.csv', *quick)
    assert 'the first line was read as user: B' in out and '--user-name 2, --item-name 1' in out and '--header' in out and 'user_name=' not in out
    code,out,err = run('train', 'amazon.csv', *quick, '--user-name', '2', '--item-name', '1')
    assert code==0 and '30 items (item) by 12 users (user)' in out
    amazon[:50].to_csv('more.csv', index=False, header=False)
    code,out,err = run('evaluate', 'mine', 'more.csv', '--format', 'csv')   # the model remembers
    assert code==0 and '\n' in out, err
    df.assign(rating=np.where(np.arange(200)%3==0, 99, df.rating)).to_csv('odd.csv', index=False)
    code,out,err = run('train', 'odd.csv', *quick)
    assert "34% of the ratings are 99" in out and 'leave such rows out with --missing 99' in out and err==''
    code,out,err = run('train', 'odd.csv', *quick, '--missing', '99,0')
    assert '133 ratings' in out and '67 rows left out' in out and 'go from 1 to 5' in out

def test_options_of_reading(run, tmp_path):
    df = many()
    def ok(text, *args, n=200):
        (tmp_path/'r.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
        code,out,err = run('train', 'r.txt', *quick, *args)
        assert code==0 and f'r.txt: {n} ratings of 30 items' in out, out+err
    body = df.to_csv(index=False, header=False, sep=';').replace('5\n', '4,5\n')
    ok(body, '--no-header', '--decimal', ',')
    ok(df.to_csv(index=False), '--header')
    ok('# a\n'+df.to_csv(index=False).replace('\n', '\n# b\n'), '--comment', '#')
    ok(df.assign(user='é'+df.user.astype(str)).to_csv(index=False).encode('latin-1'), '--encoding', 'latin-1')
    ok(df.pivot(index='user', columns='item', values='rating').to_csv(), '--wide')
    for text,args,says in ((df.assign(user='é'+df.user.astype(str)).to_csv(index=False).encode('latin-1'), [], '--encoding latin-1'), (df.pivot(index='user', columns='item', values='rating').to_csv(), [], '--wide'),
                           ('ann,x,good\nbob,y,bad\n', [], '--no-header'), ('user,item\n1,2\n2,3\n', [], '--goal lists'), ('user,item,rating\n1,2,NR\n2,3,4\n', [], '--missing NR'), (df.to_csv(), ['--header','--no-header'], 'one or the other'),
                           ('user;item;rating\n1;2;3,5\n2;3;4.5\n', [], "--decimal"), ('user,item,rating\n1,2,3\n', ['--decimal','x'], '--decimal'), ('user,item,rating\n1,2,3\n', ['--encoding','klingon'], 'no such encoding')):
        (tmp_path/'r.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
        code,out,err = run('train', 'r.txt', *quick, *args)
        assert code==2 and says in err and 'pd.' not in err and 'df[' not in err, err

def test_titles_of_items(run, tmp_path):
    df = many()
    df.to_csv('own.csv', index=False)
    pd.DataFrame(dict(movieId=range(1, 31), title=[f'Film {o%29} é' for o in range(30)])).to_csv('movies.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick, '--items-file', 'movies.csv')
    assert code==0 and 'Film 7 é' in out and '30 items' in out and err==''
    code,out,err = run('similar', 'mine', 'Film 0 é (30)', '--min-ratings', '1', '--n', '2')   # two films of one title stay two
    assert code==0 and 'Film' in out, err
    code,out,err = run('evaluate', 'mine', 'own.csv', '--format', 'csv')
    assert code==0, err
    pd.DataFrame(dict(movieId=['x','y'], title=['a','b'])).to_csv('movies.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick, '--items-file', 'movies.csv')
    assert code==2 and 'none of the items has a title' in err

def test_lists_need_no_ratings(run, tmp_path):
    many()[['user','item']].to_csv('own.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick, '--goal', 'lists')
    assert code==0 and 'each row counts as 1' in out, err
    code,out,err = run('recommend', 'mine', '1', '--ratings', 'own.csv', '--n', '2', '--format', 'csv')
    assert code==0, err

@pytest.mark.parametrize('n', [10, 30, 60])
def test_a_first_run_on_a_small_table_shows_something(run, tmp_path, n):
    many(n, 5, 20).to_csv('own.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick)
    assert code==0 and 'Empty DataFrame' not in out and 'There is none' not in out
    top = out.split('For user')[1]
    assert re.search(r'items with at least \d rating', top) and len(top.split('Saved in')[0].splitlines()) > 3
    code,out,err = run('recommend', 'mine', many(n, 5, 20).user[0], '--n', '2')
    assert code==0 and 'prediction' in out
    code,out,err = run('similar', 'mine', many(n, 5, 20)['item'][0], '--n', '2')
    assert code==0 or 'has no training ratings' in err

def test_why_nothing_is_left(run, tmp_path):
    pd.DataFrame([(u, i, (u*i)%5+1) for u in range(6) for i in range(5)], columns=['user','item','rating']).to_csv('own.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick)
    assert code==0 and 'they have rated all 5 items' in out
    many(60, 5, 20).to_csv('own.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick, '--min-ratings', '99')
    assert code==0 and re.search(r'has at most \d ratings, fewer than 99. Give --min-ratings \d', out)

def test_small_ratings_are_not_printed_as_nothing(run, tmp_path):
    df = many()
    df.assign(rating=df.rating/1e5).to_csv('own.csv', index=False)
    code,out,err = run('train', 'own.csv', *quick)
    assert code==0 and re.search(r'on average 0\.0000[1-9]', out) and not re.search(r'this model +0\.0+ ', out)

@pytest.mark.parametrize('text,kw,want', [
    ('User ID, Movie ID, Rating\n1, 2, 3\n2, 3, 4\n', {}, [(1,2,3),(2,3,4)]), ('2005-09-06,11,901,5\n2005-09-07,12,902,4\n', {}, [(11,901,5),(12,902,4)]), ('id,101,102,103\n7,5,,1\n8,,2,3\n', dict(wide=True), [(7,101,5),(7,103,1),(8,102,2),(8,103,3)]),
    ('user;a;b\nann;3,5;\nbob;;4\n', dict(wide=True), [('ann','a',3.5),('bob','b',4)]), ('user;item;rating\n1;2;3,5\n2;3;4.5\n', dict(decimal=','), [(1,2,3.5),(2,3,4.5)]), ('\ufeff[{"user":1,"item":2,"rating":"3"}]', {}, [(1,2,3)])])
def test_odd_but_plain(tmp_path, text, kw, want):
    assert [tuple(o) for o in read(tmp_path, text, **kw).iloc[:,:3].itertuples(index=False)] == want

@pytest.mark.parametrize('text,says', [('1,2,3\n4,5\n', 'line 2: 2 fields'), ('user,item,rating\n1,2,5 stars\n2,3,4 stars\n', 'a number and nothing else'), ('{"user":[1,2],"item":[1,2],"rating":[1,2]}', 'rating: 1 row')])
def test_faults_are_told(tmp_path, text, says):
    with pytest.raises(RatingsError, match=says) as e: check_ratings(read(tmp_path, text))
    assert 'missing=' not in str(e.value)

def test_the_shortest_files(tmp_path):
    "One sign, or two: read, or refused by name"
    from itertools import product
    from collab_notes.errors import CollabError
    from collab_notes.tables import read_ratings, read_texts
    signs = ['"', '#', '%', ',', ';', '\n', 'a', '1', ' ', '\t', '=', 'é', '\r', "'", '{', '[', '-', '.', '\x00', '\ufeff']
    for o in (''.join(o) for n in (1,2) for o in product(signs, repeat=n)):
        (tmp_path/'r.csv').write_bytes(o.encode())
        for f in (read_ratings, lambda path: read_texts(path, 'things')):
            try: f(tmp_path/'r.csv')
            except CollabError: pass
