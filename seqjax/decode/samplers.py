"""How one token is chosen from logits. Samplers are values; the filters they are made of are plain functions."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqjax.checks import check_above, check_whole_or_none, check_within
from seqjax.definition import Definition, definition


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sampler(Definition):
    """How one token is chosen.

    Attributes:
        choose: ``(key, logits [V]) -> token``, for one row; the key is None where `random` is False. It is given
            logits in float32 at least, none of them NaN and the greatest finite.
        random: whether it draws from the key.

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
    """The most probable token; of equal ones the first.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> sj.greedy().choose(None, jnp.asarray([0.1, 0.7, 0.2]))
        Array(1, dtype=int32)
    """
    return Sampler(choose=lambda key, logits: jnp.argmax(logits, -1), random=False)


@definition
def categorical(*, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Sampler:
    r"""A token drawn from :math:`p_v \propto \exp(l_v / \tau)`, over all tokens or the more probable ones alone.

    The temperature comes first, then `keep_top_k`, then `keep_top_p` on what that left, renormalised.

    Args:
        temperature: tau > 0. Towards 0 it becomes `greedy`, save that equal logits share their probability.
        top_k: how many tokens to draw from; None for all.
        top_p: the probability, 0 < p <= 1, of the nucleus to draw from; None or 1 for all.

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
    hint = "For the most probable token use greedy()."
    check_above("categorical(temperature)", temperature, hint=hint)
    check_whole_or_none("categorical(top_k)", top_k)
    if top_p is not None:
        check_within("categorical(top_p)", top_p, "(0, 1]", note=", or None")

    def choose(key: jax.Array, logits: jax.Array) -> jax.Array:
        # The greatest becomes 0 and is not divided, so that a temperature that underflows makes the others -inf.
        logits = logits - jnp.max(logits)
        logits = jnp.where(logits < 0, logits / temperature, logits)
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        return jax.random.categorical(key, logits)

    return Sampler(choose=choose, random=True)


def keep_top_k(logits: jax.Array, k: int) -> jax.Array:
    """The k greatest of the logits ``[V]``, the others -inf; of equal ones the first, so that k remain.

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


def keep_top_p(logits: jax.Array, p: float) -> jax.Array:
    r"""The nucleus of the logits ``[V]``, the others -inf: the fewest tokens that have a probability of p together.

    Tokens are taken from the most probable on, of equal ones the first, while those before have less than p.

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
    kept = (before < p).at[0].set(True)  # a p that underflows keeps the first too
    return jnp.full_like(logits, -jnp.inf).at[order].set(jnp.where(kept, values, -jnp.inf))
