"""``seqjax compare`` compares two implementations, or two studies."""

import json
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich import box
from rich.table import Table

from seqjax import datasets
from seqjax.base import Layer
from seqjax.checks import LARGEST, check_whole
from seqjax.cli.common import (
    UsageError,
    at_least_one,
    console,
    one_line,
    progress_bar,
    usage_errors,
)
from seqjax.cli.output import check_folder, writing
from seqjax.cli.specification import implementation
from seqjax.compare import page
from seqjax.compare.divergence import PARTS, Comparison, compare
from seqjax.compare.runs import RunsComparison, compare_runs, is_run
from seqjax.files import put_text
from seqjax.sizes import check_size

SHOWN_ROWS, SHOWN_COLUMNS = 40, 5


def compare_(
    a: Annotated[str, typer.Argument(help="'lstm,method=scan(chunk=64),dtype=bfloat16,device=cpu:0'")],
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
    cells: Annotated[
        str | None,
        typer.Option(
            help="Cells of two studies to compare: A's name=B's name, separated by commas; or 'position', the first "
            "with the first, and so on. By default those of one name.",
            show_default=False,
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
    with usage_errors():
        runs = is_run(a), is_run(b)
        if all(runs):
            wanted = [q.strip() for q in (quantities or "").split(",") if q.strip()]
            found = compare_runs(a, b, cells=_pairs(cells), quantities=wanted)
        elif any(runs):
            folder, other = (a, b) if runs[0] else (b, a)
            raise UsageError(
                f"compare: expected two studies or two implementations, got the study {folder} and {other}. "
                "Give two of one kind."
            )
        elif cells is not None:
            raise UsageError("--cells goes with two studies, got two implementations. Leave it out.")
        else:
            _check_sizes(seed, **{"--length": length, "--batch-size": batch_size, "--input-size": input_size})
            first, second = (
                implementation(text, at_least_one("--hidden-size", hidden_size)) for text in (a, b)
            )
            xs = inputs(data, length, batch_size, input_size, seed)
            for text, each in ((a, first), (b, second)):
                if isinstance(each.make, Layer) and len(xs):
                    check_size(text, each.make, jax.ShapeDtypeStruct(xs.shape[1:], jnp.float32))
            with progress_bar() as bar:
                job = bar.add_task("starting", total=len(PARTS))

                def begin(part: str) -> None:
                    bar.update(job, description=part, completed=PARTS.index(part))

                found = compare(first, second, xs, seed=seed, progress=begin)
                bar.update(job, description="compared", completed=len(PARTS), total=len(PARTS))
    command = shlex.join(["seqjax", *sys.argv[1:]])
    _write(out, found, command)
    _show(found)
    console.print(f"Open [bold]{(out / 'index.html').resolve()}[/bold]", soft_wrap=True)
    if isinstance(found, RunsComparison) and found.undecided:
        raise typer.Exit(2)
    if not found.equal:
        raise typer.Exit(1)


def _pairs(cells: str | None) -> dict[str, str] | Literal["position"] | None:
    """Return the pairs of cells of the option ``--cells``."""
    if cells is None or cells.strip() == "position":
        return None if cells is None else "position"
    pairs = [part.split("=") for part in cells.split(",") if part.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UsageError(
            f"--cells: expected pairs such as old.py:build=new.py:build, or position, got {cells!r}."
        )
    return {first.strip(): second.strip() for first, second in pairs}


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
    """Return the first steps of an array, which alone are read; its size is checked against that of the file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"--data: expected a file, got {path}, which is none. Save the array to a file.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged header leads to
        raise ValueError(f"--data: {path} cannot be read as an array ({one_line(error)}).") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"--data: expected one array, got {path}, which holds several. Save one with numpy.save."
        )
    if array.ndim not in (2, 3) or array.dtype.kind not in "iuf":
        raise ValueError(
            f"--data: expected numbers [T, B, D] or [T, D], got {array.dtype} {list(array.shape)}."
        )
    array = (array[:, None] if array.ndim == 2 else array)[:length]
    _check_product("--data", *array.shape)
    return array.astype(np.float64)


def _check_sizes(seed: int, **sizes: int) -> None:
    check_whole("--seed", seed, least=0)
    for option, size in sizes.items():
        at_least_one(option, size)
    _check_product(" times ".join(sizes), *sizes.values())


def _check_product(what: str, *sizes: int) -> None:
    if math.prod(sizes) > LARGEST:
        raise ValueError(
            f"{what}: expected less than 2^31 numbers, got {math.prod(sizes)}. Use smaller sizes."
        )


def _check_out(out: Path) -> None:
    check_folder(out)
    if os.path.isdir(out) and any(out.iterdir()) and not (out / "comparison.json").exists():
        raise UsageError(f"--out: {out} is not empty and holds no comparison. Choose another folder.")


def _write(out: Path, found: Comparison | RunsComparison, command: str) -> None:
    files = {  # comparison.json first: it marks the folder as that of a comparison
        "comparison.json": json.dumps(page.to_json(found, command), indent=1, allow_nan=False) + "\n",
        "index.html": page.to_html(found, command),
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            put_text(out / name, text)


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
