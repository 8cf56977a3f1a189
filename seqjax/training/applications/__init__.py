"""Applications: models of `seqjax.models` on files of the user, one file per kind, for the command line."""

from collections.abc import Mapping

from seqjax.base import Layer
from seqjax.training.applications.classes import CLASSES
from seqjax.training.applications.common import Definition, Examples, Kind, Learning, check_unchanged, parts
from seqjax.training.applications.translation import TRANSLATION
from seqjax.training.recipe import Recipe

KINDS: Mapping[str, Kind] = {"classes": CLASSES, "translation": TRANSLATION}
"""Every kind by the name of its task in a recipe."""


def examples_of(recipe: Recipe) -> tuple[Examples, Examples]:
    """Return the training examples and the held-out examples of a recipe.

    Raises:
        ValueError: when the files cannot be used, or have changed since the recipe was made.
        FileNotFoundError: when a file is gone.
    """
    check_unchanged(recipe)
    return parts(KINDS[recipe.task].read(recipe))


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
