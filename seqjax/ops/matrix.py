r"""The matrix recurrence over whole sequences: matrix products for groups of chunks, sequential from chunk to chunk.

Within a chunk the state after step t is, with :math:`\Lambda_{ts} = \sum_{s < r \le t} g_r`,

.. math::
    S_t = e^{\Lambda_{t0}} S_0 + \sum_{s \le t} e^{\Lambda_{ts}} (a_s w_s^\top + k_s v_s^\top), \qquad
    w_t = S_{t-1}^\top b_t

The vector w_t is the value that step t reads before it erases. These vectors solve a unit lower triangular system, the
WY form of a product of (generalized) Householder matrices. Without erasure there is no system to solve. The outputs
:math:`S_t^\top q_t` are two masked products. So a chunk is an affine map of the state at its start
(`seqjax.ops.matrix_chunk`). The maps of a group of chunks are computed at once: only the states are computed one after
another (`seqjax.ops.matrix_states`).

Decays appear only as :math:`e^{\Lambda_{ts}} \le 1` for s <= t. Each :math:`\Lambda_{ts}` is summed from its own terms
and never computed as a difference of two long sums: after a decay of e^-60 per step, such a difference would lose the
digits of the slow decays that follow. Decays per key are computed in blocks of 16 steps, with the same bound.

Work, for K = V and a chunk of C steps: O(T C K + T K^2), plus O(T C^2 log C) with erasure. Depth: T/C products of
states in sequence. Memory for the backward pass: the inputs and one state per group; the backward pass recomputes each
group. Temporary memory: the scores and the states of one group of at most 16 chunks, or of C/4 chunks below C = 64.

References:
    Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence length", arXiv:2406.06484,
    section 3; Yang et al. 2024, "Gated delta networks", arXiv:2412.06464, section 3.3 (with decay).
    Dao, Gu 2024, "Transformers are SSMs", arXiv:2405.21060, section 6 (the chunks; listing 1 for the sums).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, MatrixCarry, MatrixInputs, MatrixOutputs
from seqjax.ops.chunks import over_chunks
from seqjax.ops.matrix_chunk import affine_map
from seqjax.ops.matrix_states import scaled, states
from seqjax.ops.segments import all_finite, running_any, segments, set_nan, zero_nonfinite
from seqjax.ops.select import keep
from seqjax.ops.step import check_matrix

MOST_CHUNKS = 16
"""Most chunks of a group: temporary memory grows with it, and the loops over chunks are unrolled."""
BLOCK = 16
"""Steps per chunk are a multiple of 16 where there are several chunks, for the tiles of matrix products."""


def chunked(inputs: MatrixInputs, carry: Carry, flags: Flags, *, size: int) -> tuple[Any, MatrixOutputs]:
    """Return ``(carry, outputs)`` of a `Matrix` recurrence, computed in chunks of at most `size` steps.

    T need not be a multiple of `size`. The function ignores ``flags.key`` and ``flags.tap``.

    Shapes: inputs as `MatrixInputs`; carry and flags.initial ``[*B, N, K, V]``, or `MatrixCarry` with ``log_input``.
    """
    dtype = jax.tree.leaves(carry)[0].dtype
    check_matrix(inputs)
    inputs = jax.tree.map(lambda a: a.astype(dtype), inputs)
    length = len(inputs.q)
    groups, count, steps = _plan(length, size)
    reset, mask = flags.reset, flags.mask
    missing = groups * count * steps - length
    if missing:  # steps that do not happen fill the last chunk
        mask = jnp.ones(inputs.q.shape[:-2], bool) if mask is None else mask
        inputs, reset, mask = jax.tree.map(
            lambda a: jnp.pad(a, [(0, missing), *[(0, 0)] * (a.ndim - 1)]), (inputs, reset, mask)
        )
    run = partial(_group, initial=flags.initial, steps=steps)
    carry, outputs = over_chunks(jax.checkpoint(run), carry, (inputs, reset, mask), count * steps)
    return carry, jax.tree.map(lambda a: a[:length], outputs)


def _plan(length: int, size: int) -> tuple[int, int, int]:
    """Return the number of groups, of chunks per group and of steps per chunk, which are nearly equal parts."""
    chunks = max(1, -(-length // size))
    steps = -(-max(1, length) // chunks)
    if chunks > 1:
        steps = min(size, -(-steps // BLOCK) * BLOCK)
    # Chunks of 16 steps are chosen for a CPU, where a group must stay in the cache.
    groups = -(-chunks // min(MOST_CHUNKS, max(2, size // 4)))
    return groups, -(-chunks // groups), steps


def _group(carry: Carry, piece: Any, *, initial: Any, steps: int) -> tuple[Any, MatrixOutputs]:
    """Run a group of chunks of so many steps."""
    inputs, reset, mask = piece
    lead = inputs.q.ndim - 1  # [L, *B, N]
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
        inputs, scale = scaled(inputs, carry.m, first.m, reset, mask, steps)
    s, s_first = (c.s if scale is not None else c for c in (carry, first))
    inputs, reset = jax.tree.map(lambda a: a.reshape(-1, steps, *a.shape[1:]), (inputs, reset))
    chunks = jax.vmap(affine_map, (0, 0, None))(inputs, reset, s_first)
    starts, s = states(chunks.step, s)
    o = jnp.moveaxis(chunks.o + chunks.reads @ starts, -2, 1)
    o = o.reshape(-1, *o.shape[2:])
    after = s if scale is None else MatrixCarry(s, scale[-1])
    outputs = MatrixOutputs(
        set_nan(is_nan | ~finite_query, o), None if scale is None else set_nan(is_nan, scale)
    )
    return set_nan(is_nan[-1], after), outputs
