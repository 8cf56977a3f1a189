"""The cells: one file per family, one factory per cell. `REGISTRY` lists them all."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.elman import ElmanCarry, ElmanParams, elman
from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.hgrn import HGRNParams, hgrn
from seqjax.cells.lru import LRUParams, lru
from seqjax.cells.lstm import LSTMCarry, LSTMParams, lstm
from seqjax.cells.mamba import MambaParams, mamba
from seqjax.cells.minimal import MinGRUParams, MinLSTMParams, min_gru, min_lstm
from seqjax.cells.qrnn import QRNNParams, qrnn
from seqjax.cells.rg_lru import RGLRUParams, rg_lru
from seqjax.cells.rtu import RTUParams, rtu
from seqjax.cells.s4d import S4DParams, s4d
from seqjax.cells.s5 import S5Params, s5
from seqjax.cells.sru import SRUParams, sru


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
    # ---- Diagonal
    "lru": Entry(lru, "exactly lambda^lag, |lambda| < 1: never explode; over the default ring a power law"),
    "s4d": Entry(partial(s4d, state_size=16), "exactly A_bar^lag, |A_bar| < 1: scales of 20 to 2000 steps"),
    "s4d_bilinear": Entry(partial(s4d, state_size=16, initialisation="inv", discretisation="bilinear"), "as s4d"),
    "s5": Entry(s5, "as s4d"),
    "mamba": Entry(mamba, "the exponential of A times the sum of the steps, which the input sets: below 1"),
    "rg_lru": Entry(rg_lru, "the product of the decays a_t: below 1, near 1 where the recurrence gate shuts"),
    "min_gru": Entry(min_gru, "the product of 1 - z, gates of the input alone: below 1"),
    "min_lstm": Entry(min_lstm, "the product of f / (f + i), gates of the input alone: below 1"),
    "qrnn": Entry(qrnn, "along c the product of the forget gates, which read the input alone"),
    "qrnn_ifo": Entry(partial(qrnn, pooling="ifo"), "as qrnn"),
    "sru": Entry(sru, "along c the product of the forget gates, which read the input alone; a highway past it"),
    "sru_peepholes": Entry(partial(sru, peepholes=True), "as sru, plus the path through the gates, which read c"),
    "hgrn": Entry(partial(hgrn, lower_bound=0.5), "the product of the forget gates, not below bound^lag"),
    "rtu": Entry(rtu, "exactly r^lag and a rotation, r < 1: never explode; over the default ring a power law"),
    "rtu_nonlinear": Entry(partial(rtu, nonlinear=True, activation="tanh"), "as rtu, times slopes of tanh"),
    # ---- Matrix
    # ---- Attention
}
# fmt: on
