"""The cells: one file per family, one factory per cell. `REGISTRY` lists them all."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.elman import ElmanCarry, ElmanParams, IndRNNParams, elman, indrnn, irnn
from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.lru import LRUParams, lru
from seqjax.cells.lstm import LSTMCarry, LSTMParams, chrono_lstm, lstm
from seqjax.cells.lstm_gates import (
    CoupledLSTMParams,
    PeepholeLSTMParams,
    URLSTMParams,
    coupled_lstm,
    peephole_lstm,
    ur_lstm,
)
from seqjax.cells.lstm_step import (
    LayerNormLSTMParams,
    ProjectionLSTMParams,
    layer_norm_lstm,
    projection_lstm,
)
from seqjax.cells.one_gate import MGUCarry, MGUParams, UGRNNCarry, UGRNNParams, mgu, ugrnn


def vector(lead: tuple[int, ...], width: int) -> jax.Array:
    """The input of most cells: zeros ``[*lead, width]``."""
    return jnp.zeros((*lead, width))


class Entry(NamedTuple):
    """One line of the registry.

    ``make(hidden_size) -> Cell``; how its gradients behave, in one sentence; ``example(lead, width) -> x``: zeros in
    the form of its inputs, with the leading axes ``lead`` and about ``width`` numbers per step.
    """

    make: Callable[[int], Cell]
    gradients: str
    example: Callable[[tuple[int, ...], int], Any] = vector


# fmt: off
REGISTRY: dict[str, Entry] = {
    # ---- Gated, Step
    "elman": Entry(elman, "vanish or explode exponentially, by the singular values of W_h and the slopes of tanh"),
    "elman_relu": Entry(partial(elman, activation="relu"), "as elman, with slopes of exactly 0 or 1"),
    "elman_identity": Entry(partial(elman, activation="identity"), "the powers of W_h, whatever the input"),
    "lstm": Entry(lstm, "along c the product of the forget gates, without a matrix"),
    "gru": Entry(gru, "along h the product of the update gates z, plus the path through the candidate"),
    "gru_reset_before": Entry(partial(gru, reset_after=False), "as gru"),
    "irnn": Entry(irnn, "at the start the identity on active units; in training as elman_relu"),
    "indrnn": Entry(indrnn, "unit by unit the powers of its own weight, times slopes of 0 or 1"),
    "indrnn_tanh": Entry(partial(indrnn, activation="tanh"), "unit by unit the powers of its own weight, times slopes"),
    "chrono_lstm": Entry(chrono_lstm, "as lstm, with e-folding lengths uniform from 1 to t_max steps at the start"),
    "peephole_lstm": Entry(peephole_lstm, "as lstm, plus the gates' own dependence on c, without a matrix"),
    "coupled_lstm": Entry(coupled_lstm, "along c the product of 1 - i; c cannot grow beyond 1"),
    "projection_lstm": Entry(projection_lstm, "along c as lstm; the path through h has the rank of the projection"),
    "layer_norm_lstm": Entry(layer_norm_lstm, "along c as lstm; the path through h is free of the scale of W_h"),
    "ur_lstm": Entry(ur_lstm, "along c the product of refined gates: time scales up to the square of the gate's"),
    "mgu": Entry(mgu, "along h the product of 1 - f, plus the path through the candidate, shut by f twice"),
    "mgu_reset_after": Entry(partial(mgu, reset_after=True), "as mgu"),
    "ugrnn": Entry(ugrnn, "along h the product of the gates g, plus that of an elman network times 1 - g"),
    # ---- Diagonal
    "lru": Entry(lru, "exactly lambda^lag, |lambda| < 1: never explode; over the default ring a power law"),
    # ---- Matrix
    # ---- Attention
}
# fmt: on
