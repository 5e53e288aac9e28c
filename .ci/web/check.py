"""What is wrong with a built site: links and anchors that lead nowhere, what is loaded from elsewhere, pictures without words."""
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {'script':'src', 'img':'src', 'iframe':'src', 'source':'src', 'video':'src', 'audio':'src', 'embed':'src', 'object':'data'}
_css = re.compile(r'url\(\s*["\']?(?!data:|#)([^"\')]+)|@import\s+["\']([^"\']+)')

class Tags(HTMLParser):
    "The ids of a page, where its links lead, what it loads, its pictures without `alt`, its styles"
    def __init__(self, text):
        super().__init__()
        self.ids,self.links,self.loads,self.silent,self.css,self._style = set(),[],[],[],[],False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id','name') if a.get(k)}
        if tag in ('a','area') and a.get('href') is not None: self.links.append(a['href'])
        if tag=='link' and a.get('href'): self.loads.append(a['href'])
        if a.get(LOADS.get(tag, '')): self.loads.append(a[LOADS[tag]])
        if a.get('style'): self.css.append(a['style'])
        if tag=='img' and not (a.get('alt') or '').strip(): self.silent.append((a.get('src') or '')[:60])
        if tag=='svg' and not (a.get('aria-label') or a.get('aria-hidden')): self.silent.append('svg')
        self._style = tag=='style'

    def handle_endtag(self, tag): self._style = False
    def handle_data(self, data):
        if self._style: self.css.append(data)

def elsewhere(url): return bool(re.match(r'(?!data:|blob:|mailto:)[a-z][a-z0-9+.-]*:|//', url, re.I))

def target(out, page, href):
    "The file to which `href` of `page` leads, and the anchor in it"
    o = urlsplit(href)
    if not o.path: return page, unquote(o.fragment)
    to = (out/unquote(o.path).lstrip('/')) if o.path.startswith('/') else (page.parent/unquote(o.path))
    to = to.resolve()
    return (to/'index.html' if to.is_dir() else to), unquote(o.fragment)

def problems(out):
    "One line for each thing that is wrong with the site in the folder `out`"
    out,found = Path(out).resolve(),[]
    pages = {o:Tags(o.read_text(encoding='utf-8')) for o in sorted(out.rglob('*.html'))}
    for page,tags in pages.items():
        name = page.relative_to(out).as_posix()
        found += [f'{name}: a picture without words: {o}' for o in tags.silent]
        found += [f'{name}: loads {o}' for o in tags.loads if elsewhere(o)]
        for href in tags.links+[o for o in tags.loads if not o.startswith('data:')]:
            if elsewhere(href) or href.startswith(('mailto:','javascript:')): continue
            to,anchor = target(out, page, href)
            if out not in to.parents or not to.is_file(): found.append(f'{name}: no such page: {href}')
            elif anchor and to in pages and anchor not in pages[to].ids: found.append(f'{name}: no such place on the page: {href}')
    css = [(f'{p.relative_to(out)}: style', p, o) for p,t in pages.items() for o in t.css]
    css += [(str(o.relative_to(out)), o, o.read_text(encoding='utf-8')) for o in sorted(out.rglob('*.css'))]
    for name,file,text in css:
        for o in (a or b for a,b in _css.findall(text)):
            if elsewhere(o): found.append(f'{name}: loads {o}')
            elif not target(out, file, o)[0].is_file(): found.append(f'{name}: no such file: {o}')
    return found
