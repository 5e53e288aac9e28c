"""The front page and the card that is shown where somebody links to it, from what the project has measured and drawn."""
import base64, io, json

import pages

MAP = 'nbs/04_interpretation.ipynb','A map of films'   # the notebook, and how the picture's words begin

def picture(root, nb, words):
    "A stored picture of a notebook, and its words: the one whose `fig-alt` begins like this"
    found = []
    for o in json.loads((root/nb).read_text(encoding='utf-8'))['cells']:
        if o['cell_type']!='code': continue
        alt = str(pages.options(pages.source(o))[0].get('fig-alt', ''))
        if alt.startswith(words): found += [(base64.b64decode(x['data']['image/png']), alt) for x in o['outputs'] if 'image/png' in x.get('data', {})]
    if len(found)!=1: raise ValueError(f'{nb} has {len(found)} pictures whose words begin with {words!r}')
    return found[0]

def commands(root):
    "The lines by which learners and practitioners start, as the README gives them"
    lines = (root/'README.md').read_text(encoding='utf-8').splitlines()
    return [next(o for o in lines if o.startswith('python3 -m venv') and o.endswith(end)) for end in ('jupyter lab nbs/00_data.ipynb','collab-notes train')]

OURS = {'fit_quick':'`fit_quick`', 'fit':'`fit`', 'BayesianPMF':'`BayesianPMF`', 'BayesianPMF, 4 chains':'`BayesianPMF`, four chains'}
PEERS = {'myFM':'myFM', 'Surprise':'Surprise', 'cmfrec':'cmfrec', 'LensKit':'LensKit', 'implicit':'implicit', 'stock':"fastai's `collab_learner`"}

def best(root):
    "Of `benchmarks/results/frontier.json` our models and the most accurate one of each other library: name, seconds, RMSE; best first"
    runs = json.loads((root/'benchmarks/results/frontier.json').read_text(encoding='utf-8'))['runs']
    def mean(k, what): v = [o[what] for o in runs if o['contestant']==k]; return sum(v)/len(v)
    names = {o['contestant'] for o in runs}
    at = {k:(mean(k, 'fit_wall'), mean(k, 'rmse')) for k in names}
    rows = [(f'**{v}**', *at[k]) for k,v in OURS.items()]
    for k,v in PEERS.items(): rows.append((v, *min((at[o] for o in names if o.startswith(k)), key=lambda o: o[1])))
    return sorted(rows, key=lambda o: o[2])

def front(root, title, line, alt):
    "The Markdown of the front page"
    learn,use = commands(root)
    table = '\n'.join(f'| {k} | {s:.1f} | {e:.3f} |' for k,s,e in best(root))
    door = lambda href, name, text: f'<a class="door" href="{href}"><strong>{name}</strong><span>{text}</span></a>'
    return f"""{pages.front_matter(title=title, description=line, pagetitle=title, **{'page-layout':'full', 'toc':False, 'title-block-style':'none'})}
::::: {{.front}}
:::: {{.hero}}
::: {{.starts}}
# {title}

[{line}.]{{.line}} Give it a table of *user, item, rating*: it says what people will think of what they have not seen, and why.

Read and run the book:

```sh
{learn}
```

Or train, on MovieLens or on ratings of yours:

```sh
{use}
```
:::

[![{alt}](map.png)](/04_interpretation.ipynb){{title="What a model learned of films from ratings alone"}}
::::

<div class="doors">
{door('00_data.html', 'Learn', 'Lessons from a dot product by hand to models that are ahead of other libraries')}
{door('overview.html', 'Use', 'A library and a command: train, predict, recommend, explain')}
{door('api/index.html', 'Look up', 'Every module, function and parameter, with its source')}
</div>

## Quick and near

RMSE on held-back ratings of MovieLens 100K, and seconds to train on two CPU cores: our models, and the best of each other library, tuned too.
Less is better. [All of it, and how](/benchmarks/results/frontier.md).

| | seconds | RMSE |
|---|--:|--:|
{table}

[Other people's ratings](/benchmarks/results/datasets.md), [lists](/benchmarks/results/lists.md) and [25 million rows](/benchmarks/results/growth.md)
are measured as well, beside the same libraries.
:::::
"""

def card(png, title, line):
    "A PNG of 1200 × 630 pixels: the name, what it is, and the map"
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    fig = plt.figure(figsize=(12,6.3), dpi=100, facecolor='white')
    ax = fig.add_axes([.44, .03, .55, .94]); ax.imshow(plt.imread(io.BytesIO(png))); ax.axis('off')
    fig.text(.04, .62, title, fontsize=42, weight='bold', color='#1c4f82')
    words,lines = line.split(),['']
    for o in words: lines = [*lines[:-1], f'{lines[-1]} {o}'.strip()] if len(lines[-1])+len(o)<28 else [*lines, o]
    fig.text(.04, .56, '\n'.join(lines), fontsize=21, color='#333', va='top', linespacing=1.5)
    to = io.BytesIO()
    fig.savefig(to, format='png')
    plt.close(fig)
    return to.getvalue()
