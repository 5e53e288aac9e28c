"""Builds the site:  python .ci/web/website.py [--out _site] [--url https://…]

nbdev hides and cleans cells, smalldocs makes pages of them from the plan in nbs/_quarto.yml, and a few lines here add what these two leave to do.
A broken link, anything that would be loaded from elsewhere, a picture without words or a notebook that the plan forgets ends the build.
Needs the extra `docs`, Python 3.11, and npm the first time, for KaTeX.
"""
import argparse, json, os, shutil, sys, tempfile, time, warnings
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]
sys.path.append(str(HERE.parent))

import yaml
import pages

warnings.filterwarnings('ignore', message='.*torch.jit.script.*')

ALSO = 'CONTRIBUTING.md','CHANGELOG.md','LICENSE','benchmarks/README.md'   # on the site even if no page links to them

def metadata(root=ROOT):
    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(root/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

def plan(root=ROOT): return yaml.safe_load((root/'nbs/_quarto.yml').read_text(encoding='utf-8'))

def planned(contents):
    "All pages of a sidebar, in order"
    for o in contents:
        if isinstance(o, str): yield o
        else: yield from planned(o['contents'])

def check_plan(cfg, root=ROOT):
    "Every notebook stands in the plan, once"
    there = sorted(o.relative_to(root/'nbs').as_posix() for o in (root/'nbs').rglob('*.ipynb') if not o.parent.name.startswith('.'))
    listed = sorted(planned(cfg['website']['sidebar']['contents']))
    if there!=listed: sys.exit(f'nbs/_quarto.yml: {sorted(set(there)^set(listed)) or "a notebook twice"}: each notebook stands in one part of the sidebar')

def entry(o):
    "An entry of the sidebar: modules by their names, lessons by number and title"
    if not isinstance(o, str): return o | dict(contents=[entry(x) for x in o['contents']])
    if o=='index.ipynb': return dict(text='Overview', href=pages.OVERVIEW)
    stem = Path(o).stem
    if o.startswith('library/'): return dict(text=stem, href=o)
    cells = json.loads((ROOT/'nbs'/o).read_text(encoding='utf-8'))['cells']
    title = pages.titled(pages.source(next(x for x in cells if x['cell_type']=='markdown')))[0]
    return dict(text=f'{stem[:2]} {title}' if stem[:2].isdigit() else title, href=o)

def config(modules, benchmarks, url, version):
    "What smalldocs is told: the plan, and the pages that are not notebooks"
    cfg = plan()
    web = cfg['website']
    bar = web['sidebar']['contents'] = [entry(o) for o in web['sidebar']['contents']]
    bar += [dict(section='Modules', href='api/index.md', contents=[dict(text=o, href=f'api/{o}.qmd') for o in modules]),
            dict(section='Benchmarks', href='benchmarks/index.md', contents=benchmarks),
            dict(section='About', contents=[dict(text='Changing it', href='CONTRIBUTING.md'), dict(text='Changes', href='CHANGELOG.md'), dict(text='Licence', href='LICENSE.md')])]
    web['navbar']['left'] = [dict(text='Learn', href='00_data.ipynb'), dict(text='Use', href=pages.OVERVIEW), dict(text='Look up', href='api/index.md'),
                             dict(text='Benchmarks', href='benchmarks/index.md')]
    web |= dict(favicon='favicon.svg', image='card.png', **({'site-url':url} if url else {}))
    web['page-footer'] = dict(left=f'collab_notes {version} · [Apache 2.0](/LICENSE.md)', right='Each page is [Markdown](/llms.txt), too')
    cfg['format']['html']['css'] = 'book.css'
    cfg['project']['resources'] = ['map.png','card.png','robots.txt']
    return cfg | dict(smalldocs=dict(theme=dict(light='default', dark='dark.css'), linkify=True))

def dark():
    "Bootstrap's own dark colours, for the whole page"
    from smalldocs.site import ASSETS
    css = (ASSETS/'vendor/bootstrap/bootstrap.min.css').read_text(encoding='utf-8')
    assert '[data-bs-theme=dark]{' in css
    return css.replace('[data-bs-theme=dark]{', ':root,[data-bs-theme=dark]{')

def processed():
    "The notebooks as nbdev hides and cleans them; nothing is run"
    from nbdev.serve import proc_nbs
    os.chdir(ROOT)
    return proc_nbs(n_workers=0, force=True)

def lay_out(folder, url):
    "Write all sources of the site into `folder`"
    from address import address
    import front, reference
    info,cfg = metadata(),plan()
    check_plan(cfg)
    stage = pages.Stage(ROOT, folder)
    for o in planned(cfg['website']['sidebar']['contents']): stage.add(f'nbs/{o}')
    for o in ALSO: stage.add(o)
    results = [o.relative_to(ROOT).as_posix() for o in sorted((ROOT/'benchmarks/results').glob('*.md'))]
    for o in results: stage.add(o)
    stage.run(processed())
    modules = reference.write(folder, ROOT, address(ROOT))
    png,alt = front.picture(ROOT, *front.MAP)
    stage.write('index.md', front.front(ROOT, info['lib_name'], info['description'], alt))
    stage.write('map.png', png); stage.write('card.png', front.card(png, info['lib_name'], info['description']))
    stage.write('dark.css', dark()); stage.write('robots.txt', 'User-agent: *\nAllow: /\n')
    for o in 'book.css','favicon.svg','404.md': shutil.copy(HERE/o, folder)
    cfg = config(modules, [dict(text=Path(o).stem, href=o) for o in results], url, info['version'])
    stage.write('_quarto.yml', yaml.safe_dump(cfg, allow_unicode=True, sort_keys=False))

def build(out, url=None):
    "Build the site into the folder `out`; what is wrong with it"
    from smalldocs.config import load
    from smalldocs.site import Site
    import check, finish   # which has a word in how smalldocs writes Markdown copies
    with tempfile.TemporaryDirectory() as tmp:
        lay_out(Path(tmp), url)
        site = Site(load(tmp), quiet=True)
        site.out = Path(out).resolve()
        site.build()
    finish.finish(site.out, ROOT/'.cache', url)
    return list(site.warnings)+check.problems(site.out)

def main(args=None):
    p = argparse.ArgumentParser(description='Build the site: the book, the modules, the benchmarks.')
    p.add_argument('--out', default=str(ROOT/'_site'), help='the folder to write (default: _site)')
    p.add_argument('--url', help="the site's address, for the card and the site map")
    args,start = p.parse_args(args),time.perf_counter()
    wrong = build(args.out, args.url)
    for o in wrong: print(o, file=sys.stderr)
    if wrong: sys.exit(f'{len(wrong)} things are wrong with the site')
    files = [o for o in Path(args.out).rglob('*') if o.is_file()]
    print(f'{sum(o.suffix==".html" for o in files)} pages, {len(files)} files, {sum(o.stat().st_size for o in files)/2**20:.1f} MB '
          f'in {args.out}, in {time.perf_counter()-start:.0f} s')

if __name__ == '__main__': main()
