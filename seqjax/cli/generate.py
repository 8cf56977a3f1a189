"""``seqjax generate``: use a trained run. Continue a text, or answer lines: their classes, or translations."""

import sys
from typing import Annotated

import typer

from seqjax import datasets
from seqjax.cli.common import UsageError, at_least_one, usage_errors
from seqjax.cli.trained import AllowCode, Newest, RunFolder, check_options, load
from seqjax.datasets.strings import lines_of
from seqjax.training.applications import KINDS
from seqjax.training.applications.language import sample


def generate(
    folder: RunFolder,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Text files, one input per line; by default the lines of stdin.", show_default=False
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
    beam_size: Annotated[
        int | None,
        typer.Option(help="Translation: hypotheses of the beam search; 4 by default.", show_default=False),
    ] = None,
    newest: Newest = False,
    allow_code: AllowCode = False,
) -> None:
    """Use a trained run: sample text, or print one answer per input line.

    A run of language continues --prompt. A run of classes prints the class of each line and its probability, separated
    by a tab. A run of translation prints the translation of each line. The training data are not needed.
    """
    trained = load(folder, newest, allow_code)
    of_language = {
        "prompt": prompt,
        "tokens": tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    check_options(trained, ("text",), **of_language)
    check_options(trained, ("translation",), beam_size=beam_size)
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
    size = at_least_one("--beam-size", 4 if beam_size is None else beam_size)
    kind = KINDS[trained.recipe.task]
    with usage_errors():
        lines = _lines(files or [])
        for line in kind.answer(trained, lines, size) if lines else []:
            typer.echo(line)


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
