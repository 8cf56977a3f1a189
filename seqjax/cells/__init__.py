"""The cells: one file per family, one factory per cell. `REGISTRY` lists them all."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.delta_net import DeltaNetParams, GatedDeltaNetParams, delta_net, gated_delta_net
from seqjax.cells.elman import ElmanCarry, ElmanParams, elman
from seqjax.cells.gla import GLAParams, gla
from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.heads import two_heads
from seqjax.cells.linear_attention import LinearAttentionParams, linear_attention
from seqjax.cells.lru import LRUParams, lru
from seqjax.cells.lstm import LSTMCarry, LSTMParams, lstm
from seqjax.cells.mlstm import MLSTMParams, mlstm
from seqjax.cells.retention import RetentionParams, retention
from seqjax.cells.rwkv7 import RWKV7Params, rwkv7
from seqjax.cells.ssd import SSDParams, ssd


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
    # ---- Matrix
    "linear_attention": Entry(two_heads(linear_attention), "along S the identity; one step weighs 1/T in output T"),
    "retention": Entry(two_heads(retention), "exactly gamma^lag with a fixed gamma per head, 31/32 for the first"),
    "gla": Entry(two_heads(gla), "key by key the product of the decays, which the input sets"),
    "mlstm": Entry(two_heads(mlstm), "along C the product of the forget gates; a large input gate outweighs the past"),
    "ssd": Entry(two_heads(ssd), "per head the product of the decays exp(A dt), which the input sets"),
    "delta_net": Entry(two_heads(delta_net), "1 - beta along each key that is written, 1 across: never explode"),
    "gated_delta_net": Entry(two_heads(gated_delta_net), "as delta_net, times the decay alpha"),
    "rwkv7": Entry(two_heads(rwkv7, rank=8, gate_rank=8), "diag(w), w in (0.545, 1), less a product of removal keys"),
    # ---- Attention
}
# fmt: on
