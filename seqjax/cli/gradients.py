"""``seqjax gradients`` measures gradients and writes the report; ``seqjax render`` writes the report again."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from seqjax.checks import check_whole
from seqjax.cli.common import UsageError, console, one_of, progress_bar, usage_errors
from seqjax.cli.options import options_of
from seqjax.cli.output import check_folder
from seqjax.fields import check_fields
from seqjax.files import why
from seqjax.report.page import render as render_page
from seqjax.report.run_page import is_run, render_run
from seqjax.report.sections import NAMES
from seqjax.study import presets, runner
from seqjax.study import settings as options
from seqjax.study.record import DamagedError, record_of
from seqjax.study.settings import Settings
from seqjax.study.store import Store
from seqjax.user_model import is_own

PRESETS = ", ".join(presets.PRESETS)


def _otherwise(name: str) -> str:
    """Return when the default of a setting applies."""
    default = getattr(Settings(), name)
    of_all = all(getattr(preset, name) == default for preset in presets.PRESETS.values())
    return "by default" if of_all else "without a preset"


@options_of(
    Settings,
    leave_out=("preset",),
    help={"sections": f"Sections of the report, all by default: {', '.join(NAMES)}"},
    otherwise=_otherwise,
)
def gradients(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models of your own, file.py:function; cells given by --cells are measured as well.",
            show_default=False,
        ),
    ] = None,
    *,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Preset of all settings: one of {PRESETS}. The options below change single settings."
        ),
    ] = None,
    given: dict[str, Any],
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of cells measured at the same time; by default one per core, 8 at most.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the report in that folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the report in that folder.")
    ] = False,
    other_versions: Annotated[
        bool,
        typer.Option(
            "--other-versions",
            help="Continue with other versions of packages or on another device, and log it in summary.json.",
        ),
    ] = False,
) -> None:
    """Measure how gradients travel through time, by cell and length, before and after a short training.

    Your own model is a function build() -> (params, step) or (params, step, carry), with step(params, carry, x) ->
    (carry, y) for one example at one time step, where x is [D] with D = --hidden-size; or build() -> a seqjax Cell or
    Layer. It gets hidden_size= and seed= where it has these arguments; one with vocabulary_size= reads tokens, and one
    with num_outputs= returns the outputs of the task.

    Writes index.html (open it in any browser), results.parquet, summary.json and figures/*.svg. Ctrl-C keeps the
    finished parts; --resume continues the study with the same settings, text, models and versions.
    """
    settings = _settings(models or [], preset, given)
    if workers is not None:
        with usage_errors():
            check_whole("--workers", workers, most=1000)
    check_folder(out)
    store = Store(out, warn=lambda text: typer.echo(f"seqjax: {text}", err=True))
    with usage_errors():
        check_fields(settings)  # before the switch to float64
        if settings.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        options.check(settings)
        text = options.load_data(settings)
        for length in settings.lengths:
            options.check_text(text, length)
        store.open(
            record_of(settings, text), resume=resume, overwrite=overwrite, other_versions=other_versions
        )

    try:
        with store, progress_bar() as bar:
            job = bar.add_task("starting", total=runner.total_work(settings))
            complete = runner.run(
                settings,
                text,
                store,
                advance=lambda work: bar.advance(job, work),
                describe=lambda what: bar.update(job, description=what),
                workers=workers,
            )
        with usage_errors(of=(ValueError,)):
            page = render_page(out)
    except DamagedError as error:
        raise UsageError(str(error)) from None
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


def _settings(models: list[str], preset: str | None, given: dict[str, Any]) -> Settings:
    """Return the settings of a preset, changed by the arguments and the options."""
    base = presets.PRESETS[one_of("--preset", preset, presets.PRESETS)] if preset is not None else Settings()
    for model in models:
        if not is_own(model):
            raise UsageError(
                f"{model}: expected your own model as file.py:function. Give a cell by --cells {model}."
            )
    if models:
        given["cells"] = tuple(dict.fromkeys([*models, *given.get("cells", ())]))
    for section in given.get("sections", ()):
        one_of("--sections", section, NAMES)
    return replace(base, **given)


def render(
    folder: Annotated[
        Path, typer.Argument(help="The folder of a report, or of a training with instruments.")
    ],
) -> None:
    """Write the page and the figures of a report again, or of a training, from the measurements in its folder.

    A training measures with 'seqjax train --instruments', or with fit(instruments=...) in Python. It may still run.
    """
    try:
        with usage_errors(of=(ValueError,)):
            page = render_run(folder) if is_run(folder) else render_page(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({why(error)}).") from None
    console.print(f"Open [bold]{page.resolve()}[/bold]", soft_wrap=True)
