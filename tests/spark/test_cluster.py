"""The same checks, splits, models, lists and measures from a cluster as from this machine; and when a worker is killed."""
import re, signal, subprocess, sys, threading

import numpy as np
import pandas as pd
import pytest
import torch

from collab_notes.baselines import damped_means
from collab_notes.errors import BadRatingError, EmptyRatingsError, NoFileError, RatingsError, SettingError, UnseenIdError
from collab_notes.files import load, save
from collab_notes.lists import evaluate, recommend
from collab_notes.matrix import check_model
from collab_notes.quick import fit_quick
from collab_notes.spark import check_spark_ratings, spark_ratings, spark_vocab, with_rows
from collab_notes.sparkals import WDS, SparkALS, spark_damped_means
from collab_notes.sparkcluster import executors, stages, wait_for
from collab_notes.sparkscore import _grid, spark_evaluate, spark_recommend
from collab_notes.sparksession import spark_session, whole_path
from collab_notes.sparksplits import spark_leave_last_out, spark_random_split, spark_temporal_split
from collab_notes.splits import leave_last_out, temporal_split
from collab_notes.tables import check_ratings
from collab_notes.vocab import History
from conftest import made_up

try: from pyspark.sql.functions import when
except ImportError: when = None   # the tests are skipped

GOOD = dict(user=['a','a','b','c'], item=['x','y','x','z'], rating=[4.,3.,5.,1.])
SPOILT = [dict(user=['a','a','b','a'], item=['x','y','x','x']), dict(user=[], item=[], rating=[]), dict(user=['a',None,'b','c']), dict(user=['a','','b','c']), dict(item=['x','#na#','x','z']), dict(rating=[4.,float('nan'),5.,1.]),
          dict(rating=[4.,float('inf'),5.,1.]), dict(rating=[4.,3.,99.,1.]), dict(user=['a']*4), dict(item=['x','x','x','z'])]

def wording(e):
    "A message without the rows that it shows, nor the code of its remedy, which is pandas' or Spark's"
    return re.sub(r'\. (Fill|Mend|If|Make).*', '', re.sub(r' \([^()]*(\([^()]*\)[^()]*)*\)', '', str(e)))

@pytest.mark.parametrize('bad', SPOILT, ids=lambda o: ', '.join(f'{k}={v}' for k,v in o.items()))
def test_faults_are_those_of_pandas(spark, bad):
    df = pd.DataFrame({**GOOD, **bad})
    with pytest.raises(RatingsError) as ours: check_ratings(df, scale=(1,5))
    rows = [tuple(o) for o in df.astype(object).where(df.notna() | (df==float('inf')), None).itertuples(index=False)]
    if 'rating' in bad: rows = [tuple(o) for o in zip(*({**GOOD, **bad}).values())]
    with pytest.raises(RatingsError) as theirs:
        check_spark_ratings(spark.createDataFrame(rows, 'user string, item string, rating double'), scale=(1,5))
    assert type(ours.value) is type(theirs.value)
    assert wording(ours.value)==wording(theirs.value)
    assert ours.value.column==theirs.value.column

def test_policies_are_those_of_pandas(spark):
    df = pd.DataFrame(dict(user=[1,1,2,2,1], item=[7,7,8,7,7], rating=[2.,4.,5.,1.,3.], time=[3,4,5,6,9]))
    for policy in ('keep','first','last','mean'):
        ours = check_ratings(df, duplicates=policy)
        theirs = check_spark_ratings(spark.createDataFrame(df), duplicates=policy).df.toPandas()
        by = ['user','item','rating']
        assert sorted(ours[by].itertuples(index=False))==sorted(theirs[by].itertuples(index=False)), policy

def test_ratings_of_text(spark):
    df = pd.DataFrame({**GOOD, 'rating':list('4351')})
    for f,t in ((check_ratings,df), (check_spark_ratings,spark.createDataFrame(df))):
        with pytest.raises(BadRatingError, match="rating: ratings are of type .*'4'") as e: f(t)
        assert e.value.column=='rating'
    with pytest.raises(EmptyRatingsError): check_spark_ratings(spark.createDataFrame(df).where('false'))

def test_first_and_last_by_times_of_text(spark):
    times = '2024-02-01 09:00','2024-2-1 10:30','2023-12-31 08:00'   # as texts, the second comes last
    df = spark.createDataFrame([(1, 7, k+1., o) for k,o in enumerate(times)]+[(2, 8, 1., None)], 'user int, item int, rating double, time string')
    for policy,y in (('first',3.),('last',2.)):
        r = check_spark_ratings(df, duplicates=policy).df
        assert sorted((o.user,o.rating) for o in r.collect())==[(1,y),(2,1.)]

@pytest.mark.parametrize('kind', ['long','string','date','timestamp','double'])
def test_ids_of_any_type(spark, kind):
    ids = {'long':[5,-1,9], 'string':['b','ä','Z'], 'date':pd.to_datetime(['2024-01-02','1999-01-01','2030-01-01']).date,
           'timestamp':[pd.Timestamp(f'20{k}-01-01').to_pydatetime() for k in (10,24,11)], 'double':[.5,2.,1.]}[kind]
    df = spark.createDataFrame([(o, k, 1.) for k,o in enumerate(ids)], f'user {kind}, item int, rating double')
    v = spark_vocab(spark_ratings(df))
    assert v.classes['user'][1:]==tuple(sorted(ids))
    back = {(o.u,o.i) for o in with_rows(spark_ratings(df), v).collect()}
    assert back=={(v.row(o, False), k+1) for k,o in enumerate(ids)}
    other = df.withColumn('user', df['user'].cast('string' if kind!='string' else 'binary'))
    with pytest.raises(RatingsError, match='user: its type is .*Make them alike') as e: with_rows(spark_ratings(other), v)
    assert e.value.column=='user'

def test_splits(spark, ratings, parquet):
    r = spark_ratings(parquet, spark=spark)
    pairs = lambda o: sorted((x.user,x.item) for x in o.df.select('user','item').collect())
    many = r._replace(df=r.df.repartition(9))
    ours = lambda o: [sorted(zip(ratings.user[k], ratings.movie[k])) for k in o]
    for f,pandas in ((spark_random_split,None), (spark_temporal_split,temporal_split), (spark_leave_last_out,leave_last_out)):
        a,b = map(pairs, f(r))
        assert [a,b]==[*map(pairs, f(many))] and len(a)+len(b)==len(ratings)
        if pandas: assert [a,b]==ours(pandas(ratings))
    assert abs(len(pairs(spark_random_split(r)[1]))/len(ratings)-.2)<.04
    short = r._replace(df=r.df.withColumn('user', r.df['user'].cast('int')))
    assert pairs(spark_random_split(short)[1])==pairs(spark_random_split(r)[1])
    assert pairs(spark_random_split(r, seed=1)[1])!=pairs(spark_random_split(r)[1])

@pytest.mark.parametrize('kind', ['timestamp_ntz','timestamp','string','date'])
def test_times_of_any_type(spark, kind):
    df = made_up(300)
    df['timestamp'] = pd.to_datetime(df.timestamp-df.timestamp.min(), unit='D')
    t = spark.createDataFrame(df.assign(timestamp=df.timestamp.astype(str)))
    t = t.withColumn('timestamp', t.timestamp.cast(kind))
    for f,pandas in ((spark_temporal_split,temporal_split), (spark_leave_last_out,leave_last_out)):
        held = f(spark_ratings(t))[1].df.select('user','item').collect()
        want = pandas(df)[1]
        assert sorted((o.user,o.item) for o in held)==sorted(zip(df.user[want], df.movie[want]))
        gone = t.withColumn('timestamp', when(t.user==1, None).otherwise(t.timestamp))
        with pytest.raises(RatingsError, match='have no time'): f(spark_ratings(gone))

def test_decimal_ids_are_refused(spark, parquet):
    t = spark.read.parquet(parquet)
    with pytest.raises(RatingsError, match='decimal'): check_spark_ratings(t.withColumn('user', t.user.cast('decimal(20,0)')))

@pytest.fixture(scope='module')
def trained(spark, parquet, tmp_path_factory):
    als = SparkALS(6, wd=.1, n_epoch=5, seed=3)
    train,valid = spark_random_split(spark_ratings(parquet, spark=spark))
    return als,als.fit(train, valid, history=str(tmp_path_factory.mktemp('known')/'ratings.parquet')),train,valid

def test_means_are_those_of_this_machine(spark, ratings, parquet):
    r = spark_ratings(parquet, spark=spark)
    h = History.of(ratings)
    v = spark_vocab(r)
    assert v==h.vocab
    ours,theirs = damped_means(*h.part(), v.n_users, v.n_items),spark_damped_means(with_rows(r, v), v.n_users, v.n_items)
    for a,b in zip(ours, theirs): np.testing.assert_allclose(a, b, atol=1e-5)

def test_weight_decay_is_chosen_by_the_ratings(spark, trained):
    "Of noise, nothing is learned; and what is chosen knows no unit"
    rng = np.random.default_rng(0)
    df = made_up(6000, 100, 100)
    fit = lambda df: (als := SparkALS(6, n_epoch=5, seed=3, numUserBlocks=2, numItemBlocks=2), als.fit(spark.createDataFrame(df)))
    als,m = fit(df)
    als20,m20 = fit(df.assign(rating=20*df.rating))
    noise,_ = fit(df.assign(rating=rng.normal(size=len(df))))
    assert noise.wd_==max(WDS)>als.wd_==als20.wd_==m.about['wd'] and als.wd is None
    np.testing.assert_allclose(m20.predict(df).prediction, 20*m.predict(df).prediction, rtol=1e-3)
    assert SparkALS(2, n_epoch=1).fit(spark.createDataFrame(pd.DataFrame(GOOD))).about['wd'] in WDS

def test_predictions_are_sparks_own(spark, trained):
    als,m,_,_ = trained
    u,i,_ = m.history.part(True)
    pairs = spark.createDataFrame(pd.DataFrame(dict(u=u.int().numpy(), i=i.int().numpy())))
    own = {(o.u,o.i):o.prediction for o in als.model_.transform(pairs).collect()}
    own = torch.tensor([own[o] for o in zip(u.tolist(), i.tolist())])
    assert (~own.isnan()).sum()>100
    whole = own.nan_to_num(0.)*als.sd_+m.user_bias[u]+m.item_bias[i]
    assert (m.raw_pairs(u, i)-whole).abs().max()<1e-4
    assert (m.pair_scores(u, i)-whole.clamp(m.scale[0], m.scale[2])).abs().max()<1e-4

@pytest.mark.parametrize('goal', ['ratings','lists'])
def test_every_verb(spark, trained, tmp_path, goal):
    m = trained[1]
    if goal=='lists': m = SparkALS(6, n_epoch=3, goal='lists', alpha=2.).fit(trained[2], trained[3], history=str(tmp_path/'h.parquet'))
    m = load(save(m, tmp_path/'m.safetensors'))
    table = check_model(m)
    refused = table[table!='yes']
    assert list(refused.index) in ([],['bias_table']) if goal=='lists' else not len(refused), refused

def test_the_page(trained):
    from starlette.testclient import TestClient
    from collab_notes.app import make_app
    with TestClient(make_app(trained[1]), base_url='http://127.0.0.1') as page: assert page.get('/').status_code==200

def test_history_stays_where_it_is(trained, tmp_path, ratings):
    m = trained[1]
    m.refer(m.source)
    back = load(save(m, tmp_path/'m.safetensors'))
    assert callable(m._history) and callable(back._history)   # nobody has read them
    assert len(back.history)==len(ratings) and back.history.held_out.sum()==m.history.held_out.sum()>0
    other = {**m.source, 'path':str(tmp_path/'gone.parquet')}
    m2 = m.replace()
    m3 = type(m).from_state({**m.state(), 'source':other}, m.vocab, None)
    with pytest.raises(NoFileError, match='no longer there'): m3.history
    known = m.history.table()
    known.assign(held_out=False).to_parquet(other['path'])
    with pytest.raises(RatingsError, match='not those'): type(m).from_state({**m.state(), 'source':other}, m.vocab, None).history
    assert m2.predict(known.head(3)).prediction.tolist()==m.predict(known.head(3)).prediction.tolist()

def test_what_lies_there_is_not_written_over(spark, trained, tmp_path):
    als,_,train,valid = trained
    there = tmp_path/'h.parquet'
    als.fit(train, valid, history=there)
    with pytest.raises(SettingError, match='overwrite=True'): als.fit(train, valid, history=there)
    als.fit(train, history=there, overwrite=True)
    assert not pd.read_parquet(there).held_out.any()
    mine = spark_ratings(str(there), spark=spark)   # whatever is said: not what is being read, nor a folder around it
    for place in (there, there.parent, f'file:{there}'):
        with pytest.raises(SettingError, match='are read from there'): als.fit(mine, history=place, overwrite=True)
        with pytest.raises(SettingError, match='are read from there'): spark_recommend(trained[1], spark, history=str(there), out=place, overwrite=True)
    with pytest.raises(SettingError, match='overwrite=True'): spark_recommend(trained[1], spark, out=tmp_path)
    assert len(pd.read_parquet(there))>100

def test_what_is_wrong_with_what_is_held_out(spark, trained):
    m = trained[1]
    good = pd.DataFrame({m.user_name:[1.,2.], m.item_name:[7.,14.], 'rating':[3.,4.]})
    for col in good.columns:
        bad = spark.createDataFrame([(None if col==m.user_name else 1, None if col==m.item_name else 7, None if col=='rating' else 3.), (2, 14, 4.)],
                                    f'{m.user_name} long, {m.item_name} long, rating double')
        for f in (lambda: spark_evaluate(m, spark, bad, unseen='skip'), lambda: SparkALS(2, wd=.1, n_epoch=1).fit(trained[2], bad)):
            with pytest.raises(RatingsError) as e: f()
            assert e.value.column==col
    strange = spark.createDataFrame(pd.DataFrame({m.user_name:[99], m.item_name:[1], 'rating':[3.]}))
    with pytest.raises(SettingError, match='nothing to recommend'): spark_recommend(m, spark, history=strange)

def test_a_path_without_a_scheme_is_where_spark_finds_it(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole_path(spark, 'file:/lake/r')=='/lake/r'
    conf = spark._jsc.hadoopConfiguration()
    was = conf.get('fs.defaultFS')
    assert whole_path(spark, '/lake/r')=='/lake/r'
    conf.set('fs.defaultFS', 'hdfs://127.0.0.1:9')
    try: assert whole_path(spark, '/lake/r')=='hdfs://127.0.0.1:9/lake/r' and whole_path(spark, 'file:/lake/r')=='/lake/r'
    finally: conf.set('fs.defaultFS', was)

def test_settings_of_sparks(trained):
    with pytest.raises(SettingError, match='n_factors'): SparkALS(rank=3).spark_als()
    with pytest.raises(SettingError, match='no such'): SparkALS(magic=3).spark_als()
    with pytest.raises(SettingError, match='CheckpointDir'): SparkALS(n_epoch=11).fit(trained[2])
    with pytest.raises(SettingError, match='already'): spark_session('local[7]')
    assert SparkALS(numUserBlocks=3).spark_als().getNumUserBlocks()==3

@pytest.mark.parametrize('kind', ['spark','quick'])
def test_lists_and_measures(spark, trained, ratings, kind, tmp_path):
    m = trained[1]
    if kind=='quick': m = fit_quick(m.history.table())
    held = trained[1].history.table(held_out=True)
    held = held[held[m.item_name].isin(m.classes[m.item_name])]
    ours = recommend(m, n=5)
    if kind=='spark': m.refer(m.source)
    theirs = spark_recommend(m, spark, n=5, block=(16,25), out=str(tmp_path/'lists.parquet')).toPandas()
    assert len(ours)==len(theirs)==len(pd.read_parquet(tmp_path/'lists.parquet'))
    theirs = theirs.sort_values([m.user_name,'rank'])
    assert theirs[m.item_name].tolist()==ours[m.item_name].tolist()
    np.testing.assert_allclose(theirs.prediction, ours.prediction, atol=1e-5)
    a = spark_evaluate(m, spark, spark.createDataFrame(held), n=5)
    if kind=='spark': assert callable(m._history)   # not read here
    b = evaluate(m, held, n=5)
    assert list(a)==list(b)
    np.testing.assert_allclose(a.to_numpy(), b.to_numpy(), rtol=1e-5)

def test_several_models_in_one_table(spark, trained):
    als,m,train,valid = trained
    table = m.history.table()
    lists = spark.createDataFrame(table)
    models = dict(means=als.baseline_, ours=m, other=fit_quick(table[table[m.user_name]>5]), lists=SparkALS(3, n_epoch=1, goal='lists').fit(lists))
    kw = dict(history=train, unseen='skip', n=4)
    res = spark_evaluate(models, spark, valid, **kw)
    assert list(res.index)==list(models) and res.index.name=='model' and res.loc['lists'].isna().sum()==2
    for k,o in models.items():
        alone = spark_evaluate(o, spark, valid, **kw)
        np.testing.assert_allclose(res.loc[k,alone.columns].to_numpy(float), alone.to_numpy()[0], rtol=1e-9)

def test_ids_that_the_model_does_not_know(spark, trained):
    m = fit_quick(trained[1].history.table())
    held = pd.DataFrame({m.user_name:[1,1,2,3,99], m.item_name:[7,1,1,14,7], 'rating':[3.,4.,2.,5.,1.]})   # item 1 and user 99
    there = spark.createDataFrame(held)
    for f in (lambda: evaluate(m, held), lambda: spark_evaluate(m, spark, there)):
        with pytest.raises(UnseenIdError, match='user: 99 is not among the users the model knows'): f()
    for unseen,n in (('skip',held),('error',held.head(4))):
        a,b = spark_evaluate(m, spark, spark.createDataFrame(n), unseen=unseen),evaluate(m, n, unseen=unseen)
        np.testing.assert_allclose(a[b.columns].to_numpy(), b.to_numpy(), rtol=1e-5)
    with pytest.raises(UnseenIdError): spark_evaluate(m, spark, there.where('user=99'), unseen='skip')
    with pytest.raises(EmptyRatingsError): spark_evaluate(m, spark, there.where('false'))

def test_a_task_holds_one_block_of_each(spark, ratings):
    from pyspark.sql.functions import spark_partition_id
    m = fit_quick(ratings)
    u,i,_ = m.history.part()
    some = u>20   # the first blocks of users have seen nothing
    pairs = spark.createDataFrame(pd.DataFrame(dict(u=u[some].int().numpy(), i=i[some].int().numpy())))
    for seen in (None,pairs):
        grid = _grid(spark, m.as_surface(), torch.arange(1, m.vocab.n_users), torch.arange(1, m.vocab.n_items), seen, (10,25))
        n = grid.groupBy(spark_partition_id()).count().collect()
        assert {o[1] for o in n}=={1} and len(n)==-(-(m.vocab.n_users-1)//10)*-(-(m.vocab.n_items-1)//25)

def test_equal_scores_come_in_the_order_of_ids(spark, ratings):
    m = fit_quick(ratings)
    m = m.replace(item_factors=torch.zeros_like(m.item_factors), item_bias=m.item_bias*0)
    ours,theirs = recommend(m, n=7),spark_recommend(m, spark, n=7, block=(16,25)).toPandas()
    assert theirs.sort_values([m.user_name,'rank'])[m.item_name].tolist()==ours[m.item_name].tolist()

def test_the_command(cluster, parquet, tmp_path):
    "A process of its own starts a session of its own, at the master and with the settings that it is given; Spark's log has both"
    def run(*args):
        res = subprocess.run([sys.executable, '-c', 'from collab_notes.cli import main; main()', *args], capture_output=True, text=True, timeout=300,
                             env={**cluster.env, 'PYTHONWARNINGS':'ignore'}, cwd=tmp_path)
        assert res.returncode==0, res.stderr
        return res.stdout
    cluster.add_worker()   # the other two have a session, that of the tests
    own = dict(eventLog__enabled='true', eventLog__compress='false', eventLog__dir=tmp_path.as_uri(), executor__memory='700m', cores__max='1', app__name='heard', sql__shuffle__partitions='2')
    conf = [o for k,v in own.items() for o in ('--conf', f"spark.{k.replace('__', '.')}={v}")]
    try: out = run('train', parquet, '--engine', 'spark', '--master', cluster.url, *conf, '--n-factors', '4', '--out', 'mine')
    finally: cluster.kill(-1)
    assert cluster.url in out and 'rmse' in out and 'damped means' in out
    logs = [o for o in tmp_path.rglob('*') if o.is_file() and 'app-' in o.name]
    assert any(cluster.url in o.read_text(errors='replace') and '"spark.app.name":"heard"' in o.read_text(errors='replace') for o in logs), logs
    assert len(run('recommend', 'mine', '3', '--n', '2', '--min-ratings', '1').strip().splitlines())==3

def with_a_kill(cluster, spark, work, due):
    """The result of `work()`, in whose middle (when `due` says so) a worker is killed. Nobody can be too late for that: all workers are stopped
    first, and the one that is left goes on when the other is dead."""
    wait_for(lambda: executors(spark)==2)
    res,wrong = [],[]
    def run():
        try: res.append(work())
        except Exception as e: wrong.append(e)
    t = threading.Thread(target=run, daemon=True)
    t.start()
    try:
        wait_for(lambda: due() or not t.is_alive())
        cluster.send(signal.SIGSTOP)
        wait_for(lambda: due() or not t.is_alive())   # between two stages there is none for a moment
        assert t.is_alive() and due(), f'it was over before anybody could be killed: {wrong}'
        cluster.kill()
        cluster.send(signal.SIGCONT)
        wait_for(lambda: executors(spark)<2)
        t.join(200)
    finally:
        cluster.send(signal.SIGCONT)
        cluster.add_worker()
    assert res, f'it did not survive: {wrong}'
    return res[0]

def test_a_worker_is_killed_in_the_middle_of_training(cluster, spark, tmp_path):
    made_up(30_000, 600, 400).to_parquet(tmp_path/'r.parquet')
    als = SparkALS(20, wd=.1, n_epoch=10, seed=1, numUserBlocks=4, numItemBlocks=4)
    fit = lambda: als.fit(str(tmp_path/'r.parquet'), spark=spark)
    whole = fit()
    seen = lambda: any('ALS' in o for o in stages(spark))
    killed = with_a_kill(cluster, spark, fit, seen)
    for k in ('user_bias','item_bias'): torch.testing.assert_close(getattr(killed, k), getattr(whole, k), atol=1e-5, rtol=0)
    a,b = ((o.user_factors@o.item_factors.T) for o in (whole,killed))
    assert (a-b).abs().max()<1e-3 and a.abs().max()>.1

def test_a_worker_is_killed_in_the_middle_of_scoring(cluster, spark):
    m = fit_quick(made_up(60_000, 1500, 1200))
    best = spark_recommend(m, spark, n=10, block=(200,400))
    work = lambda: best.toPandas().sort_values([m.user_name,'rank'])
    busy = lambda: any('toPandas' in o for o in stages(spark))
    killed,ours = with_a_kill(cluster, spark, work, busy),recommend(m, n=10)
    assert killed[m.item_name].tolist()==ours[m.item_name].tolist()
