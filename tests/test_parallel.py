"""Test parallelizability: contracting cells take a few iterations at any length, chaotic ones more and more."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.probes import bind, parallelizability

LENGTHS = [16, 48, 144]


def random_network(gain, num_steps, hidden_size=16):
    """An elman network with Gaussian recurrent weights of standard deviation gain / sqrt(H), weakly driven."""
    rng = np.random.default_rng(0)
    cell = sj.elman(hidden_size, param_dtype=jnp.float64)
    w_h = jnp.asarray(gain * rng.normal(size=(hidden_size, hidden_size)) / math.sqrt(hidden_size))
    xs = jnp.asarray(0.1 * rng.normal(size=(num_steps, 1, 3)))
    params = cell.init(jax.random.key(0), xs[0])._replace(w_h=w_h)
    return bind(sj.recurrent(cell), params), xs


def test_a_contracting_network_takes_as_few_iterations_at_any_length():
    found = parallelizability(*random_network(0.7, 144), lengths=LENGTHS)
    assert np.all(found.converged) and np.all(found.iterations <= 5)
    assert abs(found.growth.exponent) < 0.2
    assert found.high < 0
    np.testing.assert_array_equal(found.lengths, LENGTHS)


def test_a_chaotic_network_takes_iterations_in_proportion_to_the_length_but_never_more_than_it():
    found = parallelizability(*random_network(3.0, 144), lengths=LENGTHS)
    assert np.all(found.converged) and np.all(found.iterations <= LENGTHS)
    assert np.all(found.iterations > 0.5 * found.lengths)
    assert abs(found.growth.exponent - 1) < 0.2
    assert 0 < found.low < found.exponent < found.high < 0.5


def test_a_linear_network_takes_one_iteration_and_has_the_exponent_of_its_weights():
    tanh, xs = random_network(0.9, 30)
    orthogonal = jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0])
    linear = sj.elman(16, activation="identity", param_dtype=jnp.float64)
    params = tanh.params._replace(w_h=0.9 * orthogonal)
    found = parallelizability(bind(sj.recurrent(linear), params), xs)
    assert found.iterations.tolist() == [1] and math.isnan(found.growth.exponent)
    np.testing.assert_allclose([found.exponent, found.low, found.high], math.log(0.9), rtol=1e-10)


def test_resets_bound_the_iterations_by_the_longest_segment():
    reset = jnp.arange(48)[:, None] % 8 == 0
    mask = jnp.arange(48)[:, None] < 40
    bound, xs = random_network(3.0, 48)
    found = parallelizability(bound, sj.Batch(xs, None, reset, mask), lengths=[48])
    assert found.converged.tolist() == [True] and 3 <= found.iterations[0] <= 8
    assert math.isfinite(found.exponent)


def test_a_limit_is_reported_as_not_converged():
    newton = sj.Newton(max_iterations=3)
    found = parallelizability(*random_network(3.0, 48), lengths=[48], newton=newton, warm_up=0)
    assert (found.iterations.tolist(), found.converged.tolist()) == ([3], [False])
    assert found.residual[0] > 1e-6


def of_an_lru():
    xs, lru = random_network(0.7, 8)[1], sj.recurrent(sj.lru(4))
    parallelizability(bind(lru, lru.init(jax.random.key(0), xs[0])), xs)


REFUSED = {
    "a layer": (
        lambda: parallelizability(random_network(0.7, 8)[0].layer, random_network(0.7, 8)[1]), TypeError,
        r"parallelizability\(bound\): expected a bound layer, bind\(recurrent\(cell\), params\), got recurrent"),
    "a length beyond the data": (
        lambda: parallelizability(*random_network(0.7, 8), lengths=[9]), ValueError,
        "expected at most the 8 steps of xs, got 9"),
    "no length": (
        lambda: parallelizability(*random_network(0.7, 8), lengths=[]), ValueError,
        r"parallelizability\(lengths\): expected at least one whole number"),
    "a length of zero": (
        lambda: parallelizability(*random_network(0.7, 8), lengths=[0]), ValueError,
        r"parallelizability\(lengths\): expected at least one whole number"),
    "a cell that Newton does not run": (of_an_lru, TypeError, "Newton"),
}  # fmt: skip


@refusals(REFUSED)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
