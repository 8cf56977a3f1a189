"""The model of a recipe: an input map, recurrent layers or a stack of blocks, and an output map."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from seqjax import blocks
from seqjax.base import Layer
from seqjax.blocks.branches import norm_layer
from seqjax.cells import REGISTRY, vector
from seqjax.combinators import residual, serial
from seqjax.fields import SettingError
from seqjax.layers.dropout import dropout
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.methods import named_method
from seqjax.names import known_name, parse_call
from seqjax.tasks import Task
from seqjax.training.recipe import STACKS, Recipe
from seqjax.user_model import is_own, own_layer


def model_of(recipe: Recipe, task: Task) -> Layer:
    """Return the model of a recipe for a task.

    One recurrent layer stands between the two maps as it is. Several are residual branches after a norm, with a norm at
    the end; a stack is made of blocks. Dropout acts on the output of each recurrent layer, before the sum of a residual
    branch; in a transformer it acts on the output of each branch.
    """
    width, dtype = recipe.hidden_size, jnp.float64 if recipe.precision == "float64" else jnp.float32
    inputs: Any = nn.Dense(width, param_dtype=dtype)
    if task.num_inputs is not None:
        inputs = nn.Embed(task.num_inputs, width, param_dtype=dtype)
    outputs = pointwise(nn.Dense(task.num_outputs, param_dtype=dtype))
    if recipe.model in STACKS:
        options: dict[str, Any] = {}
        if recipe.model == "transformer":
            options = {"max_length": recipe.length, "dropout_rate": recipe.dropout}
        stack = STACKS[recipe.model](width, recipe.depth, num_heads=recipe.heads, **options)
        return serial(pointwise(inputs), stack, outputs)
    layer = _recurrent(recipe)
    noise = [dropout(recipe.dropout)] if recipe.dropout else []
    if recipe.depth == 1:
        return serial(pointwise(inputs), layer, *noise, outputs)
    # The paths of the params do not depend on dropout.
    branch = residual(serial(norm_layer("rms"), layer, *noise)) if noise else blocks.pre_norm(layer)
    return serial(pointwise(inputs), *[branch] * recipe.depth, pointwise(nn.RMSNorm()), outputs)


def parts_of(recipe: Recipe) -> dict[str, str]:
    """Return the path in the params of each part of a recipe's model, by the role of the part.

    Example:
        >>> from seqjax.training.recipe import Recipe
        >>> from seqjax.training.recipe_model import parts_of
        >>> parts_of(Recipe(depth=2))
        {'inputs': '0', 'layer 0': '1.1', 'norm 0': '1.0', 'layer 1': '2.1', 'norm 1': '2.0',
         'norm': '3', 'outputs': '4'}
        >>> parts_of(Recipe())
        {'inputs': '0', 'layer 0': '1', 'outputs': '2'}
    """
    if recipe.model in STACKS:
        number = recipe.depth * (3 if recipe.model == "samba" else 1)
        places = {f"block {i}": f"1.{i}" for i in range(number)}
        norm = {} if recipe.model == "transformer" else {"norm": f"1.{number}"}
        return {"inputs": "0", **places, **norm, "outputs": "2"}
    if recipe.depth == 1:
        return {"inputs": "0", "layer 0": "1", "outputs": "3" if recipe.dropout else "2"}
    layers: dict[str, str] = {}
    for i in range(recipe.depth):
        layers |= {f"layer {i}": f"{i + 1}.1", f"norm {i}": f"{i + 1}.0"}
    return {"inputs": "0", **layers, "norm": f"{recipe.depth + 1}", "outputs": f"{recipe.depth + 2}"}


def _recurrent(recipe: Recipe) -> Layer:
    method = named_method(recipe.method)
    if is_own(recipe.model):
        return own_layer(recipe.model, recipe.hidden_size, method, seed=recipe.seed)
    known = [name for name, entry in REGISTRY.items() if entry.example is vector]
    try:
        name, args, keywords = parse_call(recipe.model)
        known_name(name, [*known, *STACKS])
        if args or name in STACKS:
            raise ValueError(f"expected options by name, such as lru(r_min=0.9), got {recipe.model}.")
    except ValueError as error:
        raise SettingError("{model}: {text}", text=error) from None
    return recurrent(REGISTRY[name].make(recipe.hidden_size, **keywords), method)
