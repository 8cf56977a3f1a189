r"""The `Gated` recurrence over whole sequences, with a backward pass whose sequential part is small.

The gradient of a plain ``lax.scan`` sums the weight gradients inside the backward loop. This takes T small products,
and under data parallelism one all-reduce per time step. The backward pass here runs from the last chunk to the first
and does four things per chunk:

1. It recomputes the pre-activations of the whole chunk from the saved carries, by one product.
2. It computes the elementwise partial derivatives of `update` and `emit` for the whole chunk, by one ``jvp`` per
   argument that the functions depend on.
3. It runs the adjoint, the only sequential part: with :math:`S_{ji} = \partial s_j / \partial s_i`,
   :math:`E_j = \partial h / \partial s_j` and the partials K by pre-activation,

   .. math::
       \delta h &\mathrel{+}= g_t, \quad \delta s_j \mathrel{+}= E_j \, \delta h, \quad
       \delta z = K \, (\delta s, \delta h) \\
       \delta s_i &\leftarrow \textstyle\sum_j S_{ji} \, \delta s_j, \quad \delta h \leftarrow \delta z W_h^\top

4. It computes the gradients of the weights and of the inputs for the whole chunk, by one product each.

Memory for the backward pass: inputs, states and outputs, (D + (n + 1) H) T B numbers for n states; temporary memory is
O(chunk). With ``keep_gates`` also the gates, (G + number of split gates) H T B numbers; point 1 is then not needed.
Weight gradients are summed in at least float32.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Carry, Flags, Gated, GatedWeights, Xs
from seqjax.compat import vary_like
from seqjax.ops.chunks import over_chunks
from seqjax.ops.forward_mode import reverse_mode_alone
from seqjax.ops.gated.adjoint import input_cotangents, layout_of, partials_of, weight_gradients
from seqjax.ops.gated.loops import Scans
from seqjax.ops.gated.step import gates_of, project, recurrent
from seqjax.ops.select import cast, keep, select, wide
from seqjax.ops.tap import norm


class Operands(NamedTuple):
    """The differentiable arguments of a gated scan.

    The leaves of carry, flags.initial and flags.tap are ``(*state, h)``, or ``state`` without emit.
    """

    dense: tuple[Any, Any] | None  # (w_x, b) of the projection; None if xs are the projected inputs
    weights: GatedWeights
    carry: tuple
    xs: Xs
    flags: Flags


def gated(
    cell: Gated,
    weights: GatedWeights,
    dense: tuple[Any, Any] | None,
    carry: Carry,
    xs: Float[Array, "T *B D"],
    flags: Flags,
    *,
    chunk: int | None,
    keep_gates: bool = False,
    loops: Any = Scans(),  # noqa: B008 (a frozen value)
) -> tuple[Any, Float[Array, "T *B H"]]:
    """Return ``(carry, hs)`` of a `Gated` recurrence.

    Shapes: xs ``[T, *B, D]`` with dense weights ``(w_x [D, G*H], b [G*H])``, or ``[T, *B, G*H]`` without.

    Args:
        cell: the recurrence.
        weights: the result of the recurrence's `weights` function, in the dtype of the params.
        dense: the projection, if it is one affine map.
        carry: leaves ``[*B, H]``.
        xs: inputs. The recurrence is computed in their dtype.
        flags: must contain ``flags.initial``. The function ignores ``flags.key``.
        chunk: steps per chunk; None for the whole sequence. The chunk changes speed and memory only.
        keep_gates: keep the gates for the backward pass instead of recomputing them: less time, more memory.
        loops: a value with the two sequential loops, `seqjax.ops.gated.loops.Scans` or another one with its methods.
    """
    batch = xs.shape[1:-1]
    treedef = jax.tree.structure(carry)

    def flat(tree: Any, lead: int, trail: int) -> Any:
        """Merge the batch axes, which lie between `lead` leading and `trail` trailing axes."""
        if len(batch) == 1:
            return tree
        return jax.tree.map(lambda a: a.reshape(*a.shape[:lead], -1, *a.shape[a.ndim - trail :]), tree)

    dense, weights, carry, initial = vary_like((dense, weights, carry, flags.initial), xs, carry)
    leaves = partial(jax.tree.leaves, is_leaf=lambda leaf: leaf is None)
    with reverse_mode_alone("unroll of a Gated recurrence"):
        after, hs = _scan(
            cell,
            chunk,
            keep_gates,
            loops,
            Operands(
                dense,
                weights,
                tuple(flat(jax.tree.leaves(carry), 0, 1)),
                flat(xs, 1, 1),
                Flags(
                    reset=flat(flags.reset, 1, 0),
                    mask=flat(flags.mask, 1, 0),
                    tap=None if flags.tap is None else tuple(flat(leaves(flags.tap), 1, 0)),
                    initial=tuple(flat(jax.tree.leaves(initial), 0, 1)),
                ),
            ),
        )
    after = jax.tree.unflatten(treedef, [a.reshape(*batch, a.shape[-1]) for a in after])
    return after, hs.reshape(hs.shape[0], *batch, hs.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _scan(
    cell: Gated, chunk: int | None, keep_gates: bool, loops: Any, operands: Operands
) -> tuple[tuple, jax.Array]:
    (after, hs), _ = _forward(cell, chunk, False, loops, operands)
    return after, hs


def _forward(
    cell: Gated, chunk: int | None, keep_gates: bool, loops: Any, operands: Operands
) -> tuple[tuple[tuple, jax.Array], Any]:
    dense, weights, carry, xs, flags = operands
    dense, weights = cast((dense, weights), xs.dtype)

    def run_chunk(carry: tuple, piece: Any) -> tuple[tuple, tuple]:
        xs, reset, mask = piece
        us = project(dense, xs)
        return loops.forward(cell, weights, carry, flags.initial, us, reset, mask, keep_gates=keep_gates)

    after, (history, gates) = over_chunks(run_chunk, carry, (xs, flags.reset, flags.mask), chunk)
    return (after, history[-1]), (operands, history, gates)


def _backward(
    cell: Gated, chunk: int | None, keep_gates: bool, loops: Any, residuals: Any, cotangents: Any
) -> tuple[Operands]:
    operands, history, gates = residuals
    dense, weights, carry, xs, (reset, mask, _, tap, initial) = operands
    dense, weights = cast((dense, weights), xs.dtype)
    d_carry, d_hs = cotangents
    sums = jax.tree.map(lambda w: jnp.zeros_like(w, dtype=wide(w.dtype)), (dense, weights))

    def run_chunk(totals: Any, piece: Any) -> tuple[Any, Any]:
        end, d_carry, d_initial, sums = totals
        xs, after, gates, d_hs, reset, reset_after, mask = piece
        start = end - xs.shape[0]
        # The carries before each step are the shifted carries after each step. A shift per chunk needs no memory of
        # length T.
        entering = tuple(
            jnp.concatenate([jnp.where(start == 0, first, whole[start - 1])[None], part[:-1]])
            for first, whole, part in zip(carry, history, after, strict=True)
        )
        fresh = jax.tree.map(lambda i, e: jnp.broadcast_to(i, e.shape), initial, entering)
        entering = select(reset, fresh, entering)
        if gates is None:
            gates = gates_of(cell, project(dense, xs), recurrent(cell, weights, entering[-1]))
        partials, arguments = partials_of(cell, weights, entering, after, gates)
        layout = layout_of(cell, weights, len(after), after[-1].shape[-1], with_tap=tap is not None)
        (d_carry, d_initial), (d_us, d_rs, d_states, d_h, d_entering) = loops.adjoint(
            cell, weights, layout, (d_carry, d_initial), partials, d_hs, reset_after, mask
        )
        d_dense, d_weights, d_xs = weight_gradients(
            cell,
            dense,
            weights,
            xs,
            entering,
            after,
            arguments,
            input_cotangents(cell, d_us, d_rs),
            d_rs,
            d_states,
            d_h,
        )
        sums = jax.tree.map(jnp.add, sums, (d_dense, d_weights))
        return (start, d_carry, d_initial, sums), (d_xs, tuple(norm(d, 2) for d in d_entering))

    d_initial = None if reset is None else jax.tree.map(jnp.zeros_like, initial)
    reset_after = None if reset is None else jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
    totals, (d_xs, norms) = over_chunks(
        run_chunk,
        (jnp.asarray(xs.shape[0]), d_carry, d_initial, sums),
        (xs, history, gates, d_hs, reset, reset_after, mask),
        chunk,
        reverse=True,
    )
    _, d_entering, d_initial, sums = totals
    d_carry = d_entering
    if reset is not None and len(reset):
        d_initial = jax.tree.map(jnp.add, d_initial, keep(reset[0], d_entering))
        d_carry = keep(~reset[0], d_entering)
    d_dense, d_weights = jax.tree.map(
        lambda s, w: s.astype(w.dtype), sums, (operands.dense, operands.weights)
    )
    d_tap = None
    if tap is not None:  # the loop stores the norm of step t at step t - 1
        first = tuple(norm(d, 1) for d in d_entering)
        d_tap = tuple(
            jnp.concatenate([f[None], n])[: len(t)].astype(t.dtype)
            for f, n, t in zip(first, norms, tap, strict=True)
        )
    return (Operands(d_dense, d_weights, d_carry, d_xs, Flags(tap=d_tap, initial=d_initial)),)


_scan.defvjp(_forward, _backward)
