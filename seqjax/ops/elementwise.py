"""Derivatives of functions that act element by element."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def elementwise_jacobian(fn: Callable, args: tuple) -> list[list[jax.Array | None]]:
    """``d out_j / d arg_i`` of an elementwise function of arrays to a tuple of arrays; None where there is none."""
    depends = _dependencies(fn, args)
    rows: list[list[jax.Array | None]] = [[None] * len(args) for _ in depends]
    for i, arg in enumerate(args):
        if any(row[i] for row in depends):

            def of_one(a: jax.Array, i: int = i) -> tuple:
                return fn(*args[:i], a, *args[i + 1 :])

            tangents = jax.jvp(of_one, (arg,), (jnp.ones_like(arg),))[1]
            for j, tangent in enumerate(tangents):
                rows[j][i] = tangent if depends[j][i] else None
    return rows


def _dependencies(fn: Callable, args: tuple) -> list[list[bool]]:
    """Which outputs of a function read which arguments, from its jaxpr (inner calls count as reading all)."""
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    reads = {var: {i} for i, var in enumerate(jaxpr.invars)}
    for equation in jaxpr.eqns:
        used = set().union(*(reads.get(var, set()) for var in equation.invars if not hasattr(var, "val")))
        reads.update(dict.fromkeys(equation.outvars, used))
    outs = [set() if hasattr(var, "val") else reads.get(var, set()) for var in jaxpr.outvars]
    return [[i in out for i in range(len(args))] for out in outs]
