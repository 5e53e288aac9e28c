"""BayesianPMF by default, on ratings of any kind: grades or numbers, columns that say nothing, rows without ratings, and nothing off the scale."""
import numpy as np
import pandas as pd
import pytest
import torch

from collab_notes.bayes import BayesianPMF
from collab_notes.data import RatingsDataLoaders
from collab_notes.errors import RatingsError
from collab_notes.files import load
from collab_notes.sampler import Draws, Link, grades
from collab_notes.shares import Shares, centred, chosen_columns, joined, rarity

SHORT = dict(n_factors=2, n_sweeps=20, burn_in=8, seed=0)

def made(n_users=40, n_items=30, per=8, seed=0):
    "A table on the scale of standard deviations, popular items rated by more"
    r = np.random.default_rng(seed)
    pop = r.lognormal(0, 1, n_items)
    rows = [(u,f'i{i}') for u in range(n_users) for i in r.choice(n_items, min(n_items, 1+r.poisson(per-1)), False, pop/pop.sum())]
    df = pd.DataFrame(rows, columns=['user','item'])
    bias = r.normal(0, 0.8, n_users)[df.user] + pd.Series(r.normal(0, 0.8, n_items), [f'i{o}' for o in range(n_items)])[df.item].to_numpy()
    return df.assign(rating=bias+r.normal(0, 0.5, len(df)))

def on(lo, hi, step, **kw): return made(**kw).assign(rating=lambda d: (lo+(hi-lo)*(d.rating.clip(-2.4, 2.4)+2.4)/4.8).div(step).round()*step)
SCALES = {'stars':(1,5,1), 'halves':(0.5,5,0.5), 'marks':(1,10,1), 'tens':(0,100,10), 'percent':(0,100,0.1), 'jokes':(-10,10,0.05), 'likes':(0,1,1), 'tiny':(0,1e-6,1e-9), 'large':(0,1e9,1e5)}
def fitted(df, **kw): return BayesianPMF(**{**SHORT, **kw}).fit(df, progress=False)
def ask(m, *pairs): return m.predict(pd.DataFrame(pairs, columns=['user','item']), unseen='na')

# --- grades or numbers
@pytest.mark.parametrize('name', SCALES)
def test_any_scale_by_default(name):
    df = on(*SCALES[name])
    m = fitted(df)
    assert m.likelihood==('gaussian' if name in ('percent','jokes','tiny','large') else 'ordinal')
    every = pd.DataFrame([(u,i) for u in [*range(40),99] for i in [*df.item.unique(),'new']], columns=['user','item'])
    p = m.predict(every, unseen='na').prediction
    assert np.isfinite(p).all() and df.rating.min()-1e-6*df.rating.abs().max() <= p.min() <= p.max() <= df.rating.max()+1e-6*df.rating.abs().max()
    known = m.predict(df)
    assert ((known.prediction-df.rating)**2).mean() < 0.8*df.rating.var() and (known['std']>0).all()
    iv = m.intervals(df[:30])
    assert (iv.low<=iv.high).all() and np.allclose(m.dist(df[:30]).sum(axis=1), 1)

def test_grades():
    t = lambda *o: torch.tensor(o, dtype=torch.float32)
    assert grades(t(1,2,3,3,2,1)).tolist()==[1,2,3] and grades(t(1,2,3,4)) is None and grades(torch.arange(500.)) is None
    tens = torch.cat([torch.arange(0., 101, 10).repeat(60), torch.arange(70.)])               # a few have marked otherwise
    assert grades(tens).tolist()==list(range(0, 101, 10)) and grades(torch.cat([tens, torch.arange(200.)/2])) is None

def test_a_few_odd_marks_are_taken_to_the_nearest_grade():
    df = pd.concat([on(0, 100, 10, per=20), on(0, 100, 1, per=20, seed=1)[:40]]).drop_duplicates(['user','item'])
    m = fitted(df)
    assert m.likelihood=='ordinal' and set(map(float, m.dist(df[:1]).columns)) <= set(range(0, 101, 10))

def test_what_is_asked_for_is_done(tmp_path):
    df = on(1, 5, 1)
    assert fitted(df, likelihood='gaussian').likelihood=='gaussian'
    with pytest.raises(RatingsError, match='nine tenths'): fitted(on(0, 100, 0.1), likelihood='ordinal')
    m = fitted(df)
    assert m.fit(on(0, 100, 0.1), progress=False).likelihood=='gaussian' and m.fit(df, progress=False).likelihood=='ordinal'   # each table anew
    assert load(m.save(tmp_path/'m')).predict(df).equals(m.predict(df))

# --- who rated what
def test_columns_that_say_nothing_shrink():
    rnd = Draws(0)
    x = rnd.normal(300, 60)
    found = []
    for size in (0., 0.3):
        link,t = Link(x, 1, 5),(x@rnd.normal(60, 5)*size+rnd.normal(300, 5))[None]
        for _ in range(60): link.draw(t, torch.ones(1, 5), rnd)
        found.append((link.fitted**2).mean().item())
    assert found[0] < 0.08 < 1 < found[1]

def test_who_rated_what_does_no_harm_where_it_says_nothing():
    "Two ratings each, missing at random"
    df = on(1, 5, 1, n_users=100, per=2)
    train,test = df.iloc[::2],df.iloc[1::2]
    def rmse(implicit): return np.mean([((fitted(train, n_sweeps=60, seed=s, implicit=implicit).predict(test, unseen='na').prediction-test.rating)**2).mean()**0.5 for s in (0,1)])
    assert rmse(True) < 1.02*rmse(False)

def test_the_pair_asked_about_joins_its_columns():
    "By hand, for each kind of row: rated, and not"
    u,i = torch.tensor([1,1,2,3,3,3]),torch.tensor([1,2,1,1,2,3])
    rnd,n = Draws(0),(5,5)
    chosen = chosen_columns(u, i, n, 9, rnd)
    links = [Link(centred(o.x, o.count)*(o.count>0)[:,None], 1, 3) for o in chosen]
    for o in links: o.coef = rnd.normal(*o.coef.shape)
    shares = [Shares(o, p.count) for o,p in zip(chosen, chosen[::-1])]
    (own_u,by_item),(own_i,by_user) = (s.added(o) for s,o in zip(shares, links))
    rows = [rnd.normal(1, 5, 3) for _ in n]
    p,q = joined(rows[0]+own_u, by_user, shares[0].per, True)[0],joined(rows[1]+own_i, by_item, shares[1].per, False)[0]
    b = links[0].back@links[0].coef[0]
    one = lambda k, rated: sum(chosen[0].other[j] for j in rated)/k**0.5
    rated = (chosen[0].count>0)[:,None]
    mean,s = (chosen[0].x*rated).sum(0)/rated.sum(),rarity(chosen[0].count)
    want = {1:(one(3, [1,2,3])-mean) - (chosen[0].x[1]-mean), 4:s*chosen[0].other[3]-s**2*mean}      # user 1 asked about item 3; user 4 has no ratings
    for a,x in want.items():
        full = rows[0][0,a] + x@b
        item = (rows[1]+own_i)[0,3] + shares[1].per[3]*by_user[0,a]
        torch.testing.assert_close(p[a,:-1]@q[3,:-1]+p[a,-1]+q[3,-1], full[:-1]@item[:-1]+full[-1]+item[-1], atol=1e-4, rtol=1e-4)

# --- each row counts once
def test_rows_count_once():
    x = torch.tensor([[9.],[0.],[1.],[5.]])
    assert centred(x, torch.tensor([0.,100,1,0])).flatten().tolist()==[0,-0.5,0.5,4.5]

def test_unrated_rows_do_not_go_by_popularity():
    "Items that many rate are good, most items are not: a new one is like most"
    r = np.random.default_rng(0)
    good = [(u,f'good{i}',5-(r.random()<.2)) for u in range(60) for i in range(3)]
    poor = [(u,f'poor{i}',1+(r.random()<.2)) for i in range(60) for u in r.choice(60, 2, False)]
    df = pd.DataFrame(good+poor, columns=['user','item','rating'])
    m = fitted(df, implicit=False, n_sweeps=40)
    new = ask(m, *[(u,'new') for u in range(60)]).prediction
    assert new.mean() < df.rating.mean()-0.3

# --- rows without ratings
@pytest.mark.parametrize('lik', ['ordinal','gaussian'])
@pytest.mark.parametrize('implicit', [True,False])
def test_unknown_on_both_sides_is_the_mean(lik, implicit):
    df = on(1, 5, 1)
    m = fitted(df, likelihood=lik, implicit=implicit)
    both = ask(m, (99,'new'))
    assert both.prediction[0]==pytest.approx(df.rating.mean(), abs=1e-4) and m.scores([0], [0]).item()==pytest.approx(df.rating.mean(), abs=1e-4)
    if lik=='ordinal': np.testing.assert_allclose(m.dist(pd.DataFrame([(99,'new')], columns=['user','item']), unseen='na').to_numpy()[0], df.rating.value_counts(normalize=True).sort_index(), atol=1e-5)

@pytest.mark.parametrize('lik', ['ordinal','gaussian'])
def test_unknown_on_one_side_is_near_the_others_mean(lik):
    df = on(1, 5, 1, per=15)
    m = fitted(df, likelihood=lik, n_sweeps=40)
    for known,pairs in (('item', lambda o: (99,o)), ('user', lambda o: (o,'new'))):
        g = df.groupby(known).rating.agg(['sum','size'])
        want = (g['sum']+5*df.rating.mean())/(g['size']+5)
        p = ask(m, *map(pairs, g.index)).prediction.to_numpy()
        assert np.abs(p-want).max() < 0.6 and np.corrcoef(p, want)[0,1] > 0.9

@pytest.mark.parametrize('seed', [0,1])
@pytest.mark.parametrize('side', ['user','item'])
def test_cold_rows_are_not_worse_than_means(side, seed):
    "A third of the users, or of the items, is new; a table with a heavy head"
    df = on(1, 5, 1, n_users=60, n_items=50, per=10, seed=seed)
    new = df[side].isin(df[side].drop_duplicates().sample(frac=0.33, random_state=seed))
    train,test = df[~new],df[new]
    other = 'item' if side=='user' else 'user'
    g = train.groupby(other).rating.agg(['sum','size'])
    means = test[other].map((g['sum']+5*train.rating.mean())/(g['size']+5)).fillna(train.rating.mean())
    p = fitted(train, n_sweeps=40).predict(test, unseen='na').prediction
    rmse = lambda o: ((o-test.rating)**2).mean()**0.5
    assert rmse(p) < 1.02*rmse(means)

def test_a_table_of_facts_speaks_for_the_unrated():
    df = on(1, 5, 1).assign(rating=lambda d: np.where(d.item.str[1:].astype(int)<15, 5., 2.)+(d.user%2))
    items = pd.DataFrame(dict(item=[f'i{o}' for o in range(30)], half=['x']*15+['y']*15))
    train = df[~df.item.isin(['i3','i20'])]
    dls = RatingsDataLoaders.from_df(df, splits=(np.flatnonzero(df.index.isin(train.index)), np.flatnonzero(~df.index.isin(train.index))), seed=0)
    m = BayesianPMF(**{**SHORT, 'n_sweeps':40}).fit(dls, items=items, progress=False)
    p = ask(m, (3,'i3'), (3,'i20'), (99,'i3'), (99,'i20')).prediction
    assert p[0]>p[1]+1 and p[2]>p[3]+0.7 and m.posterior.unrated.trust[1]>0.5

def test_rarity():
    assert rarity(torch.tensor([0,1,1,1]))==pytest.approx(1) and rarity(torch.zeros(3))==0 and rarity(torch.full((9,), 100.))==pytest.approx(0.1)

def test_dates_of_unknown_pairs_do_not_matter():
    df = on(1, 5, 1).assign(day=lambda d: np.arange(len(d))%3)
    df['rating'] = df.rating.where(df.day>0, 1.)
    m = fitted(df, effects=['day'])
    p = m.predict(pd.DataFrame(dict(user=[99,99], item=['new','new'], day=[0,1])), unseen='na').prediction
    assert p[0]==p[1]==pytest.approx(df.rating.mean(), abs=1e-4)
