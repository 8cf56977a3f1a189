"""The recipe of a training run: every setting that its result depends on, as ``config.json`` holds them."""

import functools
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import optax

from seqjax import blocks
from seqjax.base import Layer
from seqjax.checks import check_whole, check_within
from seqjax.combinators import serial
from seqjax.fields import above_zero, at_least_one, at_least_zero, at_most, one_of, setting
from seqjax.files import read_json
from seqjax.methods import NAMED, check_name
from seqjax.names import known_name
from seqjax.tasks import TASKS
from seqjax.training.labels import parameter_labels
from seqjax.training.precision import BFLOAT16, FLOAT16, FLOAT32
from seqjax.training.run_record import CHANGES
from seqjax.training.schedules import SCHEDULES, learning_rates


def _decayed(params: Any) -> Any:
    """Mark the params that weight decay acts on: weights, but neither biases nor the params of a recurrence."""
    return jax.tree.map(lambda label: label == "other", parameter_labels(params))


def _adamw(rate: float | optax.Schedule, weight_decay: float = 1e-4) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=weight_decay, mask=_decayed)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": _adamw,
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
MAY_CHANGE = ("steps", "learning_rate", "decay_steps", "patience", "eval_every", "checkpoint_every")
"""Fields that a resumed run may change. ``config.json`` logs their changes."""
MOST_LAYERS = 1000
"""Largest depth of a model. Layers are traced one by one, so that a larger number would take hours."""
MOST_STEPS_AHEAD, HIGHEST_RATE, LARGEST_IMAGE = 100_000, 1_000_000, 1024
"""Bounds of settings of applications; larger values would fill the memory."""
PATHS = ("data", "target", "model", "init_from")
"""Fields that may hold the path of a file, whose content is compared by its SHA-256."""
VOCABULARIES = ("bytes", "characters", "words", "subwords")
USUAL_VOCABULARY = {
    "text": "bytes",
    "classes": "words",
    "translation": "words",
    "speech": "characters",
    "captions": "words",
}
"""What a token is by default, for each task with a vocabulary of its own."""
APPLICATIONS = ("classes", "translation", "speech", "forecast", "captions")
"""The kinds of applications on files of the user, beside the text."""
LAYOUTS = ("columns", "rows")
GO_WITH: dict[str, tuple[str, ...]] = {
    "target": ("translation", "speech", "captions"),
    "columns": ("classes", "translation", "forecast"),
    "vocabulary": tuple(USUAL_VOCABULARY),
    "vocabulary_size": tuple(USUAL_VOCABULARY),
    "horizon": ("forecast",),
    "layout": ("forecast",),
    "sample_rate": ("speech",),
    "image_size": ("captions",),
}
"""The fields of a recipe that go with some tasks only."""


def _transformer(
    width: int, depth: int, *, num_heads: int, max_length: int, dropout_rate: float = 0.0
) -> Layer:
    block = blocks.transformer_block(
        width, num_heads=num_heads, max_length=max_length, dropout_rate=dropout_rate
    )
    return serial(*(block for _ in range(depth)))


STACKS: dict[str, Callable[..., Layer]] = {
    "griffin": blocks.griffin,
    "hybrid_delta": blocks.hybrid_delta,
    "samba": blocks.samba,
    "transformer": _transformer,
    "xlstm": blocks.xlstm,
}
"""Stacks of blocks by name: ``(hidden_size, depth, num_heads) -> Layer``."""


def _fraction(name: str, value: float) -> None:
    check_within(name, value, "[0, 1]")


def _seed(name: str, value: int) -> None:
    if not 0 <= value < 2**31:  # JAX truncates larger seeds, and two runs would be equal
        raise ValueError(f"{name}: expected a whole number from 0 to 2^31 - 1, got {value}.")


@dataclass(frozen=True)
class Recipe:
    """Every setting that the result of a run depends on.

    The ``config.json`` of a run holds its recipe, and that file alone repeats a run that was not changed on its way.
    ``data`` is a file for the task "text", None for Moby-Dick; ``data_sha256`` is the digest of the file.
    ``init_sha256`` is the digest of the params in the run ``init_from``.

    Example:
        >>> from seqjax.training.recipe import Recipe
        >>> Recipe(task="parity", model="gru").hidden_size
        64
    """

    task: str = setting(
        "text",
        f"One of text, {', '.join((*APPLICATIONS, *TASKS))}",
        one_of(("text", *APPLICATIONS, *TASKS)),
    )
    data: str | None = setting(
        None, "A file, text or binary, for the task 'text'; a file or a folder for applications"
    )
    data_sha256: str | None = setting(
        None, "The SHA-256 of that file; of several files, that of their digests"
    )
    target: str | None = setting(
        None,
        "Translation: the file of the translations, line by line; speech and captions: the table of the folder, where "
        "it has several, or COCO's JSON",
    )
    columns: str | None = setting(
        None,
        "The columns of a table, by name or position from 0: those of texts and labels ('text,label' by default), of "
        "sentences and translations ('0,1'), or of all series of a forecast",
    )
    vocabulary: str | None = setting(
        None,
        f"What a token is: one of {', '.join(VOCABULARIES)}; by default bytes for a text, characters for speech, else "
        "words",
        one_of(VOCABULARIES),
    )
    vocabulary_size: int | None = setting(
        None, "The number of words or subwords; by default all words, or 1000 subwords", at_least_one
    )
    horizon: int | None = setting(
        None, "Forecast: steps ahead, 24 by default", at_least_one, at_most(MOST_STEPS_AHEAD)
    )
    layout: str | None = setting(
        None,
        "Forecast: whether the series are the columns of the table, as by default, or its rows, as in the M "
        "competitions",
        one_of(LAYOUTS),
    )
    sample_rate: int | None = setting(
        None,
        "Speech: samples per second; recordings with another rate are resampled. By default that of the recordings",
        at_least_one,
        at_most(HIGHEST_RATE),
    )
    image_size: int | None = setting(
        None,
        "Captions: images are scaled to squares of this many pixels, 64 by default",
        at_least_one,
        at_most(LARGEST_IMAGE),
    )
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
        "auto", f"Method of a cell or of your own function: one of {', '.join(NAMED)}", check_name
    )
    precision: str = setting("float32", f"One of {', '.join(PRECISIONS)}", one_of(PRECISIONS))
    estimator: str = setting(
        "full",
        "full, or truncated: batches continue the text, and the carry passes from batch to batch",
        one_of(ESTIMATORS),
    )
    optimizer: str = setting("adam", f"One of {', '.join(OPTIMIZERS)}", one_of(OPTIMIZERS))
    learning_rate: float = setting(3e-3, "Learning rate of the optimizer", above_zero)
    schedule: str = setting(
        "constant", f"Learning rate after the warm-up: one of {', '.join(SCHEDULES)}", one_of(SCHEDULES)
    )
    warmup_steps: int = setting(
        0, "Steps over which the learning rate rises to its value", functools.partial(check_whole, least=0)
    )
    decay_steps: int | None = setting(
        None, "Step at which a falling schedule ends; by default the last step", at_least_one
    )
    final_rate: float = setting(
        0.0, "Where a falling schedule ends, as a fraction of the learning rate", _fraction
    )
    weight_decay: float | None = setting(
        None,
        "Weight decay of adamw, 0.0001 by default; biases, norms and the params of recurrences have none",
        at_least_zero,
    )
    dropout: float = setting(
        0.0,
        "Dropout rate of the output of each layer of a cell, or each branch of a transformer",
        check_within,
    )
    accumulate: int = setting(1, "Parts of a batch that are computed one after another", at_least_one)
    clip: float = setting(1.0, "Largest norm of the gradient; 0 turns clipping off", at_least_zero)
    seed: int = setting(0, "Seed of params and batches", _seed)
    eval_every: int = setting(200, "Steps between evaluations", at_least_one)
    eval_batches: int = setting(4, "Held-out batches of an evaluation", at_least_one)
    checkpoint_every: int = setting(200, "Steps between checkpoints", at_least_one)
    patience: int | None = setting(
        None, "Stop after this many evaluations in a row without improvement", at_least_one
    )
    until_solved: bool = setting(False, "Stop when the task counts as solved")
    init_from: str | None = setting(
        None, "A run whose params this run begins with, where their paths and shapes are those of the model"
    )
    init_sha256: str | None = setting(None, "The SHA-256 of the params of that run")
    init_strict: bool = setting(False, "Refuse --init-from unless every param is taken")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return asdict(self)


def learning_rate(recipe: Recipe) -> float | optax.Schedule:
    """Return the learning rate of a recipe, or its schedule."""
    return learning_rates(
        recipe.schedule,
        recipe.learning_rate,
        end=recipe.decay_steps or recipe.steps,
        warmup_steps=recipe.warmup_steps,
        final_rate=recipe.final_rate,
    )


def optimizer_of(recipe: Recipe) -> optax.GradientTransformation:
    """Return the optimizer of a recipe, with its schedule, its weight decay and its clipping."""
    decay = {} if recipe.weight_decay is None else {"weight_decay": recipe.weight_decay}
    optimizer = OPTIMIZERS[recipe.optimizer](learning_rate(recipe), **decay)
    return optax.chain(optax.clip_by_global_norm(recipe.clip), optimizer) if recipe.clip else optimizer


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
