"""What ``seqjax train`` trains: a recipe as JSON holds it, and the model, data and step that are made from it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from seqjax import blocks, datasets
from seqjax.base import Batch, Layer
from seqjax.cells import REGISTRY, vector
from seqjax.cli.common import UsageError, one_of
from seqjax.cli.specification import call
from seqjax.combinators import serial
from seqjax.gradients import full_bptt, truncated_bptt
from seqjax.layers import pointwise, recurrent
from seqjax.ops.select import cast
from seqjax.report.own import is_own, own_layer
from seqjax.report.settings import METHODS
from seqjax.report.sources import text_task
from seqjax.tasks import TASKS, Task
from seqjax.training import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    Checkpoints,
    EarlyStop,
    TrainState,
    TrainStep,
    evaluation,
    init_train_state,
    make_train_step,
    parameter_labels,
)


def _decayed(params: Any) -> Any:
    """Weights decay; biases and the params of a recurrence do not."""
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
"""Names that stand for a whole stack of a width, a depth and a number of heads."""


@dataclass(frozen=True)
class Recipe:
    """All that the result of a run depends on. Saved as ``config.json``, from which alone the run can be repeated.

    ``data`` is a file of text for the task "text", whose SHA-256 goes with it; None is Moby-Dick.
    """

    task: str = "text"
    data: str | None = None
    data_sha256: str | None = None
    length: int = 64
    batch: int = 32
    model: str = "lstm"
    hidden_size: int = 64
    depth: int = 1
    heads: int = 4
    method: str = "auto"
    precision: str = "float32"
    estimator: str = "full"
    optimizer: str = "adam"
    learning_rate: float = 3e-3
    clip: float = 1.0
    seed: int = 0
    steps: int = 2000
    eval_every: int = 200
    eval_batches: int = 4
    checkpoint_every: int = 200
    patience: int | None = None
    until_solved: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a ``config.json``.

    Raises:
        UsageError: when it cannot be read, or is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--config: expected a file, got {path}, which does not exist.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--config: {path} cannot be read as JSON ({error}).") from None
    if not isinstance(values, dict):
        raise UsageError(f"--config: expected the config.json of a run, got {path}, which holds no object.")
    known = {field.name: field for field in fields(Recipe)}
    for name, value in values.items():
        if name not in known:
            one_of(f"--config: {path}", name, known)
        of: Any = known[name].type
        fits = isinstance(value, int | float if of is float else of)
        if not fits or (isinstance(value, bool) and of is not bool):
            raise UsageError(
                f"--config: {path}: expected {name} such as {known[name].default!r}, got {value!r}."
            )
    return Recipe(**values)


class Run(NamedTuple):
    """What `fit` is given, and the model in it."""

    model: Layer
    task: Task
    step: TrainStep
    state: TrainState
    batches: Callable[[int], Batch]
    evaluate: Callable[[Any], dict[str, float]]
    early_stop: EarlyStop


def prepare(recipe: Recipe, mesh: Mesh | None = None) -> Run:
    """Model, data and step of a recipe; over a mesh, on one device without.

    Every process makes whole batches, of which the step takes what its devices hold.

    Raises:
        UsageError: for what cannot be.
    """
    try:
        task, batches, held_out = _data(recipe)
        model = _model(recipe, task)
        optimizer = OPTIMIZERS[recipe.optimizer](recipe.learning_rate)
        if recipe.clip:
            optimizer = optax.chain(optax.clip_by_global_norm(recipe.clip), optimizer)
        how: dict[str, Any] = {
            "estimator": truncated_bptt(recipe.length) if recipe.estimator == "truncated" else full_bptt(),
            "precision": PRECISIONS[recipe.precision],
        }
        step = make_train_step(model, task.objective, optimizer, mesh=mesh, **how)
        example = jax.eval_shape(lambda: batches(0))
        x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), example.xs)
        state = init_train_state(model, optimizer, jax.random.key(recipe.seed), x, mesh=mesh, **how)
        if recipe.precision == "float64":  # cells and blocks begin in float32
            params = cast(state.params, jnp.float64)
            state = state._replace(params=params, opt_state=optimizer.init(params))
        jax.eval_shape(
            step.jitted, *state, example
        )  # what does not fit together is said before anything is written
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    evaluate = evaluation(model, task.objective, held_out, recipe.eval_batches, metrics=task.score)
    metric, target = task.success if recipe.until_solved else ("loss", None)
    mode = "max" if metric == "accuracy" else "min"
    stop = EarlyStop(metric=metric, mode=mode, patience=recipe.patience, target=target)  # type: ignore[arg-type]
    return Run(model, task, step, state._replace(key=None), batches, evaluate, stop)


def load_run(folder: str | PathLike[str], *, best: bool = True) -> tuple[Layer, Any]:
    """The model that a run of ``seqjax train`` has trained.

    Args:
        folder: of the run.
        best: as it was at its best evaluation; otherwise as it is in the newest checkpoint.

    Returns:
        ``(model, params)``; the model reads tokens ``[T, B]``, bytes where the run is about a text, or ``[T, B, D]``.

    Raises:
        FileNotFoundError: where the folder holds no such state.
        ValueError: where it holds no run, its data is gone, or the run is one in float64 and JAX is not.

    Example:
        >>> from seqjax.cli.recipe import load_run
        >>> try:
        ...     load_run("nowhere")
        ... except ValueError as error:
        ...     print(error)
        load_run: expected the folder of a run of 'seqjax train', got nowhere: it has no config.json.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"load_run: expected the folder of a run of 'seqjax train', got {folder}: it has no config.json."
        )
    place = folder / "best" if best else folder
    if not (place / "steps").is_dir():
        hint = " Take the newest one with best=False." if best else ""
        raise FileNotFoundError(f"load_run: expected a checkpoint in {place}, got none.{hint}")
    try:
        recipe = read_recipe(folder / "config.json")
        if recipe.precision == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise UsageError('the run is in float64. Call jax.config.update("jax_enable_x64", True) first.')
        run = prepare(recipe)
    except UsageError as error:
        raise ValueError(f"load_run: {folder}: {error}") from None
    with Checkpoints(place) as checkpoints:
        return run.model, checkpoints.restore(run.state)[1].params


def file_digest(path: str) -> str:
    """SHA-256 of a file of data."""
    return hashlib.sha256(bytes(datasets.read_bytes(path))).hexdigest()


def _data(recipe: Recipe) -> tuple[Task, Callable[[int], Batch], Callable[[int], Batch]]:
    """The task, training batches, and others: by a seed that is no run's own, or from the end of a text."""
    size, length = recipe.batch, recipe.length
    if recipe.task != "text":
        if recipe.estimator == "truncated":
            raise ValueError("--estimator truncated goes with a text, which goes on from batch to batch.")
        task = TASKS[recipe.task](length)
        return task, task.batches(size, seed=recipe.seed), task.batches(size, seed=-1 - recipe.seed)
    text = datasets.moby_dick() if recipe.data is None else datasets.read_bytes(recipe.data)
    if recipe.data is not None and hashlib.sha256(bytes(text)).hexdigest() != recipe.data_sha256:
        raise ValueError(f"{recipe.data} is not what it was when the run was made: its SHA-256 differs.")
    if len(text) < 10 * (length + 1):
        raise ValueError(
            f"{recipe.data or 'text'}: expected at least {10 * (length + 1)} bytes for --length {length} (a tenth is "
            f"held out), got {len(text)}. Use a longer file or a shorter length."
        )
    train, rest = datasets.split(text)
    xs, targets = (np.asarray(a) for a in datasets.held_out_windows(rest, size * recipe.eval_batches, length))
    if recipe.estimator == "truncated":
        batches: Any = datasets.streams(train, batch=size, length=length)
    else:
        batches = datasets.windows(train, batch=size, length=length, seed=recipe.seed)

    def held_out(number: int) -> Batch:
        part = slice(number * size, (number + 1) * size)
        return Batch(xs[:, part], targets[:, part])

    return text_task(train, rest, length), batches, held_out


def _model(recipe: Recipe, task: Task) -> Layer:
    """Input map; one recurrent layer, residual ones with norms, or a stack; output map."""
    width, dtype = recipe.hidden_size, jnp.float64 if recipe.precision == "float64" else jnp.float32
    inputs: Any = nn.Dense(width, param_dtype=dtype)
    if task.num_inputs is not None:
        inputs = nn.Embed(task.num_inputs, width, param_dtype=dtype)
    outputs = pointwise(nn.Dense(task.num_outputs, param_dtype=dtype))
    if recipe.model in STACKS:
        options = {"max_length": recipe.length} if recipe.model == "transformer" else {}
        stack = STACKS[recipe.model](width, recipe.depth, num_heads=recipe.heads, **options)
        return serial(pointwise(inputs), stack, outputs)
    layer = _recurrent(recipe)
    if recipe.depth == 1:
        return serial(pointwise(inputs), layer, outputs)
    middle = [blocks.pre_norm(layer) for _ in range(recipe.depth)]
    return serial(pointwise(inputs), *middle, pointwise(nn.RMSNorm()), outputs)


def _recurrent(recipe: Recipe) -> Layer:
    method = METHODS[recipe.method]
    if is_own(recipe.model):
        return own_layer(recipe.model, recipe.hidden_size, method)
    name, args, keywords = call("MODEL", recipe.model)
    known = [each for each, entry in REGISTRY.items() if entry.example is vector]
    one_of("--model", name, [*known, *STACKS])
    if args or name in STACKS:
        raise UsageError(f"--model: expected options by name, such as lru(r_min=0.9), got {recipe.model}.")
    return recurrent(REGISTRY[name].make(recipe.hidden_size, **keywords), method)
