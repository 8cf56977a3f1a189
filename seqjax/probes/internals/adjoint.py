r"""Reverse and forward mode through a loop, step by step and at any depth.

.. math::
    \delta_{t-1} = J_t^\top \delta_t + (\partial y_t / \partial s_{t-1})^\top \, \partial L / \partial y_t

Each leaf of :math:`\delta` has its own power of two per example. A masked step has :math:`J = 1` and no output. The
adjoint is zero before a reset.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Xs
from seqjax.ops.select import keep, select
from seqjax.ops.vectors import Floating
from seqjax.probes.internals.scaled import Scaled, add, unscaled, without_float0

Step = Callable[[Any, Any], tuple[Any, Any]]  # (carry, x) -> (carry, y), over the whole batch


def adjoint(
    step: Step,
    entering: Any,
    xs: Xs,
    d_ys: Any,
    read: Callable[[list[Scaled], list[Scaled]], Any],
    *,
    reset: Any = None,
    mask: Any = None,
    batch_ndim: int,
    d_final: list[Scaled] | None = None,
) -> tuple[list[Scaled], Any]:
    """Return the gradient with respect to the first carry, and the results of `read` at each step ``[T, ...]``.

    Args:
        step: ``(carry, x) -> (carry, y)``.
        entering: the carries ``[T, *B, ...]`` before each step, as `System.trajectory` returns them.
        xs: a tree of arrays ``[T, *B, ...]``.
        d_ys: the gradient of the loss with respect to the outputs; None for zero.
        read: ``(d_carry, d_x) -> anything``: the adjoints of the floating leaves of the carry entering the step and
            of its input.
        reset: ``[T, *B]``.
        mask: ``[T, *B]``.
        batch_ndim: the number of leading batch axes.
        d_final: the gradient of the loss with respect to the floating leaves of the final carry; None for zero.
    """

    def backward(incoming: list[Scaled], inputs: Any) -> tuple[list[Scaled], Any]:
        x, reset, mask, before, d_y = inputs
        carries, inner = Floating(before), Floating(keep(mask, x))

        def local(carry: list[jax.Array], x: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
            after, y = step(carries.with_leaves(carry), inner.with_leaves(x))
            return Floating(after).leaves, Floating(y).leaves

        (_, ys), pull = jax.vjp(local, carries.leaves, inner.leaves)
        # One pullback per source: each leaf of the carry, and the output, has its own exponent.
        sources = []
        for i, source in enumerate(incoming):
            zeros: list[Any] = [jnp.zeros_like(s.mantissa) for s in incoming]
            zeros[i] = source.mantissa
            pulled = pull((zeros, [jnp.zeros_like(y) for y in ys]))
            sources.append([Scaled(p, source.exponent) for part in pulled for p in part])
        if d_y is not None:
            pulled = pull(([jnp.zeros_like(s.mantissa) for s in incoming], Floating(d_y).leaves))
            sources.append([unscaled(p, batch_ndim) for part in pulled for p in part])
        summed = [add(terms, batch_ndim) for terms in zip(*sources, strict=True)]
        arriving, at_x = summed[: len(incoming)], summed[len(incoming) :]
        if mask is not None:
            arriving = [select(mask, new, old) for new, old in zip(arriving, incoming, strict=True)]
            at_x = keep(mask, at_x)
        seen = read(arriving, at_x)
        if reset is not None:
            arriving = [Scaled(keep(~reset, s.mantissa), s.exponent) for s in arriving]
        return arriving, seen

    d_ys = without_float0(d_ys)
    if d_final is None:
        d_final = [unscaled(jnp.zeros_like(leaf[0]), batch_ndim) for leaf in Floating(entering).leaves]
    return jax.lax.scan(backward, d_final, (xs, reset, mask, entering, d_ys), reverse=True)


def tangent(
    step: Step,
    entering: Any,
    xs: Xs,
    start: list[Scaled],
    read: Callable[[list[Scaled]], Any],
    *,
    reset: Any = None,
    mask: Any = None,
    batch_ndim: int,
    drive: Callable[[Any, Any], list[jax.Array]] | None = None,
) -> tuple[list[Scaled], Any]:
    r"""Forward mode, :math:`v_t = J_t v_{t-1} + b_t`, at any depth: return the last v and the results of `read`.

    Args:
        step: ``(carry, x) -> (carry, y)``.
        entering: the carries ``[T, *B, ...]`` before each step, as `System.trajectory` returns them.
        xs: a tree of arrays ``[T, *B, ...]``.
        start: v before the first step, one per floating leaf of the carry.
        read: ``v after the step -> anything``.
        reset: ``[T, *B]``; v restarts from zero.
        mask: ``[T, *B]``.
        batch_ndim: the number of leading batch axes.
        drive: ``(carry entering the step, x) -> b``; None for b = 0.
    """

    def forward(v: list[Scaled], inputs: Any) -> tuple[list[Scaled], Any]:
        x, reset, mask, before = inputs
        if reset is not None:
            v = [Scaled(keep(~reset, s.mantissa), s.exponent) for s in v]
        carries, x = Floating(before), keep(mask, x)
        _, push = jax.linearize(
            lambda leaves: Floating(step(carries.with_leaves(leaves), x)[0]).leaves, carries.leaves
        )
        sources = []
        for i, source in enumerate(v):
            zeros: list[Any] = [jnp.zeros_like(s.mantissa) for s in v]
            zeros[i] = source.mantissa
            sources.append([Scaled(p, source.exponent) for p in push(zeros)])
        if drive is not None:
            sources.append([unscaled(b, batch_ndim) for b in drive(before, x)])
        after = [add(terms, batch_ndim) for terms in zip(*sources, strict=True)]
        if mask is not None:
            after = [select(mask, new, old) for new, old in zip(after, v, strict=True)]
        return after, read(after)

    return jax.lax.scan(forward, start, (xs, reset, mask, entering))
