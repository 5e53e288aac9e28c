"""The public address goes into the lessons, and out again."""
import importlib.util, json, shutil, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location('address', root/'.ci/address.py')
address = importlib.util.module_from_spec(spec)
spec.loader.exec_module(address)

URL = 'https://github.com/some-body/collab.notes'
NAMES = '00_data','answers_exercises'

def set_to(folder, url):
    (folder/'pyproject.toml').write_text(f'[project]\nname = "x"\n[project.urls]\nRepository = "{url}"\n[tool.nbdev]\nlib_path = "x"\n')

@pytest.fixture
def project(tmp_path):
    "A copy of two lessons, without an address; the bytes of the lessons as they are"
    (tmp_path/'nbs').mkdir()
    set_to(tmp_path, 'https://github.com/no_body/x')
    shutil.copy(root/'settings.ini', tmp_path)
    for o in NAMES: shutil.copy(root/f'nbs/{o}.ipynb', tmp_path/'nbs')
    address.main([], tmp_path)
    return tmp_path

def kept(project): return {o.name:o.read_bytes() for o in (project/'nbs').iterdir()}
def cells(project, name): return json.loads((project/f'nbs/{name}.ipynb').read_text(encoding='utf-8'))['cells']
def source(c): return ''.join(c['source'])

def test_in_and_out_again(project):
    before = kept(project)
    set_to(project, URL)
    address.main([], project)
    after = kept(project)
    assert all(before[k]!=after[k] for k in before)
    address.main([], project)
    address.main(['--check'], project)
    assert kept(project)==after
    set_to(project, 'https://github.com/no_body/x')
    with pytest.raises(SystemExit, match='00_data, answers_exercises'): address.main(['--check'], project)
    assert kept(project)==after
    address.main([], project)
    assert kept(project)==before

def test_another_address_takes_the_place_of_the_first(project):
    for o in (URL, 'https://github.com/other/place'): set_to(project, o); address.main([], project)
    assert all(b'some-body' not in o and b'other/place' in o for o in kept(project).values())

@pytest.mark.parametrize('name', NAMES)
def test_what_is_written(project, name):
    plain = cells(project, name)
    set_to(project, URL+'.git')
    address.main([], project)
    title,badges,install,*rest = cells(project, name)
    assert [title,*rest]==plain and source(title).startswith('# ')
    for o in (f'https://colab.research.google.com/github/some-body/collab.notes/blob/main/nbs/{name}.ipynb', f'https://mybinder.org/v2/gh/some-body/collab.notes/main?urlpath=lab/tree/nbs/{name}.ipynb'):
        assert o in source(badges)
    assert source(install).startswith('#| hide\n') and f'git+{URL}"' in source(install) and 'jupyterlab' not in source(install)

def test_it_installs_only_where_there_is_no_clone(project, tmp_path):
    "Run by IPython in three places; `%pip` is replaced by a file that it leaves"
    from IPython.core.inputtransformer2 import TransformerManager
    code = TransformerManager().transform_cell(address.install(URL, project))
    prelude = 'import sys\nclass Shell:\n    def run_line_magic(self, name, line): open("asked", "w").write(f"{name} {line}")\nget_ipython = Shell\n'
    def asked(folder, *path):
        folder.mkdir(exist_ok=True)
        subprocess.run([sys.executable, '-I', '-c', f'{prelude}sys.path = [o for o in sys.path if "site-packages" not in o]+{list(path)!r}\nsys.meta_path = [o for o in sys.meta_path if "editable" not in repr(o)]\n{code}'], cwd=folder, check=True)
        return (folder/'asked').read_text() if (folder/'asked').exists() else ''
    assert asked(project/'nbs')==''                           # in a clone
    (tmp_path/'away').mkdir()
    assert asked(tmp_path/'away/installed', str(root))==''    # installed
    assert asked(tmp_path/'away/colab').startswith(f'pip install -q "collab-notes @ git+{URL}"')

def test_nbdev_leaves_it_as_it_is(project):
    from nbdev.clean import clean_nb
    from fastcore.nbio import read_nb, write_nb
    set_to(project, URL)
    address.main([], project)
    before = kept(project)
    for o in (project/'nbs').iterdir():
        nb = read_nb(o)
        clean_nb(nb)
        write_nb(nb, o)
    assert kept(project)==before

@pytest.mark.parametrize('url', ['https://github.com/no_body/x', 'https://example.com/a/b', 'http://github.com/a/b', 'https://github.com/a', ''])
def test_what_is_no_address(project, url):
    set_to(project, url)
    assert address.address(project) is None

def test_the_lessons_are_in_step(): address.main(['--check'])
