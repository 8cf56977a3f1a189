"""Helpers of continuous-time cells, whose inputs have elapsed times."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.cells.common.initialize import zero_carry


class TimedInputs(NamedTuple):
    """Features x ``[*B, D]`` and the time dt ``[*B]`` since the previous step, in any unit."""

    x: jax.Array
    dt: jax.Array


class ContinuousTimeCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


def parts(inputs: Any) -> tuple[jax.Array, jax.Array]:
    """Return x and dt of the inputs; raise a ValueError for inputs of another structure."""
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise ValueError(
            f"expected TimedInputs(x [..., D], dt [...]), got {jax.tree.map(jnp.shape, inputs)}."
        )
    return inputs[0], inputs[1]


def project(params: Any, xs: Any, key: Any = None) -> tuple[jax.Array, jax.Array]:
    """Return ``x @ w + b`` and the elapsed times with an extra axis that broadcasts against features."""
    x, dt = parts(xs)
    width = len(params.w_x)
    floating = all(jnp.issubdtype(a.dtype, jnp.floating) for a in (x, dt))
    if not floating or x.shape[-1] != width or dt.shape != x.shape[:-1]:
        raise ValueError(
            f"expected floating TimedInputs(x [..., {width}], dt [...]), got x {x.dtype} {list(x.shape)} and "
            f"dt {dt.dtype} {list(dt.shape)}."
        )
    return affine(x, params.w_x, params.b), dt.astype(x.dtype)[..., None]


def initial_carry(hidden_size: int) -> Any:
    """Return the function ``(params, inputs) -> carry`` of zeros."""
    return lambda params, x: ContinuousTimeCarry(zero_carry(parts(x)[0], hidden_size))
