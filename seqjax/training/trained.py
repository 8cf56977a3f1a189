"""Load the trained model of an application, without its training data."""

from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer
from seqjax.ops.select import cast
from seqjax.training.applications import KINDS
from seqjax.training.applications.common import Trained, one_token
from seqjax.training.applications.language import language_model_of
from seqjax.training.checkpoint_contents import check_fits, described, leaves_by_path, state_like
from seqjax.training.definition import DEFINITION, read_definition
from seqjax.training.recipe import Recipe, read_recipe
from seqjax.training.run import open_run
from seqjax.user_model import check_allowed

PARAMS = "params."


def load_trained(folder: str | PathLike[str], *, best: bool = True, allow_code: bool = False) -> Trained:
    """Load the trained model of an application. Nothing is written, and the training data are not read.

    Args:
        folder: the folder of a run of ``seqjax train --as KIND``.
        best: load the params of the best evaluation; otherwise those of the newest checkpoint.
        allow_code: run the code of a model that is a function of the user.

    Raises:
        FileNotFoundError: when the folder has no such checkpoint.
        ValueError: when the folder has no run of an application, or its files do not belong together; when the model is
            code and `allow_code` is False.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"expected the folder of a run of 'seqjax train', got {folder}: it has no config.json."
        )
    recipe = read_recipe(folder / "config.json")
    if recipe.task not in ("text", *KINDS):
        raise ValueError(
            f"expected a run on a file (of language, {', '.join(KINDS)}), got {folder}, a run of the task "
            f"{recipe.task!r}. Use seqjax.training.load_run for tasks."
        )
    if recipe.precision == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError('the run is in float64. Call jax.config.update("jax_enable_x64", True) first.')
    check_allowed(recipe.model, allow_code, "Allow it, if you trust it.")
    definition = read_definition(folder)
    if definition is None and (recipe.task in KINDS or recipe.vocabulary is not None):
        raise ValueError(f"expected the file {folder / DEFINITION}, got none. Restore it, or train again.")
    checkpoints = open_run(folder, recipe)
    place = checkpoints.inside("best", keep=1) if best else checkpoints
    with checkpoints, place:
        place.check_run()  # before any code of the user runs
        leaves = place.restore(None)[1]
    if recipe.task in KINDS and definition is not None:
        model, x = KINDS[recipe.task].model(recipe, definition), KINDS[recipe.task].example(definition)
    else:
        model, x = language_model_of(recipe, definition), one_token(definition or {})
    like = jax.eval_shape(lambda: _init(recipe, model, x))
    found = {name.removeprefix(PARAMS): leaf for name, leaf in leaves.items() if name.startswith(PARAMS)}
    wanted = leaves_by_path(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like))
    there, here = ({name: described(leaf) for name, leaf in leaves.items()} for leaves in (found, wanted))
    check_fits(there, here)
    return Trained(recipe, definition or {}, model, jax.tree.map(jnp.asarray, state_like(found, like)))


def _init(recipe: Recipe, model: Layer, x: jax.ShapeDtypeStruct) -> Any:
    params = model.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype))
    return cast(params, jnp.float64) if recipe.precision == "float64" else params
