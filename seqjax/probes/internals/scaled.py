"""Numbers beyond the range of floats: arrays with an integer exponent per example."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from seqjax.ops.select import expand
from seqjax.ops.tap import norm


class Scaled(NamedTuple):
    """The array ``mantissa * 2**exponent`` with one exponent per example. The largest entry of mantissa is near one.

    Exponents are integers because a float32 sum of logarithms would drift.
    """

    mantissa: jax.Array
    exponent: jax.Array


def unscaled(array: Inexact[Array, "..."], batch_ndim: int) -> Scaled:
    """Return an array ``[*B, ...]`` with exponents of zero."""
    return Scaled(array, jnp.zeros(array.shape[:batch_ndim], jnp.int32))


def scale(array: Inexact[Array, "..."], exponent: Int[Array, "*B"]) -> Inexact[Array, "..."]:
    """Return ``array * 2**exponent`` exactly. Exponents [*B] below the range of the dtype give zero."""
    real = jnp.finfo(array.dtype).dtype
    half = jnp.clip(exponent, -2000, 2000) // 2
    for part in (half, jnp.clip(exponent, -2000, 2000) - half):  # twice: 2**exponent itself may overflow
        array = array * expand(jnp.ldexp(jnp.ones((), real), part), array.ndim)
    return array


def normalize(scaled: Scaled, batch_ndim: int) -> Scaled:
    """Return equal numbers, with the largest entry of each example's mantissa in [1/2, 1)."""
    axes = tuple(range(batch_ndim, scaled.mantissa.ndim))
    size = jnp.max(jnp.abs(scaled.mantissa), axes, initial=0)
    ordinary = jnp.isfinite(size) & (size > 0)
    _, power = jnp.frexp(jnp.where(ordinary, size, 1))
    power = jnp.where(ordinary, power, 0).astype(jnp.int32)
    return Scaled(scale(scaled.mantissa, -power), scaled.exponent + power)


def align(terms: Sequence[Scaled], batch_ndim: int) -> tuple[list[jax.Array], jax.Array]:
    """Bring the arrays of all terms to one exponent, the largest exponent among nonzero terms."""
    lowest = jnp.iinfo(jnp.int32).min // 2
    terms = [normalize(term, batch_ndim) for term in terms]

    def rank(term: Scaled) -> jax.Array:
        axes = tuple(range(batch_ndim, term.mantissa.ndim))
        return jnp.where(jnp.any(term.mantissa != 0, axes), term.exponent, lowest)

    top = jnp.max(jnp.stack([rank(term) for term in terms]), 0)
    top = jnp.where(top == lowest, 0, top)
    # Only a term of zeros lies above the top; the minimum avoids 0 * inf there.
    return [scale(term.mantissa, jnp.minimum(term.exponent - top, 0)) for term in terms], top


def add(terms: Sequence[Scaled], batch_ndim: int) -> Scaled:
    """Add scaled arrays of one shape."""
    brought, top = align(terms, batch_ndim)
    return Scaled(sum(brought[1:], brought[0]), top)


def log_norm(scaled: Scaled, batch_ndim: int) -> Float[Array, "*B"]:
    """Return the natural logarithm ``[*B]`` of the 2-norm."""
    return logarithm(norm(scaled.mantissa, batch_ndim), scaled.exponent)


def sum_of_squares(norms: Sequence[Scaled]) -> tuple[jax.Array, jax.Array]:
    """Return the summed squares ``[k, *A]`` of arrays of scaled numbers, times ``4**-exponent``, and that exponent.

    The exponent ``[*A]`` is the largest along the first axis and among the arrays; smaller squares may underflow.

    Args:
        norms: non-negative numbers ``[k, *A]``, each with its own exponent.
    """
    lowest = jnp.iinfo(jnp.int32).min // 2
    mantissa, exponent = (jnp.stack(parts) for parts in zip(*norms, strict=True))
    top = jnp.max(jnp.where(mantissa != 0, exponent, lowest), (0, 1))
    top = jnp.where(top == lowest, 0, top)
    brought = scale(mantissa, jnp.minimum(exponent - top, 0))
    return jnp.sum(jnp.square(brought), 0), top


def logarithm(number: Float[Array, "*B"], exponent: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Return ``log(number * 2**exponent)``; -inf for zero, with a derivative of zero."""
    log = jnp.where(number == 0, -jnp.inf, jnp.log(jnp.where(number == 0, 1, number)))
    return log + exponent.astype(number.dtype) * jnp.log(jnp.asarray(2, number.dtype))


def without_float0(tree: Any) -> Any:
    """Replace float0, the dtype of gradients with respect to integers, by plain zeros, since loops reject float0."""
    return jax.tree.map(lambda d: jnp.zeros(d.shape, bool) if d.dtype == jax.dtypes.float0 else d, tree)
