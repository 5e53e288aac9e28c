"""Where MovieLens comes from when things are not as they should be: hosts that hang or lie, processes that are killed or start together,
folders that hold something else. The ordinary way is shown and tested in `nbs/library/movielens.ipynb`."""
import contextlib, io, os, re, shutil, socket, struct, threading, zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import LIMIT
from fastai.data.external import URLs, fastai_cfg
from hypothesis import given, settings, strategies as st

from collab_notes import movielens
from collab_notes.errors import CollabError, DataUnavailableError, RatingsError, SettingError
from collab_notes.movielens import ML_FILES, ML_GENRES, movielens_100k, movielens_ratings, official_fold

# a data folder of our own, servers of our own

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
    waiting(monkeypatch, LIMIT)   # sources are given up on where that is the subject only, not because a machine is slow
    fastai_cfg.cache_clear()
    yield tmp_path/'home/data/ml-100k'
    fastai_cfg.cache_clear()

def dead_url():
    "An address at which nobody listens."
    with socket.create_server(('127.0.0.1', 0)) as s: return f'http://127.0.0.1:{s.getsockname()[1]}/'

@contextlib.contextmanager
def serving(pages, midway=lambda path: None):
    "An http server for `pages` (path → bytes); gives its address and the list of what was asked for. The body comes in two halves, `midway(path)` is called between them."
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
                midway(self.path)
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
                    c.settimeout(LIMIT)
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

def waiting(monkeypatch, wait):
    "Both sources wait for so many seconds."
    monkeypatch.setattr(movielens, '_SOURCES', {k:partial(getattr(f, 'func', f), wait=wait) for k,f in movielens._SOURCES.items()})

def put(files, folder, **kw):
    folder.mkdir(parents=True)
    for n,b in {**files, **kw}.items(): (folder/n).write_bytes(b)

def leftovers(folder):
    "All in the data folder but MovieLens itself and the lock."
    return sorted(o.name for o in folder.parent.iterdir() if o.name not in (folder.name, '.ml-100k.lock')) if folder.parent.exists() else []

def no_source(*args, **kwargs): raise AssertionError('asked the network')

def test_a_local_copy_needs_no_network(home, files, monkeypatch):
    put(files, home)
    monkeypatch.setattr(movielens, '_SOURCES', dict(none=no_source))
    assert movielens_100k() == home
    assert leftovers(home) == [] and not home.with_name('.ml-100k.lock').exists()

def test_grouplens_comes_first(home, files, ml_zip, monkeypatch):
    with serving({'/ml-100k.zip':ml_zip}) as (url,asked):
        monkeypatch.setattr(URLs, 'ML_100k', f'{url}/ml-100k.zip')
        monkeypatch.setitem(movielens._SOURCES, list(movielens._SOURCES)[1], no_source)
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
    monkeypatch.setattr(movielens, '_SOURCES', dict(none=lambda: {}))
    with pytest.raises(DataUnavailableError, match='a copy in'): movielens_100k()
    assert ({o.name:o.read_bytes() for o in home.iterdir()} if home.is_dir() else home.read_bytes()) == before   # no better one: nothing is moved
    monkeypatch.setattr(movielens, '_SOURCES', dict(good=lambda: files))
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
        monkeypatch.setattr(movielens, '_SOURCES', {"GroupLens' zip":movielens._from_grouplens, **second})
        home.parent.mkdir(parents=True)
        movielens._fetch(home, tried)
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
    "As they are, both sources would wait for 10 s; here, for less. If they waited for ever, so would this."
    waiting(monkeypatch, 0.3)
    with answering(None) as url:
        monkeypatch.setattr(URLs, 'ML_100k', f'{url}/ml-100k.zip')
        monkeypatch.setenv('PIP_INDEX_URL', url)
        with pytest.raises(DataUnavailableError) as e: movielens_100k()
    assert re.search("zip: TimeoutError: ", str(e.value)) and re.search('PyPI: ', str(e.value))
    assert leftovers(home) == []

def test_a_host_that_falls_silent_midway_is_given_up_on(home, ml_zip):
    go_on = threading.Event()
    with serving({'/z':ml_zip}, midway=lambda path: go_on.wait(LIMIT)) as (url,_):
        with pytest.raises(TimeoutError): movielens._read_url(f'{url}/z', wait=0.3)
        go_on.set()

def test_a_folder_of_your_own(home, files, tmp_path, monkeypatch):
    monkeypatch.setattr(movielens, '_SOURCES', dict(none=no_source))
    put(files, tmp_path/'mine')
    assert movielens_100k(tmp_path/'mine') == movielens_100k(str(tmp_path/'mine')) == tmp_path/'mine'
    assert len(movielens_ratings(path=str(tmp_path/'mine'))) == 100_000
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
    monkeypatch.setattr(movielens, '_SOURCES', {k:lambda: calls.append(1) or files for k in 'ab'})
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(DataUnavailableError, match='No space left'): movielens_100k()
    assert calls == [1] and leftovers(home) == []

# each file is the published one, wherever it comes from

flipped = lambda b: b[:len(b)//2]+bytes([b[len(b)//2]^1])+b[len(b)//2+1:]
DAMAGE = dict(flipped=flipped, cut=lambda b: b[:-1], empty=lambda b: b'', longer=lambda b: b+b'\n', other=lambda b: b'1|x\n', binary=lambda b: bytes(range(256)), long=lambda b: bytes(10**7+1))

@pytest.mark.parametrize('damage', [*DAMAGE,'a folder','unreadable'])
@pytest.mark.parametrize('name', ML_FILES)
def test_a_damaged_copy_is_fetched_anew_or_named(home, files, tmp_path, monkeypatch, name, damage):
    if damage=='unreadable' and (os.name=='nt' or os.geteuid()==0): pytest.skip('nothing is unreadable for this user')
    for folder in (home, tmp_path/'mine'):
        put(files, folder)
        if damage=='a folder':
            (folder/name).unlink()
            (folder/name).mkdir()
        elif damage=='unreadable': (folder/name).chmod(0)
        else: (folder/name).write_bytes(DAMAGE[damage](files[name]))
    monkeypatch.setattr(movielens, '_SOURCES', {})
    for path in (None, tmp_path/'mine'):
        for read in (movielens_100k, movielens_ratings, movielens.movielens_movies, movielens.movielens_users):
            with pytest.raises(DataUnavailableError, match=f'{name} (is not the published file|missing)'): read(path=path)
    monkeypatch.setattr(movielens, '_SOURCES', dict(good=lambda: files))
    assert movielens_100k() == home and {f:(home/f).read_bytes() for f in ML_FILES} == files

@pytest.mark.parametrize('name', ML_FILES)
def test_each_file_of_a_source_is_verified(home, files, monkeypatch, name):
    "From GroupLens' zip and from the wheel; both are named, nothing is put in place"
    bad = {**files, name:flipped(files[name])}
    if name=='u.genre': bad['u.item'] = flipped(files['u.item'])   # the wheel has no file of genres
    with serving({'/z':as_zip(bad)}) as (url,_), pypi(bad) as (index,_):
        monkeypatch.setattr(URLs, 'ML_100k', f'{url}/z')
        monkeypatch.setenv('PIP_INDEX_URL', index)
        with pytest.raises(DataUnavailableError) as e: movielens_100k()
    grouplens,wheel = re.findall('^- (?:GroupLens|the wheel).*', str(e.value), re.M)
    assert name in grouplens and 'SHA-256' in grouplens and 'PyPI: ' in wheel
    assert not home.exists() and leftovers(home) == []

def test_what_is_made_from_the_wheel_is_known(files):
    made = movielens._from_wheel(io.BytesIO(as_wheel(files)))
    assert movielens._why_unusable(made) == '' and movielens._why_unusable(files) == ''

# zips that are not what they should be

def with_flags(raw, flags):
    "Every member marked, as if it were encrypted"
    raw = bytearray(raw)
    for mark,at in ((b'PK\x03\x04',6),(b'PK\x01\x02',8)):
        start = -1
        while (start := raw.find(mark, start+1))>=0: raw[start+at] |= flags
    return bytes(raw)

def packed(files, how=zipfile.ZIP_DEFLATED, prefix='ml-100k/'):
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w', how) as z:
        for n,b in files.items(): z.writestr(prefix+n, b)
    return f.getvalue()

def lying(files):
    "u.data says that it is 100 bytes long"
    raw = bytearray(packed(files))
    at = raw.find(b'PK\x01\x02')
    raw[at+24:at+28] = struct.pack('<I', 100)
    return bytes(raw)

ZIPS = dict(encrypted=lambda o: with_flags(packed(o), 1), bzip2=lambda o: packed(o, zipfile.ZIP_BZIP2), lzma=lambda o: packed(o, zipfile.ZIP_LZMA), bomb=lambda o: packed({**o, 'u.data':bytes(3*10**7)}),
            ratio=lambda o: packed({**o, 'u.user':bytes(5*10**6)}), lying=lying, lacking=lambda o: packed({k:v for k,v in o.items() if k!='u.genre'}), elsewhere=lambda o: packed(o, prefix='x/'),
            empty=lambda o: packed({}), no_text=lambda o: b'PK\x05\x06', cut=lambda o: packed(o)[:-30], long=lambda o: packed(o)+bytes(10**7))

def second_source(home, files, monkeypatch, url):
    "What is said of GroupLens' zip at `url`, when the next source is good"
    tried = []
    monkeypatch.setattr(URLs, 'ML_100k', url)
    monkeypatch.setattr(movielens, '_SOURCES', {"GroupLens' zip":partial(movielens._from_grouplens, wait=LIMIT), 'next':lambda: files})
    home.parent.mkdir(parents=True, exist_ok=True)
    movielens._fetch(home, tried)
    assert (home/'u.data').read_bytes() == files['u.data'] and leftovers(home) == []
    return tried

@pytest.mark.parametrize('kind', ZIPS)
def test_an_odd_zip_is_passed_over(home, files, monkeypatch, kind):
    with serving({'/z':ZIPS[kind](files)}) as (url,_): tried = second_source(home, files, monkeypatch, f'{url}/z')
    assert len(tried) == 1 and re.match(r"GroupLens' zip: \w+.*", tried[0])
    if kind in ('encrypted','bzip2','lzma','bomb','ratio'): assert 'ValueError: ml-100k/u.' in tried[0]

def test_only_the_files_needed_are_unpacked(home, files, monkeypatch):
    "What else is in the zip may be what it will"
    more = {**files, 'bomb':bytes(10**9//50), '../../evil':b'x', 'u1.base':b''}
    with serving({'/z':packed(more)}) as (url,_): assert second_source(home, files, monkeypatch, f'{url}/z') == []
    assert sorted(o.name for o in home.iterdir()) == sorted(ML_FILES)

@pytest.fixture(scope='module')
def small_zip(): return packed({**dict.fromkeys(ML_FILES, b'1|2\n'*20), 'more':b'x'})

@settings(max_examples=300)
@given(data=st.data())
def test_no_zip_escapes(small_zip, data):
    "Whatever bytes a source sends, the next one is tried"
    raw = bytearray(small_zip)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)-1))
        raw[at:at+data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not raw: raw = bytearray(1)
    tried,was = [],(movielens._read_url,movielens._SOURCES)
    movielens._read_url,movielens._SOURCES = (lambda *args: bytes(raw)),dict(zip=movielens._from_grouplens)
    try:
        with pytest.raises(DataUnavailableError): movielens._fetch(Path('nowhere'), tried)
    finally: movielens._read_url,movielens._SOURCES = was
    assert len(tried) == 1

@pytest.mark.parametrize('error', [RuntimeError('x'), MemoryError(), struct.error('x'), UnicodeDecodeError('utf-8', b'x', 0, 1, 'x'), RecursionError(), ZeroDivisionError(), AttributeError('x'), IndexError(), OverflowError()], ids=repr)
def test_whatever_a_source_raises_the_next_is_tried(home, files, monkeypatch, error):
    def bad(): raise error
    monkeypatch.setattr(movielens, '_SOURCES', dict(bad=bad, good=lambda: files))
    assert movielens_100k() == home

# hosts without end

@contextlib.contextmanager
def endless(piece, head=b'', pause=0):
    "A server that sends `head`, and then `piece` for ever, every `pause` seconds; gives its address, and an event that is set when its caller has hung up"
    with socket.create_server(('127.0.0.1', 0)) as s:
        gone = threading.Event()
        def work():
            with contextlib.suppress(OSError):
                c,_ = s.accept()
                try:
                    c.recv(2**16)
                    c.sendall(b'HTTP/1.1 200 OK\r\n'+head+b'\r\n')
                    while True:
                        c.sendall(piece)
                        gone.wait(pause)
                except OSError: gone.set()
                finally: c.close()
        threading.Thread(target=work, daemon=True).start()
        yield f'http://127.0.0.1:{s.getsockname()[1]}/z',gone

def test_a_host_that_drips_is_given_up_on_in_the_end():
    "It is never silent for long, so only the time for the whole ends this"
    with endless(b'x', pause=0.01) as (url,gone):
        with pytest.raises(TimeoutError, match='not all there'): movielens._read_url(url, wait=LIMIT, total=0.3)
        assert gone.wait(LIMIT)   # nobody goes on reading behind our back

@pytest.mark.parametrize('head', [b'', b'Content-Length: 99999999999\r\n', b'Content-Length: -5\r\n', b'Content-Length: x\r\n'], ids=str)
def test_a_stream_without_end_is_cut(home, files, monkeypatch, head):
    with endless(bytes(2**16), head) as (url,gone):
        tried = second_source(home, files, monkeypatch, url)
        assert 'bytes that are allowed' in tried[0] and gone.wait(LIMIT)

def test_no_more_is_read_than_was_said(files):
    "A length that is right is enough; a host that says less than it sends is believed"
    with serving({'/z':b'x'*1000}) as (url,_): assert movielens._read_url(f'{url}/z', wait=LIMIT) == b'x'*1000
    with endless(b'y'*1000, b'Content-Length: 1000\r\n') as (url,_): assert movielens._read_url(url, wait=LIMIT) == b'y'*1000
    class Said:   # what does not keep to the length that it declared
        headers = {'Content-Length':'1000'}
        def read1(self, n): return b'x'*600
    got = movielens._chunks(Said(), threading.Event())
    assert [len(next(got)),len(next(got))] == [600,600]
    with pytest.raises(OSError, match='1,500 bytes'): next(got)

@pytest.mark.skipif(os.name=='nt', reason='there are no limits for a process')
def test_pip_is_cut_too(home, monkeypatch):
    "The wheel has no end"
    name = 'recbole-1.2.1-py3-none-any.whl'
    with endless(bytes(2**16), b'Content-Type: application/octet-stream\r\n') as (wheel,gone):
        with serving({'/recbole/':f'<a href="{wheel[:-1]}{name}">{name}</a>'.encode()}) as (index,_):
            monkeypatch.setenv('PIP_INDEX_URL', index)
            with pytest.raises(OSError, match='too large|Errno 27'): movielens._from_pypi(wait=LIMIT)
        assert gone.wait(LIMIT)

# several processes: each tells the server where it stands, and stands still until it is answered

_child = '''
import os
os.environ.update({env!r})
import collab_notes.movielens as movielens
from functools import partial
from pathlib import Path
from urllib.request import urlopen
movielens.URLs.ML_100k = {url!r}+'/z'
movielens._SOURCES = dict(zip=partial(movielens._from_grouplens, wait={wait}))
def at(where): urlopen({url!r}+where, timeout={wait}).read()
{more}
print(len(movielens.movielens_ratings()), file=open({out!r}, 'w'))
'''

def child(home, url, out, more=''): return _child.format(env=dict(FASTAI_HOME=str(home.parents[1])), url=url, out=str(out), wait=LIMIT, more=more)

_tell_at_the_lock = '''
lock = movielens.FileLock
def told(*args, **kwargs):
    at('/lock')
    return lock(*args, **kwargs)
movielens.FileLock = told
'''

def test_processes_that_start_together_fetch_once(home, ml_zip, start, tmp_path):
    "None gets the second half before all four have found that there is no copy, and go for the lock."
    at_the_lock = threading.Semaphore(0)
    def midway(path):
        if path=='/lock': at_the_lock.release()
        else:
            for _ in range(4): at_the_lock.acquire(timeout=LIMIT)
    with serving({'/z':ml_zip, '/lock':b'go on'}, midway) as (url,asked):
        ps = [start(child(home, url, tmp_path/f'out{i}', _tell_at_the_lock)) for i in range(4)]
        for p in ps: p.join(LIMIT)
        assert [p.exitcode for p in ps] == [0]*4
    assert sorted(asked) == ['/lock']*4+['/z']
    assert [(tmp_path/f'out{i}').read_text() for i in range(4)] == ['100000\n']*4
    assert leftovers(home) == []

_stop_in_writing = '''
whole = Path.write_bytes
def write_bytes(self, b):
    whole(self, b[:len(b)//2])
    at('/half_written')
    whole(self, b)
Path.write_bytes = write_bytes
'''

@pytest.mark.parametrize('where', ['/z','/half_written'], ids=['downloading','writing'])
def test_a_process_that_is_killed_leaves_nothing_half_there(home, ml_zip, start, tmp_path, where):
    "It is killed while it waits for the answer of the server, which does not come."
    there,go_on = threading.Event(),threading.Event()
    def midway(path):
        if path==where:
            there.set()
            go_on.wait(LIMIT)
    with serving({'/z':ml_zip, '/half_written':b'go on'}, midway) as (url,_):
        p = start(child(home, url, tmp_path/'out', _stop_in_writing))
        assert there.wait(LIMIT), 'it never came so far'
        p.kill()
        p.join(LIMIT)
        go_on.set()
    assert p.exitcode < 0 and not home.exists() and not (tmp_path/'out').exists()
    assert len(leftovers(home)) == (where=='/half_written')
    with serving({'/z':ml_zip}) as (url,_):
        p = start(child(home, url, tmp_path/'out'))
        p.join(LIMIT)
    assert p.exitcode == 0 and (tmp_path/'out').read_text() == '100000\n'
    assert leftovers(home) == []

# its folds

def test_official_fold_wants_the_order_of_the_file():
    df = movielens_ratings(titles=True)
    assert official_fold(df, 2)[1].tolist() == list(range(20_000, 40_000))
    assert official_fold(df.astype({'user':str}), 2)[1].tolist() == list(range(20_000, 40_000))
    for o in (df.sort_values('timestamp'), df.sample(frac=1, random_state=0), df.assign(user=range(100_000))):
        with pytest.raises(RatingsError, match='order'): official_fold(o)
    with pytest.raises(RatingsError, match='100,000'): official_fold(df[:4])
    for k in 0, 6, 1.5:
        with pytest.raises(SettingError): official_fold(df, k)
