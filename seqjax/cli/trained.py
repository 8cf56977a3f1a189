"""What ``seqjax generate`` and ``seqjax evaluate`` share: the run, and options that go with one kind of run."""

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from seqjax.cli.common import UsageError, usage_errors
from seqjax.fields import flag
from seqjax.training.applications.common import Trained
from seqjax.training.recipe import read_recipe
from seqjax.training.trained import load_trained

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run of 'seqjax train' on a file.")]
Newest = Annotated[
    bool,
    typer.Option("--newest", help="Use the newest checkpoint in place of that of the best evaluation."),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the code that the run names as its model, if you trust it.")
]


def load(folder: Path, newest: bool, allow_code: bool) -> Trained:
    """Return the trained model in the folder of a run, and raise a `UsageError` for another folder."""
    with usage_errors():
        if (folder / "config.json").is_file() and read_recipe(folder / "config.json").precision == "float64":
            jax.config.update("jax_enable_x64", True)
        return load_trained(folder, best=not newest, allow_code=allow_code)


def check_options(trained: Trained, kinds: tuple[str, ...], **values: Any) -> None:
    """Refuse options that the user gave and that go with other kinds of runs."""
    for name, value in values.items():
        if value is not None and trained.recipe.task not in kinds:
            shown = " or ".join("language" if kind == "text" else kind for kind in kinds)
            raise UsageError(
                f"{flag(name)} goes with a run of {shown}, got one of {trained.recipe.task!r}. Leave it out."
            )
