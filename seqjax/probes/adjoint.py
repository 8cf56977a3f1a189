r"""The adjoint of a loop, step by step and at any depth: what the probes of gradients over time are made of.

.. math::
    \delta_{t-1} = J_t^\top \delta_t + (\partial y_t / \partial s_{t-1})^\top \, \partial L / \partial y_t

with every leaf of :math:`\delta` scaled by its own power of two, per example. A masked step has :math:`J = 1` and no
output; the adjoint does not pass a reset.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.ops.select import keep, select
from seqjax.probes.scaled import Floating, Scaled, add, unscaled

Step = Callable[[Any, Any], tuple[Any, Any]]


def trajectory(
    step: Step, carry: Any, xs: Any, *, reset: Any = None, mask: Any = None, initial: Any = None
) -> tuple[Any, Any, Any]:
    """``(final carry, entering, ys)`` of a loop; entering: the carries ``[T, ...]`` before each step, after its reset.

    Args:
        step: ``(carry, x) -> (carry, y)``.
        carry: leaves ``[*B, ...]``.
        xs: a tree of arrays ``[T, ...]``.
        reset: ``[T, *B]``, where the carry restarts from `initial`.
        mask: ``[T, *B]``, where False the step does not happen and its output is zero.
        initial: the carry at a reset.
    """

    def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
        x, reset, mask = inputs
        carry = select(reset, initial, carry)
        after, y = step(carry, keep(mask, x))
        after = after if mask is None else select(mask, after, carry)
        return after, (carry, keep(mask, y))

    final, (entering, ys) = jax.lax.scan(body, carry, (xs, reset, mask))
    return final, entering, ys


def adjoint(
    step: Step,
    entering: Any,
    xs: Any,
    d_ys: Any,
    read: Callable[[list[Scaled], list[Scaled]], Any],
    *,
    reset: Any = None,
    mask: Any = None,
    batch_ndim: int,
    d_final: list[Scaled] | None = None,
) -> Any:
    """What `read` makes of the adjoint at every step, stacked over time ``[T, ...]``.

    Args:
        step: ``(carry, x) -> (carry, y)``.
        entering: the carries ``[T, *B, ...]`` before each step, as `trajectory` gives them.
        xs: a tree of arrays ``[T, *B, ...]``.
        d_ys: the loss's gradient by the outputs; None for none.
        read: ``(adjoint of the floating leaves of the carry entering the step, that of those of x) -> anything``.
        reset: ``[T, *B]``.
        mask: ``[T, *B]``.
        batch_ndim: how many leading axes are batch.
        d_final: the loss's gradient by the floating leaves of the final carry; None for none.
    """
    dtypes = [leaf.dtype for leaf in Floating(entering).leaves]

    def backward(incoming: list[Scaled], inputs: Any) -> tuple[list[Scaled], Any]:
        x, reset, mask, before, d_y = inputs
        carries, inner = Floating(before), Floating(keep(mask, x))

        def local(carry: list[jax.Array], x: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
            after, y = step(carries.with_leaves(carry), inner.with_leaves(x))
            return Floating(after).leaves, Floating(y).leaves

        (_, ys), pull = jax.vjp(local, carries.leaves, inner.leaves)
        # One pull per source, for each source has an exponent of its own: the leaves of the carry, and the output.
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

    if d_final is None:
        first = Floating(jax.tree.map(lambda leaf: leaf[0], entering)).leaves
        d_final = [unscaled(jnp.zeros_like(leaf), batch_ndim) for leaf in first]
    d_final = [Scaled(s.mantissa.astype(dtype), s.exponent) for s, dtype in zip(d_final, dtypes, strict=True)]
    return jax.lax.scan(backward, d_final, (xs, reset, mask, entering, d_ys), reverse=True)[1]
