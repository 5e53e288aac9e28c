"""The page without a browser: what it answers to whom, for any kind of model and any scale, and what becomes of those who mean it ill."""
import re, threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from conftest import LIMIT, Child, can_fork, loaders_of, ratings_of, shapes_of, surface_of
from visits import HOSTILE, Page, Visitor, app_of

@pytest.fixture(scope='module')
def surface():
    from collab_notes.training import fit
    from collab_notes.core import as_model
    df = ratings_of(500)
    return as_model(fit(loaders_of(df, bs=64), 3, seed=0, n_factors=3, progress=False))

@pytest.fixture(scope='module')
def hostile():
    "A surface whose items are called in hostile ways"
    s = surface_of(20, [*HOSTILE, *(f'film {k}' for k in range(12))])
    rows = [(u,i) for u in range(1, 21) for i in range(1, 29) if (u*i)%3]
    from collab_notes.vocab import History
    return s.with_history(History(s.vocab, rows, [float(1+(u+i)%5) for u,i in rows]))

@pytest.fixture(scope='module')
def app(surface): return app_of(surface)

# rate and see

@pytest.mark.parametrize('js', [True, False], ids=['js', 'no js'])
def test_rating_changes_the_list_and_is_kept(app, js):
    v = Visitor(app, js)
    first = v.page()
    assert 'best guess for anybody' in first.text and len(first.all('li'))>10
    keys = v.keys()
    for k,key in enumerate(keys[:5]): assert v.rate(key, 1+k%5).status_code==200
    page = v.page()
    assert 'You have rated 5' in page.text and 'moved by' in page.text and 'best guess' not in page.text
    assert sorted(v.rated().values())==[1,2,3,4,5]
    v.post(do='undo')
    assert len(v.rated())==4
    v.post(unrate=keys[0])
    assert len(v.rated())==3
    v.post(do='undo')
    assert len(v.rated())==4
    top = v.page().all('button', name='hide')[0]['value']
    v.post(hide=top)
    assert top not in [o['value'] for o in v.page().all('button', name='hide')]
    v.post(do='clear')
    assert v.rated()=={} and top in [o['value'] for o in v.page().all('button', name='hide')]

def test_without_javascript_a_search_and_a_filter_come_back(app):
    v = Visitor(app, js=False)
    page = v.page('/?q=i1&circle=famous')
    found = page.all('input', name='q')[0]['value'], page.all('option', value='famous', selected='')
    assert found[0]=='i1' and 'found' in page.text
    r = v.http.post('/act', data=dict(token=v.token, state='q=i1&circle=famous', rate=f'3 {v.keys()[0]}'), follow_redirects=False)
    assert (r.status_code, r.headers['location'])==(303, '/?q=i1&circle=famous')
    assert v.get('/find?q=i2', follow_redirects=False).headers['location']=='/?q=i2'

def test_it_says_what_the_library_says(surface, app):
    from collab_notes.coldstart import new_user
    v = Visitor(app)
    for key,y in zip(v.keys()[:4], (5,1,4,2)): v.rate(key, y)
    want = new_user(surface, v.rated(), n=10).top
    g = app.site.served[0].guide
    got = [g.texts[g.row_of[o['value']]] for o in v.page().all('button', name='hide')]
    assert got==list(want['item'])

def test_visitors_see_only_their_own(app):
    a,b = Visitor(app),Visitor(app)
    key = a.keys()[0]
    a.rate(key, 5)
    assert len(a.rated())==1 and b.rated()=={}
    assert b.post(token=a.token, rate=f'1 {key}').status_code==403   # another's form
    b.post('/forget')
    assert len(a.rated())==1
    a.post('/forget')
    assert a.rated()=={}

def test_two_models_side_by_side(surface):
    from collab_notes.ease import EASE
    v = Visitor(app_of(surface, EASE(ratings_of(500))))
    v.rate(v.keys()[0], 5)
    page = v.page()
    assert 'Recommended by Surface' in page.text and 'Recommended by EASE' in page.text and 'What differs' in page.text
    assert v.http.post('/api/recommend', json=dict(model='EASE', n=1)).status_code==200

def test_facts_filter_the_list_and_say_what_one_likes(surface):
    facts = pd.DataFrame(dict(item=[f'i{k}' for k in range(30)], half=['first' if k<15 else 'second' for k in range(30)], size=range(30)))
    v = Visitor(app_of(surface, facts=facts))
    g = v.http.app.site.served[0].guide
    titles = lambda page: [int(g.texts[g.row_of[o['value']]][1:]) for o in page.all('button', name='hide')]
    assert all(o<15 for o in titles(v.page('/?is0=first'))) and all(o>=25 for o in titles(v.page('/?from1=25')))
    for k in range(4): v.rate(g.keys[g.texts.index(f'i{k}')], 5)
    for k in range(20, 24): v.rate(g.keys[g.texts.index(f'i{k}')], 1)
    assert re.search(r'More than others do: first', v.page().text)

def test_map_and_place(app):
    v = Visitor(app)
    assert 'you get a place' in v.page().text and v.get('/map.svg').headers['content-type']=='image/svg+xml'
    where = []
    for key,y in zip(v.keys()[:4], (5,1,5,1)):
        v.rate(key, y)
        where += [(o['cx'],o['cy']) for o in v.page().all('circle', id='you')]
    assert len(set(where))==4   # it moves with every rating

# any kind, any scale

@pytest.mark.parametrize('name', ['stars', 'halves', '1 to 10', '0 to 100', '-10 to 10', 'few', 'ten in all'])
def test_any_scale(name):
    from collab_notes.quick import fit_quick
    df = shapes_of()[name]
    app = app_of(fit_quick(loaders_of(df)))
    s,v = app.site.served[0].guide.scale,Visitor(app)
    keys = [o for o in app.site.served[0].guide.keys[1:] if o][:3]
    lo,hi = s.low,s.high
    for key,y in zip(keys, (lo, hi, (lo+hi)/2)): assert v.rate(key, y).status_code==200
    assert sorted(v.rated().values())==sorted(float(f'{o:g}') for o in (lo,hi,(lo+hi)/2))
    assert 'has to be a number' in v.rate(keys[0], hi+1).text
    if s.kind=='number':
        v.post(**{'do':'numbers', f'y {keys[0]}':f'{hi:g}', f'y {keys[1]}':''})
        assert sorted(v.rated().values())==sorted(float(f'{o:g}') for o in (hi,hi,(lo+hi)/2))
    assert 'moved by' in v.page().text or 'None of your ratings moved it' in v.page().text

# safe

def test_hostile_titles_are_text_everywhere(hostile):
    app = app_of(hostile, hostile)
    v,g = Visitor(app),app.site.served[0].guide
    assert len(set(g.keys))==len(g.keys)
    for k,key in enumerate(g.keys[1:len(HOSTILE)+1]): assert 'Rated' in v.rate(key, 1+k%5).text
    assert len(app.site.visitors.of(app.site.visitors.who(v.http.cookies[app.site.visitors.cookie])).ratings)==len(HOSTILE)
    allowed = {'html','head','body','meta','title','link','script','header','nav','a','ul','ol','li','small','strong','main','h1','h2','h3','search','form','label','input','button','p','div','section',
               'fieldset','span','i','b','svg','rect','circle','image','text','details','summary','select','option','footer','meter','code','pre'}
    pages = ['/', '/?q=<script>alert(1)</script>', '/?q="><img src=x>', '/?circle=<b>', '/people?id=<script>', '/people?id=3', '/api', *(f'/item/{k}' for k in g.keys[1:]), '/item/<script>', f'/why/{g.keys[20]}']
    for path in pages:
        page = Page(v.get(path).text)
        assert {t for t,_ in page.tags}<=allowed, path
        assert not [a for _,a in page.tags for k in a if k.startswith('on') or k=='style'], path
        assert all((o.get('src') or '').startswith('/static/') for o in page.all('script')), path
    assert '\u202e' not in v.get('/').text and '\x1b' not in v.get('/').text
    assert len(v.rated())==len(HOSTILE)
    assert not any(line[:1] in '=+-@' for line in v.get('/export.csv').text.splitlines())

def test_nothing_is_loaded_from_elsewhere(app):
    from collab_notes.views import STATIC
    v = Visitor(app)
    r = v.get('/')
    policy = r.headers['content-security-policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy and 'http' not in policy
    page = Page(r.text)
    for tag,a in page.tags:
        for k in ('src','href','action','hx-get','hx-post'):
            assert k not in a or re.match(r'(/(?!/)|#)', a[k]), (tag, a)
    for o in (*page.all('script'), *page.all('link')): assert v.get(o.get('src') or o['href']).status_code==200
    for name in ('htmx','pico'): assert (STATIC/f'{name}-LICENSE.txt').read_text()
    for o in STATIC.glob('page.*'): assert not re.search(r'https?://|eval\(|innerHTML', o.read_text())
    assert 'script' in page.text or all(not o.get('type') for o in page.all('script'))

def test_cookie_and_headers(app):
    r = Visitor(app).get('/')
    cookie = r.headers['set-cookie'].lower()
    assert 'httponly' in cookie and 'samesite=lax' in cookie and 'path=/' in cookie
    assert r.headers['x-content-type-options']=='nosniff' and r.headers['x-frame-options']=='DENY' and r.headers['cache-control']=='no-store'

def test_other_sites_are_refused(app):
    v = Visitor(app)
    key,token = v.keys()[0],v.token
    form = dict(token=token, rate=f'5 {key}')
    other = [{'origin':'http://evil.example'}, {'origin':'null'}, {'sec-fetch-site':'cross-site'}, {'origin':'http://localhost:8888'}]
    assert [v.http.post('/act', data=form, headers=o).status_code for o in other]==[403]*4
    assert [v.http.get('/', headers={'host':o}).status_code for o in ('evil.example', 'localhost.evil.example', '10.0.0.1')]==[421]*3
    assert [v.http.post('/act', data={**form, 'token':o}).status_code for o in ('', 'x', 'é', token[:-1])]==[403]*4
    assert v.http.post('/act', json=form).status_code==415
    assert v.http.post('/act', data={**form, 'more':'x'*300_000}).status_code==413
    assert v.rated()=={}
    assert v.http.post('/act', data=form, headers={'origin':'http://localhost:5001'}).status_code==200

def test_a_cookie_that_is_made_up_is_nobody(app):
    v = Visitor(app)
    v.rate(v.keys()[0], 5)
    name = app.site.visitors.cookie
    for o in ('', 'x', 'a.b', v.http.cookies[name]+'0', v.http.cookies[name].split('.')[0], '\xe9'.encode('latin-1').decode('latin-1')):
        w = Visitor(app)
        w.http.cookies.set(name, o.encode('ascii', 'ignore').decode())
        assert w.rated()=={}

def test_off_this_machine_it_is_limited_and_shows_no_users(surface):
    from collab_notes.guard import Rate
    app = app_of(surface, hosts=['films.example'], only_here=False, rate=Rate(1., 30), people=False)
    v = Visitor(app, base='http://films.example')
    assert v.get('/people?id=3').status_code==400 and v.http.post('/api/recommend', json=dict(user=3)).status_code==422
    assert v.http.post('/api/why', json=dict(user=3, item='i1')).status_code==422
    assert 429 in {v.get('/api/health').status_code for _ in range(40)}

def test_the_list_of_attacks_names_tests_that_exist():
    "Those in the notebook `guard`"
    root = Path(__file__).parent
    named = set(re.findall(r'`(test_\w+)`', (root.parent/'nbs/library/guard.ipynb').read_text(encoding='utf-8')))
    there = {o for f in (root/'test_page.py', root/'browser/test_app.py') for o in re.findall(r'^def (test_\w+)', f.read_text(encoding='utf-8'), re.M)}
    assert len(named)>=15 and named<=there, named-there

def test_no_other_site_reads_an_answer_and_no_socket_is_opened(app):
    from starlette.websockets import WebSocketDisconnect
    v = Visitor(app)
    for method in ('get','options'): assert not [k for k in getattr(v.http, method)('/api/health', headers={'origin':'http://evil.example', 'access-control-request-method':'POST'}).headers if k.startswith('access-control')]
    for path in '/','/act','/live-reload':
        with pytest.raises(WebSocketDisconnect), v.http.websocket_connect(path): pass

def test_no_file_is_reached(app):
    v = Visitor(app)
    for path in ('/static/../app.py', '/static/%2e%2e/app.py', '/static/..%2fapp.py', '/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd', '/static//etc/passwd', '/item/..%2f..%2fetc%2fpasswd', '/why/%00', '/static/%00', '/static/..\\app.py'):
        r = v.http.get(path)
        assert r.status_code==404 and 'import' not in r.text and 'root:' not in r.text, path

def test_an_answer_has_no_headers_but_ours(app):
    v = Visitor(app, js=False)
    for back in ('/item/x\r\nset-cookie: a=b', '/item/x\r\n\r\n<script>', '/item/\\\\evil.example', '/item//evil.example', '//evil.example', 'http://evil.example', '/\\evil.example', 'javascript:alert(1)'):
        r = v.http.post('/act', data=dict(token=v.token, do='undo', back=back), follow_redirects=False)
        where = r.headers['location']
        assert r.status_code==303 and re.match(r'/(\?|$|item/)', where) and not re.search(r'[\r\n\\]|//', where) and 'set-cookie' not in r.headers, back

def test_ratings_of_a_visitor_end_somewhere(app, monkeypatch):
    import collab_notes.visitors
    monkeypatch.setattr(collab_notes.visitors, 'MOST_RATINGS', 3)
    v = Visitor(app)
    said = [v.rate(key, 3).text for key in v.keys()[:5]]
    assert len(v.rated())==3 and all('keeps no more' in o for o in said[3:]) and not any('keeps no more' in o for o in said[:3])

def test_an_export_is_no_formula(hostile):
    v = Visitor(app_of(hostile))
    g = v.http.app.site.served[0].guide
    v.rate(g.keys[g.texts.index('=cmd|calc')], 5)
    assert '=cmd' in v.get('/export.csv').text and all(o[0] not in '=+-@\t' for o in v.get('/export.csv').text.splitlines())

def test_a_search_looks_at_few_titles_closely(app, monkeypatch):
    import collab_notes.finding
    from rapidfuzz import fuzz
    looked = []
    monkeypatch.setattr(collab_notes.finding.fuzz, 'WRatio', lambda q, o, was=fuzz.WRatio: looked.append((q, o)) or was(q, o))
    from collab_notes.finding import Finder
    f = Finder([f'title number {k} of very many' for k in range(5000)])
    for q in ('a'*100_000, 'titel nubmer', '('*500+'a*'*500, '\u0301'*10_000+'title'): f(q)
    assert 0<len(looked)<=4*200 and all(len(q)<=200 for q,_ in looked)
    assert Visitor(app).get('/find?q='+'z'*5000, headers={'hx-request':'true'}).status_code==200

def test_a_model_that_runs_code_does_not(surface, tmp_path):
    import os, pickle
    from collab_notes.files import save
    class Evil:
        def __reduce__(self): return os.mkdir,(str(tmp_path/'it ran'),)
    path = Path(save(surface, tmp_path/'m.safetensors'))
    app = app_of(str(path))
    path.write_bytes(pickle.dumps(Evil()))
    s = app.site.served[0]
    s.looked = -1e9
    Visitor(app).get('/api/health')
    s.loading.join()
    assert s.error and Visitor(app).get('/').status_code==200 and not (tmp_path/'it ran').exists()

def test_more_at_once_than_it_can_do_is_refused(surface):
    app = app_of(surface)
    v = Visitor(app)
    app.site.most = 0
    r = v.http.post('/api/recommend', json={})
    assert (r.status_code, r.json()['type'])==(503, 'BusyError') and v.get('/').status_code==503 and 'try again' in v.get('/').text
    app.site.most = 1
    assert v.http.post('/api/recommend', json={}).status_code==200 and v.get('/').status_code==200

@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(['rate','unrate','hide','do','state','back','y 1']), st.text(max_size=40) | st.sampled_from(['4 ', '? 1', 'nan 1', '1e999 x', 'undo', 'numbers', '/item/x', '//evil'])))
def test_forms_of_any_kind_are_answered(app, form):
    v = Visitor(app, js=len(form)%2==0)
    r = v.http.post('/act', data={**{k:x.encode('utf-8', 'replace').decode() for k,x in form.items()}, 'token':v.token}, headers=v.heads, follow_redirects=False)
    assert r.status_code in (200,303,400,404), (form, r.status_code, r.text[:200])
    assert r.headers.get('location', '/').startswith('/') and not r.headers.get('location', '/').startswith('//')

@settings(max_examples=40)
@given(st.text(max_size=60), st.dictionaries(st.sampled_from(['q','circle','is0','from0','to0','id','state']), st.text(max_size=30)))
def test_addresses_of_any_kind_are_answered(app, path, query):
    from urllib.parse import quote
    v = Visitor(app)
    for p in ('/', '/find', '/people', '/item/'+quote(path.encode('utf-8', 'replace'), safe=''), '/'+quote(path.encode('utf-8', 'replace'))):
        r = v.http.get(p, params={k:x.encode('utf-8', 'replace').decode() for k,x in query.items()}, headers=v.heads, follow_redirects=False)
        assert r.status_code in (200,303,307,404,405), (p, query, r.status_code)

# kept

@can_fork
def test_nothing_is_lost_when_it_is_killed(tmp_path):
    path = str(tmp_path/'page.db')
    def rates(at):
        from collab_notes.visitors import Visitors
        v = Visitors(path)
        for k in range(50):
            v.rate('me', f'k{k}', f'film {k}', 1+k%5)
            at(f'rated {k}')
    with Child(rates) as c:
        for where in c:
            if where=='rated 20': c.kill()
    assert c.code==-9
    from collab_notes.visitors import Visitors
    assert len(Visitors(path).of('me').ratings)==21

def test_many_tabs_at_once(surface, tmp_path):
    app = app_of(surface, store=str(tmp_path/'page.db'))
    vs = [Visitor(app) for _ in range(4)]
    keys,failed = vs[0].keys()[:10],[]
    def work(v, k):
        for key in keys:
            if v.rate(key, 1+k).status_code!=200: failed.append(key)
    ts = [threading.Thread(target=work, args=(v,k)) for k,v in enumerate(vs)]
    for t in ts: t.start()
    for t in ts: t.join()
    assert failed==[] and [set(v.rated().values()) for v in vs]==[{1+k} for k in range(4)] and all(len(v.rated())==10 for v in vs)

def test_a_model_is_swapped_under_it(surface, tmp_path):
    from collab_notes.ease import EASE
    from collab_notes.files import save
    path = save(surface, tmp_path/'m.safetensors')
    app = app_of(str(path), store=str(tmp_path/'page.db'))
    v,s = Visitor(app),app.site.served[0]
    v.rate(v.keys()[0], 5)
    save(EASE(ratings_of(200, n_items=20)), path)
    def settled():
        s.looked = -1e9
        v.get('/api/health')
        if s.loading: s.loading.join()
        return v.get('/api/health').json()
    assert settled()['models'][0]['kind']=='EASE'
    assert 'I like it' in v.get('/').text and len(v.rated())==1
    Path(path).write_bytes(b'nothing')
    said = settled()
    assert said['status']=='old model' and said['models'][0]['kind']=='EASE' and 'Error' in said['models'][0]['error']
    assert v.get('/').status_code==200

def test_train_takes_visitors_in(surface, tmp_path, monkeypatch):
    from collab_notes.cli import main
    from collab_notes.files import load
    from collab_notes.visitors import Visitors
    ratings_of(300).to_csv(tmp_path/'r.csv', index=False)
    db = Visitors(tmp_path/'page.db')
    for k,y in (('i1',5),('i2',1),('new one',4)): db.rate('me', k, k, y)
    db.close()
    monkeypatch.chdir(tmp_path)
    import conftest
    conftest.drawn_not_rendered(monkeypatch)
    main(['train', 'r.csv', '--also', 'page.db', '--n-epoch', '1', '--out', 'm'])
    m = load('m')
    assert m.vocab.n_users==22 and 'new one' in m.classes['item']
    mine = m.history.pairs[m.history.pairs[:,0]==21]
    assert len(mine)==3

def test_without_a_model_it_trains_on_movielens_first(start, tmp_path):
    "From nothing to a page. What stands for MovieLens is a few made-up ratings, so no network is needed"
    import json, time, urllib.request
    p = start("""
import os, sys
os.chdir(folder)
sys.stdout = open('said.txt', 'w', buffering=1)
import pandas as pd
from collab_notes import movielens
from conftest import ratings_of
from matplotlib.figure import Figure
Figure.savefig = lambda self, to, **kw: to.write(b'PNG'*500)
df = ratings_of(500)
movielens.movielens_ratings = lambda **kw: df.rename(columns=dict(item='title')).assign(movie=1, timestamp=1)
movielens.movielens_movies = lambda: pd.DataFrame(dict(movie=range(30), title=[f'i{k}' for k in range(30)], year=range(1960, 1990)))
from collab_notes.cli import main
main(['serve', '--port', '0'])
""", folder=str(tmp_path))
    said,until = tmp_path/'said.txt',time.monotonic()+LIMIT
    while not (m := re.search(r'(http://127\.0\.0\.1:\d+) ', said.read_text() if said.exists() else '')):
        assert p.is_alive() and time.monotonic()<until, said.read_text()
        time.sleep(0.05)
    get = lambda path: urllib.request.urlopen(m[1]+path, timeout=LIMIT).read().decode()
    page,told = Page(get('/')),said.read_text()
    assert 'no model here yet' in told and 'Only this machine' in told and 'year from' in page.text and len(page.all('button', name='hide'))>0
    assert json.loads(get('/api/health'))['models'][0]['items']==30 and (tmp_path/'collab-notes-model/model.safetensors').exists() and (tmp_path/'page.db').exists()
    p.kill()

# the JSON

def test_json_says_what_the_library_says(surface, app):
    from collab_notes.coldstart import new_user
    from collab_notes.lists import recommend
    http = Visitor(app).http
    mine = {'i1':5, 'i20':1, 'i3':4}
    ask = lambda name, **body: http.post(f'/api/{name}', json=body)
    got = ask('recommend', ratings=mine, n=5).json()['items']
    want = new_user(surface, mine, n=5).top
    assert [o['item'] for o in got]==list(want['item']) and np.allclose([o['score'] for o in got], want.prediction, atol=1e-4)
    assert all(o['low']<=o['score']<=o['high'] for o in got)
    got = ask('recommend', user='3', n=5).json()['items']
    assert [o['item'] for o in got]==list(recommend(surface, 3, n=5, exclude=surface.history.pairs)['item'])   # nothing they have rated, held out or not
    got = ask('why', ratings=mine, item='i7').json()
    assert len(got['moved'])==3 and {o['item'] for o in got['moved']}==set(mine)
    assert ask('new-user', ratings=mine).json()['rests_on']=='ratings' and ask('new-user').json()['rests_on']=='mean'
    assert len(ask('similar', item='i1', n=3).json()['items'])==3

@pytest.mark.parametrize('name,body,status,kind', [
    ('recommend', dict(ratings={'nobody':5}), 404, 'UnseenIdError'), ('recommend', dict(ratings={'i1':99}), 422, 'SettingError'), ('recommend', dict(n=0), 400, 'BadBodyError'),
    ('recommend', dict(n=10**9), 400, 'BadBodyError'), ('recommend', dict(user=99999), 404, 'UnseenIdError'), ('recommend', dict(user=1, ratings={}), 422, 'SettingError'),
    ('recommend', dict(ratings=[dict(item='i1', rating=3)]*2), 422, 'RatingsError'), ('predict', {}, 400, 'BadBodyError'), ('predict', dict(items=['i1']*1001), 400, 'BadBodyError'),
    ('similar', dict(item='<script>'), 404, 'UnseenIdError'), ('why', dict(item='i1'), 422, 'UnsupportedError'), ('recommend', dict(model='x'), 404, 'UnseenIdError'),
    ('recommend', dict(ratings={f'i{k}':1 for k in range(1001)}), 400, 'BadBodyError'), ('recommend', [], 400, 'BadBodyError'), ('recommend', dict(foo=1), 400, 'BadBodyError')])
def test_json_errors_are_typed(app, name, body, status, kind):
    r = Visitor(app).http.post(f'/api/{name}', json=body)
    assert (r.status_code, r.json()['type'])==(status, kind) and r.json()['error']

def test_json_takes_no_other_body(app):
    http = Visitor(app).http
    heads = {'content-type':'application/json'}
    for raw in (b'', b'{', b'{"n": NaN}', b'\xff\xfe', b'['*50_000, b'{"n":'+b'1'*5000+b'}', b'{"n": 1e400}'): assert http.post('/api/recommend', content=raw, headers=heads).status_code==400, raw[:20]
    assert http.post('/api/recommend', data={'n':1}).status_code==415
    assert http.post('/api/recommend', content=b' '*300_000, headers=heads).status_code==413
    assert http.get('/api/recommend').status_code==405 and http.get('/api/nothing').json()['type']=='HTTPException'

# those who come through a proxy, by a name

def told(monkeypatch, **kw):
    "What `serve` would start: the app, what it printed, how uvicorn is set"
    import collab_notes.serving as serving
    seen = {}
    class Server:
        def run(self, sockets): sockets[0].close()
    def server(app, proxied=False):
        seen.update(app=app, proxied=proxied)
        return Server()
    monkeypatch.setattr(serving, '_server', server)
    monkeypatch.setattr('builtins.print', lambda *o, **k: seen.setdefault('said', ' '.join(map(str, o))))
    serving.serve(**kw, port=0, store=':memory:')
    return seen

@pytest.mark.parametrize('kw,here', [({}, True), (dict(allow_host='films.example'), False), (dict(host='0.0.0.0'), False)])
def test_who_comes_through_a_proxy_is_a_stranger(surface, tmp_path, monkeypatch, kw, here):
    from collab_notes.files import save
    seen = told(monkeypatch, model=[str(save(surface, tmp_path/'m.safetensors'))], **kw)
    assert ('Only this machine' in seen['said'], seen['app'].site.people, seen['app'].rate is None)==(here,here,here)
    assert seen['proxied']==('allow_host' in kw)

def test_a_link_is_followed_anew(surface, tmp_path):
    "`ln -sfn models/next current` is a new model"
    from collab_notes.files import save
    from collab_notes.swap import Served
    for k in 'ab': save(surface, tmp_path/f'{k}.safetensors')
    at = tmp_path/'current.safetensors'
    at.symlink_to('a.safetensors')
    s = Served(at, every=0.)
    before = s.current()
    (tmp_path/'next').symlink_to('b.safetensors')
    (tmp_path/'next').replace(at)
    s.current()
    s.loading.join(LIMIT)
    assert s.current() is not before and s.error is None

def test_two_models_of_a_name_are_told_apart(surface):
    page = Visitor(app_of(surface, surface)).page()
    assert 'Surface (2)' in page.text and [o.guide.name for o in app_of(surface, surface).site.served]==['Surface','Surface (2)']

def test_no_digit_is_lost():
    from collab_notes.quick import fit_quick
    df = ratings_of(300)
    v = Visitor(app_of(fit_quick(loaders_of(df.assign(rating=np.linspace(0, 2e6, len(df)))))))
    g = v.http.app.site.served[0].guide
    for y in (1234567., 72.12345, 0.1):
        v.post(**{'rate':f'? {g.keys[1]} mine', f'y {g.keys[1]} mine':repr(y)})
        assert v.rated()=={g.texts[1]:y} and repr(y).removesuffix('.0') in [o.get('value') for o in v.page().all('input', type='number')]
