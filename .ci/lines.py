"""Names the lines of the modules that are over 100 characters:  python .ci/lines.py

A page shows 75 to 100 characters of a line, the rest scrolls. `__all__` and `_modidx.py` are nbdev's own, and wider."""
import re, sys
from pathlib import Path

LIMIT = 100

def long_lines(path):
    "Numbers and texts of the long lines of a module, but for `__all__`"
    text = path.read_text(encoding='utf-8')
    own = re.sub(r'^__all__ = \[.*?\]$', lambda m: '\n'*m[0].count('\n'), text, flags=re.M|re.S)
    return [(n, o) for n, o in enumerate(own.split('\n'), 1) if len(o) > LIMIT]

def main():
    modules = (o for o in sorted(Path('collab_notes').glob('*.py')) if o.name != '_modidx.py')
    found = [f'{o}:{n}: {text}' for o in modules for n, text in long_lines(o)]
    print('\n'.join(o[:160] for o in found))
    if found: sys.exit(f'{len(found)} lines are over {LIMIT} characters: break them in their notebooks')

if __name__ == '__main__': main()
