"""The pictures of the page in README.md and the lessons, from MovieLens 100K: `.ci/browser.sh && python .ci/web/shots.py` → nbs/images/page_*.png"""
import io, shutil, sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

root = Path(__file__).resolve().parents[2]
FIVE = {'Fargo (1996)':5, 'Star Wars (1977)':5, 'Pulp Fiction (1994)':4, 'Liar Liar (1997)':2, 'English Patient':1}

def model():
    "What `collab-notes train` makes of MovieLens 100K"
    from collab_notes.data import RatingsDataLoaders
    from collab_notes.movielens import movielens_movies, movielens_ratings
    from collab_notes.training import fit
    dls = RatingsDataLoaders.from_df(movielens_ratings(titles=True), item_name='title', duplicates='keep', seed=0)
    return fit(dls, seed=0, progress=False),movielens_movies().drop(columns='movie').drop_duplicates('title')

def keep(page, name, colors=200, **kw):
    "A picture of the page, in few colours"
    png = Image.open(io.BytesIO(page.screenshot(**kw))).convert('RGB').quantize(colors, dither=Image.Dither.NONE)
    png.save(root/f'nbs/images/{name}.png', optimize=True)
    print(name, png.size, (root/f'nbs/images/{name}.png').stat().st_size//1024, 'KiB')

def rate(page, title, stars):
    page.locator('#q').fill(title)
    page.locator('#found li', has_text=title).first.locator('.stars button').nth(stars-1).click()
    page.locator('#status', has_text=f'Rated {title}').wait_for()

def shots(browser, url, size, scheme, *names):
    "The first visit and the page after five ratings"
    page = browser.new_context(viewport=dict(width=size[0], height=size[1]), color_scheme=scheme).new_page()
    page.goto(url)
    if names[0]: keep(page, names[0], clip=dict(x=0, y=0, width=size[0], height=900))
    for o in FIVE.items(): rate(page, *o)
    page.locator('#q').fill('')
    page.locator('#found ul').wait_for(state='detached')
    page.evaluate('document.activeElement.blur()')
    page.wait_for_timeout(500)                                  # colours fade
    keep(page, names[1])

if __name__=='__main__':
    from collab_notes.serving import show
    (root/'nbs/images').mkdir(exist_ok=True)
    from collab_notes.swap import Served
    shown = show(Served(*model(), name='MovieLens 100K'))
    with sync_playwright() as p:
        path = next(filter(None, map(shutil.which, ('chromium','google-chrome','chromium-browser'))), None) or sys.exit('There is no Chromium: .ci/browser.sh installs it')
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        shots(browser, shown.url, (1280,1180), 'light', 'page_first', 'page_five')
        shots(browser, shown.url, (390,844), 'dark', '', 'page_dark')
        browser.close()
    shown.stop()
