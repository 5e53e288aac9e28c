"""Chromium, and tabs that remember what went wrong in them: what the tests in a browser share"""
import os, shutil
from pathlib import Path

import pytest

ARGS = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
WIDE,NARROW = dict(width=1280, height=900),dict(width=390, height=844)

def lacking(what):
    "Skip, but where a browser was asked for: there it is a failure"
    (pytest.fail if os.environ.get('COLLAB_NOTES_BROWSER') or os.environ.get('CI') else pytest.skip)(what)

@pytest.fixture(scope='module')
def chromium():
    try: from playwright.sync_api import sync_playwright
    except ImportError: lacking('playwright is not installed: the extra `docs`')
    named = os.environ.get('COLLAB_NOTES_BROWSER', '')
    path = named if Path(named).is_file() else next(filter(None, map(shutil.which, ('chromium','google-chrome','chromium-browser'))), None)
    if not path: lacking('there is no Chromium: .ci/browser.sh installs it')
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()

class Tab:
    "A tab, and what went wrong in it"
    def __init__(self, chromium, address, viewport=WIDE, **kw):
        self.address,self.wrong = address,[]
        self.page = chromium.new_context(viewport=viewport, **kw).new_page()
        self.page.set_default_timeout(20_000)
        self.page.on('console', lambda o: o.type in ('error','warning') and self.wrong.append(f'{o.type}: {o.text}'))
        self.page.on('pageerror', lambda o: self.wrong.append(f'error: {o}'))
        self.page.on('requestfailed', lambda o: 'ABORTED' in (o.failure or '') or self.wrong.append(f'failed: {o.url}'))   # aborted by going on to the next page
        self.page.on('request', lambda o: o.url.startswith((address,'data:','blob:')) or self.wrong.append(f'from elsewhere: {o.url}'))
    def go(self, path): self.page.goto(self.address+path, wait_until='load'); return self.page

def lines(found): return '\n'+'\n'.join(f'{k}: {v}' for k,v in found.items())
