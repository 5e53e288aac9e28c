"""Sessions, and where tables lie: whatever is said of a place, nothing is lost there, and nothing is taken for something else."""
import shutil, subprocess, sys, threading

import numpy as np
import pandas as pd
import pytest
import torch

from collab_notes.errors import BadRatingError, CollabError, NoFileError, RatingsError, SettingError
from collab_notes.files import load, save
from collab_notes.lists import recommend
from collab_notes.quick import fit_quick
from collab_notes.spark import check_spark_ratings, spark_ratings, spark_vocab
from collab_notes.sparkals import SparkALS, _factor_table, _shares, fingerprint, spark_fingerprint
from collab_notes.sparkscore import _side_blocks, spark_evaluate, spark_recommend
from collab_notes.sparksession import check_place, spark_parquet, spark_session, whole_path, write_parquet
from collab_notes.sparksplits import _at_place, spark_leave_last_out, spark_temporal_split
from collab_notes.sparktrain import train_in_cluster
from collab_notes.splits import leave_last_out, temporal_split
from conftest import made_up

def als(): return SparkALS(4, wd=.1, n_epoch=2, seed=1, numUserBlocks=2, numItemBlocks=2)

def in_a_thread(f):
    res = []
    t = threading.Thread(target=lambda: res.append(f()), daemon=True)
    t.start()
    t.join(100)
    return res[0]

def test_there_is_one_session(spark, cluster):
    for f in (spark_session, lambda: spark_session(cluster.url), lambda: in_a_thread(spark_session)):
        assert f().sparkContext.applicationId==spark.sparkContext.applicationId
    k = 'spark.sql.shuffle.partitions'
    was = spark.conf.get(k)
    assert spark_session(conf={k:5}).conf.get(k)=='5'
    with pytest.raises(SettingError, match='spark.executor.memory: .*only a start'): spark_session(conf={k:6, 'spark.executor.memory':'9g'})
    assert spark.conf.get(k)=='5'
    spark_session(conf={k:was, 'spark.ui.enabled':False})   # what it has already is no change
    with pytest.raises(SettingError, match='already'): in_a_thread_raises(lambda: spark_session('local[7]'))

def in_a_thread_raises(f):
    def run():
        try: return f()
        except Exception as e: return e
    raise in_a_thread(run)

def test_spark_submit_says_where(cluster, tmp_path):
    code = tmp_path/'job.py'
    code.write_text("from collab_notes.sparksession import spark_session\ns = spark_session()\nprint('ran at', s.sparkContext.master, s.sparkContext.appName)\n")
    res = subprocess.run([cluster.bin.parent/'spark-submit', '--master', 'local[3]', '--name', 'mine', '--conf', 'spark.ui.enabled=false', '--conf',
                          'spark.driver.host=127.0.0.1', code], capture_output=True, text=True, timeout=200, env=cluster.env, cwd=tmp_path)
    assert 'ran at local[3] mine' in res.stdout, res.stderr

@pytest.mark.parametrize('kind', ['array','struct','binary','map'])
def test_ids_are_one_value_each(spark, kind):
    from pyspark.sql.functions import array, struct
    df = spark.createDataFrame(pd.DataFrame(dict(user=['a','b'], item=['x','y'], rating=[1.,2.])))
    f = {'array':lambda o: array(o), 'struct':lambda o: struct(o), 'binary':lambda o: o.cast('binary'), 'map':None}[kind]
    if f is None: df = df.selectExpr('user', 'map(item, 1) as item', 'rating')
    else: df = df.withColumn('item', f(df['item']))
    for g in (check_spark_ratings, als().fit):
        with pytest.raises(RatingsError, match=f'item: ids are of type {kind}') as e: g(df)
        assert e.value.column=='item'

def test_what_comes_in_parts_is_whole(spark, ratings, parquet):
    r = spark_ratings(parquet, spark=spark)
    assert spark_vocab(r, most=25)==spark_vocab(r)
    f = spark.createDataFrame([(k, [k+.5,-k*1.]) for k in (0,2,3,9)], 'id int, features array<float>')
    a,b = _factor_table(f, 11, 2),_factor_table(f, 11, 2, most=50)
    assert (a==b).all() and a[9].tolist()==[9.5,-9.] and not a[1].any()

@pytest.mark.parametrize('values', [np.arange(50), np.repeat([3,-2,10**15], 20), np.array([.1,-1e300,1e300,0.,.1]), np.array([7,7]), np.array([-1.7e308,1.7e308,0.]),
                                    np.random.default_rng(0).normal(size=500), np.random.default_rng(0).integers(-9, 9, 500)*10**15], ids=range(7))
def test_the_number_at_a_place(spark, values):
    df = spark.createDataFrame(pd.DataFrame(dict(t=values)))
    for k in {0,1,len(values)//3,len(values)-1}: assert _at_place(df, k, n_bins=5)==np.sort(values)[k]

def test_fingerprints_are_alike(spark):
    rng = np.random.default_rng(0)
    for size in (5, 1e7, 1e17):
        df = pd.DataFrame(dict(u=rng.integers(1, 2**31, 99), i=rng.integers(1, 2**31, 99), rating=rng.normal(size=99)*size))
        assert spark_fingerprint(spark.createDataFrame(df))==(99, fingerprint(df.u, df.i, df.rating))
    assert spark_fingerprint(spark.createDataFrame(df).where('u<0'))==(0, 0)

def test_ratings_that_have_changed(spark, tmp_path):
    df,there = made_up(400),tmp_path/'r.parquet'
    df.to_parquet(there)
    m = als().fit(str(there), spark=spark)
    assert spark_recommend(m, spark, n=3).count()
    others = dict(ratings=df.assign(rating=df.rating+1), ids=df.assign(user=df.user+1000), fewer=df.head(200), columns=df.rename(columns={'movie':'film'}))
    for o in others.values():
        o.to_parquet(there)
        with pytest.raises(RatingsError, match='not those that this model was trained on'): spark_recommend(m, spark)
    with pytest.raises(RatingsError, match='not those that'): spark_evaluate(m, spark, spark.createDataFrame(df.head(20)))
    assert spark_recommend(m, spark, n=3, history=spark.createDataFrame(df)).count()

def test_many_files_by_one_pattern(spark, tmp_path):
    df = made_up(400)
    for k in 'ab': df[df.user%2==(k=='a')].to_parquet(tmp_path/f'{k}.parquet')
    spark.createDataFrame(df.head(9)).write.parquet(str(tmp_path/'c.folder'))
    for pattern,n in (('*.parquet',len(df)), ('{a,b}.parquet',len(df)), ('[c-e].folder',9)):
        m = als().fit(str(tmp_path/pattern), spark=spark)
        m = load(save(m, tmp_path/'m.safetensors'))
        assert callable(m._history) and len(m.history)==n

def test_disks_of_their_own(spark, tmp_path):
    "/proc/self/cwd is another folder for each process, as /data is on each machine that shares no disk"
    mine = f'{tmp_path.name}-{tmp_path.parent.name}.parquet'
    path,df = f'/proc/self/cwd/{mine}',spark.createDataFrame(made_up(400))
    try:
        mine_als = als()
        with pytest.raises(SettingError, match='disks of their own'): mine_als.fit(df, history=path)
        assert not hasattr(mine_als, 'model_')   # said before anything is trained
        with pytest.raises(SettingError, match='disks of their own'): write_parquet(df, path)
        m = als().fit(df)
        with pytest.raises(SettingError, match='disks of their own'):
            spark_recommend(m.with_history(fit_quick(made_up(400)).history), spark, out=path, overwrite=True)
    finally:
        for o in (mine, f'{mine}.tried'): shutil.rmtree(o, ignore_errors=True)

def test_nothing_is_written_into_a_table(spark, tmp_path):
    df = made_up(300)
    t = spark.createDataFrame(df.assign(half=df.user%2))
    t.write.parquet(str(tmp_path/'plain'))
    t.write.partitionBy('half').parquet(str(tmp_path/'parts'))
    df.to_parquet(tmp_path/'r.parquet')
    for name in ('plain','parts'):
        read = spark_parquet(tmp_path/name, spark)
        for inside in ('more','half=0/more','half=7','.'):
            with pytest.raises(SettingError, match='are read from there'): check_place(spark, tmp_path/name/inside, True, read)
        check_place(spark, tmp_path/f'{name}-more', False, read)
    held = spark_parquet(tmp_path/'plain', spark).select('user','movie','rating').persist()   # its plan has no files any more
    try:
        with pytest.raises(SettingError, match='are read from there'): als().fit(held, history=tmp_path/'plain', overwrite=True)
    finally: held.unpersist()
    check_place(spark, tmp_path/'beside', False, spark_parquet(tmp_path/'r.parquet', spark))   # the folder of a single file is no table

def test_what_spark_cannot_reach(spark, tmp_path):
    m = als().fit(spark.createDataFrame(made_up(300)))
    for f in (lambda: als().fit('s3a://lake/r.parquet', spark=spark), lambda: als().fit(spark.createDataFrame(made_up(300)), history='s3a://lake/h'),
              lambda: spark_recommend(m, spark, out='s3a://lake/lists'), lambda: whole_path(spark, 'lake9:/x')):
        with pytest.raises(NoFileError, match='nothing that reads (s3a|lake9):.*spark.jars.packages'): f()
    with pytest.raises(NoFileError, match='finds no parquet'): spark_parquet(tmp_path/'nowhere', spark)
    (tmp_path/'text.parquet').write_text('no parquet')
    for f in (lambda o: als().fit(spark.createDataFrame(made_up(300)), history=o), lambda o: spark_recommend(m, spark, history=spark.createDataFrame(made_up(300)), out=o)):
        with pytest.raises(SettingError, match='cannot write there'): f(tmp_path/'text.parquet'/'inside')
    with pytest.raises(NoFileError, match='finds no parquet'): spark_parquet(tmp_path/'text.parquet', spark)

def test_a_file_system_with_a_scheme(spark, tmp_path):
    "viewfs is a part of Hadoop that needs no server: all goes through its interface, as for s3a"
    spark._jsc.hadoopConfiguration().set('fs.viewfs.mounttable.lake.link./in', tmp_path.as_uri())
    df = made_up(400)
    df.to_parquet(tmp_path/'r.parquet')
    m = als().fit('viewfs://lake/in/r.parquet', spark=spark)
    assert m.source['path']=='viewfs://lake/in/r.parquet'
    with pytest.raises(SettingError, match='are read from there'): als().fit('viewfs://lake/in/r.parquet', history='viewfs://lake/in', overwrite=True, spark=spark)
    m = als().fit(spark.createDataFrame(df), history='viewfs://lake/in/h.parquet')
    spark._jsc.hadoopConfiguration().set('fs.viewfs.mounttable.default.link./in', tmp_path.as_uri())
    back = load(save(als().fit('viewfs:/in/r.parquet', spark=spark), tmp_path/'m.safetensors'))
    assert len(back.history)==len(df)
    back = load(save(m, tmp_path/'m.safetensors'))
    with pytest.raises(SettingError, match='there already'): spark_recommend(fit_quick(df), spark, out='viewfs://lake/in/h.parquet')
    assert len(back.history)==len(df)==len(pd.read_parquet(tmp_path/'h.parquet'))
    lists = spark_recommend(m, spark, n=4, out='viewfs://lake/in/lists')
    assert len(pd.read_parquet(tmp_path/'lists'))==lists.count()==len(recommend(back, n=4))

def test_nothing_is_left_in_the_cluster(spark, tmp_path):
    m,df = fit_quick(made_up(400)),spark.createDataFrame(made_up(400))
    kept = lambda: set(spark.sparkContext._jsc.getPersistentRDDs().keySet())   # Java may forget some of others' meanwhile
    r = spark_ratings(df)
    was = kept()
    spark_evaluate({'a':m, 'b':m}, spark, df, n=3)
    with pytest.raises(CollabError): spark_evaluate(m, spark, df.withColumn('user', df.user+10**6))
    spark_vocab(r)
    assert not kept()-was

def test_a_second_session_has_nothing_of_the_first(cluster, tmp_path):
    code = """import sys
from collab_notes.errors import SettingError
from collab_notes.sparksession import spark_session
s = spark_session('local[2]', {'spark.ui.enabled':False, 'spark.executor.memory':'601m'})
s.sparkContext._jsc.sc().stop()   # as its master would
s = spark_session('local[1]', {'spark.ui.enabled':False})
print([s.conf.get(k, None) for k in ('spark.master','spark.executor.memory','spark.driver.host')])
s.stop()
try: spark_session('local[1]', {'spark.driver.memory':'2g'})
except SettingError as e: print(e)
s = spark_session(sys.argv[1], {'spark.ui.enabled':False})
print([s.conf.get(k, None) for k in ('spark.master','spark.driver.bindAddress','spark.sql.shuffle.partitions')])"""
    res = subprocess.run([sys.executable, '-c', code, cluster.url], capture_output=True, text=True, timeout=200, env=cluster.env, cwd=tmp_path)
    a,b,c = res.stdout.strip().splitlines()
    assert a=="['local[1]', None, '127.0.0.1']" and b.startswith('spark.driver.memory: Java runs already')
    assert c==f"['{cluster.url}', None, None]"

def test_a_model_is_saved_before_it_is_judged(spark, parquet, tmp_path, monkeypatch):
    given = dict(engine='spark', file=parquet, master=None, conf=None, history_out=None, no_history=False, out=str(tmp_path/'mine'), user_name=None,
                 item_name=None, rating_name=None, time_name=None, duplicates=None, split='random', valid_pct=.2, seed=1, n_factors=3, goal='ratings',
                 wd=.1, n_epoch=1, sep=None, header=False, no_header=False, decimal=None, encoding=None, comment=None, missing=None, wide=False,
                 items_file=None, also=None, n_models=1, lr=None, checkpoint=None, user=None, n=10, min_ratings=None)
    def no(*args): raise CollabError('no judge')
    with monkeypatch.context() as o:
        o.setattr('collab_notes.sparktrain._judged', no)
        with pytest.raises(CollabError, match='no judge'): train_in_cluster(given)
    n = len(load(tmp_path/'mine').history)
    assert train_in_cluster({**given, 'n_factors':2}).user_factors.shape[1]==2 and len(load(tmp_path/'mine').history)==n   # its own ratings may be replaced
    conf = spark._jsc.hadoopConfiguration()
    was = conf.get('fs.defaultFS')
    conf.set('fs.defaultFS', 'viewfs://lake')
    conf.set('fs.viewfs.mounttable.lake.link./user', tmp_path.as_uri())
    try:
        with pytest.raises(SettingError, match='--history-out viewfs://lake/'): train_in_cluster({**given, 'file':f'file:{parquet}', 'out':'mine-too'})
    finally: conf.set('fs.defaultFS', was)

def test_ids_and_held_out_ratings_of_another_type(spark):
    df = made_up(300).rename(columns={'movie':'item'})
    half = fit_quick(df.assign(user=df.user/2))   # 0.5, 1.0, 1.5: as whole numbers, two would be one
    with pytest.raises(RatingsError, match='user: its type is bigint'): spark_recommend(half, spark, history=spark.createDataFrame(df))
    whole = fit_quick(df.assign(user=df.user*1.))
    assert spark_recommend(whole, spark, n=2, history=spark.createDataFrame(df)).count()==2*df.user.nunique()
    train = spark.createDataFrame(df)
    for col,kind in (('user','string'), ('item','double')):
        with pytest.raises(RatingsError, match=f'{col}: held-out ratings have ids of type {kind}'): als().fit(train, train.withColumn(col, train[col].cast(kind)))
    text = train.withColumn('rating', train.rating.cast('string'))
    for f in (lambda: als().fit(train, text), lambda: als().fit(text), lambda: spark_evaluate(fit_quick(df), spark, text)):
        with pytest.raises(BadRatingError, match='rating: ratings are of type string'): f()
    als().fit(train, train.withColumn('user', train.user.cast('int')))

def test_times_know_no_zone(spark):
    "Half past two does not exist in Berlin on that day"
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=np.arange(200)%20, item=rng.permutation(200), rating=1., timestamp=pd.Timestamp('2024-03-31')+pd.to_timedelta(rng.permutation(200)*2, 'm')))
    t = spark.createDataFrame(df.assign(timestamp=df.timestamp.astype(str)))
    was = spark.conf.get('spark.sql.session.timeZone')
    spark.conf.set('spark.sql.session.timeZone', 'Europe/Berlin')
    try:
        for kind in ('timestamp_ntz','string'):
            r = spark_ratings(t.withColumn('timestamp', t.timestamp.cast(kind)))
            for f,pandas in ((spark_temporal_split,temporal_split), (spark_leave_last_out,leave_last_out)):
                assert sorted(o.item for o in f(r)[1].df.collect())==sorted(df.item[pandas(df)[1]])
        mixed = spark.createDataFrame([(1, k, 1., o) for k,o in enumerate(('2024-01-01 23:30','2024-01-02','2024-01-02T00:30:00Z','2024-01-02 01:00','2024-01-02 03:30:00+02:00'))],
                                      'user int, item int, rating double, time string')
        assert sorted(o.item for o in spark_leave_last_out(mixed, n=2)[1].df.collect())==[3,4]
    finally: spark.conf.set('spark.sql.session.timeZone', was)
    endless = spark.createDataFrame(df.assign(timestamp=np.where(df.user==1, np.inf, 1.)))
    with pytest.raises(RatingsError, match='have no time'): spark_temporal_split(endless)

def test_what_java_cannot_hold(spark):
    many = torch.zeros(1, 1).expand(10**6, 2000)   # 8 GB, if anybody wrote them out
    with pytest.raises(SettingError, match='spark.driver.memory'): _side_blocks(spark.sparkContext, many, torch.arange(10**6), 2048)
    t = spark.createDataFrame(pd.DataFrame(dict(u=[1,1,2,2], i=[1,2,1,2], rating=[1.,2.,3.,4.])))
    a,b = _shares(t, 2**32-1, 10)   # the last seed there is has one after it
    assert a.count()+b.count()==4

def test_settings_that_only_java_knows(spark):
    df = spark.createDataFrame(made_up(300))
    with pytest.raises(SettingError, match='numUserBlocks'): SparkALS(2, wd=.1, n_epoch=1, numUserBlocks='x').fit(df)
    for wd in (.1,None):
        with pytest.raises(SettingError, match='numUserBlocks.*invalid value -3'): SparkALS(2, wd=wd, n_epoch=1, numUserBlocks=-3).fit(df)
    m = fit_quick(made_up(300))
    for bad in (500, (0,5), (5,), 'ab', None, (2.5,3)):
        for f in (lambda: spark_recommend(m, spark, block=bad), lambda: spark_evaluate(m, spark, df, block=bad)):
            with pytest.raises(SettingError, match='block'): f()
    for kw in (dict(level=2), dict(n_boot=0), dict(unseen='maybe'), dict(n=0)):
        with pytest.raises(SettingError, match=next(iter(kw))): spark_evaluate(m, spark, df, **kw)
    with pytest.raises(SettingError, match='there are none'): spark_evaluate({}, spark, df)

def test_nothing_is_left_for_somebody_who_has_seen_all(spark, tmp_path):
    df = pd.DataFrame([(u, i, 1.+(u+i)%4) for u in range(3) for i in range(4)], columns=['user','item','rating'])
    assert not spark_recommend(fit_quick(df), spark, out=str(tmp_path/'none')).count()
    assert not write_parquet(spark.createDataFrame(df).where('user>7'), tmp_path/'nobody').count()
