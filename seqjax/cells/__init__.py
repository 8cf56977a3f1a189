"""The cells: one file per family, one factory per cell. `REGISTRY` lists them all."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.antisymmetric import AntisymmetricCarry, AntisymmetricParams, antisymmetric_rnn
from seqjax.cells.attention import AttentionParams, attention
from seqjax.cells.clockwork import ClockworkCarry, ClockworkParams, clockwork
from seqjax.cells.continuous_time import CfCParams, ContinuousTimeCarry, LTCParams, TimedInputs, cfc, ltc
from seqjax.cells.conv_lstm import ConvLSTMCarry, ConvLSTMParams, conv_lstm
from seqjax.cells.delta_net import DeltaNetParams, GatedDeltaNetParams, delta_net, gated_delta_net
from seqjax.cells.echo_state import EchoStateCarry, EchoStateParams, echo_state
from seqjax.cells.elman import ElmanCarry, ElmanParams, IndRNNParams, elman, indrnn, irnn
from seqjax.cells.gla import GLAParams, gla
from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.heads import two_heads
from seqjax.cells.hgrn import HGRNParams, hgrn
from seqjax.cells.linear_attention import LinearAttentionParams, linear_attention
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
from seqjax.cells.lstm_step import LayerNormLSTMParams, ProjectionLSTMParams, layer_norm_lstm, projection_lstm
from seqjax.cells.mamba import MambaParams, mamba
from seqjax.cells.minimal import MinGRUParams, MinLSTMParams, min_gru, min_lstm
from seqjax.cells.mlstm import MLSTMParams, mlstm
from seqjax.cells.one_gate import MGUCarry, MGUParams, UGRNNCarry, UGRNNParams, mgu, ugrnn
from seqjax.cells.orthogonal import OrthogonalCarry, OrthogonalParams, orthogonal_rnn
from seqjax.cells.oscillators import CoRNNCarry, CoRNNParams, LEMCarry, LEMParams, cornn, lem
from seqjax.cells.para import ParaGRUCarry, ParaGRUParams, ParaLSTMCarry, ParaLSTMParams, para_gru, para_lstm
from seqjax.cells.qrnn import QRNNParams, qrnn
from seqjax.cells.retention import RetentionParams, retention
from seqjax.cells.rg_lru import RGLRUParams, rg_lru
from seqjax.cells.rtu import RTUParams, rtu
from seqjax.cells.rwkv7 import RWKV7Params, rwkv7
from seqjax.cells.s4d import S4DParams, s4d
from seqjax.cells.s5 import S5Params, s5
from seqjax.cells.slstm import SLSTMCarry, SLSTMParams, slstm
from seqjax.cells.sru import SRUParams, sru
from seqjax.cells.ssd import SSDParams, ssd


def vector(lead: tuple[int, ...], width: int) -> jax.Array:
    """The input of most cells: zeros ``[*lead, width]``."""
    return jnp.zeros((*lead, width))


def timed(lead: tuple[int, ...], width: int) -> TimedInputs:
    """The input of cells in continuous time: zeros ``[*lead, width]`` and ``[*lead]``."""
    return TimedInputs(jnp.zeros((*lead, width)), jnp.zeros(lead))


def image(lead: tuple[int, ...], width: int) -> jax.Array:
    """The input of convolutional cells: zeros ``[*lead, 3, 2, width]``, an image of 3 x 2."""
    return jnp.zeros((*lead, 3, 2, width))


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
    "orthogonal_rnn": Entry(orthogonal_rnn, "kept in norm by W_h, exactly orthogonal; slopes of modrelu are 1 or 0"),
    "antisymmetric_rnn": Entry(antisymmetric_rnn, "an Euler step of an equation that neither loses nor amplifies them"),
    "antisymmetric_rnn_gated": Entry(partial(antisymmetric_rnn, gated=True), "as antisymmetric_rnn, where z is open"),
    "cornn": Entry(cornn, "damped oscillators in small steps: bounded over T steps of size 1/T"),
    "lem": Entry(lem, "along z and y the product of 1 - Delta_t, without a matrix"),
    "slstm": Entry(two_heads(slstm), "along c the product of the forget gates, as a share of a weighted mean"),
    "para_gru": Entry(para_gru, "a diagonal Jacobian: every unit by itself, 1 - z plus the paths through its gates"),
    "para_lstm": Entry(para_lstm, "a 2 x 2 Jacobian per unit; along c the forget gate and its peephole"),
    "cfc": Entry(cfc, "through W_h alone, without an additive path: as elman", timed),
    "ltc": Entry(ltc, "along h the product of (1 + dt (1/tau + f))^-1, the less the longer the elapsed time", timed),
    "conv_lstm": Entry(partial(conv_lstm, peepholes=True), "as lstm, pixel by pixel; through h they spread", image),
    "echo_state": Entry(echo_state, "none by the params; along h (1 - leak) plus leak times the reservoir's"),
    "clockwork": Entry(partial(clockwork, periods=(1, 2, 4)), "in a module of period T as elman, at every T-th step"),
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
    "linear_attention": Entry(two_heads(linear_attention), "along S the identity; one step weighs 1/T in output T"),
    "retention": Entry(two_heads(retention), "exactly gamma^lag with a fixed gamma per head, 31/32 for the first"),
    "gla": Entry(two_heads(gla), "key by key the product of the decays, which the input sets"),
    "mlstm": Entry(two_heads(mlstm), "along C the product of the forget gates; a large input gate outweighs the past"),
    "ssd": Entry(two_heads(ssd), "per head the product of the decays exp(A dt), which the input sets"),
    "delta_net": Entry(two_heads(delta_net), "1 - beta along each key that is written, 1 across: never explode"),
    "gated_delta_net": Entry(two_heads(gated_delta_net), "as delta_net, times the decay alpha"),
    "rwkv7": Entry(two_heads(rwkv7, rank=8, gate_rank=8), "diag(w), w in (0.545, 1), less a product of removal keys"),
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
