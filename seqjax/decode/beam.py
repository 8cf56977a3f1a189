"""Beam search."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqjax.base import Layer
from seqjax.checks import check_whole
from seqjax.decode.common import read_prompt, read_token
from seqjax.decode.constraints import (
    Constraints,
    Limits,
    allowed,
    check_tokens,
    ends_with,
    is_last,
    num_recent,
    penalized,
)
from seqjax.decode.request import request_of
from seqjax.ops.select import expand, select, wide


class Beams(NamedTuple):
    """Result of `beam_search`: K hypotheses per row, the best first.

    Attributes:
        tokens: ``[T, *B, K]`` int32, T = max_length; the pad token after the end of a hypothesis.
        lengths: ``[*B, K]`` int32, including the end token; 0 where there are fewer than K hypotheses.
        scores: ``[*B, K]``, log probabilities divided by length penalties, in descending order; -inf where there is no
            hypothesis.
        log_probabilities: ``[*B, K]``, sums over the tokens of each hypothesis.
        finished: ``[*B, K]`` bool, True for a hypothesis with an end token or stop sequence, False for one truncated at
            the largest number of tokens.
    """

    tokens: Int[Array, "T *B K"]
    lengths: Int[Array, "*B K"]
    scores: Float[Array, "*B K"]
    log_probabilities: Float[Array, "*B K"]
    finished: Bool[Array, "*B K"]


def wu_length_penalty(length: Any, alpha: float) -> Any:
    r"""The length penalty :math:`\mathrm{lp}(n) = ((5 + n) / (5 + 1))^\alpha`.

    Example:
        >>> from seqjax.decode import wu_length_penalty
        >>> wu_length_penalty(1, 0.6), wu_length_penalty(7, 1.0)
        (1.0, 2.0)

    References:
        Wu et al. 2016, "Google's neural machine translation system", arXiv:1609.08144, eq. 14.
    """
    return ((5 + length) / (5 + 1)) ** alpha


def beam_search(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: jax.Array,
    *,
    beam_size: int,
    max_length: int,
    end_token: int | Sequence[int] | None,
    stop_sequences: Sequence[Sequence[int]] = (),
    min_length: Any = 0,
    max_lengths: Any = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    length_penalty: float = 0.0,
    pad_token: int = 0,
    mask: jax.Array | None = None,
) -> Beams:
    r"""Beam search: return the K hypotheses of the highest score per row.

    .. math::
        s(y) = \frac{\log p(y)}{\mathrm{lp}(|y|)}, \qquad \mathrm{lp}(n) = \left(\frac{5 + n}{5 + 1}\right)^\alpha

    Each step extends the hypotheses of the beam by every token and keeps continuations of the highest log probability.
    Continuations with the end token join the finished hypotheses, of which the K with the highest score are kept. The K
    best other continuations are the next beam. Hypotheses in the beam after T = max_length tokens are truncated and
    also returned. K = 1 is greedy decoding; with K of at least V^T the result is exact.

    A row stops once no continuation can improve its K finished hypotheses, which does not change the result. Log
    probabilities only fall, so a continuation of a beam whose best hypothesis has :math:`l \le 0` after n tokens scores
    at most :math:`l / \max_{n < m \le T} \mathrm{lp}(m)`. The loop ends when all rows have stopped.

    If no token can be chosen (a logit is NaN or +inf, all logits are -inf, or the prompt of a row is empty), all scores
    of the row are NaN and its tokens are -1.

    Shapes: prompt ``[P, *B]``; logits of the layer ``[*B, V]``, carry leaves ``[*B, ...]``, of any dtype. When the
    layer runs, the beam is part of the last batch axis. At each step every leaf of the carry, including the memory of
    an encoder, is gathered for its hypothesis.

    Args:
        layer: causal, from tokens ``[*B]`` int32 to logits ``[*B, V]``.
        params: params of the layer.
        carry: carry of the layer before the prompt; None for the initial carry.
        prompt: tokens, not part of the hypotheses; pass first tokens ``[B]`` as ``tokens[None]``.
        beam_size: K.
        max_length: T, the largest number of tokens in a hypothesis, including the end token.
        end_token: the token that ends a hypothesis, several such tokens, or None.
        stop_sequences: sequences of tokens that end a hypothesis as well, when its last tokens are one.
        min_length: the smallest number of tokens of a hypothesis, for all rows or per row ``[*B]``: earlier end tokens
            are not chosen, and earlier stop sequences do not end the hypothesis.
        max_lengths: the largest number of tokens per row ``[*B]``, each at most `max_length`; None for `max_length`.
        repetition_penalty: as in `generate`. The log probabilities, and with them the scores, are those of the
            penalized logits.
        no_repeat_ngram: n, as in `generate`. The log probabilities of the other tokens do not change. A hypothesis that
            cannot go on is dropped.
        length_penalty: alpha; 0 ranks by log probability, 1 approximately by the mean log probability per token.
        pad_token: the token that fills up a hypothesis after its end.
        mask: ``[P, *B]`` bool, True where the prompt has a token.

    Raises:
        TypeError: for a layer that is not causal.
        ValueError: for shapes, dtypes or values that do not fit, and for more tokens than the max_length of attention.

    Example:
        Of tokens 0, 1 and the end token 2, with the same probabilities at every step:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> def fixed(token):
        ...     return jnp.log(jnp.asarray([0.5, 0.3, 0.2]))
        >>> beams = sj.beam_search(
        ...     sj.pointwise(fixed), (), (), jnp.asarray([[0]]), beam_size=3, max_length=2, end_token=2
        ... )
        >>> jnp.moveaxis(beams.tokens, 0, -1)                            # [B, K, T]
        Array([[[0, 0],
                [2, 0],
                [0, 1]]], dtype=int32)
        >>> [f"{jnp.exp(score):.2f}" for score in beams.scores[0]], beams.lengths
        (['0.25', '0.20', '0.15'], Array([[2, 1, 2]], dtype=int32))

    References:
        Wu et al. 2016, "Google's neural machine translation system", arXiv:1609.08144, eq. 14, without the coverage
        penalty and without the pruning by score of section 7.
        Sutskever, Vinyals, Le 2014, "Sequence to sequence learning with neural networks", arXiv:1409.3215, section 3.2
        (hypotheses leave the beam with the end token).
        Huang, Zhao, Ma 2017, "When to finish? Optimal beam search for neural text generation", EMNLP (the bound).
    """
    who = "beam_search"
    if isinstance(length_penalty, bool) or not math.isfinite(length_penalty):
        raise ValueError(f"{who}(length_penalty): expected a finite number, got {length_penalty!r}.")
    asked = request_of(
        who,
        layer,
        carry,
        prompt,
        mask=mask,
        max_length=max_length,
        pad_token=pad_token,
        end_token=end_token,
        stop_sequences=stop_sequences,
        min_length=min_length,
        max_lengths=max_lengths,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
    )
    return _beam_search(
        layer,
        params,
        carry,
        asked.prompt,
        asked.mask,
        wu_length_penalty(np.arange(1, asked.max_length + 1), length_penalty),
        asked.limits,
        beam_size=check_whole(f"{who}(beam_size)", beam_size),
        constraints=asked.constraints,
        pad_token=asked.pad_token,
    )


class _State(NamedTuple):
    """State of the search: the beam, whose slots may be empty; the finished hypotheses; the rows that failed."""

    t: jax.Array  # []
    carry: Any  # [*B', ...], where B' are the merged axes
    token: jax.Array  # [*B, K], the last token
    log_p: jax.Array  # [*B, K], -inf where the slot is empty
    tokens: jax.Array  # [*B, K, T]
    done: Beams  # [*B, K], tokens [*B, K, T]
    broken: jax.Array  # [*B]


class _Settings(NamedTuple):
    """What does not change during a search."""

    layer: Layer
    params: Any
    penalty: jax.Array  # [T], of the lengths 1 to T
    constraints: Constraints
    limits: Limits  # [] or [*B, 1]
    pad_token: int


@partial(jax.jit, static_argnums=0, static_argnames=("beam_size", "constraints", "pad_token"))
def _beam_search(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: jax.Array,
    mask: jax.Array | None,
    penalty: jax.Array,
    limits: Limits,
    *,
    beam_size: int,
    constraints: Constraints,
    pad_token: int,
) -> Beams:
    """Run `beam_search` with a penalty ``[T]`` of the lengths 1 to T."""
    carry, first, form = read_prompt("beam_search", layer, params, carry, prompt, mask)
    check_tokens("beam_search", constraints, form.shape[-1])
    _check_carry(carry, first.shape)
    dtype = wide(form.dtype)
    of_beams = jax.tree.map(lambda a: a[..., None] if a.ndim else a, limits)
    settings = _Settings(layer, params, penalty.astype(dtype), constraints, of_beams, pad_token)
    state = jax.lax.while_loop(
        lambda state: (state.t < len(penalty)) & jnp.any(state.log_p > -jnp.inf),
        partial(_extend, settings),
        _start(settings, carry, first, beam_size),
    )
    wrong = Beams(*map(jnp.full_like, state.done, (-1, len(penalty), jnp.nan, jnp.nan, False)))
    found = select(state.broken, wrong, state.done)
    return found._replace(tokens=jnp.moveaxis(found.tokens, -1, 0))


def _start(settings: _Settings, carry: Any, first: jax.Array, beam_size: int) -> _State:
    """Return the state after the prompt: one hypothesis without tokens per row."""
    batch = first.shape
    beam, batch_ndim = (*batch, beam_size), len(batch)
    none = jnp.full(beam, -jnp.inf, settings.penalty.dtype)
    no_tokens = jnp.full((*beam, len(settings.penalty)), settings.pad_token, jnp.int32)
    return _State(
        t=jnp.zeros((), jnp.int32),
        carry=jax.tree.map(lambda a: _merge(_spread(a, batch_ndim, beam_size), batch_ndim), carry),
        token=_spread(first, batch_ndim, beam_size),
        log_p=jnp.where(jnp.arange(beam_size) == 0, jnp.zeros_like(none), none),
        tokens=no_tokens,
        done=Beams(no_tokens, jnp.zeros(beam, jnp.int32), none, none, jnp.zeros(beam, jnp.bool_)),
        broken=jnp.zeros(batch, jnp.bool_),
    )


def _extend(settings: _Settings, state: _State) -> _State:
    """Extend all hypotheses by one token, and keep the best ones."""
    t, penalty, limits = state.t, settings.penalty, settings.limits
    *batch, beam_size, max_length = state.tokens.shape
    beam, batch_ndim = (*batch, beam_size), len(batch)
    alive = state.log_p > -jnp.inf
    carry, logits, usable = read_token(
        settings.layer,
        settings.params,
        state.carry,
        _merge(state.token, batch_ndim),
        _merge(alive, batch_ndim),
    )
    broken = state.broken | jnp.any(alive & ~usable.reshape(beam), -1)
    size = logits.shape[-1]
    steps = _log_probabilities(settings, state, logits.reshape(*beam, size))
    total = jnp.where((alive & ~broken[..., None])[..., None], state.log_p[..., None] + steps, -jnp.inf)
    log_p, index = jax.lax.top_k(total.reshape(*batch, beam_size * size), beam_size)
    parent, token = index // size, (index % size).astype(jnp.int32)

    tokens = jnp.take_along_axis(state.tokens, parent[..., None], -2).at[..., t].set(token)
    recent = _recent(settings.constraints, tokens, t + 1)
    ends = ends_with(settings.constraints, limits, recent, t, token)
    closes = ends | is_last(limits, t) | (t + 1 == max_length)
    lengths = jnp.broadcast_to(t + 1, beam)
    closed = Beams(tokens, lengths, log_p / penalty[t], log_p, ends)
    done = _best(state.done, _only(closes & (log_p > -jnp.inf), closed, settings.pad_token))
    log_p = jnp.where(closes, -jnp.inf, log_p)

    # Compare the best possible continuation with the worst finished hypothesis.
    greatest = jax.lax.cummax(penalty, reverse=True)  # over this and all larger lengths
    bound = jnp.max(log_p, -1) / greatest[jnp.minimum(t + 1, max_length - 1)]
    log_p = jnp.where((done.scores[..., -1] >= bound)[..., None], -jnp.inf, log_p)
    carry = jax.tree.map(lambda a: _follow(a, parent), carry)
    return _State(t + 1, carry, token, log_p, tokens, done, broken)


def _log_probabilities(settings: _Settings, state: _State, logits: jax.Array) -> jax.Array:
    """Return the log probabilities ``[*B, K, V]`` of the next token, -inf where it is not allowed."""
    constraints = settings.constraints
    recent = _recent(constraints, state.tokens, state.t)
    may_be = allowed(constraints, settings.limits, recent, state.t, logits)
    return jnp.where(may_be, jax.nn.log_softmax(penalized(constraints, recent, logits)), -jnp.inf)


def _recent(constraints: Constraints, tokens: jax.Array, count: jax.Array) -> jax.Array:
    """Return the last of the first `count` tokens ``[*B, K, T]``, as many as the constraints read; -1 before them."""
    width = num_recent(constraints, tokens.shape[-1])
    places = count - width + jnp.arange(width, dtype=jnp.int32)
    return jnp.where(places >= 0, jnp.take(tokens, jnp.maximum(places, 0), axis=-1), -1)


def _check_carry(carry: Any, batch: tuple[int, ...]) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if leaf.shape[: len(batch)] != batch:
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"beam_search(carry): expected leaves [*B, ...] with *B = {list(batch)}, one per hypothesis, got "
                f"carry{name} {list(leaf.shape)}."
            )


def _spread(array: jax.Array, batch_ndim: int, count: int) -> jax.Array:
    """Repeat ``[*B, ...]`` K times to ``[*B, K, ...]``."""
    array = jnp.expand_dims(array, batch_ndim)
    return jnp.broadcast_to(array, (*array.shape[:batch_ndim], count, *array.shape[batch_ndim + 1 :]))


def _merge(array: jax.Array, batch_ndim: int) -> jax.Array:
    """Merge the axis K of ``[*B, K, ...]`` into the last batch axis, the form in which the layer runs."""
    *lead, last, count = array.shape[: batch_ndim + 1]
    return array.reshape(*lead, last * count, *array.shape[batch_ndim + 1 :])


def _follow(array: jax.Array, parent: jax.Array) -> jax.Array:
    """Gather a leaf of the carry, with merged axes, from the parent ``[*B, K]`` of each hypothesis."""
    batch_ndim = parent.ndim - 1
    split = array.reshape(*parent.shape, *array.shape[batch_ndim:])
    return _merge(jnp.take_along_axis(split, expand(parent, split.ndim), batch_ndim), batch_ndim)


def _only(flag: jax.Array, beams: Beams, pad_token: int) -> Beams:
    """Keep the hypotheses where the flag is True; the others become empty."""
    none = Beams(*map(jnp.full_like, beams, (pad_token, 0, -jnp.inf, -jnp.inf, False)))
    return select(flag, beams, none)


def _best(a: Beams, b: Beams) -> Beams:
    """Return the K best of 2K hypotheses, sorted by score; at equal scores those of a come first."""
    axis = a.scores.ndim - 1
    both = Beams(*(jnp.concatenate([x, y], axis) for x, y in zip(a, b, strict=True)))
    _, order = jax.lax.top_k(both.scores, a.scores.shape[-1])
    return jax.tree.map(lambda x: jnp.take_along_axis(x, expand(order, x.ndim), axis), both)
