"""The models of a study by name: a registered cell or a user's model, between an input map and an output map."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqjax.base import Layer, Method
from seqjax.cells import REGISTRY
from seqjax.combinators import serial
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.tasks import Task
from seqjax.user_model import OUTPUTS, TOKENS, is_own, own_layer, own_params, takes


def representatives(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    """Choose at most `most` names: user models first, then one cell of each kind of recurrence."""

    def kind(name: str) -> Any:
        return None if is_own(name) else type(REGISTRY[name].make(4).recurrence)

    own = [name for name in names if is_own(name)]
    firsts = list({kind(name): name for name in reversed(names) if not is_own(name)}.values())[::-1]
    rest = [name for name in names if name not in own and name not in firsts]
    chosen = [*own, *firsts, *rest][:most]
    return tuple(name for name in names if name in chosen)


def recurrent_layer(name: str, width: int, method: Any, task: Task) -> Layer:
    """Return the layer of that name, from vectors to vectors of the same width.

    A model of the user may read the tokens of the task, and may return its outputs: `seqjax.user_model.own_layer`.
    """
    return (
        own_layer(name, width, method, **_sizes(task))
        if is_own(name)
        else recurrent(REGISTRY[name].make(width), method)
    )


def reads_tokens(name: str) -> bool:
    """Return whether a model has an embedding of its own."""
    return is_own(name) and takes(name, TOKENS)


def one_step(name: str, width: int, batch_size: int, dtype: Any) -> jax.ShapeDtypeStruct:
    """Return one step of input of the recurrent layer: tokens ``[B]`` or vectors ``[B, D]``."""
    if reads_tokens(name):
        return jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return jax.ShapeDtypeStruct((batch_size, width), jnp.dtype(dtype))


def params_of_seed(name: str, width: int, task: Task, seed: int) -> Any:
    """Return the params that a user's model draws itself for a seed, or None."""
    return own_params(name, width, seed, **_sizes(task)) if is_own(name) else None


def make_model(name: str, width: int, method: Method, dtype: Any, task: Task) -> Layer:
    """Return an input map, a recurrent layer and an output map in series; the params are a tuple of three."""
    return serial(*layers_of(name, width, method, dtype, task))


def layers_of(name: str, width: int, method: Method, dtype: Any, task: Task) -> tuple[Layer, Layer, Layer]:
    """Return the three layers of `make_model`."""
    dtype = jnp.dtype(dtype)
    param_dtype = jnp.float64 if dtype == jnp.float64 else jnp.float32
    inputs: Any = nn.Dense(width, dtype=dtype, param_dtype=param_dtype)
    if reads_tokens(name):
        inputs = _same
    elif task.num_inputs is not None:
        inputs = nn.Embed(task.num_inputs, width, dtype=dtype, param_dtype=param_dtype)
    outputs: Any = nn.Dense(task.num_outputs, dtype=dtype, param_dtype=param_dtype)
    if is_own(name) and takes(name, OUTPUTS):
        outputs = _same
    return pointwise(inputs), recurrent_layer(name, width, method, task), pointwise(outputs)


def _same(x: Any) -> Any:
    """Return the input, in place of a map that a model has itself."""
    return x


def _sizes(task: Task) -> dict[str, Any]:
    return {TOKENS: task.num_inputs, OUTPUTS: task.num_outputs}
