"""Lists where a table of items × items fits into no memory: seconds and memory on made-up ratings of MovieLens 25M's shape (59,047 items)

    python benchmarks/many_items.py             # minutes, and some 8 GiB of free memory; writes benchmarks/results/many_items.{md,json}
    python benchmarks/many_items.py --quick     # 100,000 ratings, to try the script; writes nothing

The ratings are those of growth.py. What people choose there goes by popularity alone, so this says nothing of how good the lists are: lists.py does.
"""
import json, sys, warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np
from fastcore.script import call_parse

from common import RESULTS, describe, machine, md_table, verdict
from growth import in_child, peak, stream

USERS,LIMIT = 10_000,8.   # whose lists are made; GiB

def make(n, folder, seed=0):
    "`n` ratings as three arrays in a file; how many of what"
    parts = [(o['userId'].astype('int32'),o['movieId'].astype('int32'),o['rating'].astype('float32')) for o in stream(n, seed)]
    u,i,y = (np.concatenate([p[k] for p in parts]) for k in range(3))
    np.savez(folder/'ratings.npz', user=u, item=i, rating=y)
    return dict(rows=len(y), users=len(np.unique(u)), items=len(np.unique(i)))

def trained(name, h):
    from collab_notes.ials import ImplicitALS
    from collab_notes.ranking import Popularity
    from collab_notes.recipe import fit_lists
    if name=='fit_lists': return fit_lists(h, tell=lambda o: print(' ', o, file=sys.stderr))
    return Popularity(h) if name=='Popularity' else ImplicitALS(h, n_models=1)

def run(folder, name, threads, conn):
    "One model in a process of its own: training, then lists of ten"
    import pandas as pd, torch
    from collab_notes.lists import recommend
    from collab_notes.vocab import History
    torch.set_num_threads(threads)
    h = History.of(pd.DataFrame(dict(np.load(folder/'ratings.npz'))))
    base = peak(reset=True)
    start = perf_counter()
    m = trained(name, h)
    train = dict(seconds=perf_counter()-start, gib=peak())
    peak(reset=True)
    who = h.vocab.classes['user'][1:USERS+1]
    start = perf_counter()
    top = recommend(m, who, n=10)
    took = perf_counter()-start
    conn.send(dict(before=base, train=train, lists=dict(seconds=took, gib=peak()), rows=len(top), users=len(who)))

def rows_of(res):
    for name,o in res.items():
        yield {'model':name, 'seconds to train':f"{o['train']['seconds']:.1f}", 'GiB at most':f"{o['train']['gib']:.1f}", 'seconds for lists':f"{o['lists']['seconds']:.1f}",
               'a thousand lists':f"{o['lists']['seconds']/o['users']*1000:.2f} s", 'GiB at most ':f"{o['lists']['gib']:.1f}"}

def report(res, size, about, quick):
    title = '# Lists where items are many' + (' (only a try with --quick: not a result)' if quick else '')
    most = max(max(o['train']['gib'],o['lists']['gib']) for o in res.values())
    text = (f"{size['rows']:,} made-up ratings by {size['users']:,} people of {size['items']:,} items. A table of items × items would take {20*size['items']**2/1e9:.0f} GB while it is made, so `fit_lists` "
            f"takes `ItemRidge` in its 128 strongest directions. `ImplicitALS` is one model of its default size. Lists of ten are for {next(iter(res.values()))['users']:,} people. Memory is the whole process', the ratings included.")
    return '\n\n'.join([title, 'Written by `python benchmarks/many_items.py`.', f'{describe(about)}.', text, md_table(list(rows_of(res))),
                        verdict(f'no more than {LIMIT:g} GiB', most<=LIMIT, f'{most:.1f} GiB')]) + '\n'

@call_parse
def main(rows:int=25_000_000, # ratings to make up
         threads:int=2,
         quick:bool=False, # 100,000
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Seconds and memory of models for lists, where items are many"
    about = machine(threads=threads)
    with TemporaryDirectory(prefix='many-items-') as d:
        d = Path(d)
        size = make(100_000 if quick else rows, d)
        print(f'made {size}', file=sys.stderr, flush=True)
        res = {o:in_child(run, d, o, threads) for o in ('fit_lists','ImplicitALS','Popularity')}
    md = report(res, size, about, quick)
    print(md)
    if quick and not out: return
    out = out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    (out/'many_items.md').write_text(md, encoding='utf-8')
    (out/'many_items.json').write_text(json.dumps(dict(machine=about, size=size, runs=res), indent=1), encoding='utf-8')
