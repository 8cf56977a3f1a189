"""A chunk of a `Matrix` recurrence as an affine map of the state at its start."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import MatrixInputs
from seqjax.ops.decay import Decays
from seqjax.ops.matrix_states import StateStep
from seqjax.ops.segments import same_earlier, segments
from seqjax.ops.select import keep
from seqjax.ops.triangular import solve_unit_lower


class Chunk(NamedTuple):
    """A chunk as an affine map of the state S at its start: its outputs are ``o + reads S``."""

    o: Any  # [*B, N, C, V]
    reads: Any  # [*B, N, C, K]
    step: StateStep


def affine_map(
    inputs: MatrixInputs, reset: Bool[Array, "C *B"] | None, s_first: Float[Array, "*B N K V"]
) -> Chunk:
    """Return the affine map of a chunk with finite inputs; `s_first` is the state at a reset."""
    q, k, v = (jnp.moveaxis(a, 0, -2) for a in inputs[:3])  # [*B, N, C, K]
    segment = jnp.moveaxis(segments(reset, inputs.q[..., 0, 0]), 0, -1)[..., None, :]
    segment = jnp.broadcast_to(segment, q.shape[:-1])
    key_size = q.shape[-1]
    decays = Decays(inputs.log_decay, reset, like=inputs.q)
    seen = same_earlier(segment)

    def scores(rows: Float[Array, "*BN C K"], columns: Float[Array, "*BN C K"]) -> Float[Array, "*BN C C"]:
        """Return ``rows_t diag(e^Lambda_ts) columns_s`` for s <= t in the same segment, else 0."""
        return jnp.where(seen, decays.scores(rows, columns), 0)

    def from_start(rows: Float[Array, "*BN C K"], o: Float[Array, "*BN C V"]) -> tuple[Any, Any]:
        """Split rows that multiply the state at the start of their segment: those of the chunk's start remain."""
        if reset is None:
            return rows, o
        return keep(segment == 0, rows), o + keep(segment > 0, rows) @ s_first

    reads, o = from_start(decays.since_start(q), scores(q, k) @ v)
    last = seen[..., -1, :]
    p = keep(last, decays.after_step(k)).mT @ v
    a: Any = None
    y: Any = None
    if inputs.erase is not None:
        a, b = (jnp.moveaxis(x, 0, -2) for x in inputs.erase)
        # Row t reads the state after step t - 1, so the rows of b move one step earlier. The first row of a segment
        # reads the state at the segment's start.
        earlier = jnp.concatenate([b[..., 1:, :], jnp.zeros_like(b[..., :1, :])], -2)
        both = _shift_down(jnp.concatenate([scores(earlier, a), scores(earlier, k)], -1))
        continues = jnp.concatenate(
            [jnp.zeros_like(segment[..., :1], bool), segment[..., 1:] == segment[..., :-1]], -1
        )
        of_a, of_k = jnp.split(keep(continues, both), 2, -1)
        read = jnp.concatenate(from_start(decays.before_step(b, continues), of_k @ v), -1)
        read = solve_unit_lower(of_a, read)
        more_reads, more_o = jnp.split(scores(q, a) @ read, [key_size], -1)
        reads, o = reads + more_reads, o + more_o
        y, w = jnp.split(read, [key_size], -1)
        a = keep(last, decays.after_step(a))
        p = p + a.mT @ w
    d = decays.of_chunk()
    unbroken = None
    if reset is not None:
        unbroken = segment[..., -1] == 0
        p = p + keep(~unbroken, d * s_first)
    return Chunk(o, reads, StateStep(d, a, y, p, unbroken))


def _shift_down(rows: Float[Array, "*BN C X"]) -> Float[Array, "*BN C X"]:
    """Move every row down by one and fill the first row with zeros."""
    return jnp.concatenate([jnp.zeros_like(rows[..., :1, :]), rows[..., :-1, :]], -2)
