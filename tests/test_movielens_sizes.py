"""The larger MovieLens: as made-up zips of the same form, from a server of our own."""
import hashlib

import pandas as pd
import pytest
from test_movielens import as_zip, endless, flipped, home, leftovers, serving   # `home` is a fixture: an empty data folder

from collab_notes import movielens
from collab_notes.errors import DataUnavailableError, SettingError
from collab_notes.movielens import movielens_folder, movielens_ratings

N = 40
RATINGS = [(u, u%7+1, (u*3)%5+1, 978300000+u) for u in range(1, N+1)]
TITLES = {i:f'Amélie {i}, The "best": part {i} (2001)' for i in range(1, 8)}

def files_of(size):
    "Ratings and films as GroupLens writes them"
    if size=='1m': return {'ratings.dat':''.join('::'.join(map(str, o))+'\n' for o in RATINGS).encode(),
                           'movies.dat':''.join(f'{k}::{v}::Comedy|War\n' for k,v in TITLES.items()).encode('latin-1')}
    quoted = {k:'"'+v.replace('"', '""')+'"' for k,v in TITLES.items()}
    return {'ratings.csv':('userId,movieId,rating,timestamp\n'+''.join(f'{u},{i},{r-0.5},{t}\n' for u,i,r,t in RATINGS)).encode(),
            'movies.csv':('movieId,title,genres\n'+''.join(f'{k},{v},Comedy|War\n' for k,v in quoted.items())).encode()}

SIZES = '1m','25m','latest-small'
each_size = pytest.mark.parametrize('size', SIZES)

@pytest.fixture
def zips(home, monkeypatch):
    "The zips, at the address where they are looked for; they are the published ones, for now"
    made = {o:as_zip(files_of(o), f'ml-{o}/') for o in SIZES}
    for k,b in made.items(): monkeypatch.setitem(movielens.ML_ZIPS, k, (hashlib.sha256(b).hexdigest(), N, 10**6))
    with serving({f'/ml-{k}.zip':b for k,b in made.items()}) as (url,asked):
        monkeypatch.setattr(movielens, '_GROUPLENS', f'{url}/')
        yield asked

def at(home, size): return home.with_name(f'ml-{size}')

@each_size
def test_it_is_fetched_once_and_read(home, zips, size):
    df = movielens_ratings(size, titles=True)
    pd.testing.assert_frame_equal(df[['user','movie','rating','timestamp']], movielens_ratings(size))
    half = 0 if size=='1m' else 0.5
    assert df.values.tolist() == [[u, i, r-half, t, TITLES[i]] for u,i,r,t in RATINGS]
    assert [str(o) for o in df.dtypes[:4]] == ['int64','int64','float64' if half else 'int64','int64']
    assert zips == [f'/ml-{size}.zip']
    folder = at(home, size)
    assert movielens_folder(size)==folder and sorted(o.name for o in folder.iterdir())==sorted(files_of(size))
    assert leftovers(folder)==[f'.ml-{size}.lock']

@each_size
def test_a_folder_of_your_own_needs_no_network(home, zips, tmp_path, size):
    (tmp_path/'mine').mkdir()
    for k,b in files_of(size).items(): (tmp_path/'mine'/k).write_bytes(b)
    assert len(movielens_ratings(size, path=str(tmp_path/'mine')))==N and zips==[] and not at(home, size).exists()
    next((tmp_path/'mine').glob('movies*')).unlink()
    with pytest.raises(DataUnavailableError, match='movies.* missing'): movielens_ratings(size, path=tmp_path/'mine')

@each_size
def test_another_zip_is_refused(home, zips, monkeypatch, size):
    with serving({f'/ml-{size}.zip':flipped(as_zip(files_of(size), f'ml-{size}/'))}) as (url,_):
        monkeypatch.setattr(movielens, '_GROUPLENS', f'{url}/')
        with pytest.raises(DataUnavailableError) as e: movielens_ratings(size)
        for o in (f'MovieLens {size} could not be had', 'not the published zip', f'ml-{size}.zip', str(at(home, size)), 'path='): assert o in str(e.value)
    assert leftovers(at(home, size))==[f'.ml-{size}.lock'] and not at(home, size).exists()

def test_a_zip_without_end_is_cut(home, zips, monkeypatch):
    with endless(bytes(2**16)) as (url,gone):
        monkeypatch.setattr(movielens, '_GROUPLENS', f'{url}/')
        with pytest.raises(DataUnavailableError, match='1,000,000 bytes that are allowed'): movielens_ratings('25m')
    assert not at(home, '25m').exists()

def test_a_zip_that_takes_too_long_is_given_up_on(home, zips, monkeypatch, tmp_path):
    with endless(b'x', pause=0.01) as (url,_):
        monkeypatch.setattr(movielens, '_GROUPLENS', f'{url}/')
        with pytest.raises(TimeoutError, match='not all there'): movielens._unpack_zip(tmp_path, '25m', wait=100, total=0.3)

def test_a_member_that_is_too_long_is_refused(home, zips, monkeypatch):
    sha,n,_ = movielens.ML_ZIPS['1m']
    monkeypatch.setitem(movielens.ML_ZIPS, '1m', (sha, n, 400))
    with pytest.raises(DataUnavailableError, match='too many|allowed'): movielens_ratings('1m')

@each_size
@pytest.mark.parametrize('damage', ['cut','header','text'])
def test_a_damaged_copy_is_named(home, zips, tmp_path, size, damage):
    files = files_of(size)
    name = next(o for o in files if o.startswith('ratings'))
    lines = files[name].splitlines(keepends=True)
    if damage=='cut': files[name] = b''.join(lines[:-1])
    if damage=='header': files[name] = b'x,y\n'+files[name]
    if damage=='text': files[name] = files[name].replace(lines[3], lines[3].replace(b'978300', b'about '))
    for k,b in files.items(): (tmp_path/k).write_bytes(b)
    with pytest.raises(DataUnavailableError, match='holds 39 ratings' if damage=='cut' else name): movielens_ratings(size, path=tmp_path)

def test_there_is_no_other_size():
    for o in ('10m', 'some/folder', None):
        with pytest.raises(SettingError, match="'25m'"): movielens_ratings(o)
