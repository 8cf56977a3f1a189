"""The command line: ``seqjax gradients | render | list``."""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from seqjax.cells import REGISTRY, vector
from seqjax.report import catalogue, study
from seqjax.report import settings as options
from seqjax.report.page import render as render_page
from seqjax.report.store import Store
from seqjax.tasks import TASKS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Measure how gradients travel through time in recurrent networks.",
)
console = Console()
DEFAULTS = options.Settings()


class UsageError(Exception):
    """Bad input: its text is shown, and the exit status is 2."""


def _joined(values: Iterable[Any]) -> str:
    return ",".join(str(value) for value in values)


@app.command()
def gradients(
    cells: Annotated[
        str, typer.Option(help="Cells to compare, separated by commas; see 'seqjax list'.")
    ] = _joined(DEFAULTS.cells),
    lengths: Annotated[str, typer.Option(help="Sequence lengths T, separated by commas.")] = _joined(
        DEFAULTS.lengths
    ),
    hidden_size: Annotated[int, typer.Option(help="Width of the recurrent layer.")] = DEFAULTS.hidden_size,
    batch: Annotated[
        int, typer.Option(help="Sequences per training step, and per profile.")
    ] = DEFAULTS.batch,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = DEFAULTS.seeds,
    training_steps: Annotated[int, typer.Option(help="Training steps per run.")] = DEFAULTS.training_steps,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of Adam.")] = DEFAULTS.learning_rate,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(options.DTYPES)}.")] = DEFAULTS.dtype,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(options.METHODS)}.")] = DEFAULTS.method,
    task: Annotated[str, typer.Option(help=f"One of text, {', '.join(TASKS)}.")] = DEFAULTS.task,
    data: Annotated[Path | None, typer.Option(help="Any file, text or binary, instead of Moby-Dick.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the report in that folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the report in that folder.")
    ] = False,
) -> None:
    """Measure the gradient by every time step's state, by cell and length, before and after a short training.

    Writes index.html (open it in any browser), results.parquet, summary.json and figures/*.svg. Ctrl-C keeps what is
    finished; --resume continues.
    """
    if data is not None and task != "text":
        raise UsageError(f"--data goes with --task text, not with --task {task}.")
    settings = options.Settings(
        cells=_names("--cells", cells, [name for name, entry in REGISTRY.items() if entry.example is vector]),
        lengths=_numbers("--lengths", lengths),
        hidden_size=_at_least_one("--hidden-size", hidden_size),
        batch=_at_least_one("--batch", batch),
        seeds=_at_least_one("--seeds", seeds),
        training_steps=_at_least_one("--training-steps", training_steps),
        learning_rate=learning_rate,
        dtype=_one_of("--dtype", dtype, options.DTYPES),
        method=_one_of("--method", method, options.METHODS),
        task=_one_of("--task", task, ("text", *TASKS)),
        data=None if data is None else str(data),
    )
    if not 0 < learning_rate < float("inf"):
        raise UsageError(f"--learning-rate: expected a number above 0, got {learning_rate}.")
    if settings.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    store = Store(out)
    try:
        options.check(settings)
        text = options.load_data(settings)
        for length in settings.lengths:
            options.check_text(text, length)
        store.open(settings.to_json(), resume=resume, overwrite=overwrite)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UsageError(str(error)) from None

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console
    ) as bar:
        job = bar.add_task("starting", total=study.total_work(settings))
        complete = study.run(
            settings,
            text,
            store,
            advance=lambda work: bar.advance(job, work),
            describe=lambda what: bar.update(job, description=what),
        )
    page = render_page(out)
    if not complete:
        console.print("Interrupted. The finished runs are kept; the same command with --resume continues.")
        console.print(f"Open {page.resolve()}", soft_wrap=True)
        raise typer.Exit(130)
    console.print(f"Open [bold]{page.resolve()}[/bold]", soft_wrap=True)


@app.command()
def render(folder: Annotated[Path, typer.Argument(help="A report's folder.")]) -> None:
    """Write the page and the figures of a report again, without measuring."""
    store = Store(folder)
    try:
        if store.summary is None:
            raise ValueError(
                f"{folder} holds no report: it has no summary.json. Make one with 'seqjax gradients'."
            )
        store.merge()
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    console.print(f"Open [bold]{render_page(folder).resolve()}[/bold]", soft_wrap=True)


@app.command("list")
def list_() -> None:
    """Show the cells, methods and tasks there are."""
    for table in (catalogue.cells(), catalogue.methods(), catalogue.tasks()):
        shown = Table(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def main() -> None:
    """Run the command line: bad input is one line on stderr and exit status 2."""
    try:
        code = app(standalone_mode=False)
    except (UsageError, typer.TyperException) as error:
        print(f"seqjax: {str(error) or error.format_message()}", file=sys.stderr)  # type: ignore[union-attr]
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        print("seqjax: interrupted.", file=sys.stderr)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _names(option: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option}: expected at least one name, got {text!r}.")
    return tuple(dict.fromkeys(_one_of(option, name, known) for name in names))


def _one_of(option: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, 1, 0.4)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names)}."
    raise UsageError(f"{option}: unknown name {name!r}. {hint} 'seqjax list' shows all.")


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise UsageError(f"{option}: expected whole numbers separated by commas, got {text!r}.")
    return tuple(sorted({_at_least_one(option, number) for number in numbers}))


def _at_least_one(option: str, number: int) -> int:
    if number < 1:
        raise UsageError(f"{option}: expected a whole number of at least 1, got {number}.")
    return number
