r"""The diagonal linear recurrence :math:`h_t = a_t h_{t-1} + b_t` over whole sequences, with its own backward pass.

The adjoint of a linear scan is a linear scan in reversed time with the coefficients shifted by one:
:math:`\lambda_t = g_t + a_{t+1} \lambda_{t+1}`, then :math:`\partial b_t = \lambda_t`,
:math:`\partial a_t = \lambda_t h_{t-1}` and :math:`\partial h_{t-1} = a_t \lambda_t` (JAX's convention: no conjugates).
So any way to run the scan forward runs it backward as well, and only h is kept: T B H numbers.

======================== ============ ============ ==================
scan                     work         depth        temporary memory
======================== ============ ============ ==================
`sequential`             T B H        T            none
`associative`            ~2 T B H     2 log2 T     ~2 T B H
======================== ============ ============ ==================
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact

from seqjax.base import DiagonalInputs, Flags
from seqjax.ops.select import keep, select
from seqjax.ops.step import expand_left
from seqjax.ops.tap import norm

Scan = Callable[[Any, Any, Any], Any]


def sequential(
    a: Inexact[Array, "... H"], b: Inexact[Array, "T *B H"], restart: Bool[Array, "T *B"] | None
) -> Inexact[Array, "T *B H"]:
    """``h_t = a_t h_{t-1} + b_t`` from ``h_{-1} = 0``, one step after another; where `restart`, ``h_t = b_t``."""
    constant = a.ndim < b.ndim
    if constant:
        a = expand_left(a, b.ndim - 1)

    def body(h: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        a_t, b_t, restart_t = inputs
        carried = (a if constant else a_t) * h
        h = b_t + (carried if restart_t is None else keep(~restart_t, carried))
        return h, h

    return jax.lax.scan(body, jnp.zeros_like(b[0]), (None if constant else a, b, restart))[1]


def associative(
    a: Inexact[Array, "... H"], b: Inexact[Array, "T *B H"], restart: Bool[Array, "T *B"] | None
) -> Inexact[Array, "T *B H"]:
    """The same by a parallel prefix (Blelloch 1990) over pairs ``(a, b)``; restarts travel as a third entry.

    A restart cuts by selection, not by ``a = 0``: a product with zero would let NaN through.
    """
    if a.ndim < b.ndim:
        a = jnp.broadcast_to(expand_left(a, b.ndim), (b.shape[0], *(1,) * (b.ndim - 2), a.shape[-1]))
    if restart is None:
        return jax.lax.associative_scan(lambda l, r: (l[0] * r[0], r[0] * l[1] + r[1]), (a, b))[1]

    def combine(left: Any, right: Any) -> Any:
        (a_l, b_l, cut_l), (a_r, b_r, cut_r) = left, right
        return select(cut_r[..., 0], a_r, a_l * a_r), b_r + keep(~cut_r[..., 0], a_r * b_l), cut_l | cut_r

    return jax.lax.associative_scan(combine, (jnp.broadcast_to(a, b.shape), b, restart[..., None]))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def linear_scan(
    scan: Scan, a: Any, b: Any, carry: Any, initial: Any, reset: Any, tap: Any
) -> Inexact[Array, "T *B H"]:
    r"""All :math:`h_t = a_t \tilde h_{t-1} + b_t`, where :math:`\tilde h_{t-1}` is `initial` at a reset.

    Shapes: a ``[T, *B, H]`` or ``[H]``; b ``[T, *B, H]``; carry, initial ``[*B, H]``; reset ``[T, *B]`` or None;
    tap ``[T, *B]`` or None.

    Args:
        scan: `sequential` or `associative`; it also runs the backward pass.
        a: decays, in b's dtype.
        b: inputs, float32 or complex64 at least.
        carry: h before the first step.
        initial: the carry at a reset; unused without.
        reset: where the carry restarts before the step.
        tap: a dummy whose gradient is the norm of the gradient by the carry entering each step, after its reset.
    """
    return _solve(scan, a, b, carry, initial, reset)


def _entering(at: Any, first: Any, reset: Any, initial: Any) -> Any:
    """The carries that enter each step: the previous values, `initial` where reset."""
    before = jnp.concatenate([first[None], at[:-1]])
    return before if reset is None else select(reset, jnp.broadcast_to(initial, before.shape), before)


def _at_time(a: jax.Array, b: jax.Array) -> jax.Array:
    return a if a.ndim == b.ndim else expand_left(a, b.ndim)


def _solve(scan: Scan, a: Any, b: Any, carry: Any, initial: Any, reset: Any) -> Any:
    a_t = _at_time(a, b)
    if reset is None:
        start = jnp.concatenate([b[:1] + a_t[:1] * carry[None], b[1:]])
        return scan(a, start, None)
    from_initial = b + a_t * initial[None]
    first = b[:1] + a_t[:1] * select(reset[0], initial, carry)[None]
    return scan(a, jnp.concatenate([first, select(reset[1:], from_initial[1:], b[1:])]), reset)


def _forward(scan: Scan, a: Any, b: Any, carry: Any, initial: Any, reset: Any, tap: Any) -> tuple[Any, Any]:
    hs = _solve(scan, a, b, carry, initial, reset)
    return hs, (a, hs, carry, initial, reset, tap)


def _backward(scan: Scan, residuals: Any, g: jax.Array) -> Any:
    a, hs, carry, initial, reset, tap = residuals
    zero = jnp.zeros_like(g[0])
    shifted = a if a.ndim < g.ndim else jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])[::-1]
    cut = None if reset is None else jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])[::-1]
    adjoint = linear_scan(scan, shifted, g[::-1], zero, zero, cut, None)[::-1]

    into = _at_time(a, g) * adjoint  # the gradient by the carry entering each step, after its reset
    d_a = _sum_to(adjoint * _entering(hs, carry, reset, initial), a.shape)
    d_initial = None if reset is None else jnp.sum(keep(reset, into), 0)
    d_carry = into[0] if reset is None else keep(~reset[0], into[0])
    d_tap = None if tap is None else norm(into, tap.ndim).astype(tap.dtype)
    return d_a, adjoint, d_carry, d_initial, None, d_tap


linear_scan.defvjp(_forward, _backward)


def diagonal(
    scan: Scan, inputs: DiagonalInputs, carry: jax.Array, flags: Flags
) -> tuple[jax.Array, jax.Array]:
    """``(carry, hs)`` of a `Diagonal` recurrence; a masked step has ``a = 1, b = 0``. The key is not used."""
    reset, mask, _, tap, initial = flags
    inputs = in_carry_dtype(inputs, carry.dtype)
    a, b = inputs.a, inputs.b
    if mask is not None:
        a = select(mask, jnp.broadcast_to(_at_time(a, b), b.shape), jnp.ones_like(b))
        b = keep(mask, b)
    hs = linear_scan(scan, a, b, carry, initial, reset, tap)
    return hs[-1], hs


def in_carry_dtype(inputs: DiagonalInputs, dtype: Any) -> DiagonalInputs:
    """Both inputs in the dtype of the carry."""
    return DiagonalInputs(*(jnp.asarray(array).astype(dtype) for array in inputs))


def over_batch(inputs: DiagonalInputs) -> DiagonalInputs:
    """Inputs whose ``a`` has all the axes of ``b``, as the step-by-step loop needs."""
    return DiagonalInputs(jnp.broadcast_to(_at_time(inputs.a, inputs.b), inputs.b.shape), inputs.b)


def _sum_to(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The gradient of broadcasting an array of this shape."""
    array = jnp.sum(array, tuple(range(array.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and array.shape[i] != 1)
    return jnp.sum(array, axes, keepdims=True) if axes else array
