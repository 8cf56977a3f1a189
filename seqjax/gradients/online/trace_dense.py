r"""Traces of any cell: the dense influence of its params on its carry, propagated by a part of the Jacobian.

.. math:: M_t = (K \odot J_t) M_{t-1} + \partial s_t / \partial \theta

where K is a fixed pattern of zeros and ones. Memory and time are those of real-time recurrent learning, n P numbers per
example. This trace serves cells without more structure.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seqjax.base import Carry, Cell, Flags, Params, X
from seqjax.gradients.online.common import by_row
from seqjax.gradients.online.layerwise import Trace
from seqjax.inputs import first_step
from seqjax.methods.common import at_step
from seqjax.ops.vectors import Coordinates, Floating


def whole_trace(cell: Cell, pattern: Callable[[Any], np.ndarray]) -> Trace:
    """Return the trace of any cell, ``[B, n, P]``.

    Args:
        cell: the cell.
        pattern: ``carry of one example -> [n, n]`` bool, in the order of `Coordinates`: the entries of the Jacobian to
            keep.
    """

    def one_of(carry: Carry) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), carry)

    def zero(params: Params, carry: Carry) -> Float[Array, "B n P"]:
        space, number = Coordinates(one_of(carry)), len(jax.tree.leaves(carry)[0])
        return jnp.zeros((number, space.size, Coordinates(params).size), space.dtype)

    def read(params: Params, trace: Float[Array, "B n P"], delta: Any) -> Any:
        space = Coordinates(one_of(delta))
        # For z = x + iy the gradient is dL/dx - i dL/dy; its coordinates are dL/dx and dL/dy.
        rows = jax.vmap(lambda d: space.vector(jax.tree.map(jnp.conj, d)))(delta)
        return Coordinates(params).gradient(jnp.einsum("bn,bnp->p", rows, trace))

    def at(params: Params, carry: Carry, x: X, key: Any) -> Any:
        return at_step(cell, params, carry, x, Flags(key=key))

    def keys_of(key: Any, carry: Carry) -> Any:
        number = len(jax.tree.leaves(carry)[0])
        return None if key is None else key[None] if number == 1 else by_row(key, number)

    def step(params: Params, carry: Carry, x: X, key: Any) -> Any:
        if key is None:
            return at(params, carry, x, None)

        # Use the same noise as the trace, which runs the step example by example.
        def one(carry: Carry, x: X, key: Any) -> Any:
            carry, x = jax.tree.map(lambda a: a[None], (carry, x))
            return first_step(at(params, carry, x, key))

        return jax.vmap(one)(carry, x, keys_of(key, carry))

    def advance(
        params: Params, carry: Carry, trace: Float[Array, "B n P"], x: X, key: Any
    ) -> Float[Array, "B n P"]:
        space, of_params = Coordinates(one_of(carry)), Coordinates(params)
        theta, kept = of_params.vector(params), jnp.asarray(pattern(one_of(carry)))

        def one(carry: Carry, trace: jax.Array, x: X, key: Any) -> jax.Array:
            carry, x = jax.tree.map(lambda a: a[None], (carry, x))

            def after(theta: jax.Array, s: jax.Array) -> jax.Array:
                return space.vector(at(of_params.tree(theta, params), space.tree(s, carry), x, key)[0])

            entering, by_theta, by_s = (space.vector(carry), jax.jacrev(after), jax.jacfwd(after, 1))
            through = jnp.where(kept, by_s(theta, entering), 0)
            return through @ trace + by_theta(theta, entering)

        return jax.vmap(one)(carry, trace, x, keys_of(key, carry)).astype(trace.dtype)

    return Trace(zero, lambda params: params, read, step, advance)


def same_entry(carry: Carry) -> Bool[np.ndarray, "n n"]:
    """Return the diagonal pattern: each number of the carry with itself, both halves of a complex number."""
    labels, start = [], 0
    for leaf in Floating(carry).leaves:
        labels += _halves(np.arange(start, start + leaf.size), leaf)
        start += leaf.size
    return _equal(labels)


def same_unit(carry: Carry) -> Bool[np.ndarray, "n n"]:
    """Return the unit pattern: entries at the same index of leaves of the same shape, such as c and h of a unit."""
    labels: list = []
    shapes: dict = {}
    for leaf in Floating(carry).leaves:
        start = shapes.setdefault(leaf.shape, sum(int(np.prod(shape)) for shape in shapes))
        labels += _halves(np.arange(start, start + leaf.size), leaf)
    return _equal(labels)


def _halves(labels: np.ndarray, leaf: Any) -> list:
    return [labels] * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)


def _equal(labels: list) -> Bool[np.ndarray, "n n"]:
    joined = np.concatenate(labels) if labels else np.zeros(0, int)
    return joined[:, None] == joined[None]
