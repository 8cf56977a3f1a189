r"""The matrix recurrence over whole sequences: matrix products inside each chunk, sequential from chunk to chunk.

Within a chunk the state after step t is, with :math:`\Lambda_{ts} = \sum_{s < r \le t} g_r`,

.. math::
    S_t = e^{\Lambda_{t0}} S_0 + \sum_{s \le t} e^{\Lambda_{ts}} (a_s w_s^\top + k_s v_s^\top), \qquad
    w_t = S_{t-1}^\top b_t

The vector w_t is the value that step t reads before it erases. These vectors solve a unit lower triangular system, the
WY form of a product of (generalized) Householder matrices. Without erasure there is no system to solve. The outputs
:math:`S_t^\top q_t` are two masked products.

Decays appear only as :math:`e^{\Lambda_{ts}} \le 1` for s <= t. Each :math:`\Lambda_{ts}` is summed from its own terms
and never computed as a difference of two long sums: after a decay of e^-60 per step, such a difference would lose the
digits of the slow decays that follow. Decays per key are computed in blocks of 16 steps, with the same bound.

Work, for K = V and a chunk of C steps: O(T C K + T K^2), plus O(T C^2) with erasure. Depth: T/C chunks in sequence.
Memory for the backward pass: the inputs and one state per chunk; the backward pass recomputes each chunk.

References:
    Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence length", arXiv:2406.06484,
    section 3; Yang et al. 2024, "Gated delta networks", arXiv:2412.06464, section 3.3 (with decay).
    Dao, Gu 2024, "Transformers are SSMs", arXiv:2405.21060, section 6 (the chunks; listing 1 for the sums).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqjax.base import Carry, Flags, MatrixCarry, MatrixInputs, MatrixOutputs
from seqjax.ops.chunks import over_chunks
from seqjax.ops.decay import Decays
from seqjax.ops.segments import all_finite, running_any, segments, set_nan, zero_nonfinite
from seqjax.ops.select import keep, select
from seqjax.ops.step import check_matrix, expand_left
from seqjax.ops.triangular import solve_unit_lower


def chunked(inputs: MatrixInputs, carry: Carry, flags: Flags, *, size: int) -> tuple[Any, MatrixOutputs]:
    """Return ``(carry, outputs)`` of a `Matrix` recurrence, computed in chunks of `size` steps.

    T need not be a multiple of `size`. The function ignores ``flags.key`` and ``flags.tap``.

    Shapes: inputs as `MatrixInputs`; carry and flags.initial ``[*B, N, K, V]``, or `MatrixCarry` with ``log_input``.
    """
    dtype = jax.tree.leaves(carry)[0].dtype
    check_matrix(inputs)
    inputs = jax.tree.map(lambda a: a.astype(dtype), inputs)
    run = partial(_chunk, initial=flags.initial)
    return over_chunks(jax.checkpoint(run), carry, (inputs, flags.reset, flags.mask), size)


def _chunk(carry: Carry, piece: Any, *, initial: Any) -> tuple[Any, MatrixOutputs]:
    inputs, reset, mask = piece
    lead = inputs.q.ndim - 1  # [C, *B, N]
    # Non-finite numbers are replaced by zeros, so that the products cannot spread them. The end restores the NaN.
    finite = all_finite(inputs._replace(q=None), lead)
    finite_query = all_finite(inputs.q, lead)
    finite_carry, finite_initial = (all_finite(c, lead - 1) for c in (carry, initial))
    inputs = zero_nonfinite(inputs._replace(q=None), finite)._replace(
        q=zero_nonfinite(inputs.q, finite_query)
    )
    carry, first = zero_nonfinite(carry, finite_carry), zero_nonfinite(initial, finite_initial)
    if mask is not None:
        inputs = keep(mask, inputs)

    segment = segments(reset, finite[..., 0])[..., None]
    segment = jnp.broadcast_to(segment, finite.shape)
    finite_start = jnp.where(segment == 0, finite_carry[None], finite_initial[None])
    is_nan = running_any(~finite if mask is None else ~finite & mask[..., None], segment) | ~finite_start

    scale = None
    if inputs.log_input is not None:
        inputs, scale = _scaled(inputs, carry.m, first.m, reset, mask)
    s, s_first = (c.s if scale is not None else c for c in (carry, first))
    s, o = _products(inputs, s, s_first, reset, segment)
    after = s if scale is None else MatrixCarry(s, scale[-1])
    outputs = MatrixOutputs(
        set_nan(is_nan | ~finite_query, o), None if scale is None else set_nan(is_nan, scale)
    )
    return set_nan(is_nan[-1], after), outputs


def _products(
    inputs: MatrixInputs,
    s: Float[Array, "*B N K V"],
    s_first: Float[Array, "*B N K V"],
    reset: Bool[Array, "C *B"] | None,
    segment: Int[Array, "C *B N"],
) -> tuple[Float[Array, "*B N K V"], Float[Array, "C *B N V"]]:
    """Return the state after the chunk and the outputs, for finite inputs."""
    q, k, v = (jnp.moveaxis(a, 0, -2) for a in inputs[:3])  # [*B, N, C, K]
    segment = jnp.moveaxis(segment, 0, -1)
    length = q.shape[-2]
    decays = Decays(inputs.log_decay, reset, like=inputs.q)
    same = segment[..., :, None] == segment[..., None, :]
    seen = same & expand_left(jnp.tril(jnp.ones((length, length), bool)), same.ndim)

    def from_start(rows: Float[Array, "*BN C K"]) -> Float[Array, "*BN C V"]:
        """Multiply each row by the state at the start of its segment."""
        from_carry = jnp.einsum("...ck,...kv->...cv", rows, s)
        if reset is None:
            return from_carry
        from_first = jnp.einsum("...ck,...kv->...cv", rows, s_first)
        return select(segment == 0, from_carry, from_first)

    def scores(rows: Float[Array, "*BN C K"], columns: Float[Array, "*BN C K"]) -> Float[Array, "*BN C C"]:
        """Return ``rows_t diag(e^Lambda_ts) columns_s`` for s <= t in the same segment, else 0."""
        return jnp.where(seen, decays.scores(rows, columns), 0)

    o = scores(q, k) @ v + from_start(decays.since_start(q))
    written = [(k, v)]
    if inputs.erase is not None:
        a, b = (jnp.moveaxis(x, 0, -2) for x in inputs.erase)
        # Row t reads the state after step t - 1, so the rows of b move one step earlier. The first row of a segment
        # reads the state at the segment's start.
        earlier = jnp.concatenate([b[..., 1:, :], jnp.zeros_like(b[..., :1, :])], -2)
        reads = _shift_down(jnp.concatenate([scores(earlier, a), scores(earlier, k)], -1))
        continues = jnp.concatenate(
            [jnp.zeros_like(segment[..., :1], bool), segment[..., 1:] == segment[..., :-1]], -1
        )
        of_a, of_k = jnp.split(keep(continues, reads), 2, -1)
        w = from_start(decays.before_step(b, continues)) + of_k @ v
        w = solve_unit_lower(of_a, w)
        o = o + scores(q, a) @ w
        written.append((a, w))

    last = seen[..., -1, :]
    start = s if reset is None else select(segment[..., -1] == 0, s, s_first)
    s = decays.decay_state(start)
    for keys, values in written:
        s = s + jnp.einsum("...ck,...cv->...kv", keep(last, decays.after_step(keys)), values)
    return s, jnp.moveaxis(o, -2, 0)


def _shift_down(rows: Float[Array, "*BN C X"]) -> Float[Array, "*BN C X"]:
    """Move every row down by one and fill the first row with zeros."""
    return jnp.concatenate([jnp.zeros_like(rows[..., :1, :]), rows[..., :-1, :]], -2)


def _scaled(
    inputs: MatrixInputs,
    m: Float[Array, "*B N"],
    m_first: Float[Array, "*B N"],
    reset: Bool[Array, "C *B"] | None,
    mask: Bool[Array, "C *B"] | None,
) -> tuple[MatrixInputs, Float[Array, "C *B N"]]:
    r"""Fold the log input gate into keys and decays, and return the scales m.

    :math:`m_t = \max(g_t + m_{t-1}, l_t)` is a linear recurrence in the (max, +) algebra. A parallel prefix solves it.
    """
    g, l = inputs.log_decay, inputs.log_input
    g = jnp.zeros_like(l) if g is None else g
    if mask is not None:
        l = select(mask, l, jnp.full_like(l, jnp.finfo(l.dtype).min / 4))
    restart = jnp.zeros((*l.shape[:-1], 1), bool) if reset is None else reset[..., None]
    restart = jnp.broadcast_to(restart, l.shape)

    # At the first step of a segment, m follows from the initial scale alone.
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
