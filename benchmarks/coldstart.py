"""How long a new user takes: folding in beside training everything again, and how good each is, on the same newcomers, in one process

    python benchmarks/coldstart.py          # splits 21 22 23, one torch thread, about two minutes; writes benchmarks/results/coldstart.{md,json}
    python benchmarks/coldstart.py --quick  # one split, few users: to try the script; writes nothing
"""
import gc, json, warnings
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable')

import numpy as np, pandas as pd, torch
from fastcore.script import call_parse

from collab_notes.coldstart import fold_in, learn_prior, new_user
from collab_notes.core import as_model
from collab_notes.data import RatingsDataLoaders
from collab_notes.movielens import movielens_ratings
from collab_notes.tables import check_ratings
from collab_notes.training import fit
from common import RESULTS, describe, machine, md_table, mean_sd, verdict

GIVEN,HIDDEN = 20,5   # ratings given of each newcomer; hidden ones, at least

def newcomers(df, seed):
    "Ratings of those who stay; of the fifth held out, the given and the hidden ones"
    ids = np.sort(df.user.unique())
    out = df.user.isin(set(np.random.default_rng(seed).permutation(ids)[:len(ids)//5]))
    known,rest = df[~out],df[out]
    rest = rest[rest.title.isin(known.title)].sample(frac=1, random_state=seed)
    rest = rest[rest.groupby('user').user.transform('size')>=GIVEN+HIDDEN]
    nth = rest.groupby('user').cumcount()
    return known,rest[nth<GIVEN],rest[nth>=GIVEN]

def train(df, seed):
    dls = RatingsDataLoaders.from_df(df, item_name='title', duplicates='keep', splits=(np.arange(len(df)),[]), seed=seed)
    return fit(dls, seed=seed, progress=False)

def timed(f, *args, **kwargs):
    "Result, wall seconds, CPU seconds"
    gc.collect()
    wall,cpu = perf_counter(),process_time()
    res = f(*args, **kwargs)
    return res,perf_counter()-wall,process_time()-cpu

def rmse(preds, hidden): return float(((preds.clamp(1, 5).numpy()-hidden.rating.to_numpy())**2).mean()**0.5)

def one_split(df, seed, n_users):
    "Times in seconds, and errors"
    known,given,hidden = newcomers(df, seed)
    learn = train(known, seed)
    s,(prior,prior_wall,prior_cpu) = as_model(learn),timed(learn_prior, learn)
    ids = sorted(set(hidden.user))
    some = [given[given.user==u] for u in ids[:n_users]]
    for g in some[:3]: fold_in(s, g, prior)   # the first run pays for what is loaded on demand
    single = [timed(fold_in, s, g, prior)[1:] for g in some]
    whole = [timed(new_user, s, dict(zip(g.title, g.rating)), prior=prior)[1:] for g in some]
    f,wall,cpu = timed(fold_in, s, given, prior, ids)
    again,again_wall,again_cpu = timed(train, pd.concat([known, given], ignore_index=True), seed)
    at,sr = pd.Index(ids).get_indexer(hidden.user),as_model(again)
    i = s.vocab.rows(hidden.title)
    folded = torch.sigmoid((f.vectors[at]*s.item_factors[i]).sum(1)+f.biases[at]+s.item_bias[i])*(s.y_range[1]-s.y_range[0])+s.y_range[0]
    med = lambda rows, j: median(o[j] for o in rows)
    return dict(seed=seed, newcomers=len(ids), fold_wall=med(single, 0), fold_cpu=med(single, 1), new_user_wall=med(whole, 0), new_user_cpu=med(whole, 1), batch_wall=wall/len(ids), batch_cpu=cpu/len(ids),
                retrain_wall=again_wall, retrain_cpu=again_cpu, prior_wall=prior_wall, prior_cpu=prior_cpu, rmse_folded=rmse(folded, hidden),
                rmse_retrained=rmse(sr.pair_scores(sr.vocab.rows(hidden.user, False), sr.vocab.rows(hidden.title)), hidden))

ROWS = {'fold_in, one user':'fold', 'new_user, one user, with all predictions':'new_user', 'fold_in, all newcomers at once, for each':'batch', 'learn_prior, once':'prior', 'training everything again':'retrain'}

def summary(df):
    return [{'what':k, 'wall ms':mean_sd(1000*df[f'{v}_wall'], 2), 'CPU ms':mean_sd(1000*df[f'{v}_cpu'], 2), 'training again takes, × CPU':f'{(df.retrain_cpu/df[f"{v}_cpu"]).mean():,.0f}'} for k,v in ROWS.items()]

def targets(df):
    "Under 5 ms, and as good as retraining?"
    yield verdict('a new user takes under 5 ms on one core (CPU time, each split)', df.fold_cpu.max()<0.005, f'{1000*df.fold_cpu.max():.2f} ms at the most')
    worst = (df.rmse_folded-df.rmse_retrained).max()
    yield verdict('with 20 ratings given, RMSE within 0.01 of training again, each split', worst<0.01, f'{mean_sd(df.rmse_folded, 4)} folded in, {mean_sd(df.rmse_retrained, 4)} trained again, difference at the most {worst:+.4f}')

NOTES = f"""A fifth of the users is held out of training; of each, {GIVEN} ratings are given and the others (at least {HIDDEN}) hidden. Training again has the given ratings of all newcomers in its table, and takes as
long for one newcomer as for all. Times of one user are medians; ± is one standard deviation over splits."""

@call_parse
def main(seeds:Annotated[int, {'nargs':'+'}]=(21,22,23), # of splits and training
         users:int=100, # newcomers timed one by one
         threads:int=1, # torch threads
         quick:bool=False, # one split and ten users: only to try the script
         out:Path=None): # folder for results (benchmarks/results, or none with --quick)
    "Fold in new users, and train again with them: time and error side by side"
    torch.set_num_threads(threads)
    about = machine(**{'torch threads':threads})
    df = check_ratings(movielens_ratings(titles=True), item_name='title', duplicates='last').drop(columns='movie')
    if quick: seeds,users = seeds[:1],10
    else: out = out or RESULTS
    train(df[:2000], 0)
    rows = [one_split(df, s, users) for s in seeds]
    res = pd.DataFrame(rows)
    title = '# A new user: fold in, or train again?' + (' (only a try with --quick: not a result)' if quick else '')
    md = '\n\n'.join([title, 'Written by `python benchmarks/coldstart.py`.', describe(about)+'.', md_table(summary(res)), '\n'.join(targets(res)), '## How it is measured', NOTES]) + '\n'
    print(md)
    if not out: return
    out.mkdir(parents=True, exist_ok=True)
    (out/'coldstart.md').write_text(md, encoding='utf-8')
    (out/'coldstart.json').write_text(json.dumps(dict(machine=about, runs=rows), indent=1), encoding='utf-8')
