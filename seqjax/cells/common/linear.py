"""Helpers of cells with a linear recurrence: input maps, a check of eigenvalues, initial weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.checks import check_above


def to_channels(xs: jax.Array, w_x: jax.Array | None, hidden_size: int) -> jax.Array:
    """Return the H channels of a recurrence: ``xs @ w_x``, or xs ``[..., H]`` without an input map."""
    if w_x is not None:
        return affine(xs, w_x)
    if not jnp.issubdtype(xs.dtype, jnp.floating) or xs.shape[-1] != hidden_size:
        raise ValueError(
            f"expected floating xs [..., {hidden_size}] (input_map=False: the inputs are the channels), "
            f"got {xs.dtype} {list(xs.shape)}."
        )
    return xs


def as_inputs(params: Any, hs: jax.Array, xs: jax.Array) -> jax.Array:
    """Return the states in the dtype of the inputs."""
    return hs.astype(xs.dtype)


def init_input_map(
    key: jax.Array, x: jax.Array, hidden_size: int, input_map: bool, dtype: Any
) -> jax.Array | None:
    """Draw ``w_x [D, H]``, normal with variance 1/D; return None without an input map."""
    return lecun_normal(key, (x.shape[-1], hidden_size), dtype) if input_map else None


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Draw normal numbers whose variance is 1 / fan-in, the size of the second-to-last axis."""
    return jax.random.normal(key, shape, dtype) / math.sqrt(shape[-2])


def glorot(key: jax.Array, rows: int, columns: int, num_gates: int, dtype: Any) -> jax.Array:
    """Draw ``[rows, num_gates * columns]``, uniform by Glorot and Bengio (2010) per gate."""
    bound = math.sqrt(6 / (rows + columns))
    return jax.random.uniform(key, (rows, num_gates * columns), dtype, -bound, bound)


def log_uniform(key: jax.Array, shape: tuple[int, ...], low: float, high: float, dtype: Any) -> jax.Array:
    """Draw the logarithms of numbers that are log-uniform between low and high."""
    return jax.random.uniform(key, shape, dtype, math.log(low), math.log(high))


def check_ring(who: str, r_min: float, r_max: float, max_phase: float) -> None:
    """Raise a ValueError unless eigenvalues can be drawn between two radii of the unit disk, up to a phase."""
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"{who}: expected 0 <= r_min < r_max <= 1, got r_min={r_min}, r_max={r_max}.")
    check_above(f"{who}(max_phase)", max_phase)
