"""Constraints of decoding: where a row or hypothesis ends, and which tokens may come next.

`generate`, `stream` and `beam_search` share them. `recent` holds the last tokens that were made, ``[*B, W]`` with -1
where there are fewer than W.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.checks import check_above, check_whole, is_traced
from seqjax.decode.common import check_end_tokens, check_vocabulary, is_one_of


class Constraints(NamedTuple):
    """What is static in a compiled step."""

    end_tokens: tuple[int, ...]
    stop_sequences: tuple[tuple[int, ...], ...]
    repetition_penalty: float
    no_repeat_ngram: int


class Limits(NamedTuple):
    """The smallest and the largest number of tokens, int32, for all rows ``[]`` or each ``[*B]``; or None."""

    least: Any
    most: Any


def check_constraints(
    who: str,
    batch: tuple[int, ...],
    max_length: int,
    *,
    end_token: Any = None,
    stop_sequences: Any = (),
    min_length: Any = 0,
    max_lengths: Any = None,
    repetition_penalty: Any = 1.0,
    no_repeat_ngram: Any = 0,
) -> tuple[Constraints, Limits]:
    """Return the constraints of a call; raise a ValueError for arguments that do not fit."""
    if isinstance(stop_sequences, int | str | bytes) or any(np.ndim(s) != 1 for s in stop_sequences):
        raise ValueError(
            f"{who}(stop_sequences): expected sequences of tokens such as [[3, 1], [2]], got {stop_sequences!r}."
        )
    stops = tuple(
        tuple(check_whole(f"{who}(stop_sequences)", token, 0) for token in stop) for stop in stop_sequences
    )
    if () in stops:
        raise ValueError(
            f"{who}(stop_sequences): expected sequences of at least one token, got an empty one."
        )
    constraints = Constraints(
        check_end_tokens(who, end_token),
        stops,
        check_above(f"{who}(repetition_penalty)", repetition_penalty),
        check_whole(f"{who}(no_repeat_ngram)", no_repeat_ngram, 0),
    )
    if (
        np.ndim(min_length) == 0
        and not is_traced(min_length)
        and check_whole(f"{who}(min_length)", min_length, 0) == 0
    ):
        least = None
    else:
        least = _lengths(f"{who}(min_length)", min_length, batch, 0, max_length)
    most = None if max_lengths is None else _lengths(f"{who}(max_lengths)", max_lengths, batch, 1, max_length)
    return constraints, Limits(least, most)


def _lengths(what: str, lengths: Any, batch: tuple[int, ...], least: int, max_length: int) -> jax.Array:
    array = jnp.asarray(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer) or array.shape not in ((), batch):
        raise ValueError(
            f"{what}: expected one whole number, or one per row {list(batch)}, got {array.dtype} {list(array.shape)}."
        )
    if not is_traced(array) and array.size:
        values = np.asarray(array)
        if values.min() < least:
            raise ValueError(f"{what}: expected numbers of at least {least}, got {values.min()}.")
        if values.max() > max_length:
            raise ValueError(f"{what}: expected at most max_length={max_length}, got {values.max()}.")
    return array.astype(jnp.int32)


def check_tokens(who: str, constraints: Constraints, size: int) -> None:
    """Raise a ValueError for an end token, or a token of a stop sequence, beyond the vocabulary."""
    check_vocabulary(f"{who}(end_token)", constraints.end_tokens, size)
    for stop in constraints.stop_sequences:
        check_vocabulary(f"{who}(stop_sequences)", stop, size)


def num_recent(constraints: Constraints, max_length: int) -> int:
    """Return W, how many of the last tokens the constraints read."""
    if constraints.repetition_penalty != 1 or constraints.no_repeat_ngram:
        return max_length
    return max(map(len, constraints.stop_sequences), default=0)


def penalized(constraints: Constraints, recent: jax.Array, logits: jax.Array) -> jax.Array:
    """Return the logits ``[*B, V]``, smaller by the repetition penalty for tokens that were made before."""
    factor = constraints.repetition_penalty
    if factor == 1:
        return logits
    smaller = jnp.where(logits > 0, logits / factor, logits * factor)
    return jnp.where(_at(recent, logits.shape[-1]), smaller, logits)


def allowed(
    constraints: Constraints, limits: Limits, recent: jax.Array, t: jax.Array, logits: jax.Array
) -> jax.Array:
    """Return which tokens may be token t, bool ``[*B, V]``."""
    size = logits.shape[-1]
    found = jnp.ones(logits.shape, bool)
    if limits.least is not None and constraints.end_tokens:
        ends = is_one_of(jnp.arange(size, dtype=jnp.int32), constraints.end_tokens)
        found = found & ~(ends & (t + 1 < limits.least)[..., None])
    n, width = constraints.no_repeat_ngram, recent.shape[-1]
    if n and n <= width:
        # The token that follows an earlier occurrence of the last n - 1 tokens.
        repeats = recent[..., n - 1 :] >= 0
        for j in range(n - 1):
            same = recent[..., j : width - n + 1 + j] == recent[..., width - n + 1 + j][..., None]
            repeats = repeats & same & (recent[..., j : width - n + 1 + j] >= 0)
        found = found & ~_at(jnp.where(repeats, recent[..., n - 1 :], -1), size)
    return found


def ends_with(
    constraints: Constraints, limits: Limits, recent: jax.Array, t: jax.Array, token: jax.Array
) -> jax.Array:
    """Return whether token t, the last of `recent`, is an end token or the last of a stop sequence, ``[*B]``."""
    found = is_one_of(token, constraints.end_tokens)
    for stop in constraints.stop_sequences:
        last = recent[..., recent.shape[-1] - len(stop) :]
        stops = jnp.all(last == jnp.asarray(stop, jnp.int32), -1)
        found = found | (stops if limits.least is None else stops & (t + 1 >= limits.least))
    return found


def is_last(limits: Limits, t: jax.Array) -> jax.Array:
    """Return whether token t is the last that a row may have."""
    return jnp.zeros((), bool) if limits.most is None else t + 1 >= limits.most


def _at(tokens: jax.Array, size: int) -> jax.Array:
    """Return ``[*B, V]``, True at each of the tokens ``[*B, W]``; -1 is none."""

    def one(tokens: jax.Array) -> jax.Array:
        places = jnp.where(tokens < 0, size, tokens)
        return jnp.zeros(size, bool).at[places].set(True, mode="drop")

    for _ in tokens.shape[:-1]:
        one = jax.vmap(one)
    return one(tokens)
