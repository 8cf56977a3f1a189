"""Test conversions of trees to real vectors, and the separation of their floating leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.ops.vectors import Coordinates, Floating, as_host_vector, as_vector


def tree(*lead):
    """Leaves of several kinds with leading axes, numbered from 1 in each."""

    def numbered(dtype, *shape):
        return 1 + jnp.broadcast_to(jnp.arange(np.prod(shape)).reshape(shape), (*lead, *shape)).astype(dtype)

    z = jax.lax.complex(numbered(jnp.float32, 2), -numbered(jnp.float32, 2))
    return {
        "a": numbered(jnp.bfloat16, 2, 2),
        "k": jnp.broadcast_to(jax.random.key(0), lead),
        "n": numbered(int, 3),
        "z": z,
    }


def test_a_vector_and_back():
    given, space = tree(), Coordinates(tree())
    vector = space.vector(given)
    assert vector.tolist() == [1, 2, 3, 4, 1, 2, -1, -2] and vector.dtype == space.dtype == jnp.float32
    assert space.size == 8 and space.sizes == [4, 4]
    assert jnp.array_equal(as_vector(given), vector) and as_vector({"n": jnp.arange(3)}).shape == (0,)
    back = space.tree(2 * vector, given)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), back) == jax.tree.map(
        lambda a: (a.shape, a.dtype), given
    )
    assert jnp.array_equal(back["z"], 2 * given["z"]) and back["n"] is given["n"]
    assert space.tree(vector)["n"] is None
    host = as_host_vector(given)
    assert host.dtype == np.float64 and host.tolist() == vector.tolist()


@pytest.mark.parametrize("lead", [(5,), (3, 5)])
@pytest.mark.fast_cases(1)
def test_vectors_with_batch_and_leading_axes(lead):
    given = tree(*lead)
    space = Coordinates(jax.tree.map(lambda a: a[(0,) * (len(lead) - 1)], given), batch_ndim=1)
    vectors = space.vector(given)
    assert vectors.shape == (*lead, 8) and space.batch_ndim == 1
    assert jnp.array_equal(vectors, jnp.broadcast_to(as_vector(tree()), vectors.shape))
    back = space.tree(vectors, given)
    assert jnp.array_equal(back["a"], given["a"]) and jnp.array_equal(back["z"], given["z"])


def test_leaves_of_several_dtypes_under_strict_promotion():
    given = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16), "z": jnp.ones(1, jnp.complex64)}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        given = {**given, "c": jnp.ones(1, jnp.float64)}
        space = Coordinates(given)
        vector = space.vector(given)
        assert vector.dtype == space.dtype == jnp.float64 and vector.tolist() == [1, 1, 1, 1, 1, 1, 0]
        back = space.tree(vector)
        assert all(back[name].dtype == given[name].dtype for name in given)


def test_only_chosen_leaves_take_part():
    given = {"a": jnp.ones(2), "b": jnp.ones(3), "n": jnp.arange(2)}
    space = Coordinates(given, (False, True, True))
    assert space.size == 3 and space.tree(jnp.zeros(3), given)["a"] is given["a"]


def test_a_gradient_by_coordinates_is_that_by_the_tree():
    given = {"a": jnp.array([1.0, -2.0]), "z": jnp.array([1 + 2j, 3j])}
    space = Coordinates(given)

    def loss(tree):
        return jnp.sum(tree["a"] ** 2) + jnp.sum(jnp.real(tree["z"] ** 2 * (1 - 2j)))

    by_vector = jax.grad(lambda v: loss(space.tree(v)))(space.vector(given))
    found, expected = space.gradient(by_vector), jax.grad(loss)(given)
    assert all(jnp.allclose(found[name], expected[name]) for name in given)


def test_floating_leaves_are_put_back_among_the_others():
    given = tree()
    floating = Floating(given)
    assert [leaf.dtype for leaf in floating.leaves] == [jnp.bfloat16, jnp.complex64]
    back = floating.with_leaves([leaf * 0 for leaf in floating.leaves])
    assert back["n"] is given["n"] and not back["a"].any()
    assert floating.tree_of([1, 2]) == {"a": 1, "k": None, "n": None, "z": 2}
    assert floating.leaves_of({"a": 5, "k": 6, "n": 7, "z": 8}) == [5, 8]
