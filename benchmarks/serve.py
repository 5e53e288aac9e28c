"""The page of `collab-notes serve`: how long a click takes under fifty visitors at once, and whether memory grows

    python benchmarks/serve.py                  # some 25 minutes, and 4 GiB of free memory; writes benchmarks/results/serve.{md,json}
    python benchmarks/serve.py --quick          # a minute, to try the script; writes nothing

MovieLens 100K is fetched where it is not there. The made-up ratings have MovieLens 25M's shape: 162,541 users, 59,047 items, 25 million ratings; the factors are random numbers.
"""
import asyncio, json, multiprocessing as mp, random, re, sys, warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from urllib.parse import urlencode

warnings.filterwarnings('ignore', message='.*torch.jit.script.*|The given NumPy array is not writable|.*chained_assignment.*')

from fastcore.script import call_parse

from common import RESULTS, describe, machine, md_table, verdict

VISITORS,RATINGS,PAUSE = 50,20,(1.,7.)   # at once; of each; seconds between two clicks of one, drawn evenly
TARGETS = {'MovieLens 100K':(50,150), 'made-up 25M':(None,250)}   # ms at the median, and at the 99th percentile

# the server, in a process of its own

def movielens():
    "What `collab-notes train` makes, and the facts that `serve` finds for it"
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.movielens import movielens_movies, movielens_ratings
    from collab_notes.training import fit
    dls = RatingsDataLoaders.from_df(movielens_ratings(titles=True), item_name='title', seed=0, duplicates='keep')
    return fit(dls, seed=0, progress=False),movielens_movies().drop(columns='movie').drop_duplicates('title')

def made_up(rows=25_000_000, users=162_541, items=59_047, k=50):
    import torch
    from collab_notes.core import Surface
    from collab_notes.vocab import History
    g = torch.Generator().manual_seed(0)
    new = lambda *size: torch.randn(*size, generator=g)
    ids = dict(user=('#na#',*range(1, users+1)), item=('#na#',*(f'Film number {o} ({1930+o%90})' for o in range(items))))
    s = Surface(new(users+1, k)*.2, new(items+1, k)*.2, new(users+1)*.3, new(items+1)*.4, ids, (0.5,5.5))
    cum = (1/(10+torch.arange(1., items+1))).cumsum(0)   # a few items have most ratings
    i = torch.searchsorted(cum, torch.rand(rows, generator=g)*cum[-1]).clamp(max=items-1)+1
    pairs = torch.unique(torch.randint(1, users+1, (rows,), generator=g)*(items+1)+i)
    u,i = pairs//(items+1),pairs%(items+1)
    y = torch.cat([s.pair_scores(a, b) for a,b in zip(u.split(1_000_000), i.split(1_000_000))])
    return s.with_history(History(s.vocab, torch.stack([u, i], 1), (y+new(len(y))*.8).clamp(.5, 5).mul(2).round()/2)),None

SHAPES = {'MovieLens 100K':movielens, 'made-up 25M':made_up}

def without_model():
    "From now on a guide gives the answer that it gave to the first who had rated enough: what is left is the server, the file and the page"
    from collab_notes.guide import Guide
    for name in ('said','best','why','questions','likes','place'):
        def f(self, *args, was=getattr(Guide, name), name=name, **kw):
            had = self.made.get(f'had {name}')
            if had is not None: return had
            res = was(self, *args, **kw)
            if name!='said' or len(args[0])>=RATINGS: self.made[f'had {name}'] = res
            return res
        setattr(Guide, name, f)

def server(shape, folder, conn):
    from collab_notes.serving import show
    m,facts = SHAPES[shape]()
    s = show(m, facts=facts, store=str(Path(folder)/f'{shape}.db'))
    g = s.server.config.app.site.served[0].guide
    known = g.counts.argsort(descending=True)[:300].tolist()
    conn.send((s.sock.getsockname()[1], [g.texts[r] for r in known], [g.keys[r] for r in known]))
    while (got := conn.recv())!='stop':
        if got=='without model': without_model()
        conn.send('done')
    s.stop()

# the visitors

class Http:
    "One connection that stays open"
    def __init__(self, port): self.port,self.heads,self.w,self.last = port,{'host':f'localhost:{port}'},None,0.
    async def __call__(self, method, path, body=None, **heads):
        "Status, headers, body, and milliseconds from the first byte sent to the last one read"
        if self.w is not None and perf_counter()-self.last>15: self.w.close(); self.w = None   # a server ends what was idle for 20 s, and a browser connects again
        body = b'' if body is None else body.encode()
        heads = {**self.heads, **heads, 'content-length':len(body)}
        start = perf_counter()
        if self.w is None: self.r,self.w = await asyncio.open_connection('127.0.0.1', self.port, limit=2**22)
        self.w.write(f'{method} {path} HTTP/1.1\r\n'.encode()+''.join(f'{k}: {v}\r\n' for k,v in heads.items()).encode()+b'\r\n'+body)
        top = (await self.r.readuntil(b'\r\n\r\n')).decode('latin-1')
        got = dict(o.lower().split(': ', 1) if k else ('status',o.split()[1]) for k,o in enumerate(top.strip().split('\r\n')) if k==0 or not o.lower().startswith('set-cookie'))
        text = await self.r.readexactly(int(got['content-length']))
        self.last = perf_counter()
        took = 1000*(self.last-start)
        if cookie := re.search(r'set-cookie: ([^;]+)', top, re.I): self.heads['cookie'] = cookie[1]
        assert got['status']=='200', (path, got, text[:300])
        return text.decode(),took

FORM = {'content-type':'application/x-www-form-urlencoded', 'hx-request':'true'}

class Visitor:
    "Somebody who has rated as many as `RATINGS`, and changes their mind"
    def __init__(self, port, keys, seed): # of items, and of chance
        self.http,self.rng = Http(port),random.Random(seed)
        self.keys = self.rng.sample(keys, RATINGS)
    async def come(self):
        html,_ = await self.http('GET', '/')
        self.token = re.search(r'name="token" value="(\w+)"', html)[1]
        for o in self.keys: await self.rate(o)
    async def rate(self, key): return await self.http('POST', '/act', urlencode(dict(token=self.token, rate=f'{self.rng.randint(1, 5)} {key}')), **FORM)
    async def click(self): return (await self.rate(self.rng.choice(self.keys)))[1]

async def crowd(port, keys, clicks, paced, seed=0):
    "Milliseconds of each click, and clicks a second"
    vs = [Visitor(port, keys, seed*1000+k) for k in range(VISITORS)]
    for v in vs: await v.come()
    async def one(v):
        res = []
        if paced: await asyncio.sleep(v.rng.uniform(0, PAUSE[1]))   # they do not come all at once
        for _ in range(clicks):
            res.append(await v.click())
            if paced: await asyncio.sleep(v.rng.uniform(*PAUSE))
        return res
    start = perf_counter()
    took = sorted(x for o in await asyncio.gather(*map(one, vs)) for x in o)
    at = lambda share: took[min(int(share*len(took)), len(took)-1)]
    return dict(clicks=len(took), median=at(.5), p90=at(.9), p99=at(.99), most=took[-1], a_second=len(took)/(perf_counter()-start))

def resident(pid):
    "MiB in memory"
    return int(re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{pid}/status').read_text())[1])/1024

async def many(port, keys, titles, n, pid, step):
    "MiB after every so many requests of all kinds: of five one is a click, by visitors who come and go"
    res,done = [resident(pid)],0
    async def worker(k):
        nonlocal done
        rng,v = random.Random(k),None
        while done<n:
            if v is None or rng.random()<.005: v = Visitor(port, keys, rng.random()); await v.come(); done += RATINGS+1
            for what in range(5):
                if what==0: await v.click()
                elif what==1: await v.http('GET', '/find?'+urlencode(dict(q=rng.choice(titles)[:rng.randint(2, 12)])), **{'hx-request':'true'})
                elif what==2: await v.http('GET', f'/item/{rng.choice(v.keys)}')
                elif what==3: await v.http('POST', '/api/recommend', json.dumps(dict(ratings={o:rng.randint(1, 5) for o in rng.sample(titles, 3)}, n=5)), **{'content-type':'application/json'})
                else: await v.http('GET', '/api/health')
                done += 1
                if done//step>=len(res): res.append(resident(pid))
    await asyncio.gather(*map(worker, range(8)))
    return dict(requests=done, step=step, MiB=res)

# what is measured

def measure(shape, folder, clicks, paced_clicks, n):
    ctx = mp.get_context('spawn')
    ours,theirs = ctx.Pipe()
    p = ctx.Process(target=server, args=(shape, folder, theirs), daemon=True)
    p.start()
    theirs.close()
    port,titles,keys = ours.recv()
    res = dict(paced=asyncio.run(crowd(port, keys, paced_clicks, True)), unpaced=asyncio.run(crowd(port, keys, clicks, False, 1)))
    if n: res['memory'] = asyncio.run(many(port, keys, titles, n, p.pid, n//20))
    ours.send('without model')
    ours.recv()
    res['paced, without the model'] = asyncio.run(crowd(port, keys, paced_clicks, True, 2))
    res['unpaced, without the model'] = asyncio.run(crowd(port, keys, clicks, False, 3))
    ours.send('stop')
    p.join(30)
    print(shape, json.dumps(res), file=sys.stderr)
    return res

def rows_of(res):
    for shape,o in res.items():
        for k,v in o.items():
            if k!='memory': yield {'ratings':shape, 'visitors':k, 'clicks':f"{v['clicks']:,}", **{name:f'{v[c]:.1f} ms' for name,c in (('median','median'),('90%','p90'),('99%','p99'),('longest','most'))}, 'clicks a second':f"{v['a_second']:.0f}"}

def verdicts(res):
    for shape,(median,most) in TARGETS.items():
        o = res[shape]['paced']
        want = (f'{median} ms at the median and ' if median else '')+f'{most} ms at the 99th percentile'
        yield verdict(f'{shape}: a click of one of {VISITORS} visitors, with {RATINGS} ratings each, is answered within {want}', o['p99']<=most and (median is None or o['median']<=median),
                      f"{o['median']:.1f} ms and {o['p99']:.1f} ms")
    m = res['MovieLens 100K']['memory']
    half,end = m['MiB'][len(m['MiB'])//2],m['MiB'][-1]
    yield verdict(f"memory does not grow over {m['requests']:,} requests (by less than 5% in the second half)", end<1.05*half, f'{half:.0f} MiB half-way, {end:.0f} MiB at the end')

HOW = """A visitor clicks a star (`POST /act`, as htmx sends it) for one of {n} items they have rated, and has the answer when its last byte is read: the lists, the reasons, the questions, the map and the words, all anew.
*Paced*: {v} visitors, each of whom waits {a:.0f} to {b:.0f} seconds between two clicks. *Unpaced*: each clicks again at once. *Without the model*: the same requests, where the guide gives one answer to all. Visitors, server and file share the machine's cores."""

@call_parse
def main(
    quick:bool=False, # few clicks and a small table, to try the script; writes nothing
):
    "Time the page"
    about = machine()
    if quick: del SHAPES['made-up 25M'],TARGETS['made-up 25M']
    with TemporaryDirectory() as d:
        res = {o:measure(o, d, *((2,1,400) if quick else (20,15,100_000 if o=='MovieLens 100K' else 0))) for o in [*SHAPES][::-1]}
    how = HOW.format(n=RATINGS, v=VISITORS, a=PAUSE[0], b=PAUSE[1])
    m = res['MovieLens 100K']['memory']
    text = '\n\n'.join(['# How fast the page is', 'Written by `python benchmarks/serve.py`.', f'{describe(about)}.', how, md_table([*rows_of(res)]), '\n'.join(verdicts(res)),
                        f"MiB of the server after each {m['step']:,} of these requests, of which one in five is a click: {', '.join(f'{o:.0f}' for o in m['MiB'])}."])
    print(text)
    if quick: return
    (RESULTS/'serve.json').write_text(json.dumps(dict(machine=about, results=res), indent=1)+'\n')
    (RESULTS/'serve.md').write_text(text+'\n')
