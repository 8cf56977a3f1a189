"""The models of a study by name: a registered cell or a user's model, between an input map and an output map."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from seqjax.base import Layer, Method
from seqjax.cells import REGISTRY
from seqjax.combinators import serial
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.tasks import Task
from seqjax.user_model import is_own, own_layer


def representatives(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    """Choose at most `most` names: user models first, then one cell of each kind of recurrence."""

    def kind(name: str) -> Any:
        return None if is_own(name) else type(REGISTRY[name].make(4).recurrence)

    own = [name for name in names if is_own(name)]
    firsts = list({kind(name): name for name in reversed(names) if not is_own(name)}.values())[::-1]
    rest = [name for name in names if name not in own and name not in firsts]
    chosen = [*own, *firsts, *rest][:most]
    return tuple(name for name in names if name in chosen)


def recurrent_layer(name: str, width: int, method: Any) -> Layer:
    """Return the layer of that name, from vectors to vectors of the same width."""
    return own_layer(name, width, method) if is_own(name) else recurrent(REGISTRY[name].make(width), method)


def make_model(name: str, width: int, method: Method, dtype: Any, task: Task) -> Layer:
    """Return an input map, a recurrent layer and an output map in series; the params are a tuple of three."""
    return serial(*layers_of(name, width, method, dtype, task))


def layers_of(name: str, width: int, method: Method, dtype: Any, task: Task) -> tuple[Layer, Layer, Layer]:
    """Return the three layers of `make_model`."""
    dtype = jnp.dtype(dtype)
    param_dtype = jnp.float64 if dtype == jnp.float64 else jnp.float32
    inputs: Any = nn.Dense(width, dtype=dtype, param_dtype=param_dtype)
    if task.num_inputs is not None:
        inputs = nn.Embed(task.num_inputs, width, dtype=dtype, param_dtype=param_dtype)
    outputs = nn.Dense(task.num_outputs, dtype=dtype, param_dtype=param_dtype)
    return pointwise(inputs), recurrent_layer(name, width, method), pointwise(outputs)
