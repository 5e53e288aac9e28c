"""The chapter's tables of losses: each was run again in a lesson, at the chapter's settings, and what is stored there is near the chapter's number.
The split is not the chapter's (it does not say which it was), and that alone moves a loss by 0.01."""
import json, re
from pathlib import Path

import pytest

NBS = Path(__file__).parent.parent/'nbs'
# a line of text, or of HTML: epoch, train loss, valid loss
EPOCH = re.compile(r'(?:^|<tr>\s*<td>)(\d+)(?:\s+|</td>\s*<td>)([\d.]+)(?:\s+|</td>\s*<td>)([\d.]+)', re.M)

def text(o): return o if isinstance(o, str) else ''.join(o)

def five_epochs(name):
    "Valid losses by epoch of each training over five epochs whose table the notebook shows"
    outs = [o for c in json.loads((NBS/f'{name}.ipynb').read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
    shown = [text(o.get('text') or o.get('data', {}).get('text/html', '')) for o in outs]
    rows = [EPOCH.findall(o) for o in shown if 'valid_loss' in o]
    # a stream may hold several tables, one after the other
    starts = [(r, [i for i,(n,_,_) in enumerate(r) if n=='0']) for r in rows]
    tables = [r[a:b] for r,at in starts for a,b in zip(at, [*at[1:],len(r)])]
    return [[float(v) for _,_,v in t] for t in tables if len(t)==5]

@pytest.mark.parametrize('name,last,best,band', [
    ('02_from_scratch', (0.871,0.878,0.890), (0.870,0.851), 0.02), ('03_weight_decay', (0.820,0.820), (), 0.02),
    ('04_interpretation', (0.814,), (), 0.02), ('06_deep', (0.863,0.858), (), 0.03)])
def test_the_chapters_losses(name, last, best, band):
    tables = five_epochs(name)
    assert len(tables) >= len(last)
    for o in last: assert min(abs(t[-1]-o) for t in tables) <= band, o
    for o in best: assert min(abs(min(t)-o) for t in tables) <= band, o
