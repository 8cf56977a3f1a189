"""The measurements of one run: where batches come from, the model, and what is recorded as it trains."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqjax import datasets
from seqjax.base import Batch, Layer
from seqjax.cells import REGISTRY
from seqjax.combinators import serial
from seqjax.gradients import last_step, loss_sum
from seqjax.layers import pointwise, recurrent
from seqjax.probes import fit_decay, gradient_profile, total_log_norm
from seqjax.report.settings import METHODS, Settings
from seqjax.tasks import TASKS, Success, Task, cross_entropy
from seqjax.training import init_train_state, make_train_step

HELD_OUT_TOKENS = 2**14
"""Held-out losses are means over at least this many predictions: about .02 nats of standard error on text."""


class Source(NamedTuple):
    """Where batches come from: ``train(key, step)``, fixed windows to measure on, and a larger set held out."""

    task: Task
    train: Callable[[Any, Any], Batch]
    probe: Batch
    held_out: Batch
    baselines: dict[str, float]


def make_source(settings: Settings, length: int, data: np.ndarray | None) -> Source:
    """The batches of a task at one length."""
    wide = -(-HELD_OUT_TOKENS // length)
    if settings.task != "text":
        task = TASKS[settings.task](length)
        key_probe, key_held_out = jax.random.split(jax.random.key(2**31 - 1))
        cast = partial(jax.tree.map, lambda a: _to_dtype(a, settings.dtype))
        return Source(
            task,
            lambda key, step: Batch(*cast(task.sample(jax.random.fold_in(key, step), settings.batch))),
            Batch(*cast(task.sample(key_probe, settings.batch))),
            Batch(*cast(task.sample(key_held_out, wide))),
            {"blind_baseline": task.baseline},
        )
    assert data is not None
    train, held_out = datasets.split(data)
    on_device = jnp.asarray(train)
    entropy = datasets.unigram_entropy(held_out)
    task = Task(
        name="text",
        length=length,
        sample=lambda key, batch: datasets.sample_windows(on_device, key, 0, batch, length),
        num_inputs=256,
        num_outputs=256,
        loss=cross_entropy,
        baseline=entropy,
        baseline_at="mean",
        success=Success("loss", entropy),
        reference="next-byte prediction",
    )
    return Source(
        task,
        lambda key, step: Batch(*datasets.sample_windows(on_device, key, step, settings.batch, length)),
        Batch(*datasets.held_out_windows(held_out, settings.batch, length)),
        Batch(*datasets.held_out_windows(held_out, wide, length)),
        {"unigram_entropy": entropy},
    )


def make_model(cell: str, settings: Settings, task: Task) -> Layer:
    """Input map, one recurrent layer, output map."""
    dtype = jnp.dtype(settings.dtype)
    width = settings.hidden_size
    param_dtype = jnp.float64 if dtype == jnp.float64 else jnp.float32
    inputs: Any = nn.Dense(width, dtype=dtype, param_dtype=param_dtype)
    if task.num_inputs is not None:
        inputs = nn.Embed(task.num_inputs, width, dtype=dtype, param_dtype=param_dtype)
    outputs = nn.Dense(task.num_outputs, dtype=dtype, param_dtype=param_dtype)
    layer = recurrent(REGISTRY[cell].make(width), METHODS[settings.method])
    return serial(pointwise(inputs), layer, pointwise(outputs))


class Programs:
    """The compiled programs for one cell at one length, shared by all seeds."""

    def __init__(self, settings: Settings, cell: str, source: Source) -> None:
        self.settings, self.source = settings, source
        self.model = make_model(cell, settings, source.task)
        losses = {"last": last_step(source.task.loss), "mean": source.task.loss}
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(settings.learning_rate))
        self.train_loss = source.task.objective
        self.train_step = make_train_step(self.model, self.train_loss, self.optimizer)
        self.sample = jax.jit(source.train)
        self.profiles = jax.jit(
            lambda params: {name: self._profile(loss, params) for name, loss in losses.items()}
        )
        self.evaluate = jax.jit(self._evaluate)

    def _profile(self, loss: Any, params: Any) -> Any:
        xs, targets = self.source.probe[:2]
        carry = self.model.initial_carry(params, xs[0])
        profile = gradient_profile(self.model, loss, params, carry, xs, targets)
        leaves = {_leaf(path): n for path, n in jax.tree_util.tree_leaves_with_path(profile.log_norm)}
        # The names of cells' leaves; a carry of a single array has none of its own.
        log_norms = {"carry": total_log_norm(profile.log_norm)} | (leaves if len(leaves) > 1 else {})
        zero = jnp.mean(log_norms["carry"] == -jnp.inf)
        norms = {
            _parameter(path): jnp.sqrt(jnp.sum(jnp.square(g.astype(jnp.float32))))
            for path, g in jax.tree_util.tree_leaves_with_path(profile.gradients)
        }
        return {name: _geometric_mean(n) for name, n in log_norms.items()}, zero, norms

    def _evaluate(self, params: Any) -> jax.Array:
        xs, targets = self.source.held_out[:2]
        _, ys = self.model.unroll(params, self.model.initial_carry(params, xs[0]), xs)
        total, count = loss_sum(self.train_loss(ys, targets), None)
        return total / count

    def measure(self, seed: int, advance: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """The rows of one run, as it trains."""
        length, key = self.source.task.length, jax.random.key(seed)
        state = init_train_state(self.model, self.optimizer, key, self.source.probe.xs[0])._replace(key=None)
        data_key = jax.random.fold_in(key, 1)
        snapshots = set(self.settings.snapshots())
        for step in range(self.settings.training_steps + 1):
            if step in snapshots:
                yield from self._snapshot(step, state.params)
                advance(4 * length)
            if step in (0, self.settings.training_steps):
                yield _row("held_out_loss", step, self.evaluate(state.params))
            if step < self.settings.training_steps:
                state, metrics = self.train_step(state, self.sample(data_key, step))
                yield _row("train_loss", step, metrics.loss)
                advance(length)

    def _snapshot(self, step: int, params: Any) -> Iterator[dict[str, Any]]:
        for loss, (log_norms, zero, norms) in jax.device_get(self.profiles(params)).items():
            for leaf, values in log_norms.items():
                for t, value in enumerate(values):
                    yield _row("log_norm", step, value, loss=loss, leaf=leaf, t=t)
            yield _row("zero_share", step, zero, loss=loss, leaf="carry")
            for name, value in norms.items():
                yield _row("parameter_gradient_norm", step, value, loss=loss, leaf=name)
            if loss == "last":
                decay = fit_decay(log_norms["carry"][::-1])
                for quantity, value in decay._asdict().items():
                    if quantity != "better":
                        yield _row(quantity, step, value, loss=loss, leaf="carry")


def _row(
    quantity: str,
    step: int,
    value: Any,
    *,
    loss: str | None = None,
    leaf: str | None = None,
    t: int | None = None,
) -> dict[str, Any]:
    row = {"training_step": step, "loss": loss, "quantity": quantity, "leaf": leaf, "t": t}
    return row | {"value": float(value)}


def _geometric_mean(log_norm: jax.Array) -> jax.Array:
    """The mean log norm ``[T]`` over examples ``[T, B]`` whose gradient is not exactly zero; -inf where all are."""
    some = log_norm != -jnp.inf
    total = jnp.sum(jnp.where(some, log_norm, 0), 1)
    count = jnp.sum(some, 1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), -jnp.inf)


def _leaf(path: Any) -> str:
    return jax.tree_util.keystr(path[1:], simple=True, separator=".") or "h"


def _parameter(path: Any) -> str:
    part = ("input", "recurrent", "output")[path[0].idx]
    return f"{part}.{jax.tree_util.keystr(path[1:], simple=True, separator='.')}"


def _to_dtype(array: jax.Array, dtype: str) -> jax.Array:
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
