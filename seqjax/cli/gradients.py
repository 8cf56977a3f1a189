"""``seqjax gradients`` measures, ``seqjax render`` draws again."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from seqjax.cells import REGISTRY, vector
from seqjax.cli.common import UsageError, at_least_one, console, names, numbers, one_of, option, progress_bar
from seqjax.files import why
from seqjax.report import settings as options
from seqjax.report import study
from seqjax.report.own import is_own
from seqjax.report.page import render as render_page
from seqjax.report.sections import NAMES
from seqjax.report.store import Store
from seqjax.tasks import TASKS

PROFILES = ", ".join(options.PROFILES)


def _setting(what: str, name: str) -> Any:
    default = getattr(options.Settings(), name)
    of_all = all(getattr(profile, name) == default for profile in options.PROFILES.values())
    return option(what, default, otherwise="by default" if of_all else "without a profile")


def gradients(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model of your own, file.py:function; with --cells beside these.", show_default=False
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help=f"Sizes of everything: one of {PROFILES}. The options below change single ones."),
    ] = None,
    cells: Annotated[
        str | None, _setting("Cells to compare, separated by commas (see 'seqjax list')", "cells")
    ] = None,
    lengths: Annotated[str | None, _setting("Sequence lengths T, separated by commas", "lengths")] = None,
    hidden_size: Annotated[int | None, _setting("Width of the recurrent layer", "hidden_size")] = None,
    batch: Annotated[int | None, _setting("Sequences per training step, and per profile", "batch")] = None,
    seeds: Annotated[int | None, _setting("How many seeds, from 0", "seeds")] = None,
    training_steps: Annotated[int | None, _setting("Training steps per run", "training_steps")] = None,
    learning_rate: Annotated[float | None, _setting("Learning rate of Adam", "learning_rate")] = None,
    dtype: Annotated[str | None, _setting(f"One of {', '.join(options.DTYPES)}", "dtype")] = None,
    method: Annotated[str | None, _setting(f"One of {', '.join(options.METHODS)}", "method")] = None,
    task: Annotated[str | None, _setting(f"One of text, {', '.join(TASKS)}", "task")] = None,
    data: Annotated[Path | None, typer.Option(help="Any file, text or binary, instead of Moby-Dick.")] = None,
    sections: Annotated[
        str | None, typer.Option(help=f"Sections of the report, all by default: {', '.join(NAMES)}.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Cells measured at the same time; one per core by default, 8 at most.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the report in that folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the report in that folder.")
    ] = False,
) -> None:
    """Measure how gradients travel through time, by cell and length, before and after a short training.

    A model of your own is a function build() -> (params, step) or (params, step, carry), with step(params, carry, x) ->
    (carry, y) for one example at one time step, x [D] with D of --hidden-size; or build() -> a seqjax Cell or Layer.

    Writes index.html (open it in any browser), results.parquet, summary.json and figures/*.svg. Ctrl-C keeps what is
    finished; --resume continues.
    """
    known = [name for name, entry in REGISTRY.items() if entry.example is vector]
    given: dict[str, Any] = {
        "cells": (*([model] if model else []), *(names("--cells", cells, known) if cells is not None else []))
        or None,
        "lengths": lengths and numbers("--lengths", lengths),
        "hidden_size": hidden_size,
        "batch": batch,
        "seeds": seeds,
        "training_steps": training_steps,
        "learning_rate": learning_rate,
        "dtype": dtype and one_of("--dtype", dtype, options.DTYPES),
        "method": method and one_of("--method", method, options.METHODS),
        "task": task and one_of("--task", task, ("text", *TASKS)),
        "data": None if data is None else str(data),
        "sections": sections and names("--sections", sections, NAMES),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    base = options.PROFILES[one_of("--profile", profile, options.PROFILES)] if profile else options.Settings()
    if model is not None and not is_own(model):
        raise UsageError(
            f"{model}: expected a model of your own as file.py:function. A cell goes with --cells {model}."
        )
    settings = replace(base, **chosen)
    for name in ("hidden_size", "batch", "seeds", "training_steps"):
        at_least_one(f"--{name.replace('_', '-')}", getattr(settings, name))
    if workers is not None:
        at_least_one("--workers", workers)
    if settings.data is not None and settings.task != "text":
        raise UsageError(f"--data goes with --task text, not with --task {settings.task}.")
    if not 0 < settings.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate: expected a number above 0, got {settings.learning_rate}.")
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
        raise UsageError(" ".join(str(error).split())) from None

    try:
        with progress_bar() as bar:
            job = bar.add_task("starting", total=study.total_work(settings))
            complete = study.run(
                settings,
                text,
                store,
                advance=lambda work: bar.advance(job, work),
                describe=lambda what: bar.update(job, description=what),
                workers=workers,
            )
        page = render_page(out)
    except OSError as error:
        raise UsageError(
            f"--out: {out} cannot be written ({why(error)}). The finished parts are kept; the same command with "
            "--resume continues."
        ) from None
    if not complete:
        console.print("Interrupted. The finished parts are kept; the same command with --resume continues.")
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
        page = render_page(folder)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({why(error)}).") from None
    console.print(f"Open [bold]{page.resolve()}[/bold]", soft_wrap=True)
