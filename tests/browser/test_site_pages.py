"""All pages of the built site, opened in Chromium: `python .ci/web/website.py && .ci/browser.sh && COLLAB_NOTES_BROWSER=1 pytest -n 0 tests/browser/test_site_pages.py`"""
import functools, http.server, re, threading
from pathlib import Path

import pytest

from tabs import NARROW, Tab, WIDE, chromium, lacking, lines

root = Path(__file__).resolve().parents[2]
out = root/'_site'

class Pages(http.server.SimpleHTTPRequestHandler):
    "Serves the site as GitHub does: what is missing is 404.html"
    def log_message(self, *args): pass
    def send_error(self, code, *args):
        if code!=404: return super().send_error(code, *args)
        body = (out/'404.html').read_bytes()
        self.send_response(404); self.send_header('Content-Type', 'text/html'); self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)

@pytest.fixture(scope='module')
def address():
    if not (out/'index.html').exists(): lacking('the site is not built: python .ci/web/website.py')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Pages, directory=out))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture
def tab(chromium, address):
    o = Tab(chromium, address)
    yield o
    o.page.context.close()
    assert o.wrong==[]

def all_pages(): return sorted(o.relative_to(out).as_posix() for o in out.rglob('*.html') if o.name!='404.html')

LOOK = """() => { const many = (q) => [...document.querySelectorAll(q)], d = document.documentElement, seen = (o) => o.checkVisibility();
  return {page: d.scrollWidth-d.clientWidth, code: many('pre.sourceCode, pre.sourceCode code').filter(seen).filter(o => o.scrollWidth>o.clientWidth+1).map(o => o.innerText.slice(0,60)),
    formulas: many('span.math').length, typeset: many('span.math .katex').length, bad: many('.katex-error').length,
    out: many('main *').filter(o => /^(PRE|TABLE|IMG|svg)$/.test(o.tagName) || [...o.childNodes].some(t => t.nodeType==3 && t.textContent.trim())).filter(o => !o.closest('pre.sourceCode, svg *, .katex-mathml') && seen(o)).filter(o => { let r = o.getBoundingClientRect(), p = o.parentElement;
      for (; p && p.tagName!='MAIN'; p = p.parentElement) if (/auto|scroll/.test(getComputedStyle(p).overflowX)) return false;
      return r.right>d.clientWidth+1 && !/auto|scroll/.test(getComputedStyle(o).overflowX) }).map(o => o.outerHTML.slice(0,80))} }"""

def test_every_page(chromium, address):
    "No error, nothing from elsewhere, formulas typeset; nothing that is wider than the window, and no line of code that scrolls at 1280 pixels"
    tab,found,formulas = Tab(chromium, address),{},0
    for name in all_pages():
        page,says = tab.go(name),[]
        for size in WIDE,NARROW:
            page.set_viewport_size(size)
            o = page.evaluate(LOOK)
            if o['page']>0: says.append(f"{size['width']}: the page scrolls by {o['page']}")
            if o['out']: says.append(f"{size['width']}: too wide: {o['out']}")
            if size is WIDE and o['code']: says.append(f"code scrolls: {o['code']}")
        if o['formulas']!=o['typeset'] or o['bad']: says.append(f"{o['typeset']} of {o['formulas']} formulas typeset, {o['bad']} wrong")
        formulas += o['formulas']
        says += tab.wrong; tab.wrong.clear()
        if says: found[name] = says
    assert not found, lines(found)
    assert formulas>100 and len(all_pages())>150

def test_pictures_are_there(tab):
    page = tab.go('04_interpretation.html')
    page.evaluate("document.querySelectorAll('img').forEach(o => o.loading = 'eager')")
    page.wait_for_function("[...document.images].every(o => o.complete)")
    assert page.evaluate("[...document.images].every(o => o.naturalWidth>50 && o.alt.length>10) && document.images.length>=4")

def test_hidden_cells_are_hidden_and_imports_folded(tab):
    for name in '01_latent_factors', '03_weight_decay', 'library/tables', 'overview':
        text = tab.go(f'{name}.html').inner_text('main')
        assert not any(o in text for o in ('start_lesson','filterwarnings','default_exp','NO_BAR','fig-alt:')), name
    page = tab.go('01_latent_factors.html')
    assert 'import numpy' not in page.inner_text('main')
    page.get_by_text('Imports').first.click()
    assert 'import numpy' in page.inner_text('main')
    assert page.get_by_text('def dot(').is_visible()          # a lesson shows what it defines
    assert page.get_by_text('After this lesson you can').is_visible()   # and what its first cell says below the title

def test_search_finds(tab):
    page = tab.go('index.html')
    page.fill('.smalldocs-search input', 'weight decay')
    page.wait_for_selector('.search-result')
    assert any('Weight decay' in o for o in page.locator('.search-result-title').all_inner_texts())
    page.locator('.search-result').first.click()
    page.wait_for_load_state()
    assert 'weight decay' in page.inner_text('main').lower()

def test_a_name_leads_to_its_module_and_on_to_its_cell(tab):
    page = tab.go('overview.html')
    page.goto(tab.address+'api/training.html#fit')
    assert page.locator('#fit').is_visible() and page.locator('#fit table').first.inner_text().startswith('Parameter')
    page.locator('#fit a', has_text='source').first.click()
    page.wait_for_load_state()
    assert '03_weight_decay.html#c-' in page.url and 'def fit(' in page.locator(page.url[page.url.index('#'):]).inner_text()

def test_doors(tab):
    page = tab.go('index.html')
    assert page.locator('.door').count()==3 and page.locator('.front pre').count()==2 and page.locator('.front tbody tr').count()>=8
    top = page.locator('.door').last.bounding_box()
    assert top['y']+top['height'] < WIDE['height']   # all of what it sells is seen without scrolling
    for name,h1 in ('Learn','Ratings'),('Use','collab_notes'),('Look up','modules'):
        page = tab.go('index.html')
        page.locator('.door', has_text=name).click()
        page.wait_for_load_state()
        assert h1 in page.inner_text('h1.title')

def test_on_a_phone_plan_and_search_open(chromium, address):
    tab = Tab(chromium, address, viewport=NARROW)
    page = tab.go('01_latent_factors.html')
    page.click('.quarto-btn-toggle')
    page.wait_for_selector('#quarto-sidebar.show')
    page.locator('#quarto-sidebar a', has_text='02 ').click()
    page.wait_for_load_state()
    assert '02_from_scratch' in page.url
    page.click('.navbar-toggler')
    page.locator('.smalldocs-search input').fill('weight decay')
    page.wait_for_selector('.search-result')
    assert tab.wrong==[]

def test_no_such_page(chromium, address):
    tab = Tab(chromium, address)
    page = tab.go('library/deeper/none.html')
    assert 'no such page' in page.inner_text('h1') and page.evaluate('getComputedStyle(document.querySelector(".navbar")).display')=='flex'
    assert [o for o in tab.wrong if '404' not in o]==[]
    page.get_by_role('link', name='the modules').click()
    page.wait_for_load_state()
    assert page.url==address+'api/index.html'

def test_dark_and_light_are_kept(chromium, address):
    tab = Tab(chromium, address, color_scheme='light')
    bright = lambda: tab.page.evaluate('getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0,3).map(Number).reduce((a,b) => a+b)/3')
    tab.go('01_latent_factors.html')
    assert bright() > 200
    tab.page.click('.quarto-color-scheme-toggle')
    tab.page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
    assert bright() < 60
    tab.go('api/lists.html')
    assert bright() < 60 and tab.wrong==[]

CONTRAST = """() => { const lum = (c) => { const f = c.map(v => (v/=255)<=.03928 ? v/12.92 : ((v+.055)/1.055)**2.4); return .2126*f[0]+.7152*f[1]+.0722*f[2] };
  const rgba = (s) => { let m = s.match(/[\\d.]+/g).map(Number); if (s.startsWith('color(')) m = m.map((v, i) => i<3 ? v*255 : v); return [m[0],m[1],m[2],m.length>3 ? m[3] : 1] };
  const over = (a, b) => [0,1,2].map(i => a[i]*a[3]+b[i]*(1-a[3]));
  const back = (e) => { const l = []; for (; e; e = e.parentElement) l.push(rgba(getComputedStyle(e).backgroundColor)); return l.reverse().reduce((b, a) => over(a, b), [255,255,255]) };
  const found = {};
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(o => o.nodeType==3 && o.textContent.trim());
    if (!own || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || e.closest('svg, .katex-mathml, [hidden], .visually-hidden')) continue;
    const s = getComputedStyle(e), b = back(e), c = over(rgba(s.color), b), [x, y] = [lum(c), lum(b)].sort((a, b) => b-a), size = parseFloat(s.fontSize);
    const need = size>=24 || (size>=18.66 && s.fontWeight>=600) ? 3 : 4.5, r = (x+.05)/(y+.05);
    if (r<need) found[`${e.tagName}.${e.className} ${s.color}`] = `${r.toFixed(2)} ${e.textContent.trim().slice(0,30)}`;
  }
  return found }"""

@pytest.mark.parametrize('scheme', ['light','dark'])
def test_words_can_be_read(chromium, address, scheme):
    "WCAG's contrast: 4.5 for text, 3 for large text"
    tab,found = Tab(chromium, address, color_scheme=scheme),{}
    for o in 'index','01_latent_factors','03_weight_decay','04_interpretation','09_bayes','overview','api/lists','api/index','library/tables','benchmarks/results/frontier','benchmarks/train.py','CHANGELOG','404':
        if less := tab.go(f'{o}.html').evaluate(CONTRAST): found[o] = less
    assert not found, lines(found)
    page = tab.go('01_latent_factors.html')
    page.add_style_tag(content='main p { color: #888 !important; background: #777 }')
    assert any(k.startswith('P.') for k in page.evaluate(CONTRAST))   # it would be seen

def test_a_line_of_code_has_room(tab):
    "100 characters, in one line, at 1280 pixels; a longer line is wrapped, and on a phone code scrolls in its own box"
    page = tab.go('library/tables.html')
    room = """() => { const c = document.querySelector('pre.sourceCode code'), p = getComputedStyle(c.parentElement), s = document.createElement('span');
      s.textContent = 'x'.repeat(100); s.style.whiteSpace = 'pre'; c.append(s); const w = s.getBoundingClientRect().width; s.remove();
      return [w, c.parentElement.clientWidth-parseFloat(p.paddingLeft)-parseFloat(p.paddingRight), p.whiteSpace] }"""
    w,has,space = page.evaluate(room)
    assert w <= has and w*.62/.602 <= has and space=='pre-wrap'   # letters of .62 em, the widest among the fonts, fit as well
    page.set_viewport_size(NARROW)
    assert page.evaluate(room)[2]=='pre'

# what moves

def moved(page, slider, value):
    "Move a slider as a hand does: the page hears of it"
    slider.evaluate("(o, v) => { o.value = v; o.dispatchEvent(new Event('input', {bubbles: true})) }", str(value))

def test_taste_sliders(tab):
    "The films are in the order of the dot products, whatever the taste, and say them"
    page = tab.go('01_latent_factors.html')
    widget = page.locator('.widget:has(table)')
    assert widget.count()==1 and len(widget.evaluate('o => o.outerHTML')) < 60_000
    sliders,number = widget.locator('input'),lambda o: float(o.replace('−', '-'))
    orders = set()
    for taste in (0.9,0.8,-0.6),(0,1,0),(0,0,1),(-1,0.5,-0.25),(0,0,0):
        for n,x in enumerate(taste): moved(page, sliders.nth(n), x)
        rows = [row.locator('th, td').all_inner_texts() for row in widget.locator('tbody tr').all()]
        dots = [sum(number(o)*x for o,x in zip(r[1:4], taste)) for r in rows]
        assert dots==sorted(dots, reverse=True) and all(abs(number(r[-1])-d)<.006 for r,d in zip(rows, dots))
        assert [number(o) for o in widget.locator('label output').all_inner_texts()]==[round(o, 2) for o in taste]
        orders.add(rows[0][0])
    assert len(rows)==6 and {'Terminator 2','Casablanca','The Last Skywalker'} <= orders

def test_decay_slider(tab):
    "The curve and the losses are those of the sweep, at each place of the slider"
    import numpy as np
    from collab_notes.widgets import DECAYS, decay_sweep
    rng = np.random.default_rng(24)
    x = rng.uniform(-1, 1, 60)
    y = np.sin(3*x) + rng.normal(0, 0.3, 60)
    sweep = decay_sweep((x[:15],y[:15]), (x[15:],y[15:]), DECAYS)
    page = tab.go('03_weight_decay.html')
    widget = page.locator('.widget:has(.curve)')
    assert widget.count()==1 and len(widget.evaluate('o => o.outerHTML')) < 60_000
    curves = set()
    for n in 0,10,int(sweep.valid.idxmin()),len(DECAYS)-1:
        moved(page, widget.locator('input'), n)
        words = widget.locator('output').inner_text()
        assert f'training loss {sweep.train[n]:.3f}' in words and f'validation loss {sweep.valid[n]:.3f}' in words
        curves.add(widget.locator('.curve').get_attribute('d'))
    assert len(curves)==4

def test_moving_points(tab):
    page = tab.go('01_latent_factors.html')
    widget = page.locator('[class^=moving]')
    at = lambda: widget.locator('.point').first.get_attribute('style')
    last = at()
    moved(page, widget.locator('input'), 0)
    assert at()!=last and widget.locator('output').inner_text().endswith(' 0')
    widget.locator('button').click()
    page.wait_for_function("document.querySelector('[class^=moving] input').value > 0")

def test_machines_find_words():
    "Each page is Markdown, too, without what only a browser needs, and its links lead somewhere"
    llms,broken = (out/'llms.txt').read_text(encoding='utf-8'),[]
    for o in all_pages(): assert o.replace('.html', '.llms.md') in llms, o
    for f in out.rglob('*.llms.md'):
        md = re.sub(r'^(`{3,}).*?^\1|`[^`\n]+`|^ {4}.*?$', '', f.read_text(encoding='utf-8'), flags=re.M|re.S)
        assert not re.search(r'<script|<style|</?div|\{#|\{\.', md), f.name
        for l in re.findall(r'\]\(([^)\s]+)\)', md):
            if not re.match(r'[a-z]+:|#', l) and not (f.parent/l.split('#')[0]).is_file(): broken.append((f.name, l))
    assert broken==[]
    md = (out/'03_weight_decay.llms.md').read_text(encoding='utf-8')
    assert md.startswith('# ') and 'def fit(' in md

def test_card_and_icon():
    assert (out/'card.png').read_bytes().startswith(b'\x89PNG') and (out/'favicon.svg').stat().st_size < 2000
    assert 'rel="icon"' in (out/'index.html').read_text(encoding='utf-8')
