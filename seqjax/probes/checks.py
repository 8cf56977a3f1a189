"""Checks of what the probes of a state over time are given: who, what was expected, what came, what to do."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Layer
from seqjax.checks import check_whole

CONTRACT = "lax.scan's contract, step(carry, x) -> (carry, y)"


def form(tree: Any) -> str:
    """A tree as text, its arrays as dtype and shape."""
    described = jax.tree.map(lambda a: Text(f"{a.dtype}{list(a.shape)}") if hasattr(a, "shape") else a, tree)
    return repr(described)


class Text(str):
    """A string that prints without quotes."""

    def __repr__(self) -> str:
        return str(self)


def check_callable(who: str, step: Any) -> None:
    """Raise a TypeError for what cannot be called with a carry and an input."""
    if isinstance(step, Layer | Cell):
        wanted = "layer" if isinstance(step, Layer) else "recurrent(cell)"
        raise TypeError(f"{who}(step): expected a step, got {step!r}. Write bind({wanted}, params).")
    if not callable(step):
        raise TypeError(f"{who}(step): expected a function with {CONTRACT}, got {step!r}.")
    _check_two_arguments(f"{who}(step)", step, CONTRACT)


def check_loss(who: str, loss: Any) -> None:
    """Raise a TypeError for what cannot be called with outputs and targets."""
    if not callable(loss):
        raise TypeError(f"{who}(loss): expected a function loss(ys, targets) -> losses, got {loss!r}.")
    _check_two_arguments(f"{who}(loss)", loss, "loss(ys, targets) -> losses")


def _check_two_arguments(what: str, function: Callable, contract: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins do not tell theirs
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"{what}: expected {contract}, got {name}{signature}: {error}.") from error


def check_step(who: str, step: Callable, carry: Any, x: Any) -> None:
    """Raise a TypeError where a step does not return a pair, or changes the form or dtypes of its carry."""
    result = jax.eval_shape(step, carry, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{who}(step): expected {CONTRACT}, a pair whose first is a carry {form(carry)}; it returned "
            f"{form(result)}."
        )
    if form(result[0]) != form(carry):
        raise TypeError(
            f"{who}(step): expected {CONTRACT}, with the carry as it came, {form(carry)}; it returned the carry "
            f"{form(result[0])}. Structure, shapes and dtypes must not change from step to step: cast the carry, or "
            "the inputs, to one dtype."
        )


def check_rank(who: str, k: int | None, size: int) -> int:
    """k, by default all of the state; a ValueError where it is larger."""
    if k is None:
        return size
    note = f" (the state has {size} real numbers)"
    return check_whole(f"{who}(k)", k, 1, size, note=note)


def check_warm_up(who: str, warm_up: int, num_steps: int) -> None:
    """Raise a ValueError where nothing is left after the warm-up."""
    check_whole(f"{who}(warm_up)", warm_up, 0)
    if warm_up >= num_steps:
        raise ValueError(
            f"{who}(warm_up): expected fewer steps than the {num_steps} that there are, got {warm_up}."
        )


def check_inputs(who: str, xs: Any, batched: bool) -> tuple[Any, int]:
    """``(xs, T)`` from inputs or a number of steps; an error for anything else."""
    if isinstance(xs, int | np.integer) and not isinstance(xs, bool):
        if batched:
            raise TypeError(
                f"{who}: expected inputs xs [T, B, ...] for a bound layer, got {xs} steps without any."
            )
        check_whole(f"{who}(num_steps)", xs, 1)
        return None, int(xs)
    xs = jax.tree.map(jnp.asarray, xs)
    leaves = jax.tree.leaves(xs)
    letters = "[T, B, ...]" if batched else "[T, ...]"
    if not _share_axes(leaves, 1 + batched):
        raise ValueError(
            f"{who}: expected xs {letters}, or a number of steps as a Python int, got {form(xs)}."
        )
    if leaves[0].shape[0] == 0:
        raise ValueError(f"{who}: expected xs {letters} with T of at least 1, got {form(xs)}.")
    return xs, leaves[0].shape[0]


def check_sequence(
    who: str, carry: Any, xs: Any, reset: Any, mask: Any, batch_ndim: int | None = None
) -> tuple[Any, Any, Any, Any]:
    """Carry, xs ``[T, *B, ...]`` and flags ``[T, *B]`` as arrays; an error where they do not fit or are not finite.

    Without a number of batch axes flags may have as many as they have.
    """
    # The given ones are checked for being finite: inside of jit arrays made of constants are traced.
    given = carry, xs
    carry, xs = jax.tree.map(jnp.asarray, given)
    leaves = jax.tree.leaves(xs)
    axes = 1 + (batch_ndim or 0)
    letters = {0: "[T, ...]", 1: "[T, B, ...]"}.get(-1 if batch_ndim is None else batch_ndim, "[T, *B, ...]")
    if not _share_axes(leaves, axes):
        raise ValueError(f"{who}: expected xs {letters}, got {form(xs)}.")
    flags = []
    for name, flag in (("reset", reset), ("mask", mask)):
        own = axes if batch_ndim is not None or flag is None else max(1, np.ndim(flag))
        flags.append(check_flag(who, name, flag, leaves[0].shape[:own]))
    check_finite(who, "xs", given[1], mask)
    check_finite(who, "carry", given[0])
    return carry, xs, *flags


def check_batch(who: str, carry: Any, xs: Any) -> None:
    """Raise a ValueError where a leaf of the carry has not the batch axis of xs ``[T, B, ...]``."""
    first = jax.tree.leaves(xs)[0].shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if leaf.shape[:1] != first[1:2]:
            raise ValueError(
                f"{who}: expected carry{jax.tree_util.keystr(path)} [{first[1]}, ...], for xs {list(first)} is "
                f"[T, B, ...], got {list(leaf.shape)}."
            )


def check_gradients(who: str, gradients: Any) -> tuple[Any, int]:
    """A tree of arrays ``[N, ...]``, and N; a ValueError for anything else, or where none of them is floating."""
    gradients = jax.tree.map(lambda a: a if hasattr(a, "dtype") else jnp.asarray(a), gradients)
    leaves = jax.tree.leaves(gradients)
    floating = any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)
    if not floating or not _share_axes(leaves, 1):
        raise ValueError(
            f"{who}(gradients): expected a tree of arrays [N, ...] with one N, floating, got {form(gradients)}."
        )
    return gradients, leaves[0].shape[0]


def _share_axes(leaves: list, axes: int) -> bool:
    """Whether there are arrays, and all begin with the same axes."""
    return bool(leaves) and all(a.ndim >= axes and a.shape[:axes] == leaves[0].shape[:axes] for a in leaves)


def check_flag(who: str, name: str, flag: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """The flag as an array; a ValueError unless it is bool of this shape."""
    if flag is None:
        return None
    flag = jnp.asarray(flag)
    if flag.shape != shape or flag.dtype != jnp.bool_:
        raise ValueError(f"{who}: expected {name} bool{list(shape)}, got {form(flag)}.")
    return flag


def check_finite(who: str, name: str, tree: Any, mask: Any = None) -> None:
    """Raise a ValueError for NaN or infinity at a step that happens; values that are being traced are not known."""
    if isinstance(mask, jax.core.Tracer):
        return
    for path, leaf in jax.tree.leaves_with_path(tree):
        if isinstance(leaf, jax.core.Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        values = np.asarray(leaf)  # NumPy, for inside of jit what jax.numpy computes of constants is traced
        bad = ~np.isfinite(values)
        if mask is not None:
            happened = np.asarray(mask)
            bad &= happened.reshape(happened.shape + (1,) * (bad.ndim - happened.ndim))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{who}: expected finite {name}, got {values[where]} at {name}{jax.tree_util.keystr(path)}"
                f"{list(where)} ({int(bad.sum())} such entries). Mask such steps, or mend the data."
            )
