"""Compare a layer with another library's, in values and gradients, for peers that JAX can differentiate.

The peer is a function of seqjax's params, which it converts to the peer's weights by a linear map. So its gradients
with respect to seqjax's params are the peer's gradients; where two params become one weight of the peer, both have its
gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.ops.select import keep


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def random_like(tree, seed=0):
    """A tree of normal numbers in the form and dtypes of a tree of floats."""
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return treedef.unflatten([jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def setting(cell, xs, dtype=jnp.float64):
    """Random params and a random carry of a cell for inputs ``[T, *B, D]``, in a dtype."""
    params = jax.eval_shape(cell.init, jax.random.key(0), xs[0])
    params = random_like(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), params), 1)
    return params, random_like(cell.initial_carry(params, xs[0].astype(dtype)), 2)


def assert_parity(layer, peer, params, carry, xs, *, mask=None, rtol=1e-10):
    """Outputs, last carry and gradients by params, carry and inputs of a weighted sum of both.

    Args:
        layer: ours.
        peer: ``(params, carry, xs) -> (carry, ys)`` with our params and carries, time-major.
        params: of ours; floats.
        carry: of ours; floats.
        xs: ``[T, *B, D]``.
        mask: ``[T, *B]``; where it is False the peer's outputs are not looked at, and ours must be zero.
        rtol: of the largest entry of each array.
    """

    def gradients(unroll):
        def loss(params, carry, xs):
            end, ys = unroll(params, carry, xs)
            ys = keep(mask, ys)
            leaves = jax.tree.leaves((ys, end))
            weighted = [jnp.sum(leaf * normal(50 + i, *leaf.shape)) for i, leaf in enumerate(leaves)]
            return sum(weighted), (ys, end)

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, carry, xs)

    def ours(params, carry, xs):
        return layer.unroll(params, carry, xs, mask=mask)

    got, expected = gradients(ours), gradients(peer)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path)
        assert a.dtype == b.dtype == xs.dtype and a.shape == b.shape, name
        assert np.abs(b).max() > 1e-3, f"{name} is next to zero and shows nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max(), err_msg=name)
    if mask is not None:
        assert (np.asarray(jax.jit(ours)(params, carry, xs)[1])[~np.asarray(mask)] == 0).all()
