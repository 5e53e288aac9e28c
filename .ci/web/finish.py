"""What smalldocs leaves to do: KaTeX from the site itself, pictures in files of their own, a picture's words where a screen reader finds them."""
import base64, hashlib, re, shutil, subprocess, tarfile
from pathlib import Path
from urllib.parse import urlsplit

from smalldocs import layout, llms

import pages

KATEX = '0.19.1'
_inline = re.compile(r'src="data:image/(png|jpeg|gif|svg\+xml);base64,([^"]+)"')

def katex(cache):
    "The folder of KaTeX's npm package, fetched by npm where it is not in the folder `cache` yet"
    to = Path(cache)/f'katex-{KATEX}'
    if not to.exists():
        if not shutil.which('npm'): raise FileNotFoundError('npm, which fetches KaTeX: install Node.js, or unpack the package katex into ' + str(to))
        to.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(['npm','pack','--silent',f'katex@{KATEX}'], cwd=to.parent, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(to.parent/f'katex-{KATEX}.tgz') as t: t.extractall(to.parent/'unpacked', filter='data')
        (to.parent/'unpacked/package').rename(to)
    return to

def put_katex(package, to):
    "Scripts, styles and those fonts that every browser takes, woff2"
    dist,to = Path(package)/'dist',Path(to)
    (to/'fonts').mkdir(parents=True); (to/'contrib').mkdir()
    for o in dist.glob('fonts/*.woff2'): shutil.copy(o, to/'fonts')
    for o in 'katex.min.js','contrib/auto-render.min.js': shutil.copy(dist/o, to/o)
    shutil.copy(Path(package)/'LICENSE', to)
    css = (dist/'katex.min.css').read_text(encoding='utf-8')
    (to/'katex.min.css').write_text(re.sub(r',url\(fonts/[^)]+\.(?:woff|ttf)\) format\("[a-z]+"\)', '', css), encoding='utf-8')

def finished(html, offset, out):
    "The HTML of a page; its pictures are written into the folder `out`"
    def own_file(m):
        data = base64.b64decode(m[2])
        name = f'img/{hashlib.sha256(data).hexdigest()[:16]}.{m[1].split("+")[0].replace("jpeg", "jpg")}'
        (out/'img').mkdir(exist_ok=True)
        (out/name).write_bytes(data)
        return f'loading="lazy" src="{offset}{name}"'
    html = html.replace(layout.KATEX, f'{offset}site_libs/katex')
    html = re.sub(r'<svg alt=("[^"]*")', r'<svg role="img" aria-label=\1', html)
    return _inline.sub(own_file, html)

def plain_output(made=llms.output):
    "An output in a Markdown copy: its text, if it says anything; HTML only for the sake of a table"
    def output(out, *args):
        data = out.get('data') or {}
        plain = ''.join(data.get('text/plain', ''))
        if plain and (not plain.startswith('<') or '<table' not in ''.join(data.get('text/html', ''))): out = out | dict(data={k:v for k,v in data.items() if k!='text/html'})
        return made(out, *args)
    return output
llms.output = plain_output()

def for_machines(md, up):
    "A Markdown copy in plain Markdown; `up` leads to the root of the site"
    def plain(s):
        s = re.sub(r'<(script|style)\b.*?</\1>', '', s, flags=re.S)
        s = re.sub(r'</?div[^>]*>\n*', '', s)
        s = re.sub(r'^(#+ .*?) *\{#[^}]*\}$', r'\1', s, flags=re.M)
        s = re.sub(r'^\[(.*)\]\{\.source-link\}$', r'\1', s, flags=re.M)
        s = re.sub(r'</?span[^>]*>', '', s)
        s = re.sub(r'\]\(/([^)\s#]+)\.(?:ipynb|qmd|md)(?=[)#])', rf']({up}\1.llms.md', s)
        return re.sub(r'\]\(/', f']({up}', s)
    title = md.split('\n', 1)[0]
    md = md[:len(title)]+md[len(title):].replace(f'\n{title}\n', '\n', 1)   # said once
    return pages.outside_code(md, plain)

def share_pictures(out):
    "Markdown copies take their pictures from where the pages do"
    for folder in [o for o in out.rglob('*_files') if o.is_dir()]:
        md = folder.with_name(folder.name.removesuffix('_files')+'.llms.md')
        text,up = md.read_text(encoding='utf-8'),'../'*(len(folder.relative_to(out).parts)-1)
        for o in folder.iterdir():
            name = f'img/{hashlib.sha256(o.read_bytes()).hexdigest()[:16]}{o.suffix}'
            if (out/name).exists(): text = text.replace(f'{folder.name}/{o.name}', up+name); o.unlink()
        md.write_text(text, encoding='utf-8')
        if not any(folder.iterdir()): folder.rmdir()

def rooted(html, url):
    "The page that stands for any that is missing, at whatever depth: its links start at the root of the site"
    return html.replace('<head>', f'<head><base href="{urlsplit(url or "").path.rstrip("/")}/">', 1)

def finish(out, cache, url=None):
    "Finish all pages of the site in the folder `out`, which will be at `url`"
    out = Path(out)
    put_katex(katex(cache), out/'site_libs/katex')
    for o in out.rglob('*.html'):
        offset = '../'*(len(o.relative_to(out).parts)-1)
        o.write_text(finished(o.read_text(encoding='utf-8'), offset, out), encoding='utf-8')
    o = out/'404.html'
    o.write_text(rooted(o.read_text(encoding='utf-8'), url), encoding='utf-8')
    share_pictures(out)
    for o in out.rglob('*.llms.md'):
        up = '../'*(len(o.relative_to(out).parts)-1)
        o.write_text(for_machines(o.read_text(encoding='utf-8'), up), encoding='utf-8')
