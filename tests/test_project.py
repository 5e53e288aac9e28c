"""Is the house in order? The wheel and its metadata, modules and README in step with the notebooks, notebooks run and clean, nothing in the
repository that must not be there."""
import ast, json, re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from email import message_from_string
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pyflakes.checker import Checker

from conftest import LIMIT

root = Path(__file__).resolve().parents[1]
notebooks = sorted(o for o in (root/'nbs').rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(root).parts))
chapters = [o for o in notebooks if o.name != 'index.ipynb']
modules = sorted(o for o in (root/'collab_notes').glob('*.py') if o.name not in ('__init__.py','_modidx.py'))
expected = ('index answers answers_exercises 00_data 01_latent_factors 02_from_scratch 03_weight_decay 04_interpretation 05_bootstrap 06_deep '
            '07_lists 08_ranking 09_bayes 10_feedback 11_reasons 12_recipe 13_costs 14_spark '
            'ablations baselines batches blend blocks book callbacks checkpoint choices cli columns console core diagrams '
            'ease ensemble errors evenness exercises exercises_more factormodel facts files foldin formats held ials inputs '
            'kept layout loaders lookups loops matrix movielens newcomers options overall plaintext plots posterior '
            'prior_test priors protocol questions quick reading ridge rowfit sampled sampler shapes shares shrink side '
            'sizes splits start streams suite surface tables topn unknown unrated vocab widgets wording '
            'spark sparkals sparkcluster sparkscore sparksession sparksplits sparktrain '
            'api app finding guard guide pages portrait serving swap views visitors').split()

_cfg = ConfigParser(delimiters=['='], interpolation=None)
_cfg.read(root/'settings.ini', encoding='utf-8')
settings = _cfg['DEFAULT']
def listed(k): return [o.strip() for o in settings.get(k, '').splitlines() if o.strip()]

each_notebook = pytest.mark.parametrize('path', notebooks, ids=lambda o: o.stem)
each_module = pytest.mark.parametrize('path', modules, ids=lambda o: o.stem)

def run(*args, cwd, code=0):
    "Run Python with `args` in `cwd`; what it printed, after checking that it ended with `code`."
    res = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    assert res.returncode == code, res.stdout + res.stderr
    return res.stdout

def text(o): return o if isinstance(o, str) else ''.join(o)
def cells(path, kind=None):
    return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if kind in (None, c['cell_type'])]

def directives(cell):
    "The `#| name: value` lines of `cell`, as a dict."
    return {m[1]:(m[2] or '').strip() for m in re.finditer(r'^#\|\s*([\w-]+):?(.*)$', text(cell['source']), re.M)}

def skipped(cell):
    d = directives(cell)
    return d.get('eval', '').lower() == 'false' or d.keys() & {'slow', 'notest'}

def tracked():
    "The files that are, or with `git add .` would be, in the repository."
    try: res = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=root, capture_output=True, text=True)
    except FileNotFoundError: pytest.skip('no git here')
    if res.returncode: pytest.skip('not a git repository')
    return sorted({root/o for o in res.stdout.split('\0') if o and (root/o).is_file()})

def contents(path):
    "The text of `path`: of a notebook what a person reads in it, without the pictures' data. `None` for a binary file."
    if path.suffix != '.ipynb':
        try: return path.read_text(encoding='utf-8')
        except UnicodeDecodeError: return None
    res = []
    for c in cells(path):
        res.append(text(c['source']))
        for o in c.get('outputs', []):
            res.append(text(o.get('text', '')) + '\n'.join(o.get('traceback', [])))
            res += [text(v) for k,v in o.get('data', {}).items() if not k.startswith('image/') and isinstance(v, (str, list))]
    return '\n'.join(res)

def exercises_in(path, of='check'):
    "Names of exercises that the code cells of a notebook hand to `of`"
    return re.findall(rf"(?<!\w){of}\('(\d\d\.\d+)'", '\n'.join(text(c['source']) for c in cells(path, 'code')))

@pytest.mark.parametrize('path', [o for o in chapters if o.stem[0].isdigit()], ids=lambda o: o.stem)
def test_exercises_have_a_check_and_a_solution(path):
    "What a lesson checks has a check, and a solution that is run through it; a lesson shows no solution, and there is none without a lesson"
    asked,solved = exercises_in(path),exercises_in(root/'nbs'/'answers_exercises.ipynb', 'assert check')
    there = [o for n in ('exercises','exercises_more') for o in exercises_in(root/'nbs'/'library'/f'{n}.ipynb', '@exercise')]
    own = lambda names: {o for o in names if o.startswith(path.stem[:2]+'.')}
    assert len(set(asked)) >= 4 and own(asked) == set(asked) == own(solved) == own(there)

# the wheel

@pytest.fixture(scope='session')
def built(tmp_path_factory):
    "A folder with `wheel/` (the unpacked wheel), and the same by way of the source distribution in `via_sdist/`."
    tmp = tmp_path_factory.mktemp('built')
    def build(src, kind, dest):
        dest.mkdir()
        run('-c', f'import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])', dest, cwd=src)
        return next(dest.iterdir())
    src = tmp/'src'
    src.mkdir()
    for o in 'settings.ini setup.py pyproject.toml MANIFEST.in README.md CHANGELOG.md LICENSE'.split(): shutil.copy(root/o, src)
    for o in 'collab_notes', 'nbs': shutil.copytree(root/o, src/o, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    zipfile.ZipFile(build(src, 'wheel', tmp/'whl')).extractall(tmp/'wheel')
    shutil.rmtree(src/'build')
    with tarfile.open(build(src, 'sdist', tmp/'sdist')) as f: f.extractall(tmp/'unpacked', filter='data')
    zipfile.ZipFile(build(next((tmp/'unpacked').iterdir()), 'wheel', tmp/'whl2')).extractall(tmp/'via_sdist')
    return tmp

def names(folder): return sorted(o.relative_to(folder).as_posix() for o in folder.rglob('*') if o.is_file())
def dist_info(folder, name): return next(folder.glob('*.dist-info'))/name

def test_version():
    assert f'__version__ = "{settings["version"]}"' in (root/'collab_notes/__init__.py').read_text()

def test_wheel_holds_the_modules_and_nothing_else(built):
    found = names(built/'wheel')
    own = [*(root/'collab_notes').glob('*.py'), *(root/'collab_notes'/'static').iterdir()]
    assert [o for o in found if '.dist-info/' not in o] == sorted(o.relative_to(root).as_posix() for o in own)
    assert dist_info(built/'wheel', 'licenses/LICENSE').read_text() == (root/'LICENSE').read_text()
    assert names(built/'via_sdist') == found

def test_wheel_metadata(built):
    "Every field of settings.ini has reached the wheel: one that is missing from `dynamic` in pyproject.toml is dropped silently."
    meta = message_from_string(dist_info(built/'wheel', 'METADATA').read_text(encoding='utf-8'))
    assert meta['Name'] == settings['dist_name'] and meta['Version'] == settings['version']
    assert meta['Summary'] == settings['description'] and meta['Author'] == settings['author']
    assert meta['License-Expression'] == settings['license'] and meta['License-File'] == 'LICENSE'
    assert meta['Keywords'].split(',') == settings['keywords'].split()
    assert meta['Requires-Python'] == f'>={settings["min_python"]}'
    assert meta['Description-Content-Type'] == 'text/markdown'
    assert meta.get_payload().strip() == (root/'README.md').read_text(encoding='utf-8').strip()
    assert any(o.startswith('Repository, ') for o in meta.get_all('Project-URL'))
    assert f'Programming Language :: Python :: {settings["min_python"]}' in meta.get_all('Classifier')
    extras = settings['extras'].split()
    assert sorted(meta.get_all('Provides-Extra')) == sorted(extras)
    def reqs(os, extra=''): return {(r.name, r.specifier, extra or (m[1] if (m := re.search(r'extra == "(\w+)"', str(r.marker))) else ''))
                                    for r in map(Requirement, os)}
    want = reqs(listed('requirements')).union(*(reqs(listed(f'{o}_requirements'), o) for o in extras))
    assert reqs(meta.get_all('Requires-Dist')) == want
    points = ConfigParser(delimiters=['='])
    points.read_string(dist_info(built/'wheel', 'entry_points.txt').read_text())
    assert points['console_scripts']['collab-notes'] == 'collab_notes.__main__:start'
    assert points['nbdev']['collab_notes'] == 'collab_notes._modidx:d'

def test_pyproject_repeats_nothing():
    txt = (root/'pyproject.toml').read_text()
    assert not re.search(r'^(version|description|readme|requires-python|license|authors|keywords|dependencies)\s*=', txt, re.M)

_import_all = '''
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
from collab_notes._modidx import d
res = {}
for mod in [*d['syms'], 'collab_notes.__main__']:   # nbdev's index leaves that one out
    m = importlib.import_module(mod)
    assert m.__file__.startswith(sys.argv[1]), m.__file__
    res[mod] = [o for o in m.__all__ if not hasattr(m, o)]
print(json.dumps(res))
'''

def test_nbdev_reads_the_same_places():
    from nbdev.config import get_config
    cfg = get_config(root)
    for o in 'lib_path', 'nbs_path': assert cfg.path(o) == root/settings[o]
    assert cfg.lib_name == settings['dist_name'] and cfg.version == settings['version']

def test_every_module_imports_from_the_wheel(built, tmp_path):
    "Away from the repository, without what a notebook imported for its tests: each module imports, each name in its `__all__` is there."
    found = json.loads(run('-I', '-c', _import_all, built/'wheel', cwd=tmp_path).splitlines()[-1])
    assert found == {f'collab_notes.{o.stem}':[] for o in modules}

def test_command_points_at_a_module(built):
    for o in listed('console_scripts'):
        mod,_,name = o.split('=')[1].partition(':')
        assert mod in {f'collab_notes.{o.stem}' for o in modules}
        assert re.search(rf'^def {name}\(|^{name}\s*=', (root/f'{mod.replace(".", "/")}.py').read_text(encoding='utf-8'), re.M)

# the modules

def imported(path):
    "The modules that any statement of the file `path` imports."
    for o in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(o, ast.Import): yield from (a.name for a in o.names)
        if isinstance(o, ast.ImportFrom): yield o.module if not o.level else 'collab_notes.' + (o.module or '')

@each_module
def test_no_name_is_undefined(path):
    tree = ast.parse(path.read_text(encoding='utf-8'), feature_version=tuple(map(int, settings['min_python'].split('.'))))
    bad = 'UndefinedName UndefinedLocal UndefinedExport ImportStarUsed ImportStarUsage ImportStarNotPermitted'.split()
    assert [str(o) for o in Checker(tree, str(path)).messages if type(o).__name__ in bad] == []

EXTRAS = {'pyarrow','pyspark','py4j'}   # the last comes with pyspark

@each_module
def test_imports_only_what_pip_install_brings(path):
    "Not nbdev, not pytest: those come with `dev`. (fastai brings torch, numpy and fastcore; a function may ask for pyarrow or pyspark, extras.)"
    brought = {'collab_notes', *(Requirement(o).name for o in listed('requirements'))}
    brought |= {'fasthtml',   # of python-fasthtml
                'torch', 'numpy', 'fastcore', 'fastprogress', 'sklearn', 'scipy', *EXTRAS}
    roots = {o.split('.')[0] for o in imported(path)}
    assert roots - brought - set(sys.stdlib_module_names) == set()
    top = {n.split('.')[0] for o in ast.parse(path.read_text(encoding='utf-8')).body if isinstance(o, (ast.Import,ast.ImportFrom)) and not getattr(o, 'level', 0)
           for n in ([o.module] if isinstance(o, ast.ImportFrom) else [a.name for a in o.names])}
    assert not EXTRAS & top

def default_exp(path):
    return next((d['default_exp'] for c in cells(path, 'code') if 'default_exp' in (d := directives(c))), None)

def ours(names): return {o.split('.')[1] for o in names if o.startswith('collab_notes.')} - {''}

serve_people = {'__main__','cli','console','matrix','guide','portrait','api','pages','swap','views','app','serving','sparkscore','sparktrain'}   # and so may import anything

def test_modules_import_only_those_before_them():
    "A library module imports library modules, a chapter's module these and those of chapters that the reader has met."
    home = {m:o for o in chapters if (m := default_exp(o))}
    assert set(home) == {o.stem for o in modules}
    library = {m for m,o in home.items() if o.parent.name == 'library'}
    for o in modules:
        before = set() if o.stem in library else {m for m in home.keys()-library if home[m].stem < home[o.stem].stem}
        if o.stem not in serve_people: assert ours(imported(o)) - (library-serve_people) - before == set(), f'{o.name} imports a module that the reader meets later'

def test_modules_do_not_go_round_in_circles():
    "Whichever is imported first (what a function imports, when it is called, doesn't count)."
    def at_top(o): return ours(f'collab_notes.{a.module}' if a.level else a.module for a in ast.parse(o.read_text(encoding='utf-8')).body if isinstance(a, ast.ImportFrom) and a.module)
    assert {o.stem for o in modules} <= set(TopologicalSorter({o.stem:at_top(o) for o in modules}).static_order())   # raises `CycleError`

@each_module
def test_a_module_is_a_page_or_ten(path):
    "About 450 lines at most, one block of imports at its top, and no private name of another module."
    tree = ast.parse(path.read_text(encoding='utf-8'))
    assert len(path.read_text(encoding='utf-8').splitlines()) <= 460
    taken = [a.name for o in ast.walk(tree) if isinstance(o, ast.ImportFrom) and (o.level or 'collab_notes' in o.module) for a in o.names]
    assert [o for o in taken if re.match('_[a-z]', o)] == []
    kinds = [isinstance(o, (ast.Import, ast.ImportFrom)) for o in tree.body if not isinstance(o, (ast.Expr, ast.Assign))]
    assert not any(kinds[kinds.index(False):]), 'a second block of imports'

@each_module
def test_no_local_hides_a_public_name(path):
    "A local `why` in the module that defines `why` makes a reader, and the next change, go wrong."
    tree = ast.parse(path.read_text(encoding='utf-8'))
    public = {e.value for o in tree.body if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__' for e in o.value.elts}
    inside = [n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
    assert sorted({n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} & public) == []

# modules and notebooks in step

@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    "A copy of the repository in which `nbdev-export` has written the modules anew and `nbdev-clean` has gone over the notebooks."
    tmp = tmp_path_factory.mktemp('exported')
    for o in 'settings.ini', 'pyproject.toml': shutil.copy(root/o, tmp)
    shutil.copytree(root/'nbs', tmp/'nbs', ignore=shutil.ignore_patterns('.*', '_*'))
    (tmp/'collab_notes').mkdir()
    shutil.copy(root/'collab_notes/__init__.py', tmp/'collab_notes')
    run('-c', 'from nbdev.doclinks import nbdev_export as f; f.__wrapped__()', cwd=tmp)
    run('-c', 'from nbdev.clean import nbdev_clean as f; f.__wrapped__()', cwd=tmp)
    return tmp

def test_modules_are_what_the_notebooks_export(exported):
    ours,theirs = ({o.name:o.read_text(encoding='utf-8') for o in (f/'collab_notes').glob('*.py')} for f in (root, exported))
    assert sorted(ours) == sorted(theirs)
    assert [k for k in ours if ours[k] != theirs[k]] == [], 'run nbdev-export'

@each_notebook
def test_notebook_is_clean(exported, path):
    same = path.read_bytes() == (exported/path.relative_to(root)).read_bytes()   # compared here: pytest would take minutes to show how two notebooks differ
    assert same, 'run nbdev-clean'

# the notebooks

def test_notebooks_are_all_there():
    assert sorted(expected) == sorted(o.stem for o in notebooks)

def test_nbdev_test_passes_none_over(monkeypatch):
    "`nbdev-test` says `Success.` of any number of notebooks, even none: so we ask it which ones it takes, and that they are not opted out."
    from nbdev.doclinks import nbglob
    from nbdev.test import nb_test_cells
    monkeypatch.chdir(root)
    assert sorted(Path(o).resolve() for o in nbglob()) == notebooks
    assert list((root/'nbs').rglob('.notest')) == []
    for o in notebooks: assert len(nb_test_cells(o, ['notest', 'slow'])) >= len(cells(o, 'code')) / 2, f'most cells of {o.name} are not run'

@each_notebook
def test_notebook_opens_with_title_and_summary(path):
    first = next(o for o in cells(path) if o['cell_type'] != 'raw')
    assert first['cell_type'] == 'markdown'
    assert re.match(r'# \S.*\n\n?> \S', text(first['source'])), 'the first cell is `# Title` and `> one line`'

@each_notebook
def test_notebook_has_been_run(path):
    code = cells(path, 'code')
    outputs = [o for c in code for o in c['outputs']]
    assert outputs, 'run nbdev-test --save'
    assert all(c['execution_count'] is None for c in code)
    assert [o['ename'] for o in outputs if o['output_type'] == 'error'] == []
    assert [text(o['text']) for o in outputs if o.get('name') == 'stderr'] == []
    def prints(c):
        try: body = ast.parse(text(c['source'])).body
        except SyntaxError: return False
        return any(isinstance(o, ast.Expr) and isinstance(o.value, ast.Call) and getattr(o.value.func, 'id', '') == 'print' for o in body)
    assert [text(c['source']) for c in code if prints(c) and not skipped(c) and not c['outputs']] == [], 'run nbdev-test --save'

@each_notebook
def test_exported_cells_name_what_they_import(path):
    stars = [l for c in cells(path, 'code') if directives(c).keys() & {'export', 'exports', 'exporti'}
             for l in text(c['source']).splitlines() if re.match(r'\s*from\s+\S+\s+import\s+\*', l)]
    assert stars == []

# the README

def test_readme_is_what_the_index_says():
    run(root/'.ci/readme.py', '--check', cwd=root)

def test_readme_has_a_line_for_everybody():
    "One that opens the book, one that runs the main job, one that tests (`.ci/run` takes it from here), within the first screen."
    page = (root/'README.md').read_text(encoding='utf-8').splitlines()
    book,job,tests = [l for l in page if l.startswith('python3 -m venv ')]
    assert '.[book]' in book and book.endswith(' && .venv/bin/jupyter lab nbs/00_data.ipynb')
    assert job.endswith(' && .venv/bin/collab-notes train')
    assert '.[dev]' in tests and tests.endswith(' && .venv/bin/nbdev-test && .venv/bin/pytest tests')
    assert page.index(tests) < 35 and page.index(tests) < page.index('## The tour') < page.index('## Results')

def test_the_tour_knows_how_long_a_lesson_is():
    "As the lessons are now: if one has grown, index.ipynb and the README want to be made anew."
    sys.path.append(str(root/'.ci'))
    from minutes import minutes
    told = dict(re.findall(r'^\| \[`(\w+)`\]\(nbs/\w+\.ipynb\).*? \| (\d+) \|', (root/'README.md').read_text(encoding='utf-8'), re.M))
    assert told == {o.stem:str(round(minutes(o))) for o in chapters if o.parent.name=='nbs'}

def test_the_extra_book_brings_what_notebooks_import():
    "Beyond the library and Jupyter"
    brought = {'collab_notes','torch','numpy','fastcore','fastprogress','sklearn','scipy','IPython','minutes','address'}
    brought |= {'fasthtml' for o in listed('requirements') if Requirement(o).name=='python-fasthtml'}
    brought |= {Requirement(o).name for o in listed('requirements')} | {'pytrec_eval' for o in listed('book_requirements') if o=='pytrec-eval-terrier'}
    found = {}
    for o in notebooks:
        code = '\n'.join(text(c['source']) for c in cells(o, 'code') if not text(c['source']).startswith('%'))
        for m in re.finditer(r'^(?:from|import) ([\w.]+(?:, ?[\w.]+)*)', code, re.M): found |= {r.split('.')[0].strip():o.stem for r in m[1].split(',')}
    assert {k:v for k,v in found.items() if k not in brought|set(sys.stdlib_module_names)} == {}

def md_links(md):
    md = re.sub(r'^(`{3,}|~{3,}).*?^\1', '', md, flags=re.M|re.S)
    return re.findall(r'\]\(([^)\s]+)\)', md) + re.findall(r'''\b(?:href|src)=["']([^"']+)''', md)

def test_links_lead_somewhere():
    "Every relative link, and every one to Colab or Binder, of the README, the other pages and the notebooks. While there is no address, no such link."
    sys.path.append(str(root/'.ci'))
    from address import address, binder, colab
    url,broken = address(),[]
    hosted = {f(url, o.stem) for f in (colab, binder) for o in chapters if url}
    for o in [*root.glob('*.md'), *notebooks]:
        md = o.read_text(encoding='utf-8') if o.suffix == '.md' else '\n\n'.join(text(c['source']) for c in cells(o, 'markdown'))
        for l in md_links(md):
            if re.match(r'https://(colab\.research\.google\.com/github|mybinder\.org/v2)/', l): ok = l in hosted
            elif re.match(r'[a-z]+:|#', l): continue
            else: ok = (o.parent/l.split('#')[0]).exists()
            if not ok: broken.append((o.name, l))
    assert broken == []

# what must not be committed

def test_no_place_on_somebodys_machine():
    pat = re.compile(r'(?<![\w.~-])/(?:root|home|work|opt|tmp|Users|mnt)/\w|\bfile://')
    files = [o for o in tracked() if o.name != Path(__file__).name]
    found = {o.relative_to(root).as_posix():m[0] for o in files if (m := pat.search(contents(o) or ''))}
    assert found == {}

def test_no_movielens():
    "MovieLens may not be redistributed: no file of it, and no long run of its rows. (A notebook shows the first few.)"
    row = re.compile(r'^\s*\d{1,6}(\t|::|,)\d{1,6}\1[0-5](\.\d)?\1\d{9}\s*$', re.M)
    name = re.compile(r'u\.(data|item|user|genre|info|occupation)|u[1-5ab]\.(base|test)'
                      r'|ml-.*\.(zip|inter|user|item)|(ratings|movies)\.(dat|csv)')
    files = tracked()
    assert [o.name for o in files if name.fullmatch(o.name) or o.suffix in ('.parquet', '.pkl', '.pth', '.gz', '.zip')] == []
    assert [o.name for o in files if len(row.findall(contents(o) or '')) > 20] == []

def test_nothing_is_large():
    large = {o.name:s for o in tracked() if (s := o.stat().st_size) > (3_000_000 if o.suffix == '.ipynb' else 500_000)}
    assert large == {}

def test_lowest_versions_are_those_that_are_allowed():
    "What `.ci/lowest.txt` pins is the lower bound of each requirement that has one"
    low = {k:v for k,v in re.findall(r'^(\S+)==(\S+)$', (root/'.ci'/'lowest.txt').read_text(), re.M)}
    named = [Requirement(o) for k in ('requirements','dev_requirements') for o in listed(k)]
    assert {r.name for r in named if '>=' in str(r.specifier) and r.name!='setuptools'} <= set(low)
    assert all(r.specifier.contains(low[r.name]) for r in named if r.name in low)
