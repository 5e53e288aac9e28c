"""The command `nbdev_test`: it counts, and nothing run is no success."""
import json, os, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import LIMIT

from collab_notes.suite import hyphened, to_run

root = Path(__file__).resolve().parents[1]

def put(folder, **notebooks):
    "A project of made-up notebooks, name → code cells (or front matter, which begins with ---)"
    (folder/'pyproject.toml').write_text('[project]\nname = "x"\n[tool.nbdev]\nlib_path = "x"\ntst_flags = "notest slow"\n')
    (folder/'nbs').mkdir(exist_ok=True)
    for k,v in notebooks.items():
        cells = [dict(cell_type='raw', id=f'c{n}', metadata={}, source=o) if o.startswith('---') else
                 dict(cell_type='code', id=f'c{n}', metadata={}, execution_count=None, outputs=[], source=o) for n,o in enumerate(v)]
        (folder/f'nbs/{k}.ipynb').write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    return folder

def told(folder, *args, before=''):
    "Exit code, output and errors of the command in `folder`"
    o = subprocess.run([sys.executable, '-c', f'{before}\nfrom collab_notes.suite import nbdev_test; nbdev_test()', *args], cwd=folder, capture_output=True,
                       text=True, timeout=LIMIT, stdin=subprocess.DEVNULL, env=dict(os.environ, PYTHONPATH=str(root)))
    return o.returncode, o.stdout, o.stderr

GOOD = dict(a=['x = 1', 'assert x==1', '#| slow\nassert x==2', '#| eval: false\nassert x==2'], b=['print(1)'])

def test_it_says_what_ran(tmp_path):
    code,out,_ = told(put(tmp_path, **GOOD))
    assert code==0 and out.endswith('Success.\n2 notebooks, 3 cells ran\n')

@pytest.mark.parametrize('args,want', [((), [2,1]), (('nbs/a.ipynb',), [2]), (('nbs/*b.ipynb',), [1]), (('nbs',), [2,1])])
def test_the_count_is_of_what_is_chosen(tmp_path, monkeypatch, args, want):
    monkeypatch.chdir(put(tmp_path, **GOOD))
    assert [*to_run(*args).values()]==want

def test_flags_and_neighbours(tmp_path):
    nbs = put(tmp_path, **GOOD)/'nbs'
    assert [*to_run(nbs, 'slow').values()]==[3,1] and [*to_run(nbs, skip_file_re='^b').values()]==[2]
    (nbs/'.notest').touch()
    assert to_run(nbs)=={} and len(to_run(nbs, ignore_fname='.other'))==2

def test_a_failing_notebook_fails_it(tmp_path):
    code,out,err = told(put(tmp_path, **GOOD, bad=['x = 1', 'assert x==2']), '--n_workers', '0')
    assert code==1 and 'ran' not in out and 'bad.ipynb' in err

@pytest.mark.parametrize('notebooks', [{}, dict(a=['']), dict(a=['#| slow\nprint(1)']), dict(a=['---\nskip_exec: true\n---','print(1)'])], ids='none empty slow skipped'.split())
def test_nothing_is_no_success(tmp_path, notebooks):
    code,out,err = told(put(tmp_path, **notebooks))
    assert code==1 and 'Success' not in out and 'nothing ran' in err

def test_without_nbdev_it_says_what_to_install(tmp_path):
    code,out,err = told(tmp_path, before="import sys; sys.modules['nbdev'] = None")
    assert code==1 and "'collab-notes[dev]'" in err and 'Traceback' not in err

def test_options_of_either_spelling():
    assert [hyphened(o) for o in ('--n_workers','--n-workers','--file_re=a_b','nbs/a_b.ipynb','a_b','-x_y')]==['--n-workers','--n-workers','--file-re=a_b','nbs/a_b.ipynb','a_b','-x_y']

def test_it_is_a_command():
    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(root/'settings.ini', encoding='utf-8')
    assert 'nbdev_test=collab_notes.suite:nbdev_test' in cfg['DEFAULT']['console_scripts'].split()
