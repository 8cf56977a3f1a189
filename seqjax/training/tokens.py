"""Checks of batches: whether they are a function of the step, and tokens that a model has no row or class for."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Batch, Layer
from seqjax.inputs import first_step


def check_batches(who: str, batches: Any) -> Callable[[int], Batch]:
    """Return the batches; raise a TypeError unless they are a function of the step.

    Example:
        >>> check_batches("fit", iter([]))
        Traceback (most recent call last):
        TypeError: fit(batches): expected a function step -> Batch, got list_iterator. ...
    """
    if callable(batches) and not isinstance(batches, type):
        return batches
    if isinstance(batches, list | tuple):
        remedy = "Write lambda step: batches[step % len(batches)]."
    elif hasattr(batches, "__getitem__") and not isinstance(batches, dict):
        remedy = "Write lambda step: make_batch(dataset, step), which picks its rows by the step."
    else:
        remedy = "Put the data into a loader of seqjax.datasets (windows, padded, examples), or write such a function."
    found = batches.__name__ if isinstance(batches, type) else type(batches).__name__
    raise TypeError(
        f"{who}(batches): expected a function step -> Batch, got {found}. A run resumes exactly because a batch "
        f"depends on its step alone; an iterator cannot go back. {remedy}"
    )


def wrong_tokens(batch: Batch, params: Any, model: Layer | None) -> str | None:
    """Return which tokens of a batch are outside of the vocabulary; None where there are none.

    Inputs are compared with the largest embedding table in the params, targets with the last axis of the outputs.
    """
    rows = [
        leaf.shape[0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path
        and getattr(path[-1], "key", getattr(path[-1], "name", None)) == "embedding"
        and leaf.ndim == 2
    ]
    found = []
    if rows:
        for name, token in _outside("xs", batch.xs, batch.mask, max(rows)):
            found.append(f"batch.{name} holds token {token}, the embedding has {max(rows)} rows")
    for classes, shape in _logits(batch, params, model):
        for name, token in _outside("targets", batch.targets, batch.mask, classes, shape):
            found.append(f"batch.{name} holds token {token}, the outputs have {classes} classes")
    return "; ".join(found) or None


def _outside(name: str, tree: Any, mask: Any, size: int, shape: Any = None) -> Iterator[tuple[str, int]]:
    """Yield the name of each integer leaf with a token outside of a vocabulary, and the token."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.integer) or (
            shape is not None and leaf.shape not in (shape, shape[1:])
        ):
            continue
        tokens = np.asarray(leaf)
        if mask is not None and np.shape(mask) == tokens.shape:
            tokens = tokens[np.asarray(mask)]
        wrong = tokens[(tokens >= size) | (tokens < -size)]
        if wrong.size:
            yield name + jax.tree_util.keystr(path), int(wrong[0])


def _logits(batch: Batch, params: Any, model: Layer | None) -> list[tuple[int, tuple[int, ...]]]:
    """Return the number of classes, and the shape of labels, of each output that has such targets."""
    if model is None:
        return []

    def outputs(params: Any, batch: Batch) -> Any:
        carry = model.initial_carry(params, first_step(batch.xs))
        return model.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)[1]

    ys = jax.eval_shape(outputs, params, batch)
    return [(y.shape[-1], y.shape[:-1]) for y in jax.tree.leaves(ys) if y.ndim > 1]
