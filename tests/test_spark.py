"""What of Spark needs neither Spark nor Java: messages, names, options. What needs a cluster is in tests/spark."""
import subprocess, sys

import pytest
from conftest import ratings_of

from collab_notes.errors import CollabError, MissingColumnError, NoFileError, SettingError
from collab_notes.files import save
from collab_notes.quick import fit_quick
from collab_notes.spark import spark_ratings
from collab_notes.sparksession import has_scheme, need_spark, parse_conf, spark_session
from collab_notes.sparkals import SparkALS, fingerprint, read_reference
from collab_notes.sparktrain import check_cluster, history_path

OPTIONS = dict(engine='spark', file='s3a://lake/r.parquet', master=None, conf=None, history_out=None, no_history=False, out='mine', sep=None,
               header=False, decimal=None, encoding=None, comment=None, missing=None, wide=False, items_file=None, also=None, n_models=1, lr=None,
               checkpoint=None, user=None, n=10, min_ratings=None, no_header=False)

def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr('collab_notes.sparksession.find_spec', lambda o: None)
    for f in (need_spark, spark_session):
        with pytest.raises(CollabError, match=r"pip install 'collab-notes\[spark\]'"): f()

class Frame:
    "What `spark_ratings` asks of a table of Spark's"
    def __init__(self, *columns):
        self.columns,self.taken,self.sparkSession = list(columns),None,type('', (), dict(_jsc=None))
    def __getitem__(self, o): return Column(o)
    def select(self, *cols):
        self.taken = [o.text for o in cols]
        return self

class Column:
    def __init__(self, text): self.text = text
    def alias(self, o): return Column(f'{self.text} as {o}')

class Session:
    "A session that notes what it is asked to read"
    def __init__(self, *columns): self.asked,self.read,self.columns = [],self,columns
    def parquet(self, path):
        self.asked.append(path)
        return Frame(*self.columns)

@pytest.mark.parametrize('path', ['s3a://lake/ratings.parquet', 'hdfs://name:9000/r', '/nowhere/at all.parquet', 'r.parquet'])
def test_a_path_goes_to_spark_as_it_is(path, monkeypatch):
    pytest.importorskip('pyspark')
    def no(*args, **kw): raise AssertionError('a path was opened')
    s = Session('userId', 'movieId', 'rating', 'timestamp')
    for o in ('builtins.open', 'os.stat', 'os.path.exists', 'pathlib.Path.exists', 'pathlib.Path.is_file'): monkeypatch.setattr(o, no)
    r = spark_ratings(path, spark=s)
    monkeypatch.undo()
    assert s.asked==[path]==[r.path]
    assert r.df.taken==['`userId` as user', '`movieId` as item', '`rating` as rating', '`timestamp` as time']
    assert r.names==dict(user='userId', item='movieId', rating='rating', time='timestamp')

def test_columns_that_are_not_recognised():
    with pytest.raises(MissingColumnError): spark_ratings(Frame('a','b','c'))
    with pytest.raises(SettingError, match='not list'): spark_ratings([1,2])

def test_what_has_a_scheme():
    for o in ('s3a://lake/r', 'dbfs:/lake/r.parquet', 'file:/lake/r', 'viewfs:/in/r', 'abfss://c@account/r'): assert has_scheme(o)
    for o in ('r.parquet', '/lake/r', './a:b', 'C:/r', '', 'mine/2026-11-26T10:00'): assert not has_scheme(o)
    with pytest.raises(SettingError, match='--history-out'): history_path({**OPTIONS, 'file':'dbfs:/lake/r.parquet'})

def test_what_is_there_belongs_to_somebody_else(tmp_path):
    save(fit_quick(ratings_of()), tmp_path/'model.safetensors')
    given = {**OPTIONS, 'file':'r.parquet', 'out':str(tmp_path)}
    assert history_path(given)==str(tmp_path/'ratings.parquet')
    (tmp_path/'ratings.parquet').write_text('mine')
    with pytest.raises(SettingError, match='no model that it belongs to'): history_path(given)

@pytest.mark.parametrize('text,wanted', [('spark.master yarn', None), ('  spark.master=spark://h:7077\n', None), ('# spark.master yarn', 'local[*]'), ('', 'local[*]')])
def test_sparks_own_file_says_where(tmp_path, monkeypatch, text, wanted):
    pytest.importorskip('pyspark')
    for o in ('PYSPARK_GATEWAY_PORT','PYSPARK_SUBMIT_ARGS','SPARK_HOME'): monkeypatch.delenv(o, raising=False)
    monkeypatch.setenv('SPARK_CONF_DIR', str(tmp_path))
    (tmp_path/'spark-defaults.conf').write_text(text)
    asked = []
    monkeypatch.setattr('collab_notes.sparksession._running', lambda: None)
    monkeypatch.setattr('collab_notes.sparksession._started', lambda master, *args: asked.append(master))
    spark_session()
    spark_session(conf={'spark.master':'spark://h:1'})
    assert asked==[wanted,'spark://h:1']
    with pytest.raises(SettingError, match='give one of them'): spark_session('local[2]', {'spark.master':'spark://h:1'})

def test_spark_connect_is_named():
    df = Frame('user','item','rating')
    df.sparkSession = object()
    with pytest.raises(CollabError, match='Spark Connect.*Make it at a master'): spark_ratings(df)

def test_options():
    check_cluster(OPTIONS)
    for k,v in dict(sep=',', n_models=2, checkpoint='x', user='3', n=5, missing='0').items():
        with pytest.raises(SettingError, match=f"--{k.replace('_', '-')}: it does not go with"): check_cluster({**OPTIONS, k:v})
    for file in (None,'-'):
        with pytest.raises(SettingError, match='give a FILE'): check_cluster({**OPTIONS, 'file':file})
    for k,v in dict(master='local[2]', conf=['spark.a=1'], history_out='x').items():
        with pytest.raises(SettingError, match='goes with --engine spark'): check_cluster({**OPTIONS, 'engine':'torch', k:v})
    with pytest.raises(SettingError, match='--history-out'): history_path(OPTIONS)
    assert history_path({**OPTIONS, 'history_out':'s3a://x'})=='s3a://x' and history_path({**OPTIONS, 'no_history':True}) is None
    assert parse_conf(['spark.a=b=c'])=={'spark.a':'b=c'}
    for o in ('spark.a','a=b'):
        with pytest.raises(SettingError, match='--conf'): parse_conf([o])

def test_settings():
    for kw in (dict(n_factors=0), dict(wd=-1), dict(wd=float('nan')), dict(goal='stars'), dict(n_sweeps=0), dict(seed=-1)):
        with pytest.raises(SettingError, match=next(iter(kw))): SparkALS(**kw)

def test_a_fingerprint_knows_any_change():
    one = fingerprint([1,2,3], [4,5,6], [1.,2.5,3.])
    assert one==fingerprint([3,1,2], [6,4,5], [3.,1.,2.5])
    for other in (([1,2,3], [4,6,5], [1.,2.5,3.]), ([1,2,3], [4,5,6], [1.,3.,2.5]), ([1,2,4], [4,5,6], [1.,2.5,3.]), ([1,2], [4,5], [1.,2.5])):
        assert fingerprint(*other)!=one

def test_ratings_that_are_gone(tmp_path):
    with pytest.raises(NoFileError, match='no longer there'):
        read_reference(dict(path=str(tmp_path/'r.parquet'), columns=['u','i','rating',None], rows=1, sum=0), None)

def test_help_loads_neither_torch_nor_spark():
    code = "import sys; from collab_notes.cli import main; main(['--help']); main(['train','--help'])"
    check = "\n".join(["import sys, atexit", "atexit.register(lambda: print(sorted({'torch','pyspark','pandas'} & set(sys.modules)), file=sys.stderr))", code])
    res = subprocess.run([sys.executable, '-c', check], capture_output=True, text=True, timeout=120)
    assert res.stderr.strip()=='[]' and '--engine' in res.stdout, res.stderr
