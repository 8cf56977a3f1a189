r"""Which params reach which parts of the carry: the structure of a step, found from its derivative's program.

The pullback of a step is a linear program whose coefficients depend on params, carry and inputs. To find which
derivatives can differ from zero *anywhere*, it is evaluated with every coefficient replaced by a random positive
number, every difference by a sum, every selection by the sum of what it selects from, and every operation whose wiring
depends on data (a gather by token, a slice at a position), or that is not in the lists below, by one that connects
everything. What then comes out as zero is zero for all inputs; the converse does not hold. So a pattern may be too
large, never too small.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.gradients.coordinates import Coordinates

# Linear in every operand together; an operand that does not depend on the cotangent can only be a zero.
LINEAR = frozenset(
    "add_any broadcast_in_dim concatenate conj convert_element_type copy copy_p complex cumsum expand_dims imag pad "
    "reduce_precision reduce_sum real reshape rev slice split squeeze transpose reduce_window_sum".split()
)
BILINEAR = frozenset(["mul", "div", "dot_general", "conv_general_dilated"])


def params_reaching(step: Callable, params: Coordinates, carry: Coordinates) -> tuple[bool, ...]:
    """For each leaf of the params, whether any part of the carry after ``step(theta, s) -> s`` depends on it."""
    with jax.ensure_compile_time_eval():
        by_params, _ = _generic_pullback(step, params, carry)(jnp.ones(carry.size, carry.dtype))
        pieces = np.split(np.asarray(by_params), np.cumsum(params.sizes)[:-1]) if params.sizes else []
    found = iter([bool(np.any(piece)) for piece in pieces])
    return tuple(is_chosen and next(found) for is_chosen in params.chosen)


def step_pattern(step: Callable, params: Coordinates, carry: Coordinates) -> tuple[np.ndarray, np.ndarray]:
    """Where the derivatives of ``step(theta, s) -> s`` may be other than zero, by theta ``[n, P]`` and s ``[n, n]``."""
    with jax.ensure_compile_time_eval():
        rows = jax.vmap(_generic_pullback(step, params, carry))(jnp.eye(carry.size, dtype=carry.dtype))
        by_params, by_carry = jax.tree.map(np.asarray, rows)
    return by_params != 0, by_carry != 0


def _generic_pullback(step: Callable, params: Coordinates, carry: Coordinates) -> Callable:
    theta, s = (jax.ShapeDtypeStruct((space.size,), space.dtype) for space in (params, carry))

    def pull(theta: jax.Array, s: jax.Array, cotangent: jax.Array) -> Any:
        return jax.vjp(step, theta, s)[1](cotangent)

    jaxpr = jax.make_jaxpr(pull)(theta, s, jax.ShapeDtypeStruct(s.shape, s.dtype)).jaxpr

    def pullback(cotangent: jax.Array) -> Any:
        found = _evaluate(jaxpr, [None, None, cotangent], np.random.default_rng(0))
        return tuple(
            jnp.zeros(a.shape, a.dtype) if b is None else b for a, b in zip((theta, s), found, strict=True)
        )

    return pullback


def _evaluate(jaxpr: Any, inputs: list, random: np.random.Generator) -> list:
    """Outputs of a program; None stands for what does not depend on the cotangent."""
    values = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return None if hasattr(atom, "val") else values.get(atom)

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if any(operand is not None for operand in operands):
            values.update(zip(equation.outvars, _apply(equation, operands, random), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, operands: list, random: np.random.Generator) -> list:
    name, shapes = equation.primitive.name, [atom.aval for atom in equation.invars]
    if name in ("jit", "pjit"):
        return _evaluate(equation.params["jaxpr"].jaxpr, operands, random)
    if name == "neg":
        return operands
    if name in ("add", "sub"):
        return [sum(jnp.broadcast_to(a, equation.outvars[0].aval.shape) for a in operands if a is not None)]
    if name == "select_n":
        cases = [a for a in operands[1:] if a is not None]
        return [sum(cases[1:], cases[0])]
    if name in LINEAR:
        filled = [
            jnp.zeros(s.shape, s.dtype) if a is None else a for a, s in zip(operands, shapes, strict=True)
        ]
    elif name in BILINEAR:
        filled = [_coefficients(random, s) if a is None else a for a, s in zip(operands, shapes, strict=True)]
    else:
        every = sum(jnp.sum(jnp.abs(a)) for a in operands if a is not None)
        return [
            (every * _coefficients(random, a.aval)).astype(a.aval.dtype)
            if jnp.issubdtype(a.aval.dtype, jnp.inexact)
            else None
            for a in equation.outvars
        ]
    found = equation.primitive.bind(*filled, **equation.params)
    return list(found) if equation.primitive.multiple_results else [found]


def _coefficients(random: np.random.Generator, like: Any) -> jax.Array:
    drawn = 0.5 + random.random((2, math.prod(like.shape)))
    values = drawn[0] + 1j * drawn[1] if jnp.issubdtype(like.dtype, jnp.complexfloating) else drawn[0]
    return jnp.asarray(values.reshape(like.shape), like.dtype)
