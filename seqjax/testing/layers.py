"""The registry of layers: every public factory that returns a layer, with example arguments and an example input.

A new factory needs a line here: a test looks up every factory that `seqjax` and `seqjax.blocks` export. Both the
conformance suite and the test of layers on a mesh with a time axis run over the registry.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import seqjax.blocks as blocks
import seqjax.models as models
from seqjax.base import Layer, Method
from seqjax.blocks.delta import gated_delta_block, hybrid_delta
from seqjax.blocks.griffin import griffin, griffin_block
from seqjax.blocks.mamba import mamba_block, samba
from seqjax.blocks.stack import stack
from seqjax.blocks.transformer import feed_forward, transformer_block
from seqjax.blocks.xlstm import mlstm_block, slstm_block, xlstm
from seqjax.cells.elman import elman
from seqjax.cells.gru import gru
from seqjax.cells.lru import lru
from seqjax.cells.lstm import lstm
from seqjax.cells.qrnn import qrnn
from seqjax.combinators import (
    Binomial,
    Nested,
    batch_major,
    bidirectional,
    bptt_barrier,
    checkpointed,
    conditioned,
    dilated,
    encoder_decoder,
    frozen,
    learned_carry,
    normalized,
    parallel,
    repeat,
    reset_on,
    residual,
    reverse,
    serial,
    strided,
    variational_dropout,
    with_memory,
    zoneout,
)
from seqjax.layers.convolution import causal_conv, token_shift
from seqjax.layers.cross_attention import multiplicative_attention
from seqjax.layers.dropout import dropout
from seqjax.layers.normalization import running_normalization
from seqjax.layers.pointwise import pointwise
from seqjax.layers.pooling import running_mean
from seqjax.layers.recurrent import recurrent

X = np.zeros((3, 4))
WIDE = np.zeros((3, 6))
TOKENS = np.zeros(3, int)


class LayerEntry(NamedTuple):
    """One line of the registry.

    Attributes:
        factory: the factory of which the line is an example.
        make: ``(method) -> Layer``; the method runs the recurrences in the layer, where it has any.
        x: one time step, an example of the input.
        mixes_time: whether the layer itself needs all time steps on one device, apart from the recurrences that the
            method runs. Every other layer can be split over time if its method can.
        besides: names of the checks in the conformance suite that do not apply to the layer.
    """

    factory: Callable
    make: Callable[[Method], Layer]
    x: Any = X
    mixes_time: bool = False
    besides: tuple[str, ...] = ()


def tanh_twice(x: jax.Array) -> jax.Array:
    """A function for `pointwise`."""
    return jnp.tanh(2 * x)


def first_is_large(x: jax.Array) -> jax.Array:
    """A function for `reset_on`."""
    return x[..., 0] > 0.8


def _gate() -> Layer:
    return serial(pointwise(nn.Dense(4)), pointwise(jax.nn.sigmoid))


# A reset does not change the context, so that documents after the first read the context of the whole sequence.
_CONTEXT = ("resets_separate_packed_sequences",)
# A gradient truncated by a barrier is not the gradient of any function, so second derivatives have no reference.
_BARRIER = ("second_derivatives_work",)

# fmt: off
LAYERS: dict[str, LayerEntry] = {
    # ---- layers
    "recurrent": LayerEntry(recurrent, lambda m: recurrent(elman(3), m)),
    "pointwise": LayerEntry(pointwise, lambda m: pointwise(nn.Dense(3))),
    "flax dropout": LayerEntry(pointwise, lambda m: pointwise(nn.Dropout(0.5))),
    "dropout": LayerEntry(dropout, lambda m: serial(dropout(0.5), recurrent(elman(3), m), dropout(0.2))),
    "short convolution": LayerEntry(causal_conv, lambda m: causal_conv(4)),
    "short convolution of one step": LayerEntry(causal_conv, lambda m: causal_conv(1, bias=False)),
    "token shift": LayerEntry(
        token_shift, lambda m: serial(token_shift(num_outputs=2), recurrent(qrnn(3), m), token_shift())),
    "running normalization": LayerEntry(
        running_normalization, lambda m: running_normalization(epsilon=0.1), mixes_time=True),
    "running mean": LayerEntry(
        running_mean, lambda m: serial(running_mean(), recurrent(elman(3), m), running_mean()), mixes_time=True),
    "zoneout": LayerEntry(recurrent, lambda m: recurrent(zoneout(lstm(3), (0.3, 0.1)), m)),
    "zoneout diagonal": LayerEntry(recurrent, lambda m: recurrent(zoneout(lru(3), 0.3), m)),
    "learned carry": LayerEntry(recurrent, lambda m: recurrent(learned_carry(lstm(3)), m)),
    "learned carry diagonal": LayerEntry(recurrent, lambda m: recurrent(learned_carry(lru(3)), m)),
    "normalized": LayerEntry(recurrent, lambda m: recurrent(normalized(lstm(3)), m)),
    # ---- combinators
    "serial": LayerEntry(
        serial, lambda m: serial(pointwise(nn.Dense(4)), recurrent(lstm(4), m), pointwise(tanh_twice))),
    "tokens": LayerEntry(
        serial, lambda m: serial(pointwise(nn.Embed(2, 4)), recurrent(gru(3), m), pointwise(nn.Dense(2))), TOKENS),
    "residual": LayerEntry(
        residual, lambda m: residual(serial(pointwise(nn.LayerNorm()), recurrent(lru(4), m)))),
    "parallel": LayerEntry(parallel, lambda m: parallel(recurrent(elman(3), m), pointwise(tanh_twice))),
    "parallel gate": LayerEntry(
        parallel, lambda m: parallel(recurrent(elman(3), m), recurrent(lru(3), m), merge="gate")),
    "parallel tuple": LayerEntry(
        parallel, lambda m: serial(
            parallel(recurrent(gru(3), m), dropout(0.5), recurrent(lru(2), m), merge="tuple"),
            pointwise(jnp.concatenate))),
    "repeat": LayerEntry(
        repeat, lambda m: repeat(serial(recurrent(elman(4), m), dropout(0.3)), 2, remat=True)),
    "bidirectional": LayerEntry(bidirectional, lambda m: bidirectional(recurrent(gru(3), m)), mixes_time=True),
    "bidirectional sum": LayerEntry(
        bidirectional, lambda m: bidirectional(recurrent(lru(3), m), recurrent(lstm(3), m), merge="sum"),
        mixes_time=True),
    "reverse": LayerEntry(reverse, lambda m: reverse(recurrent(gru(3), m)), mixes_time=True),
    "strided": LayerEntry(strided, lambda m: strided(recurrent(elman(3), m), 2), mixes_time=True),
    "strided zero": LayerEntry(
        strided, lambda m: strided(recurrent(lru(3), m), 3, between="zero"), mixes_time=True),
    "dilated": LayerEntry(dilated, lambda m: dilated(recurrent(elman(3), m), 2), mixes_time=True),
    "checkpointed": LayerEntry(
        checkpointed, lambda m: checkpointed(residual(serial(recurrent(lstm(4), m), dropout(0.3))), every=4),
        mixes_time=True),
    "checkpointed nested": LayerEntry(
        checkpointed, lambda m: checkpointed(recurrent(elman(3), m), Nested(3)), mixes_time=True),
    "checkpointed binomial": LayerEntry(
        checkpointed, lambda m: checkpointed(
            strided(serial(recurrent(elman(3), m), dropout(0.3)), 2), Binomial(2, every=2)), mixes_time=True),
    "variational dropout": LayerEntry(
        variational_dropout,
        lambda m: variational_dropout(recurrent(variational_dropout(elman(3), 0.3)), 0.3), mixes_time=True),
    "frozen": LayerEntry(frozen, lambda m: frozen(recurrent(elman(3), m))),
    "reset_on": LayerEntry(reset_on, lambda m: reset_on(recurrent(elman(3), m), first_is_large)),
    "bptt_barrier": LayerEntry(
        bptt_barrier, lambda m: bptt_barrier(recurrent(elman(3), m), every=3), mixes_time=True, besides=_BARRIER),
    "batch_major": LayerEntry(batch_major, lambda m: batch_major(recurrent(elman(3), m)), mixes_time=True),
    "conditioned": LayerEntry(conditioned, lambda m: conditioned(recurrent(elman(3), m), 2), besides=_CONTEXT),
    "conditioned add": LayerEntry(
        conditioned, lambda m: conditioned(recurrent(elman(3), m), 2, merge="add"), besides=_CONTEXT),
    "with_memory": LayerEntry(
        with_memory, lambda m: with_memory(recurrent(elman(3), m), multiplicative_attention(), memory_size=2),
        besides=_CONTEXT),
    "with_memory feed": LayerEntry(
        with_memory, lambda m: with_memory(
            recurrent(elman(3), m), multiplicative_attention(), memory_size=2, feed=True),
        mixes_time=True, besides=_CONTEXT),
    "encoder_decoder": LayerEntry(
        encoder_decoder, lambda m: encoder_decoder(
            recurrent(gru(2)), conditioned(recurrent(elman(3), m), 2), source_shape=(2,), source_dtype="float32"),
        besides=_CONTEXT),
    # ---- blocks and stacks
    "gated": LayerEntry(blocks.gated, lambda m: blocks.gated(recurrent(lstm(4), m), _gate()), WIDE),
    "pre_norm": LayerEntry(blocks.pre_norm, lambda m: blocks.pre_norm(recurrent(lru(6), m), "layer"), WIDE),
    "feed_forward": LayerEntry(feed_forward, lambda m: feed_forward(6), WIDE),
    "feed_forward geglu": LayerEntry(feed_forward, lambda m: feed_forward(6, activation="geglu"), WIDE),
    "transformer_block": LayerEntry(
        transformer_block, lambda m: transformer_block(6, num_heads=3, num_groups=1, window=5, method=m), WIDE),
    "transformer_block as in gpt": LayerEntry(
        transformer_block, lambda m: transformer_block(
            6, num_heads=2, max_length=16, rotary_base=None, use_bias=True, activation="gelu", norm="layer",
            dropout_rate=0.1, method=m), WIDE),
    "griffin_block": LayerEntry(griffin_block, lambda m: griffin_block(6, num_blocks=2, method=m), WIDE),
    "mamba_block": LayerEntry(mamba_block, lambda m: mamba_block(6, state_size=3, method=m), WIDE),
    "mlstm_block": LayerEntry(mlstm_block, lambda m: mlstm_block(6, num_heads=2, method=m), WIDE),
    "slstm_block": LayerEntry(slstm_block, lambda m: slstm_block(6, num_heads=2, method=m), WIDE),
    "gated_delta_block": LayerEntry(
        gated_delta_block,
        lambda m: gated_delta_block(6, num_heads=2, negative_eigenvalues=True, method=m), WIDE),
    "stack": LayerEntry(
        stack, lambda m: stack(
            (recurrent(gru(4), m), recurrent(lru(4), m)), 3, dropout=0.3, norm="layer", residual=True)),
    "stack bidirectional": LayerEntry(
        stack, lambda m: stack(gru(2), 2, dropout=0.3, bidirectional=True, method=m), mixes_time=True),
    "griffin": LayerEntry(griffin, lambda m: griffin(6, 3, num_heads=3, window=4, method=m), WIDE),
    "samba": LayerEntry(samba, lambda m: samba(6, 1, num_heads=3, window=4, state_size=2, method=m), WIDE),
    "xlstm": LayerEntry(xlstm, lambda m: xlstm(6, 2, ratio=(1, 1), num_heads=2, method=m), WIDE),
    "hybrid_delta": LayerEntry(
        hybrid_delta, lambda m: hybrid_delta(6, 2, num_heads=3, window=4, method=m), WIDE),
    # ---- models
    "language_model": LayerEntry(
        models.language_model, lambda m: models.language_model(2, elman, hidden_size=3), TOKENS, mixes_time=True),
    "sequence_classifier": LayerEntry(
        models.sequence_classifier, lambda m: models.sequence_classifier(
            2, gru, hidden_size=4, bidirectional=False, dropout=0.2), mixes_time=True),
    "ctc_recognizer": LayerEntry(
        models.ctc_recognizer, lambda m: models.ctc_recognizer(3, gru, hidden_size=4), mixes_time=True),
    "forecaster": LayerEntry(
        models.forecaster, lambda m: models.forecaster(2, gru, horizon=3, hidden_size=4), mixes_time=True),
    "translator": LayerEntry(
        models.translator, lambda m: models.translator(2, 2, elman, hidden_size=4), TOKENS, mixes_time=True,
        besides=_CONTEXT),
    "captioner": LayerEntry(
        models.captioner, lambda m: models.captioner(2, elman, image_shape=(4, 4, 3), hidden_size=4), TOKENS,
        mixes_time=True, besides=_CONTEXT),
}
# fmt: on
