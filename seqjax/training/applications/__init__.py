"""Applications: models of `seqjax.models` on files of the user, one file per kind, for the command line."""

from collections.abc import Mapping

from seqjax.base import Layer
from seqjax.training.applications.captions import CAPTIONS
from seqjax.training.applications.classes import CLASSES
from seqjax.training.applications.common import (
    Definition,
    Examples,
    Kind,
    Learning,
    check_unchanged,
    digest_of_files,
)
from seqjax.training.applications.forecast import FORECAST
from seqjax.training.applications.speech import SPEECH
from seqjax.training.applications.translation import TRANSLATION
from seqjax.training.recipe import Recipe

KINDS: Mapping[str, Kind] = {
    "classes": CLASSES,
    "translation": TRANSLATION,
    "speech": SPEECH,
    "forecast": FORECAST,
    "captions": CAPTIONS,
}
"""Every kind by the name of its task in a recipe."""


def examples_of(recipe: Recipe) -> tuple[Examples, Examples]:
    """Return the training examples and the held-out examples of a recipe.

    Raises:
        ValueError: when the files cannot be used, or have changed since the recipe was made.
        FileNotFoundError: when a file is gone.
    """
    kind = KINDS[recipe.task]
    check_unchanged(recipe, kind.digest)
    return kind.split(recipe, kind.read(recipe))


def data_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of the files that the data of a recipe are read from.

    Raises:
        ValueError: when the files cannot be used.
        FileNotFoundError: when a file does not exist.
    """
    return KINDS[recipe.task].digest(recipe) if recipe.task in KINDS else digest_of_files(recipe)


def prepare_application(recipe: Recipe) -> tuple[Layer, Learning, Definition]:
    """Return the model of a recipe, how it learns, and its definition.

    Raises:
        ValueError: for a setting that cannot be used, or files that cannot be used.
        FileNotFoundError: when a file is gone.
    """
    kind = KINDS[recipe.task]
    train, held_out = examples_of(recipe)
    definition = kind.define(recipe, train)
    return kind.model(recipe, definition), kind.learn(recipe, definition, train, held_out), definition
