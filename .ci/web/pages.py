"""Pages from what the repository holds: notebooks as nbdev has processed them, Markdown files, and the text files that these link to.

A page keeps its place: `benchmarks/results/lists.md` is `/benchmarks/results/lists.html` on the site, `nbs/library/core.ipynb` is
`/library/core.html`. Links are written from the root (`/library/core.ipynb`), and what a page links to becomes part of the site, too.
"""
import ast, json, posixpath, re
from pathlib import Path
from urllib.parse import unquote

import yaml

OVERVIEW = 'overview.ipynb'   # where `nbs/index.ipynb` goes: the site has a front of its own
MOVED = {'nbs/index.ipynb':OVERVIEW, 'benchmarks/README.md':'benchmarks/index.md', 'README.md':OVERVIEW}
PICTURES = '.png','.svg','.jpg','.gif'
LANGUAGE = {'.py':'python', '.toml':'toml', '.yml':'yaml', '.ini':'ini', '.txt':'text', '.sh':'bash'}

_link = re.compile(r'(?<=\]\()<?([^)\s>]+)>?(?=\)|\s+")')
_badge = re.compile(r'\[!\[([^\]]*)\]\(https?://[^)]*\)\](?=\()')   # a picture from elsewhere that is a link
_code = re.compile(r'(^ {0,3}(`{3,}|~{3,}).*?^ {0,3}\2`*~*[ \t]*$|`[^`\n]+`)', re.S|re.M)

def outside_code(md, f):
    "Markdown with `f` applied to all that is not code"
    parts = _code.split(md)   # text, code, its fence, text, …
    return ''.join(f(o) if i%3==0 else o for i,o in enumerate(parts) if i%3<2)

def home(repo_path):
    "Where on the site a file of the repository goes"
    if repo_path in MOVED: return MOVED[repo_path]
    if repo_path.startswith('nbs/'): return repo_path[4:]
    repo_path = repo_path.lstrip('.')   # smalldocs passes over what is hidden
    return repo_path if repo_path.endswith(('.md',*PICTURES)) else f'{repo_path}.md'

class BrokenLink(Exception): "A link to what is not in the repository"

class Stage:
    "A folder of pages for smalldocs, and what is still to be put into it"
    def __init__(self, root, folder): self.root,self.folder,self.done,self.todo = Path(root),Path(folder),set(),[]

    def linked(self, href, page):
        "`href`, as it stands in the file `page` of the repository, from the root of the site"
        path,tail = re.fullmatch(r'([^#?]*)(.*)', href, re.S).groups()
        if not path or re.match(r'[a-z][a-z0-9+.-]*:|//', path, re.I): return href
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(path)))
        if not (self.root/target).is_file(): raise BrokenLink(f'{page}: {href}')
        self.add(target)
        return f'/{home(target)}{tail}'

    def text(self, md, page):
        "Markdown with its links rewritten, code left alone; badges become plain links"
        def plain(s): return _link.sub(lambda m: self.linked(m[1], page), _badge.sub(r'[\1]', s))
        return outside_code(md, plain)

    def add(self, repo_path):
        "See to it that a file of the repository is on the site"
        if repo_path not in self.done: self.done.add(repo_path); self.todo.append(repo_path)

    def write(self, path, text):
        to = self.folder/path
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(text) if isinstance(text, bytes) else to.write_text(text, encoding='utf-8')

    def run(self, processed):
        "Write all that was added, and all that it links to; `processed` holds the notebooks as nbdev has processed them"
        while self.todo:
            o = self.todo.pop()
            if o.endswith('.ipynb'):
                nb = json.loads((Path(processed)/o[4:]).read_text(encoding='utf-8'))
                self.write(home(o), json.dumps(notebook(nb, lambda md: self.text(md, o))))
            elif o.endswith(PICTURES): self.write(home(o), (self.root/o).read_bytes())
            elif o.endswith('.md'): self.write(home(o), self.text((self.root/o).read_text(encoding='utf-8'), o))
            else: self.write(home(o), listing(o, (self.root/o).read_text(encoding='utf-8')))

def front_matter(**kw): return f'---\n{yaml.safe_dump(kw, allow_unicode=True, sort_keys=False)}---\n'

def listing(path, text):
    "A page that shows a text file"
    return f"{front_matter(title=path, toc=False)}\n`````{LANGUAGE.get(Path(path).suffix, 'bash')}\n{text.rstrip()}\n`````\n"

# notebooks

def source(cell): return ''.join(cell['source'])

def option(line):
    "Key and value of a `#|` line; a value that is no YAML, as words with a colon in them, is text, as nbdev takes it"
    k,_,v = line[2:].strip().partition(':')
    try: value = yaml.safe_load(v)
    except yaml.YAMLError: value = v.strip()
    return k.strip(), (v.strip() or None) if value is None or isinstance(value, dict) else value

def options(code):
    "The `#|` options of a cell, and its code"
    lines = code.split('\n')
    n = next((i for i,o in enumerate(lines) if not o.startswith('#|')), len(lines))
    return dict(option(o) for o in lines[:n]), '\n'.join(lines[n:])

def only_imports(code):
    "Does the cell import, and nothing else?"
    try: body = ast.parse(code).body
    except SyntaxError: return False   # a magic
    return bool(body) and all(isinstance(o, (ast.Import,ast.ImportFrom)) for o in body)

KEPT = 'echo','output','include','fig-alt','fig-cap','tbl-cap','code-fold','code-summary','column'

def code_cell(cell):
    "The cell with the options that a page knows, a label that stays the same when other cells come and go, and imports folded"
    opts,code = options(source(cell))
    opts = {k:v for k,v in opts.items() if k in KEPT}
    if only_imports(code): opts = {'code-fold':True, 'code-summary':'Imports'} | opts
    head = yaml.safe_dump({'label':f'c-{cell["id"]}', **opts}, allow_unicode=True, sort_keys=False, width=10**6)
    return ''.join(f'#| {o}\n' for o in head.splitlines()) + code

def titled(md):
    "Title and summary of a notebook's first cell, and the rest of it"
    m = re.match(r'# (.+)\n(?:\n> (.+)\n?)?', md+'\n')
    if not m: raise ValueError(f'a notebook opens with a title, not with {md[:40]!r}')
    return m[1].strip(), (m[2] or '').strip(), md[m.end():].strip('\n')

def notebook(nb, text=str):
    "A notebook as a page: `text` rewrites Markdown"
    first = next(i for i,o in enumerate(nb['cells']) if o['cell_type']=='markdown')
    title,description,rest = titled(source(nb['cells'][first]))
    cells = [dict(cell_type='raw', metadata={}, source=front_matter(title=title, **(dict(description=description) if description else {})))]
    if rest: cells.append(dict(cell_type='markdown', metadata={}, source=text(rest)))
    for o in nb['cells'][:first]+nb['cells'][first+1:]:
        if o['cell_type']=='markdown': o = o | dict(source=text(source(o)))
        elif o['cell_type']=='code':
            o = o | dict(source=code_cell(o), outputs=[shown(x, text) for x in o.get('outputs', [])])
            if not options(o['source'])[1].strip() and not o['outputs']: continue
        cells.append(o)
    return nb | dict(cells=cells)

def shown(out, text):
    "An output, its Markdown rewritten"
    md = out.get('data', {}).get('text/markdown')
    return out if md is None else out | dict(data=out['data'] | {'text/markdown':text(''.join(md))})
