r"""Products of decays between the steps of a chunk, summed in the log domain without cancellation."""

import jax
import jax.numpy as jnp

from seqjax.ops.segments import running_sum

BLOCK = 16


class Decays:
    r"""The decays of a chunk of C steps; rows and columns are ``[*B, N, C, K]``.

    Every exponent is a sum of its own terms: with terms of -60 beside terms of -0.01, a difference of two running sums
    would have lost the small ones to rounding.
    """

    def __init__(self, log_decay: jax.Array | None, reset: jax.Array | None, like: jax.Array) -> None:
        """``log_decay [C, *B, N]``, ``[C, *B, N, K]`` or None; reset ``[C, *B]`` or None; like ``[C, *B, N, K]``."""
        if log_decay is None:
            log_decay = jnp.zeros_like(like[..., 0])
        if log_decay.ndim < like.ndim:
            log_decay = log_decay[..., None]
        self._log = jnp.moveaxis(log_decay, 0, -2)  # [*B, N, C, K or 1]
        self._since_begin = jnp.moveaxis(running_sum(log_decay, reset), 0, -2)

    def since_begin(self, rows: jax.Array) -> jax.Array:
        """Rows times the decays of their segment, their own step included."""
        return rows * jnp.exp(self._since_begin)

    def until_before(self, rows: jax.Array, goes_on: jax.Array) -> jax.Array:
        """Rows times the decays of their segment before their own step; `goes_on` is False for a segment's first."""
        before = jnp.concatenate([jnp.zeros_like(self._log[..., :1, :]), self._since_begin[..., :-1, :]], -2)
        return rows * jnp.exp(jnp.where(goes_on[..., None], before, 0))

    def until_end(self, rows: jax.Array) -> jax.Array:
        """Rows times all decays after their own step."""
        return rows * jnp.exp(_sum_after(self._log))

    def whole(self, state: jax.Array) -> jax.Array:
        """A state ``[*B, N, K, V]`` times the decays of the last step's segment."""
        return state * jnp.exp(self._since_begin[..., -1, :])[..., None]

    def scores(self, rows: jax.Array, columns: jax.Array) -> jax.Array:
        """``sum_k rows[t, k] exp(sum_{s < r <= t} log[r, k]) columns[s, k]`` for s <= t: ``[*B, N, C, C]``."""
        if self._log.shape[-1] == 1:
            decay = jnp.exp(_sum_between(self._log)[..., 0])
            return jnp.einsum("...tk,...sk->...ts", rows, columns) * decay
        return _scores_per_key(self._log, rows, columns)


def _scores_per_key(log: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """In blocks of 16 steps: pair by pair inside a block, by way of the blocks' borders between two."""
    length = rows.shape[-2]
    count = -(-length // BLOCK)
    size = min(BLOCK, length)

    def blocks(array: jax.Array) -> jax.Array:
        pad = [(0, 0)] * (array.ndim - 2) + [(0, count * size - length), (0, 0)]
        return jnp.pad(array, pad).reshape(*array.shape[:-2], count, size, array.shape[-1])

    log, rows, columns = blocks(log), blocks(rows), blocks(columns)
    inside = jnp.einsum("...tk,...tsk,...sk->...ts", rows, jnp.exp(_sum_between(log)), columns)
    if count == 1:
        return inside[..., 0, :length, :length]
    total = jnp.sum(log, -2)
    # Between the blocks I and J: the sum of those after J and before I.
    between = _sum_between(total)
    between = jnp.concatenate([jnp.zeros_like(between[..., :1, :, :]), between[..., :-1, :, :]], -3)
    earlier = jnp.tril(jnp.ones((count, count), bool), -1)
    earlier = earlier.reshape((1,) * (between.ndim - 3) + (count, count, 1))
    left = rows * jnp.exp(jnp.cumsum(log, -2))
    right = columns * jnp.exp(_sum_after(log))
    left = left[..., :, :, None, :] * jnp.where(earlier, jnp.exp(between), 0)[..., :, None, :, :]
    scores = jnp.einsum("...itjk,...jsk->...itjs", left, right)
    same = jnp.eye(count, dtype=scores.dtype).reshape((1,) * (scores.ndim - 4) + (count, 1, count, 1))
    scores = scores + inside[..., :, :, None, :] * same
    return scores.reshape(*scores.shape[:-4], count * size, count * size)[..., :length, :length]


def _sum_between(log: jax.Array) -> jax.Array:
    """``[..., C, K] -> [..., C, C, K]``: at (t, s) the sum over ``s < r <= t``; 0 where there is none."""
    length = log.shape[-2]
    later = jnp.tril(jnp.ones((length, length), bool), -1).reshape(
        (1,) * (log.ndim - 2) + (length, length, 1)
    )
    return jnp.cumsum(jnp.where(later, log[..., :, None, :], 0), -3)


def _sum_after(log: jax.Array) -> jax.Array:
    """``[..., C, K]``: the sum over all later steps."""
    later = jnp.concatenate([log[..., 1:, :], jnp.zeros_like(log[..., :1, :])], -2)
    return jnp.flip(jnp.cumsum(jnp.flip(later, -2), -2), -2)
