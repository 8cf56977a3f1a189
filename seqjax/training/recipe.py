"""The recipe of a training run: every setting that its result depends on, as ``config.json`` holds them."""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import optax

from seqjax import blocks, datasets
from seqjax.base import Layer
from seqjax.checks import LARGEST
from seqjax.combinators import serial
from seqjax.fields import (
    SettingError,
    above_zero,
    at_least_one,
    at_least_zero,
    at_most,
    check_fields,
    one_of,
    setting,
)
from seqjax.files import read_json
from seqjax.methods import NAMED
from seqjax.names import known_name
from seqjax.tasks import TASKS
from seqjax.training.labels import parameter_labels
from seqjax.training.precision import BFLOAT16, FLOAT16, FLOAT32
from seqjax.training.run_record import CHANGES


def _decayed(params: Any) -> Any:
    """Mark the params that weight decay acts on: weights, but neither biases nor the params of a recurrence."""
    return jax.tree.map(lambda label: label == "other", parameter_labels(params))


OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": lambda rate: optax.adamw(rate, mask=_decayed),
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
}
PRECISIONS: dict[str, Any] = {
    "float32": FLOAT32,
    "bfloat16": BFLOAT16,
    "float16": FLOAT16,
    "float64": FLOAT32,
}
ESTIMATORS = ("full", "truncated")
MAY_CHANGE = ("steps", "learning_rate", "patience", "eval_every", "checkpoint_every")
"""Fields that a resumed run may change. ``config.json`` logs their changes."""
MOST_LAYERS = 1000
"""Largest depth of a model. Layers are traced one by one, so that a larger number would take hours."""
PATHS = ("data", "model")
"""Fields that may hold the path of a file, whose content is compared by its SHA-256."""


def _transformer(width: int, depth: int, *, num_heads: int, max_length: int) -> Layer:
    block = blocks.transformer_block(width, num_heads=num_heads, max_length=max_length)
    return serial(*(block for _ in range(depth)))


STACKS: dict[str, Callable[..., Layer]] = {
    "griffin": blocks.griffin,
    "hybrid_delta": blocks.hybrid_delta,
    "samba": blocks.samba,
    "transformer": _transformer,
    "xlstm": blocks.xlstm,
}
"""Stacks of blocks by name: ``(hidden_size, depth, num_heads) -> Layer``."""


def _seed(name: str, value: int) -> None:
    if not 0 <= value < 2**31:  # JAX truncates larger seeds, and two runs would be equal
        raise ValueError(f"{name}: expected a whole number from 0 to 2^31 - 1, got {value}.")


@dataclass(frozen=True)
class Recipe:
    """Every setting that the result of a run depends on.

    The ``config.json`` of a run holds its recipe, and that file alone repeats a run that was not changed on its way.
    ``data`` is a file for the task "text", None for Moby-Dick; ``data_sha256`` is the digest of the file.

    Example:
        >>> from seqjax.training.recipe import Recipe
        >>> Recipe(task="parity", model="gru").hidden_size
        64
    """

    task: str = setting("text", f"One of text, {', '.join(TASKS)}", one_of(("text", *TASKS)))
    data: str | None = setting(None, "A file, text or binary, for the task 'text'")
    data_sha256: str | None = setting(None, "The SHA-256 of that file")
    model: str = setting(
        "lstm",
        f"A cell, such as 'lru' or 'lru(r_min=0.9)'; a stack of blocks, {', '.join(STACKS)}; or file.py:function",
    )
    hidden_size: int = setting(64, "Hidden size of the layers", at_least_one)
    depth: int = setting(
        1,
        "Number of layers; two layers or more are residual, with normalization",
        at_least_one,
        at_most(MOST_LAYERS),
    )
    heads: int = setting(4, "Heads of a stack; a cell takes options of its own", at_least_one)
    length: int = setting(64, "Time steps T", at_least_one)
    batch_size: int = setting(32, "Sequences B in a batch", at_least_one)
    steps: int = setting(2000, "Training steps", at_least_one)
    method: str = setting(
        "auto", f"Method of a cell or of your own function: one of {', '.join(NAMED)}", one_of(NAMED)
    )
    precision: str = setting("float32", f"One of {', '.join(PRECISIONS)}", one_of(PRECISIONS))
    estimator: str = setting(
        "full",
        "full, or truncated: batches continue the text, and the carry passes from batch to batch",
        one_of(ESTIMATORS),
    )
    optimizer: str = setting("adam", f"One of {', '.join(OPTIMIZERS)}", one_of(OPTIMIZERS))
    learning_rate: float = setting(3e-3, "Learning rate of the optimizer", above_zero)
    clip: float = setting(1.0, "Largest norm of the gradient; 0 turns clipping off", at_least_zero)
    seed: int = setting(0, "Seed of params and batches", _seed)
    eval_every: int = setting(200, "Steps between evaluations", at_least_one)
    eval_batches: int = setting(4, "Held-out batches of an evaluation", at_least_one)
    checkpoint_every: int = setting(200, "Steps between checkpoints", at_least_one)
    patience: int | None = setting(
        None, "Stop after this many evaluations in a row without improvement", at_least_one
    )
    until_solved: bool = setting(False, "Stop when the task counts as solved")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return asdict(self)


def check_recipe(recipe: Recipe) -> None:
    """Check every setting, and the method beside the model.

    Raises:
        SettingError: a ValueError that names the first field whose value cannot be used.
    """
    check_fields(recipe)
    if recipe.length * recipe.batch_size * recipe.eval_batches > LARGEST:
        raise SettingError(
            "{length} times {batch_size} times {eval_batches}: expected less than 2^31 time steps, got {got}. Choose "
            "smaller sizes.",
            got=recipe.length * recipe.batch_size * recipe.eval_batches,
        )
    if recipe.model in STACKS and recipe.method != "auto":
        raise SettingError(
            "{method} goes with a cell, got {given!r} for {stack!r}, whose layers choose their methods. Leave it out.",
            given=recipe.method,
            stack=recipe.model,
        )


def read_recipe(path: str | PathLike[str]) -> Recipe:
    """Read the recipe from the ``config.json`` of a run; a run that was changed on its way has its last recipe.

    Raises:
        ValueError: when the file cannot be read as a recipe.
    """
    path = Path(path)
    try:
        values = read_json(path)
        if isinstance(values, dict):
            values.pop(CHANGES, None)
    except FileNotFoundError:
        raise ValueError(f"expected a file, got {path}, which does not exist.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected the config.json of a run, got {path}, which holds no object.")
    known = {field.name: field for field in fields(Recipe)}
    for name, value in values.items():
        if name not in known:
            try:
                known_name(name, known)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        of: Any = known[name].type
        if of in (float, float | None) and type(value) is int and abs(value) <= sys.float_info.max:
            values[name] = value = float(value)
        if not isinstance(value, of) or (isinstance(value, bool) and of is not bool):
            raise ValueError(f"{path}: expected {name} such as {known[name].default!r}, got {value!r}.")
    return Recipe(**values)


def file_digest(path: str) -> str:
    """Return the SHA-256 of a data file.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file cannot be read, or not be read again by a resumed run: a pipe.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise ValueError(
            f"expected a file, which a resumed run reads again, got '{path}', which is a pipe or a device. Write its "
            "content to a file first."
        )
    return hashlib.sha256(bytes(datasets.read_bytes(path))).hexdigest()
