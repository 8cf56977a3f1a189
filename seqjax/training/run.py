"""Runs of ``seqjax train``: build model, data and training step from a recipe, and load a trained model."""

import hashlib
from collections.abc import Callable
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
from seqjax.combinators import serial
from seqjax.fields import SettingError
from seqjax.gradients import full_bptt, truncated_bptt
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.methods import NAMED
from seqjax.names import known_name, parse_call
from seqjax.ops.select import cast
from seqjax.sizes import check_size
from seqjax.tasks import TASKS, Task
from seqjax.tasks.text import text_task
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.early_stop import EarlyStop
from seqjax.training.evaluation import evaluation
from seqjax.training.recipe import OPTIMIZERS, PATHS, PRECISIONS, STACKS, Recipe, check_recipe, read_recipe
from seqjax.training.run_record import read_config
from seqjax.training.state import TrainState, init_train_state
from seqjax.training.step import TrainStep, make_train_step
from seqjax.user_model import check_allowed, is_own, own_layer, source_digest


class Run(NamedTuple):
    """The model of a run, and the arguments of `fit`."""

    model: Layer
    task: Task
    step: TrainStep
    state: TrainState
    batches: Callable[[int], Batch]
    evaluate: Callable[[Any], dict[str, float]]
    early_stop: EarlyStop


def prepare(recipe: Recipe, mesh: Mesh | None = None) -> Run:
    """Build model, data, training step and first state from a recipe, on one device or over a mesh.

    Every process makes whole batches; the step takes the rows that its devices hold. The step is traced, so that
    settings that do not fit together raise an error before anything is written.

    Raises:
        ValueError: for a setting that cannot be used (a `SettingError`, which names the field), or for a model that
            does not fit its data.
        TypeError: for options that a cell does not take, or a method that cannot run the cell.
        FileNotFoundError: when the data file is gone.
    """
    check_recipe(recipe)
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
    check_size("train", model, x)
    state = init_train_state(model, optimizer, jax.random.key(recipe.seed), x, mesh=mesh, **how)
    if recipe.precision == "float64":  # cells and blocks begin in float32
        params = cast(state.params, jnp.float64)
        state = state._replace(params=params, opt_state=optimizer.init(params))
    jax.eval_shape(step.jitted, *state, example)
    evaluate = evaluation(model, task.objective, held_out, recipe.eval_batches, metrics=task.score)
    metric, target = task.success if recipe.until_solved else ("loss", None)
    mode = "max" if metric == "accuracy" else "min"
    stop = EarlyStop(metric=metric, mode=mode, patience=recipe.patience, target=target)  # type: ignore[arg-type]
    return Run(model, task, step, state._replace(key=None), batches, evaluate, stop)


def inputs_of(recipe: Recipe) -> dict[str, Any]:
    """Return what the result of a run depends on besides its recipe: the source of a model of the user.

    The recipe has the digest of the data, and every checkpoint has the versions of the packages.
    """
    return {"model_sha256": source_digest(recipe.model)} if is_own(recipe.model) else {}


def open_run(folder: str | PathLike[str], recipe: Recipe) -> Checkpoints:
    """Return the checkpoints of a run for reading, with the recipe's inputs as they are now."""
    config, _ = read_config(Path(folder) / "config.json")
    return Checkpoints(folder, config=config, paths=PATHS, inputs=inputs_of(recipe))


def load_run(
    folder: str | PathLike[str], *, best: bool = True, allow_code: bool = False
) -> tuple[Layer, Any]:
    """Load the model that a run of ``seqjax train`` has trained.

    Loading writes nothing, and needs no right to write to the folder.

    Args:
        folder: the folder of the run.
        best: load the params of the best evaluation; otherwise those of the newest checkpoint.
        allow_code: run the code of a model that is a function of the user. Only the file that the run was trained with
            is accepted. Allow it for folders that you trust: the folder names the file.

    Returns:
        ``(model, params)``. The model reads tokens ``[T, B]`` (bytes for a text), or ``[T, B, D]``.

    Raises:
        FileNotFoundError: when the folder holds no such checkpoint.
        ValueError: when the folder holds no run, the data file is gone, or the run is in float64 and JAX is not; when
            the model is code and `allow_code` is False; when the recipe or the code has changed since training.

    Example:
        >>> from seqjax.training import load_run
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
        hint = " Load the newest one with best=False." if best else ""
        raise FileNotFoundError(f"load_run: expected a checkpoint in {place}, got none.{hint}")
    try:
        recipe = read_recipe(folder / "config.json")
        if recipe.precision == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise ValueError('the run is in float64. Call jax.config.update("jax_enable_x64", True) first.')
        check_allowed(recipe.model, allow_code, "Pass allow_code=True to run it, if you trust it.")
        checkpoints = open_run(folder, recipe)
        of_best = checkpoints.inside("best", keep=1)
        (of_best if best else checkpoints).check_run()  # before any code of the user runs
        run = prepare(recipe)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise ValueError(f"load_run: {folder}: {' '.join(str(error).split())}") from None
    with checkpoints, of_best:
        return run.model, (of_best if best else checkpoints).restore(run.state)[1].params


def _data(recipe: Recipe) -> tuple[Task, Callable[[int], Batch], Callable[[int], Batch]]:
    """Return the task, training batches, and held-out batches.

    Held-out batches have a seed that no run has, or come from the end of the text.
    """
    size, length = recipe.batch_size, recipe.length
    if recipe.task != "text":
        if recipe.estimator == "truncated":
            raise SettingError("{estimator} truncated goes with a text, whose batches continue each other.")
        task = TASKS[recipe.task](length)
        return task, task.batches(size, seed=recipe.seed), task.batches(size, seed=-1 - recipe.seed)
    text = datasets.moby_dick() if recipe.data is None else datasets.read_text(recipe.data)
    if (
        recipe.data is not None
        and hashlib.sha256(bytes(datasets.read_bytes(recipe.data))).hexdigest() != recipe.data_sha256
    ):
        raise ValueError(
            f"{recipe.data} has changed since the run was made: its SHA-256 differs. Restore the file."
        )
    if len(text) < 10 * (length + 1):
        raise SettingError(
            "{source}: expected at least {least} bytes for {length} {steps} (a tenth is held out), got {got}. "
            "Use a longer file or a shorter length.",
            source=recipe.data or "text",
            least=10 * (length + 1),
            steps=length,
            got=len(text),
        )
    train, rest = datasets.split(text)
    xs, targets = (np.asarray(a) for a in datasets.held_out_windows(rest, size * recipe.eval_batches, length))
    if recipe.estimator == "truncated":
        batches: Any = datasets.streams(train, batch_size=size, length=length)
    else:
        batches = datasets.windows(train, batch_size=size, length=length, seed=recipe.seed)

    def held_out(number: int) -> Batch:
        part = slice(number * size, (number + 1) * size)
        return Batch(xs[:, part], targets[:, part])

    return text_task(train, rest, length), batches, held_out


def _model(recipe: Recipe, task: Task) -> Layer:
    """Return an input map, one recurrent layer (or several, residual and normalized, or a stack), and an output map."""
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
    method = NAMED[recipe.method]
    if is_own(recipe.model):
        return own_layer(recipe.model, recipe.hidden_size, method)
    known = [name for name, entry in REGISTRY.items() if entry.example is vector]
    try:
        name, args, keywords = parse_call(recipe.model)
        known_name(name, [*known, *STACKS])
        if args or name in STACKS:
            raise ValueError(f"expected options by name, such as lru(r_min=0.9), got {recipe.model}.")
    except ValueError as error:
        raise SettingError("{model}: {text}", text=error) from None
    return recurrent(REGISTRY[name].make(recipe.hidden_size, **keywords), method)
