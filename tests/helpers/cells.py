"""Helpers of the tests of cells: random cases, comparisons with references/, and Jacobians of the carry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from references import REFERENCES

import seqjax as sj
from seqjax.cells import REGISTRY, vector

T, B, D, H = 7, 3, 4, 6
KEY = jax.random.key(0)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@functools.cache
def init(cell, width=D, example=vector):
    """Params; the values of the example are not to be read, so they are NaN."""
    x = jax.tree.map(lambda a: np.full_like(a, np.nan), example((B,), width))
    params = jax.jit(sj.recurrent(cell).init)(
        KEY, x
    )  # the program of the conformance suite, where sizes agree
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    return params


def shaken(tree):
    """The tree in float64 plus normal noise, integers plus small integers: nothing is zero or symmetric."""
    rng = np.random.default_rng(1)

    def shake(leaf):
        if np.issubdtype(leaf.dtype, np.integer):  # a position
            return jnp.asarray(leaf + rng.integers(0, 20, leaf.shape, leaf.dtype))
        noise = rng.normal(size=leaf.shape) + (
            1j * rng.normal(size=leaf.shape) if np.iscomplexobj(leaf) else 0
        )
        return jnp.asarray(leaf + 0.3 * noise)

    return jax.tree.map(shake, jax.tree.map(np.asarray, tree))


@functools.cache
def random_case(cell, example=vector):
    """Cell, params, carry and inputs, all random."""
    xs = jax.tree.map(lambda a: jnp.asarray(normal(0, *a.shape)), example((T, B), D))
    params = shaken(init(cell, example=example))
    first = jax.tree.map(lambda a: np.asarray(a)[0], xs)
    return cell, params, shaken(cell.initial_carry(params, first)), xs


def setting(name):
    """The random case of a registered cell."""
    return random_case(REGISTRY[name].make(H), REGISTRY[name].example)


def assert_equals_reference(cell, expected, example=vector):
    """A cell, with options that the registry does not have, against a loop of references/."""
    _, params, carry, xs = random_case(cell, example)
    got = sj.recurrent(cell).unroll(params, carry, xs)
    assert_equal(got, expected(*jax.tree.map(np.asarray, (params, carry, xs))))


def reference(name, params, carry, xs):
    return REFERENCES[name](*jax.tree.map(np.asarray, (params, carry, xs)))


def assert_equal(got, expected, rtol=1e-12):
    """Every leaf, in the norm of its largest entry."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


def jacobian(cell, params, carry, xs, leaf=0, **options):
    """d leaf(carry after the sequence) / d leaf(carry before it), for one example."""
    leaves, treedef = jax.tree.flatten(carry)

    def after(value):
        entering = treedef.unflatten([*leaves[:leaf], value, *leaves[leaf + 1 :]])
        return jax.tree.leaves(sj.recurrent(cell).unroll(params, entering, xs)[0])[leaf]

    return np.asarray(jax.jit(jax.jacrev(after, **options))(leaves[leaf]))
