"""Writes README.md from nbs/index.ipynb:  python .ci/readme.py [--check]

`nbdev-readme` does this with Quarto. Here nbdev's own processors read the directives (`#| hide`, `#| export`, `#| echo: false` …) and
the markdown is put together below, so no Quarto binary is needed and a run takes a second. It stands in `.ci` since only someone
who changes the notebooks needs it: it is no part of the library, and nothing at the top level has to make room for it.

What becomes of a cell: markdown stays as it is, with relative links leading from the repository's top level; code goes into a fence; of
what a cell has put out, markdown stays markdown, anything else becomes text, and pictures are left out (they would have to be files).
"""
import argparse, difflib, posixpath, re, sys
from pathlib import Path

from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import (ai_magics, clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_export, rm_header_dash,
                              strip_ansi)

procs = [populate_language, strip_ansi, hide_line, filter_stream_, rm_header_dash, rm_export, ai_magics, clean_magics, hide_]
note = '<!-- Written by .ci/readme.py from nbs/index.ipynb: change the notebook, not this file. -->'
_re_link = re.compile(r'''(\]\(|^\s*\[[^\]]+\]:\s*|\b(?:href|src)=["'])([^\s)"'>]+)''')

def _text(o): return o if isinstance(o, str) else ''.join(o)

def fence(s, lang=''):
    "`s` in a code fence, one longer than any fence within it."
    s = s.strip('\n')
    ticks = '`' * max([3, *(len(o)+1 for o in re.findall(r'`{3,}', s))])
    return f'{ticks}{lang}\n{s}\n{ticks}' if s.strip() else ''

def relink(md, folder):
    "`md` with the relative links that held in `folder` leading from the top level."
    def _link(m):
        pre,target = m.groups()
        if re.match(r'[a-z][a-z0-9+.-]*:|/|#', target, re.I): return m[0]
        return pre + posixpath.normpath(posixpath.join(folder, target))
    lines,fenced = md.splitlines(),None
    for i,l in enumerate(lines):
        m = re.match(r'\s*(`{3,}|~{3,})', l)
        if m and (fenced is None or m[1].startswith(fenced)): fenced = None if fenced else m[1]
        elif not fenced: lines[i] = _re_link.sub(_link, l)
    return '\n'.join(lines)

def output(o, cell, folder):
    "What stands in the README for one output of `cell`."
    kind = o['output_type']
    if kind == 'error': raise SystemExit(f'index.ipynb: a cell ended in an error:\n{cell.source}')
    if kind == 'stream':
        if o.get('name') == 'stderr': return ''
        txt = _text(o['text'])
        return relink(txt.strip(), folder) if cell.directives_.get('output') == 'asis' else fence(txt)
    data = o['data']
    if 'text/markdown' in data: return relink(_text(data['text/markdown']).strip(), folder)
    if any(k.startswith('image/') for k in data): return ''
    return fence(_text(data.get('text/plain', '')))

def render(cell, folder):
    "The pieces of the README that `cell` becomes."
    if cell.cell_type == 'markdown': return [relink(cell.source.strip(), folder)]
    if cell.cell_type != 'code': return []
    said = {k:(v or '').strip().lower() for k,v in cell.directives_.items()}
    if said.get('include') == 'false': return []
    res = [] if said.get('echo') == 'false' else [fence(cell.source, 'python')]
    return res if said.get('output') == 'false' else res + [output(o, cell, folder) for o in cell.get('outputs', [])]

def readme(nb, folder):
    "The text of the README that notebook `nb`, which lies in `folder`, describes."
    cells = NBProcessor(nb, procs, process=True).nb.cells
    first,*rest = [s for c in cells for s in render(c, folder) if s]
    return '\n\n'.join([first, note, *rest]) + '\n'

def main():
    p = argparse.ArgumentParser(description='Write README.md from nbs/index.ipynb.')
    p.add_argument('--check', action='store_true', help='write nothing; exit 1 if README.md is not what it should be')
    args = p.parse_args()
    cfg = get_config(Path(__file__).parent)
    dest,nb = cfg.config_path/'README.md',cfg.nbs_path/cfg.readme_nb
    if not nb.exists(): sys.exit(f'{nb.relative_to(cfg.config_path)} is not there')
    new = readme(nb, nb.parent.relative_to(cfg.config_path).as_posix())
    old = dest.read_text(encoding='utf-8') if dest.exists() else ''
    if not args.check: return dest.write_text(new, encoding='utf-8')
    if new == old: return
    sys.stderr.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), 'README.md', 'nbs/index.ipynb'))
    sys.exit('README.md is not what nbs/index.ipynb says: run `python .ci/readme.py`')

if __name__ == '__main__': main()
