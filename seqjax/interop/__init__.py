"""Other libraries: weights in and out, their cells as cells of seqjax, and layers of seqjax inside their modules.

No library is imported before a function needs it.
"""

from seqjax.interop.cells import general_elman, general_gru, general_lstm
from seqjax.interop.common import Imported
from seqjax.interop.flax import FlaxModule, from_flax, to_flax
from seqjax.interop.keras import from_keras, keras_weights, to_keras
from seqjax.interop.nonlinearities import Nonlinearity
from seqjax.interop.onnx import from_onnx
from seqjax.interop.onnx_out import to_onnx
from seqjax.interop.pytorch import from_torch, to_torch, torch_state_dict
