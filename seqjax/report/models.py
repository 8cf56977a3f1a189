"""The models of a study by name: a registered cell, or one's own as ``file.py:function``; and the maps around them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from seqjax.base import Layer, Method
from seqjax.cells import REGISTRY
from seqjax.combinators import serial
from seqjax.layers import pointwise, recurrent
from seqjax.tasks import Task


def recurrent_layer(name: str, width: int, method: Method) -> Layer:
    """The layer of that name, from vectors to vectors of the same width."""
    return recurrent(REGISTRY[name].make(width), method)


def make_model(name: str, width: int, method: Method, dtype: Any, task: Task) -> Layer:
    """Input map, one recurrent layer, output map."""
    dtype = jnp.dtype(dtype)
    param_dtype = jnp.float64 if dtype == jnp.float64 else jnp.float32
    inputs: Any = nn.Dense(width, dtype=dtype, param_dtype=param_dtype)
    if task.num_inputs is not None:
        inputs = nn.Embed(task.num_inputs, width, dtype=dtype, param_dtype=param_dtype)
    outputs = nn.Dense(task.num_outputs, dtype=dtype, param_dtype=param_dtype)
    return serial(pointwise(inputs), recurrent_layer(name, width, method), pointwise(outputs))
