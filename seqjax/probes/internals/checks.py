"""Checks of the arguments of probes. Errors name the probe, what it expected, what it got and the remedy."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Carry, Cell, Layer, X, Xs
from seqjax.checks import check_whole
from seqjax.gradients.objective import takes_mask
from seqjax.inputs import form

CONTRACT = "the contract of lax.scan, step(carry, x) -> (carry, y)"


def check_callable(who: str, step: Any) -> None:
    """Raise a TypeError unless a step is a bound layer or a function of a carry and an input."""
    if isinstance(step, Layer | Cell):
        wanted = "layer" if isinstance(step, Layer) else "recurrent(cell)"
        raise TypeError(
            f"{who}(bound): expected a bound layer or a step function, got {step!r}. Write bind({wanted}, params)."
        )
    if not callable(step):
        raise TypeError(
            f"{who}(bound): expected bind(layer, params), or a function with {CONTRACT}, got {step!r}."
        )
    _check_two_arguments(f"{who}(bound)", step, CONTRACT)


def check_loss(who: str, loss: Any) -> None:
    """Raise a TypeError unless a loss is a function of outputs and targets."""
    if not callable(loss):
        raise TypeError(f"{who}(loss): expected a function loss(ys, targets) -> losses, got {loss!r}.")
    if not takes_mask(loss):
        _check_two_arguments(f"{who}(loss)", loss, "loss(ys, targets) -> losses")


def _check_two_arguments(what: str, function: Callable, contract: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have no signature
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"{what}: expected {contract}, got {name}{signature}: {error}.") from error


def check_step(who: str, step: Callable, carry: Carry, x: X) -> None:
    """Raise a TypeError if a step does not return a pair, or changes the form or dtypes of its carry."""
    result = jax.eval_shape(step, carry, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{who}(bound): expected {CONTRACT}, a pair that begins with the carry {form(carry)}; the step returned "
            f"{form(result)}."
        )
    if form(result[0]) != form(carry):
        raise TypeError(
            f"{who}(bound): expected {CONTRACT}, with an unchanged form of the carry, {form(carry)}; the step returned "
            f"the carry {form(result[0])}. Keep structure, shapes and dtypes from step to step: cast the carry, or the "
            "inputs, to one dtype."
        )


def check_rank(who: str, k: int | None, size: int) -> int:
    """Return k, by default the size of the state; raise a ValueError if k is larger."""
    if k is None:
        return size
    note = f" (the state has {size} real numbers)"
    return check_whole(f"{who}(k)", k, 1, size, note=note)


def check_warm_up(who: str, warm_up: int, num_steps: int) -> None:
    """Raise a ValueError if no step is left after the warm-up."""
    check_whole(f"{who}(warm_up)", warm_up, 0)
    if warm_up >= num_steps:
        raise ValueError(
            f"{who}(warm_up): expected fewer steps than the {num_steps} of the sequence, got {warm_up}."
        )


def check_inputs(who: str, xs: Xs, batched: bool) -> tuple[Any, int]:
    """Return ``(xs, T)`` from inputs or a number of steps; raise an error for anything else."""
    if isinstance(xs, int | np.integer) and not isinstance(xs, bool):
        if batched:
            raise TypeError(
                f"{who}: expected inputs xs [T, B, ...] for a bound layer, got {xs} steps without inputs."
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
    who: str, carry: Carry, xs: Xs, reset: Any, mask: Any, batch_ndim: int | None = None
) -> tuple[Any, Any, Any, Any]:
    """Return carry, xs ``[T, *B, ...]`` and flags ``[T, *B]`` as arrays; raise an error if they do not fit.

    Without `batch_ndim` flags may have any number of batch axes.
    """
    # The values as given are checked to be finite: under jit the converted arrays are traced.
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


def check_batch(who: str, carry: Carry, xs: Xs) -> None:
    """Raise a ValueError if a leaf of the carry lacks the batch axis of xs ``[T, B, ...]``."""
    first = jax.tree.leaves(xs)[0].shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if leaf.shape[:1] != first[1:2]:
            raise ValueError(
                f"{who}: expected carry{jax.tree_util.keystr(path)} [{first[1]}, ...], for xs {list(first)} is "
                f"[T, B, ...], got {list(leaf.shape)}."
            )


def check_gradients(who: str, gradients: Any) -> tuple[Any, int]:
    """Return a tree of arrays ``[N, ...]`` and N; raise a ValueError unless N is shared and one array is floating."""
    gradients = jax.tree.map(lambda a: a if hasattr(a, "dtype") else jnp.asarray(a), gradients)
    leaves = jax.tree.leaves(gradients)
    floating = any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)
    if not floating or not _share_axes(leaves, 1):
        raise ValueError(
            f"{who}(gradients): expected a tree of arrays [N, ...] with one N, floating, got {form(gradients)}."
        )
    return gradients, leaves[0].shape[0]


def _share_axes(leaves: list, axes: int) -> bool:
    """Return whether there is an array, and all arrays begin with the same axes."""
    return bool(leaves) and all(a.ndim >= axes and a.shape[:axes] == leaves[0].shape[:axes] for a in leaves)


def check_flag(who: str, name: str, flag: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Return the flag as an array; raise a ValueError unless the flag is bool of this shape."""
    if flag is None:
        return None
    flag = jnp.asarray(flag)
    if flag.shape != shape or flag.dtype != jnp.bool_:
        raise ValueError(f"{who}: expected {name} bool{list(shape)}, got {form(flag)}.")
    return flag


def check_finite(who: str, name: str, tree: Any, mask: Any = None) -> None:
    """Raise a ValueError for NaN or infinity at a step that happens. Traced values are not checked."""
    if isinstance(mask, jax.core.Tracer):
        return
    for path, leaf in jax.tree.leaves_with_path(tree):
        if isinstance(leaf, jax.core.Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        values = np.asarray(leaf)  # NumPy: under jit jax.numpy traces constants, too
        bad = ~np.isfinite(values)
        if mask is not None:
            happened = np.asarray(mask)
            bad &= happened.reshape(happened.shape + (1,) * (bad.ndim - happened.ndim))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{who}: expected finite {name}, got {values[where]} at {name}{jax.tree_util.keystr(path)}"
                f"{list(where)} ({int(bad.sum())} such entries). Mask such steps, or correct the data."
            )
