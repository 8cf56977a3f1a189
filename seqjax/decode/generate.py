"""Generation token by token."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
from seqjax.decode.samplers import Sampler, checked_temperature, greedy
from seqjax.inputs import as_key
from seqjax.ops.select import wide


class Generated(NamedTuple):
    """Result of `generate`.

    Attributes:
        tokens: ``[T, *B]`` int32, T = max_length; the pad token after the end of a row.
        lengths: ``[*B]`` int32: the number of tokens in each row, including the end token.
        log_probabilities: ``[T, *B]`` of each token under the layer, independent of the sampler; 0 after the end.
        carry: the carry after the prompt and all tokens of a row but the last. Pass the last token as the prompt to
            continue.
    """

    tokens: Int[Array, "T *B"]
    lengths: Int[Array, "*B"]
    log_probabilities: Float[Array, "T *B"]
    carry: Any


def generate(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: jax.Array,
    *,
    max_length: int,
    sampler: Sampler = greedy(),
    temperature: Any = None,
    end_token: int | Sequence[int] | None = None,
    stop_sequences: Sequence[Sequence[int]] = (),
    min_length: Any = 0,
    max_lengths: Any = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    pad_token: int = 0,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
) -> Generated:
    r"""Generate tokens after a prompt one by one: each token is chosen from the logits and is the next input.

    ``layer.unroll`` reads the prompt; ``layer.step`` runs in one compiled loop, which ends when every row has ended. A
    row ends with an end token or a stop sequence, or after `max_length` tokens. If no token can be chosen (a logit is
    NaN or +inf, all logits are -inf, or the prompt of a row is empty), the row ends with the token -1, whose log
    probability is NaN. The carry of a row that has ended does not change.

    Row r draws its token t from ``fold_in(fold_in(key, r), t)``, so its draws do not depend on other rows. The layer
    runs without a key (no dropout). Gradients do not pass through the choice of a token.

    Shapes: prompt ``[P, *B]``; logits of the layer ``[*B, V]``, carry leaves ``[*B, ...]``.

    Args:
        layer: causal, from tokens ``[*B]`` int32 to logits ``[*B, V]``.
        params: of the layer.
        carry: of the layer, before the prompt; None for the initial carry.
        prompt: tokens; pass first tokens ``[B]`` as ``tokens[None]``.
        max_length: T, the largest number of tokens to generate, not counting the prompt.
        sampler: `greedy`, `categorical` or a custom `Sampler`.
        temperature: an array, scalar or per row ``[*B]``, or None: logits are divided by it before the sampler. Another
            value needs no compilation, unlike the temperature of `categorical`.
        end_token: the token that ends a row, several such tokens, or None.
        stop_sequences: sequences of tokens that end a row as well, when its last tokens, without the prompt, are one.
        min_length: the smallest number of tokens of a row, including the end token, for all rows or per row ``[*B]``:
            earlier end tokens are not chosen, and earlier stop sequences do not end the row.
        max_lengths: the largest number of tokens per row ``[*B]``, each at most `max_length`; None for `max_length`.
        repetition_penalty: :math:`\theta`, above 0; 1 for none. Logits of tokens that the row has made before, without
            the prompt, are divided by it where they are positive and multiplied by it elsewhere.
        no_repeat_ngram: n; a token that would make n tokens of the row, without the prompt, occur a second time is not
            chosen. 0 for no limit.
        pad_token: the token that fills up a row after its end.
        mask: ``[P, *B]`` bool, True where the prompt has a token. Rows may have prompts of different lengths, with
            padding before, after or between tokens.
        key: for a random sampler: one key, or one key per row, ``[*B]``, used instead of ``fold_in(key, r)``.

    Raises:
        TypeError: for a layer that is not causal, or a key that is none, such as a seed.
        ValueError: for shapes, dtypes or values that do not fit, for more tokens than the max_length of attention, and
            for a random sampler without a key.

    Example:
        A layer that always continues 0, 1, 2, 3 with the next number, and stops at 3:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> def successor(token):
        ...     return jnp.log(jax.nn.one_hot((token + 1) % 4, 4))
        >>> layer = sj.pointwise(successor)
        >>> made = sj.generate(layer, (), (), jnp.asarray([[0, 2]]), max_length=4, end_token=3)
        >>> made.tokens.T
        Array([[1, 2, 3, 0],
               [3, 0, 0, 0]], dtype=int32)
        >>> made.lengths
        Array([3, 1], dtype=int32)

    References:
        Keskar et al. 2019, "CTRL: a conditional transformer language model for controllable generation",
        arXiv:1909.05858, section 4.1 (the penalty; there logits are divided by it whatever their sign).
        Paulus, Xiong, Socher 2018, "A deep reinforced model for abstractive summarization", arXiv:1705.04304, section
        2.5 (no repeated trigrams).
    """
    arguments, options = checked_call(
        "generate",
        layer,
        params,
        carry,
        prompt,
        max_length=max_length,
        sampler=sampler,
        temperature=temperature,
        end_token=end_token,
        stop_sequences=stop_sequences,
        min_length=min_length,
        max_lengths=max_lengths,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        pad_token=pad_token,
        mask=mask,
        key=key,
    )
    return _generate(
        layer, *arguments, max_length=check_whole("generate(max_length)", max_length), options=options
    )


class Options(NamedTuple):
    """What is static in a compiled step."""

    sampler: Sampler
    constraints: Constraints
    num_recent: int
    pad_token: int


def checked_call(
    who: str,
    layer: Any,
    params: Any,
    carry: Any,
    prompt: Any,
    *,
    sampler: Any = None,
    temperature: Any = None,
    mask: Any = None,
    pad_token: Any = 0,
    key: Any = None,
    **asked: Any,
) -> tuple[tuple, Options]:
    """Return ``(params, carry, prompt, mask, key, temperature, limits)`` and the options; raise for what is wrong."""
    sampler = greedy() if sampler is None else sampler
    request = request_of(who, layer, carry, prompt, mask=mask, pad_token=pad_token, **asked)
    if not isinstance(sampler, Sampler):
        raise TypeError(
            f"{who}(sampler): expected a sampler such as greedy() or categorical(), got {sampler!r}."
        )
    batch = request.prompt.shape[1:]
    key = _checked_key(who, sampler, key, batch) if sampler.random else None
    temperature = checked_temperature(who, temperature, batch)
    recent = num_recent(request.constraints, request.max_length)
    options = Options(sampler, request.constraints, recent, request.pad_token)
    return (params, carry, request.prompt, request.mask, key, temperature, request.limits), options


class State(NamedTuple):
    """State of the loop: recent holds the last tokens that were made, as many as the constraints read."""

    t: jax.Array
    token: jax.Array
    ended: jax.Array
    carry: Any
    recent: jax.Array


def start_state(
    layer: Layer, params: Any, carry: Any, prompt: Any, mask: Any, options: Options
) -> tuple[State, Any]:
    """Return the state after the prompt, and the dtype of log probabilities."""
    carry, first, form = read_prompt("generate", layer, params, carry, prompt, mask)
    check_tokens("generate", options.constraints, form.shape[-1])
    recent = jnp.full((*first.shape, options.num_recent), -1, jnp.int32)
    ended = jnp.zeros(first.shape, jnp.bool_)
    return State(jnp.zeros((), jnp.int32), first, ended, carry, recent), wide(form.dtype)


def advance(
    layer: Layer, params: Any, state: State, keys: Any, temperature: Any, limits: Limits, options: Options
) -> tuple[State, tuple[jax.Array, jax.Array, jax.Array]]:
    """One token per row: the next state, and token, log probability and whether the row had not ended."""
    t, token, ended, carry, recent = state
    carry, logits, usable = read_token(layer, params, carry, token, ~ended)
    constraints = options.constraints
    may_be = allowed(constraints, limits, recent, t, logits)
    open_logits = jnp.where(may_be, penalized(constraints, recent, logits), -jnp.inf)
    usable = usable & jnp.isfinite(jnp.max(open_logits, -1))
    open_logits = jnp.where(usable[..., None], open_logits, jnp.zeros_like(open_logits))
    if temperature is not None:
        tau = jnp.broadcast_to(temperature, token.shape)[..., None].astype(open_logits.dtype)
        # The largest logit becomes 0 and stays 0, so that no temperature overflows it.
        open_logits = open_logits - jnp.max(open_logits, -1, keepdims=True)
        open_logits = jnp.where(open_logits < 0, open_logits / tau, open_logits)
    token = _choose(options.sampler, keys, t, open_logits)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), token[..., None], -1)[..., 0]
    token = jnp.where(usable, token, -1)
    chosen = jnp.where(usable, chosen, jnp.nan)
    recent = jnp.concatenate([recent, token[..., None]], -1)[..., 1:]
    stops = ends_with(constraints, limits, recent, t, token) | is_last(limits, t)
    shown = (
        jnp.where(ended, options.pad_token, token),
        jnp.where(ended, jnp.zeros_like(chosen), chosen),
        ~ended,
    )
    return State(t + 1, token, ended | ~usable | stops, carry, recent), shown


@partial(jax.jit, static_argnums=0, static_argnames=("max_length", "options"))
def _generate(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: jax.Array,
    mask: jax.Array | None,
    key: jax.Array | None,
    temperature: jax.Array | None,
    limits: Limits,
    *,
    max_length: int,
    options: Options,
) -> Generated:
    first, dtype = start_state(layer, params, carry, prompt, mask, options)
    batch = first.ended.shape
    keys = row_keys(key, batch)
    tokens = jnp.full((max_length, *batch), options.pad_token, jnp.int32)
    start = first, tokens, jnp.zeros(batch, jnp.int32), jnp.zeros(tokens.shape, dtype)

    def body(loop: Any) -> Any:
        state, tokens, lengths, chosen = loop
        after, (token, log_probability, alive) = advance(
            layer, params, state, keys, temperature, limits, options
        )
        return (
            after,
            tokens.at[state.t].set(token),
            lengths + alive.astype(jnp.int32),
            chosen.at[state.t].set(log_probability),
        )

    def goes_on(loop: Any) -> jax.Array:
        return (loop[0].t < max_length) & ~jnp.all(loop[0].ended)

    state, tokens, lengths, chosen = jax.lax.while_loop(goes_on, body, start)
    return Generated(tokens, lengths, chosen, state.carry)


def _checked_key(who: str, sampler: Sampler, key: Any, batch: tuple[int, ...]) -> jax.Array:
    if key is None:
        raise ValueError(
            f"{who}(key): {sampler!r} is random: expected a key such as jax.random.key(0), got None."
        )
    key = as_key(f"{who}(key)", key)
    if key.shape not in ((), batch):
        raise ValueError(f"{who}(key): expected one key, or keys {list(batch)}, got {list(key.shape)}.")
    return key


def row_keys(key: jax.Array | None, batch: tuple[int, ...]) -> jax.Array | None:
    """Return one key per row, ``[*B]``."""
    if key is None or key.shape == batch:
        return key
    rows = 1
    for size in batch:
        rows *= size
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows)).reshape(batch)


def _choose(sampler: Sampler, keys: jax.Array | None, t: jax.Array, logits: jax.Array) -> jax.Array:
    """Choose a token per row, ``[*B]`` int32, from logits ``[*B, V]``."""

    def one(key: Any, logits: jax.Array) -> jax.Array:
        return sampler.choose(None if key is None else jax.random.fold_in(key, t), logits)

    for _ in logits.shape[:-1]:
        one = jax.vmap(one, (None if keys is None else 0, 0))
    return one(keys, logits).astype(jnp.int32)
