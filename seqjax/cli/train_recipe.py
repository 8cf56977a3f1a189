"""The recipe of ``seqjax train``: from its argument, a configuration and the options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from seqjax.cli.common import UsageError, one_of, usage_errors
from seqjax.tasks import TASKS
from seqjax.training.applications import data_digest
from seqjax.training.recipe import APPLICATIONS, STACKS, Recipe, read_recipe
from seqjax.training.recipe_checks import check_recipe
from seqjax.training.run_record import read_config
from seqjax.user_model import check_allowed

SUBJECT = ("task", "data", "data_sha256", "init_sha256")
"""The fields of a recipe that no option sets: the argument does, and digests follow from files."""

LANGUAGE = "language"
AS = (LANGUAGE, *APPLICATIONS)
"""What a file can be trained as. A language is the task "text" of a recipe."""


def recipe_of(
    what: str | None,
    application: str | None,
    config: Path | None,
    folder: Path,
    resume: bool,
    given: dict[str, Any],
    allow_code: bool,
) -> Recipe:
    """Return the recipe of the argument, the configuration and the options, checked."""
    if resume and config is None and (folder / "config.json").exists():
        config = folder / "config.json"
    elif resume and config is None and what is None:
        raise UsageError(f"--resume: expected a run in {folder}, got none: it has no config.json.")
    if config is None and what is None:
        raise UsageError("train: expected a task or a file, or --config. 'seqjax list' shows the tasks.")
    with usage_errors("--config: "):
        recipe = Recipe() if config is None else read_recipe(config)
    if config is not None and not resume and read_config(config)[1]:
        typer.echo(
            f"seqjax: the settings of that run were changed on its way; the new run has the last ones. {config} lists "
            "the changes.",
            err=True,
        )
    if "model" in given:
        given["model"] = _from_anywhere(given["model"])
    elif config is not None:
        with usage_errors(f"{config}: "):
            check_allowed(recipe.model, allow_code, "Pass --allow-code to run it, if you trust it.")
    if what is not None:
        given |= _subject(what, application, replace(recipe, **given))
    elif application is not None or "target" in given:
        raise UsageError("--as and --target go with a file, got none. Leave them out, or name the file.")
    if "init_from" in given:
        given["init_from"] = str(Path(given["init_from"]).absolute())
        given |= {} if resume else {"init_sha256": None}
    recipe = replace(recipe, **given)
    if "heads" in given and recipe.model not in STACKS:
        raise UsageError(
            f"--heads goes with a stack ({', '.join(STACKS)}), got the model {recipe.model!r}. Options of a cell are "
            "written 'delta_net(num_heads=2)'."
        )
    with usage_errors():
        check_recipe(recipe)
    return recipe


def _from_anywhere(model: str) -> str:
    """Return a model in a file with its absolute path, so that the run can be resumed and repeated from any folder."""
    place, _, function = model.rpartition(":")
    return f"{Path(place).absolute()}:{function}" if place.endswith(".py") else model


def _subject(what: str, application: str | None, recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe that say what is trained on: a task, or a file or a folder.

    The recipe has the other settings, on which it may depend which files of a folder are read.
    """
    if application is not None:
        one_of("--as", application, AS)
    if what == "text" or what in TASKS:
        if application is not None:
            raise UsageError(
                f"--as goes with a file, got the task {what!r}. Write ./{what} for a file of that name."
            )
        return {"task": what, "data": None, "data_sha256": None}
    if application is None and not Path(what).exists() and "/" not in what and "." not in what:
        one_of("train", what, ["text", *TASKS])
    subject: dict[str, Any] = {
        "task": "text" if application in (None, LANGUAGE) else application,
        "data": what,
    }
    with usage_errors():
        subject["data_sha256"] = data_digest(replace(recipe, **subject))
    absolute = {
        name: str(Path(path).absolute()) for name, path in (("data", what), ("target", recipe.target)) if path
    }
    return subject | absolute
