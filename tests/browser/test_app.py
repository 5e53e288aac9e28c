"""The page of `collab-notes serve`, opened in Chromium: `.ci/browser.sh && COLLAB_NOTES_BROWSER=1 pytest -n 0 tests/browser/test_app.py`"""
import re, subprocess, sys
from pathlib import Path

import pytest

from conftest import ratings_of, surface_of
from tabs import NARROW, Tab, WIDE, chromium, lacking, lines
from visits import HOSTILE

AXE = Path(__file__).parent/'.axe/package/axe.min.js'
NAMES = [f'{a} {b} ({1960+k})' for k,(a,b) in enumerate((a, b) for a in ('Silent','Golden','Broken','Distant','Hidden','Burning') for b in ('River','Harbour','Letter','Garden','Winter'))]

def films(n=400, seed=0):
    "Ratings of films with names that can be typed"
    df = ratings_of(n, seed)
    return df.assign(item=[NAMES[int(o[1:])] for o in df['item']])

class Server:
    "`collab-notes serve` in a process of its own"
    def __init__(self, folder, *args, port=0):
        self.folder,self.args = folder,args
        with open(folder/'said.txt', 'a') as err:
            self.p = subprocess.Popen([sys.executable, '-m', 'collab_notes', 'serve', *map(str, args), '--port', str(port)], cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True)
        said = []
        for o in self.p.stdout:
            said.append(o)
            if m := re.search(r'(http://127\.0\.0\.1:(\d+)) ', o): break
        else: pytest.fail(f"{said}\n{(folder/'said.txt').read_text()}")
        self.url,self.port = m[1]+'/',int(m[2])
    def stop(self):
        self.p.kill()
        self.p.wait()
        self.p.stdout.close()

@pytest.fixture(scope='module')
def serve(tmp_path_factory):
    "Start a server with these models (and other arguments); it ends with the tests of this file"
    from collab_notes.files import save
    there = []
    def f(*models, args=(), facts=None):
        folder = tmp_path_factory.mktemp('served')
        names = [Path(save(m, folder/f'{k}.safetensors')).name for k,m in zip(('first','second'), models)]
        if facts is not None: facts.to_csv(folder/'facts.csv', index=False); args = (*args, '--facts', 'facts.csv')
        there.append(Server(folder, *names, *args))
        return there[-1]
    yield f
    for o in there: o.stop()

@pytest.fixture(scope='module')
def surface():
    from conftest import loaders_of
    from collab_notes.quick import fit_quick
    return fit_quick(loaders_of(films()))

@pytest.fixture(scope='module')
def server(serve, surface):
    import pandas as pd
    return serve(surface, facts=pd.DataFrame(dict(item=NAMES, year=range(1960, 1990), half=['first' if k<15 else 'second' for k in range(30)])))

@pytest.fixture
def open_tab(chromium):
    "Open a tab at a server; in the end nothing went wrong in any of them"
    tabs = []
    def f(server, **kw):
        tabs.append(Tab(chromium, server.url, **kw))
        tabs[-1].go('')
        return tabs[-1]
    yield f
    wrong = [o for t in tabs for o in t.wrong]
    for t in tabs: t.page.context.close()
    assert wrong==[]

# what a person does, and sees

def recommended(page): return page.locator('ol.picks .title').all_inner_texts()
def rated(page): return page.locator('#mine .title').all_inner_texts()
def says(page, text): page.locator('#status', has_text=text).wait_for()

def until(page, expression, arg=None):
    "Wait for something in the page; Playwright's own way is `eval`, which the page forbids"
    for _ in range(400):
        if page.evaluate(expression, arg): return
        page.wait_for_timeout(25)
    raise AssertionError(f'This never came: {expression}')

def look_for(page, text):
    page.locator('#q').fill('')
    page.locator('#q').press_sequentially(text)
    page.locator('#found .title', has_text=text).first.wait_for()

def click_star(page, text, n):
    "Find a film and rate it, by mouse"
    look_for(page, text)
    page.locator('#found li', has_text=text).first.locator('.stars button').nth(n-1).click()
    says(page, f'Rated {text}')

FIVE = [('Silent River', 5), ('Golden Garden', 4), ('Hidden Letter', 1), ('Burning Winter', 2), ('Broken Harbour', 5)]

def test_rate_five_by_click(open_tab, server):
    page = open_tab(server).page
    assert 'best guess for anybody' in page.inner_text('.see')
    lists = [recommended(page)]
    for name,y in FIVE:
        click_star(page, name, y)
        lists.append(recommended(page))
    assert lists[-1]!=lists[0] and len({*map(tuple, lists)})>=4 and 'moved by' in page.inner_text('.see') and 'best guess' not in page.inner_text('.see')
    assert [o[:-7] for o in rated(page)]==[o for o,_ in FIVE[::-1]] and not {*rated(page)} & {*lists[-1]}
    assert page.locator('#you').count()==1 and 'Near you' in page.inner_text('#map')
    top = lists[-1][0]
    page.locator('ol.picks li').first.get_by_role('button', name=f'Not interested in {top}').click()
    says(page, 'is shown no more')
    assert top not in recommended(page)
    page.get_by_role('button', name='Undo').click()
    says(page, 'Undone')
    assert recommended(page)==lists[-1]
    page.get_by_role('button', name='Undo').click()
    page.locator('#mine h3', has_text='You have rated 4').wait_for()
    assert recommended(page)==lists[-2]
    before = rated(page)
    page.reload()
    assert rated(page)==before and recommended(page)==lists[-2]   # kept
    page.get_by_role('button', name='Clear all').click()
    says(page, 'All cleared')
    assert recommended(page)==lists[0] and rated(page)==[] and page.get_by_role('button', name='Undo').is_disabled()

def tab_to(page, name, most=200):
    "Press Tab until a button, link or field of this name has the focus"
    for _ in range(most):
        page.keyboard.press('Tab')
        if re.search(name, page.evaluate("(o => o.getAttribute('aria-label') || (o.matches('input, select') ? o.name : o.innerText))(document.activeElement)")): return
    raise AssertionError(f'Tab does not come to {name}')

def test_keyboard_alone_is_enough(open_tab, server):
    page = open_tab(server).page
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.innerText')=='Skip to the page'
    first = recommended(page)
    for name,y in FIVE:
        page.keyboard.press('/')
        page.keyboard.type(name)
        page.locator('#found .title', has_text=name).first.wait_for()
        page.keyboard.press('ArrowDown')
        page.keyboard.press(str(y))
        says(page, f'Rated {name}')
        until(page, "document.activeElement.closest('#found')")   # where it was
    assert [o[:-7] for o in rated(page)]==[o for o,_ in FIVE[::-1]] and recommended(page)!=first
    last = re.search(r'Rated (.*\)): \d', page.inner_text('#status'))[1]
    page.keyboard.press('ArrowLeft')    # from one step to the one before
    page.keyboard.press('Enter')
    says(page, f'Rated {last}: {FIVE[-1][1]-1}')
    until(page, "document.activeElement.closest('#found')")
    page.keyboard.press('ArrowRight')
    page.keyboard.press('Enter')
    says(page, f'Rated {last}: {FIVE[-1][1]}')
    top = recommended(page)[0]
    tab_to(page, 'Not interested in '+re.escape(top))
    page.keyboard.press('Enter')
    says(page, 'is shown no more')
    until(page, "document.activeElement.closest('.list')")
    tab_to(page, '^Filter$')
    page.keyboard.press('Enter')
    tab_to(page, 'circle')
    page.keyboard.press('ArrowDown')
    page.wait_for_url('**circle=famous*')
    tab_to(page, '^Undo$')
    page.keyboard.press('Space')
    says(page, 'Undone')
    tab_to(page, '^Clear all$')
    page.keyboard.press('Space')
    says(page, 'All cleared')

def test_typos_are_forgiven(open_tab, server):
    page = open_tab(server).page
    for typed,meant in ('buring wintr','Burning Winter'),('GARDN hiden','Hidden Garden'),('harbor dist','Distant Harbour'):
        page.locator('#q').fill(typed)
        until(page, "t => document.querySelector('#found .title')?.innerText.startsWith(t)", meant)
    page.locator('#q').fill('zzzqqq')
    page.locator('#found', has_text='Nothing is called so').wait_for()

def test_visitors_are_apart_and_tabs_the_same(open_tab, server):
    a,b = (open_tab(server) for _ in range(2))
    click_star(a.page, *FIVE[0])
    click_star(b.page, *FIVE[2])
    other = a.page.context.new_page()
    other.goto(server.url)
    assert [len(rated(o)) for o in (a.page, b.page, other)]==[1,1,1] and rated(a.page)==rated(other)!=rated(b.page)
    click_star(other, *FIVE[1])
    click_star(a.page, *FIVE[3])          # this tab was opened before
    assert len(rated(a.page))==3
    for o in a.page,b.page: o.get_by_role('button', name='Forget me').click(); o.locator('#mine', has_text='Nothing yet').wait_for()
    other.reload()
    assert rated(other)==[]

def test_filters(open_tab, server):
    page = open_tab(server).page
    before,year = recommended(page),lambda o: int(o[-5:-1])
    page.get_by_text('Filter', exact=True).first.click()
    page.get_by_label('half').select_option('first')
    until(page, "[...document.querySelectorAll('ol.picks .title')].every(o => +o.innerText.slice(-5,-1) < 1975)")
    assert recommended(page)!=before and 'is1=first' in page.url
    page.get_by_label('year from').fill('1970')
    page.get_by_label('year from').press('Tab')
    until(page, "[...document.querySelectorAll('ol.picks .title')].every(o => +o.innerText.slice(-5,-1) >= 1970)")
    assert all(1970<=year(o)<1975 for o in recommended(page)) and len(recommended(page))==5
    click_star(page, *FIVE[0])                                  # it stays filtered
    assert {year(o) for o in recommended(page)} <= {*range(1970, 1975)}
    page.reload()
    assert {year(o) for o in recommended(page)} <= {*range(1970, 1975)} and page.get_by_label('half').input_value()=='first'
    page.go_back()
    page.locator('ol.picks li').nth(9).wait_for()
    page.get_by_role('button', name='Clear all').click()

def test_without_javascript(open_tab, server):
    page = open_tab(server, java_script_enabled=False).page
    first = recommended(page)
    for name,y in FIVE:
        page.locator('#q').fill(name.replace('e', ''))          # typos forgiven, too
        page.locator('#q').press('Enter')
        page.locator('#found li', has_text=name).locator('.stars button').nth(y-1).click()
        assert rated(page)[0].startswith(name) and page.locator('#q').input_value()
    page.goto(server.url)
    lists = recommended(page)
    assert len(rated(page))==5 and lists!=first and 'moved by' in page.inner_text('.see')
    page.get_by_role('button', name=f'Not interested in {lists[0]}').click()
    assert lists[0] not in recommended(page)
    page.get_by_role('button', name='Undo').click()
    assert recommended(page)==lists
    page.get_by_role('button', name=f'Take back {rated(page)[0]}').click()
    assert len(rated(page))==4
    page.get_by_text('Filter', exact=True).first.click()
    page.get_by_label('half').select_option('second')
    page.get_by_role('button', name='Filter').click()
    assert all(int(o[-5:-1])>=1975 for o in recommended(page))
    page.locator('#asked .stars button').nth(3).click()
    assert len(rated(page))==5 and all(int(o[-5:-1])>=1975 for o in recommended(page))
    page.locator('ol.picks .title').first.click()
    title = page.inner_text('h1')
    page.locator('.stars button').nth(1).click()                # and back to the page of the item
    assert page.inner_text('h1')==title and page.locator('.stars button[aria-pressed=true]').count()==1
    page.get_by_role('link', name='Look up').click()
    page.get_by_role('textbox').fill('3')
    page.get_by_role('button', name='Show').click()
    assert 'Recommended to 3' in page.inner_text('main')
    page.get_by_role('link', name='Rate and see').click()
    assert title in rated(page)
    with page.expect_download() as d: page.get_by_role('link', name='Export').click()
    assert len(Path(d.value.path()).read_text().splitlines())==7
    page.get_by_role('button', name='Clear all').click()
    assert rated(page)==[] and recommended(page)==first
    was = page.context.cookies()[0]['value']
    page.get_by_role('button', name='Forget me').click()
    assert page.context.cookies()[0]['value']!=was and rated(page)==[]

def test_numbers(open_tab, serve):
    "A scale of many steps is typed, by those who have JavaScript, and by those who have not"
    from conftest import loaders_of
    from collab_notes.quick import fit_quick
    df = films()
    df['rating'] = df.rating*20-df.user
    s = serve(fit_quick(loaders_of(df)))
    for js in True,False:
        page = open_tab(s, java_script_enabled=js).page
        field = page.locator('#asked input[type=number]')
        field.nth(0).fill('90')
        field.nth(1).fill('12.5')
        field.nth(1).press('Enter')                              # all that is filled in
        page.locator('#mine h3', has_text='You have rated 2').wait_for()
        assert sorted(float(o) for o in page.locator('#mine input[type=number]').evaluate_all('l => l.map(o => o.value)'))==[12.5,90]
        field.nth(0).fill('40')
        page.locator('#asked button', has_text='Rate').first.click()
        page.locator('#mine h3', has_text='You have rated 3').wait_for()

def test_two_models_side_by_side(open_tab, serve):
    "Two models side by side, the first of which reads choices alone; and what differs"
    from collab_notes.ease import EASE
    from collab_notes.quick import fit_quick
    from conftest import loaders_of
    df = films()
    s = serve(EASE(df[df.rating>3]), fit_quick(loaders_of(df)))
    page = open_tab(s).page
    lists = page.locator('.list')
    assert lists.count()==2 and 'Recommended by first' in page.inner_text('.see') and 'Recommended by second' in page.inner_text('.see')
    before = [o.inner_text() for o in lists.all()]
    page.locator('.like button').first.click()
    says(page, 'Rated')
    assert all(a!=o.inner_text() for a,o in zip(before, lists.all())) and 'on both lists' in page.inner_text('#differs')
    assert page.evaluate('document.documentElement.scrollWidth<=innerWidth')

def test_reasons_that_take_time_come_when_asked_for(open_tab, serve):
    "Of a net, with and without JavaScript"
    import torch
    from collab_notes.core import LayeredNet
    from collab_notes.vocab import History
    df,g = films(),torch.Generator().manual_seed(0)
    h = History.of(df)
    new = lambda *size: torch.randn(*size, generator=g)
    s = serve(LayeredNet({'user_factors':new(h.vocab.n_users, 4), 'item_factors':new(h.vocab.n_items, 4), 'layers.0.weight':new(1, 8)}, [['linear',None]], (0.5,5.5), h.vocab, True, h))
    for js in True,False:
        page = open_tab(s, java_script_enabled=js).page
        for _ in range(2):
            n = len(rated(page))
            page.locator('#asked .stars button').nth(4).click()
            page.locator('#mine h3', has_text=f'You have rated {n+1}').wait_for()
        assert page.get_by_role('link', name='why?').count()==10
        page.get_by_role('link', name='why?').first.press('Enter')
        page.locator('.why', has_text='moved').first.wait_for()
        if js: until(page, "document.activeElement.closest('ol.picks li')")   # the keyboard goes on from there
        assert page.url.startswith(s.url+'why/')!=js and (not js or page.get_by_role('link', name='why?').count()==9)

def test_a_hostile_title_is_only_a_title(open_tab, serve):
    from collab_notes.vocab import History
    s = surface_of(20, [*HOSTILE, *(f'film {k}' for k in range(12))])
    rows = [(u,i) for u in range(1, 21) for i in range(1, 29) if (u*i)%3]
    s = serve(s.with_history(History(s.vocab, rows, [float(1+(u+i)%5) for u,i in rows])))
    tab = open_tab(s)
    page = tab.page
    page.on('dialog', lambda o: (tab.wrong.append('an alert'), o.dismiss()))
    for typed,title in ('script alert', HOSTILE[0]),('img src', HOSTILE[1]),('drop table', HOSTILE[2]),('title style', HOSTILE[10]):
        page.locator('#q').fill(typed)
        found = page.locator('#found li', has_text=title)
        found.first.wait_for()
        found.first.locator('.stars button').nth(4).click()
        says(page, f'Rated {title[:20]}')
        assert title in rated(page)
    assert page.locator('main img, main script, main style').count()==0 and len(rated(page))==4
    page.locator('#mine .title', has_text='alert(1)').first.click()
    assert page.inner_text('h1') in HOSTILE and page.locator('main img, main script').count()==0
    page.goto(f'{s.url}?q=<script>alert(1)</script>&circle="><script>alert(2)</script>')
    assert page.locator('#q').input_value()=='<script>alert(1)</script>'
    with page.expect_download() as d: page.get_by_role('link', name='Export').click()
    assert len(Path(d.value.path()).read_text().splitlines())==5

def test_clicks_while_an_answer_is_on_its_way(open_tab, server):
    "None is lost, however slow the server is"
    page = open_tab(server).page
    def slow(route):
        page.wait_for_timeout(300)
        route.continue_()
    page.route('**/act', slow)
    want = page.eval_on_selector_all('#asked li', "o => o.slice(0, 3).map(o => o.querySelector('.title').textContent)")
    page.eval_on_selector_all('#asked li', "o => o.slice(0, 3).forEach(o => o.querySelectorAll('.stars button')[3].click())")
    until(page, "document.querySelectorAll('#mine li').length === 3")
    assert sorted(want)==sorted(rated(page))

def test_a_model_is_swapped_under_it(open_tab, serve, surface):
    from collab_notes.files import save
    s = serve(surface)
    page = open_tab(s).page
    for o in FIVE[:3]: click_star(page, *o)
    before,health = recommended(page),lambda: page.request.get(s.url+'api/health').json()
    since = health()['models'][0]['since']
    save(surface.replace(item_bias=-surface.item_bias), s.folder/'first.safetensors')
    for _ in range(400):
        if health()['models'][0]['since']>since: break
        page.wait_for_timeout(50)
    else: pytest.fail('the new model was not taken')
    click_star(page, *FIVE[1])                                  # a rating that was there already: no reload, no restart
    assert len(rated(page))==3 and recommended(page)!=before
    click_star(page, *FIVE[3])
    assert len(rated(page))==4
    (s.folder/'first.safetensors').write_bytes(b'no model')
    for _ in range(400):
        if health()['status']=='old model': break
        page.wait_for_timeout(50)
    click_star(page, *FIVE[4])                                  # the old one goes on
    assert len(rated(page))==5 and health()['status']=='old model'

def test_nothing_is_lost_when_the_server_is_killed(open_tab, serve, surface):
    s = serve(surface)
    tab = open_tab(s)
    page = tab.page
    for o in FIVE: click_star(page, *o)
    before = rated(page),recommended(page)
    s.stop()                                                    # SIGKILL
    page.locator('#asked .stars button').first.click()
    says(page, 'The server does not answer')                    # it is told
    assert rated(page)==before[0]
    assert len(tab.wrong)==4 and all(re.search('ERR_CONNECTION_REFUSED|failed: .*/act|htmx:(sendError|afterRequest)', o) for o in tab.wrong), tab.wrong
    tab.wrong.clear()
    again = Server(s.folder, *s.args, port=s.port)
    try:
        page.locator('#asked .stars button').first.click()      # the page goes on, without a reload
        page.locator('#mine h3', has_text='You have rated 6').wait_for()
        page.get_by_role('button', name='Undo').click()
        says(page, 'Undone')
        page.reload()
        assert (rated(page), recommended(page))==before
    finally: again.stop()

# how it looks, and to whom

LOOK = """() => { const d = document.documentElement, many = q => [...document.querySelectorAll(q)];
  return {scrolls: d.scrollWidth-d.clientWidth, small: many('button, main a').filter(o => o.checkVisibility() && o.className!='first').map(o => [o.getBoundingClientRect(), o.outerHTML.slice(0,90)]).filter(([r]) => r.right>d.clientWidth+1).map(([,s]) => s)} }"""

@pytest.mark.parametrize('scheme', ['light','dark'])
@pytest.mark.parametrize('size', [WIDE,NARROW], ids=['1280','390'])
def test_every_page_can_be_used_by_all(open_tab, server, scheme, size):
    "axe-core finds nothing serious, nothing is wider than the window, all colours follow the scheme"
    if not AXE.is_file(): lacking('there is no axe-core: .ci/browser.sh fetches it')
    tab = open_tab(server, viewport=size, color_scheme=scheme)
    page,found = tab.page,{}
    def look(name):
        page.evaluate(AXE.read_text(encoding='utf-8'))
        got = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        if bad := [(o['id'], o['impact'], o['nodes'][0]['html'][:120], o['nodes'][0].get('failureSummary', '')[:200]) for o in got['violations'] if o['impact'] in ('serious','critical')]: found[name] = bad
        if (o := page.evaluate(LOOK))!={'scrolls':0, 'small':[]}: found[f'{name} looks'] = o
        bright = page.evaluate('getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).slice(0,3).map(Number).reduce((a,b) => a+b)/3')
        if (bright<128)!=(scheme=='dark'): found[f'{name} scheme'] = bright
    look('first visit')
    for o in FIVE: click_star(page, *o)
    look_for(page, 'Silent')
    page.get_by_text('Filter', exact=True).first.click()
    look('after five')
    key = page.locator('ol.picks .title').first.get_attribute('href')[len('/item/'):]
    for path in '?q=zzzqqq','?from0=2500',f'item/{key}',f'why/{key}','people','people?id=3','api': look(tab.go(path).url)
    for path in 'people?id=nobody','item/nobody','nothing','static/nothing': look(tab.go(path).url)
    tab.wrong[:] = [o for o in tab.wrong if '404' not in o]
    tab.go('').get_by_role('button', name='Forget me').click()
    assert not found, lines(found)

def test_axe_would_find_it(open_tab, server):
    if not AXE.is_file(): lacking('there is no axe-core: .ci/browser.sh fetches it')
    page = open_tab(server).page
    page.evaluate("document.querySelector('#q').closest('label').replaceWith(Object.assign(document.createElement('input'), {type: 'text'}))")
    page.evaluate(AXE.read_text(encoding='utf-8'))
    assert 'label' in page.evaluate("axe.run().then(o => o.violations.map(v => v.id))")
