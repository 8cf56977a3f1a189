"""Parallelisability: contracting cells take a few iterations at any length, chaotic ones more and more."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.probes import parallelisability

LENGTHS = [16, 48, 144]


def random_network(gain, num_steps, hidden_size=8):
    """An elman network with Gaussian recurrent weights of standard deviation gain / sqrt(H), weakly driven."""
    rng = np.random.default_rng(0)
    cell = sj.elman(hidden_size, param_dtype=jnp.float64)
    xs = jnp.asarray(0.1 * rng.normal(size=(num_steps, 1, 3)))
    params = cell.init(jax.random.key(0), xs[0])
    w_h = jnp.asarray(gain * rng.normal(size=(hidden_size, hidden_size)) / math.sqrt(hidden_size))
    params = params._replace(w_h=w_h)
    return cell, params, cell.initial_carry(params, xs[0]), xs


def test_a_contracting_network_takes_as_few_iterations_at_any_length():
    found = parallelisability(*random_network(0.7, 144), LENGTHS)
    assert np.all(found.converged) and np.all(found.iterations <= 5)
    assert abs(found.growth.exponent) < 0.2
    np.testing.assert_array_equal(found.lengths, LENGTHS)


def test_a_chaotic_network_takes_iterations_in_proportion_to_the_length_but_never_more_than_it():
    found = parallelisability(*random_network(5.0, 144), LENGTHS, exponent=0.11)
    assert np.all(found.converged) and np.all(found.iterations <= LENGTHS)
    assert np.all(found.iterations > 0.5 * found.lengths)
    assert abs(found.growth.exponent - 1) < 0.2 and found.exponent == 0.11


def test_a_linear_network_takes_one_iteration():
    cell, params, carry, xs = random_network(0.9, 30)
    linear = sj.elman(8, activation="identity", param_dtype=jnp.float64)
    found = parallelisability(linear, params, carry, xs)
    assert (
        found.iterations.tolist() == [1] and math.isnan(found.growth.exponent) and math.isnan(found.exponent)
    )


def test_a_limit_is_reported_as_not_converged():
    newton = sj.Newton(max_iterations=3)
    found = parallelisability(*random_network(5.0, 48), [48], newton=newton)
    assert (found.iterations.tolist(), found.converged.tolist()) == ([3], [False])
    assert found.residual[0] > 1e-6


def test_bad_input_is_refused():
    cell, params, carry, xs = random_network(0.7, 8)
    with pytest.raises(
        TypeError, match=r"parallelisability\(cell\): expected a Cell such as gru\(8\), got recurrent"
    ):
        parallelisability(sj.recurrent(cell), params, carry, xs)
    with pytest.raises(ValueError, match="expected at most the 8 steps of xs, got 9"):
        parallelisability(cell, params, carry, xs, [9])
    for lengths in ([], [0]):
        with pytest.raises(
            ValueError, match=r"parallelisability\(lengths\): expected at least one whole number"
        ):
            parallelisability(cell, params, carry, xs, lengths)
    with pytest.raises(TypeError, match="Newton"):
        lru = sj.lru(4)
        params = lru.init(jax.random.key(0), xs[0])
        parallelisability(lru, params, lru.initial_carry(params, xs[0]), xs)
