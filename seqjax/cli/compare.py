"""``seqjax compare`` compares two implementations, or two studies."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich import box
from rich.table import Table

from seqjax import datasets
from seqjax.cli.common import UsageError, at_least_one, console
from seqjax.cli.specification import implementation
from seqjax.compare import page
from seqjax.compare.divergence import Comparison, compare
from seqjax.compare.runs import RunsComparison, compare_runs, is_run
from seqjax.files import put_text

SHOWN_ROWS, SHOWN_COLUMNS = 40, 5


def compare_(
    a: Annotated[str, typer.Argument(help="'lstm,method=Scan(chunk=64),dtype=bfloat16,device=cpu:0'")],
    b: Annotated[str, typer.Argument(help="The same; or 'my_model.py:build', or the folder of a study.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Inputs: 'random', a .npy file [T, B, D] or [T, D], or any file as bytes; Moby-Dick by default."
        ),
    ] = None,
    length: Annotated[int, typer.Option(help="Number of time steps T.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Number of sequences B.")] = 4,
    input_size: Annotated[int, typer.Option(help="Input size D.")] = 32,
    hidden_size: Annotated[int, typer.Option(help="Hidden size of cells that are given by name alone.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of params, random inputs and cotangents.")] = 0,
    quantities: Annotated[
        str | None,
        typer.Option(
            help="Quantities of two studies to compare, separated by commas; the summaries by default."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for index.html and comparison.json.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare two implementations in value and gradient, or two studies by paired statistics.

    A and B are cells with a method, dtype and device, or your own functions build() -> (params, step) with
    step(params, carry, x) -> (carry, y). Or both are folders that 'seqjax gradients' wrote.
    The exit status is 0 when A and B are equal, 1 when they differ, 2 for bad input or too few seeds to decide.
    """
    _check_out(out)
    found: Comparison | RunsComparison
    try:
        if is_run(a) and is_run(b):
            found = compare_runs(
                a, b, quantities=[q.strip() for q in (quantities or "").split(",") if q.strip()]
            )
        elif is_run(a) or is_run(b):
            folder, other = (a, b) if is_run(a) else (b, a)
            raise UsageError(
                f"compare: expected two studies or two implementations, got the study {folder} and {other}. "
                "Give two of one kind."
            )
        else:
            for option, value in (
                ("--length", length),
                ("--batch-size", batch_size),
                ("--input-size", input_size),
            ):
                at_least_one(option, value)
            first, second = (
                implementation(text, at_least_one("--hidden-size", hidden_size)) for text in (a, b)
            )
            found = compare(first, second, inputs(data, length, batch_size, input_size, seed), seed=seed)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    command = shlex.join(["seqjax", *sys.argv[1:]])
    _write(out, found, command)
    _show(found)
    console.print(f"Open [bold]{(out / 'index.html').resolve()}[/bold]", soft_wrap=True)
    if isinstance(found, RunsComparison) and found.undecided:
        raise typer.Exit(2)
    if not found.equal:
        raise typer.Exit(1)


def inputs(data: str | None, length: int, batch_size: int, input_size: int, seed: int) -> np.ndarray:
    """Return inputs ``[T, B, D]``: random normal numbers, an array from a file, or a random vector per byte of a text.

    Windows are spread over the whole text. The vectors depend on the seed only.
    """
    rng = np.random.default_rng(seed)
    if data == "random":
        return rng.normal(size=(length, batch_size, input_size))
    if data is not None and data.endswith(".npy"):
        return _from_npy(data, length)
    text = datasets.moby_dick() if data is None else datasets.read_text(data)
    tokens = np.asarray(datasets.held_out_windows(text, batch_size, length)[0])
    return rng.normal(size=(256, input_size))[tokens]


def _from_npy(path: str, length: int) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"--data: {path} cannot be read as an array ({error}).") from None
    if array.ndim not in (2, 3) or not np.issubdtype(array.dtype, np.number):
        raise ValueError(
            f"--data: expected numbers [T, B, D] or [T, D], got {array.dtype} {list(array.shape)}."
        )
    array = array[:, None] if array.ndim == 2 else array
    return array[:length].astype(np.float64)


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: expected a folder, got the file {out}. Choose another name.")
    if out.is_dir() and any(out.iterdir()) and not (out / "comparison.json").exists():
        raise UsageError(f"--out: {out} is not empty and holds no comparison. Choose another folder.")


def _write(out: Path, found: Comparison | RunsComparison, command: str) -> None:
    files = {
        "index.html": page.to_html(found, command),
        "comparison.json": json.dumps(page.to_json(found, command), indent=1, allow_nan=False) + "\n",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            put_text(out / name, text)
    except OSError as error:
        raise UsageError(
            f"--out: {out} cannot be written ({error.strerror}). Choose another folder."
        ) from None


def _show(found: Comparison | RunsComparison) -> None:
    heads, rows, differ = page.table(found)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(heads[0], overflow="fold")
    for head in heads[1:SHOWN_COLUMNS]:
        table.add_column(head, justify="right", no_wrap=True)
    # When there are too many rows to show, rows that differ come first.
    order = (
        sorted(range(len(rows)), key=lambda i: not differ[i]) if len(rows) > SHOWN_ROWS else range(len(rows))
    )
    for i in list(order)[:SHOWN_ROWS]:
        table.add_row(*rows[i][:SHOWN_COLUMNS], style="bold red" if differ[i] else None)
    console.print(table)
    if len(rows) > SHOWN_ROWS:
        console.print(f"... and {len(rows) - SHOWN_ROWS} more rows in the page.")
    for remark in found.remarks:
        console.print(remark, soft_wrap=True, markup=False, highlight=False)
    console.print(
        page.verdict(found), style="bold" if found.equal else "bold red", soft_wrap=True, markup=False
    )
