"""The command where the world is against it: streams that are closed or full, folders that can't be written, texts that are commands, and whatever people type"""
import io, json, os, re, signal, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from collab_notes.cli import COMMANDS
from collab_notes.files import load, save
from conftest import LIMIT, drawn_not_rendered, surface_of
from forked import Forked
from test_cli import check_mistake, check_saved, full_pipe, in_process, own, some_ratings

unix = pytest.mark.skipif(os.name=='nt', reason='pipes, devices and rights of Unix')
few = '--n-epoch','1','--n-factors','2'

@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch): drawn_not_rendered(monkeypatch)

@pytest.fixture(scope='module')
def base(tmp_path_factory, own):
    "A folder with a table, a model, facts, and nothing else"
    tmp = tmp_path_factory.mktemp('base')
    (tmp/'own.csv').write_text(own, encoding='utf-8')
    with pytest.MonkeyPatch.context() as m:
        drawn_not_rendered(m)
        r = in_process('train', 'own.csv', *few, '--out', 'mine', cwd=tmp)
    assert (r.code, r.err)==(0, '')
    (tmp/'people.csv').write_text('customer,kind,age\n'+''.join(f'c{o:03d},{"odd" if o%2 else "even"},{20+o}\n' for o in range(60)))
    return tmp

@pytest.fixture
def run(base): return lambda *args, **kwargs: in_process(*args, cwd=base, **kwargs)

def spawn(*args, cwd, before='', env=None, **kwargs):
    "The command in a process of its own, after some code"
    code = f'import sys\n{before}\nfrom collab_notes.cli import main\nsys.exit(main())'
    env = {k:v for k,v in os.environ.items() if k not in ('PYTHONIOENCODING','PYTHONUTF8','LC_ALL','LANG')} | (env or {})
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=cwd, env=env, timeout=LIMIT, **kwargs)

DRAWN = "import matplotlib.figure\nmatplotlib.figure.Figure.savefig = lambda self, to, **kwargs: to.write(b'\\x89PNG'*500)"

# saved first, then told

@pytest.fixture(scope='module')
def forked(tmp_path_factory):
    res = Forked(tmp_path_factory.mktemp('forked'))
    yield res
    res.close()

CLOSED = 'os.close(%d); sys.%s = None'

@unix
@pytest.mark.parametrize('stdout,encoding', [('gone','utf-8'), ('full','utf-8'), ('closed','utf-8'), ('there','ascii')])
def test_training_outlives_its_standard_output(forked, tmp_path, stdout, encoding):
    "A reader that has gone, a full disk, a closed stream, one that has no bytes for `é`: the model is saved"
    src = some_ratings().assign(product=lambda o: o['product']+' ✓')
    src.to_csv(tmp_path/'r.csv', index=False)
    (tmp_path/'c').mkdir()
    out = dict(gone=full_pipe, full=lambda: os.open('/dev/full', os.O_WRONLY)).get(stdout, lambda: None)()
    try: r = forked.run('train', 'r.csv', *few, '--out', 'm', cwd=tmp_path, stdout=out, encoding=encoding, before=DRAWN+('\n'+CLOSED % (1,'stdout') if stdout=='closed' else ''))
    finally:
        if out is not None: os.close(out)
    m = check_saved(tmp_path/'m', r)
    assert 'x0 é ✓' in m.classes['product'] and 'Traceback' not in r.stderr and 'Exception' not in r.stderr
    if stdout=='full': assert r.returncode==2 and 'the work is done' in r.stderr and 'No space left' in r.stderr and r.stderr.count('\n')==1
    else: assert (r.returncode,r.stderr)==(0, '')
    if stdout=='there': assert r'\u2713' in r.stdout.decode(encoding)

@unix
def test_data_that_nobody_can_take(forked, base):
    "Data on a full disk is an error, to a reader that has gone the usual silence; on an ASCII stream data stays UTF-8"
    run = lambda *args, **kwargs: forked.run('recommend', 'mine', *args, cwd=base, **kwargs)
    with open('/dev/full', 'w') as full: r = run('-n', '1', '--format', 'csv', stdout=full.fileno())
    assert r.returncode==2 and 'No space left' in r.stderr and r.stderr.count('\n')==1
    r = run('-n', '1', '--format', 'csv', encoding='ascii')
    assert (r.returncode,r.stderr)==(0,'') and ' é' in pd.read_csv(io.BytesIO(r.stdout))['product'][0]
    r = run('-n', '1', before=CLOSED % (1,'stdout'))
    assert r.returncode==2 and 'closed' in r.stderr and r.stderr.count('\n')==1
    r = run('-', before=CLOSED % (0,'stdin'))
    assert r.returncode==2 and 'standard input is closed' in r.stderr and r.stderr.count('\n')==1

# checked first, then worked for

WRITERS = [('train','own.csv',*few,'--out'), ('recommend','mine','c002','--format','csv','--out'), ('similar','mine','x1 é','--min-ratings','1','--format','csv','--out'), ('explain','mine','c002','x1 é','--format','csv','--out'),
           ('evaluate','mine','--format','csv','--out'), ('new-user','mine','x1 é=4','--format','csv','--out'), ('new-user','mine','x1 é=4','--name','me','--save'), ('plot','mine','--n-labels','0','--out')]

def tree(folder): return sorted(str(o.relative_to(folder)) for o in folder.rglob('*'))

@pytest.mark.parametrize('args', WRITERS, ids=lambda o: ' '.join((o[0],o[-1])))
@pytest.mark.parametrize('where', ['a folder in its place','no folder','read-only','a file above'])
def test_a_place_that_cannot_be_written_is_told_before_the_work(run, base, tmp_path, monkeypatch, args, where):
    import collab_notes.files as files, collab_notes.training as training
    name = 'x.png' if args[0]=='plot' else 'x'
    (tmp_path/'file').touch()
    if where=='a folder in its place':
        path = tmp_path/'out' if args[0]=='train' else tmp_path/name
        (path/'model.safetensors' if '--save' in args or args[0]=='train' else path).mkdir(parents=True)
    elif where=='a file above': path = tmp_path/'file'/name
    elif where=='no folder':
        if args[0]=='train': pytest.skip('it makes folders')
        path = tmp_path/'nowhere'/name
    else:
        path = tmp_path/name
        if args[0]=='train': path.mkdir()
        def refuse(*args, **kwargs): raise PermissionError(13, 'Permission denied', str(path))   # root may write anywhere
        monkeypatch.setattr('tempfile.mkstemp', refuse)
    for mod,work in ((files,'load'), (training,'fit')):
        monkeypatch.setattr(mod, work, lambda *args, **kwargs: pytest.fail('it has begun to work'))
    before = tree(tmp_path)
    r = run(*args, path)
    assert r.code==2 and r.err.count('\n')==1 and r.err.startswith('collab-notes: ') and tree(tmp_path)==before, r.err

def test_a_run_that_fails_leaves_no_folder(run, base, tmp_path, monkeypatch):
    import collab_notes.training as training
    (tmp_path/'there').mkdir()
    def fails(*args, **kwargs): raise training.SettingError('no')
    for name in ('new/below','there'):
        with pytest.MonkeyPatch.context() as m:
            m.setattr(training, 'fit', fails)
            assert run('train', 'own.csv', '--out', tmp_path/name).code==2
        assert tree(tmp_path)==['there']
    with pytest.MonkeyPatch.context() as m:   # while saving
        def full(*args, **kwargs): raise OSError(28, 'No space left on device')
        m.setattr('os.replace', full)
        r = run('train', 'own.csv', *few, '--out', tmp_path/'new'/'below')
    assert r.code==2 and 'No space left' in r.err and tree(tmp_path)==['there']

@pytest.mark.parametrize('args', WRITERS, ids=lambda o: ' '.join((o[0],o[-1])))
def test_what_was_there_stays_until_the_new_is_whole(run, base, tmp_path, monkeypatch, args):
    "A disk that is full half-way leaves the old file, and nothing beside it"
    path = tmp_path/('x.png' if args[0]=='plot' else 'x')
    olds = [path/o for o in ('model.safetensors','loss.png','crosstab.png')] if args[0]=='train' else [path]
    if args[0]=='train': path.mkdir()
    for o in olds: o.write_bytes(b'old')
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    r = run(*args, path)
    assert r.code==2 and 'No space left' in r.err and r.err.count('\n')==1 and all(o.read_bytes()==b'old' for o in olds)
    assert tree(tmp_path)==sorted(str(o.relative_to(tmp_path)) for o in ([path,*olds] if args[0]=='train' else olds))

@unix
def test_devices_and_pipes_are_written_not_replaced(run, base, tmp_path):
    fifo = tmp_path/'fifo'
    os.mkfifo(fifo)
    reader = subprocess.Popen(['cat', fifo], stdout=subprocess.PIPE)
    r = run('recommend', 'mine', 'c002', '-n', '1', '--format', 'csv', '--out', fifo)
    assert r.code==0 and b'c002' in reader.communicate(timeout=LIMIT)[0] and fifo.is_fifo()
    assert run('recommend', 'mine', 'c002', '--format', 'csv', '--out', '/dev/null').code==0 and Path('/dev/null').is_char_device()

# nothing is everything to nobody

def test_an_empty_list_is_empty(run, base, tmp_path):
    (tmp_path/'none.txt').write_text('\n \n')
    head = 'customer,product,rank,prediction\n'
    for args in (['mine','-'], ['mine','-','--out','-'], ['mine','c002','--items','-'], ['mine','c002','--items',tmp_path/'none.txt']):
        r = run('recommend', *args, '--format', 'csv', stdin='')
        assert (r.code,r.out)==(0,head), (args,r.out,r.err)
    assert 'it names no item' in r.err
    r = run('recommend', 'mine', '-', stdin='\n')
    assert r.code==0 and 'nothing to show' in r.out and 'Empty DataFrame' not in r.out
    assert json.loads(run('recommend', 'mine', '-', '--format', 'json', stdin='').out)==[]
    few_rated = some_ratings()['product'].value_counts().index[-1]
    (tmp_path/'rare.txt').write_text(few_rated+'\n', encoding='utf-8')
    r = run('recommend', 'mine', 'c002', '--items', tmp_path/'rare.txt', '--min-ratings', '30', '--format', 'csv')
    assert r.code in (0,2) and '--min-ratings' in r.err
    check_mistake(run('new-user', 'mine', '-', stdin=''), 'standard input')
    check_mistake(run('new-user', 'mine', '-', stdin='product,stars\n'), 'no rows')

POLICIES = dict(first=5., last=1., mean=3.)

def test_an_item_that_is_rated_twice(run, base):
    r = run('new-user', 'mine', 'x1 é=5', 'x2 é=4', 'x1 é=1')
    check_mistake(r, "'x1 é' is rated more than once")
    assert '--duplicates' in r.err
    for how,y in POLICIES.items():
        twice,once = (run('new-user', 'mine', *args, '--format', 'csv').out for args in (['x1 é=5','x2 é=4','x1 é=1','--duplicates',how], [f'x1 é={y}','x2 é=4']))
        assert twice==once and twice.count('\n')==11
    kept = run('new-user', 'mine', 'x1 é=5', 'x2 é=4', 'x1 é=1', '--duplicates', 'keep', '--format', 'csv')
    assert kept.code==0 and kept.out!=once
    check_mistake(run('new-user', 'mine', 'x1 é=5', '--duplicates', 'drop'), '--duplicates')

# texts of other people's tables

EVIL = ('A_$1 vs B_$2', '$$', r'$\nosuch$', r'\frac{1}', '\x1b[2J\x1b]0;owned\x07', '\u202egnp.exe', '=cmd|calc', '@SUM(A1)', '<script>alert(1)</script>', '{x} %s %', '_^_', "-1+1")

@pytest.fixture(scope='module')
def evil(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('evil')
    df = some_ratings()
    names = {o:f'{EVIL[k%len(EVIL)]} {k}' for k,o in enumerate(sorted(df['product'].unique()))}
    df.assign(product=df['product'].map(names)).to_csv(tmp/'evil.csv', index=False)
    with pytest.MonkeyPatch.context() as m:
        drawn_not_rendered(m)
        r = in_process('train', 'evil.csv', *few, '--out', 'mine', '--min-ratings', '1', '-n', '40', cwd=tmp)
    assert (r.code,r.err)==(0,'') and not re.search('[\x00-\x08\x0b-\x1f\x7f\u202e]', r.out) and r'\x1b[2J' in r.out
    return tmp

@pytest.mark.parametrize('kind', ['map','biases'])
def test_titles_are_no_formulas(evil, kind, monkeypatch):
    monkeypatch.undo()   # rendered
    r = in_process('plot', 'mine', '--kind', kind, '--n-labels', '40', '--out', f'{kind}.svg', cwd=evil)
    assert (r.code,r.err)==(0,f'Saved {kind}.svg\n')

def test_titles_are_no_commands_of_a_terminal(evil):
    ids = pd.read_csv(evil/'evil.csv')['product']
    bell = next(o for o in ids if '\x07' in o)
    for args in (['recommend','mine','c002','-n','40','--seen'], ['similar','mine',bell,'--min-ratings','1'], ['explain','mine','c002',bell], ['new-user','mine',f'{bell}=9'], ['new-user','mine',f'{bell}=4'], ['recommend','mine','\x1b[2J']):
        r = in_process(*args, cwd=evil)
        assert not re.search('[\x00-\x08\x0b-\x1f\x7f\u202e]', r.out+r.err), args
    raw = in_process('recommend', 'mine', 'c002', '-n', '40', '--seen', '--format', 'csv', cwd=evil).out   # data stays as it is
    assert bell in set(pd.read_csv(io.StringIO(raw))['product'])

def test_csv_for_a_spreadsheet(evil):
    args = 'recommend', 'mine', 'c002', '-n', '40', '--seen', '--min-ratings', '1', '--format', 'csv'
    plain,safe = (pd.read_csv(io.StringIO(in_process(*args, *more, cwd=evil).out))['product'] for more in ([], ['--safe-csv']))
    risky = plain.str[0].isin(list('=+-@'))
    assert risky.sum()>=6 and (safe[risky]=="'"+plain[risky]).all() and (safe[~risky]==plain[~risky]).all()
    out = in_process('recommend', '--help', cwd=evil).out
    assert '--safe-csv' in out and 'spreadsheet' in out

# sizes

def test_sizes_are_cut_to_what_there_is(run, base):
    "Nothing is made for what does not exist"
    for args in (['recommend','mine','c002','--n'], ['recommend','mine','--n'], ['similar','mine','x1 é','--min-ratings','1','--n'], ['explain','mine','c002','x1 é','--n'], ['new-user','mine','x1 é=4','--n'], ['plot','mine','--n-labels'], ['train','own.csv',*few,'--out','sized','--n']):
        for n in ('200000', str(10**12), str(10**30)):
            r = run(*args, n)
            assert r.code==0 and 'Traceback' not in r.err, (args, n, r.err)
            if args[0]=='train': break
    r = run('evaluate', 'mine', '--n', str(10**12))
    assert r.code==0, r.err

# what people type

def test_no_traceback_for_what_people_type(run, base, tmp_path):
    (tmp_path/'latin.txt').write_bytes('x1 é\n'.encode('latin-1'))
    (tmp_path/'empty.csv').touch()
    (tmp_path/'strangers.csv').write_text('customer,age\nz1,3\nz2,4\n')
    (tmp_path/'ragged.csv').write_text('product,stars\nx1 é,3,5\n', encoding='utf-8')
    (tmp_path/'twice.csv').write_text('product,product\nx1 é,3\n', encoding='utf-8')
    (tmp_path/'wide.txt').write_bytes('x1 é\n'.encode('utf-16'))
    L = tmp_path/'latin.txt'
    for args,says in ((['recommend','mine','c002','--items',L], 'line 1: it is not in UTF-8'), (['new-user','mine',tmp_path/'empty.csv'], 'empty'), (['new-user','mine',tmp_path/'ragged.csv'], 'line 2'), (['new-user','mine',tmp_path/'twice.csv'], "'product'"),
                      (['new-user','mine','--about',tmp_path/'strangers.csv','--facts','age=3'], "knows none of these users ('z1', 'z2'"), (['new-user','mine','--about','people.csv','--facts','age=1e300'], 'age'), (['new-user','mine','--about','people.csv','--facts','age=nan'], 'age'),
                      (['new-user','mine','--about','people.csv','--facts',''], '--facts'), (['train','own.csv','--sep',''], '--sep'), (['train','own.csv','--out',''], '--out'), (['recommend','mine','c002','--out',''], '--out'), (['plot','mine','--out',''], '--out'), (['train',''], ''),
                      (['new-user','mine','x1 é=4','--save',tmp_path/'s','--name',''], '--name'), (['new-user','mine','x1 é=4','--save',tmp_path/'s','--name','#na#'], '#na#'), (['recommend','mine','c002','--n','1_0'], '1_0'), (['recommend','mine','c002','--min-ratings','-1'], '--min-ratings'),
                      (['similar','mine','x1 é','--min-ratings','-1'], '--min-ratings'), (['new-user','mine','x1 é=4','--min-ratings','-1'], '--min-ratings'), (['train','own.csv','--min-ratings','-1'], '--min-ratings'), (['recommend','mi\0ne'], 'zero byte')):
        check_mistake(run(*args), says)
    r = run('recommend', 'mine', '-', stdin='c002\n\xe9\n'.encode('latin-1'))
    check_mistake(r, 'standard input, line 2')
    assert run('recommend', 'mine', 'c002', '--seen', '--items', tmp_path/'wide.txt', '--min-ratings', '1').code==0

def test_ids_that_are_numbers_are_typed_as_they_are_printed(tmp_path):
    save(surface_of(), tmp_path/'numbers')
    go = lambda name: in_process('new-user', 'numbers', '3=2', '--save', 'more', '--name', name, cwd=tmp_path)
    for o in ('1_000','007','+5','٣',' 5','5.0','1e3'): check_mistake(go(o), 'digits only')
    assert go('1000').code==0 and load(tmp_path/'more').classes['user'][-1]==1000
    for args in (['recommend','numbers','99'], ['similar','numbers','99'], ['explain','numbers','1','99','--ratings','r.csv'], ['new-user','numbers','99=3'], ['new-user','numbers','3=9999']):
        (tmp_path/'r.csv').write_text('user,item,rating\n1,2,3\n2,3,4\n')
        r = in_process(*args, cwd=tmp_path)
        assert r.code==2 and 'np.' not in r.err

def test_the_unforeseen_is_one_line_and_a_file(run, base, monkeypatch):
    monkeypatch.setattr('collab_notes.files.load', lambda path: 1/0)
    r = run('recommend', 'mine', 'c002')
    assert r.code==70 and r.err.count('\n')==1 and 'ZeroDivisionError' in r.err and r.out==''
    file = Path(re.search(r'is in (\S+): please report', r.err)[1])
    try: assert 'Traceback' in file.read_text() and '1/0' in file.read_text()
    finally: file.unlink()

@unix
@pytest.mark.parametrize('module', ['fastcore.script','numpy','torch','fastai.basics'])
def test_interrupted_while_libraries_load(base, tmp_path, module):
    "Ctrl-C comes when `module` is looked for, whatever the libraries make of it"
    before = f"""import importlib.abc, os, signal
class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name=={module!r}: os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Hook())"""
    r = spawn('train', base/'own.csv', *few, '--out', 'm', cwd=tmp_path, before=before, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (r.returncode,r.stderr)==(130,'collab-notes: interrupted\n') and not tree(tmp_path)

word = st.one_of(st.sampled_from(['mine','own.csv','people.csv','c002','x1 é','x1 é=4','x1 é=nan','-','','.','..','/','/dev/null','#na#','0','-1','1e9','99999999999999999999','nan','inf','kind=odd','age=','=','a,b','csv','json','parquet','table','\udce9','\u2028','$x$','*','%s','{}']), st.text(max_size=8))
options = {k:[f"--{o.replace('_','-')}" for o in __import__('inspect').signature(f).parameters] for k,f in COMMANDS.items() if k not in ('train','serve')}   # `serve` would go on for ever: see test_page.py

@st.composite
def typed(draw):
    cmd = draw(st.sampled_from(sorted(options)))
    args = [cmd] + (['mine'] if draw(st.integers(0, 5)) else [])
    for _ in range(draw(st.integers(0, 5))): args += [draw(st.sampled_from(options[cmd]))]*draw(st.integers(0, 1)) + [draw(word)]
    return [o for o in args if o not in ('--out','--save')],draw(st.one_of(st.just(b''), st.binary(max_size=20), word.map(lambda o: o.encode('utf-8', 'surrogateescape'))))

@given(typed())
@settings(max_examples=60)
def test_any_words_in_any_order(base, what):
    "An answer, or one line that says what is wrong"
    args,stdin = what
    with pytest.MonkeyPatch.context() as m:
        drawn_not_rendered(m)
        r = in_process(*args, cwd=base, stdin=stdin)
    for o in ('map','biases','crosstab'): (base/f'{o}.png').unlink(missing_ok=True)
    assert r.code in (0,2) and 'Traceback' not in r.err, (args, stdin, r.err)
    if r.code: assert r.err.splitlines()[-1].startswith('collab-notes: ')

rough = st.one_of(st.binary(max_size=60), st.lists(st.lists(st.sampled_from(['user','item','rating','customer','product','stars','c002','x1 é','1','5','3.5','','nan','é','"',"'",'#','1e400','2020-01-01','$']), max_size=5), max_size=6).flatmap(
    lambda rows: st.sampled_from([',',';','\t',' ']).map(lambda sep: '\n'.join(sep.join(o) for o in rows).encode())))

@given(rough, st.sampled_from(['train','new-user','recommend','--items','--ratings','--about','evaluate']))
@settings(max_examples=60)
def test_any_file(base, raw, where):
    "A file of anything is read, or refused in one line"
    (base/'rough').write_bytes(raw)
    args = {'train':['train','rough',*few,'--out','rough-model'], 'new-user':['new-user','mine','rough'], 'recommend':['recommend','mine','-'], '--items':['recommend','mine','c002','--items','rough'], '--ratings':['recommend','mine','c002','--ratings','rough'],
            '--about':['new-user','mine','--about','rough','--facts','age=3'], 'evaluate':['evaluate','mine','rough']}[where]
    with pytest.MonkeyPatch.context() as m:
        drawn_not_rendered(m)
        r = in_process(*args, cwd=base, stdin=raw if where=='recommend' else b'')
    assert r.code in (0,2) and 'Traceback' not in r.err, (args, raw, r.err)

@unix
@pytest.mark.parametrize('after', [0.02, 0.1])
def test_interrupted_before_it_can_speak(base, tmp_path, after):
    "As `python -m collab_notes`, or the script: in its first moments Ctrl-C ends the command without a word, later with one. (Nothing depends on which)"
    p = subprocess.Popen([sys.executable, '-c', 'import os, signal\nfrom collab_notes.__main__ import start\nprint("on", flush=True)\nstart()', 'train', 'nowhere.csv'], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stdout.readline()
    try: p.wait(after)
    except subprocess.TimeoutExpired: p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=LIMIT)[1]
    assert 'Traceback' not in err and (p.returncode,err) in ((130,'collab-notes: interrupted\n'), (-signal.SIGINT,'')) or p.returncode==2
