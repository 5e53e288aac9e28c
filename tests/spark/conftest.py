"""A real cluster of Spark's own: a master and two workers, each a process of its own on loopback, and a session at it that all tests here
share. Without pyspark or Java they are skipped, unless COLLAB_NOTES_SPARK=1 says that both should be there."""
import ctypes, os, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

def missing():
    "Why there can be no cluster here; '' if there can"
    try: import pyspark
    except ImportError: return 'pyspark is not installed'
    java = os.environ.get('JAVA_HOME')
    return '' if shutil.which('java') or java and Path(java, 'bin/java').exists() else 'there is no Java'

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def end_with_us():
    "In a child: it ends when its parent does, however that ends (Linux)"
    if sys.platform=='linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL)   # PR_SET_PDEATHSIG

class Cluster:
    "Spark's master and workers as processes; `kill` is SIGKILL, of a worker and its executor"
    def __init__(self, folder):
        import pyspark
        self.folder,self.port = Path(folder),free_port()
        self.url,self.bin = f'spark://127.0.0.1:{self.port}',Path(pyspark.__file__).parent/'bin/spark-class'
        root = str(Path(__file__).resolve().parents[2])
        self.env = {**os.environ, 'PYSPARK_PYTHON':sys.executable, 'SPARK_LOCAL_IP':'127.0.0.1', 'SPARK_NO_DAEMONIZE':'1',
                    'PYTHONPATH':os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])}
        self.workers,self.started = [],0
        self.master = self.run('deploy.master.Master', '--host', '127.0.0.1', '--port', str(self.port), '--webui-port', str(free_port()))
        for _ in range(2): self.add_worker()

    def run(self, name, *args):
        log = open(self.folder/f'{name}-{self.started}.log', 'w')
        self.started += 1
        return subprocess.Popen([str(self.bin), f'org.apache.spark.{name}', *args], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env,
                                start_new_session=True, preexec_fn=end_with_us)

    def add_worker(self):
        self.workers.append(self.run('deploy.worker.Worker', '--cores', '1', '--memory', '1g', '--host', '127.0.0.1',
                                     '--webui-port', str(free_port()), '-d', str(self.folder/f'work{self.started}'), self.url))

    def kill(self):
        "Kill the first worker, with all that it has started: they are one group"
        p = self.workers.pop(0)
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()

    def stop(self):
        for p in (*self.workers, self.master):
            try: os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError: pass
            p.wait()

@pytest.fixture(scope='session')
def cluster(tmp_path_factory):
    if why := missing():
        if os.environ.get('COLLAB_NOTES_SPARK'): pytest.fail(f'COLLAB_NOTES_SPARK is set, but {why}')
        pytest.skip(why)
    res = Cluster(tmp_path_factory.mktemp('cluster'))
    try: yield res
    finally: res.stop()

def executors(spark):
    "How many executors there are, beside the driver"
    return len(list(spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos()))-1

def wait_for(what, seconds=120):
    "Until `what()` says something; fails after a while"
    end = time.monotonic()+seconds
    while not (res := what()):
        assert time.monotonic()<end, 'it did not happen'
        time.sleep(.02)
    return res

@pytest.fixture(scope='session')
def spark(cluster):
    os.environ['PYTHONPATH'] = cluster.env['PYTHONPATH']
    from collab_notes.spark import spark_session
    res = spark_session(cluster.url, {'spark.ui.enabled':'false', 'spark.sql.shuffle.partitions':2, 'spark.default.parallelism':2,
        'spark.driver.bindAddress':'127.0.0.1', 'spark.driver.host':'127.0.0.1', 'spark.executor.memory':'700m', 'spark.executor.cores':1,
        'spark.driver.memory':'700m'})
    try:
        wait_for(lambda: executors(res)==2)
        yield res
    finally: res.stop()

def made_up(n=3000, n_users=60, n_items=80, seed=0):
    "Ratings of a small world, each pair once, with times"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(user=rng.integers(1, n_users+1, n), movie=rng.integers(1, n_items+1, n)*7)).drop_duplicates(ignore_index=True)
    p,q = rng.normal(size=(n_users+1,2)),rng.normal(size=(n_items*7+1,2))
    y = 3+(p[df.user]*q[df.movie]).sum(1)*.6+rng.normal(size=len(df))*.5
    return df.assign(rating=np.clip(np.round(2*y)/2, .5, 5), timestamp=rng.permutation(len(df))+10**9)

@pytest.fixture(scope='session')
def ratings(): return made_up()

@pytest.fixture(scope='session')
def parquet(ratings, tmp_path_factory):
    path = tmp_path_factory.mktemp('lake')/'ratings.parquet'
    ratings.to_parquet(path)
    return str(path)
