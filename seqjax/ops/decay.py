r"""Products of decays between the steps of a chunk, computed as sums of logarithms without cancellation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.ops.segments import running_sum
from seqjax.ops.step import expand_left

BLOCK = 16


class Decays:
    r"""The decays of a chunk of C steps. Rows and columns are ``[*B, N, C, K]``.

    Every exponent is summed from its own terms. With terms of -60 beside terms of -0.01, a difference of two running
    sums would lose the small terms to rounding.
    """

    def __init__(
        self,
        log_decay: Float[Array, "C ..."] | None,
        reset: Bool[Array, "C *B"] | None,
        like: Float[Array, "C *BN K"],
    ) -> None:
        """Take ``log_decay [C, *B, N]``, ``[C, *B, N, K]`` or None; the shape and dtype of `like` apply for None."""
        if log_decay is None:
            log_decay = jnp.zeros_like(like[..., 0])
        if log_decay.ndim < like.ndim:
            log_decay = log_decay[..., None]
        self._log = jnp.moveaxis(log_decay, 0, -2)  # [*B, N, C, K or 1]
        self._since_start = jnp.moveaxis(running_sum(log_decay, reset), 0, -2)

    def since_start(self, rows: Float[Array, "*BN C K"]) -> Float[Array, "*BN C K"]:
        """Multiply each row by the decays from the start of its segment up to and including its step."""
        return rows * jnp.exp(self._since_start)

    def before_step(
        self, rows: Float[Array, "*BN C K"], continues: Bool[Array, "*BN C"]
    ) -> Float[Array, "*BN C K"]:
        """Multiply each row by the decays of its segment before its step; `continues` is False at a segment's start."""
        before = jnp.concatenate([jnp.zeros_like(self._log[..., :1, :]), self._since_start[..., :-1, :]], -2)
        return rows * jnp.exp(jnp.where(continues[..., None], before, 0))

    def after_step(self, rows: Float[Array, "*BN C K"]) -> Float[Array, "*BN C K"]:
        """Multiply each row by all decays after its step."""
        return rows * jnp.exp(_sum_after(self._log))

    def of_chunk(self) -> Float[Array, "*BN K 1"]:
        """Return the product of all decays of the last step's segment, as a factor of a state ``[*B, N, K, V]``."""
        return jnp.exp(self._since_start[..., -1, :])[..., None]

    def scores(
        self, rows: Float[Array, "*BN C K"], columns: Float[Array, "*BN C K"]
    ) -> Float[Array, "*BN C C"]:
        """Return ``sum_k rows[t, k] exp(sum_{s < r <= t} log[r, k]) columns[s, k]`` at (t, s) for s <= t."""
        if self._log.shape[-1] == 1:
            decay = jnp.exp(sum_between(self._log)[..., 0])
            return jnp.einsum("...tk,...sk->...ts", rows, columns) * decay
        return _scores_per_key(self._log, rows, columns)


def _scores_per_key(
    log: Float[Array, "*BN C K"], rows: Float[Array, "*BN C K"], columns: Float[Array, "*BN C K"]
) -> Float[Array, "*BN C C"]:
    """Compute `Decays.scores` for decays per key, in blocks of 16 steps.

    Inside a block every pair of steps has its own sum. Between two blocks the sum is split at the block boundaries.
    """
    length = rows.shape[-2]
    count = -(-length // BLOCK)
    size = min(BLOCK, length)

    def blocks(array: jax.Array) -> jax.Array:
        pad = [(0, 0)] * (array.ndim - 2) + [(0, count * size - length), (0, 0)]
        return jnp.pad(array, pad).reshape(*array.shape[:-2], count, size, array.shape[-1])

    log, rows, columns = blocks(log), blocks(rows), blocks(columns)
    inside = jnp.einsum("...tk,...tsk,...sk->...ts", rows, jnp.exp(sum_between(log)), columns)
    if count == 1:
        return inside[..., 0, :length, :length]
    total = jnp.sum(log, -2)
    # Between the blocks I and J: the sum over the blocks after J and before I.
    between = sum_between(total)
    between = jnp.concatenate([jnp.zeros_like(between[..., :1, :, :]), between[..., :-1, :, :]], -3)
    earlier = expand_left(jnp.tril(jnp.ones((count, count), bool), -1)[..., None], between.ndim)
    left = rows * jnp.exp(jnp.cumsum(log, -2))
    right = columns * jnp.exp(_sum_after(log))
    left = left[..., :, :, None, :] * jnp.where(earlier, jnp.exp(between), 0)[..., :, None, :, :]
    scores = jnp.einsum("...itjk,...jsk->...itjs", left, right)
    same = jnp.eye(count, dtype=scores.dtype).reshape((1,) * (scores.ndim - 4) + (count, 1, count, 1))
    scores = scores + inside[..., :, :, None, :] * same
    return scores.reshape(*scores.shape[:-4], count * size, count * size)[..., :length, :length]


def sum_between(log: Float[Array, "*BN C K"]) -> Float[Array, "*BN C C K"]:
    """Return at (t, s) the sum over ``s < r <= t``, which is 0 where no such r exists."""
    length = log.shape[-2]
    later = expand_left(jnp.tril(jnp.ones((length, length), bool), -1)[..., None], log.ndim + 1)
    return jnp.cumsum(jnp.where(later, log[..., :, None, :], 0), -3)


def _sum_after(log: Float[Array, "*BN C K"]) -> Float[Array, "*BN C K"]:
    """Return at each step the sum over all later steps."""
    later = jnp.concatenate([log[..., 1:, :], jnp.zeros_like(log[..., :1, :])], -2)
    return jnp.flip(jnp.cumsum(jnp.flip(later, -2), -2), -2)
