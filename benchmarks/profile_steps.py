"""Where the time of a training step goes, at batches of 64 and of 1024: stock fastai and ours, part by part

    python benchmarks/profile_steps.py             # about a minute; writes benchmarks/results/profile.{md,json}
    python benchmarks/profile_steps.py --quick     # 50 steps of each: to try the script; writes nothing
"""
import json, sys, warnings
from collections import defaultdict
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from time import process_time

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import torch
from fastai.callback.core import Callback, CancelTrainException
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.tabular.core import TabDataLoader
from fastai.torch_core import set_seed
from fastcore.script import call_parse

from collab_notes.data import RatingsDataLoaders
from collab_notes.movielens import movielens_ratings
from collab_notes.training import ratings_learner
from common import RESULTS, describe, machine, md_table

PARTS = DATA,FORWARD,BACKWARD,OPT,CALLBACKS,LOOP = 'making the batch','forward and loss','backward','optimizer','callbacks','loop'

class Clock:
    "CPU seconds by part; while a part within another runs, the outer one's clock stands still"
    def __init__(self): self.seconds,self.stack,self.last = defaultdict(float),[LOOP],None
    def _turn(self):
        now = process_time()
        if self.last is not None: self.seconds[self.stack[-1]] += now-self.last
        self.last = now
    def start(self, name):
        self._turn()
        self.stack.append(name)
    def stop(self):
        self._turn()
        self.stack.pop()
    def timed(self, name, f):
        @wraps(f)
        def _f(*args, **kwargs):
            self.start(name)
            try: return f(*args, **kwargs)
            finally: self.stop()
        return _f

class Stop(Callback):
    "End the epoch after `n` steps"
    run_valid = False
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.iter+1>=self.n: raise CancelTrainException

@contextmanager
def watched(learn, clock):
    "`learn` with a clock on each part of a step"
    def all_batches():
        learn.n_iter,it,i = len(learn.dl),iter(learn.dl),0
        get = clock.timed(DATA, lambda: next(it, None))
        while (b := get()) is not None:
            learn.one_batch(i, b)
            i += 1
    call,learn.all_batches = Callback.__call__,all_batches
    learn.model.forward,learn.loss_func = (clock.timed(FORWARD, o) for o in (learn.model.forward, learn.loss_func))
    learn._backward,learn._step,learn.opt.zero_grad = clock.timed(BACKWARD, learn._backward),clock.timed(OPT, learn._step),clock.timed(OPT, learn.opt.zero_grad)
    Callback.__call__ = clock.timed(CALLBACKS, call)
    try: yield
    finally: Callback.__call__ = call

def stock(df, bs):
    "fastai's learner on its own loader, with a correct epoch"
    return collab_learner(CollabDataLoaders.from_df(df, item_name='title', seed=42, bs=bs, dl_type=TabDataLoader), n_factors=50, y_range=(0,5.5), lr=5e-3, wd=0.1)

def ours(df, bs): return ratings_learner(RatingsDataLoaders.from_df(df, item_name='title', duplicates='keep', seed=42), bs=bs)

def profile(make, df, bs, n):
    "Milliseconds by part of a step, over `n` steps"
    set_seed(42)
    learn,clock = make(df, bs),Clock()
    learn.create_opt()
    with learn.no_bar(), learn.no_logging():
        learn._do_epoch_validate = lambda *args: None   # training only
        learn.fit_one_cycle(1, cbs=Stop(20))            # warm-up
        start = process_time()
        learn.fit_one_cycle(1, cbs=Stop(n))
        plain = process_time()-start
        with watched(learn, clock): learn.fit_one_cycle(1, cbs=Stop(n))
    steps = min(n, len(learn.dls.train))
    return dict(ms={k:1000*clock.seconds[k]/steps for k in PARTS}, plain_ms=1000*plain/steps, steps=steps)

def conclusion(res):
    "What the numbers say, in words"
    ms = lambda who,bs: res[who,bs]['ms']
    total = lambda who,bs: sum(ms(who,bs).values())
    share = lambda who,bs,*parts: sum(ms(who,bs)[p] for p in parts)/total(who,bs)
    top = lambda who,bs: max(ms(who,bs), key=ms(who,bs).get)
    say = [f"- At batch 64, {name} spends {share(who,64,FORWARD,BACKWARD):.0%} of a step in torch's forward and backward pass; {share(who,64,CALLBACKS,LOOP):.0%} is the Python of callbacks and loop, "
           f"{share(who,64,OPT):.0%} the optimizer, {share(who,64,DATA):.0%} making the batch. The largest part: {top(who,64)}." for who,name in (('stock','stock fastai'),('ours','ours'))]
    say += [f"- From 64 to 1024, {name} does 16 times as many rows in a step that takes {total(who,1024)/total(who,64):.1f} times as long: a row costs {16*total(who,64)/total(who,1024):.1f} times less. "
            f"At 1024 torch's share is {share(who,1024,FORWARD,BACKWARD):.0%}, that of callbacks and loop {share(who,1024,CALLBACKS,LOOP):.0%}, the optimizer's {share(who,1024,OPT):.0%}, the batch's {share(who,1024,DATA):.0%}." for who,name in (('stock','stock fastai'),('ours','ours'))]
    data,opt = (ms('stock',64)[p]-ms('ours',64)[p] for p in (DATA,OPT))
    gone = total('stock',64)-total('ours',64)
    say.append(f"- At batch 64 a step of ours is {total('stock',64)/total('ours',64):.1f} times as fast as a stock one ({gone:.2f} ms less): {data/gone:.0%} of that is slicing tensors instead of building tables, {opt/gone:.0%} the optimizer in one call. "
               f"The rest of a short run's speed is larger batches: per row, ours at 1024 is {16*total('stock',64)/total('ours',1024):.0f} times as fast as stock at 64.")
    return '\n'.join(say)

def report(res, about, quick):
    rows = []
    for who,bs in res:
        r = res[who,bs]
        t = sum(r['ms'].values())
        rows.append({'learner':who, 'batch':bs, **{k:f'{v:.2f} ms ({v/t:.0%})' for k,v in r['ms'].items()}, 'step':f'{t:.2f} ms', 'without clocks':f"{r['plain_ms']:.2f} ms"})
    title = '# Where the time of a training step goes' + (' (only a try with --quick: not a result)' if quick else '')
    how = """One epoch of training on MovieLens 100K without validation, after a warm-up; CPU time with one torch thread, so that other programs on the machine do not matter much. A clock is switched at the entry and exit of each part, so a part's time
excludes what it calls in another part; the last two columns show what the clocks cost. *optimizer* is `step` and `zero_grad`; *callbacks* are fastai's own (training mode, recorder, schedule); *loop* is the rest of fastai's `Learner`: sending events, looking up attributes, moving the batch. *stock* is `collab_learner` on fastai's loader with a correct epoch (`dl_type=TabDataLoader`), *ours* `ratings_learner` on `RatingsDataLoaders`. Each is the run with the median step time of three."""
    return '\n\n'.join([title, 'Written by `python benchmarks/profile_steps.py`.', describe(about)+'.', md_table(rows), '## What it says', conclusion(res), '## How it is measured', how]) + '\n'

@call_parse
def main(quick:bool=False, # 50 steps of each
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Time each part of a training step, for stock fastai and ours, at batches of 64 and 1024"
    torch.set_num_threads(1)
    about,df,res = machine(),movielens_ratings(titles=True),{}
    for who,make in (('stock',stock),('ours',ours)):
        for bs in (64,1024):
            runs = sorted((profile(make, df, bs, 50 if quick else 1250) for _ in range(1 if quick else 3)), key=lambda r: sum(r['ms'].values()))
            res[who,bs] = runs[len(runs)//2]
            print(f'{who} {bs}', {k.split(':')[0]:round(v, 3) for k,v in res[who,bs]['ms'].items()}, file=sys.stderr, flush=True)
    md = report(res, about, quick)
    print(md)
    out = out or (None if quick else RESULTS)
    if not out: return
    out.mkdir(parents=True, exist_ok=True)
    (out/'profile.md').write_text(md, encoding='utf-8')
    (out/'profile.json').write_text(json.dumps(dict(machine=about, runs=[dict(learner=w, bs=b, **r) for (w,b),r in res.items()]), indent=1), encoding='utf-8')
