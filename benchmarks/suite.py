"""How long the README's tests take: `nbdev-test && pytest tests`, in the environment this Python belongs to

    python benchmarks/suite.py              # writes benchmarks/results/suite.json
"""
import json, re, subprocess, sys
from pathlib import Path
from time import perf_counter

from fastcore.script import CliError, call_parse

from common import RESULTS, machine

ROOT = RESULTS.parent.parent

def timed(*args):
    "Wall seconds of a command, and what it printed; its failure ends the measurement"
    start = perf_counter()
    r = subprocess.run([Path(sys.executable).parent/args[0], *args[1:]], cwd=ROOT, capture_output=True, text=True, timeout=3600)
    if r.returncode: raise CliError(f"{' '.join(args)} failed:\n{r.stdout[-2000:]}{r.stderr[-2000:]}")
    return perf_counter()-start, r.stdout

@call_parse
def main(out:Path=RESULTS): # folder for the result
    "Run all notebooks and tests once, and note how long that took"
    about = machine()
    nb_seconds,_ = timed('nbdev-test')
    py_seconds,said = timed('pytest', 'tests', '-q')
    notebooks = [o for o in (ROOT/'nbs').rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(ROOT).parts)]
    res = dict(machine=about, seconds=nb_seconds+py_seconds, nbdev_test_seconds=nb_seconds, pytest_seconds=py_seconds,
               notebooks=len(notebooks), tests=int(re.search(r'(\d+) passed', said)[1]))
    out.mkdir(parents=True, exist_ok=True)
    (out/'suite.json').write_text(json.dumps(res, indent=1), encoding='utf-8')
    print(json.dumps(res, indent=1))
