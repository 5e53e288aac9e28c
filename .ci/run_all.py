"""Runs notebooks as Jupyter's "Run All" does:  python .ci/run_all.py [NOTEBOOK…]   (all of `nbs/`, if none is named)

Every code cell runs, in order, whatever its directives say; what takes minutes guards itself (`if SLOW:`). Each notebook is copied into an
empty folder and runs there, in a kernel of its own, so it can lean on no neighbour. The README's notebook is the exception: it
shows what `benchmarks/` has measured, and runs where it stands. Exits with 1 if a cell fails, a notebook takes too long, or nothing ran."""
import argparse, asyncio, re, sys, tempfile, time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbdev.config import get_config

ROOT = Path(__file__).resolve().parents[1]

def found(folder):
    "The notebooks in a folder and those below it, but for hidden ones and what tools have left"
    return sorted(o for o in folder.rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(folder).parts))

def colourless(text): return re.sub(r'\x1b\[[0-9;]*m', '', text)

async def run_all(path, limit, stays):
    "Run the cells of a notebook: how many there are, seconds, and what went wrong"
    nb,start = nbformat.read(path, 4),time.monotonic()
    n,past = sum(c.cell_type=='code' and bool(c.source.strip()) for c in nb.cells),lambda: time.monotonic()-start
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(nb, kernel_name='python3', extra_arguments=['--log-level=40'], resources=dict(metadata=dict(path=str(path.parent if stays else folder))),
                                timeout_func=lambda cell: max(int(limit-past()), 1))   # what is left for this cell and all after it
        why = ''
        try: await client.async_execute()
        except CellExecutionError as e: why = colourless(str(e))
        except CellTimeoutError as e: why = f'not done after {limit:g} s; it was at\n{e}'
        except DeadKernelError as e: why = f'the kernel died: {e}'
    return n, past(), why

async def run_many(paths, workers, limit, stays):
    "Run notebooks, `workers` at a time, and say of each how it went; how many passed, their cells, the names of those that failed"
    turn,passed,cells,failed = asyncio.Semaphore(workers),0,0,[]
    async def one(path):
        async with turn: return path, *await run_all(path, limit, path.name==stays)
    for job in asyncio.as_completed([asyncio.create_task(one(o)) for o in paths]):   # tasks start in order
        path,n,seconds,why = await job
        print(f"{'FAILED' if why else 'ok':<7}{path.stem:<24}{n:>4} cells {seconds:>6.1f} s", flush=True)
        if why: print(why, file=sys.stderr, flush=True)
        if why: failed.append(path.stem)
        else: passed,cells = passed+1,cells+n
    return passed, cells, failed

def main(args=None):
    p = argparse.ArgumentParser(description='Run every cell of notebooks, as Jupyter does, from an empty folder.')
    p.add_argument('paths', nargs='*', type=Path, help='notebooks, or folders of notebooks (default: nbs)')
    p.add_argument('--workers', type=int, default=2, help='notebooks at a time (default: 2)')
    p.add_argument('--limit', type=float, default=900, help='seconds for a notebook (default: 900)')
    args = p.parse_args(args)
    paths = [n for o in args.paths or [ROOT/'nbs'] for n in (found(o) if o.is_dir() else [o])]
    if lack := [str(o) for o in paths if not o.is_file()]: sys.exit(f"Run All: there is no {', '.join(lack)}")
    passed,cells,failed = asyncio.run(run_many(paths, args.workers, args.limit, get_config(ROOT).readme_nb))
    print(f'Run All: {passed} notebooks, {cells} code cells ran')
    if failed: sys.exit(f"Run All: {len(failed)} notebooks failed: {', '.join(sorted(failed))}")
    if not cells: sys.exit('Run All: nothing ran')

if __name__ == '__main__': main()
