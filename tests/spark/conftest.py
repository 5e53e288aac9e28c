"""A real cluster of Spark's own: a master and two workers, each a process of its own on loopback, and a session at it that all tests here
share. Without pyspark or Java they are skipped, unless COLLAB_NOTES_SPARK=1 says that both should be there."""
import os, shutil
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

@pytest.fixture(scope='session')
def cluster(tmp_path_factory):
    if why := missing():
        if os.environ.get('COLLAB_NOTES_SPARK'): pytest.fail(f'COLLAB_NOTES_SPARK is set, but {why}')
        pytest.skip(why)
    from collab_notes.sparkcluster import SparkCluster
    with SparkCluster(tmp_path_factory.mktemp('cluster')) as res: yield res

@pytest.fixture(scope='session')
def spark(cluster):
    res = cluster.session()
    try: yield res
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
