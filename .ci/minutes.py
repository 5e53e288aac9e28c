"""How many minutes a notebook takes to read:  python .ci/minutes.py

Words / 200, and three seconds a line of code. The README's tour shows it for each lesson."""
import json, re
from pathlib import Path

NBS = Path(__file__).resolve().parents[1]/'nbs'

def minutes(path):
    "Minutes for the notebook at `path`"
    words = code = 0
    for c in json.loads(Path(path).read_text(encoding='utf-8'))['cells']:
        text = ''.join(c['source'])
        if c['cell_type']=='markdown': words += len(re.findall(r'\w+', text))
        elif c['cell_type']=='code': code += sum(bool(o.strip()) for o in text.split('\n'))
    return words/200 + code*3/60

def main():
    for o in sorted(NBS.glob('*.ipynb')): print(f'{o.stem:<22}{minutes(o):>5.0f}')

if __name__ == '__main__': main()
