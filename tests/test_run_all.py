"""Run All in plain Jupyter: every code cell of every notebook, from any folder, in order. Here the notebooks are read only, against the rules
without which that fails; `.ci/run_all.py`, a step of `.ci/run`, really runs them. `nbdev-test` runs them too, but leaves cells out, and starts
each in its own folder."""
import ast, json, re, subprocess, sys
from functools import lru_cache
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbdev.config import get_config
from pyflakes.checker import Checker

from conftest import LIMIT

root = Path(__file__).resolve().parents[1]
notebooks = sorted(o for o in (root/'nbs').rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(root).parts))
READS_THE_REPOSITORY = get_config(root).readme_nb   # the README's notebook shows what `benchmarks/` has measured; all others stand alone

GIVEN = {'get_ipython','display'}   # names that Jupyter has for everybody
UNDEFINED = {'UndefinedName','UndefinedLocal'}
IMPORTS = ast.Import,ast.ImportFrom

def sources(path):
    "The code cells of the notebook at `path`, but for the one that looks whether there is a clone (tests/test_address.py runs it)"
    return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='code' and c['id']!='address-install']

def said(source):
    "The directives of a cell, as `name: value`"
    return {m[1]:m[2].strip().lower() for m in re.finditer(r'^#\s*\|\s*([\w-]+):?(.*)$', source, re.M)}

@lru_cache(None)
def python(source): return TransformerManager().transform_cell(source)   # `%magic` and `!command`, as calls
def undefined(source): return {o.message_args[0] for o in Checker(ast.parse(source)).messages if type(o).__name__ in UNDEFINED}-GIVEN

# the rules: each yields what is wrong with the code cells of a notebook

def nothing_is_marked_to_be_skipped(cells):
    "Jupyter knows no directives"
    for o in cells:
        if said(o).get('eval')=='false' or 'notest' in said(o): yield o

def slow_cells_guard_themselves(cells):
    for o in cells:
        alone = lambda s: isinstance(s, ast.If) and isinstance(s.test, ast.Name) and s.test.id=='SLOW'
        if 'slow' in said(o) and not all(map(alone, ast.parse(python(o)).body)): yield o

def names_are_there_when_they_are_used(cells):
    "With the slow cells, and without"
    for some in (cells, [o for o in cells if 'slow' not in said(o)]):
        yield from sorted(undefined('\n'.join(map(python, some))))

def imports_stand_alone(cells):
    "nbdev's docs step runs each cell that imports, and no other: what else is in it must do without the cells before it"
    for o in cells:
        kinds = [isinstance(s, IMPORTS) for s in ast.parse(python(o)).body]
        if any(kinds) and not all(kinds) and undefined(python(o)): yield o

ELSEWHERE = re.compile(r'\.\.(/.*)?|(.*/)?benchmarks/.*|[^\s*]*\w\.ipynb', re.S)
HERE = {'listdir','scandir'}   # without a folder, these are about the one we are in, as is `Path('.')`

def asks_where_we_are(call):
    name,args = getattr(call.func, 'id', getattr(call.func, 'attr', '')),[ast.unparse(o) for o in call.args]
    return name in HERE and not args or name=='Path' and args in ([], ["'.'"])

def no_cell_depends_on_its_folder(cells):
    "No path that leads out of it, or to a sibling, no question of where we are"
    for o in cells:
        for n in ast.walk(ast.parse(python(o))):
            leads_out = isinstance(n, ast.Constant) and isinstance(n.value, str) and ELSEWHERE.fullmatch(n.value)
            if leads_out or isinstance(n, ast.Call) and asks_where_we_are(n): yield ast.unparse(n)

RULES = (nothing_is_marked_to_be_skipped, slow_cells_guard_themselves, names_are_there_when_they_are_used, imports_stand_alone,
         no_cell_depends_on_its_folder)

def broken(cells, rules=RULES): return {r.__name__:found for r in rules if (found := list(r(cells)))}

@pytest.mark.parametrize('path', notebooks, ids=lambda o: o.stem)
def test_run_all_can_work(path):
    rules = [r for r in RULES if path.name!=READS_THE_REPOSITORY or r is not no_cell_depends_on_its_folder]
    assert broken(sources(path), rules) == {}

# each rule finds what it is about, and nothing else

GOOD = ['#| hide\nfrom collab_notes.book import SLOW', 'import os\nfrom pathlib import Path', '%matplotlib inline\na = 1', '#| slow\nif SLOW:\n    b = a\n    print(b)',
        '#| hide\nimport warnings\nwarnings.filterwarnings("ignore")', "(Path('/x')/'r.csv').exists() or os.path.join(str(a), '..x', 'a.b')", 'def later(): return after\nafter = display(a)']
BAD = [('nothing_is_marked_to_be_skipped', ['#| eval: false\nprint(1)']),
       ('nothing_is_marked_to_be_skipped', ['#|eval:False\nprint(1)']),
       ('nothing_is_marked_to_be_skipped', ['#| notest\nprint(1)']),
       ('slow_cells_guard_themselves', ['#| slow\nprint(1)']),
       ('slow_cells_guard_themselves', ['#| slow\nif SLOW: print(1)\nprint(2)']),
       ('slow_cells_guard_themselves', ['#| slow\nif not SLOW: print(1)']),
       ('names_are_there_when_they_are_used', ['print(late)', 'late = 1']),
       ('names_are_there_when_they_are_used', ['#| slow\nif SLOW: late = 1', 'print(late)']),
       ('names_are_there_when_they_are_used', ['json.dumps(1)', 'import json']),
       ('imports_stand_alone', ['b = 1', 'import json\njson.dumps(b)']),
       ('no_cell_depends_on_its_folder', ["Path('../data').exists()"]),
       ('no_cell_depends_on_its_folder', ["Path('..')"]),
       ('no_cell_depends_on_its_folder', ["open('00_data.ipynb')"]),
       ('no_cell_depends_on_its_folder', ["open('benchmarks/results/a.json')"]),
       ('no_cell_depends_on_its_folder', ["list(Path('.').iterdir())"]),
       ('no_cell_depends_on_its_folder', ["list(Path().iterdir())"]),
       ('no_cell_depends_on_its_folder', ["os.listdir()"])]

def test_good_cells_break_no_rule(): assert broken(GOOD) == {}

@pytest.mark.parametrize('rule,cells', BAD)
def test_a_rule_finds_what_breaks_it(rule, cells): assert list(broken(GOOD+cells)) == [rule]

# the runner

@pytest.fixture
def run_all(tmp_path):
    "Write notebooks (name → sources of code cells), run some as the step of CI does: exit code and what it printed"
    pytest.importorskip('nbclient')
    def f(notebooks, *args):
        for k,v in notebooks.items():
            cells = [dict(cell_type='code', id=f'c{n}', metadata={}, execution_count=None, outputs=[], source=o) for n,o in enumerate(v)]
            (tmp_path/f'{k}.ipynb').write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
        res = subprocess.run([sys.executable, root/'.ci/run_all.py', tmp_path, *args], capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
        return res.returncode, res.stdout+res.stderr
    return f

def test_all_cells_run_wherever_they_are(run_all):
    "Those that `nbdev-test` leaves out too; from an empty folder"
    code,out = run_all(dict(a=['x = 1', '#| eval: false\nassert x==1', '#| slow\nimport os\nassert os.listdir()==[]'], b=['print(2)']))
    assert code==0 and 'Run All: 2 notebooks, 4 code cells ran' in out

def test_what_fails_is_named(run_all):
    code,out = run_all(dict(good=['x = 1'], bad=['#| eval: false\nassert 1==2, "no"'], slow=['import time\ntime.sleep(1000)']), '--limit', '3')
    assert code==1 and 'AssertionError: no' in out and 'not done after 3 s' in out
    assert 'Run All: 1 notebooks, 1 code cells ran' in out and '2 notebooks failed: bad, slow' in out

def test_nothing_to_run_is_a_failure(run_all):
    assert run_all({}) == (1, 'Run All: 0 notebooks, 0 code cells ran\nRun All: nothing ran\n')
    code,out = run_all(dict(empty=['']))
    assert code==1 and 'nothing ran' in out
    assert run_all({}, str(root/'none.ipynb'))[0]==1

def test_ci_runs_all():
    assert '.ci/run_all.py' in (root/'.ci/run').read_text() and 'bash .ci/run' in (root/'.github/workflows/test.yml').read_text()
