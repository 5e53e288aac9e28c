"""The parts of the site's builder, on little pages of their own; `browser/test_site_pages.py` opens the whole site in a browser."""
import base64, importlib, json, os, sys
from pathlib import Path

import pytest
import yaml

root = Path(__file__).resolve().parents[1]
sys.path += [str(root/'.ci/web'), str(root/'.ci')]
import check, front, pages, website

def cell(kind, source, outputs=None, id='a1'):
    return dict(cell_type=kind, id=id, metadata={}, source=source) | (dict(outputs=outputs or [], execution_count=None) if kind=='code' else {})

# options and cells

@pytest.mark.parametrize('line,expected', [('#| echo: false', ('echo', False)), ('#| slow', ('slow', None)), ('#|hide', ('hide', None)),
    ('#| fig-alt: A map', ('fig-alt', 'A map')), ('#| fig-alt: Two panels: left, right', ('fig-alt', 'Two panels: left, right')),
    ('#| fig-alt: [one, two', ('fig-alt', '[one, two')), ('#| fig-alt: "Loss: it falls"', ('fig-alt', 'Loss: it falls'))])
def test_option(line, expected): assert pages.option(line)==expected

def test_options_survive_being_written_as_yaml():
    "smalldocs reads them as one piece of YAML, in which a colon or a bracket too many loses them all"
    for words in 'Loss: it falls', '[one, two', "it's", '# not a comment', 'a "quote"':
        o,code = pages.code_cell(cell('code', f'#| fig-alt: {words}\n#| export\nx = 1')).split('\nx')
        assert yaml.safe_load(o.replace('#| ', ''))=={'label':'c-a1', 'fig-alt':words} and code==' = 1'

@pytest.mark.parametrize('code,expected', [('import a\nfrom b import c', True), ('#| export\nimport a', True), ('import a\na.x()', False), ('x = 1', False),
    ('%matplotlib inline\nimport a', False), ('', False), ('# only words', False)])
def test_only_imports(code, expected): assert pages.only_imports(code) is expected

def test_a_notebook_keeps_what_follows_its_title():
    nb = pages.notebook(dict(cells=[cell('code', '#| default_exp x'), cell('markdown', '# A title\n\n> A line: of it\n\nWords.\n\n- one'), cell('code', 'import a'), cell('code', 'a.b()')]))
    front_,rest,imports,code = nb['cells']
    assert yaml.safe_load(front_['source'].strip('-\n'))==dict(title='A title', description='A line: of it')
    assert rest['source']=='Words.\n\n- one' and 'code-fold: true' in imports['source'] and 'fold' not in code['source']
    with pytest.raises(ValueError, match='opens with a title'): pages.notebook(dict(cells=[cell('markdown', 'no title')]))

def test_every_notebook_has_a_title_for_its_page():
    for o in (root/'nbs').rglob('*.ipynb'):
        cells = json.loads(o.read_text(encoding='utf-8'))['cells']
        title,line,_ = pages.titled(pages.source(next(x for x in cells if x['cell_type']=='markdown')))
        assert title and '\n' not in title+line, o.name

def test_options_are_yaml_in_the_notebooks_too():
    "Quarto stops at an option that is none: words with a colon in them stand in quotes"
    for o in (root/'nbs').rglob('*.ipynb'):
        for c in json.loads(o.read_text(encoding='utf-8'))['cells']:
            for line in pages.source(c).split('\n') if c['cell_type']=='code' else []:
                if line.startswith('#|') and ':' in line: assert not isinstance(list(yaml.safe_load(line[2:]).values())[0], dict), (o.name, line)

def test_nbdev_can_name_all_that_is_exported():
    "`nbdev-proc-nbs` asks for what a method is added to by its name: a union of classes has names, a tuple of them has none"
    from collab_notes._modidx import d
    names = [k for o in d['syms'].values() for k in o]
    assert len(names)>500 and all(o.replace('.', '').replace('_', 'a').isalnum() for o in names)

# links

@pytest.fixture
def stage(tmp_path):
    for o in ('nbs/00_a.ipynb','nbs/library/b.ipynb','benchmarks/README.md','benchmarks/results/r.md','benchmarks/results/r.png','benchmarks/run.py','.ci/run','nbs/index.ipynb'):
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).write_text('# words', encoding='utf-8')
    return pages.Stage(tmp_path, tmp_path/'site')

@pytest.mark.parametrize('page,href,expected', [
    ('nbs/index.ipynb', '00_a.ipynb', '/00_a.ipynb'), ('nbs/index.ipynb', 'library/b.ipynb#there', '/library/b.ipynb#there'), ('nbs/library/b.ipynb', '../index.ipynb', '/overview.ipynb'),
    ('nbs/index.ipynb', '../benchmarks/README.md', '/benchmarks/index.md'), ('benchmarks/README.md', 'run.py', '/benchmarks/run.py.md'), ('nbs/index.ipynb', '../.ci/run', '/ci/run.md'),
    ('benchmarks/results/r.md', 'r.png', '/benchmarks/results/r.png'), ('nbs/index.ipynb', '#below', '#below'), ('nbs/index.ipynb', 'https://a.b/c.md', 'https://a.b/c.md')])
def test_a_link_leads_to_the_page_of_a_file(stage, page, href, expected): assert stage.linked(href, page)==expected

@pytest.mark.parametrize('href', ['none.ipynb', '../benchmarks', '../../etc', 'library/c.ipynb#there'])
def test_a_link_to_nothing_stops_the_build(stage, href):
    with pytest.raises(pages.BrokenLink, match='index.ipynb: '): stage.text(f'[x]({href})', 'nbs/index.ipynb')

def test_code_is_no_link(stage):
    for o in '`[x](none.md)`', '```py\n[x](none.md)\n```', '~~~\n[x](none.md)\n~~~', '````\n```\n[x](none.md)\n````': assert stage.text(f'a\n\n{o}\n\nb', 'nbs/index.ipynb')==f'a\n\n{o}\n\nb'
    assert stage.text('`a` [x](00_a.ipynb "title") `b`', 'nbs/index.ipynb')=='`a` [x](/00_a.ipynb "title") `b`'
    assert stage.text('[![On Colab](https://x.y/badge.svg)](https://x.y)', 'nbs/index.ipynb')=='[On Colab](https://x.y)'

def test_what_is_linked_becomes_part_of_the_site(stage):
    stage.root.joinpath('benchmarks/README.md').write_text('[r](results/r.md) [c](run.py)')
    stage.root.joinpath('benchmarks/results/r.md').write_text('![words](r.png)')
    stage.add('benchmarks/README.md')
    stage.run('unused')
    assert sorted(o.relative_to(stage.folder).as_posix() for o in stage.folder.rglob('*.*'))==['benchmarks/index.md','benchmarks/results/r.md','benchmarks/results/r.png','benchmarks/run.py.md']
    assert '# words' in (stage.folder/'benchmarks/run.py.md').read_text() and 'python' in (stage.folder/'benchmarks/run.py.md').read_text()

# the plan and the front

def test_what_is_wrong_ends_the_build(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(website, 'build', lambda out, url=None: ['index.html: no such page: x'])
    with pytest.raises(SystemExit, match='1 things'): website.main(['--out', str(tmp_path)])
    assert 'no such page: x' in capsys.readouterr().err

def test_every_notebook_stands_in_the_plan(): website.check_plan(website.plan())

def test_the_plan_must_not_forget_a_notebook():
    cfg = website.plan()
    forgotten = cfg['website']['sidebar']['contents'][-1]['contents'][0]['contents'].pop()
    with pytest.raises(SystemExit, match=forgotten): website.check_plan(cfg)

def test_front_page_says_what_was_measured():
    rows = front.best(root)
    runs = json.loads((root/'benchmarks/results/frontier.json').read_text())['runs']
    for name,seconds,rmse in rows: assert any(abs(o['rmse']-rmse)<.02 for o in runs)
    assert rows==sorted(rows, key=lambda o: o[2]) and rows[0][0].startswith('**') and len(rows)==len(front.OURS)+len(front.PEERS)
    assert all('venv' in o for o in front.commands(root))
    png,words = front.picture(root, *front.MAP)
    assert png.startswith(b'\x89PNG') and words.startswith('A map of films')
    with pytest.raises(ValueError, match='0 pictures'): front.picture(root, front.MAP[0], 'no such words')

# what is wrong with a site

def site(folder, **files):
    for k,v in files.items(): (folder/k.replace('__', '/').replace('_', '.')).parent.mkdir(exist_ok=True); (folder/k.replace('__', '/').replace('_', '.')).write_text(v)
    return check.problems(folder)

def test_nothing_is_wrong(tmp_path):
    assert site(tmp_path, index_html='<a href="b/c.html#x">c</a><a href="#y">y</a><p id="y"><a href="b/">b</a><a href="https://a.b/c">out</a><img src="p.png" alt="words">',
                b__c_html='<link rel="stylesheet" href="../s.css"><h2 id="x"></h2><a href="../index.html?q=1#y">', b__index_html='', p_png='', s_css='a{background:url(p.png)}')==[]

@pytest.mark.parametrize('html,said', [('<a href="b.html">', 'no such page: b.html'), ('<a href="#z">', 'no such place on the page: #z'), ('<a href="../index.html">', 'no such page'),
    ('<img src="p.png" alt="">', 'without words: p.png'), ('<img alt="words" src="q.png">', 'no such page: q.png'), ('<script src="https://a.b/c.js"></script>', 'loads https://a.b/c.js'),
    ('<link rel="stylesheet" href="//a.b/c.css">', 'loads //a.b/c.css'), ('<iframe src="http://a.b"></iframe>', 'loads http://a.b'), ('<style>@import "https://a.b/f.css";</style>', 'loads https://a.b/f.css'),
    ('<p style="background:url(https://a.b/c.png)">', 'loads https://a.b/c.png'), ('<svg></svg>', 'without words: svg')])
def test_what_is_wrong(tmp_path, html, said):
    found = site(tmp_path, index_html=html, p_png='')
    assert len(found)==1 and said in found[0] and found[0].startswith('index.html: ')

def test_styles_load_nothing_from_elsewhere(tmp_path):
    assert 's.css: loads https://a.b/f' in site(tmp_path, index_html='', s_css='@import url(https://a.b/f);')[0]
    assert 's.css: no such file: f.woff' in site(tmp_path, index_html='', s_css='@font-face{src:url("f.woff")}')[0]

# what needs smalldocs, which is installed where the site is built

def made_with_smalldocs(name):
    if os.environ.get('COLLAB_NOTES_BROWSER'): return importlib.import_module(name)
    return pytest.importorskip(name, reason='the extra `docs` is not installed')

def test_finished(tmp_path):
    finish = made_with_smalldocs('finish')
    data = base64.b64encode(b'dots').decode()
    html = finish.finished(f'<script src="{finish.layout.KATEX}/katex.min.js"></script><img alt="a" src="data:image/png;base64,{data}"><svg alt="b">', '../', tmp_path)
    file, = (tmp_path/'img').iterdir()
    assert html==f'<script src="../site_libs/katex/katex.min.js"></script><img alt="a" loading="lazy" src="../img/{file.name}"><svg role="img" aria-label="b">' and file.read_bytes()==b'dots'
    assert '<base href="/notes/">' in finish.rooted('<head>', 'https://a.b/notes/') and '<base href="/">' in finish.rooted('<head>', None)

def test_a_copy_for_machines():
    finish = made_with_smalldocs('finish')
    md = '<div class="a">\n\n## x {#x}\n\n[[source](/01_a.ipynb#c-1)]{.source-link}\n\n</div>\n[`b`](/api/b.qmd) ![p](/p.png)\n<style>\nx\n</style>\n```\n[x](/01_a.ipynb) <div>\n```\n'
    assert finish.for_machines(md, '../')=='## x\n\n[source](../01_a.llms.md#c-1)\n\n[`b`](../api/b.llms.md) ![p](../p.png)\n\n```\n[x](/01_a.ipynb) <div>\n```\n'
    shown = finish.plain_output(lambda out, *args: sorted(out['data']))
    assert shown(dict(data={'text/html':'<table>', 'text/plain':'a b'}))==['text/plain'] and shown(dict(data={'text/html':'<table>', 'text/plain':['<IPython.HTML>']}))==['text/html','text/plain']

def test_a_definition_leads_to_its_cell():
    reference = made_with_smalldocs('reference')
    from collab_notes import interpret, lists, ridge
    import collab_notes.explain   # adds methods to the models of others
    nb,id = reference.origin(lists.recommend)
    assert nb=='07_lists.ipynb' and 'def recommend' in next(pages.source(o) for o in json.loads((root/'nbs'/nb).read_text())['cells'] if o['id']==id)
    assert reference.origin(ridge.ItemRidge.reasons)[0]=='11_reasons.ipynb'   # a method that another notebook has added
    assert reference.origin(json.dumps) is None and reference.home_of(interpret)=='04_interpretation.ipynb'
    md = reference.with_sources('---\ntitle: x\n---\n\n## recommend {#recommend}\n\n| `users` | None | `None` | |\n', lists, 'https://github.com/a/b')
    assert f'[source](/{nb}#c-{id}) · [on GitHub](https://github.com/a/b/blob/main/collab_notes/lists.py#L' in md and '| `users` |  | `None`' in md and 'notebook [`07_lists.ipynb`](/07_lists.ipynb)' in md
