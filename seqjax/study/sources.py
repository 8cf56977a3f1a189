"""The batches of a study, from a text or a synthetic task."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import datasets
from seqjax.base import Batch
from seqjax.study.settings import Settings
from seqjax.tasks import TASKS, Task
from seqjax.tasks.text import text_task

HELD_OUT_TOKENS = 2**14
"""Held-out losses are means over at least this many predictions: about .02 nats of standard error on text."""


class Source(NamedTuple):
    """Batches for training, ``train(key, step)``, a fixed batch for probes, and a larger held-out batch."""

    task: Task
    train: Callable[[Any, Any], Batch]
    probe: Batch
    held_out: Batch
    baselines: dict[str, float]


def make_source(settings: Settings, length: int, data: np.ndarray | None) -> Source:
    """Return the batches of the study's task at one length."""
    wide = -(-HELD_OUT_TOKENS // length)
    if settings.task != "text":
        task = TASKS[settings.task](length)
        key_probe, key_held_out = jax.random.split(jax.random.key(2**31 - 1))
        cast = partial(jax.tree.map, lambda a: _to_dtype(a, settings.dtype))
        return Source(
            task,
            lambda key, step: Batch(*cast(task.sample(jax.random.fold_in(key, step), settings.batch_size))),
            Batch(*cast(task.sample(key_probe, settings.batch_size))),
            Batch(*cast(task.sample(key_held_out, wide))),
            {"blind_baseline": task.baseline},
        )
    assert data is not None
    train, held_out = datasets.split(data)
    on_device = jnp.asarray(train)
    task = text_task(on_device, held_out, length)
    return Source(
        task,
        lambda key, step: Batch(*datasets.sample_windows(on_device, key, step, settings.batch_size, length)),
        Batch(*datasets.held_out_windows(held_out, settings.batch_size, length)),
        Batch(*datasets.held_out_windows(held_out, wide, length)),
        {"unigram_entropy": task.baseline},
    )


def _to_dtype(array: jax.Array, dtype: str) -> jax.Array:
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
