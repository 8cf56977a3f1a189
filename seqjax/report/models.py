"""The models of a study by name: a registered cell, or one's own as ``file.py:function``; and the maps around them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from seqjax.base import Layer, Method
from seqjax.cells import REGISTRY
from seqjax.combinators import serial
from seqjax.layers import pointwise, recurrent
from seqjax.tasks import Task


def is_own(name: str) -> bool:
    """Whether a name stands for a model of one's own, ``file.py:function``, and not for a registered cell."""
    return ":" in name


def recurrent_layer(name: str, width: int, method: Method) -> Layer:
    """The layer of that name, from vectors to vectors of the same width."""
    return recurrent(REGISTRY[name].make(width), method)


def make_model(name: str, width: int, method: Method, dtype: Any, task: Task) -> Layer:
    """Input map, one recurrent layer, output map: the params are a tuple of the three."""
    return serial(*layers_of(name, width, method, dtype, task))


def layers_of(name: str, width: int, method: Method, dtype: Any, task: Task) -> tuple[Layer, Layer, Layer]:
    """The layers of `make_model`."""
    dtype = jnp.dtype(dtype)
    param_dtype = jnp.float64 if dtype == jnp.float64 else jnp.float32
    inputs: Any = nn.Dense(width, dtype=dtype, param_dtype=param_dtype)
    if task.num_inputs is not None:
        inputs = nn.Embed(task.num_inputs, width, dtype=dtype, param_dtype=param_dtype)
    outputs = nn.Dense(task.num_outputs, dtype=dtype, param_dtype=param_dtype)
    return pointwise(inputs), recurrent_layer(name, width, method), pointwise(outputs)
