"""Test the hyperbolic tangent with the right slope where it is saturated, and the LSTM that uses it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.ops.elementwise import tanh


def test_the_slope_of_tanh_is_right_to_rounding_wherever_float32_holds_it():
    x = np.concatenate([np.linspace(-40, 40, 161), [1e-4, -1e-4]])
    slope = 1 / np.cosh(x) ** 2
    y, pull = jax.vjp(tanh, jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(y, jnp.tanh(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(
        pull(jnp.ones_like(y))[0], slope, rtol=2e-5
    )  # half a rounding of x is 2e-6 of e^2x
    np.testing.assert_allclose(jax.jvp(tanh, (jnp.asarray(x),), (jnp.ones(len(x)),))[1], slope, rtol=1e-13)
    # Of any order, at zero as well: there the third derivative is -2.
    second, third = (
        jax.vmap(fn)(jnp.asarray(x)) for fn in (jax.grad(jax.grad(tanh)), jax.grad(jax.grad(jax.grad(tanh))))
    )
    t = np.tanh(x)
    np.testing.assert_allclose(second, -2 * t * slope, rtol=1e-12)
    np.testing.assert_allclose(third, slope * (4 * t**2 - 2 * slope), rtol=1e-10, atol=1e-20)
    assert float(jax.grad(jax.grad(jax.grad(tanh)))(jnp.zeros(()))) == -2.0


@pytest.mark.slow  # the slope of tanh is right in float32
def test_the_profile_of_an_lstm_with_a_large_c_is_the_same_in_float32_and_float64():
    """All gates open: c grows by one per step, and what enters it at the last step has the slope 4 e^(-2c)."""
    found = []
    for dtype in (jnp.float32, jnp.float64):
        for method in (sj.Scan(chunk=8), sj.Scan(gradient="autodiff")):
            layer, xs = sj.recurrent(sj.lstm(3, param_dtype=dtype), method), jnp.ones((24, 2, 2), dtype)
            params = layer.init(jax.random.key(0), xs[0])
            params = params._replace(b=jnp.full(12, 20, dtype))
            loss = lambda ys, _: jnp.sum(ys[-1], -1)  # noqa: E731
            profile = sj.probes.gradient_profile(sj.probes.bind(layer, params), loss, xs)
            found.append(np.asarray(profile.log_norm.c, np.float64))
    expected = (
        math.log(4) - 2 * 24 + math.log(3) / 2 - math.log(2)
    )  # of three units; the mean of two examples
    for each in found:
        np.testing.assert_allclose(each[-1], expected, atol=1e-3)
        np.testing.assert_allclose(each, found[-1], atol=1e-3)
