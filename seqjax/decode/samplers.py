"""Samplers, which choose one token from logits, and the filters of logits that samplers use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqjax.checks import check_above, check_whole_or_none, check_within, is_traced
from seqjax.values import Definition, definition


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sampler(Definition):
    """A rule that chooses one token from logits.

    Attributes:
        choose: ``(key, logits [V]) -> token``, for one row; the key is None where `random` is False. The logits are
            float32 at least, without NaN, and the largest logit is finite.
        random: whether the sampler draws from the key.

    Example:
        A sampler of one's own is a value of this class; here the second best token:

        >>> import jax.numpy as jnp, seqjax as sj
        >>> second = sj.Sampler(choose=lambda key, logits: jnp.argsort(-logits)[1], random=False)
        >>> second.choose(None, jnp.asarray([0.1, 0.7, 0.2]))
        Array(2, dtype=int32)
    """

    choose: Callable
    random: bool


@definition
def greedy() -> Sampler:
    """Choose the most probable token; the first one among equal logits.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> sj.greedy().choose(None, jnp.asarray([0.1, 0.7, 0.2]))
        Array(1, dtype=int32)
    """
    return Sampler(choose=lambda key, logits: jnp.argmax(logits, -1), random=False)


@definition
def categorical(*, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Sampler:
    r"""Draw a token from :math:`p_v \propto \exp(l_v / \tau)`, over all tokens or over the most probable tokens.

    The temperature applies first, then `keep_top_k`, then `keep_top_p` on the renormalized rest.

    Args:
        temperature: tau > 0. The limit of 0 is `greedy`, except that equal logits share their probability. The number
            is compiled in: for values that change, pass ``temperature=`` to `generate`.
        top_k: number of tokens to draw from; None for all.
        top_p: probability of the nucleus to draw from, 0 < p <= 1; None or 1 for all tokens.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> sampler = sj.categorical(temperature=0.7, top_p=0.8)
        >>> sampler
        categorical(temperature=0.7, top_p=0.8)
        >>> logits = jnp.log(jnp.asarray([0.5, 0.3, 0.2]))
        >>> {int(sampler.choose(jax.random.key(i), logits)) for i in range(50)}
        {0, 1}

    References:
        Holtzman et al. 2020, "The curious case of neural text degeneration", arXiv:1904.09751, eq. 2-3 (top-p), eq. 4
        (temperature).
        Fan, Lewis, Dauphin 2018, "Hierarchical neural story generation", arXiv:1805.04833 (top-k).
    """
    hint = "Use greedy() for the most probable token."
    check_above("categorical(temperature)", temperature, hint=hint)
    check_whole_or_none("categorical(top_k)", top_k)
    if top_p is not None:
        check_within("categorical(top_p)", top_p, "(0, 1]", note=", or None")

    def choose(key: jax.Array, logits: jax.Array) -> jax.Array:
        # The largest logit becomes 0 and stays 0, so a temperature that underflows makes all others -inf.
        logits = logits - jnp.max(logits)
        logits = jnp.where(logits < 0, logits / temperature, logits)
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        return jax.random.categorical(key, logits)

    return Sampler(choose=choose, random=True)


def keep_top_k(logits: Float[Array, " V"], k: int) -> Float[Array, " V"]:
    """Keep the k largest logits ``[V]`` and set the others to -inf; among equal logits keep the first.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.decode import keep_top_k
        >>> keep_top_k(jnp.asarray([1.0, 3.0, 2.0]), 2)
        Array([-inf,   3.,   2.], dtype=float32)
    """
    if k >= logits.shape[-1]:
        return logits
    values, tokens = jax.lax.top_k(logits, k)
    return jnp.full_like(logits, -jnp.inf).at[tokens].set(values)


def keep_top_p(logits: Float[Array, " V"], p: float) -> Float[Array, " V"]:
    r"""Keep the nucleus of the logits ``[V]``, the smallest set of probability p; set the others to -inf.

    Tokens are added in order of probability (the first among equals), while the earlier tokens have less than p in
    total.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.decode import keep_top_p
        >>> jnp.isfinite(keep_top_p(jnp.log(jnp.asarray([0.2, 0.5, 0.3])), 0.6))
        Array([False,  True,  True], dtype=bool)

    References:
        Holtzman et al. 2020, arXiv:1904.09751, eq. 2.
    """
    if p >= 1:
        return logits
    order = jnp.argsort(logits, descending=True, stable=True)
    values = logits[order]
    until = jnp.cumsum(jax.nn.softmax(values))
    before = jnp.concatenate([jnp.zeros_like(until[:1]), until[:-1]])
    kept = (before < p).at[0].set(True)  # keep the first token even if p underflows
    return jnp.full_like(logits, -jnp.inf).at[order].set(jnp.where(kept, values, -jnp.inf))


def checked_temperature(who: str, temperature: Any, batch: tuple[int, ...]) -> jax.Array | None:
    """Return a temperature of all rows, or of each, as an array; raise a ValueError for other values."""
    if temperature is None:
        return None
    temperature = jnp.asarray(temperature)
    if (
        temperature.dtype == jnp.bool_
        or not jnp.isrealobj(temperature)
        or temperature.shape not in ((), batch)
    ):
        raise ValueError(
            f"{who}(temperature): expected one number above 0, or one per row {list(batch)}, got {temperature.dtype} "
            f"{list(temperature.shape)}."
        )
    if not is_traced(temperature) and not np.all((np.asarray(temperature) > 0) & np.isfinite(temperature)):
        raise ValueError(
            f"{who}(temperature): expected finite numbers above 0, got {np.asarray(temperature).tolist()}. For "
            "the most probable token use greedy()."
        )
    return temperature.astype(jnp.result_type(float))  # one dtype, so that another number compiles nothing
