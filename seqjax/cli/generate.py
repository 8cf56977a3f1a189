"""``seqjax generate``: use a trained run: continue a text, or print an answer per line or file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seqjax import datasets
from seqjax.cli.common import UsageError, at_least_one, usage_errors
from seqjax.cli.forecast_plot import check_plot, draw_forecast
from seqjax.cli.output import writing
from seqjax.cli.trained import AllowCode, BeamSize, Newest, RunFolder, beam_size_of, check_options, load
from seqjax.datasets.strings import lines_of
from seqjax.training.applications import KINDS
from seqjax.training.applications.common import Trained
from seqjax.training.applications.folders import files_in
from seqjax.training.applications.forecast import forecast, lines_of_forecast
from seqjax.training.applications.language import sample


def generate(
    folder: RunFolder,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Text files, one input per line; by default the lines of stdin. Speech and captions: recordings or "
            "images, or folders of them. Forecast: a table.",
            show_default=False,
        ),
    ] = None,
    *,
    prompt: Annotated[
        str | None, typer.Option(help="Language: the text to continue.", show_default=False)
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Language: number of tokens to sample; 200 by default.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Language: temperature of sampling; 1 by default.", show_default=False),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Language: probability of the nucleus; 1 by default.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Language: seed; 0 by default.", show_default=False)
    ] = None,
    beam_size: BeamSize = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Forecast: a picture of it, .png, .svg or .pdf.", show_default=False),
    ] = None,
    newest: Newest = False,
    allow_code: AllowCode = False,
) -> None:
    """Use a trained run: sample text, or print one answer per input.

    A run of language continues --prompt. A run of classes prints the class of each line and its probability, separated
    by a tab. A run of translation prints the translation of each line. Runs of speech and captions print the path of
    each file and its text, separated by a tab. A run of forecast prints a table: series, step ahead, and quantiles. The
    training data are not needed.
    """
    if plot is not None:
        check_plot(plot)
    trained = load(folder, newest, allow_code)
    of_language = {
        "prompt": prompt,
        "tokens": tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    check_options(trained, **of_language, beam_size=beam_size, plot=plot)
    if trained.recipe.task == "text":
        if files:
            raise UsageError(f"generate: expected --prompt for a run of language, got the file {files[0]}.")
        begin = prompt or ""
        count = at_least_one("--tokens", 200 if tokens is None else tokens)
        with usage_errors():
            made = sample(
                trained,
                begin,
                tokens=count,
                temperature=1.0 if temperature is None else temperature,
                top_p=1.0 if top_p is None else top_p,
                seed=0 if seed is None else seed,
            )
        typer.echo(begin + made)
        return
    size, task = beam_size_of(beam_size), trained.recipe.task
    suffixes = KINDS[task].suffixes
    with usage_errors():
        inputs = _files(task, suffixes, files or []) if suffixes else _lines(files or [])
        lines = _forecast(trained, inputs, plot) if task == "forecast" else ()
        for line in lines or (KINDS[task].answer(trained, inputs, size) if inputs else []):
            typer.echo(line)


def _forecast(trained: Trained, files: list[str], plot: Path | None) -> list[str]:
    """Return the lines of the forecast of a table, and draw it."""
    if len(files) != 1:
        raise ValueError(f"generate: expected one table, got {len(files)} files. Name one of them.")
    found = forecast(trained, files[0])
    if plot is not None:
        with writing(plot, "--plot"):
            draw_forecast(found, plot)
    return lines_of_forecast(found)


def _files(task: str, suffixes: Sequence[str], files: list[str]) -> list[str]:
    """Return the files, and in place of each folder the files of the kind in it."""
    found = []
    for file in files:
        there = files_in(Path(file), suffixes) if Path(file).is_dir() else [file]
        if not there:
            raise ValueError(f"generate: expected files {', '.join(suffixes)} in '{file}', got none.")
        found += there
    if not found:
        raise ValueError(f"generate: expected files for a run of {task} ({', '.join(suffixes)}), got none.")
    return found


def _lines(files: list[str]) -> list[str]:
    """Return the lines of files, or of stdin; lines without text are refused, so that answers stay beside them."""
    found = []
    for file in files or ["-"]:
        text = sys.stdin.read() if file == "-" else datasets.read_string(file)
        for number, line in enumerate(lines_of(text) if text else [], 1):
            if not line.strip():
                where = "stdin" if file == "-" else f"'{file}'"
                raise ValueError(
                    f"generate: expected a text, got the empty line {number} of {where}. Remove the line."
                )
            found.append(line)
    return found
