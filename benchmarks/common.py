"What the benchmarks share: describing the machine, writing tables"
import os, platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent/'results'

def machine(**kwargs): # anything to add
    "What a time depends on, without saying whose machine it is"
    try: cpu = next(l.split(':',1)[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name'))
    except (OSError, StopIteration): cpu = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    load = f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else '?'
    return dict(CPU=cpu, cores=cores, system=platform.system(), Python=platform.python_version(),
                **{o:version(o) for o in ('torch','fastai','fastcore','pandas','numpy')}, **kwargs, **{'load at start':load, 'date':str(date.today())})

def describe(d): return ', '.join(f'{k} {v}' for k,v in d.items())

def md_table(rows): # dicts with the same keys
    "A markdown table, a line for each of `rows`"
    line = lambda o: '| ' + ' | '.join(map(str, o)) + ' |'
    return '\n'.join([line(rows[0]), line(['---']*len(rows[0])), *(line(o.values()) for o in rows)])

def mean_sd(s, digits): # a `pd.Series`
    "Mean ± standard deviation; without the latter if there is one number only"
    return f'{s.mean():.{digits}f}' + (f' ± {s.std():.{digits}f}' if len(s)>1 else '')

def verdict(claim, met, found): return f"- **{'Met' if met else 'NOT met'}**: {claim}. Measured: {found}."
