"""Other libraries: weights in and out, their cells as cells of seqjax, and layers of seqjax inside their modules.

No library but Flax is imported before a function needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seqjax.interop.cells import general_elman, general_gru, general_lstm
from seqjax.interop.common import Imported
from seqjax.interop.flax import FlaxModule, from_flax, to_flax
from seqjax.interop.foreign_cells import equinox_cell, flax_cell, haiku_cell
from seqjax.interop.keras import from_keras, keras_weights, to_keras
from seqjax.interop.linen_layer import LinenLayer
from seqjax.interop.nnx_out import to_nnx
from seqjax.interop.nonlinearities import Nonlinearity
from seqjax.interop.onnx import from_onnx
from seqjax.interop.onnx_out import to_onnx
from seqjax.interop.pytorch import from_torch, to_torch, torch_state_dict

if TYPE_CHECKING:
    from seqjax.interop import pretrained
    from seqjax.interop.nnx_layer import NnxLayer

__all__ = [
    "FlaxModule",
    "Imported",
    "LinenLayer",
    "NnxLayer",
    "Nonlinearity",
    "equinox_cell",
    "flax_cell",
    "from_flax",
    "from_keras",
    "from_onnx",
    "from_torch",
    "general_elman",
    "general_gru",
    "general_lstm",
    "haiku_cell",
    "keras_weights",
    "pretrained",
    "to_flax",
    "to_keras",
    "to_nnx",
    "to_onnx",
    "to_torch",
    "torch_state_dict",
]


def __getattr__(name: str) -> Any:
    """Import `NnxLayer`, and with it flax.nnx, or `pretrained` on first use."""
    if name == "NnxLayer":
        return import_module("seqjax.interop.nnx_layer").NnxLayer
    if name == "pretrained":
        return import_module("seqjax.interop.pretrained")
    raise AttributeError(f"module 'seqjax.interop' has no attribute {name!r}")
