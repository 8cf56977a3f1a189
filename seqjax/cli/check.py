"""``seqjax check`` compares the probes with closed forms."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from seqjax import calibration
from seqjax.cli.common import UsageError, console, progress_bar
from seqjax.cli.output import check_file, writing
from seqjax.files import put_text


def check(
    dtype: Annotated[
        str, typer.Option(help=f"The dtype of the probes: {' or '.join(calibration.DTYPES)}.")
    ] = "float64",
    only: Annotated[
        str | None,
        typer.Option(help="Ids of closed forms, separated by commas, such as C5,C12; all by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")] = None,
) -> None:
    """Run every probe on systems with closed forms, and show exact and measured values side by side.

    The exit status is 0 when every check passes, 1 when one fails, 2 for bad input.
    """
    ids = calibration.IDS if only is None else tuple(i.strip().upper() for i in only.split(",") if i.strip())
    for option, known, given in (("--dtype", calibration.DTYPES, [dtype]), ("--only", calibration.IDS, ids)):
        if not given or not set(given) <= set(known):
            raise UsageError(f"{option}: expected {' or '.join(known)}, got {', '.join(given) or 'none'}.")
    if out is not None:
        check_file(out)
    if as_json:
        rows = calibration.run(dtype, only=ids)  # type: ignore[arg-type]
    else:
        with progress_bar() as bar:
            job = bar.add_task("starting")

            def progress(done: int, total: int, text: str) -> None:
                bar.update(job, completed=done, total=total, description=escape(text) or "calibrated")

            rows = calibration.run(dtype, only=ids, progress=progress)  # type: ignore[arg-type]
    found = calibration.to_json(rows, dtype)  # type: ignore[arg-type]
    text = json.dumps(found, indent=2)
    if as_json:
        typer.echo(text)
    else:
        show(rows, f"{found['num_passed']} of {found['num_checks']} pass in {dtype} on {found['device']}")
    if out is not None:
        with writing(out):
            put_text(out, text + "\n")
    if not found["passed"]:
        raise typer.Exit(1)


def show(rows: Sequence[calibration.Row], title: str) -> None:
    """Print the rows as a table, and the errors of failed checks below it."""
    table = Table(title=f"Calibration: {title}", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in ("id", "quantity", "exact", "measured", "error", "tolerance", "verdict"):
        table.add_column(column, justify="left" if column in ("id", "quantity", "verdict") else "right")
    for row in rows:
        kind = " rel" if row.relative else ""
        verdict = "[green]pass[/green]" if row.passed else "[bold red]FAIL[/bold red]"
        cells = (f"{row.exact:.7g}", f"{row.measured:.7g}", f"{row.error:.1e}", f"{row.tolerance:.1e}{kind}")
        table.add_row(row.id, escape(row.quantity), *cells, verdict)
    console.print(table)
    for row in rows:
        if row.message:
            console.print(f"{row.id} {row.quantity}: {row.message}", markup=False, style="red")
