"""The ten best items for every user: `topn.top_rows` against implicit's `recommend`, on the same factors

    python benchmarks/topn.py              # three sizes, about two minutes; writes benchmarks/results/topn.{md,json,png}
    python benchmarks/topn.py --quick      # the smallest, and a slice of the others' users, to try the script; writes nothing
"""
import gc, json, sys, warnings
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np, torch
from fastcore.script import call_parse
from matplotlib.figure import Figure

from collab_notes.core import Surface, as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.movielens import movielens_ratings
from collab_notes.topn import top_rows
from collab_notes.training import fit
from common import RESULTS, describe, machine, md_table, verdict
from peers import child

N = 10

def movielens():
    "A trained model, and what its users have rated"
    dls = RatingsDataLoaders.from_df(movielens_ratings(), item_name='movie', valid_pct=0.2, seed=21)
    s = as_model(fit(dls, seed=21, progress=False))
    return Surface(s.user_factors, s.item_factors, s.user_bias, s.item_bias, s.classes), dls.train.tensors()[0].long()

def made_up(n_users, n_items, n_seen, n_factors=50, seed=0):
    "Random factors, and random pairs in which few items have most of the ratings"
    g = torch.Generator().manual_seed(seed)
    sizes = (n_users+1,n_factors),(n_items+1,n_factors),(n_users+1,),(n_items+1,)
    u = (torch.rand(n_seen, generator=g)**2*n_users).long().clamp(max=n_users-1).sort().values+1
    i = (torch.rand(n_seen, generator=g)**3*n_items).long().clamp(max=n_items-1)+1
    return Surface(*(torch.randn(*o, generator=g)*0.3 for o in sizes), dict(user=range(n_users+1), item=range(n_items+1))), torch.stack([u,i], 1)

SIZES = {'MovieLens 100K':movielens, '20,000 × 20,000':lambda: made_up(20_000, 20_000, 2_000_000), 'MovieLens 25M':lambda: made_up(162_541, 59_047, 25_000_000)}

def some_users(s, seen, n):
    "The same with `n` users only, at even distances"
    pick = torch.linspace(1, len(s.user_factors)-1, min(n, len(s.user_factors)-1)).long()
    row = torch.zeros(len(s.user_factors), dtype=torch.long).index_copy(0, pick, torch.arange(1, len(pick)+1))
    seen,rows = torch.stack([row[seen[:,0]], seen[:,1]], 1),torch.cat([torch.zeros(1, dtype=torch.long), pick])
    classes = {k:[v[r] for r in rows.tolist()] if k==s.user_name else v for k,v in s.classes.items()}
    return Surface(s.user_factors[rows], s.item_factors, s.user_bias[rows], s.item_bias, classes), seen[seen[:,0]>0]

def ours(s, seen):
    gc.collect()
    wall,cpu = perf_counter(),process_time()
    items,scores = top_rows(s, n=N, exclude=seen)
    return [perf_counter()-wall, process_time()-cpu],items,scores

def theirs(s, seen, threads, repeats):
    "Biases as a factor that is 1 for users, so that scores are the same but for the user's bias, which changes no order"
    with TemporaryDirectory(prefix='peers-') as d:
        d = Path(d)
        one = torch.ones(len(s.user_factors)-1, 1)
        np.savez(d/'factors.npz', users=torch.cat([s.user_factors[1:], one], 1).numpy(), items=torch.cat([s.item_factors[1:], s.item_bias[1:,None]], 1).numpy(), seen=seen.numpy()-1)
        (d/'job.json').write_text(json.dumps(dict(n=N, threads=threads, repeats=repeats)))
        res = child('topn_implicit.py', d, threads)
        z = np.load(d/'lists.npz')
        return res,torch.from_numpy(z['items'].astype('int64'))+1,torch.from_numpy(z['scores'])

def compare(name, s, seen, threads, repeats):
    "Times of both, and how far their lists are the same"
    top_rows(s, range(1, 51), n=N)   # the first call pays for what is loaded on demand
    runs = [ours(s, seen) for _ in range(repeats)]
    res,items,scores = theirs(s, seen, threads, repeats)
    runs += [ours(s, seen) for _ in range(repeats)]   # before and after, so that a machine that slows down slows both
    _,mine,predicted = runs[0]
    gap = (predicted-s.user_bias[1:,None]-scores).abs().max().item()
    out = dict(size=name, users=len(s.user_factors)-1, items=len(s.item_factors)-1, factors=s.user_factors.shape[1], seen=len(seen), same=float((mine==items).float().mean()), gap=gap, implicit_version=res['version'], implicit_csr=res['prepare'],
               ours=[o[0] for o in runs], theirs=res['runs'])
    for k,(w,c) in (('ours',zip(*out['ours'])), ('theirs',zip(*out['theirs']))): out[f'{k}_wall'],out[f'{k}_cpu'] = median(w),median(c)
    print(f"{name:16} ours {out['ours_wall']:.3f} s  implicit {out['theirs_wall']:.3f} s  same {out['same']:.2%}  largest gap of scores {gap:.1e}", file=sys.stderr, flush=True)
    return out

def rows_of(res):
    per = lambda o,k: f"{o[k]/o['users']/o['items']*1e9:.2f}"
    return [{'size':o['size'], 'users':f"{o['users']:,}", 'items':f"{o['items']:,}", 'pairs left out':f"{o['seen']:,}", 'ours, s':f"{o['ours_wall']:.3f}", 'implicit, s':f"{o['theirs_wall']:.3f}", 'implicit / ours':f"{o['theirs_wall']/o['ours_wall']:.2f}",
             'ours, ns a score':per(o,'ours_wall'), 'implicit, ns a score':per(o,'theirs_wall'), 'CPU s, ours / implicit':f"{o['ours_cpu']:.3f} / {o['theirs_cpu']:.3f}", 'same places':f"{o['same']:.3%}"} for o in res]

def targets(res):
    for o in res: yield verdict(f"at least as fast as implicit, {o['size']} ({o['users']:,} users)", o['ours_wall']<=o['theirs_wall'], f"{o['ours_wall']:.3f} s and {o['theirs_wall']:.3f} s")
    yield verdict('the same lists, but for the order of scores that are equal within rounding', all(o['gap']<1e-4 for o in res), f"scores in the same place differ by {max(o['gap'] for o in res):.1e} at the most; {min(o['same'] for o in res):.3%} of places hold the same item")

NOTES = f"""The {N} best items for each user, without those that the user has rated, from the same float32 factors in both: `top_rows(surface, n={N}, exclude=pairs)` and
`AlternatingLeastSquares.recommend(all users, ratings as a CSR table, N={N})`, to which item biases are given as one more factor. implicit's CSR table is made before its time starts ({{csr}}); ours takes the pairs as they are (sorted by user, except for MovieLens 100K), and
sorts them out within its time. implicit runs in a process of its own with its own threads and one of OpenBLAS, as its authors advise. Times are medians, ours of runs before and after implicit's. The first size is a trained model of MovieLens 100K;
the factors of the others are random, with the numbers of users and items of MovieLens 25M in the last."""

def report(res, about, quick):
    title = '# Ten items for every user' + (' (only a try with --quick: not a result)' if quick else '')
    csr = ', '.join(f"{o['implicit_csr']:.2f} s" for o in res)
    return '\n\n'.join([title, 'Written by `python benchmarks/topn.py`.', describe(about)+f", implicit {res[0]['implicit_version']}.", md_table(rows_of(res)), '\n'.join(targets(res)), '## How it is measured', NOTES.format(csr=csr)]) + '\n'

def plot(res):
    "Nanoseconds a score, ours and implicit's side by side"
    fig = Figure(figsize=(8,4.5), layout='constrained')
    ax,x = fig.subplots(),np.arange(len(res))
    for k,label,dx,color in (('ours_wall','collab_notes top_rows',-0.2,'#D55E00'),('theirs_wall','implicit recommend',0.2,'#0072B2')):
        y = [o[k]/o['users']/o['items']*1e9 for o in res]
        ax.bar_label(ax.bar(x+dx, y, 0.38, color=color, label=label), [f'{o[k]:.3g} s' for o in res], fontsize=8)
    ax.set_xticks(x, [f"{o['size']}\n{o['users']:,} users, {o['items']:,} items" for o in res])
    ax.set(ylabel='nanoseconds for each user and item', title='Ten items for every user, same factors, same threads')
    ax.legend()
    return fig

@call_parse
def main(threads:int=2, # for both
         repeats:int=3, # runs of implicit, and of ours before and after it (one of the largest size)
         quick:bool=False, # 1,000 users at most
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Recommend to everyone, twice, and compare times and lists"
    torch.set_num_threads(threads)
    about,res = machine(**{'threads':threads}),[]
    for name,make in SIZES.items():
        s,seen = make()
        if quick: s,seen = some_users(s, seen, 1000)
        res.append(compare(name, s, seen, threads, 1 if name=='MovieLens 25M' and not quick else repeats))
    md = report(res, about, quick)
    print(md)
    if quick and not out: return
    out = out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    (out/'topn.md').write_text(md + '\n![Nanoseconds for each user and item, ours and implicit](topn.png)\n', encoding='utf-8')
    (out/'topn.json').write_text(json.dumps(dict(machine=about, runs=res), indent=1), encoding='utf-8')
    plot(res).savefig(out/'topn.png', dpi=120)
