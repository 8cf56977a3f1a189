"""Generation token by token."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.checks import check_whole, check_whole_or_none
from seqjax.decode.common import check_call, check_positions, read_prompt, read_token
from seqjax.decode.samplers import Sampler, greedy
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

    tokens: jax.Array
    lengths: jax.Array
    log_probabilities: jax.Array
    carry: Any


def generate(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: jax.Array,
    *,
    max_length: int,
    sampler: Sampler = greedy(),
    end_token: int | None = None,
    pad_token: int = 0,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
) -> Generated:
    """Generate tokens after a prompt one by one: each token is chosen from the logits and is the next input.

    ``layer.unroll`` reads the prompt; ``layer.step`` runs in one compiled loop, which ends when every row has ended. A
    row ends with its end token, or after `max_length` tokens. If no token can be chosen (a logit is NaN or +inf, all
    logits are -inf, or the prompt of a row is empty), the row ends with the token -1, whose log probability is NaN. The
    carry of a row that has ended does not change.

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
        end_token: the token that ends a row, or None.
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
    """
    who = "generate"
    prompt = jnp.asarray(prompt)
    mask = None if mask is None else jnp.asarray(mask)
    check_call(who, layer, prompt, mask)
    if not isinstance(sampler, Sampler):
        raise TypeError(
            f"{who}(sampler): expected a sampler such as greedy() or categorical(), got {sampler!r}."
        )
    max_length = check_whole(f"{who}(max_length)", max_length)
    check_positions(who, layer, carry, prompt, mask, max_length)
    if sampler.random:
        key = _checked_key(who, sampler, key, prompt.shape[1:])
    return _generate(
        layer,
        params,
        carry,
        prompt,
        mask,
        key if sampler.random else None,
        max_length=max_length,
        sampler=sampler,
        end_token=check_whole_or_none(f"{who}(end_token)", end_token, 0),
        pad_token=check_whole(f"{who}(pad_token)", pad_token, 0),
    )


class _State(NamedTuple):
    t: jax.Array
    token: jax.Array
    ended: jax.Array
    made: Generated


@partial(jax.jit, static_argnums=0, static_argnames=("max_length", "sampler", "end_token", "pad_token"))
def _generate(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: jax.Array,
    mask: jax.Array | None,
    key: jax.Array | None,
    *,
    max_length: int,
    sampler: Sampler,
    end_token: int | None,
    pad_token: int,
) -> Generated:
    carry, first, form = read_prompt("generate", layer, params, carry, prompt, mask)
    if end_token is not None and end_token >= form.shape[-1]:
        raise ValueError(
            f"generate(end_token): expected a token below V = {form.shape[-1]}, got {end_token}."
        )
    shape = (max_length, *first.shape)
    start = Generated(
        tokens=jnp.full(shape, pad_token, jnp.int32),
        lengths=jnp.zeros(first.shape, jnp.int32),
        log_probabilities=jnp.zeros(shape, wide(form.dtype)),
        carry=carry,
    )
    keys = _row_keys(key, first.shape)

    def body(state: _State) -> _State:
        t, token, ended, made = state
        carry, logits, usable = read_token(layer, params, made.carry, token, ~ended)
        token = _choose(sampler, keys, t, jnp.where(usable[..., None], logits, jnp.zeros_like(logits)))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), token[..., None], -1)[..., 0]
        token = jnp.where(usable, token, -1)
        chosen = jnp.where(usable, chosen, jnp.nan)
        made = Generated(
            tokens=made.tokens.at[t].set(jnp.where(ended, pad_token, token)),
            lengths=made.lengths + (~ended).astype(jnp.int32),
            log_probabilities=made.log_probabilities.at[t].set(
                jnp.where(ended, jnp.zeros_like(chosen), chosen)
            ),
            carry=carry,
        )
        ended = ended | ~usable if end_token is None else ended | ~usable | (token == end_token)
        return _State(t + 1, token, ended, made)

    def goes_on(state: _State) -> jax.Array:
        return (state.t < max_length) & ~jnp.all(state.ended)

    state = _State(jnp.zeros((), jnp.int32), first, jnp.zeros(first.shape, jnp.bool_), start)
    return jax.lax.while_loop(goes_on, body, state).made


def _checked_key(who: str, sampler: Sampler, key: Any, batch: tuple[int, ...]) -> jax.Array:
    if key is None:
        raise ValueError(
            f"{who}(key): {sampler!r} is random: expected a key such as jax.random.key(0), got None."
        )
    key = as_key(f"{who}(key)", key)
    if key.shape not in ((), batch):
        raise ValueError(f"{who}(key): expected one key, or keys {list(batch)}, got {list(key.shape)}.")
    return key


def _row_keys(key: jax.Array | None, batch: tuple[int, ...]) -> jax.Array | None:
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
