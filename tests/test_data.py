"""Where ratings come from and what becomes of them, when things are not as they should be: hosts that hang or lie, processes that are killed or
start together, odd files, bad rows, odd sizes. The ordinary way is shown and tested in `nbs/00_data.ipynb`."""
import contextlib, csv, gzip, io, multiprocessing, os, pickle, random, re, shutil, socket, threading, time, warnings, zipfile
from collections import Counter
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.external import URLs, fastai_cfg
from fastai.learner import Learner, load_learner
from fastai.losses import MSELossFlat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collab_notes import data
from collab_notes.data import *
from collab_notes.models import DotProductBias

torch.set_num_threads(1)
quick = partial(settings, deadline=None, derandomize=True, database=None)  # the same examples everywhere and always

# sources: a data folder of our own, servers of our own

@pytest.fixture(scope='session')
def files():
    "The four files of MovieLens 100K, by name."
    folder = movielens_100k()
    return {f:(folder/f).read_bytes() for f in ML_FILES}

def as_zip(files, prefix='ml-100k/'):
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w', zipfile.ZIP_STORED) as z:
        for n,b in files.items(): z.writestr(prefix+n, b)
    return f.getvalue()

@pytest.fixture(scope='session')
def ml_zip(files): return as_zip(files)

def as_wheel(files):
    "The wheel that the same data can be had from, made of GroupLens' files."
    def item(line):
        i,title,*_,genres = line.split('|', 5)
        name,year = m.groups() if (m := re.fullmatch(r'(.*) \((.*)\) ?', title)) else ('unknown','')
        return '\t'.join([i, name, year, ' '.join(g for g,o in zip(ML_GENRES, genres.split('|')) if o=='1')])
    rows = dict(inter=files['u.data'].decode(), user=files['u.user'].decode().replace('|', '\t'),
                item=''.join(item(o)+'\n' for o in files['u.item'].decode('latin-1').splitlines()))
    res = {f'recbole/dataset_example/ml-100k/ml-100k.{k}':f'header\n{v}' for k,v in rows.items()}
    info = 'recbole-1.2.1.dist-info/'
    res[f'{info}METADATA'] = 'Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n'
    res[f'{info}WHEEL'] = 'Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    res[f'{info}RECORD'] = ''
    return as_zip(res, '')

@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty data folder, no way to the network but what a test opens; the path that MovieLens would have."
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    for k in list(os.environ):
        if k.upper().startswith('PIP_') or k.lower().endswith('_proxy'): monkeypatch.delenv(k)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setattr(URLs, 'ML_100k', dead_url())
    monkeypatch.setenv('PIP_INDEX_URL', dead_url())
    fastai_cfg.cache_clear()
    yield tmp_path/'home/data/ml-100k'
    fastai_cfg.cache_clear()

def dead_url():
    "An address at which nobody listens."
    with socket.create_server(('127.0.0.1', 0)) as s: return f'http://127.0.0.1:{s.getsockname()[1]}/'

@contextlib.contextmanager
def serving(pages, pause=0.):
    "An http server for `pages` (path → bytes); gives its address and the list of what was asked for. The body comes in two halves, `pause` seconds apart."
    asked = []
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in pages: return self.send_error(404)
            b = pages[self.path]
            self.send_response(200)
            self.send_header('Content-Type', 'text/html' if self.path.endswith('/') else 'application/octet-stream')
            self.send_header('Content-Length', str(len(b)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b[:len(b)//2])
                self.wfile.flush()
                time.sleep(pause)
                self.wfile.write(b[len(b)//2:])
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads,server.block_on_close = True,False
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}', asked
    finally:
        server.shutdown()
        server.server_close()

@contextlib.contextmanager
def answering(answer):
    "A server that sends `answer` to whoever connects, and hangs up; with `None` it says nothing, and does not hang up."
    with socket.create_server(('127.0.0.1', 0)) as s:
        held = []
        def work():
            with contextlib.suppress(OSError):
                while True:
                    c,_ = s.accept()
                    held.append(c)
                    if answer is None: continue
                    c.settimeout(2)
                    c.recv(2**16)
                    c.sendall(answer)
                    c.close()
        threading.Thread(target=work, daemon=True).start()
        yield f'http://127.0.0.1:{s.getsockname()[1]}'
        with contextlib.suppress(OSError): s.shutdown(socket.SHUT_RDWR)
        for c in held: c.close()

@contextlib.contextmanager
def pypi(files):
    "A package index with nothing but our wheel."
    name = 'recbole-1.2.1-py3-none-any.whl'
    with serving({'/recbole/':f'<a href="/{name}">{name}</a>'.encode(), f'/{name}':as_wheel(files)}) as (url,asked): yield url, asked

def hurry(monkeypatch, wait=0.7):
    "Both sources give up sooner."
    monkeypatch.setattr(data, '_SOURCES', {k:partial(f, wait=wait) for k,f in data._SOURCES.items()})

def put(files, folder, **kw):
    folder.mkdir(parents=True)
    for n,b in {**files, **kw}.items(): (folder/n).write_bytes(b)

def leftovers(folder):
    "All in the data folder but MovieLens itself and the lock."
    return sorted(o.name for o in folder.parent.iterdir() if o.name not in (folder.name, '.ml-100k.lock')) if folder.parent.exists() else []

def no_source(*args, **kwargs): raise AssertionError('asked the network')

def test_a_local_copy_needs_no_network(home, files, monkeypatch):
    put(files, home)
    monkeypatch.setattr(data, '_SOURCES', dict(none=no_source))
    assert movielens_100k() == home
    assert leftovers(home) == [] and not home.with_name('.ml-100k.lock').exists()

def test_grouplens_comes_first(home, files, ml_zip, monkeypatch):
    with serving({'/ml-100k.zip':ml_zip}) as (url,asked):
        monkeypatch.setattr(URLs, 'ML_100k', f'{url}/ml-100k.zip')
        monkeypatch.setitem(data._SOURCES, list(data._SOURCES)[1], no_source)
        assert movielens_100k() == home == movielens_100k()
    assert asked == ['/ml-100k.zip']
    assert {f:(home/f).read_bytes() for f in ML_FILES} == files
    assert leftovers(home) == []

def test_the_wheel_comes_second(home, files, monkeypatch):
    with pypi(files) as (url,asked):
        monkeypatch.setenv('PIP_INDEX_URL', url)
        assert movielens_100k() == home
    assert '/recbole-1.2.1-py3-none-any.whl' in asked
    for f in 'u.data', 'u.user': assert (home/f).read_bytes() == files[f]
    assert (home/'u.genre').read_text().split() == files['u.genre'].decode().split()
    theirs,ours = ([o.split('|') for o in b.decode('latin-1').splitlines()] for b in (files['u.item'], (home/'u.item').read_bytes()))
    assert [o[:2]+o[5:] for o in ours] == [o[:2]+o[5:] for o in theirs]   # titles and genres; the wheel has no release dates
    assert leftovers(home) == []

@pytest.mark.parametrize('spoil', [dict(u_data=b'1\t2\t3\t4\n'), dict(u_data=b''), 'u.item', 'empty folder', 'a file'])
def test_a_copy_that_is_not_right_is_replaced_and_kept(home, files, ml_zip, monkeypatch, spoil):
    if isinstance(spoil, dict): put(files, home, **{'u.data':spoil['u_data']})
    elif spoil=='u.item': put({k:v for k,v in files.items() if k!=spoil}, home)
    elif spoil=='empty folder': home.mkdir(parents=True)
    else:
        home.parent.mkdir(parents=True)
        home.write_bytes(b'precious')
    before = {o.name:o.read_bytes() for o in home.iterdir()} if home.is_dir() else home.read_bytes()
    monkeypatch.setattr(data, '_SOURCES', dict(none=lambda: {}))
    with pytest.raises(DataUnavailableError, match='a copy in'): movielens_100k()
    assert ({o.name:o.read_bytes() for o in home.iterdir()} if home.is_dir() else home.read_bytes()) == before   # no better one: nothing is moved
    monkeypatch.setattr(data, '_SOURCES', dict(good=lambda: files))
    assert movielens_100k() == home and movielens_ratings().shape == (100_000,4)
    aside, = leftovers(home)
    aside = home.with_name(aside)
    assert ({o.name:o.read_bytes() for o in aside.iterdir()} if aside.is_dir() else aside.read_bytes()) == before

def test_other_data_from_a_source_is_refused(home, files, monkeypatch):
    with serving({'/z':as_zip({**files, 'u.data':files['u.data'][:-1]})}) as (url,_), pypi(files) as (index,_):
        monkeypatch.setattr(URLs, 'ML_100k', f'{url}/z')
        with pytest.raises(DataUnavailableError) as e: movielens_100k()
        assert "GroupLens' zip: u.data is not the published file" in str(e.value)
        assert not home.exists() and leftovers(home) == []
        monkeypatch.setenv('PIP_INDEX_URL', index)   # the lock is free again, the next source good
        assert movielens_100k() == home

def half(b): return b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(b) + b[:len(b)//2]
def chunked_half(b): return b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n' % len(b) + b[:len(b)//2]
def damaged(b): return b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(b) + b[:500] + bytes(400) + b[900:]

@pytest.mark.parametrize('answer', [half, chunked_half, damaged, lambda b: b'', lambda b: b'Hello, who is there?\r\n', lambda b: b'HTTP/1.1 404 Not Found\r\n\r\n',
    lambda b: b'HTTP/1.1 200 OK\r\n\r\n<html>Please log in</html>', lambda b: b'HTTP/1.1 302 Found\r\nLocation: gopher://x/\r\n\r\n'],
    ids='half chunked_half damaged hangs_up no_http 404 login_page odd_redirect'.split())
def test_a_source_that_misbehaves_is_passed_over(home, files, ml_zip, monkeypatch, answer):
    second = dict(there=lambda: files)
    with answering(answer(ml_zip)) as url:
        monkeypatch.setattr(URLs, 'ML_100k', f'{url}/ml-100k.zip')
        tried = []
        monkeypatch.setattr(data, '_SOURCES', {"GroupLens' zip":data._from_grouplens, **second})
        home.parent.mkdir(parents=True)
        data._fetch(home, tried)
    assert len(tried) == 1 and re.match(r"GroupLens' zip: \w+.*", tried[0])
    assert (home/'u.data').read_bytes() == files['u.data'] and leftovers(home) == []

def test_when_all_fail_one_error_tells_all(home):
    with pytest.raises(DataUnavailableError) as e: movielens_100k()
    says = str(e.value)
    assert len(re.findall('^- ', says, re.M)) == 3
    for o in (f'- a copy in {home}: u.data, u.item, u.user, u.genre missing', "- GroupLens' zip: ", '- the wheel recbole==1.2.1 from PyPI: ', URLs.ML_100k, str(home), 'path='): assert o in says
    assert isinstance(e.value, CollabError) and isinstance(e.value, OSError)
    assert not home.exists() and leftovers(home) == []

def test_hosts_that_never_answer_are_given_up_on(home, monkeypatch):
    "As they are, both sources would wait for 10 s; here, for less."
    hurry(monkeypatch)
    with answering(None) as url:
        monkeypatch.setattr(URLs, 'ML_100k', f'{url}/ml-100k.zip')
        monkeypatch.setenv('PIP_INDEX_URL', url)
        start = time.monotonic()
        with pytest.raises(DataUnavailableError) as e: movielens_100k()
        assert time.monotonic()-start < 30
    assert re.search("zip: TimeoutError: ", str(e.value)) and re.search('PyPI: ', str(e.value))
    assert leftovers(home) == []

def test_a_host_that_falls_silent_midway_is_given_up_on(home, ml_zip):
    with serving({'/z':ml_zip}, pause=20) as (url,_):
        start = time.monotonic()
        with pytest.raises(TimeoutError): data._read_url(f'{url}/z', wait=0.3)
        assert time.monotonic()-start < 15

def test_a_folder_of_your_own(home, files, tmp_path, monkeypatch):
    monkeypatch.setattr(data, '_SOURCES', dict(none=no_source))
    put(files, tmp_path/'mine')
    assert movielens_100k(tmp_path/'mine') == movielens_100k(str(tmp_path/'mine')) == tmp_path/'mine'
    assert len(movielens_ratings(str(tmp_path/'mine'))) == 100_000
    (tmp_path/'mine/u.user').unlink()
    for bad,why in (tmp_path/'mine','u.user missing'), (tmp_path/'none','u.data, u.item, u.user, u.genre missing'):
        with pytest.raises(DataUnavailableError, match=why): movielens_100k(bad)
    assert not home.exists()

@pytest.mark.parametrize('where', ['home', 'home/data'])
def test_a_home_that_cannot_be_made(tmp_path, home, monkeypatch, where):
    (tmp_path/where).parent.mkdir(exist_ok=True)
    (tmp_path/where).write_text('a file is in the way')
    with pytest.raises(DataUnavailableError, match='FASTAI_HOME'): movielens_100k()

@pytest.mark.skipif(os.name=='nt' or os.geteuid()==0, reason='nothing is read-only for this user')
@pytest.mark.parametrize('config', [True, False])
def test_a_home_that_cannot_be_written(tmp_path, home, files, config):
    put(files, home)
    if config: fastai_cfg()
    (tmp_path/'home').chmod(0o555)
    home.parent.chmod(0o555)
    try:
        if config: assert movielens_100k() == home
        home.chmod(0o755); shutil.rmtree(home, ignore_errors=True)
        with pytest.raises(DataUnavailableError, match='FASTAI_HOME'): movielens_100k()
    finally:
        for o in (tmp_path/'home', home.parent): o.chmod(0o755)

def test_a_full_disk_is_told_once(home, files, monkeypatch):
    "That the files could not be written is not the source's fault, and no reason to fetch them again elsewhere."
    calls = []
    def full(self, b): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(data, '_SOURCES', {k:lambda: calls.append(1) or files for k in 'ab'})
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(DataUnavailableError, match='No space left'): movielens_100k()
    assert calls == [1] and leftovers(home) == []

# sources: several processes

@pytest.fixture(scope='session')
def start():
    "Start code in a process of its own: forked from one that has the modules loaded, so that it starts at once."
    ctx = multiprocessing.get_context('forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn')
    ctx.set_forkserver_preload(['collab_notes.training', 'collab_notes.latent', 'torch._dynamo', 'matplotlib.backends.backend_agg'])
    def f(code):
        p = ctx.Process(target=exec, args=(code, {'__name__':'child'}))
        p.start()
        return p
    return f

_child = '''
import os
os.environ.update({env!r})
import collab_notes.data as data
from pathlib import Path
data.URLs.ML_100k = {url!r}
data._SOURCES = dict(zip=data._from_grouplens)
{more}
print(len(data.movielens_ratings()), file=open({out!r}, 'w'))
'''

def child(home, url, out, more=''): return _child.format(env=dict(FASTAI_HOME=str(home.parents[1])), url=url, out=str(out), more=more)

def test_processes_that_start_together_fetch_once(home, ml_zip, start, tmp_path):
    with serving({'/z':ml_zip}, pause=0.5) as (url,asked):
        ps = [start(child(home, f'{url}/z', tmp_path/f'out{i}')) for i in range(4)]
        for p in ps: p.join(60)
        assert [p.exitcode for p in ps] == [0]*4
    assert asked == ['/z']
    assert [(tmp_path/f'out{i}').read_text() for i in range(4)] == ['100000\n']*4
    assert leftovers(home) == []

_stop_in_writing = '''
whole = Path.write_bytes
def write_bytes(self, b):
    whole(self, b[:len(b)//2])
    (Path({flag!r})).touch()
    import time
    time.sleep(60)
Path.write_bytes = write_bytes
'''

@pytest.mark.parametrize('when', ['downloading','writing'])
def test_a_process_that_is_killed_leaves_nothing_half_there(home, ml_zip, start, tmp_path, when):
    flag = tmp_path/'now'
    with serving({'/z':ml_zip}, pause=(60 if when=='downloading' else 0)) as (url,asked):
        p = start(child(home, f'{url}/z', tmp_path/'out', more=_stop_in_writing.format(flag=str(flag)) if when=='writing' else ''))
        for _ in range(600):
            if flag.exists() or when=='downloading' and asked: break
            time.sleep(0.05)
        else: raise AssertionError('it never came so far')
        p.kill()
        p.join(30)
    assert p.exitcode != 0 and not home.exists() and not (tmp_path/'out').exists()
    assert len(leftovers(home)) == (when=='writing')
    with serving({'/z':ml_zip}) as (url,_):
        p = start(child(home, f'{url}/z', tmp_path/'out'))
        p.join(60)
    assert p.exitcode == 0 and (tmp_path/'out').read_text() == '100000\n'
    assert leftovers(home) == []

# reading

plain = re.compile(r'0|-?[1-9][0-9]{0,17}')
def as_read(ids): return [int(o) for o in ids] if all(plain.fullmatch(o) for o in ids) else list(ids)
def no_number_in_blanks(o): return o==o.strip() or not re.fullmatch(r'[-+]?[0-9]+', o.strip())

words = st.sampled_from(['NA','nan','NaN','null','NULL','None','<NA>','N/A','-','007','00','-0','+5','1.0','1e3','True','inf','a,b','a;b','a|b','a::b','a\tb','"','""','it\'s','#x','å','東京','٣','1٣','🎬',' ','x ','1_0','0x1F'])
texts = st.text(st.characters(codec='utf-8', exclude_characters='\0'), min_size=1, max_size=6).filter(no_number_in_blanks)
ints = st.integers(-10**18+1, 10**18-1).map(str)
def id_lists(n): return st.one_of(st.lists(o, min_size=n, max_size=n) for o in (ints, words, texts, ints|words))
tables = st.integers(1, 6).flatmap(lambda n: st.tuples(id_lists(n), id_lists(n), st.lists(st.integers(-4, 20).map(lambda o: o/2), min_size=n, max_size=n)))

@quick(max_examples=150)
@given(tables, st.sampled_from(',\t;|'), st.sampled_from(['utf-8','utf-8-sig']), st.sampled_from(['', '.gz', '.bz2', '.zip']), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, table, sep, encoding, ext, quoting, index):
    f = tmp_path_factory.mktemp('csv', numbered=True)/f'r.csv{ext}'
    user,item,rating = table
    pd.DataFrame(dict(user=user, item=item, rating=rating)).to_csv(f, sep=sep, encoding=encoding, quoting=quoting, index=index)
    df = read_ratings(f)
    assert list(df.columns)[:3] == ['user','item','rating']
    assert (df.user.tolist(), df.item.tolist(), df.rating.tolist()) == (as_read(user), as_read(item), rating)

@quick(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10).map(lambda o: o/2), st.integers(8*10**8, 2*10**9)), min_size=1, max_size=6),
       st.sampled_from(['\t','::',',',';','|','~','^',' ']), st.sampled_from([3,4]), st.sampled_from(['utf-8','utf-8-sig']), st.booleans())
def test_files_without_a_header(tmp_path_factory, rows, sep, n, encoding, end):
    f = tmp_path_factory.mktemp('dat', numbered=True)/'r.dat'
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

packed = gzip.compress(b'user,item,rating\n' + b''.join(b'%d,%d,3\n' % (i, i*7919%1000) for i in range(2000)))

@pytest.mark.parametrize('content,name,err,says', [
    (b'', 'r.csv', EmptyRatingsError, 'empty'), (b'\n\n', 'r.csv', EmptyRatingsError, 'empty'), (b'', 'r.csv.gz', RatingsError, ''),
    ('user,item,rating\n1,Café,5\n'.encode('latin-1'), 'r.csv', RatingsError, 'encoding='), ('1::Café::5\n'.encode('latin-1'), 'r.dat', RatingsError, 'encoding='),
    ('user,item,rating\n1,a,5\n'.encode('utf-16'), 'r.csv', RatingsError, 'encoding='),
    (random.Random(0).randbytes(3000), 'r.csv', RatingsError, ''), (bytes(3000), 'r.csv', RatingsError, ''), (random.Random(0).randbytes(300_000).replace(b'\n', b''), 'r.csv', RatingsError, ''),
    (b'user,item,rating\n', 'r.csv.gz', RatingsError, 'gzip'), (packed[:-900], 'r.csv.gz', RatingsError, ''), (packed[:400]+bytes(99)+packed[499:], 'r.csv.gz', RatingsError, ''),
    (b'PK\3\4'+bytes(99), 'r.zip', RatingsError, ''), (as_zip(dict(a=b'1,2,3\n', b=b'1,2,3\n')), 'r.zip', RatingsError, ''), (b'PAR1 it is not', 'r.parquet', RatingsError, 'parquet'),
    (b'user,item,rating\n1,a,5\n2,Matrix, The,3\n', 'r.csv', RatingsError, 'line 3'), (b'user,item,rating\n1,Matrix, The,5\n2,b,3\n', 'r.csv', RatingsError, 'more fields'),
    (b'"user","item","rating"\n"1",7,3,5\n"2",7,4,2\n', 'r.csv', RatingsError, 'more fields'),
    (b'who,what,rating\n1,a,5\n', 'r.csv', MissingColumnError, 'user_name='), (b'user item rating\n1 2 3\n', 'r.csv', MissingColumnError, 'user_name=')])
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

@quick(max_examples=60)
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
@quick(max_examples=12)
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

@quick(max_examples=30)
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
    steps = 0
    while True:
        try: check_ratings(df)
        except BadRatingError as e:
            fix,_,then = re.search(r"df\['rating'\] = .*", str(e))[0].partition(', then ')
            ns = dict(df=df, pd=pd, np=np)
            exec(fix, ns)
            df = eval(then, ns) if then else ns['df']
            steps += 1
        else: break
        assert steps<3
    assert steps and 3 <= len(df) <= 5

@pytest.mark.parametrize('df,kw,err', [
    (good[:0], {}, EmptyRatingsError), (good.drop(columns='item'), {}, MissingColumnError), (good, dict(rating_name='stars'), MissingColumnError), (good.assign(user=1), {}, TooFewIdsError),
    (good.assign(item='a'), {}, TooFewIdsError), (good, dict(user_name='item', item_name='item'), MissingColumnError), (good, dict(duplicates='drop'), SettingError),
    (good, dict(scale=(5,1)), SettingError), (good, dict(scale=5), SettingError), (good.set_axis(['user','rating','rating'], axis=1).assign(item='a'), {}, MissingColumnError)])
def test_tables_that_are_bad_as_a_whole(df, kw, err):
    with pytest.raises(err): check_ratings(df, **kw)

@pytest.mark.parametrize('rating', [[True,False,True,True], pd.array([True,False,True,True], dtype='boolean'), np.array([4,3,5,1], dtype='uint8'), [4,3,5,-1]])
def test_odd_ratings_that_are_numbers(rating): check_ratings(df := good.assign(rating=rating)) is df

repeats = st.lists(st.tuples(st.integers(0,3), st.integers(0,3), st.integers(1,5)), min_size=2, max_size=30).map(lambda o: [(0,9,1),(9,0,2)]+o)

@quick(max_examples=60)
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

def test_checked_tables_train(home):
    "Every kind of column that passes the check also makes loaders."
    n = 12
    user,item,y = [i%4 for i in range(n)],[i//4 for i in range(n)],[1+i%5 for i in range(n)]
    for u in (user, pd.array(user, dtype='Int64'), pd.Categorical([f'u{o}' for o in user]), [o+0.5 for o in user], pd.to_datetime(user), np.array(user, dtype=object)):
        for r in (y, np.array(y, dtype='float32'), pd.array(y, dtype='Int64'), np.array(y, dtype=object), [o>2 for o in y]):
            df = pd.DataFrame(dict(user=u, item=item, rating=r))
            x,t = RatingsDataLoaders.from_df(check_ratings(df), valid_pct=0.25, seed=0).train.new(shuffle=False, bs=n).one_batch()
            assert x.shape == (9,2) and t.dtype == torch.float32

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

@quick(max_examples=80)
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

@quick(max_examples=80)
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

def test_seeds_decide(files):
    df = movielens_ratings()
    for f in (random_split, lambda df, seed: kfold_splits(df, seed=seed)[0], lambda df, seed: leave_last_out(df, seed=seed)):
        a,b,c = (f(df, seed=o)[1].tolist() for o in (1,1,2))
        assert a == b != c

def test_a_split_can_be_sent_to_another_process():
    split = random_split(good, 0.5)
    again = pickle.loads(pickle.dumps(split))
    assert repr(again) == repr(split) and again.unseen_items == split.unseen_items

ml_like = pd.DataFrame(dict(user=[1]*3, item=[1,2,3], rating=[1.]*3))

@pytest.mark.parametrize('f,err', [
    (lambda: random_split(good, 2), SettingError), (lambda: random_split(good, 0), SettingError), (lambda: random_split(good, float('nan')), SettingError), (lambda: random_split(good, 0.1), RatingsError),
    (lambda: random_split(good[:0], 0.5), RatingsError), (lambda: kfold_splits(good, 1), SettingError), (lambda: kfold_splits(good, 5), SettingError), (lambda: kfold_splits(good, 2.5), SettingError),
    (lambda: official_fold(good), RatingsError), (lambda: temporal_split(good), MissingColumnError), (lambda: temporal_split(good.assign(timestamp=1)), RatingsError),
    (lambda: temporal_split(good.assign(timestamp=[1,None,2,3])), RatingsError), (lambda: leave_last_out(good), MissingColumnError), (lambda: leave_last_out(good.assign(timestamp=1), 0), SettingError),
    (lambda: leave_last_out(good.assign(timestamp=1, user=[1,1,None,1])), NullIdError), (lambda: random_split(good.assign(item=['a',None,'b','c']), 0.5), NullIdError),
    (lambda: temporal_split(good.assign(timestamp=['12/31/2019','01/02/2020','02/01/2020','03/01/2020']), 0.5), RatingsError)])
def test_splits_that_cannot_be(f, err):
    with pytest.raises(err): f()

def test_official_fold_wants_the_order_of_the_file(files):
    df = movielens_ratings(titles=True)
    assert official_fold(df, 2)[1].tolist() == list(range(20_000, 40_000))
    assert official_fold(df.astype({'user':str}), 2)[1].tolist() == list(range(20_000, 40_000))
    for o in (df.sort_values('timestamp'), df.sample(frac=1, random_state=0), df.assign(user=range(100_000))):
        with pytest.raises(RatingsError, match='order'): official_fold(o)
    for k in 0, 6, 1.5:
        with pytest.raises(SettingError): official_fold(df, k)

# loaders

def some_ratings(n, seed=0):
    "`n` ratings of distinct values, so that each row is known by its rating"
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(40*50)[:n]
    return pd.DataFrame(dict(user=pairs//50, item=[f'i{o}' for o in pairs%50], rating=np.arange(n)/8))

def epoch(dl): return [o for _,y in dl for o in y[:,0].tolist()]

@quick(max_examples=80)
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

@quick(max_examples=30)
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
    with pytest.raises(UnseenIdError, match='known ids are like 0'): trained.dls.test_dl(pairs.astype({'user':str}))   # of another type: '5' is not 5
    with pytest.raises(NullIdError): trained.dls.test_dl(pairs.assign(item=None))
    with pytest.raises(MissingColumnError): trained.dls.test_dl(pairs[['user']])
    with pytest.raises(EmptyRatingsError): trained.dls.test_dl(pairs[:0])
    with pytest.raises(SettingError): trained.dls.test_dl(pairs, unseen='skip')

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
