"""What ensembles and checkpoints promise beyond what notebook 03 shows: `kill -9` at any moment, files that were tampered with, runs that are not the same."""
import json, os, pickle, random
from copy import deepcopy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.collab import collab_learner
from fastai.learner import Learner
from fastai.losses import L1LossFlat
from fastai.metrics import mae, rmse
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collab_notes.checkpoint import read_checkpoint
from collab_notes.core import as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import CheckpointError, DivergedError, ForeignFileError, ModelFileError, OtherFormatError, SettingError, UnsoundModelError
from collab_notes.files import read_tensors, write_tensors
from collab_notes.models import DotProductBias, DotProductBiasParams
from collab_notes.plots import plot_losses
from collab_notes.training import DotProductBiasBlocks, DotProductBiasEnsemble, FillUnknown, factors_and_biases, fit, ratings_learner
from conftest import Child, can_fork, loaders_of, ratings_of, same_weights, stops_in_files, weights

quiet = partial(fit, progress=False)
FILE = 'checkpoint.safetensors'

def same_run(a, b):
    assert same_weights(weights(a.model), weights(b.model)) and [list(o) for o in a.recorder.values]==[list(o) for o in b.recorder.values]
    assert [float(o) for o in a.recorder.losses]==[float(o) for o in b.recorder.losses] and a.recorder.lrs==b.recorder.lrs

def test_many_worlds_are_learned_as_well_as_one():
    "Tables side by side, without a user or an item in common: each row's share of a batch is smaller, and nothing else is different"
    rng = np.random.default_rng(0)
    one = pd.DataFrame(dict(user=rng.integers(0, 1800, 40_000), item=(rng.random(40_000)**2*1200).astype(int))).drop_duplicates(ignore_index=True)
    p,q,bu,bi = rng.normal(size=(1800,6)),rng.normal(size=(1200,6)),rng.normal(size=1800)*.4,rng.normal(size=1200)*.5
    y = 3.5+bu[one.user]+bi[one.item]+(p[one.user]*q[one.item]).sum(1)*.5+rng.normal(size=len(one))*.7
    one,held = one.assign(rating=np.clip(y.round(), 1, 5)),rng.random(len(one))<.2
    def error(n):
        df = pd.concat([one.assign(user=one.user+k*10_000, item=one.item+k*10_000) for k in range(n)], ignore_index=True)
        out = np.tile(held, n)
        learn = fit(RatingsDataLoaders.from_df(df, splits=(np.flatnonzero(~out), np.flatnonzero(out)), seed=0), seed=0, progress=False)
        return ((as_model(learn).predict(df[out]).prediction-df.rating[out])**2).mean()**.5
    assert error(8)<error(1)+.01

def test_what_is_no_loaders_is_named():
    for f in (fit, ratings_learner):
        with pytest.raises(SettingError, match=r'not DataFrame; of a table: RatingsDataLoaders.from_df'): f(ratings_of(30))

# kill -9

def in_steps(at, dls, folder, **kw):
    "Train in `folder`, standing still at each batch and at each step of saving"
    def one_batch(self, i, b, was=Learner.one_batch):
        at(f'epoch {self.epoch} {"batch" if self.training else "valid"} {i}')
        was(self, i, b)
    Learner.one_batch = one_batch
    stops_in_files(at)
    quiet(dls, checkpoint=folder, **kw)

# Where each process is killed, and when it comes there for the how manieth time. A file is synced, replaced, and then its folder is synced.
KILLS = [('epoch 0 batch 2',1), ('opened',1), ('half written',1), ('before fsync',1), ('before replace',1), ('after replace',1),   # the first file: it's there from the last of these on
         ('epoch 1 batch 0',1), ('opened',1), ('half written',2), ('epoch 2 valid 0',1), ('after fsync',1), ('before fsync',2), ('before replace',2), ('after fsync',4),
         ('half written',1), ('before replace',1), ('after replace',1)]   # all epochs are there, and their end is written

@can_fork
@pytest.mark.parametrize('kw', [{}, dict(n_models=3, restore_best=True)], ids=str)
def test_kill_9_at_any_moment(tmp_path, kw):
    "Each kill costs no more than the epoch it falls into, and in the end nobody can tell that there were any"
    dls,kw = loaders_of(bs=100),dict(n_epoch=6, seed=3, n_factors=4, **kw)
    whole,saved = quiet(dls, **kw),0
    for where,n in KILLS:
        with Child(lambda at: in_steps(at, dls, tmp_path, **kw)) as c:
            for o in c:
                if o==where and c.told.count(o)==n: c.kill()
        assert c.code==-9, f'{where} was not reached: {c.told}'
        assert [o for o in c.told if 'batch' in o][:1]==[f'epoch {saved} batch 0'][:6-saved]   # goes on after the last whole epoch
        saved = min(saved+c.told.count('after replace'), 6)
        if saved: assert read_checkpoint(tmp_path/FILE)[1]['epoch']==saved
        else: assert not (tmp_path/FILE).exists()
    assert saved==6 and read_checkpoint(tmp_path/FILE)[1]['finished']
    same_run(quiet(dls, checkpoint=tmp_path, **kw), whole)
    assert {o.name for o in tmp_path.iterdir()} <= {FILE,'.lock'}

# resuming

class Outage(Exception): pass

def broken_off(dls, at, monkeypatch, **kw):
    "Train until the middle of epoch `at`"
    def one_batch(self, i, b, was=Learner.one_batch):
        was(self, i, b)
        if self.training and self.epoch==at and i==1: raise Outage('out')
    with monkeypatch.context() as m:
        m.setattr(Learner, 'one_batch', one_batch)
        with pytest.raises(Outage): quiet(dls, **kw)

class WithDropout(nn.Module):
    "A model that draws from torch's own random numbers at every step"
    def __init__(self, dls):
        super().__init__()
        self.emb = nn.ModuleList([nn.Embedding(len(o), 4) for o in dls.classes.values()])
        self.net = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 1))
    def forward(self, x): return self.net(torch.cat([e(x[:,i]) for i,e in enumerate(self.emb)], 1)).squeeze(1)

@pytest.mark.parametrize('at,kw', [(0,dict()), (1,dict(restore_best=True, patience=3, lr=0.3, wd=0.)), (2,dict(restore_best=True, lr=0.3, wd=0.)), (1,dict(patience=1, lr=0.3, wd=0.)), (3,dict(metrics=[rmse,mae])),
                                   (2,dict(loss_func=L1LossFlat(), moms=(0.9,0.8,0.9), bs=50))], ids='plain both best patience metrics loss'.split())
def test_resumed_as_if_nothing_had_been(dls, tmp_path, monkeypatch, kw, at):
    kw = dict(n_epoch=5, seed=1, n_factors=4, **kw)
    whole = quiet(dls, **kw)
    assert at<len(whole.recorder.values)   # it doesn't stop before
    broken_off(dls, at, monkeypatch, checkpoint=tmp_path, **kw)
    assert (tmp_path/FILE).exists() == (at>0)
    resumed = quiet(dls, checkpoint=tmp_path, **kw)
    same_run(resumed, whole)
    assert resumed.recorder.hps==whole.recorder.hps
    assert [o.name for o in resumed.cbs]==[o.name for o in whole.cbs] and '_do_fit' not in vars(resumed)
    same_run(quiet(dls, checkpoint=tmp_path, **kw), whole)   # and once more, from the finished file

def test_all_random_numbers_go_on(dls, tmp_path, monkeypatch):
    "Without a seed and with dropout: the file brings what is drawn next"
    torch.manual_seed(5)
    whole = quiet(loaders_of(), 5, model=WithDropout(dls))
    torch.manual_seed(5)
    d = loaders_of()
    broken_off(d, 2, monkeypatch, n_epoch=5, model=WithDropout(d), checkpoint=tmp_path)
    torch.rand(1000)
    same_run(quiet(loaders_of(), 5, model=WithDropout(dls), checkpoint=tmp_path), whole)

def test_resuming_leaves_a_seeded_callers_random_numbers_alone(dls, tmp_path, monkeypatch):
    broken_off(dls, 1, monkeypatch, n_epoch=3, seed=1, n_factors=4, checkpoint=tmp_path)
    torch.manual_seed(7); a = torch.rand(1)
    for _ in range(2):   # resumed, then finished
        torch.manual_seed(7); quiet(dls, 3, seed=1, n_factors=4, checkpoint=tmp_path)
        assert torch.rand(1)==a

def test_killed_after_the_last_epoch(dls, tmp_path, monkeypatch):
    "All epochs are there, but not yet the best weights put back"
    kw = dict(n_epoch=6, seed=1, n_factors=4, lr=0.3, wd=0., restore_best=True)
    whole = quiet(dls, **kw)
    done = []
    def replace(*args, was=os.replace):
        if len(done)==6: raise Outage('out')
        done.append(was(*args))
    with monkeypatch.context() as m:
        m.setattr(os, 'replace', replace)
        with pytest.raises(Outage): quiet(dls, checkpoint=tmp_path, **kw)
    assert read_checkpoint(tmp_path/FILE)[1]['epoch']==6 and not read_checkpoint(tmp_path/FILE)[1]['finished']
    same_run(quiet(dls, checkpoint=tmp_path, **kw), whole)

def test_finished_is_finished(dls, tmp_path, monkeypatch):
    kw = dict(n_epoch=2, seed=1, n_factors=4, checkpoint=tmp_path/'a/new/folder')
    first = quiet(dls, **kw)
    monkeypatch.setattr(Learner, 'fit', lambda *args, **kwargs: pytest.fail('trained again'))
    monkeypatch.setattr(pickle, 'loads', lambda *args: pytest.fail('pickle'))
    monkeypatch.setattr(torch, 'load', lambda *args: pytest.fail('torch.load is pickle'))
    again = quiet(dls, **kw)
    same_run(again, first)
    monkeypatch.undo()
    assert torch.equal(as_model(again).item_factors, as_model(first).item_factors)
    again.fit_one_cycle(1)   # a Learner like any other
    assert len(again.recorder.values)==1

def test_diverged_stays_diverged(dls, tmp_path):
    for _ in range(2):
        with pytest.raises(DivergedError): quiet(dls, 2, seed=0, lr=1e9, n_factors=4, checkpoint=tmp_path)

# another run, another file

other_runs = {'n_epoch':dict(n_epoch=3), 'seed':dict(seed=2), 'patience':dict(patience=2), 'restore_best':dict(restore_best=True), 'lr':dict(lr=0.01), 'wd':dict(wd=0.), 'bs':dict(bs=16), 'moms':dict(moms=(0.9,0.8,0.9)),
              'shapes':dict(n_factors=5), 'model':dict(n_models=2), 'y_range':dict(y_range=(0,6)), 'loss_func':dict(loss_func=L1LossFlat()), 'metrics':dict(metrics=rmse), 'wd_bn_bias':dict(wd_bn_bias=True)}

@pytest.mark.parametrize('name', other_runs)
def test_other_settings_are_named(dls, tmp_path, name):
    quiet(dls, **{'n_epoch':1, 'seed':1, 'n_factors':4, 'checkpoint':tmp_path})
    before = (tmp_path/FILE).read_bytes()
    with pytest.raises(CheckpointError, match=name) as e: quiet(dls, **{'n_epoch':1, 'seed':1, 'n_factors':4, 'checkpoint':tmp_path, **other_runs[name]})
    assert name in e.value.differ and 'another folder' in str(e.value) and (tmp_path/FILE).read_bytes()==before

def test_other_data_is_named(dls, tmp_path):
    kw,df = dict(n_epoch=1, seed=1, n_factors=4, y_range=(0,5.5), checkpoint=tmp_path),ratings_of()
    quiet(dls, **kw)
    get = lambda df, **o: RatingsDataLoaders.from_df(df, bs=32, **{'seed':0, **o})
    with pytest.raises(CheckpointError) as e: quiet(get(df, seed=1), **kw)
    assert e.value.differ==['training rows','validation rows']
    with pytest.raises(CheckpointError) as e: quiet(get(df.assign(item=df.item.str.upper())), **kw)
    assert e.value.differ==['ids']
    with pytest.raises(CheckpointError) as e: quiet(get(df.assign(user=df.user.map('{:02}'.format))), **kw)   # 5 is not '05'
    assert e.value.differ==['ids']
    quiet(get(df), **kw)

def test_one_at_a_time(dls, tmp_path):
    with FileLock(tmp_path/'.lock'), pytest.raises(CheckpointError, match='Another process'): quiet(dls, 1, checkpoint=tmp_path)

def test_another_format(dls, tmp_path, monkeypatch):
    kw = dict(n_epoch=1, seed=1, n_factors=4, checkpoint=tmp_path)
    quiet(dls, **kw)
    file = tmp_path/FILE
    with monkeypatch.context() as m:
        m.setattr('collab_notes.files.FORMAT', 99)
        write_tensors(file, 'checkpoint', *read_raw(file))
    with pytest.raises(OtherFormatError, match='format 99.*To start anew'): quiet(dls, **kw)
    for kind,meta in (('Surface',{}), ('checkpoint',{}), ('checkpoint',[])):
        write_tensors(file, kind, {}, meta)
        with pytest.raises(ForeignFileError, match='To start anew'): quiet(dls, **kw)

def read_raw(file):
    "What a file that was written in another format would hold"
    return dict(a=torch.zeros(2)),dict(run='{}')

def test_callbacks_of_your_own_are_refused(dls, tmp_path):
    with pytest.raises(SettingError, match='cbs with checkpoint'): quiet(dls, 1, checkpoint=tmp_path, cbs=Callback())
    assert not list(tmp_path.iterdir())

def test_a_file_in_place_of_the_folder(dls, tmp_path):
    (tmp_path/'f').write_text('')
    with pytest.raises(OSError): quiet(dls, 1, checkpoint=tmp_path/'f')

# tampering

@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    "A checkpoint file, its bytes, and how to go on from it"
    folder = tmp_path_factory.mktemp('run')
    d = loaders_of(n=100)
    again = lambda: quiet(d, 1, seed=1, n_factors=2, checkpoint=folder)
    again()
    return folder/FILE, (folder/FILE).read_bytes(), again

@settings(max_examples=100)
@given(data=st.data())
def test_any_byte_that_is_changed_is_noticed(checkpoint, data):
    file,raw,_ = checkpoint
    at,byte = data.draw(st.integers(0, len(raw)-1)),data.draw(st.integers(0, 255))
    file.write_bytes(raw[:at]+bytes([byte])+raw[at+1:])
    try: tensors,about = read_checkpoint(file)
    except ModelFileError as e: assert FILE in str(e)
    else:
        file.write_bytes(raw)   # the same byte, or blank space: nothing that counts
        whole = read_checkpoint(file)
        assert about==whole[1] and same_weights(tensors, whole[0])
    finally: file.write_bytes(raw)

def test_cut_short_or_another_kind_of_file(checkpoint, tmp_path):
    file,raw,again = checkpoint
    n = int.from_bytes(raw[:8], 'little')
    torch.save(dict(a=torch.zeros(2)), tmp_path/'a.pth')
    try:
        for bad in (b'', raw[:5], raw[:8], raw[:8+n], raw[:-1], raw+b' ', (tmp_path/'a.pth').read_bytes(), b'\xff'*100, bytes(8), raw[:8]+b'['*n+raw[8+n:],
                    (2).to_bytes(8, 'little')+b'{}', (2).to_bytes(8, 'little')+b'[]', pickle.dumps(dict(a=1))):
            file.write_bytes(bad)
            with pytest.raises(ModelFileError, match='To start anew'): again()
            assert file.read_bytes()==bad
    finally: file.write_bytes(raw)
    again()

# made up, with checksums that are right

RUN = dict(n_epoch=4, seed=1, n_factors=2, lr=0.3, wd=0., restore_best=True, patience=3)

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Files of a run that has finished, and of one that was broken off in its third epoch; how to go on; and how it ends"
    folder,d = tmp_path_factory.mktemp('forged'),loaders_of(n=100)
    again = lambda: quiet(d, checkpoint=folder, **RUN)
    got = {}
    def keep(file, *args, was=write_tensors):
        was(file, *args)
        got[len(got)] = read_raw_file(file)
    with pytest.MonkeyPatch.context() as m:
        m.setattr('collab_notes.checkpoint.write_tensors', keep)
        whole = again()
    return folder/FILE,dict(broken=got[1], finished=got[len(got)-1]),again,whole

def read_raw_file(file):
    _,tensors,meta = read_tensors(file, 'checkpoint')
    return tensors,json.loads(meta['run'])

def forge(file, tensors, about): write_tensors(file, 'checkpoint', tensors, dict(run=about if isinstance(about, str) else json.dumps(about)))

def outcome(runs):
    "Refused with a word on what to do, or a whole run"
    file,_,again,whole = runs
    raw = file.read_bytes()
    try: learn = again()
    except (ModelFileError, CheckpointError) as e:
        assert 'start anew' in str(e) and len(str(e))<2000 and file.read_bytes()==raw
        return type(e)
    except DivergedError: return DivergedError   # finite numbers that are far too large
    assert len(learn.recorder.values)==len(whole.recorder.values) and len(learn.recorder.losses)==len(whole.recorder.losses)
    assert all(torch.isfinite(o).all() for o in weights(learn.model).values())

@pytest.mark.parametrize('which', ['broken','finished'])
def test_what_was_not_changed_is_accepted(runs, which):
    forge(runs[0], *runs[1][which])
    assert outcome(runs) is None
    same_run(runs[2](), runs[3])

def places(o, at=()):
    "The way to everything in a JSON value; of long lists, to some of it"
    if at: yield at
    keys = list(o) if isinstance(o, dict) else range(len(o)) if isinstance(o, list) else ()
    for k in keys if isinstance(o, dict) or len(keys)<=12 else (0, len(keys)//2, len(keys)-1): yield from places(o[k], (*at,k))

def put_at(o, at, v):
    "A copy with something else at one place, or with nothing"
    o = x = deepcopy(o)
    for k in at[:-1]: x = x[k]
    if v is ...: del x[at[-1]]
    else: x[at[-1]] = v
    return o

ODD = [..., None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, float('nan'), float('inf'), 10**400, 2**32, 2**63, 'x', '', [], [[]], {}, {'a':1}, [1]*625, ['x'], [None,1.], 'MT19937']

@pytest.mark.parametrize('which', ['broken','finished'])
def test_anything_in_place_of_anything(runs, which):
    "At every place of what is told of a run; no file ends in another error, nor Python itself"
    file,files,*_ = runs
    tensors,about = files[which]
    rng = random.Random(which)
    for at in places(about):
        for v in rng.sample(ODD, 1):
            forge(file, tensors, put_at(about, at, v))
            try: outcome(runs)
            except Exception as e: raise AssertionError(f'{v!r} at {at}') from e

def odd_tensors(t, rng):
    "What might stand in place of a tensor: other shapes, types and numbers"
    yield from (..., torch.zeros(0), torch.zeros(()), torch.ones(3), torch.zeros(1, 1, 1, 1), t.double(), t.half(), t.to(torch.int64), t.bool(), t[None], t.flatten()[:-1], torch.cat([t.reshape(-1)]*2))
    yield from (torch.full_like(t, v) for v in (torch.nan, torch.inf, -torch.inf, -1., 1e38, 0.5))
    if t.ndim>1: yield from (t[1:], t.T, t[:,:0])

@pytest.mark.parametrize('which', ['broken','finished'])
def test_any_tensor_in_place_of_any(runs, which):
    file,files,*_ = runs
    tensors,about = files[which]
    for j,(k,t) in enumerate(tensors.items()):
        for n,v in list(enumerate(odd_tensors(t, None)))[j%3::3]:   # each kind for every third tensor
            forge(file, {**{o:x for o,x in tensors.items() if o!=k}, **({} if v is ... else {k:v})}, about)
            try: got = outcome(runs)
            except Exception as e: raise AssertionError(f'{v} in place of {k}') from e
            same = v is not ... and v.dtype==t.dtype and v.shape==t.shape
            assert same or got is UnsoundModelError, f'{v} in place of {k}'
    for more in ('opt.9.step','opt.x.step','opt.0.do_wd','opt.0','best.x','model.x','x','opt.-1.step'):
        forge(file, {**tensors, more:torch.ones(())}, about)
        assert outcome(runs) is UnsoundModelError, more

FORGED = dict(
    half_trained=('broken', lambda ts,o: o.update(finished=True)), text=('broken', lambda ts,o: o.update(finished='x')), number=('broken', lambda ts,o: o.update(finished=1)),
    more_epochs=('finished', lambda ts,o: o.update(epoch=99)), fewer=('finished', lambda ts,o: o.update(epoch=1)), none=('broken', lambda ts,o: o.update(epoch=0)),
    best=('broken', lambda ts,o: o.update(best=[0.,0])), later_best=('broken', lambda ts,o: o['best'].__setitem__(1, 1-o['best'][1])), no_best=('broken', lambda ts,o: o.update(best=None)),
    other_weights=('finished', lambda ts,o: ts['model.user_emb.weight'].add_(1)), no_optimizer=('broken', lambda ts,o: [ts.pop(k) for k in list(ts) if k[:3]=='opt']),
    half_an_optimizer=('broken', lambda ts,o: ts.pop('opt.0.exp_avg')), shapes=('broken', lambda ts,o: ts.update({'opt.0.exp_avg':torch.zeros(10**6), 'opt.0.exp_avg_sq':torch.zeros(1)})),
    swapped=('broken', lambda ts,o: ts.update({'opt.0.exp_avg':ts['opt.1.exp_avg']})), step=('broken', lambda ts,o: ts.update({'opt.0.step':torch.tensor(1e9)})),
    steps=('broken', lambda ts,o: ts.update({'opt.0.step':torch.ones(5)})), numpy_place=('broken', lambda ts,o: o['random']['numpy'].__setitem__(2, 10**6)), python_place=('broken', lambda ts,o: o['random']['python'][1].__setitem__(624, 625)),
    normal=('broken', lambda ts,o: o['random']['python'].__setitem__(2, 'x')), torch_zeros=('broken', lambda ts,o: o['random'].update(torch=[0]*5056)), torch_ones=('broken', lambda ts,o: o['random'].update(torch=[255]*5056)),
    loaders=('broken', lambda ts,o: o['random']['loaders'].pop()), gpus=('broken', lambda ts,o: o['random'].update(cuda=[[0]*16]*99)), gpu_text=('broken', lambda ts,o: o['random'].update(cuda=['x'])),
    hps=('broken', lambda ts,o: o['hps'].pop('mom')), more_hps=('broken', lambda ts,o: o['hps'].update(x=[])), more=('broken', lambda ts,o: o.update(more=1)), more_data=('broken', lambda ts,o: o['data'].update(more=1)))

@pytest.mark.parametrize('case', FORGED)
def test_forged_runs_are_refused(runs, case):
    file,files,*_ = runs
    which,edit = FORGED[case]
    tensors,about = deepcopy(files[which])
    edit(tensors, about)
    forge(file, tensors, about)
    assert outcome(runs) is (CheckpointError if case in ('gpus','more_data') else UnsoundModelError)

@pytest.mark.parametrize('run', ['', '[', '[]', '1', 'null', '{}', '['*100_000, '{"a":'*100_000, '1'*5000, '"x"', '{"epoch":1}', 'NaN'], ids=lambda o: o[:12])
def test_what_is_told_of_a_run_is_no_run(runs, run):
    forge(runs[0], runs[1]['broken'][0], run)
    assert outcome(runs) is UnsoundModelError
    for meta in (dict(run=[run]), dict(run=None), [run], run, None, 1, {}):
        write_tensors(runs[0], 'checkpoint', {}, meta)
        assert outcome(runs) is ForeignFileError

def test_runs_of_other_optimizers_go_on(tmp_path, monkeypatch, dls):
    "What an optimizer remembers is asked of it, not listed here"
    from fastai.optimizer import OptimWrapper
    def wrapped(params, eps, **kw): return OptimWrapper(params, **kw)   # SGD has no epsilon
    for n,opt in enumerate([partial(torch.optim.SGD, momentum=0.9), torch.optim.RMSprop, partial(torch.optim.AdamW, amsgrad=True), torch.optim.NAdam]):
        monkeypatch.setattr('collab_notes.training.fused_adamw', partial(wrapped, opt=opt))
        kw = dict(n_epoch=3, seed=1, n_factors=2, lr=1e-3)
        broken_off(dls, 1, monkeypatch, checkpoint=tmp_path/str(n), **kw)
        same_run(quiet(dls, checkpoint=tmp_path/str(n), **kw), quiet(dls, **kw))

def test_tensors_there_and_back(tmp_path):
    w = torch.arange(6.)
    tensors = dict(a=w.view(2,3).T, b=w[:3], c=torch.tensor(True), d=torch.zeros(0,3), e=torch.tensor([1.5], dtype=torch.bfloat16), f=torch.tensor(2**60))
    write_tensors(tmp_path/'t', 'checkpoint', tensors, dict(text='größer ☃', n=[1,None,0.1]))
    _,back,about = read_tensors(tmp_path/'t')
    assert same_weights(back, tensors) and about==dict(text='größer ☃', n=[1,None,0.1]) and [o.dtype for o in back.values()]==[tensors[k].dtype for k in back]

def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path/'t'
    write_tensors(file, 'checkpoint', dict(a=torch.zeros(1)), dict(n=1))
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError): write_tensors(file, 'checkpoint', dict(a=torch.ones(1)), dict(n=2))
    assert read_tensors(file)[2]==dict(n=1) and [o.name for o in tmp_path.iterdir()]==['t']

# ensembles

def test_one_model_is_what_it_was(dls):
    same_run(quiet(dls, 2, seed=1, n_models=1), quiet(dls, 2, seed=1))
    assert not hasattr(quiet(dls, 1, n_models=1), 'each_model')

def test_what_an_ensemble_refuses(dls):
    for n in (0, -1, 1.5, None, '3'):
        with pytest.raises(SettingError, match='n_models'): quiet(dls, 1, n_models=n)
    with pytest.raises(SettingError, match='n_models=2'): quiet(dls, 1, n_models=2, model=DotProductBiasParams.from_dls(dls, 3))

@pytest.mark.parametrize('n_models', [2,3,7])
def test_every_model_sees_every_row_once(dls, n_models):
    seen = []
    class Seen(Callback):
        run_valid,order = False,1
        def before_batch(self): seen.append(torch.cat([self.x.flatten(2) if self.x.dim()==3 else self.x, self.y.unsqueeze(-1)], -1))
    quiet(dls, 1, seed=0, n_models=n_models, n_factors=2, cbs=Seen())
    x,y = dls.train.tensors()
    rows = sorted(torch.cat([x, y], 1).tolist())
    for m in range(n_models): assert sorted(torch.cat(seen)[:,m].tolist())==rows
    assert len({str(torch.cat(seen)[:,m].tolist()) for m in range(n_models)})==n_models   # in orders that all differ

def test_an_ensembles_surface_and_groups(dls):
    learn = quiet(dls, 2, seed=0, n_models=3, n_factors=4)
    s,m = as_model(learn),learn.model
    assert s.user_factors.shape==(len(dls.classes['user']), 12) and s.item_bias.shape==(len(dls.classes['item']),) and s.y_range==m.y_range
    x = dls.valid.tensors()[0].long()
    with torch.no_grad(): assert torch.allclose(s.pair_scores(*x.unbind(1)), m(x), atol=1e-5)
    assert [len(o) for o in factors_and_biases(m)]==[2,2]
    same_run(quiet(dls, 2, seed=0, n_models=3, n_factors=4), learn)
    mine = DotProductBiasEnsemble.from_dls(dls, 4, y_range=(0,5.5), n_models=2)   # one that is passed in is trained like the default
    assert hasattr(quiet(dls, 1, model=mine), 'each_model')

def test_a_learner_by_hand(dls):
    "Without the callback, the average is what learns"
    m = DotProductBiasEnsemble.from_dls(dls, 4, y_range=(0,5.5), n_models=2)
    learn = Learner(dls, m, loss_func=L1LossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all()

# large batches

@pytest.mark.parametrize('n', [1, 8192, 8193, 20_000])
def test_blocks_are_the_same_model(n):
    g = torch.Generator().manual_seed(n)
    x,y = torch.stack([torch.randint(50, (n,), generator=g), torch.randint(70, (n,), generator=g)], 1),torch.rand(n, generator=g)
    a = DotProductBiasBlocks(60, 80, 7, (0,5.5), std=0.3)    # rows that the batch has not, too
    b = DotProductBias(60, 80, 7, (0,5.5))
    b.load_state_dict(a.state_dict())
    for m in (a,b): ((m(x)-y)**2).mean().backward()
    assert torch.allclose(a(x), b(x), atol=1e-5) and all(torch.allclose(p.grad, q.grad, atol=1e-6) for p,q in zip(a.parameters(), b.parameters()))

def test_blocks_are_for_large_batches(tmp_path, monkeypatch):
    d = RatingsDataLoaders.from_df(ratings_of(12_000, n_users=200, n_items=100), seed=0)
    assert type(ratings_learner(d).model)==DotProductBias
    learn = quiet(d, 2, seed=0, n_factors=4, bs=4800)
    assert type(learn.model)==DotProductBiasBlocks and np.isfinite(learn.recorder.values[-1]).all()
    plain = quiet(d, 2, seed=0, bs=4800, model=ratings_learner(d, n_factors=4).model)
    assert abs(plain.recorder.values[-1][1]-learn.recorder.values[-1][1]) < 0.05   # other random start
    same_run(quiet(d, 2, seed=0, n_factors=4, bs=4800), learn)
    s = as_model(learn)
    x = learn.dls.valid.tensors()[0].long()
    assert torch.allclose(s.raw_pairs(*x.unbind(1)), learn.get_preds()[0], atol=1e-5)

def test_plot_losses(dls):
    learn = quiet(dls, 3, seed=0, n_factors=2)
    for base,n in ((None,2), ({'mean':1.},3), (pd.Series({'a':1.,'b':2.}),4), (pd.DataFrame({'valid MSE':[1.], 'valid RMSE':[1.]}, index=['mean']),3)):
        ax = plot_losses(learn, base)
        assert len(ax.lines)==n and ax.get_xlabel() and ax.get_ylabel() and ax.get_title() and len(ax.get_legend().texts)==n
        assert ax.lines[1].get_ydata().tolist()==[o[1] for o in learn.recorder.values]
        ax.figure.clear()

# those of whom nothing is known

@pytest.mark.parametrize('kw', [{}, dict(n_models=3), dict(model=DotProductBiasBlocks), dict(model=DotProductBiasParams), dict(checkpoint=True)], ids=str)
def test_the_unknown_are_like_the_mean(tmp_path, kw):
    df = ratings_of()
    some,item = df.user.unique()[:3],df.item.unique()[0]
    held = (df.user.isin(some) | (df.item==item)).to_numpy()
    dls = RatingsDataLoaders.from_df(df, splits=(np.flatnonzero(~held), np.flatnonzero(held)), bs=32, seed=0)
    kw = {k:tmp_path if k=='checkpoint' else v.from_dls(dls, 4) if k=='model' else v for k,v in kw.items()}
    learn = quiet(dls, 2, n_factors=4, seed=1, **kw)
    s,before = as_model(learn.model),weights(learn.model)   # as it stands, since a bare model knows no ratings
    u,i = torch.cat([torch.zeros(1, dtype=torch.long), s.vocab.rows(some, is_item=False)]),s.vocab.rows(item)
    known = torch.ones(len(s.user_bias), dtype=torch.bool).index_fill(0, u, False)
    for t in (s.user_factors, s.user_bias[:,None]): assert torch.allclose(t[u], t[known].mean(0).expand(len(u), -1), atol=1e-6)
    rated = torch.ones(len(s.item_bias), dtype=torch.bool).index_fill(0, torch.cat([torch.zeros(1, dtype=torch.long), i]), False)
    assert torch.allclose(s.item_bias[[0,int(i)]], s.item_bias[rated].mean(), atol=1e-6)
    with learn.no_bar(): learn.validate(), learn.get_preds(dl=learn.dls.test_dl(df[:5]))
    assert same_weights(before, weights(learn.model))

class WithFacts(DotProductBias):
    "A model that knows something about each user"
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer('user_x', torch.arange(self.n_users).float()[:,None].repeat(1, 2))

@pytest.mark.parametrize('make,tables', [
    (lambda dls, **kw: collab_learner(dls, n_factors=3, **kw), lambda m: [[m.u_weight,m.u_bias],[m.i_weight,m.i_bias]]),
    (lambda dls, **kw: collab_learner(dls, use_nn=True, layers=[5], **kw), lambda m: [[o] for o in m.embeds]),
    (lambda dls, **kw: ratings_learner(dls, WithFacts.from_dls(dls, 3)), lambda m: [[m.user_emb,m.user_bias_emb],[m.item_emb,m.item_bias_emb]])], ids=['dot','net','facts'])
def test_the_unknown_in_models_of_any_make(make, tables):
    df = ratings_of()
    held = df.user.isin(df.user.unique()[:3]).to_numpy()
    dls = RatingsDataLoaders.from_df(df, splits=(np.flatnonzero(~held), np.flatnonzero(held)), bs=32, seed=0)
    learn = make(dls, cbs=FillUnknown())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    for k,(ts,ids) in enumerate(zip(tables(learn.model), dls.train.tensors()[0].long().unbind(1))):
        for t in ts:
            known = ids.bincount(minlength=len(t.weight))>0
            for row in [0,*(~known).nonzero().squeeze(1).tolist()] if k==0 else [0]: assert torch.allclose(t.weight[row], t.weight[known].mean(0), atol=1e-6)
            assert not torch.allclose(t.weight[1:][known[1:]][0], t.weight[0], atol=1e-6)
    if (x := getattr(learn.model, 'user_x', None)) is not None:
        known = dls.train.tensors()[0][:,0].long().bincount(minlength=len(x))>0
        assert torch.equal(x[0], x[known].mean(0)) and torch.equal(x[1:,0], torch.arange(1., len(x)))   # what is known of others stays

def test_predicting_with_a_loaded_learner_changes_nothing(dls, tmp_path):
    from fastai.learner import load_learner
    learn = quiet(dls, 1, seed=1)
    learn.export(tmp_path/'learn.pkl')
    again = load_learner(tmp_path/'learn.pkl')
    with learn.no_bar(), again.no_bar(): assert torch.equal(*(o.get_preds(dl=o.dls.test_dl(ratings_of()[:5]))[0] for o in (learn, again)))
    assert same_weights(weights(learn.model), weights(again.model))
