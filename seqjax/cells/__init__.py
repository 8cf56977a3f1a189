"""The cells: one file per family, one factory per cell. `REGISTRY` lists them all."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.attention import AttentionParams, attention
from seqjax.cells.elman import ElmanCarry, ElmanParams, elman
from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.lru import LRUParams, lru
from seqjax.cells.lstm import LSTMCarry, LSTMParams, lstm


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
    # ---- Attention
    "attention": Entry(
        partial(attention, num_heads=4, key_size=8, max_length=64),
        "one softmax weight at any lag: shared out over the steps, without a product over time",
    ),
    "multi_query_attention": Entry(
        partial(attention, num_heads=4, num_groups=1, key_size=8, max_length=64, rotary_base=None, use_bias=True),
        "as attention",
    ),
    "sliding_window_attention": Entry(
        partial(attention, num_heads=4, num_groups=2, key_size=8, window=8, qk_norm=True),
        "as attention inside the window, exactly zero beyond it",
    ),
}
# fmt: on
