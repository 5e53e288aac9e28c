"""Writes the project's public address into the lessons:  python .ci/address.py [--check]

The address stands in pyproject.toml (`Repository`), and nowhere else. From it come two cells of each lesson, behind its title: a line of
badges that open the lesson on Colab and on Binder, and a hidden cell that installs the project where there is no clone. While the address is
the placeholder there is nothing to lead to, and both cells are taken out. Run it twice, and the second run changes nothing.
"""
import argparse, copy, json, re, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BADGES,INSTALL = 'address-badges','address-install'   # the ids of the two cells

def address(root=ROOT):
    "The project's address, or `None` if it is the placeholder: GitHub takes no `_` in an account's name, nor spaces or the like anywhere"
    url = re.search(r'^Repository\s*=\s*"([^"]*)"', (root/'pyproject.toml').read_text(encoding='utf-8'), re.M)[1]
    m = re.fullmatch(r'(https://github\.com/[A-Za-z0-9-]+/[\w.-]+?)(\.git)?/?', url)
    return m and m[1]

def lessons(root=ROOT): return sorted(o for o in (root/'nbs').glob('*.ipynb') if o.stem!='index')

def on(host, url): return url.replace('https://github.com', host)
def colab(url, name): return on('https://colab.research.google.com/github', url)+f'/blob/main/nbs/{name}.ipynb'
def binder(url, name): return on('https://mybinder.org/v2/gh', url)+f'/main?urlpath=lab/tree/nbs/{name}.ipynb'

def badges(url, name):
    return (f'[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab(url, name)}) '
            f'[![Open on Binder](https://mybinder.org/badge_logo.svg)]({binder(url, name)})')

def beyond_jupyter(root=ROOT):
    "What the extra `book` brings, but for Jupyter itself, in which the cell runs"
    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(root/'settings.ini', encoding='utf-8')
    return [o for o in cfg['DEFAULT']['book_requirements'].split() if o not in ('jupyterlab','ipykernel')]

def install(url, root=ROOT):
    return (f'#| hide\n# where there is no clone of the project, as on Colab, it is installed (.ci/address.py has written this cell)\n'
            f"import importlib.util, os\nif not (importlib.util.find_spec('collab_notes') or os.path.exists('../settings.ini')):\n"
            f'    %pip install -q "collab-notes @ git+{url}" {" ".join(beyond_jupyter(root))}')

def lines(text): return text.splitlines(keepends=True)

def addressed(nb, name, url, root=ROOT):
    "The notebook `nb` (a dict) as it should be with this address, or with none"
    res = copy.deepcopy(nb)
    cells = [o for o in res['cells'] if o.get('id') not in (BADGES,INSTALL)]
    own = [] if url is None else [
        dict(cell_type='markdown', id=BADGES, metadata={}, source=lines(badges(url, name))),
        dict(cell_type='code', id=INSTALL, metadata={}, execution_count=None, outputs=[], source=lines(install(url, root)))]
    at = 1+next(i for i,o in enumerate(cells) if o['cell_type']=='markdown')
    res['cells'] = [*cells[:at], *own, *cells[at:]]
    return res

def main(args=None, root=ROOT):
    p = argparse.ArgumentParser(description="Write the project's address into the lessons.")
    p.add_argument('--check', action='store_true', help='write nothing; exit 1 if a lesson is not as it should be')
    args,url,stale = p.parse_args(args),address(root),[]
    for o in lessons(root):
        old = json.loads(o.read_text(encoding='utf-8'))
        new = addressed(old, o.stem, url, root)
        if new==old: continue
        stale.append(o.stem)
        if not args.check: o.write_text(json.dumps(new, sort_keys=True, indent=1, ensure_ascii=False)+'\n', encoding='utf-8')
    if args.check and stale: sys.exit(f"{', '.join(stale)}: the address is not that of pyproject.toml; run `python .ci/address.py`")
    print(f"{url or 'the placeholder'}: {'all as it should be' if not stale else 'written into ' + ', '.join(stale)}")

if __name__ == '__main__': main()
