"""seqjax: functional sequence modeling in JAX. Cells are pure functions scanned over time; gradients are measured."""

from seqjax import blocks, datasets, probes
from seqjax.base import (
    Activation,
    Attention,
    AttentionInputs,
    Batch,
    Cell,
    Dense,
    Diagonal,
    DiagonalInputs,
    Estimate,
    Estimator,
    Flags,
    Gated,
    GatedWeights,
    Layer,
    Matrix,
    MatrixInputs,
    Method,
    Step,
)
from seqjax.blocks.delta import gated_delta_block, hybrid_delta
from seqjax.blocks.griffin import griffin, griffin_block
from seqjax.blocks.mamba import mamba_block, samba
from seqjax.blocks.transformer import feed_forward, transformer_block
from seqjax.blocks.xlstm import mlstm_block, slstm_block, xlstm
from seqjax.cells import REGISTRY
from seqjax.cells.antisymmetric_rnn import antisymmetric_rnn
from seqjax.cells.attention import attention
from seqjax.cells.cfc import cfc
from seqjax.cells.chrono_lstm import chrono_lstm
from seqjax.cells.clockwork import clockwork
from seqjax.cells.common.timed import TimedInputs
from seqjax.cells.conv_lstm import conv_lstm
from seqjax.cells.cornn import cornn
from seqjax.cells.coupled_lstm import coupled_lstm
from seqjax.cells.delta_net import delta_net
from seqjax.cells.echo_state import echo_state
from seqjax.cells.elman import elman
from seqjax.cells.gated_delta_net import gated_delta_net
from seqjax.cells.gla import gla
from seqjax.cells.gru import gru
from seqjax.cells.hgrn import hgrn
from seqjax.cells.indrnn import indrnn
from seqjax.cells.irnn import irnn
from seqjax.cells.layer_norm_lstm import layer_norm_lstm
from seqjax.cells.lem import lem
from seqjax.cells.linear_attention import linear_attention
from seqjax.cells.lru import lru
from seqjax.cells.lstm import lstm
from seqjax.cells.ltc import ltc
from seqjax.cells.mamba import mamba
from seqjax.cells.mgu import mgu
from seqjax.cells.min_gru import min_gru
from seqjax.cells.min_lstm import min_lstm
from seqjax.cells.mlstm import mlstm
from seqjax.cells.orthogonal_rnn import orthogonal_rnn
from seqjax.cells.para_gru import para_gru
from seqjax.cells.para_lstm import para_lstm
from seqjax.cells.peephole_lstm import peephole_lstm
from seqjax.cells.projection_lstm import projection_lstm
from seqjax.cells.qrnn import qrnn
from seqjax.cells.retention import retention
from seqjax.cells.rg_lru import rg_lru
from seqjax.cells.rtu import rtu
from seqjax.cells.rwkv7 import rwkv7
from seqjax.cells.s4d import s4d
from seqjax.cells.s5 import s5
from seqjax.cells.slstm import slstm
from seqjax.cells.sru import sru
from seqjax.cells.ssd import ssd
from seqjax.cells.ugrnn import ugrnn
from seqjax.cells.ur_lstm import ur_lstm
from seqjax.combinators import (
    Binomial,
    Nested,
    batch_major,
    bidirectional,
    bptt_barrier,
    checkpointed,
    conditioned,
    dilated,
    frozen,
    normalized,
    parallel,
    repeat,
    reset_on,
    residual,
    reverse,
    serial,
    set_context,
    set_memory,
    strided,
    variational_dropout,
    with_memory,
    zoneout,
)
from seqjax.decode import Sampler, beam_search, categorical, generate, greedy
from seqjax.gradients import (
    eprop,
    full_bptt,
    kf_rtrl,
    randomized_truncated_bptt,
    reversible,
    rflo,
    rtrl,
    snap,
    truncated_bptt,
    uoro,
)
from seqjax.layers.convolution import causal_conv, token_shift
from seqjax.layers.cross_attention import additive_attention, multiplicative_attention, scaled_dot_attention
from seqjax.layers.dropout import dropout
from seqjax.layers.normalization import running_normalization
from seqjax.layers.pointwise import pointwise
from seqjax.layers.pooling import last, lengths_to_mask, mean_pool, running_mean
from seqjax.layers.recurrent import recurrent
from seqjax.methods import AssociativeScan, Auto, Chunked, Newton, NewtonReport, Scan, TimeSharded
from seqjax.values import definition

__version__ = "0.1.0"
