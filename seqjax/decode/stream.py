"""Generation as an iterator over tokens."""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.checks import check_whole
from seqjax.decode.constraints import Limits
from seqjax.decode.generate import Options, State, advance, checked_call, generate, row_keys, start_state


class StreamedToken(NamedTuple):
    """One step of `stream`: entries ``t`` of `Generated`, for all rows.

    Attributes:
        token: ``[*B]`` int32; the pad token after the end of a row.
        log_probability: ``[*B]``; 0 after the end.
        ended: ``[*B]`` bool, whether the row has ended, with this token or before.
        carry: as in `Generated`, after this step.
    """

    token: jax.Array
    log_probability: jax.Array
    ended: jax.Array
    carry: Any


def stream(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: jax.Array,
    *,
    max_length: int,
    **options: Any,
) -> Iterator[StreamedToken]:
    """Generate token by token: an iterator over the steps of `generate`, which equals it.

    Arguments are those of `generate`, and are checked at once. Each step runs when the iterator is advanced, as one
    compiled call. The iterator ends when all rows have ended. It runs outside `jax.jit`.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.pointwise(lambda token: jnp.log(jax.nn.one_hot((token + 1) % 4, 4)))
        >>> steps = sj.stream(layer, (), (), jnp.asarray([[0, 2]]), max_length=4, end_token=3)
        >>> [step.token.tolist() for step in steps]
        [[1, 3], [2, 0], [3, 0]]
    """
    known = set(inspect.signature(generate).parameters) - {"max_length"}
    for name in options:
        if name not in known:
            raise TypeError(f"stream: expected the arguments of generate, got {name!r}.")
    max_length = check_whole("stream(max_length)", max_length)
    arguments, settings = checked_call(
        "stream", layer, params, carry, prompt, max_length=max_length, **options
    )
    return _steps(layer, arguments, max_length, settings)


def _steps(layer: Layer, arguments: tuple, max_length: int, options: Options) -> Iterator[StreamedToken]:
    params, _, _, _, keys, temperature, limits = arguments
    state = _begin(layer, *arguments, options=options)
    keys = row_keys(keys, state.ended.shape)
    for _ in range(max_length):
        if bool(jnp.all(state.ended)):
            return
        state, (token, log_probability, _) = _next(
            layer, params, state, keys, temperature, limits, options=options
        )
        yield StreamedToken(token, log_probability, state.ended, state.carry)


@partial(jax.jit, static_argnums=0, static_argnames="options")
def _begin(
    layer: Layer,
    params: Any,
    carry: Any,
    prompt: Any,
    mask: Any,
    key: Any,
    temperature: Any,
    limits: Any,
    *,
    options: Options,
) -> State:
    return start_state(layer, params, carry, prompt, mask, options)[0]


@partial(jax.jit, static_argnums=0, static_argnames="options")
def _next(
    layer: Layer, params: Any, state: State, keys: Any, temperature: Any, limits: Limits, *, options: Options
) -> Any:
    return advance(layer, params, state, keys, temperature, limits, options)
