"""Train on tasks from scratch, several seeds at once, and measure the final losses by length."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqjax.base import Batch
from seqjax.gradients import objective
from seqjax.methods import named_method
from seqjax.study.experiment import Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.models import make_model, params_of_seed, reads_tokens, representatives
from seqjax.study.presets import SIZES, Sizes
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings
from seqjax.tasks import NOT_SCORED, TASKS, Task

NAME = "success"


LAST = 20
"""The loss of a run is its mean over this number of last steps."""


def tasks(settings: Settings) -> tuple[str, ...]:
    """Return the names of the tasks that a preset trains."""
    return tuple(TASKS)[: SIZES[settings.preset].success_tasks]


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell and length, with all tasks and seeds."""
    cells = representatives(settings.cells, SIZES[settings.preset].success_cells)
    return [Part(NAME, cell, length) for cell in cells for length in SIZES[settings.preset].success_lengths]


def work(settings: Settings, part: Part) -> float:
    """Each cell compiles once; every step is as long as the greatest length."""
    sizes = SIZES[settings.preset]
    first = part.length == sizes.success_lengths[0]
    return len(tasks(settings)) * (2.5 * first + sizes.success_steps * max(sizes.success_lengths) * 1e-4)


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield the loss of every seed over the last steps of its training, and the baseline, by task."""
    sizes, cell, length = SIZES[experiment.settings.preset], part.cell or "", part.length or 0
    for name in tasks(experiment.settings):
        try:
            task = TASKS[name](length)
        except ValueError as error:  # too short for this task
            yield row("not_measured", 0, group=name, note=str(error))
            continue
        if task.num_inputs is None and reads_tokens(cell):
            yield row("not_measured", 0, group=name, note="a model of tokens has no real inputs")
            continue
        step = experiment.keep(("learn", cell, name), lambda: _step(experiment, cell, task, sizes))  # noqa: B023
        losses = _learn(step, experiment.settings, cell, task, sizes)
        for seed, loss in enumerate(losses):
            yield row("final_loss", loss, group=name, seed=seed, training_step=sizes.success_steps)
        yield row("baseline", task.baseline, group=name)


def _step(experiment: Experiment, cell: str, task: Task, sizes: Sizes) -> Callable:
    """Return ``(params, optimizer state, batch) -> (params, optimizer state, loss)`` of all seeds, leaves [S, ...].

    All lengths share one compiled step: shorter sequences are padded in front and masked.
    """
    model, optimizer = _model(experiment.settings, cell, task), _optimizer(experiment.settings)
    evaluate = objective(model, task.objective)

    def one(params: Any, state: Any, batch: Batch) -> Any:
        def mean(params: Any) -> jax.Array:
            total, (count, _) = evaluate(params, model.initial_carry(params, batch.xs[0]), batch)
            return total / count

        value, gradients = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    return experiment.jit(jax.vmap(one), sizes.success_steps * max(sizes.success_lengths))


def _learn(step: Callable, settings: Settings, cell: str, task: Task, sizes: Sizes) -> np.ndarray:
    """Train all seeds, and return the losses ``[S]`` over the last steps."""
    model, optimizer = _model(settings, cell, task), _optimizer(settings)
    longest = max(sizes.success_lengths)
    keys = jax.vmap(jax.random.key)(jnp.arange(sizes.success_seeds))

    def draw(key: jax.Array) -> Batch:
        xs, targets = task.sample(key, sizes.success_batch)
        classes = jnp.issubdtype(targets.dtype, jnp.integer)
        xs, targets = _pad(xs, longest), _pad(targets, longest, NOT_SCORED if classes else 0)
        xs = xs.astype(settings.dtype) if jnp.issubdtype(xs.dtype, jnp.floating) else xs
        mask = jnp.broadcast_to(jnp.arange(longest)[:, None] >= longest - task.length, targets.shape[:2])
        return Batch(xs, targets, mask=mask)

    sample = jax.jit(jax.vmap(draw))
    x = jax.eval_shape(draw, keys[0]).xs
    params = jax.vmap(lambda key: model.init(key, jnp.zeros(x.shape[1:], x.dtype)))(keys)
    own = [params_of_seed(cell, settings.hidden_size, task, seed) for seed in range(len(keys))]
    if own[0] is not None:
        params = (params[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *own), params[2])
    state, losses = jax.vmap(optimizer.init)(params), []
    for place in range(sizes.success_steps):
        batch = sample(jax.vmap(lambda key: jax.random.fold_in(key, place + 1))(keys))  # noqa: B023
        params, state, loss = step(params, state, batch)
        losses.append(loss)
    return np.mean(np.asarray(losses[-LAST:], np.float64), 0)


def _pad(array: jax.Array, length: int, value: int = 0) -> jax.Array:
    widths = [(length - array.shape[0], 0), *[(0, 0)] * (array.ndim - 1)]
    return jnp.pad(array, widths, constant_values=value)


def _model(settings: Settings, cell: str, task: Task) -> Any:
    return make_model(cell, settings.hidden_size, named_method(settings.method), settings.dtype, task)


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(settings.learning_rate))


MEASUREMENT = Measurement(NAME, parts, work, measure)
