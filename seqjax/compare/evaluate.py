"""Compute values and gradients of one implementation, by name, in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.compare.implementation import System
from seqjax.compare.trees import named
from seqjax.ops.select import cast_inexact

Outcome = dict[tuple[str, str], np.ndarray]
"""Arrays by quantity and leaf."""
OUTPUTS, CARRY = "outputs", "final carry"
BY_INPUTS, BY_CARRY, BY_PARAMS = "gradient by inputs", "gradient by first carry", "gradient by params"
BY_STEP = (OUTPUTS, BY_INPUTS)


def gradients_of(unroll: Callable) -> Callable:
    """Return ``(params, carry, xs, cotangents, *rest) -> outcome`` of a loss that is linear in the results.

    The loss is the product of outputs and final carry with the cotangents, which are given by quantity and leaf. The
    cotangent of an array that has none is zero.
    """

    def run(params: Any, carry: Any, xs: Any, cotangents: dict, *rest: Any) -> dict:
        given = _inexact({BY_PARAMS: params, BY_CARRY: carry, BY_INPUTS: xs})

        def outputs(given: dict) -> dict:
            pairs = ((params, BY_PARAMS), (carry, BY_CARRY), (xs, BY_INPUTS))
            trees = [_with(tree, quantity, given) for tree, quantity in pairs]
            last, ys = unroll(*trees, *rest)
            return _inexact({OUTPUTS: ys, CARRY: last})

        found, pull = jax.vjp(outputs, given)
        weights = {
            name: cotangents[name].astype(leaf.dtype) if name in cotangents else jnp.zeros_like(leaf)
            for name, leaf in found.items()
        }
        return found | pull(weights)[0]

    return run


def evaluate(run: Callable, *arguments: Any) -> Outcome:
    """Run a compiled `gradients_of`, and return its outcome as NumPy arrays in float64."""
    found = jax.device_get(run(*arguments))
    dtypes = {True: np.complex128, False: np.float64}
    return {name: leaf.astype(dtypes[np.iscomplexobj(leaf)]) for name, leaf in found.items()}


def measure(system: System, xs: Any, cotangents: Any) -> Outcome:
    """Return the outcome of a system, computed in its dtype on its device."""
    with jax.enable_x64(system.dtype == "float64"), jax.default_device(system.device):
        params, carry, inputs = placed(system, xs)
        return evaluate(jax.jit(gradients_of(system.unroll)), params, carry, inputs, cotangents)


def placed(system: System, xs: Any) -> tuple[Any, Any, Any]:
    """Return params, first carry and inputs in the dtype of a system, on its device."""
    assert system.initial is not None
    params, inputs = cast_inexact(system.params, system.dtype), cast_inexact(xs, system.dtype)
    carry = system.initial(params, jax.tree.map(lambda leaf: leaf[0], inputs))
    return jax.device_put((params, carry, inputs), system.device)


def _inexact(trees: dict[str, Any]) -> dict[tuple[str, str], jax.Array]:
    return {
        (quantity, name): leaf
        for quantity, tree in trees.items()
        for name, leaf in named(tree).items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }


def _with(tree: Any, quantity: str, values: dict) -> Any:
    """Return the tree with its inexact leaves replaced."""
    leaves = [values.get((quantity, name), leaf) for name, leaf in named(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
