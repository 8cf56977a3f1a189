r"""The matrix recurrence over whole sequences: products of matrices inside a chunk, one step from each to the next.

Within a chunk the state after step t is, with :math:`\Lambda_{ts} = \sum_{s < r \le t} g_r`,

.. math::
    S_t = e^{\Lambda_{t0}} S_0 + \sum_{s \le t} e^{\Lambda_{ts}} (a_s w_s^\top + k_s v_s^\top), \qquad
    w_t = S_{t-1}^\top b_t

so the vectors w, which are what each step reads before it erases, solve a unit lower triangular system, the WY form of
a product of (generalized) Householder matrices; without erasure there is nothing to solve. The outputs
:math:`S_t^\top q_t` are two masked products.

Decays enter as :math:`e^{\Lambda_{ts}} \le 1` for s <= t alone, and :math:`\Lambda_{ts}` is summed from its own terms,
never as a difference of two long sums: after a decay of e^-60 per step such a difference would have lost the digits of
the slow decays that follow. Decays per key are handled in blocks of 16 steps, for the same bound.

Work, for K = V and a chunk of C steps: O(T C K + T K^2), with erasure O(T C^2) more; T/C chunks one after another.
Kept for the backward pass: the inputs and one state per chunk; the inside of a chunk is computed again.

References:
    Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence length", arXiv:2406.06484,
    section 3; Yang et al. 2024, "Gated delta networks", arXiv:2412.06464, section 3.3 (with decay).
    Dao, Gu 2024, "Transformers are SSMs", arXiv:2405.21060, section 6 (the chunks; listing 1 for the sums).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Flags, MatrixCarry, MatrixInputs, MatrixOutputs
from seqjax.ops.chunks import over_chunks
from seqjax.ops.decay import Decays
from seqjax.ops.segments import all_finite, only_finite, running_any, segments, spoil
from seqjax.ops.select import keep, select
from seqjax.ops.step import check_matrix
from seqjax.ops.triangular import solve_unit_lower


def chunked(inputs: MatrixInputs, carry: Any, flags: Flags, *, size: int) -> tuple[Any, MatrixOutputs]:
    """``(carry, outputs)`` of a `Matrix` recurrence in chunks of `size` steps; T need not be a multiple.

    Shapes: inputs as `MatrixInputs`; carry and flags.initial ``[*B, N, K, V]``, or `MatrixCarry` with ``log_input``.
    Keys and taps are not used.
    """
    dtype = jax.tree.leaves(carry)[0].dtype
    check_matrix(inputs)
    inputs = jax.tree.map(lambda a: a.astype(dtype), inputs)
    run = partial(_chunk, initial=flags.initial)
    return over_chunks(jax.checkpoint(run), carry, (inputs, flags.reset, flags.mask), size)


def _chunk(carry: Any, piece: Any, *, initial: Any) -> tuple[Any, MatrixOutputs]:
    inputs, reset, mask = piece
    lead = inputs.q.ndim - 1  # [C, *B, N]
    # What is not finite is taken out, so that the products cannot spread it, and put back at the end.
    fine = all_finite(inputs._replace(q=None), lead)
    fine_query = all_finite(inputs.q, lead)
    fine_carry, fine_initial = (all_finite(c, lead - 1) for c in (carry, initial))
    inputs = only_finite(inputs._replace(q=None), fine)._replace(q=only_finite(inputs.q, fine_query))
    carry, first = only_finite(carry, fine_carry), only_finite(initial, fine_initial)
    if mask is not None:
        inputs = keep(mask, inputs)

    segment = segments(reset, fine[..., 0])[..., None]
    segment = jnp.broadcast_to(segment, fine.shape)
    begun = jnp.where(segment == 0, fine_carry[None], fine_initial[None])
    lost = running_any(~fine if mask is None else ~fine & mask[..., None], segment) | ~begun

    scale = None
    if inputs.log_input is not None:
        inputs, scale = _scaled(inputs, carry.m, first.m, reset, mask)
    s, s_first = (c.s if scale is not None else c for c in (carry, first))
    s, o = _products(inputs, s, s_first, reset, segment)
    after = s if scale is None else MatrixCarry(s, scale[-1])
    outputs = MatrixOutputs(spoil(lost | ~fine_query, o), None if scale is None else spoil(lost, scale))
    return spoil(lost[-1], after), outputs


def _products(inputs: MatrixInputs, s: Any, s_first: Any, reset: Any, segment: Any) -> tuple[Any, Any]:
    """The state after the chunk ``[*B, N, K, V]`` and the outputs ``[C, *B, N, V]``, of finite numbers."""
    q, k, v = (jnp.moveaxis(a, 0, -2) for a in inputs[:3])  # [*B, N, C, K]
    segment = jnp.moveaxis(segment, 0, -1)
    length = q.shape[-2]
    decays = Decays(inputs.log_decay, reset, like=inputs.q)
    same = segment[..., :, None] == segment[..., None, :]
    seen = same & jnp.tril(jnp.ones((length, length), bool)).reshape(
        (1,) * (same.ndim - 2) + (length, length)
    )

    def begin(rows: jax.Array) -> jax.Array:
        """Rows ``[..., C, K]`` times the state in which each row's segment began: ``[..., C, V]``."""
        from_carry = jnp.einsum("...ck,...kv->...cv", rows, s)
        if reset is None:
            return from_carry
        from_first = jnp.einsum("...ck,...kv->...cv", rows, s_first)
        return select(segment == 0, from_carry, from_first)

    def weigh(rows: jax.Array, columns: jax.Array) -> jax.Array:
        """``rows_t diag(e^Lambda_ts) columns_s`` for s <= t in the same segment, else 0: ``[..., C, C]``."""
        return jnp.where(seen, decays.scores(rows, columns), 0)

    o = weigh(q, k) @ v + begin(decays.since_begin(q))
    written = [(k, v)]
    if inputs.erase is not None:
        a, b = (jnp.moveaxis(x, 0, -2) for x in inputs.erase)
        # Row t reads the state after step t - 1: the rows of b, one step earlier; a segment's first reads its begin.
        earlier = jnp.concatenate([b[..., 1:, :], jnp.zeros_like(b[..., :1, :])], -2)
        reads = _one_later(jnp.concatenate([weigh(earlier, a), weigh(earlier, k)], -1))
        goes_on = jnp.concatenate(
            [jnp.zeros_like(segment[..., :1], bool), segment[..., 1:] == segment[..., :-1]], -1
        )
        of_a, of_k = jnp.split(keep(goes_on, reads), 2, -1)
        w = begin(decays.until_before(b, goes_on)) + of_k @ v
        w = solve_unit_lower(of_a, w)
        o = o + weigh(q, a) @ w
        written.append((a, w))

    last = seen[..., -1, :]
    begun = s if reset is None else select(segment[..., -1] == 0, s, s_first)
    s = decays.whole(begun)
    for keys, values in written:
        s = s + jnp.einsum("...ck,...cv->...kv", keep(last, decays.until_end(keys)), values)
    return s, jnp.moveaxis(o, -2, 0)


def _one_later(rows: jax.Array) -> jax.Array:
    """Rows ``[..., C, X]`` moved one down, zeros in the first."""
    return jnp.concatenate([jnp.zeros_like(rows[..., :1, :]), rows[..., :-1, :]], -2)


def _scaled(
    inputs: MatrixInputs, m: jax.Array, m_first: jax.Array, reset: Any, mask: Any
) -> tuple[MatrixInputs, jax.Array]:
    r"""The inputs with the log input gate folded into keys and decays, and the scales m ``[C, *B, N]``.

    :math:`m_t = \max(g_t + m_{t-1}, l_t)` is a linear recurrence in the (max, +) algebra, so a parallel prefix.
    """
    g, l = inputs.log_decay, inputs.log_input
    g = jnp.zeros_like(l) if g is None else g
    if mask is not None:
        l = select(mask, l, jnp.full_like(l, jnp.finfo(l.dtype).min / 4))
    restart = jnp.zeros((*l.shape[:-1], 1), bool) if reset is None else reset[..., None]
    restart = jnp.broadcast_to(restart, l.shape)

    # A step that begins a segment knows its m at once.
    first = jnp.concatenate([jnp.where(restart[0], m_first, m)[None], jnp.broadcast_to(m_first, l[1:].shape)])
    begins = restart.at[0].set(True)
    l_known = jnp.where(begins, jnp.maximum(g + first, l), l)

    def combine(left: Any, right: Any) -> Any:
        (g_l, l_l, cut_l), (g_r, l_r, cut_r) = left, right
        return g_l + g_r, jnp.where(cut_r, l_r, jnp.maximum(l_l + g_r, l_r)), cut_l | cut_r

    scale = jax.lax.associative_scan(combine, (g, l_known, begins))[1]
    before = jnp.where(begins, first, jnp.concatenate([scale[:1], scale[:-1]]))
    k = inputs.k * jnp.exp(l - scale)[..., None]
    return inputs._replace(k=k, log_decay=g + before - scale, log_input=None), scale
