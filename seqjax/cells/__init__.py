"""The cells, one file per cell: the file, its factory and the package's export share one name. See `REGISTRY`."""

from seqjax.cells.antisymmetric_rnn import AntisymmetricCarry, AntisymmetricParams, antisymmetric_rnn
from seqjax.cells.attention import AttentionParams, attention
from seqjax.cells.cfc import CfCParams, cfc
from seqjax.cells.chrono_lstm import chrono_lstm
from seqjax.cells.clockwork import ClockworkCarry, ClockworkParams, clockwork
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
from seqjax.cells.registry import REGISTRY, Entry, image, timed, vector
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

register_namedtuples("seqjax.recurrences")  # the carries of matrix memories and of attention
register_namedtuples(__name__)
