"""Helpers of cells with heads: sizes, projections into heads, norms per head, step sizes, the zero state."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.cells.common.initialize import zero_carry
from seqjax.checks import check_whole, is_whole
from seqjax.ops.select import wide
from seqjax.ops.step import expand_left

# A vector shorter than this is divided by this length, so the derivative of its direction stays below 1e6.
SHORTEST = 1e-6


class Heads(NamedTuple):
    """Sizes of a cell with heads: N heads, keys of size K, values of size V."""

    number: int
    key_size: int
    value_size: int


def check_heads(
    who: str,
    hidden_size: int,
    num_heads: int,
    key_size: int | None,
    value_size: int | None,
    *,
    defaults: Callable[[int], tuple[int, int]] = lambda share: (share, share),
    centered: bool = False,
) -> Heads:
    """Return the sizes with defaults filled in; raise a ValueError where they do not fit.

    Args:
        who: the factory's name.
        hidden_size: H.
        num_heads: N.
        key_size: K or None.
        value_size: V or None.
        defaults: maps ``hidden_size // num_heads`` to the default key_size and value_size.
        centered: whether a norm subtracts the mean from each head's output, which turns a single number into zero.
    """
    check_whole(f"{who}(hidden_size)", hidden_size)
    check_whole(f"{who}(num_heads)", num_heads)
    if (key_size is None or value_size is None) and hidden_size % num_heads:
        raise ValueError(
            f"{who}: expected a hidden_size that is a multiple of num_heads, got {hidden_size} and {num_heads}. "
            "Pass another `num_heads=`, or both `key_size=` and `value_size=`."
        )
    default_key_size, default_value_size = defaults(hidden_size // num_heads)
    key_size = default_key_size if key_size is None else key_size
    value_size = default_value_size if value_size is None else value_size
    check_whole(f"{who}(key_size)", key_size)
    check_whole(f"{who}(value_size)", value_size)
    if centered and value_size == 1:
        raise ValueError(
            f"{who}(value_size): expected at least 2, got 1: each head's output is centered, and would be zero. "
            "Pass fewer heads or a larger `value_size=`."
        )
    return Heads(num_heads, key_size, value_size)


def two_heads(factory: Callable, **fixed: Any) -> Callable:
    """Wrap a factory to use two heads when `hidden_size` is even and above 2, otherwise one.

    The wrapper passes all other arguments to the factory.
    """

    @functools.wraps(factory)
    def make(hidden_size: int, **options: Any) -> Any:
        even = is_whole(hidden_size, 3) and hidden_size % 2 == 0
        return factory(hidden_size, num_heads=2 if even else 1, **fixed, **options)

    return make


def zero_state(x: jax.Array, heads: Heads, *, normalizer: bool = False) -> jax.Array:
    """Return a state of zeros ``[*B, N, K, V]``, float32 at least; with a normalizer it has one more column."""
    number, key_size, value_size = heads
    value_size += normalizer
    flat = zero_carry(x, number * key_size * value_size, wide(x.dtype))
    return flat.reshape(*x.shape[:-1], number, key_size, value_size)


def empty(heads: Heads, *, normalizer: bool = False) -> Callable:
    """Return the initial carry ``(params, x) -> zero_state(x, heads)``."""
    return lambda params, x: zero_state(x, heads, normalizer=normalizer)


def fan_in_normal(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """Draw normal weights ``[rows, columns]`` of variance 1 / rows."""
    return jax.random.normal(key, shape, dtype) / math.sqrt(shape[0])


def split_heads(xs: jax.Array, number: int) -> jax.Array:
    """Reshape ``[..., N*K]`` to ``[..., N, K]``."""
    return xs.reshape(*xs.shape[:-1], number, xs.shape[-1] // number)


def merge_heads(xs: jax.Array) -> jax.Array:
    """Reshape ``[..., N, V]`` to ``[..., N*V]``."""
    return xs.reshape(*xs.shape[:-2], xs.shape[-2] * xs.shape[-1])


def with_ones(v: jax.Array) -> jax.Array:
    """Append a column of ones to values ``[..., V]``; the recurrence sums this column to the normalizer."""
    return jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)


def unit(xs: jax.Array) -> jax.Array:
    """Scale vectors ``[..., K]`` to length 1, in float32 at least. Zero stays zero; all derivatives are finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> unit(jnp.asarray([3.0, 4.0]))
        Array([0.6, 0.8], dtype=float32)
        >>> jax.grad(lambda x: unit(x).sum())(jnp.zeros(2))
        Array([1.e+06, 1.e+06], dtype=float32)
    """
    xs = xs.astype(wide(xs.dtype))
    square = jnp.sum(jnp.square(xs), -1, keepdims=True)
    return xs * jax.lax.rsqrt(jnp.maximum(square, SHORTEST**2))


def normalize(o: jax.Array, *, center: bool, epsilon: float = 1e-5) -> jax.Array:
    """Scale each head's output ``[..., N, V]`` to mean square 1; with `center`, subtract its mean first.

    This is RMS norm, or with `center` layer norm, per head (group norm with one group per head), without a gain.

    Args:
        o: outputs of the heads, float32 at least.
        center: whether to subtract the mean.
        epsilon: added to the mean square.
    """
    if center:
        o = o - jnp.mean(o, -1, keepdims=True)
    return o * jax.lax.rsqrt(jnp.mean(jnp.square(o), -1, keepdims=True) + epsilon)


def gated_readout(
    o: jax.Array, gate: jax.Array | None, w_o: jax.Array, dtype: Any, *, center: bool
) -> jax.Array:
    """Return ``(gate * normalize(o)) @ w_o [..., H]`` in a dtype; o ``[..., N, V]``, gate ``[..., N*V]`` or None."""
    ys = merge_heads(normalize(o, center=center)).astype(dtype)
    return affine(ys if gate is None else gate * ys, w_o)


def step_size_params(key: jax.Array, num_heads: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Draw ``a_log, b_dt [N]``: rates exp(a_log) uniform in [1, 16], steps softplus(b_dt) log-uniform in [0.001, 0.1].

    This is the initialization of Mamba-2's authors.
    """
    key_a, key_dt = jax.random.split(key)
    working = wide(jnp.dtype(dtype))
    a = jax.random.uniform(key_a, (num_heads,), working, 1, 16)
    dt = jnp.exp(jax.random.uniform(key_dt, (num_heads,), working, math.log(0.001), math.log(0.1)))
    return jnp.log(a).astype(dtype), (dt + jnp.log(-jnp.expm1(-dt))).astype(dtype)


def step_sizes(
    xs: jax.Array, w_dt: jax.Array, b_dt: jax.Array, a_log: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return ``dt = softplus(xs @ w_dt + b_dt)`` and ``log_decay = -exp(a_log) dt``, ``[..., N]``, float32 at least."""
    dtype = wide(xs.dtype)
    dt = affine(xs, w_dt).astype(dtype)
    dt = jax.nn.softplus(dt + expand_left(b_dt.astype(dtype), dt.ndim))
    return dt, -expand_left(jnp.exp(a_log.astype(dtype)), dt.ndim) * dt
