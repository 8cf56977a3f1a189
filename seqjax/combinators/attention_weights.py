"""The attention weights of a model, step by step, without a change of the model."""

import inspect
from typing import Any, cast

import jax

from seqjax.base import Carry, Flags, Layer, Params, Xs
from seqjax.calls import checked
from seqjax.combinators.common import check_layers
from seqjax.combinators.context import memories_of, with_weights
from seqjax.combinators.with_memory import recording_memory, with_memory
from seqjax.values import Definition, build, origin, tokenize


def attention_weights(
    layer: Layer, params: Params, carry: Carry, xs: Xs, *, reset: Any = None, mask: Any = None
) -> tuple[jax.Array, ...]:
    r"""Return the attention weights of every `with_memory` layer in a model, each ``[T, *B, S]``.

    The model is built once more from its origin, with layers that keep their weights in the carry, and runs step by
    step with the same params. Layers may be nested in any combinator. Weights at masked steps are zero.

    Shapes: xs ``[T, *B, ...]`` -> one array ``[T, *B, S]`` per `with_memory` layer, the outer ones first; with several
    heads the mean over the heads.

    Args:
        layer: a causal model made by factories, such as ``encoder_decoder(...)`` or ``serial(...)``.
        params: of the model.
        carry: of the model, with a memory; see `set_memory` and `Layer.condition`.
        xs: the inputs.
        reset: as in `Layer.unroll`.
        mask: as in `Layer.unroll`.

    Raises:
        TypeError: for a model without a `with_memory` layer that its origin shows, or a model that is not causal.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> reader = sj.with_memory(sj.recurrent(sj.gru(4)), sj.additive_attention(3), memory_size=2)
        >>> model, xs = sj.serial(sj.running_mean(), reader), jnp.ones((6, 1, 5))
        >>> params = model.init(jax.random.key(0), xs[0])
        >>> carry = sj.set_memory(model.initial_carry(params, xs[0]), jnp.ones((1, 4, 2)))
        >>> (weights,) = sj.attention_weights(model, params, carry, xs)
        >>> weights.shape, weights[0, 0]
        ((6, 1, 4), Array([0.25, 0.25, 0.25, 0.25], dtype=float32))
    """
    check_layers("attention_weights", (layer,), causal=True)
    token = _recording(tokenize(layer, "attention_weights(layer)"))
    carry, xs, flags = checked(layer, "unroll", params, carry, xs, Flags(reset, mask))
    if token == tokenize(layer, "") or not any(True for _ in memories_of(carry)):
        raise TypeError(
            f"attention_weights(layer): expected a model with a with_memory(...) layer, got {layer!r}. A layer inside "
            "of a layer written by hand is not found."
        )
    recording: Layer = build(token)

    def step(carry: Carry, inputs: Any) -> Any:
        carry, _ = recording.step_fn(params, carry, *inputs)
        return carry, tuple(node.weights for node in memories_of(carry))

    return jax.lax.scan(step, with_weights(carry), (xs, flags))[1]


def _recording(token: Any) -> Any:
    """Return a token with `recording_memory` in place of `with_memory`.

    A factory may compose the layers itself, as `seqjax.models.translator` does: then its arguments do not have a
    `with_memory`, but the layer that it returns has one.
    """
    if not isinstance(token, tuple):
        return token
    if token == tokenize(with_memory, ""):
        return tokenize(recording_memory, "")
    found = tuple(map(_recording, token))
    if found != token or token[:1] != ("made",):
        return found
    factory, arguments = cast(tuple, origin(build(token)))
    made = inspect.unwrap(factory)(**arguments) if _takes_names(factory) else None
    if not isinstance(made, Definition) or made._token is None:
        return token
    found = _recording(made._token)
    return token if found == made._token else found


def _takes_names(factory: Any) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(factory).parameters.values()}
    return inspect.Parameter.VAR_POSITIONAL not in kinds
