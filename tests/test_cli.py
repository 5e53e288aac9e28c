"""The command: what it prints, what it leaves behind, and how it takes mistakes. In this process, but for what only a process of its own can show: `installed`."""
import inspect, io, json, os, re, shlex, subprocess, sys, warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from collab_notes import __version__
from collab_notes.cli import COMMANDS, EXAMPLES, _parse, main
from collab_notes.console import typed_ids
from collab_notes.files import load, save
from collab_notes.streams import progress
from collab_notes.vocab import Vocab
from conftest import drawn_not_rendered, LIMIT, ratings_of

_run = "import sys; from collab_notes.cli import main; sys.exit(main())"
_script = Path(sys.executable).parent/('collab-notes.exe' if os.name=='nt' else 'collab-notes')
command = [str(_script)] if _script.exists() else [sys.executable, '-c', _run]

class Result:
    def __init__(self, code, out, err): self.code,self.out,self.err = code,out,err

def installed(*args, cwd, **streams):
    "Run the command as a user does."
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) | streams
    r = subprocess.run([*command, *map(str, args)], cwd=cwd, text=True, encoding='utf-8', timeout=LIMIT, env={**os.environ, 'PYTHONIOENCODING':'utf-8'}, **streams)
    return Result(r.returncode, r.stdout, r.stderr)

def in_process(*args, cwd, stdin=''):
    "The same in this process, with streams like a pipe's: bytes below, no terminal. As in a process of its own, warnings go to standard error"
    import fastprogress.fastprogress as fpp
    streams = [io.TextIOWrapper(io.BytesIO(o), encoding='utf-8') for o in (stdin if isinstance(stdin, bytes) else stdin.encode(), b'', b'')]
    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        m.chdir(cwd)
        for k,o in zip(('stdin','stdout','stderr'), streams): m.setattr(sys, k, o)
        for k in ('NO_BAR','print'): m.setattr(fpp, k, getattr(fpp, k, print), raising=False)   # which `main` sets for a process that ends with it
        warnings.resetwarnings()
        for o in (DeprecationWarning,PendingDeprecationWarning,ImportWarning,ResourceWarning): warnings.simplefilter('ignore', o)   # Python's own filters
        m.setattr(warnings, 'showwarning', lambda *args, **kwargs: sys.stderr.write(warnings.formatwarning(*args[:4])))
        try: code = main([*map(str, args)])
        except SystemExit as e: code = e.code
        for o in streams[1:]: o.flush()
    return Result(code or 0, *(o.buffer.getvalue().decode() for o in streams[1:]))

@pytest.fixture
def run(tmp_path): return lambda *args, **kwargs: in_process(*args, cwd=tmp_path, **kwargs)

def some_ratings():
    df,rng = ratings_of(1000, n_users=60, n_items=40, noise=0.5),np.random.default_rng(1)
    i = df['item'].str[1:].astype(int)
    return pd.DataFrame(dict(customer=df.user.map('c{:03d}'.format), product=[f'{"xy"[int(o>=20)]}{o} é' for o in i], stars=df.rating.astype(int),
                             date=(pd.Timestamp('2020-01-01')+pd.to_timedelta(rng.permutation(len(df)), unit='h')).strftime('%Y-%m-%d %H:%M')))

@pytest.fixture(scope='module')
def own():
    return some_ratings().to_csv(index=False)

@pytest.fixture
def rendered(): "For tests that look at pictures"

@pytest.fixture(autouse=True)
def quick_pictures(request, monkeypatch):
    "Pictures are drawn, but turned into dots, which takes half of a test's time, only where a test asks for `rendered`"
    if 'rendered' not in request.fixturenames: drawn_not_rendered(monkeypatch)

@pytest.fixture(autouse=True)
def here(tmp_path, own): (tmp_path/'own.csv').write_text(own, encoding='utf-8')

saved = ['crosstab.png','loss.png','model.safetensors']
fast = '--n-epoch','12','--n-factors','5'

# help

def test_help_does_not_load_what_it_does_not_need(tmp_path):
    code = "import sys; from collab_notes.cli import main\ntry: main({args})\nexcept SystemExit as e: assert not e.code\nprint('LOADED', [o for o in ('torch','fastai','pandas','numpy','matplotlib') if o in sys.modules])"
    for args in (['--help'], [], ['--version'], ['train','--help'], ['recommend','--help']):
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

@pytest.mark.parametrize('cmd', COMMANDS)
def test_help_names_each_option_and_gives_an_example(capsys, cmd):
    with pytest.raises(SystemExit) as e: main([cmd,'--help'])
    out,err = capsys.readouterr()
    assert (e.value.code, err)==(0, '') and f'example: collab-notes {EXAMPLES[cmd]}' in out
    for k,p in inspect.signature(COMMANDS[cmd]).parameters.items():
        assert (k if p.default is p.empty or k in ('file','user','rated') or (cmd,k)==('serve','model') else f"--{k.replace('_','-')}") in out
    assert max(map(len, out.splitlines())) <= 200 and '()' not in out
    assert _parse(cmd, shlex.split(EXAMPLES[cmd])[1:])   # and the example can be typed

# training

def check_saved(folder, s):
    assert sorted(o.name for o in folder.iterdir()) == saved
    for o in saved[:2]: assert (folder/o).read_bytes()[:4] == b'\x89PNG'
    m = load(folder)
    assert all(len(m.history.part(o)[0]) for o in (False,True))
    return m

def check_quiet(r):
    "A pipe gets the table of epochs, not the moving bar"
    assert re.search(r'^ *epoch', r.out, re.M) and 'Epoch' not in r.out and '█' not in r.out
    assert not [o for o in ('Traceback', 'Warning') if o in r.out]

def test_train_on_a_file(run, rendered, tmp_path):
    r = run('train', 'own.csv', *fast, '--user', 'c002', '--n', '4', '--min_ratings', '5', '--out', 'mine')
    assert (r.code, r.err) == (0, '')
    for o in ('own.csv: 1,000 ratings of 40 items (product) by 60 users (customer)', 'global mean', 'user + item means', 'this model', 'valid MSE', 'Highest item biases', 'Lowest', 'For user c002', 'Saved in mine: '+', '.join(saved)):
        assert o in r.out
    assert 'chapter' not in r.out
    check_quiet(r)
    losses = {k:float(re.search(rf'^{re.escape(k)} +(\d\.\d+)', r.out, re.M)[1]) for k in ('global mean','user + item means','this model')}
    assert losses['this model'] < losses['global mean'] and losses['this model'] < losses['user + item means']
    top = r.out.split('For user c002')[1].split('Saved in')[0].strip().splitlines()[2:]
    df = some_ratings()
    seen = set(df['product'][df.customer=='c002'])
    names = [o.split('  ')[0].strip() for o in top]
    assert len(top) == 4 and not [o for o in names if o in seen] and set(names) <= set(df['product'])
    m = check_saved(tmp_path/'mine', r)
    about = m.about
    assert about['data'] == 'own.csv' and about['seed'] == 42 and abs(about['valid_mse']-losses['this model']) < 1e-3
    assert 'x0 é' in m.classes['product'] and repr(m.history) == '800 ratings and 200 held out' and sorted(o.name for o in tmp_path.iterdir()) == ['mine','own.csv']

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

def test_train_as_installed(tmp_path):
    "In a process of its own, where libraries are loaded that warn. `nbs/library/cli.ipynb` trains on MovieLens, and asserts what is told and saved"
    r = installed('train', 'own.csv', '--n-epoch', '1', '--n-factors', '5', cwd=tmp_path)
    assert (r.code, r.err) == (0, '')
    check_quiet(r)
    assert load(tmp_path/'collab-notes-model').user_factors.shape == (61,5) and sorted(o.name for o in (tmp_path/'collab-notes-model').iterdir()) == saved

def test_ratings_from_a_pipe_and_no_history(run, tmp_path, own):
    r = run('train', '-', *fast, '--no-history', '--n-models', '2', '--checkpoint', 'kept', '--out', 'bare', stdin=own)
    assert (r.code, r.err) == (0, '') and 'standard input: 1,000 ratings' in r.out
    m = load(tmp_path/'bare')
    assert m.about['n_models']==2 and list((tmp_path/'kept').glob('*.safetensors'))
    assert m.history is None and m.about['data']=='standard input' and b'c002' in (tmp_path/'bare/model.safetensors').read_bytes()
    check_mistake(run('recommend', 'bare', 'c002'), '--ratings')
    check_mistake(run('evaluate', 'bare'), 'held-out')
    check_mistake(run('explain', 'bare', 'c002', 'x1 é'), '--ratings')
    r = run('recommend', 'bare', 'c002', '--ratings', '-', '--format', 'csv', '--min-ratings', '1', stdin=own)
    df,seen = pd.read_csv(io.StringIO(r.out)),some_ratings()
    assert r.code==0 and len(df)==10 and not set(df.iloc[:,1]) & set(seen['product'][seen.customer=='c002'])

# a saved model

@pytest.fixture(scope='module')
def model(tmp_path_factory, own):
    tmp = tmp_path_factory.mktemp('model')
    (tmp/'own.csv').write_text(own, encoding='utf-8')
    r = in_process('train', 'own.csv', *fast, '--out', 'mine', cwd=tmp)
    assert (r.code, r.err) == (0, '')
    return tmp/'mine'

def csv(r):
    assert (r.code, r.err) == (0, ''), r.err
    return pd.read_csv(io.StringIO(r.out))

def test_recommend(run, model, tmp_path):
    df = csv(run('recommend', model, 'c002', 'c003', '-n', '4', '--format', 'csv'))
    assert len(df)==8
    assert df.iloc[:,0].tolist()==['c002']*4+['c003']*4
    rated = some_ratings()
    assert not set(zip(df.iloc[:,0], df.iloc[:,1])) & set(zip(rated.customer, rated['product']))
    assert csv(run('recommend', model/'model.safetensors', '-', '-n', '4', '--out', '-', stdin='c002\r\nc003\n\n')).equals(df)
    text = run('recommend', model, 'c002', '-n', '4')
    assert text.code==0 and text.out.count('\n')==5 and ',' not in text.out
    assert [list(o.values())[:2] for o in json.loads(run('recommend', model, 'c002', '-n', '4', '--format', 'json').out)]==df[:4].iloc[:,:2].values.tolist()
    (tmp_path/'few.txt').write_text('x0 é\ny20 é\n', encoding='utf-8')
    assert set(csv(run('recommend', model, 'c002', '--items', 'few.txt', '--seen', '--format', 'csv')).iloc[:,1])=={'x0 é','y20 é'}

def test_recommend_for_everybody_into_a_file(run, model, tmp_path):
    pytest.importorskip('pyarrow')
    for name,read in {'all.csv':pd.read_csv, 'all.json':pd.read_json, 'all.parquet':pd.read_parquet}.items():
        r = run('recommend', model, '-n', '2', '--out', name)
        assert (r.code, r.out, r.err)==(0, '', f'120 rows in {name}\n')
        df = read(tmp_path/name)
        assert len(df)==120 and df.iloc[:,0].nunique()==60
    assert run('recommend', model, '-n', '2', '--out', 'list', '--format', 'csv').code==0 and (tmp_path/'list').read_text(encoding='utf-8')==(tmp_path/'all.csv').read_text(encoding='utf-8')
    assert not list(tmp_path.glob('.*'))

def test_similar_explain_evaluate(run, model):
    df = csv(run('similar', model, 'x1 é', '-n', '3', '--min-ratings', '5', '--format', 'csv'))
    assert len(df)==3 and df.iloc[:,0].str.startswith('x').all() and df.similarity.is_monotonic_decreasing
    assert csv(run('similar', model, 'c002', '--users', '-n', '3', '--metric', 'euclidean', '--format', 'csv')).distance.is_monotonic_increasing
    best = csv(run('recommend', model, 'c002', '-n', '1', '--format', 'csv')).iloc[0,1]
    df,rated = csv(run('explain', model, 'c002', best, '-n', '3', '--format', 'csv')),some_ratings()
    assert 1<=len(df)<=3 and df.isin(list(rated['product'][rated.customer=='c002'])).any(axis=1).all()
    assert f'{best}: ' in run('explain', model, 'c002', best).out
    r = run('evaluate', model, '--format', 'json')
    assert (r.code, r.err)==(0, '')
    rmse = next(v for k,v in json.loads(r.out)[0].items() if k.lower()=='rmse')
    assert abs(rmse-load(model).about['valid_mse']**0.5)<1e-4

def test_evaluate_on_a_file(run, model, own):
    r = run('evaluate', model, '-', '--format', 'csv', stdin=own)
    assert r.code==0 and csv(r).shape[0]>=1

def test_train_for_lists(run, tmp_path):
    r = run('train', 'own.csv', '--goal', 'lists', '--user', 'c002', '-n', '3', '--out', 'lists')
    assert (r.code, r.err)==(0,'') and 'what is rated most' in r.out and 'ndcg' in r.out and 'score' in r.out
    m = load(tmp_path/'lists')
    assert m.y_range is None and m.about['goal']=='lists' and 0<m.about['valid_ndcg']<=1 and m.about['n_epoch']==20 and sorted(o.name for o in (tmp_path/'lists').iterdir())==saved
    r = run('recommend', 'lists', 'c002', '-n', '2', '--format', 'csv')
    item = r.out.splitlines()[1].split(',')[1]
    assert r.code==0 and run('explain', 'lists', 'c002', item).code==0 and run('similar', 'lists', item, '--min-ratings', '1').code==0
    r = pd.read_csv(io.StringIO(run('evaluate', 'lists', '--format', 'csv').out))
    assert 'rmse' not in r and r.ndcg[0]==pytest.approx(m.about['valid_ndcg'], abs=1e-6)
    assert run('new-user', 'lists', f'{item}=5').code==0
    for args,says in ((('--n-models','3'),'--n-models 3'), (('--checkpoint','x'),'--checkpoint')): check_mistake(run('train', 'own.csv', '--goal', 'lists', *args), says)

def model_of(kind, dls):
    "A model of some kind that a file can hold"
    from collab_notes.bayes import BayesianPMF
    from collab_notes.deep import CollabNN, hybrid_learner, nn_learner
    from collab_notes.ranking import EASE, Blend, Popularity, fit_ranking
    from collab_notes.training import fit
    quick,facts = dict(n_epoch=4, n_factors=4, seed=1, progress=False),lambda: pd.DataFrame({'customer':dls.classes['customer'][1:], 'age':range(20, 80)})
    return {'ratings':lambda: fit(dls, **quick), 'an order':lambda: fit_ranking(dls, **quick), 'an ensemble':lambda: fit(dls, n_models=2, **quick),
            'a hybrid':lambda: hybrid_learner(dls, facts(), n_factors=4, seed=1), 'a net':lambda: CollabNN.from_dls(dls, [4,4]), "fastai's net":lambda: nn_learner(dls, [5]),
            'a hybrid net':lambda: hybrid_learner(dls, facts(), layers=[5], n_factors=4, seed=1), 'samples':lambda: BayesianPMF(n_factors=3, n_sweeps=8, burn_in=4, chains=1, seed=1).fit(dls, progress=False),
            'EASE':lambda: EASE(dls, 5.), 'a count':lambda: Popularity(dls), 'a blend':lambda: Blend([fit_ranking(dls, **quick), EASE(dls, 5.)], [1,0.5])}[kind]()

KINDS = 'ratings','an order','an ensemble','a hybrid','a net',"fastai's net",'a hybrid net','samples','EASE','a count','a blend'
RATE = {*KINDS} - {'an order','EASE','a count','a blend'}

@pytest.fixture(scope='module')
def of_kind(tmp_path_factory, own):
    "A saved model of each kind, with its history"
    from collab_notes.data import RatingsDataLoaders
    dls,tmp,files = RatingsDataLoaders.from_df(some_ratings(), seed=1),tmp_path_factory.mktemp('kinds'),{}
    def file(kind):
        if kind not in files: files[kind] = save(model_of(kind, dls), tmp/f'{kind}.safetensors', history=dls)
        return files[kind]
    return file

REFUSED = {   # where mathematics has no answer: a word of what is said
    ('a count','similar'):'count', ('a count','explain'):'count', ('a count','map'):'count',
    **{(k,'biases'):'no biases' for k in ('a net',"fastai's net",'EASE','a count','a blend')},
    **{(k,'facts'):'factors and biases' for k in ('a net',"fastai's net",'a hybrid net','EASE','a count','a blend')}}

@pytest.mark.parametrize('kind', KINDS)
def test_seven_commands_on_every_kind_of_model(run, of_kind, tmp_path, kind):
    "(`train` made some of them.) No refusal but where mathematics refuses, no column of NaN"
    file,item,says = of_kind(kind),'x1 é','prediction' if kind in RATE else 'score'
    def table(name, *args):
        r = run(name, file, *args, '--format', 'csv')
        if (kind,name) in REFUSED: return check_mistake(r, REFUSED[kind,name])
        assert r.code==0, r.err
        df = pd.read_csv(io.StringIO(r.out))
        assert len(df) and not df.isna().any(axis=None), df
        return df
    df = table('recommend', 'c002', 'c004', '-n', '2', '--min-ratings', '1')
    assert df.columns.tolist()==['customer','product','rank',says] and df.customer.tolist()==['c002','c002','c004','c004']
    (tmp_path/'some.txt').write_text('x1 é\nx2 é\n', encoding='utf-8')
    assert set(table('recommend', '--items', 'some.txt', '--seen')['product'])=={'x1 é','x2 é'}
    df = table('evaluate', '-n', '5')
    assert ('rmse' in df)==('mae' in df)==(kind in RATE) and 0<=df.ndcg[0]<=1
    table('similar', item, '-n', '2', '--min-ratings', '1')
    table('similar', 'c002', '--users', '-n', '2')
    df = table('explain', 'c002', item, '-n', '2')
    assert df is None or df['product'].isin(some_ratings()['product']).all()
    r = run('new-user', file, 'x1 é=5', 'y30 é=1', '-n', '3', '--save', 'more', '--name', 'me', '--format', 'csv')
    df = pd.read_csv(io.StringIO(r.out))
    assert r.code==0 and df.columns[:3].tolist()==['product','rank',says] and not df['product'].isin(['x1 é','y30 é']).any() and not df.isna().any(axis=None), r.err
    again = run('recommend', 'more', 'me', '-n', '3', '--format', 'csv')   # what was rated is remembered
    assert pd.read_csv(io.StringIO(again.out))['product'].tolist()==df['product'].tolist(), again.err
    (tmp_path/'people.csv').write_text('customer,kind\n'+''.join(f'c{o:03d},{"odd" if o%2 else "even"}\n' for o in range(60)))
    r = run('new-user', file, '--about', 'people.csv', '--facts', 'kind=odd', '-n', '3', '--format', 'csv')
    if (kind,'facts') in REFUSED: check_mistake(r, REFUSED[kind,'facts'])
    else: assert r.code==0 and len(r.out.splitlines())==4
    for how in ('map','biases','crosstab'):
        r = run('plot', file, '--kind', how, '--n-labels', '0')
        if (kind,how) in REFUSED: check_mistake(r, REFUSED[kind,how])
        else: assert (r.code, r.err)==(0, f'Saved {how}.png\n')

def test_ratings_given_to_models_without_them(run, of_kind, own, tmp_path):
    for kind in ('ratings','a net','samples','a count'):
        file = save(load(of_kind(kind)), tmp_path/'bare', history=False)
        check_mistake(run('evaluate', file, 'own.csv'), '--ratings')
        for args in (['recommend','c002','-n','2'], ['evaluate','own.csv'], ['similar','x1 é'], ['explain','c002','x1 é'], ['plot','--kind','crosstab']):
            if (kind,args[0]) in REFUSED: continue
            out = [] if args[0]=='plot' else ['--format','csv']
            r = run(args[0], file, *args[1:], '--ratings', 'own.csv', *out)
            assert r.code==0, r.err
    check_mistake(run('evaluate', file), 'FILE')

def test_new_user(run, model, tmp_path):
    likes = [f'{o} é=5' for o in ('x1','x2','x3')]+['y30 é=1', 'y31 é=1']
    df = csv(run('new-user', model, *likes, '-n', '5', '--format', 'csv'))
    assert len(df)==5 and df.iloc[:,0].str.startswith('x').all() and not set(df.iloc[:,0]) & {o.split('=')[0] for o in likes}
    r = run('new-user', model, '-n', '3', '--format', 'csv')   # of whom nothing is known
    assert (r.code, r.err.count('\n'), r.out.count('\n'))==(0, 1, 4) and r.err.startswith('no ratings given')
    pd.DataFrame(dict(customer=[f'c{o:03d}' for o in range(70)], parity=['even','odd']*35)).to_csv(tmp_path/'people.csv', index=False)
    x_over_y = []
    for kind in ('even','odd'):
        r = run('new-user', model, '--about', 'people.csv', '--facts', f'parity={kind}', '-n', '40', '--format', 'csv')
        assert r.code==0 and r.err.startswith('no ratings given')
        df_of = pd.read_csv(io.StringIO(r.out))
        x_over_y.append(df_of.groupby(df_of['product'].str[0]).prediction.mean().diff().iloc[-1])
    assert x_over_y[0] < x_over_y[1]   # who is even likes x, and who is odd y
    table = 'product,stars\n'+''.join(o.replace('=', ',')+'\n' for o in likes)
    assert csv(run('new-user', model, '-', '-n', '5', '--format', 'csv', stdin=table)).equals(df)
    (tmp_path/'t.csv').write_text(table, encoding='utf-8')
    assert csv(run('new-user', model, 't.csv', '-n', '5', '--format', 'csv')).equals(df)
    r = run('new-user', model, *likes, '-n', '5', '--save', 'more.safetensors', '--name', 'me', '--format', 'csv')
    assert r.code==0 and pd.read_csv(io.StringIO(r.out)).equals(df) and 'more.safetensors' in r.err
    old,new = load(model),load(tmp_path/'more.safetensors')
    assert new.classes['customer']==(*old.classes['customer'],'me') and new.about['data']=='own.csv' and len(new.history)==len(old.history)+5
    assert csv(run('recommend', 'more.safetensors', 'me', '-n', '5', '--format', 'csv')).iloc[:,1].tolist()==df.iloc[:,0].tolist()   # and what was rated is remembered

@pytest.mark.parametrize('kind', ['map','biases','crosstab'])
def test_plot(run, rendered, model, tmp_path, kind):
    r = run('plot', model, '--kind', kind, '--n-labels', '5')
    assert (r.code, r.out, r.err)==(0, '', f'Saved {kind}.png\n') and (tmp_path/f'{kind}.png').read_bytes()[:4]==b'\x89PNG'

def test_other_kinds_of_pictures(run, rendered, model, tmp_path):
    assert run('plot', model, '--out', 'm.svg', '--n-labels', '0').code==0 and '<svg' in (tmp_path/'m.svg').read_text(encoding='utf-8')

def full_pipe():
    "A pipe to write to, whose reader has gone"
    r,w = os.pipe()
    os.close(r)
    return w

@pytest.mark.skipif(os.name=='nt', reason='pipes of Unix')
@pytest.mark.parametrize('args', [['--help'], ['train','--help']])
def test_a_reader_that_has_enough(tmp_path, args):
    "As in `collab-notes --help | head -0`: nothing is said when the process ends, either"
    w = full_pipe()
    try: r = installed(*args, cwd=tmp_path, stdout=w)
    finally: os.close(w)
    assert r.err=='' and r.code==0   # a closed pipe ends the telling, not the work

@pytest.mark.skipif(os.name=='nt', reason='pipes of Unix')
def test_a_reader_that_has_enough_of_a_table(model, capsys, monkeypatch):
    "As in `collab-notes recommend mine c002 | head -0`"
    with open(full_pipe(), 'w') as f:
        monkeypatch.setattr(sys, 'stdout', f)
        with pytest.raises(SystemExit) as e: main(['recommend', str(model), 'c002', '--format', 'csv'])
    assert e.value.code==141 and capsys.readouterr().err==''

def test_progress_is_for_a_terminal(capsys, monkeypatch):
    assert list(progress([1,2], 'what'))==[1,2] and capsys.readouterr().err==''
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    assert list(progress([1,2], 'what'))==[1,2]
    assert ' 50%' in capsys.readouterr().err

def test_ids_as_typed():
    vocab = Vocab({'u':('#na#',5,'5',7,2.5,'é'), 'i':('#na#','a')})
    assert typed_ids(vocab, ['5','7','2.5','é'], is_item=False)==['5',7,2.5,'é']   # a text that is typed like a number comes before the number

# mistakes

def check_mistake(r, says):
    "Exit code 2, one line on stderr that says what is wrong, nothing else"
    assert r.code == 2
    assert r.err.count('\n') == 1 and r.err.startswith('collab-notes: ') and r.err.endswith('\n') and says in r.err
    assert r.out == ''

@pytest.mark.parametrize('args,says', [(['trian'], "'trian'"), (['--verison'], '--help'), (['train','--n-epoch'], 'n-epoch')])
def test_mistakes_as_a_user_makes_them(tmp_path, args, says): check_mistake(installed(*args, cwd=tmp_path), says)

@pytest.mark.parametrize('args,says', [
    (['recommend'], 'model'), (['recommend','nowhere'], 'No model file nowhere'), (['recommend','own.csv'], 'own.csv'), (['recommend','MODEL','c0022'], "did you mean 'c0"), (['recommend','MODEL','#na#'], '#na#'), (['recommend','MODEL','-n','0'], '--n 0'),
    (['recommend','MODEL','--out','x.xls'], '.parquet'), (['recommend','MODEL','--out','no/x.csv'], 'no'), (['recommend','MODEL','--format','xml'], 'csv'), (['recommend','MODEL','--min-ratings','999'], '--min-ratings'), (['recommend','MODEL','--items','nowhere.txt'], 'nowhere.txt'),
    (['recommend','MODEL','--ratings','nowhere.csv'], 'nowhere.csv'), (['recommend','CUT'], 'cut off'), (['recommend','EDITED'], 'damaged'), (['recommend','MODEL','--seen=yes'], "seen"), (['similar','MODEL'], 'id'), (['similar','MODEL','x1'], "'x1 é'"), (['similar','MODEL','x1 é','--metric','l1'], '--metric'),
    (['explain','MODEL','c002'], 'item'), (['explain','MODEL','c002','z'], "'z'"), (['explain','MODEL','c00','x1 é'], "'c00'"), (['evaluate','MODEL','--n','0'], '--n 0'), (['evaluate','MODEL','nowhere.csv'], 'nowhere.csv'),
    (['new-user','MODEL','x1 é=high'], 'not a number'), (['new-user','MODEL','x1 é=nan'], 'not a number'), (['new-user','MODEL','zz=4'], "'zz'"), (['new-user','MODEL','nowhere.csv'], 'nowhere.csv'), (['new-user','MODEL','x1 é=4','--save','x'], '--name'), (['new-user','MODEL','--facts','a=1'], '--about'), (['new-user','MODEL','--facts','a','--about','own.csv'], 'COLUMN=VALUE'), (['new-user','MODEL','x1 é=4','--save','x','--name','c002'], 'already'),
    (['plot','MODEL','--kind','pie'], 'map, biases, crosstab'), (['plot','MODEL','--out','x.txt'], '.png')], ids=lambda o: ' '.join(o)[:40] if isinstance(o, list) else '')
def test_mistakes_with_a_saved_model(run, model, tmp_path, args, says):
    raw = (model/'model.safetensors').read_bytes()
    (tmp_path/'cut').write_bytes(raw[:-9]), (tmp_path/'edited').write_bytes(raw[:-9]+b'x'+raw[-8:])
    before = sorted(o.name for o in tmp_path.iterdir())
    check_mistake(run(*({'MODEL':str(model), 'CUT':'cut', 'EDITED':'edited'}.get(o, o) for o in args)), says)
    assert sorted(o.name for o in tmp_path.iterdir()) == before

@pytest.mark.parametrize('args,says', [
    (['nowhere.csv'], 'nowhere.csv'), (['.'], 'No file'), (['own.csv','--item_name','film'], "'film'"), (['names.csv'], '--user-name'), (['empty.csv'], 'empty'), (['header.csv'], 'no rows'), (['bad.csv'], "rating='three'"), (['twice.csv'], '--duplicates'),
    (['noid.csv'], 'no id'), (['one.csv'], 'at least two'), (['binary.csv'], 'UTF-8'), (['not.csv.gz'], 'gzip'), (['not.parquet'], 'parquet'),
    (['own.csv','--n_epoch','many'], 'n-epoch'), (['own.csv','--n_epoch','0'], 'n-epoch'), (['own.csv','--n_factors','0'], 'n-factors'), (['own.csv','--n','0'], '--n 0'), (['own.csv','--goal','fame'], 'ratings, lists'), (['own.csv','--lr','0'], '--lr'), (['own.csv','--lr','nan'], '--lr'), (['own.csv','--wd=-1'], '--wd'),
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
