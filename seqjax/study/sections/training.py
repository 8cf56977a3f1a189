"""Measure the gradient with respect to every step's state during a short training."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch
from seqjax.probes import bind, gradient_profile, total_log_norm
from seqjax.probes.profile_rows import mean_log_norm, profile_rows
from seqjax.study.experiment import Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings
from seqjax.study.training import Run

NAME = "training"
LOSSES = ("last", "mean")
SEQUENCES = 8
"""The number of sequences whose profiles are stored one by one, for the intervals of horizons."""


def parts(settings: Settings) -> Iterable[Part]:
    """Yield one part, a training, per cell, length and seed."""
    for length in settings.lengths:
        for cell in settings.cells:
            yield from (Part(NAME, cell, length, seed) for seed in range(settings.seeds))


def work(settings: Settings, part: Part) -> float:
    """A snapshot takes about as long as four steps; the first seed compiles."""
    steps = settings.training_steps + 4 * len(settings.snapshots())
    return (5 if part.seed == 0 else 0) + steps * _seconds(settings, part)


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield the losses of one training, and at its snapshots the profiles of both losses."""
    cell, length, seed = part.cell or "", part.length or 0, part.seed or 0
    settings, run = experiment.settings, experiment.run(cell, length)
    snapshots = settings.snapshots()
    steps = settings.seeds * len(snapshots) * length
    make = lambda: experiment.jit(lambda params: _profiles(run, params), steps)  # noqa: E731
    profiles = experiment.keep(("profiles", cell, length), make)
    second = _seconds(settings, part)
    for step, params, loss, gradient_norm in experiment.train(cell, length, seed):
        if step in snapshots:
            found = jax.device_get(profiles(params))
            yield from _snapshot(step, found)
            if step in (0, settings.training_steps):
                yield from _sequences(step, found["last"])
            experiment.advance(4 * second)
        if step in (0, settings.training_steps):
            yield row("held_out_loss", run.held_out_loss(params), training_step=step)
        if loss is not None:
            yield row("train_loss", loss, training_step=step)
            yield row("gradient_norm", gradient_norm, training_step=step)
            experiment.advance(second)


def _seconds(settings: Settings, part: Part) -> float:
    return (part.length or 0) * (1e-5 + 1e-9 * settings.batch_size * settings.hidden_size**2)


def _profiles(run: Run, params: Any) -> Any:
    """Return the profiles of both losses, computed by one program: a loss is a weight per step."""
    length = run.source.task.length
    weights = {"last": jnp.zeros(length).at[-1].set(1.0), "mean": jnp.full(length, 1 / length)}

    def profile(weight: jax.Array) -> Any:
        def loss(ys: Any, targets: Any) -> jax.Array:
            losses = run.source.task.loss(ys, targets)
            return jnp.tensordot(weight.astype(losses.dtype), losses, 1)

        return _profile(run, loss, params)

    found = jax.vmap(profile)(jnp.stack([weights[name] for name in LOSSES]))
    return {name: jax.tree.map(lambda a, i=i: a[i], found) for i, name in enumerate(LOSSES)}


def _profile(run: Run, loss: Any, params: Any) -> Any:
    xs, targets = run.source.probe[:2]
    profile = gradient_profile(bind(run.model, params), loss, Batch(xs, targets))
    leaves = {_leaf(path): n for path, n in jax.tree_util.tree_leaves_with_path(profile.log_norm)}
    # Leaves have the names of the cell's carry; a carry of a single array has no leaf besides "carry".
    log_norms = {"carry": total_log_norm(profile.log_norm)} | (leaves if len(leaves) > 1 else {})
    zero = jnp.mean(log_norms["carry"] == -jnp.inf)
    norms = {
        _parameter(path): jnp.sqrt(jnp.sum(jnp.square(g.astype(jnp.float32))))
        for path, g in jax.tree_util.tree_leaves_with_path(profile.gradients)
    }
    sequences = log_norms["carry"][:, :SEQUENCES]
    return {name: mean_log_norm(n) for name, n in log_norms.items()}, zero, norms, sequences


def _sequences(step: int, profile: Any) -> Iterator[Row]:
    for place, log_norm in enumerate(profile[-1].T):
        for t, value in enumerate(log_norm):
            yield row(
                "sequence_log_norm", value, training_step=step, loss="last", leaf="carry", t=t, x=float(place)
            )


def _snapshot(step: int, profiles: Any) -> Iterator[Row]:
    for loss, (log_norms, zero, norms, _) in profiles.items():
        yield from profile_rows(log_norms, norms, zero, decay=loss == "last", training_step=step, loss=loss)


def _leaf(path: Any) -> str:
    return jax.tree_util.keystr(path[1:], simple=True, separator=".") or "h"


def _parameter(path: Any) -> str:
    part = ("input", "recurrent", "output")[path[0].idx]
    return f"{part}.{jax.tree_util.keystr(path[1:], simple=True, separator='.')}"


MEASUREMENT = Measurement(NAME, parts, work, measure)
