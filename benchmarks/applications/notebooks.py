"""Run notebooks: ``python -m benchmarks.applications.notebooks [--full] [--write] [NAME ...]``; ``make notebook``.

The data are fetched first. By default the notebooks run at toy size, two at a time, and their outputs are discarded. A
notebook whose data cannot be fetched is skipped; the last line says so.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.applications.application import missing_data
from seqjax.datasets.sources import FetchError, fetch
from seqjax.names import known_name

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
TOY_VARIABLE = "SEQJAX_TOY"
AT_ONCE = 2
CELL_SECONDS = 3600
PAUSE = 5.0
"""Seconds before a fetch that failed is tried again."""


def main(words: Sequence[str] | None = None) -> int:
    """Fetch data, run the notebooks, and return the exit status: 1 when one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.applications.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks to run; by default all")
    parser.add_argument("--full", action="store_true", help="run them as committed, one at a time")
    parser.add_argument("--write", action="store_true", help="write the outputs into the notebooks")
    options = parser.parse_args(words)
    paths = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    try:
        chosen = [paths[known_name(name, paths)] for name in options.names] or list(paths.values())
    except ValueError as error:
        parser.error(str(error))
    return run_all(
        chosen,
        toy=not options.full,
        execute=lambda path: execute(path, write=options.write),
        at_once=1 if options.full else AT_ONCE,
    )


def run_all(
    paths: Sequence[Path], *, toy: bool, execute: Callable[[Path], None], at_once: int, pause: float = PAUSE
) -> int:
    """Run the notebooks whose data are there, and return the exit status."""
    skipped = {path.stem: reason for path in paths if (reason := _fetch(path.stem, pause))}
    os.environ.pop(TOY_VARIABLE, None)
    if toy:
        os.environ[TOY_VARIABLE] = "1"
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)

    def timed(path: Path) -> str | None:
        start = time.perf_counter()
        try:
            execute(path)
        except Exception as error:
            print(f"{path.stem}: failed\n{error}", file=sys.stderr, flush=True)
            return path.stem
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        return None

    with ThreadPoolExecutor(at_once) as pool:
        failed = [name for name in pool.map(timed, [p for p in paths if p.stem not in skipped]) if name]
    if failed:
        print(f"FAILED notebooks: {', '.join(failed)}", file=sys.stderr, flush=True)
    for name, reason in skipped.items():
        print(f"SKIPPED notebook {name}, without its data: {reason}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def execute(path: Path, *, write: bool = False) -> None:
    """Run a notebook in a kernel of its own; raise the error of the first cell that fails."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    if write:
        nbformat.write(notebook, path)


def _fetch(name: str, pause: float) -> str:
    """Fetch the data of a notebook, each twice at most; return why they are absent, or an empty text."""
    for source in missing_data(name):
        for left in (1, 0):
            try:
                fetch(source, report=lambda line: print(line, flush=True))
                break
            except FetchError as error:
                if not left:
                    return str(error)
                print(f"{name}: {error} Trying again.", file=sys.stderr, flush=True)
                time.sleep(pause)
    return ""


if __name__ == "__main__":
    sys.exit(main())
