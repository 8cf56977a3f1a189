r"""The diagonal linear recurrence :math:`h_t = a_t h_{t-1} + b_t` over whole sequences, with a custom backward pass.

The adjoint of a linear scan is a linear scan in reversed time whose coefficients are shifted by one step:
:math:`\lambda_t = g_t + a_{t+1} \lambda_{t+1}`, then :math:`\partial b_t = \lambda_t`,
:math:`\partial a_t = \lambda_t h_{t-1}` and :math:`\partial h_{t-1} = a_t \lambda_t` (JAX's convention: no conjugates).
So every algorithm for the forward pass also computes the backward pass. The backward pass needs a, h and the flags;
h takes T B H numbers.

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
from jaxtyping import Array, Bool, Float, Inexact

from seqjax.base import Carry, DiagonalInputs, Flags, Hs
from seqjax.ops.select import keep, select
from seqjax.ops.step import expand_left
from seqjax.ops.tap import norm

Scan = Callable[[Any, Any, Any], Any]


def sequential(
    a: Inexact[Array, "... H"], b: Inexact[Array, "T *B H"], restart: Bool[Array, "T *B"] | None
) -> Inexact[Array, "T *B H"]:
    """Compute ``h_t = a_t h_{t-1} + b_t`` from ``h_{-1} = 0``, step by step. Where `restart` is True, ``h_t = b_t``."""
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
    """Compute the values of `sequential` by a parallel prefix (Blelloch 1990) over triples ``(a, b, restart)``.

    A restart selects ``b_t`` and does not set ``a = 0``, because the product of zero and NaN is NaN.
    """
    if a.ndim < b.ndim:
        a = jnp.broadcast_to(expand_left(a, b.ndim), (b.shape[0], *(1,) * (b.ndim - 2), a.shape[-1]))
    if restart is None:
        return jax.lax.associative_scan(lambda l, r: (l[0] * r[0], r[0] * l[1] + r[1]), (a, b))[1]

    def combine(left: Any, right: Any) -> Any:
        (a_l, b_l, cut_l), (a_r, b_r, cut_r) = left, right
        return select(cut_r[..., 0], a_r, a_l * a_r), b_r + keep(~cut_r[..., 0], a_r * b_l), cut_l | cut_r

    return jax.lax.associative_scan(combine, (jnp.broadcast_to(a, b.shape), b, restart[..., None]))[1]


def linear_scan(
    scan: Scan,
    a: Inexact[Array, "... H"],
    b: Inexact[Array, "T *B H"],
    carry: Inexact[Array, "*B H"],
    initial: Inexact[Array, "*B H"] | None,
    reset: Bool[Array, "T *B"] | None,
    tap: Float[Array, "T *B"] | None,
) -> Inexact[Array, "T *B H"]:
    r"""Return all :math:`h_t = a_t \tilde h_{t-1} + b_t`, where :math:`\tilde h_{t-1}` is `initial` at a reset.

    Shapes: a ``[T, *B, H]`` or ``[H]``; b ``[T, *B, H]``; carry, initial ``[*B, H]``; reset ``[T, *B]`` or None;
    tap ``[T, *B]`` or None.

    Args:
        scan: `sequential` or `associative`; the backward pass uses the same algorithm.
        a: decays, in b's dtype.
        b: inputs, in at least float32 or complex64.
        carry: h before the first step.
        initial: the carry at a reset; not used if reset is None.
        reset: where the carry restarts before the step.
        tap: a dummy. Its gradient is the norm of the gradient with respect to the carry that enters each step, after
            the reset of the step.
    """
    if tap is None:
        return _solve(partial(_solved, scan), a, b, carry, initial, reset)
    return _tapped(scan, a, b, carry, initial, reset, tap)


def _solved(scan: Scan, a: jax.Array, b: jax.Array, cut: Any) -> jax.Array:
    """The scan as the solution of ``h_t - a_t h_{t-1} = b_t``, whose derivatives JAX knows in both modes.

    The transposed system is the scan in reversed time, so that the backward pass keeps a and h alone.
    """

    def matvec(h: jax.Array) -> jax.Array:
        before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        # Selected before the product: what a restart forgets reaches no gradient, NaN included.
        return h - _over_time(a, b) * (before if cut is None else keep(~cut, before))

    def solve(_: Any, b: jax.Array) -> jax.Array:
        return scan(a, b, cut)

    def transpose_solve(_: Any, g: jax.Array) -> jax.Array:
        return scan(*_reversed(a, g, cut))[::-1]

    return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve)


def _reversed(a: jax.Array, g: jax.Array, cut: Any) -> tuple[jax.Array, jax.Array, Any]:
    """Decays, inputs and restarts of the adjoint scan, in reversed time."""
    shifted = a if a.ndim < g.ndim else jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])[::-1]
    cut = None if cut is None else jnp.concatenate([cut[1:], jnp.zeros_like(cut[:1])])[::-1]
    return shifted, g[::-1], cut


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tapped(scan: Scan, a: Any, b: Any, carry: Carry, initial: Any, reset: Any, tap: Any) -> jax.Array:
    """`linear_scan` with a tap, in reverse mode alone."""
    return _solve(scan, a, b, carry, initial, reset)


def _entering(hs: Hs, carry: Carry, reset: Any, initial: Any) -> Any:
    """Return the carry that enters each step: the previous h, or `initial` at a reset."""
    before = jnp.concatenate([carry[None], hs[:-1]])
    return before if reset is None else select(reset, jnp.broadcast_to(initial, before.shape), before)


def _over_time(a: Inexact[Array, "... H"], b: Inexact[Array, "..."]) -> Inexact[Array, "... H"]:
    """Give a the number of axes of b."""
    return a if a.ndim == b.ndim else expand_left(a, b.ndim)


def _solve(scan: Scan, a: Any, b: Any, carry: Carry, initial: Any, reset: Any) -> Any:
    a_t = _over_time(a, b)
    if reset is None:
        start = jnp.concatenate([b[:1] + a_t[:1] * carry[None], b[1:]])
        return scan(a, start, None)
    # Selected before the product, too, so that the gradient by `initial` reads the decays at resets alone.
    from_initial = b + keep(reset, a_t) * initial[None]
    first = b[:1] + a_t[:1] * select(reset[0], initial, carry)[None]
    return scan(a, jnp.concatenate([first, select(reset[1:], from_initial[1:], b[1:])]), reset)


def _forward(scan: Scan, a: Any, b: Any, carry: Carry, initial: Any, reset: Any, tap: Any) -> tuple[Any, Any]:
    hs = _solve(scan, a, b, carry, initial, reset)
    return hs, (a, hs, carry, initial, reset, tap)


def _backward(scan: Scan, residuals: Any, g: jax.Array) -> Any:
    a, hs, carry, initial, reset, tap = residuals
    zero = jnp.zeros_like(g[0])
    shifted, inputs, cut = _reversed(a, g, reset)
    adjoint = linear_scan(scan, shifted, inputs, zero, zero, cut, None)[::-1]

    into = _over_time(a, g) * adjoint  # gradient w.r.t. the carry entering each step, after the reset
    d_a = _unbroadcast(adjoint * _entering(hs, carry, reset, initial), a.shape)
    d_initial = None if reset is None else jnp.sum(keep(reset, into), 0)
    d_carry = into[0] if reset is None else keep(~reset[0], into[0])
    d_tap = None if tap is None else norm(into, tap.ndim).astype(tap.dtype)
    return d_a, adjoint, d_carry, d_initial, None, d_tap


_tapped.defvjp(_forward, _backward)


def diagonal(
    scan: Scan, inputs: DiagonalInputs, carry: Inexact[Array, "*B H"], flags: Flags
) -> tuple[Inexact[Array, "*B H"], Inexact[Array, "T *B H"]]:
    """Return ``(carry, hs)`` of a `Diagonal` recurrence.

    A masked step has ``a = 1, b = 0``. The function ignores ``flags.key``.
    """
    reset, mask, _, tap, initial = flags
    inputs = in_carry_dtype(inputs, carry.dtype)
    a, b = inputs.a, inputs.b
    if mask is not None:
        a = select(mask, jnp.broadcast_to(_over_time(a, b), b.shape), jnp.ones_like(b))
        b = keep(mask, b)
    hs = linear_scan(scan, a, b, carry, initial, reset, tap)
    return hs[-1], hs


def in_carry_dtype(inputs: DiagonalInputs, dtype: Any) -> DiagonalInputs:
    """Cast both inputs to the dtype of the carry."""
    return DiagonalInputs(*(jnp.asarray(array).astype(dtype) for array in inputs))


def broadcast_decay(inputs: DiagonalInputs) -> DiagonalInputs:
    """Broadcast ``a`` to the shape of ``b``, which the step-by-step loop requires."""
    return DiagonalInputs(jnp.broadcast_to(_over_time(inputs.a, inputs.b), inputs.b.shape), inputs.b)


def _unbroadcast(array: Inexact[Array, "..."], shape: tuple[int, ...]) -> Inexact[Array, "..."]:
    """Sum an array over the axes along which an array of the given shape was broadcast."""
    array = jnp.sum(array, tuple(range(array.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and array.shape[i] != 1)
    return jnp.sum(array, axes, keepdims=True) if axes else array
