"""``seqjax evaluate``: measure a trained run on its held-out data, or on other files."""

from dataclasses import replace
from typing import Annotated

import typer

from seqjax import datasets
from seqjax.cli.common import usage_errors
from seqjax.cli.trained import AllowCode, BeamSize, Newest, RunFolder, beam_size_of, check_options, load
from seqjax.training.applications import KINDS, examples_of
from seqjax.training.applications.common import Trained
from seqjax.training.applications.language import held_out_text, score_text


def evaluate(
    folder: RunFolder,
    data: Annotated[
        str | None,
        typer.Argument(
            help="A file or a folder like that of the training; by default the held-out part of that one.",
            show_default=False,
        ),
    ] = None,
    *,
    target: Annotated[
        str | None,
        typer.Option(
            help="Translation: the file of the translations of DATA; speech and captions: the table of the folder.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="The columns of DATA; by default those of the training.", show_default=False),
    ] = None,
    beam_size: BeamSize = None,
    newest: Newest = False,
    allow_code: AllowCode = False,
) -> None:
    """Measure a trained run on held-out data, or on another file.

    Prints one metric per line. Language: loss in nats and bits per token, bits per byte, accuracy. Classes: loss,
    accuracy, F1. Translation and captions: loss and accuracy per token given the tokens before, the share of exact
    texts, and BLEU and chrF where the package sacrebleu is installed. Speech: loss per recording, rates of wrong words
    and characters. Forecast: the quantile loss, mean absolute errors of the median and of the last value, MASE, and the
    coverage of the 95% interval.
    """
    trained = load(folder, newest, allow_code)
    check_options(trained, target=target, columns=columns, beam_size=beam_size)
    size = beam_size_of(beam_size)
    with usage_errors():
        found = _measured(trained, data, target, columns, size)
    for name, value in found.items():
        typer.echo(f"{name}\t{value:.6g}")


def _measured(
    trained: Trained, data: str | None, target: str | None, columns: str | None, beam_size: int
) -> dict[str, float]:
    recipe = trained.recipe
    if data is None and (target is not None or columns is not None):
        raise ValueError("--target and --columns go with DATA, got none. Leave them out.")
    if recipe.task == "text":
        if data is None:
            return score_text(trained, held_out_text(recipe))
        if recipe.vocabulary is None:
            return score_text(trained, bytes(datasets.read_text(data)).decode("utf-8", "surrogateescape"))
        return score_text(trained, datasets.read_string(data))
    kind = KINDS[recipe.task]
    if data is None:
        examples = examples_of(recipe)[1]
    else:
        columns = recipe.columns if columns is None and target is None else columns
        examples = kind.read(replace(recipe, data=data, target=target, columns=columns))
    return kind.score(trained, examples, beam_size)
