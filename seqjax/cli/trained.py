"""What ``seqjax generate`` and ``seqjax evaluate`` share: the run, and options that go with some kinds of runs."""

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from seqjax.cli.common import UsageError, at_least_one, usage_errors
from seqjax.fields import flag
from seqjax.training.applications.common import Trained
from seqjax.training.recipe import GO_WITH, read_recipe
from seqjax.training.trained import load_trained

RunFolder = Annotated[
    Path, typer.Argument(help="The folder of a run of 'seqjax train' on a file or a folder.")
]
BeamSize = Annotated[
    int | None,
    typer.Option(
        help="Translation and captions: hypotheses of the beam search; 4 by default.", show_default=False
    ),
]
Newest = Annotated[
    bool,
    typer.Option("--newest", help="Use the newest checkpoint in place of that of the best evaluation."),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the code that the run names as its model, if you trust it.")
]

KINDS_OF = {
    **dict.fromkeys(("prompt", "tokens", "temperature", "top_p", "seed"), ("text",)),
    "beam_size": ("translation", "captions"),
    "plot": ("forecast",),
    "target": GO_WITH["target"],
    "columns": GO_WITH["columns"],
}
"""The options that go with some kinds of runs, by the tasks of their recipes."""


def load(folder: Path, newest: bool, allow_code: bool) -> Trained:
    """Return the trained model in the folder of a run, and raise a `UsageError` for another folder."""
    with usage_errors():
        if (folder / "config.json").is_file() and read_recipe(folder / "config.json").precision == "float64":
            jax.config.update("jax_enable_x64", True)
        return load_trained(folder, best=not newest, allow_code=allow_code)


def check_options(trained: Trained, **values: Any) -> None:
    """Refuse options that the user gave and that go with other kinds of runs."""
    for name, value in values.items():
        kinds = KINDS_OF[name]
        if value is not None and trained.recipe.task not in kinds:
            shown = " or ".join("language" if kind == "text" else kind for kind in kinds)
            raise UsageError(
                f"{flag(name)} goes with a run of {shown}, got one of {trained.recipe.task!r}. Leave it out."
            )


def beam_size_of(given: int | None) -> int:
    """Return the number of hypotheses that the user gave, or 4."""
    return at_least_one("--beam-size", 4 if given is None else given)
