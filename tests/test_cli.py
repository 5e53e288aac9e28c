"""The installed command: what it prints, what it leaves behind, and how it takes mistakes."""
import json, multiprocessing, os, re, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from collab_notes import __version__

_run = "import sys; from collab_notes.cli import main; sys.exit(main())"
_script = Path(sys.executable).parent/('collab-notes.exe' if os.name=='nt' else 'collab-notes')
command = [str(_script)] if _script.exists() else [sys.executable, '-c', _run]

class Result:
    def __init__(self, code, out, err): self.code,self.out,self.err = code,out,err

def installed(*args, cwd):
    "Run the command as a user does."
    r = subprocess.run([*command, *map(str, args)], cwd=cwd, capture_output=True, text=True, encoding='utf-8', timeout=300, stdin=subprocess.DEVNULL, env={**os.environ, 'PYTHONIOENCODING':'utf-8'})
    return Result(r.returncode, r.stdout, r.stderr)

_child = '''
import os, sys
os.chdir({cwd!r})
for fd,name in ((1,'out'), (2,'err')): os.dup2(os.open({folder!r}+'/'+name, os.O_WRONLY|os.O_CREAT|os.O_TRUNC), fd)
sys.stdout,sys.stderr = (open(fd, 'w', encoding='utf-8', closefd=False) for fd in (1,2))
sys.argv = ['collab-notes', *{args!r}]
import torch
torch.set_num_threads(1)
{run}
'''

def forked(*args, cwd, folder):
    "The same in a process forked from one that has torch loaded: it has its own arguments, folder, streams and exit code, but starts at once."
    ctx = multiprocessing.get_context('forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn')
    ctx.set_forkserver_preload(['collab_notes.training', 'collab_notes.latent', 'torch._dynamo', 'matplotlib.backends.backend_agg'])
    p = ctx.Process(target=exec, args=(_child.format(cwd=str(cwd), folder=str(folder), args=[*map(str, args)], run=_run), {'__name__':'child'}))
    p.start()
    p.join(300)
    return Result(p.exitcode, *((Path(folder)/o).read_text(encoding='utf-8') for o in ('out','err')))

@pytest.fixture
def run(tmp_path, tmp_path_factory):
    streams = tmp_path_factory.mktemp('streams')
    return lambda *args: forked(*args, cwd=tmp_path, folder=streams)

def some_ratings():
    rng = np.random.default_rng(0)
    pairs = rng.permutation(60*40)[:1000]
    u,i = pairs//40,pairs%40
    y = np.clip(3 + np.where((u%2==0)==(i<20), 1.5, -1.5) + rng.normal(0, 0.5, len(u)), 1, 5).round().astype(int)
    return pd.DataFrame(dict(customer=[f'c{o:03d}' for o in u], product=[f'{"xy"[int(o>=20)]}{o} é' for o in i], stars=y, date=(pd.Timestamp('2020-01-01')+pd.to_timedelta(rng.permutation(len(u)), unit='h')).strftime('%Y-%m-%d %H:%M')))

@pytest.fixture(scope='module')
def own():
    return some_ratings().to_csv(index=False)

@pytest.fixture(autouse=True)
def here(tmp_path, own): (tmp_path/'own.csv').write_text(own, encoding='utf-8')

saved = ['crosstab.png','loss.png','model.json','model.npz']
fast = '--n-epoch','12','--n-factors','5'

# help

def test_help_does_not_load_what_it_does_not_need(tmp_path):
    code = "import sys; from collab_notes.cli import main\ntry: main({args})\nexcept SystemExit as e: assert not e.code\nprint('LOADED', [o for o in ('torch','fastai','pandas','numpy','matplotlib') if o in sys.modules])"
    for args in (['--help'], [], ['--version'], ['train','--help']):
        out = subprocess.run([sys.executable, '-c', code.format(args=args)], cwd=tmp_path, capture_output=True, text=True, encoding='utf-8', check=True, env={**os.environ, 'PYTHONIOENCODING':'utf-8'}).stdout
        assert out.endswith('LOADED []\n')

@pytest.mark.parametrize('args', [['--help'], ['-h'], ['help'], []])
def test_help(tmp_path, args):
    r = installed(*args, cwd=tmp_path)
    assert (r.code, r.err) == (0, '')
    for o in ('usage: collab-notes COMMAND', 'train', __version__): assert o in r.out

def test_version(tmp_path):
    r = installed('--version', cwd=tmp_path)
    assert (r.code, r.out, r.err) == (0, f'collab-notes {__version__}\n', '')

def test_help_of_train_names_each_option(tmp_path):
    import inspect
    from collab_notes.cli import train
    r = installed('train', '--help', cwd=tmp_path)
    assert (r.code, r.err) == (0, '')
    for o in inspect.signature(train).parameters:
        if o!='file': assert f'--{o}' in r.out.replace('-', '_').replace('__', '--')
    assert max(map(len, r.out.splitlines())) <= 200

# training

def check_saved(folder, s):
    assert sorted(o.name for o in folder.iterdir()) == saved
    for o in saved[:2]: assert (folder/o).read_bytes()[:4] == b'\x89PNG'
    about = json.loads((folder/'model.json').read_text(encoding='utf-8'))
    with np.load(folder/'model.npz') as z: arrays = {k:z[k] for k in z}
    assert sorted(arrays) == ['item_bias','item_factors','user_bias','user_factors']
    (u,users),(i,items) = about['classes'].items()
    assert users[0] == items[0] == '#na#' and len(users) == len(arrays['user_factors']) == len(arrays['user_bias']) and len(items) == len(arrays['item_factors'])
    assert all(np.isfinite(o).all() for o in arrays.values())
    return about,arrays

def test_train_on_a_file_as_a_user_does(tmp_path):
    r = installed('train', 'own.csv', *fast, '--user', 'c002', '--n', '4', '--min_ratings', '5', '--out', 'mine', cwd=tmp_path)
    assert (r.code, r.err) == (0, '')
    for o in ('own.csv: 1,000 ratings of 40 items (product) by 60 users (customer)', 'global mean', 'user + item means', 'this model', 'valid MSE', 'Highest item biases', 'Lowest', 'For user c002', 'Saved in mine: '+', '.join(saved)):
        assert o in r.out
    assert 'chapter' not in r.out and re.search(r'^ *epoch', r.out, re.M)
    assert 'Epoch' not in r.out and '█' not in r.out   # a pipe gets the table, not the moving bar
    assert not [o for o in ('Traceback', 'Warning') if o in r.out]
    losses = {k:float(re.search(rf'^{re.escape(k)} +(\d\.\d+)', r.out, re.M)[1]) for k in ('global mean','user + item means','this model')}
    assert losses['this model'] < losses['global mean'] and losses['this model'] < losses['user + item means']
    top = r.out.split('For user c002')[1].split('Saved in')[0].strip().splitlines()[2:]
    df = some_ratings()
    seen = set(df['product'][df.customer=='c002'])
    names = [o.split('  ')[0].strip() for o in top]
    assert len(top) == 4 and not [o for o in names if o in seen] and set(names) <= set(df['product'])
    about,_ = check_saved(tmp_path/'mine', r)
    assert about['data'] == 'own.csv' and about['seed'] == 42 and abs(about['valid_mse']-losses['this model']) < 1e-3
    assert 'x0 é' in about['classes']['product'] and sorted(o.name for o in tmp_path.iterdir()) == ['mine','own.csv']

def timeless(out):
    "What was printed, without the times in the table of epochs"
    return re.sub(r'\d\d:\d\d', '', out)

def test_the_same_seed_the_same_output(run, tmp_path):
    a,b,c = (run('train', 'own.csv', '--n-epoch', '2', '--seed', seed, '--out', 'mine') for seed in (1,1,2))
    assert [o.code for o in (a,b,c)] == [0,0,0], a.err+b.err+c.err
    assert timeless(a.out) == timeless(b.out) != timeless(c.out)

@pytest.mark.parametrize('how', ['time','last'])
def test_splits_by_time(run, tmp_path, how):
    r = run('train', 'own.csv', *fast, '--split', how, '--valid_pct', '0.1')
    assert (r.code, r.err) == (0, '')
    assert ('900 train, 100 valid' if how=='time' else '940 train, 60 valid') in r.out
    check_saved(tmp_path/'collab-notes-model', r)

def test_other_files(run, tmp_path):
    "Other separators and column names, repeated pairs, ids that are numbers, an option with `-` or `_`."
    df = some_ratings().assign(customer=lambda o: o.customer.str[1:].astype(int))
    pd.concat([df, df[:9]]).set_axis(['who','what','how much','when'], axis=1).to_csv(tmp_path/'odd.txt.gz', sep='~', index=False)
    cols = '--user_name','who','--item-name','what','--rating-name','how much','--time-name','when','--sep','~'
    r = run('train', 'odd.txt.gz', *cols, '--duplicates', 'mean', '--n-epoch', '1', '--user', '4')
    assert (r.code, r.err) == (0, '') and 'odd.txt.gz: 1,000 ratings' in r.out and 'For user 4,' in r.out
    df.to_csv(tmp_path/'tabs.txt', sep='\t', index=False)
    r = run('train', 'tabs.txt', '--sep', r'\t', '--n-epoch', '1', '--user', '4')
    assert (r.code, r.err) == (0, '')
    pytest.importorskip('pyarrow')
    df.assign(date=pd.to_datetime(df.date), product=pd.to_datetime(df['product'].str[1:3].astype(int), unit='D')).drop_duplicates(['customer','product']).to_parquet(tmp_path/'r.parquet')
    r = run('train', 'r.parquet', '--n-epoch', '1', '--split', 'time')
    assert (r.code, r.err) == (0, '')

def test_movielens(tmp_path):
    "The main job, as installed; `nbs/09_cli.ipynb` shows it."
    r = installed('train', cwd=tmp_path)
    assert (r.code, r.err) == (0, '')
    assert 'MovieLens 100K: 100,000 ratings of 1,664 items (title) by 943 users (user); 6.4% of the crosstab is filled.' in r.out
    assert re.search(r"chapter 8.* 0\.814 ", r.out)
    mse = float(re.search(r'^this model +(\d\.\d+)', r.out, re.M)[1])
    assert 0.78 < mse < 0.83
    about,arrays = check_saved(tmp_path/'collab-notes-model', r)
    assert arrays['user_factors'].shape == (944,50) and len(about['classes']['title']) == 1665 and about['y_range'][0] < 1 and about['y_range'][1] > 5

# mistakes

def check_mistake(r, says):
    "Exit code 2, one line on stderr that says what is wrong, nothing else"
    assert r.code == 2
    assert r.err.count('\n') == 1 and r.err.startswith('collab-notes: ') and r.err.endswith('\n') and says in r.err
    assert r.out == ''

@pytest.mark.parametrize('args,says', [(['trian'], "'trian'"), (['--verison'], '--help'), (['train','--n-epoch'], 'n-epoch')])
def test_mistakes_as_a_user_makes_them(tmp_path, args, says): check_mistake(installed(*args, cwd=tmp_path), says)

@pytest.mark.parametrize('args,says', [
    (['nowhere.csv'], 'nowhere.csv'), (['.'], 'No file'), (['own.csv','--item_name','film'], "'film'"), (['names.csv'], '--user-name'), (['empty.csv'], 'empty'), (['header.csv'], 'no rows'), (['bad.csv'], "rating='three'"), (['twice.csv'], '--duplicates'),
    (['noid.csv'], 'no id'), (['one.csv'], 'at least two'), (['binary.csv'], 'UTF-8'), (['not.csv.gz'], 'gzip'), (['not.parquet'], 'parquet'),
    (['own.csv','--n_epoch','many'], 'n-epoch'), (['own.csv','--n_epoch','0'], 'n-epoch'), (['own.csv','--n_factors','0'], 'n-factors'), (['own.csv','--n','0'], '--n 0'), (['own.csv','--lr','0'], '--lr'), (['own.csv','--lr','nan'], '--lr'), (['own.csv','--wd=-1'], '--wd'),
    (['own.csv','--seed',str(10**30)], '--seed'), (['own.csv','--frobnicate','1'], 'frobnicate'), (['own.csv','other.csv'], 'other.csv'), (['own.csv','--split','odd'], 'random, time, last'), (['own.csv','--valid_pct','2'], '--valid-pct 2'),
    (['own.csv','--valid_pct=nan'], '--valid-pct'), (['own.csv','--duplicates','drop'], "'drop'"), (['own.csv','--user','c0022'], 'c002'), (['notime.csv','--split','time'], '--time-name'), (['notime.csv','--split','last'], '--time-name'),
    (['own.csv','--split','time','--time_name','product'], 'date'), (['own.csv','--out','own.csv'], 'own.csv'), (['own.csv','--out','own.csv/below'], 'own.csv'), (['few.csv'], 'validate on')], ids=lambda o: ' '.join(o)[:40] if isinstance(o, list) else '')
def test_mistakes(run, tmp_path, args, says):
    for name,content in {'names.csv':'who,what,grade\n1,a,5\n2,b,3\n', 'empty.csv':'', 'header.csv':'user,item,rating\n', 'bad.csv':'user,item,rating\n1,a,5\n2,b,three\n', 'twice.csv':'user,item,rating\n1,a,5\n2,b,3\n1,a,4\n', 'noid.csv':'user,item,rating\n1,a,5\n,b,3\n',
            'one.csv':'user,item,rating\n1,a,5\n1,b,3\n', 'notime.csv':'user,item,rating\n1,a,5\n2,b,3\n', 'few.csv':'user,item,rating\n1,a,5\n2,b,3\n', 'not.csv.gz':'user,item,rating\n', 'not.parquet':'PAR1'}.items(): (tmp_path/name).write_text(content)
    (tmp_path/'binary.csv').write_bytes(bytes(range(128, 256))*10)
    before = sorted(o.name for o in tmp_path.iterdir())
    check_mistake(run('train', *args), says)
    assert sorted(o.name for o in tmp_path.iterdir()) == before   # and nothing is left behind
