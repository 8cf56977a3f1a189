"""The cells, one file per cell: the file, its factory and the package's export share one name. See `REGISTRY`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.antisymmetric_rnn import AntisymmetricCarry, AntisymmetricParams, antisymmetric_rnn
from seqjax.cells.attention import AttentionParams, attention
from seqjax.cells.cfc import CfCParams, cfc
from seqjax.cells.chrono_lstm import chrono_lstm
from seqjax.cells.clockwork import ClockworkCarry, ClockworkParams, clockwork
from seqjax.cells.common.heads import two_heads
from seqjax.cells.common.timed import ContinuousTimeCarry, TimedInputs
from seqjax.cells.conv_lstm import ConvLSTMCarry, ConvLSTMParams, conv_lstm
from seqjax.cells.cornn import CoRNNCarry, CoRNNParams, cornn
from seqjax.cells.coupled_lstm import CoupledLSTMParams, coupled_lstm
from seqjax.cells.delta_net import DeltaNetParams, delta_net
from seqjax.cells.echo_state import EchoStateCarry, EchoStateParams, echo_state
from seqjax.cells.elman import ElmanCarry, ElmanParams, elman
from seqjax.cells.gated_delta_net import GatedDeltaNetParams, gated_delta_net
from seqjax.cells.gla import GLAParams, gla
from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.hgrn import HGRNParams, hgrn
from seqjax.cells.indrnn import IndRNNParams, indrnn
from seqjax.cells.irnn import irnn
from seqjax.cells.layer_norm_lstm import LayerNormLSTMParams, layer_norm_lstm
from seqjax.cells.lem import LEMCarry, LEMParams, lem
from seqjax.cells.linear_attention import LinearAttentionParams, linear_attention
from seqjax.cells.lru import LRUParams, lru
from seqjax.cells.lstm import LSTMCarry, LSTMParams, lstm
from seqjax.cells.ltc import LTCParams, ltc
from seqjax.cells.mamba import MambaParams, mamba
from seqjax.cells.mgu import MGUCarry, MGUParams, mgu
from seqjax.cells.min_gru import MinGRUParams, min_gru
from seqjax.cells.min_lstm import MinLSTMParams, min_lstm
from seqjax.cells.mlstm import MLSTMParams, mlstm
from seqjax.cells.orthogonal_rnn import OrthogonalCarry, OrthogonalParams, orthogonal_rnn
from seqjax.cells.para_gru import ParaGRUCarry, ParaGRUParams, para_gru
from seqjax.cells.para_lstm import ParaLSTMCarry, ParaLSTMParams, para_lstm
from seqjax.cells.peephole_lstm import PeepholeLSTMParams, peephole_lstm
from seqjax.cells.projection_lstm import ProjectionLSTMParams, projection_lstm
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
from seqjax.cells.ugrnn import UGRNNCarry, UGRNNParams, ugrnn
from seqjax.cells.ur_lstm import URLSTMParams, ur_lstm
from seqjax.serialization import register_namedtuples


def vector(lead: tuple[int, ...], width: int) -> jax.Array:
    """Return an input of most cells: zeros ``[*lead, width]``."""
    return jnp.zeros((*lead, width))


def timed(lead: tuple[int, ...], width: int) -> TimedInputs:
    """Return an input of continuous-time cells: zeros ``[*lead, width]`` and ``[*lead]``."""
    return TimedInputs(jnp.zeros((*lead, width)), jnp.zeros(lead))


def image(lead: tuple[int, ...], width: int) -> jax.Array:
    """Return an input of convolutional cells: zeros ``[*lead, 3, 2, width]``, an image of 3 x 2."""
    return jnp.zeros((*lead, 3, 2, width))


class Entry(NamedTuple):
    """One entry of the registry.

    Attributes:
        make: ``hidden_size -> Cell``.
        gradients: how gradients behave, in one sentence.
        example: ``(lead, width) -> x``, zeros in the structure of the inputs, with the leading axes ``lead`` and about
            ``width`` numbers per step.
    """

    make: Callable[[int], Cell]
    gradients: str
    example: Callable[[tuple[int, ...], int], Any] = vector


REGISTRY: dict[str, Entry] = {
    # ---- Gated, Step
    "elman": Entry(
        elman, "Gradients vanish or explode exponentially, at a rate set by W_h and the slopes of tanh."
    ),
    "elman_relu": Entry(partial(elman, activation="relu"), "As for elman, with slopes of exactly 0 or 1."),
    "elman_identity": Entry(
        partial(elman, activation="identity"), "The Jacobian over a lag is a power of W_h, for all inputs."
    ),
    "lstm": Entry(lstm, "Along c the Jacobian is the product of the forget gates, without a matrix."),
    "gru": Entry(
        gru,
        "Along h the direct path is the product of the update gates z; a second path leads through the candidate.",
    ),
    "gru_reset_before": Entry(partial(gru, reset_after=False), "As for gru."),
    "irnn": Entry(
        irnn,
        "At initialization the Jacobian is the identity on active units; in training it is as for elman_relu.",
    ),
    "indrnn": Entry(
        indrnn, "Per unit the Jacobian is a power of one recurrent weight, times slopes of 0 or 1."
    ),
    "indrnn_tanh": Entry(
        partial(indrnn, activation="tanh"),
        "Per unit the Jacobian is a power of one recurrent weight, times slopes of tanh.",
    ),
    "chrono_lstm": Entry(
        chrono_lstm, "As for lstm; e-folding lengths start uniform between 1 and t_max steps."
    ),
    "peephole_lstm": Entry(
        peephole_lstm, "As for lstm, plus an elementwise term, since the gates read c through the peepholes."
    ),
    "coupled_lstm": Entry(coupled_lstm, "Along c the Jacobian is the product of 1 - i; |c| stays below 1."),
    "projection_lstm": Entry(
        projection_lstm, "Along c as for lstm; the path through h has at most the rank of the projection."
    ),
    "layer_norm_lstm": Entry(
        layer_norm_lstm, "Along c as for lstm; the path through h does not depend on the scale of W_h."
    ),
    "ur_lstm": Entry(
        ur_lstm,
        "Along c the Jacobian is the product of refined gates; time scales reach the square of the forget gate's.",
    ),
    "mgu": Entry(
        mgu,
        "Along h the direct path is the product of 1 - f; f multiplies the path through the candidate twice.",
    ),
    "mgu_reset_after": Entry(partial(mgu, reset_after=True), "As for mgu."),
    "ugrnn": Entry(
        ugrnn,
        "Along h the direct path is the product of the gates g; the path of an elman network is times 1 - g.",
    ),
    "orthogonal_rnn": Entry(
        orthogonal_rnn, "W_h is exactly orthogonal and preserves norms; the slopes of modrelu are 1 or 0."
    ),
    "antisymmetric_rnn": Entry(
        antisymmetric_rnn,
        "A step is an Euler step of a differential equation that neither shrinks nor amplifies gradients.",
    ),
    "antisymmetric_rnn_gated": Entry(
        partial(antisymmetric_rnn, gated=True), "As for antisymmetric_rnn where the gate z is open."
    ),
    "cornn": Entry(
        cornn,
        "A step is a small step of damped oscillators; gradients stay bounded over T steps of size 1/T.",
    ),
    "lem": Entry(lem, "Along z and y the Jacobian is the product of 1 - Delta_t, without a matrix."),
    "slstm": Entry(
        two_heads(slstm),
        "Along c the Jacobian is the product of the forget gates, divided by the normalizer.",
    ),
    "para_gru": Entry(
        para_gru, "The Jacobian is diagonal: 1 - z plus the paths through the gates of the same unit."
    ),
    "para_lstm": Entry(
        para_lstm,
        "The Jacobian has one 2 x 2 block per unit; along c it is the forget gate plus its peephole term.",
    ),
    "cfc": Entry(cfc, "All paths lead through W_h, without an additive path; as for elman.", timed),
    "ltc": Entry(
        ltc, "Along h the direct path is the product of (1 + dt (1/tau + f))^-1, which falls with dt.", timed
    ),
    "conv_lstm": Entry(
        partial(conv_lstm, peepholes=True),
        "Along c as for lstm, pixel by pixel; along h gradients spread to neighboring pixels.",
        image,
    ),
    "echo_state": Entry(
        echo_state,
        "The params have no gradient; along h the Jacobian is 1 - leak plus leak times the reservoir's.",
    ),
    "clockwork": Entry(
        partial(clockwork, periods=(1, 2, 4)),
        "A module of period T behaves as elman at every T-th step, and passes gradients unchanged in between.",
    ),
    # ---- Diagonal
    "lru": Entry(
        lru,
        "The Jacobian is exactly lambda^lag, |lambda| < 1, and never explodes; over the default ring a power law.",
    ),
    "s4d": Entry(
        partial(s4d, state_size=16),
        "The Jacobian is exactly A_bar^lag, |A_bar| < 1; time scales start at 20 to 2000 steps.",
    ),
    "s4d_bilinear": Entry(
        partial(s4d, state_size=16, initialization="inv", discretization="bilinear"), "As for s4d."
    ),
    "s5": Entry(s5, "As for s4d."),
    "mamba": Entry(
        mamba,
        "The Jacobian is the exponential of A times the sum of the step sizes, which the input sets; below 1.",
    ),
    "rg_lru": Entry(
        rg_lru,
        "The Jacobian is the product of the decays a_t, below 1, and near 1 where the recurrence gate closes.",
    ),
    "min_gru": Entry(
        min_gru, "The Jacobian is the product of 1 - z, below 1; the gates depend on the input alone."
    ),
    "min_lstm": Entry(
        min_lstm, "The Jacobian is the product of f / (f + i), below 1; the gates depend on the input alone."
    ),
    "qrnn": Entry(
        qrnn, "Along c the Jacobian is the product of the forget gates, which depend on the input alone."
    ),
    "qrnn_ifo": Entry(partial(qrnn, pooling="ifo"), "As for qrnn."),
    "sru": Entry(
        sru,
        "Along c the Jacobian is the product of the forget gates of the input; a highway bypasses the recurrence.",
    ),
    "sru_peepholes": Entry(
        partial(sru, peepholes=True), "As for sru, plus the path through the gates, which read c."
    ),
    "hgrn": Entry(
        partial(hgrn, lower_bound=0.5),
        "The modulus of the Jacobian is the product of the forget gates, at least lower_bound^lag.",
    ),
    "rtu": Entry(
        rtu,
        "The Jacobian is exactly r^lag times a rotation, r < 1, and never explodes; over the default ring a power law.",
    ),
    "rtu_nonlinear": Entry(
        partial(rtu, nonlinear=True, activation="tanh"), "As for rtu, times slopes of tanh."
    ),
    # ---- Matrix
    "linear_attention": Entry(
        two_heads(linear_attention),
        "Along S the Jacobian is the identity; one step has weight 1/T in output T.",
    ),
    "retention": Entry(
        two_heads(retention),
        "The Jacobian is exactly gamma^lag, with a fixed gamma per head, 31/32 for the first.",
    ),
    "gla": Entry(
        two_heads(gla), "Per key dimension the Jacobian is the product of the decays, which the input sets."
    ),
    "mlstm": Entry(
        two_heads(mlstm),
        "Along C the Jacobian is the product of the forget gates; a large input gate outweighs earlier steps.",
    ),
    "ssd": Entry(
        two_heads(ssd), "Per head the Jacobian is the product of the decays exp(A dt), which the input sets."
    ),
    "delta_net": Entry(
        two_heads(delta_net),
        "One step's Jacobian is 1 - beta along the written key and 1 across it, and never explodes.",
    ),
    "gated_delta_net": Entry(two_heads(gated_delta_net), "As for delta_net, times the decay alpha."),
    "rwkv7": Entry(
        two_heads(rwkv7, rank=8, gate_rank=8),
        "One step's Jacobian is diag(w), w in (0.545, 1), minus an outer product of removal keys.",
    ),
    # ---- Attention
    "attention": Entry(
        partial(attention, num_heads=4, key_size=8, max_length=64),
        "One softmax weight connects two steps at any lag, without a product over time.",
    ),
    "multi_query_attention": Entry(
        partial(
            attention, num_heads=4, num_groups=1, key_size=8, max_length=64, rotary_base=None, use_bias=True
        ),
        "As for attention.",
    ),
    "sliding_window_attention": Entry(
        partial(attention, num_heads=4, num_groups=2, key_size=8, window=8, qk_norm=True),
        "As for attention inside the window, exactly zero beyond it.",
    ),
}
"""Every registered cell by its name, with what reports and tests need to know about it."""


register_namedtuples("seqjax.recurrences")  # the carries of matrix memories and of attention
register_namedtuples(__name__)

__all__ = [
    "AntisymmetricCarry", "AntisymmetricParams", "AttentionParams", "CfCParams", "ClockworkCarry",
    "ClockworkParams", "CoRNNCarry", "CoRNNParams", "ContinuousTimeCarry", "ConvLSTMCarry",
    "ConvLSTMParams", "CoupledLSTMParams", "DeltaNetParams", "EchoStateCarry", "EchoStateParams",
    "ElmanCarry", "ElmanParams", "Entry", "GLAParams", "GRUCarry", "GRUParams", "GatedDeltaNetParams",
    "HGRNParams", "IndRNNParams", "LEMCarry", "LEMParams", "LRUParams", "LSTMCarry", "LSTMParams",
    "LTCParams", "LayerNormLSTMParams", "LinearAttentionParams", "MGUCarry", "MGUParams", "MLSTMParams",
    "MambaParams", "MinGRUParams", "MinLSTMParams", "OrthogonalCarry", "OrthogonalParams", "ParaGRUCarry",
    "ParaGRUParams", "ParaLSTMCarry", "ParaLSTMParams", "PeepholeLSTMParams", "ProjectionLSTMParams",
    "QRNNParams", "REGISTRY", "RGLRUParams", "RTUParams", "RWKV7Params", "RetentionParams", "S4DParams",
    "S5Params", "SLSTMCarry", "SLSTMParams", "SRUParams", "SSDParams", "TimedInputs", "UGRNNCarry",
    "UGRNNParams", "URLSTMParams", "antisymmetric_rnn", "attention", "cfc", "chrono_lstm", "clockwork",
    "conv_lstm", "cornn", "coupled_lstm", "delta_net", "echo_state", "elman", "gated_delta_net", "gla",
    "gru", "hgrn", "indrnn", "irnn", "layer_norm_lstm", "lem", "linear_attention", "lru", "lstm", "ltc",
    "mamba", "mgu", "min_gru", "min_lstm", "mlstm", "orthogonal_rnn", "para_gru", "para_lstm",
    "peephole_lstm", "projection_lstm", "qrnn", "retention", "rg_lru", "rtu", "rwkv7", "s4d", "s5",
    "slstm", "sru", "ssd", "two_heads", "ugrnn", "ur_lstm",
]  # fmt: skip
