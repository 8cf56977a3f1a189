"""An encoder reads a source; a decoder is conditioned on what the encoder found."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Key, Layer, Params, X, Xs, Ys
from seqjax.checks import check_one_of
from seqjax.combinators.common import View, check_layers, composed
from seqjax.combinators.context import reads_context, set_context, set_memory
from seqjax.layers.pointwise import pointwise
from seqjax.layers.pooling import last, mean_pool
from seqjax.values import definition


class Source(NamedTuple):
    """The context of an `encoder_decoder`: what its encoder reads, with the batch axes first.

    Attributes:
        values: ``[*B, S, ...]``, a sequence of S steps; for an encoder that is a module, whole sources ``[*B, ...]``.
        mask: ``[*B, S]`` bool, True where the source has a step; None for all.
    """

    values: Any
    mask: Any = None


class EncoderDecoderParams(NamedTuple):
    """The params of the encoder and of the decoder."""

    encoder: Any
    decoder: Any


@definition
def encoder_decoder(
    encoder: Layer | Callable,
    decoder: Layer,
    *,
    source_shape: tuple[int, ...] = (),
    source_dtype: Any = jnp.int32,
    summary: Literal["mean", "last"] = "mean",
) -> Layer:
    r"""A decoder conditioned on what an encoder reads from a source: a sentence, a recording or an image.

    .. math::
        m_{1..S} = \mathrm{encoder}(\mathrm{source}_{1..S}), \qquad s = \tfrac1S \textstyle\sum_j m_j
        \;\text{or}\; m_S, \qquad y_t = \mathrm{decoder}(x_{\le t} \mid m, s)

    The outputs m are the memory of every `with_memory` layer in the decoder, and their summary s is the context of
    every `conditioned` layer. Encoder and decoder may be of any kinds: a summary fits every cell, whereas the last
    carry of one kind of cell does not fit another kind.

    The model is a `Layer` with the decoder's inputs, outputs and carry. ``Batch.context`` holds the source: a `Source`,
    or a pair (values, mask). Training, evaluation and probes condition each batch themselves; to decode, condition the
    carry as the example shows. Resets restart the decoder, with the same source.

    Shapes: x ``[*B, D]`` -> y of the decoder; context ``Source(values [*B, S, *source_shape], mask [*B, S])``; encoder
    outputs ``[S, *B, M]``; params ``EncoderDecoderParams(encoder, decoder)``.

    Gradients: the encoder learns through the memory and the context, which every step of the decoder reads. Through
    attention, the gradient of a loss reaches output j of the encoder in one edge of weight :math:`\alpha_{tj}`. Without
    attention all of it passes through s: each :math:`m_j` gets a share of 1/S, or :math:`m_S` all of it.

    Args:
        encoder: a layer from ``[S, *B, *source_shape]`` to ``[S, *B, M]``, causal or not; or a flax module or function
            from one whole source ``[*source_shape]`` to a memory ``[S, M]`` or a vector ``[M]``, such as a
            convolutional network over an image.
        decoder: a layer with a `with_memory` or `conditioned` layer anywhere inside.
        source_shape: the shape of one step of the source (of the whole source for a module). ``()`` for tokens. The
            encoder's params are made from it, since `init` sees an input of the decoder alone.
        source_dtype: the dtype of the source, such as "int32" or "float32".
        summary: "mean" of the encoder's outputs over the steps that happened, or the "last" of them.

    Raises:
        TypeError: for a decoder that is no layer, or a context that is no `Source`.
        ValueError: for a source of another shape, or a decoder that has neither a memory nor a context; both when the
            carry is conditioned.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj, flax.linen as nn
        >>> from seqjax.training import init_train_state, make_train_step
        >>> encoder = sj.serial(sj.pointwise(nn.Embed(9, 8)), sj.bidirectional(sj.recurrent(sj.gru(4))))
        >>> reader = sj.with_memory(sj.recurrent(sj.gru(8)), sj.scaled_dot_attention(1), memory_size=8)
        >>> decoder = sj.serial(sj.pointwise(nn.Embed(9, 8)), reader, sj.pointwise(nn.Dense(9)))
        >>> model, optimizer = sj.encoder_decoder(encoder, decoder), optax.adam(1e-2)
        >>> source = sj.Source(jnp.ones((2, 5), int), jnp.arange(5) < jnp.asarray([[5], [3]]))
        >>> batch = sj.Batch(jnp.ones((4, 2), int), jnp.ones((4, 2), int), context=source)
        >>> state = init_train_state(model, optimizer, jax.random.key(0), batch.xs[0])
        >>> step = make_train_step(model, optax.softmax_cross_entropy_with_integer_labels, optimizer)
        >>> state, metrics = step(state, batch)
        >>> start = jnp.ones((1, 2), int)
        >>> carry = model.condition(state.params, model.initial_carry(state.params, start[0]), source)
        >>> sj.beam_search(model, state.params, carry, start, beam_size=3, max_length=4, end_token=0).tokens.shape
        (4, 2, 3)

    References:
        Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine
        translation", arXiv:1406.1078, section 2.2 (a summary c that every step of the decoder reads; theirs is the
        encoder's last state).
        Bahdanau, Cho, Bengio 2015, "Neural machine translation by jointly learning to align and translate",
        arXiv:1409.0473 (the encoder's outputs as a memory to attend to).
    """
    check_layers("encoder_decoder", (decoder,))
    check_one_of("encoder_decoder(summary)", summary, ("mean", "last"))
    whole = not isinstance(encoder, Layer)
    reader: Layer = pointwise(encoder, event_ndim=len(source_shape)) if whole else encoder  # type: ignore[assignment,arg-type]
    check_layers("encoder_decoder", (reader,))
    pool = mean_pool if summary == "mean" else last
    who = "encoder_decoder(...).condition"

    def init(key: Key, x: X) -> EncoderDecoderParams:
        example = jnp.zeros((1, *source_shape), source_dtype)
        return EncoderDecoderParams(
            reader.init(jax.random.fold_in(key, 0), example), decoder.init(jax.random.fold_in(key, 1), x)
        )

    def initial_carry(params: EncoderDecoderParams, x: X) -> Carry:
        return decoder.initial_carry(params.decoder, x)

    def apply(
        view: View, params: EncoderDecoderParams, carry: Carry, xs: Xs, flags: Flags
    ) -> tuple[Carry, Ys]:
        return view.run(decoder, params.decoder, carry, xs, flags)

    def condition(params: EncoderDecoderParams, carry: Carry, context: Any, *, key: Any = None) -> Carry:
        if not reads_context(carry):
            raise ValueError(
                f"{who}: expected a decoder that reads the source, with a with_memory(...) or conditioned(...) layer, "
                f"got {decoder!r}."
            )
        values, mask = _checked_source(who, context, source_shape, source_dtype, whole)
        ys = encoded(params.encoder, values, mask, key)
        steps = None if mask is None else jnp.moveaxis(mask, -1, 0)
        carry = set_memory(carry, jnp.moveaxis(ys, 0, -2), mask, missing="skip")
        return set_context(carry, pool(ys, steps), missing="skip")

    def encoded(params: Params, values: jax.Array, mask: Any, key: Any) -> jax.Array:
        """Return the outputs ``[S, *B, M]`` of the encoder."""
        if whole:
            memory = reader.step(params, (), values, key=key)[1]
            has_steps = memory.ndim > values.ndim - len(source_shape) + 1
            return jnp.moveaxis(memory, -2, 0) if has_steps else memory[None]
        axis = values.ndim - len(source_shape) - 1
        steps = None if mask is None else jnp.moveaxis(mask, -1, 0)
        return reader.unroll(params, None, jnp.moveaxis(values, axis, 0), mask=steps, key=key)[1]

    layer = composed(apply, parts=(decoder,), init=init, initial_carry=initial_carry)
    return dataclasses.replace(layer, condition=condition)


def _checked_source(
    who: str, context: Any, shape: tuple[int, ...], dtype: Any, whole: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Return values and mask of a source as arrays; raise unless they have the shapes of the encoder's inputs."""
    if whole and hasattr(context, "shape"):
        context = Source(context)
    if not isinstance(context, tuple | list) or len(context) != 2:
        raise TypeError(
            f"{who}: expected a context Source(values, mask), got {type(context).__name__}. Write "
            "Batch(xs, targets, context=Source(values, mask))."
        )
    values, mask = jnp.asarray(context[0]), None if context[1] is None else jnp.asarray(context[1])
    batch_ndim = values.ndim - len(shape) - (not whole)
    letters = ", ".join(("*B", *(() if whole else ("S",)), *map(str, shape)))
    integers = [jnp.issubdtype(d, jnp.integer) for d in (values.dtype, jnp.dtype(dtype))]
    if batch_ndim < 0 or values.shape[values.ndim - len(shape) :] != tuple(shape) or len(set(integers)) > 1:
        raise ValueError(
            f"{who}: expected values {jnp.dtype(dtype).name} [{letters}], got {values.dtype} {list(values.shape)}. "
            "Pass source_shape= and source_dtype= of one step of the source."
        )
    if mask is not None:
        wanted = (*values.shape[:batch_ndim], *mask.shape[-1:]) if whole else values.shape[: batch_ndim + 1]
        if mask.dtype != jnp.bool_ or mask.shape != wanted or mask.ndim != batch_ndim + 1:
            raise ValueError(
                f"{who}: expected a mask bool {list(wanted)}, as values {list(values.shape)}, got {mask.dtype} "
                f"{list(mask.shape)}."
            )
    return values, mask
