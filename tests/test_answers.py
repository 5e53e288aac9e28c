"""The notebook of answers: that all of the chapter's questions are there, each with a folded answer that points to a notebook and is in step with the cells that run."""
import json, re
from pathlib import Path

import pytest

NBS = Path(__file__).parent.parent/'nbs'
FOLDED = re.compile(r'<details><summary>Answer</summary>\n\n(.+?)\n\n</details>', re.S)

def cells(): return json.loads((NBS/'answers.ipynb').read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def markdown(): return '\n\n'.join(source(o) for o in cells() if o['cell_type'] == 'markdown')

def questions(heading):
    "The numbered questions under a heading: number, title, all text up to the next question"
    part = re.split(r'^## ', markdown().split(f'## {heading}\n', 1)[1], maxsplit=1, flags=re.M)[0]
    pieces = re.split(r'^### (\d+)\. (.+)$', part, flags=re.M)[1:]
    return [(int(n), title, body) for n, title, body in zip(*[iter(pieces)]*3)]

ALL = [("The chapter's questions", 31), ('Further research', 4)]

@pytest.mark.parametrize('heading,count', ALL)
def test_numbered_and_answered(heading, count):
    qs = questions(heading)
    assert [n for n, _, _ in qs] == list(range(1, count+1))
    for n, title, body in qs:
        assert len(FOLDED.findall(body)) == body.count('<details>') == body.count('</details>') == 1, (heading, n)
        answer = FOLDED.search(body)[1]
        assert len(re.findall(r'[.!?:)](\s|$)', answer)) >= 2, f'{heading} {n}: hardly an answer'

def test_no_other_folds(): assert markdown().count('<details>') == sum(n for _, n in ALL)

def test_answers_point_to_notebooks():
    there = {o.stem for o in NBS.glob('[0-9]*.ipynb')}
    for heading, _ in ALL:
        for n, title, body in questions(heading):
            named = set(re.findall(r'`(\d\d_\w+)`', body))
            assert named & there, f'{heading} {n} names no notebook'
            assert named <= there, f'{heading} {n} names {named-there}'

def test_shown_code_is_code_that_runs():
    "Solutions and checks in the text, word for word, are in cells"
    run = '\n'.join(source(o) for o in cells() if o['cell_type'] == 'code')
    shown = re.findall(r'```python\n(.+?)\n```', markdown(), re.S)
    assert len(shown) >= 5
    for o in shown: assert o in run, o

def test_most_answers_are_run():
    "A code cell with an assertion before the next question"
    run, at = set(), None
    for o in cells():
        if o['cell_type'] == 'markdown':
            for m in re.finditer(r'^##(#?) (.+)$', source(o), re.M): at = m[2] if m[1] else None
        elif at and re.search(r'\bassert |test_eq|test_close|expect_fail', source(o)): run.add(at)
    titles = [f'{n}. {t}' for h, _ in ALL for n, t, _ in questions(h)]
    assert [t for t in titles if t not in run] == [titles[32]]   # the fields in which it is used: nothing to compute

def test_outputs_are_clean():
    for o in cells():
        for out in o.get('outputs', []):
            text = json.dumps(out)
            assert out['output_type'] != 'error' and 'Warning' not in text and '/root' not in text and '/home' not in text
