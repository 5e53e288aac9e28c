"""The pages of the modules: smalldocs writes them from docments; each definition gets a link to the cell that it is made in."""
import inspect, json, re
from pathlib import Path

from smalldocs import api

PACKAGE = 'collab_notes'
_no_type = re.compile(r'^(\| `\*{0,2}\w+` \| )None(?= \| `None`)')   # the type of a default is no type
_cell = re.compile(r'^# %% \.\./nbs/(\S+\.ipynb) #(\w+)', re.M)

def origin(obj):
    "The notebook and the cell in which a function or class is defined, from the marks that nbdev leaves in a module; else `None`"
    try: file,line = inspect.getsourcefile(obj),inspect.getsourcelines(obj)[1]
    except (OSError,TypeError): return None
    before = Path(file).read_text(encoding='utf-8').split('\n')[:line]
    found = _cell.findall('\n'.join(before))
    return found[-1] if found and PACKAGE in Path(file).parts else None

def definitions(mod):
    "Name → object of all that the page of a module describes"
    tops = {o.__qualname__:o for o in api.own(mod)}
    return tops | {m.__qualname__:m for o in tops.values() if inspect.isclass(o) for m in api.methods(o)}

def home_of(mod):
    "The notebook that a module is exported from"
    return m[1] if (m := re.search(r'File to edit: \.\./nbs/(\S+\.ipynb)', Path(mod.__file__).read_text(encoding='utf-8'))) else None

def source_link(obj, url):
    "Where a definition stands: the cell, and the line at the project's address if there is one"
    links = []
    if at := origin(obj): links.append(f'[source](/{at[0]}#c-{at[1]})')
    if url: links.append(f'[on GitHub]({url}/blob/main/{PACKAGE}/{Path(inspect.getsourcefile(obj)).name}#L{api.line_of(obj)})')
    return f'[{" · ".join(links)}]{{.source-link}}' if links else ''

def with_sources(md, mod, url=None):
    "The page of a module with a link under each heading"
    found,out = definitions(mod),[]
    for line in md.split('\n'):
        out.append(_no_type.sub(r'\1', line))
        if (m := re.fullmatch(r'#{2,3} .*\{#(\S+)\}', line)) and m[1] in found: out += ['', source_link(found[m[1]], url)]
    if nb := home_of(mod): out = '\n'.join(out).split('\n---\n', 1); out = [f'{out[0]}\n---\n\nMade in the notebook [`{nb}`](/{nb}).\n{out[1]}']
    return '\n'.join(out)

def index(mods):
    "The page that lists the modules"
    rows = [f'| [`{o.__name__.split(".")[1]}`](/api/{o.__name__.split(".")[1]}.qmd) | {api.summary(o)} | {", ".join(f"`{x.__name__}`" for x in api.own(o))} |' for o in mods]
    head = '---\ntitle: The modules\ndescription: What each module of the library offers, from its signatures and the comments beside its parameters\n---\n\n'
    return head + 'Import what you need: `from collab_notes.training import fit`.\n\n| module | | what it defines |\n|---|---|---|\n' + '\n'.join(rows) + '\n'

def write(stage, root, url=None):
    "Write `api/NAME.qmd` of each module, `api/index.md` and the index of names, by which names in backticks become links"
    api.build(api.Settings(stage, [PACKAGE], 'api', root))
    mods = api.package_modules(PACKAGE)
    for o in mods:
        f = stage/'api'/f'{o.__name__.split(".")[1]}.qmd'
        f.write_text(with_sources(f.read_text(encoding='utf-8'), o, url), encoding='utf-8')
    (stage/'api/index.md').write_text(index(mods), encoding='utf-8')
    symbols = stage/'_symbols.json'
    lessons = {o.stem:f'/{o.name}' for o in stage.glob('[0-9][0-9]_*.ipynb')}
    symbols.write_text(json.dumps(lessons | json.loads(symbols.read_text(encoding='utf-8'))), encoding='utf-8')
    return [o.__name__.split('.')[1] for o in mods]
