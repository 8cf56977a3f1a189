"""Runs of ``seqjax train``: build model, data and training step from a recipe, and load a trained model."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from seqjax.base import Batch, Layer
from seqjax.fields import SettingError
from seqjax.gradients import full_bptt, truncated_bptt
from seqjax.ops.select import cast
from seqjax.sizes import check_size
from seqjax.tasks import TASKS, Task
from seqjax.training.applications import KINDS, Definition, Learning, prepare_application
from seqjax.training.applications.language import prepare_language
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.definition import definition_digest, read_definition
from seqjax.training.early_stop import EarlyStop
from seqjax.training.evaluation import evaluation
from seqjax.training.recipe import PATHS, PRECISIONS, Recipe, optimizer_of, read_recipe
from seqjax.training.recipe_checks import check_recipe
from seqjax.training.recipe_model import model_of, parts_of
from seqjax.training.run_record import read_config
from seqjax.training.state import TrainState, init_train_state
from seqjax.training.step import TrainStep, make_train_step
from seqjax.training.warm_start import WarmStart, warm_start
from seqjax.user_model import check_allowed, is_own, source_digest


class Run(NamedTuple):
    """The model of a run, and the arguments of `fit`."""

    model: Layer
    task: Task | Learning
    step: TrainStep
    state: TrainState
    batches: Callable[[int], Batch]
    evaluate: Callable[[Any], dict[str, float]]
    early_stop: EarlyStop
    held_out: Callable[[int], Batch]
    definition: Definition | None = None


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
    model, task, batches, held_out, number, definition = _parts(recipe)
    optimizer = optimizer_of(recipe)
    how: dict[str, Any] = {
        "estimator": truncated_bptt(recipe.length) if recipe.estimator == "truncated" else full_bptt(),
        "precision": PRECISIONS[recipe.precision],
    }
    step = make_train_step(model, task.objective, optimizer, mesh=mesh, accumulate=recipe.accumulate, **how)
    example = jax.eval_shape(lambda: batches(0))
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), example.xs)
    check_size("train", model, x)
    state = init_train_state(model, optimizer, jax.random.key(recipe.seed), x, mesh=mesh, **how)
    if recipe.precision == "float64":  # cells and blocks begin in float32
        params = cast(state.params, jnp.float64)
        state = state._replace(params=params, opt_state=optimizer.init(params))
    if not recipe.dropout and not is_own(recipe.model):
        state = state._replace(key=None)  # no layer draws noise
    jax.eval_shape(step.jitted, *state, example)
    of_all = task.corpus_metrics if isinstance(task, Learning) else None
    evaluate = evaluation(model, task.objective, held_out, number, metrics=task.score, corpus_metrics=of_all)
    metric, target = task.success if recipe.until_solved and task.success else ("loss", None)
    mode = "max" if metric == "accuracy" else "min"
    stop = EarlyStop(metric=metric, mode=mode, patience=recipe.patience, target=target)  # type: ignore[arg-type]
    return Run(model, task, step, state, batches, evaluate, stop, held_out, definition)


def begin_from(run: Run, recipe: Recipe) -> tuple[Run, WarmStart]:
    """Return a run that begins with the params of the run ``recipe.init_from``, and the report of what was taken.

    Parts of a model of the command line are found by their role, such as the output map, and inside a part by path. No
    code of the other run is run: its checkpoint and its config.json are read.

    Raises:
        ValueError: when that run has no checkpoint with params that fit, when its params have changed since the recipe
            was made, or when ``recipe.init_strict`` is set and some params do not fit.
    """
    source = Path(recipe.init_from or "")
    try:
        there, here = parts_of(read_recipe(source / "config.json")), parts_of(recipe)
        rename = {path: here.get(role) for role, path in there.items()}
    except ValueError:  # not a run of the command line
        rename = {}
    params, report = warm_start(run.state.params, source, rename=rename, strict=recipe.init_strict)
    if recipe.init_sha256 not in (None, report.sha256):
        raise ValueError(
            f"the params in {report.source} have changed since the run was made: their SHA-256 differs."
        )
    return run._replace(state=run.state._replace(params=params)), report


def inputs_of(recipe: Recipe, definition: Definition | None = None) -> dict[str, Any]:
    """Return what the result of a run depends on besides its recipe: the code of the user, and a definition.

    The recipe has the digest of the data, and every checkpoint has the versions of the packages.
    """
    own = {"model_sha256": source_digest(recipe.model)} if is_own(recipe.model) else {}
    return own | ({} if definition is None else {"definition_sha256": definition_digest(definition)})


def open_run(folder: str | PathLike[str], recipe: Recipe) -> Checkpoints:
    """Return the checkpoints of a run for reading, with the recipe's inputs as they are now."""
    config, _ = read_config(Path(folder) / "config.json")
    inputs = inputs_of(recipe, read_definition(folder))
    return Checkpoints(folder, config=config, paths=PATHS, inputs=inputs)


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


def _parts(recipe: Recipe) -> tuple[Layer, Task | Learning, Any, Any, int, Definition | None]:
    """Return model, task, training batches, held-out batches and their number, and the definition of an application.

    Held-out batches have a seed that no run has, or come from other data.
    """
    if recipe.task in KINDS:
        model, learning, definition = prepare_application(recipe)
        return model, learning, learning.batches, learning.held_out, learning.number, definition
    if recipe.task == "text":
        text = prepare_language(recipe)
        return (
            model_of(recipe, text.task),
            text.task,
            text.batches,
            text.held_out,
            recipe.eval_batches,
            text.definition,
        )
    if recipe.estimator == "truncated":
        raise SettingError("{estimator} truncated goes with a text, whose batches continue each other.")
    task = TASKS[recipe.task](recipe.length)
    batches, held_out = (
        task.batches(recipe.batch_size, seed=seed) for seed in (recipe.seed, -1 - recipe.seed)
    )
    return model_of(recipe, task), task, batches, held_out, recipe.eval_batches, None
