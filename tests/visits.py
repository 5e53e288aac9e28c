"""Visitors of the page without a browser, and titles that mean it ill: what several test files share."""
import csv, io
from html.parser import HTMLParser

HOSTILE = ('<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "'; drop table rating; --", '=cmd|calc', 'a\nb\r\nc', '\x00nul\x1b[31m', '\u202egnp.exe',
           '#na', '   ', 'é' * 500, '</title></style>', '${7*7}{{7*7}}', 'javascript:alert(1)', '&lt;b&gt;', '5 of 5', '../../etc/passwd')

class Page(HTMLParser):
    "Tags and attributes of a page, and the text in it"
    def __init__(self, html):
        super().__init__()
        self.tags,self.text = [],''
        self.feed(html)
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.text += data
    def all(self, tag, **want): return [a for t,a in self.tags if t==tag and all(a.get(k)==v for k,v in want.items())]

class Visitor:
    "Somebody with a browser that has JavaScript (`js=True`), or not"
    def __init__(self, app, js=True, base='http://localhost:5001'):
        from starlette.testclient import TestClient
        self.http = TestClient(app, base_url=base, raise_server_exceptions=False)
        self.js,self.heads = js,{'hx-request':'true'} if js else {}
    def get(self, path='/', **kw): return self.http.get(path, **kw)
    def page(self, path='/'):
        r = self.get(path)
        assert r.status_code==200, (path, r.status_code, r.text[:300])
        return Page(r.text)
    @property
    def token(self): return self.page().all('input', name='token')[0]['value']
    def post(self, path='/act', **form):
        form.setdefault('token', self.token)
        return self.http.post(path, data=form, headers=self.heads)
    def rate(self, key, y): return self.post(rate=f'{y:g} {key}')
    def keys(self): return list(dict.fromkeys(o['value'].split(' ')[1] for o in self.page().all('button', name='rate')))
    def rated(self): return {o['item']:float(o['rating']) for o in csv.DictReader(io.StringIO(self.get('/export.csv').text, newline=''))}

def app_of(*models, **kw):
    from collab_notes.app import make_app
    return make_app(*models, **{'store':':memory:', **kw})
