"""``seqjax gradients`` measures, ``seqjax render`` draws again."""

from pathlib import Path
from typing import Annotated

import jax
import typer

from seqjax.cells import REGISTRY, vector
from seqjax.cli.common import UsageError, at_least_one, console, joined, names, numbers, one_of, progress_bar
from seqjax.report import settings as options
from seqjax.report import study
from seqjax.report.page import render as render_page
from seqjax.report.store import Store
from seqjax.tasks import TASKS

DEFAULTS = options.Settings()


def gradients(
    cells: Annotated[
        str, typer.Option(help="Cells to compare, separated by commas; see 'seqjax list'.")
    ] = joined(DEFAULTS.cells),
    lengths: Annotated[str, typer.Option(help="Sequence lengths T, separated by commas.")] = joined(
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
        cells=names("--cells", cells, [name for name, entry in REGISTRY.items() if entry.example is vector]),
        lengths=numbers("--lengths", lengths),
        hidden_size=at_least_one("--hidden-size", hidden_size),
        batch=at_least_one("--batch", batch),
        seeds=at_least_one("--seeds", seeds),
        training_steps=at_least_one("--training-steps", training_steps),
        learning_rate=learning_rate,
        dtype=one_of("--dtype", dtype, options.DTYPES),
        method=one_of("--method", method, options.METHODS),
        task=one_of("--task", task, ("text", *TASKS)),
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

    with progress_bar() as bar:
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
