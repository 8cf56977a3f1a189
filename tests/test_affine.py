"""Test affine maps: dtypes, refused arguments, and gradients of biases."""

import jax
import jax.numpy as jnp
import pytest

from seqjax.affine import affine, spread, wide
from seqjax.base import Dense


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_dtype_is_that_of_the_inputs_and_gradients_are_float32(dtype):
    xs, w, b = jnp.ones((512, 8, 3), dtype), jnp.full((3, 2), 0.5), jnp.zeros(2)
    ys = affine(xs, w, b)
    assert ys.dtype == dtype and ys.shape == (512, 8, 2) and jnp.all(ys == 1.5)
    assert jnp.array_equal(ys, Dense(lambda params: params)((w, b), xs)) and jnp.array_equal(
        ys, affine(xs, w)
    )
    # In bfloat16 a sum of ones ends at 256.
    gradient = jax.grad(lambda b: jnp.sum(affine(xs, w, b).astype(jnp.float32)))(b)
    assert gradient.tolist() == [4096, 4096]


def test_a_weight_is_spread_in_float32_at_least():
    like = jnp.ones((4096, 2), jnp.bfloat16)
    assert spread(jnp.arange(2.0), like).dtype == like.dtype and wide(jnp.bfloat16) == jnp.float32
    gradient = jax.grad(lambda w: jnp.sum(spread(w, like).astype(jnp.float32)))(jnp.ones(2, jnp.bfloat16))
    assert gradient.astype(float).tolist() == [4096, 4096]


@pytest.mark.parametrize("xs", [jnp.ones((5, 4)), jnp.ones((5, 3), int)])
def test_inputs_that_do_not_fit_are_refused(xs):
    with pytest.raises(
        ValueError, match=r"expected floating xs \[\.\.\., 3\] \(the input weights are \[3, 2\]\)"
    ):
        affine(xs, jnp.ones((3, 2)))
