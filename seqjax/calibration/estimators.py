"""Checks of estimators and truncation (C11, C12, C28)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Batch, Cell, Estimator, Layer, Step
from seqjax.calibration.base import Check, Values, relative
from seqjax.calibration.exact import gaussian
from seqjax.calibration.influence import leaky
from seqjax.cells.lstm import lstm
from seqjax.combinators import serial
from seqjax.gradients import full_bptt, rtrl, truncated_bptt
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Scan
from seqjax.ops.vectors import as_vector
from seqjax.probes.bound import bind
from seqjax.probes.lags import TruncationBias, truncation_bias
from seqjax.probes.noise import per_example_gradients, signal_to_noise


def _gradient(estimator: Estimator, layer: Layer, loss: Any, params: Any, carry: Any, xs: jax.Array) -> Any:
    """Return the gradient of the total loss."""
    init, update = estimator.bind(layer, loss)

    @jax.jit
    def run(params: Any, carry: Any, xs: jax.Array) -> Any:
        return update(params, carry, init(params, carry, xs[0]), Batch(xs, None))[0].gradients

    return run(params, carry, xs)


# ---------------------------------------------------------------- a stationary linear model


DECAY, LENGTH, WINDOWS = 0.9, 160, (5, 20)


def _half_square(ys: jax.Array, targets: Any) -> jax.Array:
    return 0.5 * ys[-1, :, 0] ** 2


def _unit_inputs(dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Return carry and inputs of T + 1 examples. In each, one of h_0, x_1, ..., x_T is its standard deviation.

    The gradient of h_T^2 is quadratic in these independent numbers, so its expectation is the sum over the examples.
    """
    everything = np.eye(LENGTH + 1)
    everything[0] /= math.sqrt(1 - DECAY**2)
    return jnp.asarray(everything[0, :, None], dtype), jnp.asarray(everything[1:, :, None], dtype)


def truncated_expectation(dtype: Any) -> Values:
    """Measure the relative bias of truncated backpropagation in expectation."""
    layer, params = recurrent(leaky(DECAY), Scan()), jnp.full(1, DECAY, dtype)
    found = [
        float(_gradient(estimator, layer, _half_square, params, *_unit_inputs(dtype))[0])
        for estimator in (full_bptt(), *map(truncated_bptt, WINDOWS))
    ]
    return Values([DECAY ** (2 * k) for k in WINDOWS], [1 - part / found[0] for part in found[1:]])


def bias_by_lag(dtype: Any) -> Values:
    """Measure the relative bias for all windows up to 40 from the decomposition by lag."""
    params = jnp.full(1, DECAY, dtype)
    found = _bias(recurrent(leaky(DECAY), Scan()), params, *_unit_inputs(dtype), _half_square, 40)
    return Values(DECAY ** (2 * np.arange(1, 41)), found.bias)


def _bias(layer: Layer, params: Any, carry: Any, xs: Any, loss: Any, max_window: int) -> TruncationBias:
    @jax.jit
    def measure(params: Any, carry: Any, xs: Any) -> TruncationBias:
        return truncation_bias(bind(layer, params), loss, xs, carry=carry, max_window=max_window)

    return measure(params, carry, xs)


def signal_to_noise_ratio(dtype: Any) -> Values:
    """Measure the signal to noise ratio of the gradients of 2^18 examples with Gaussian inputs."""
    decay, number = 0.7, 2**18
    layer = recurrent(leaky(decay), Scan())
    params = jnp.full(1, decay, dtype)

    @jax.jit
    def measure(params: jax.Array) -> jax.Array:
        xs = jax.random.normal(jax.random.key(0), (30, number, 1), dtype)
        carry = jnp.zeros((number, 1), dtype)
        gradients = per_example_gradients(bind(layer, params), _half_square, xs, carry=carry)
        return signal_to_noise(gradients).ratio

    return Values(decay**2 / (1 + 2 * decay**2), float(measure(params)))


# ---------------------------------------------------------------- influence balancing


SIZE, THETA, BALANCING_WINDOWS = 23, 0.5, (1, 19, 41, 100)
A = np.eye(SIZE) / 2 + np.eye(SIZE, k=1) / 2
S = np.where(np.arange(SIZE) < 10, 1.0, -1.0)
REST = THETA * np.linalg.solve(np.eye(SIZE) - A, S)  # the fixed point, whose first number is -6 theta


def _balancing(dtype: Any) -> tuple[Layer, jax.Array, jax.Array]:
    """Return the layer, theta, and the carry at the fixed point."""
    a, s = jnp.asarray(A, dtype), jnp.asarray(S, dtype)

    def step(theta: jax.Array, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = h @ a.T + theta * s
        return h, h

    cell = Cell(
        init=lambda key, x: jnp.full(1, THETA, x.dtype),
        initial_carry=lambda params, x: jnp.zeros((*x.shape[:-1], SIZE), x.dtype),
        recurrence=Step(step),
    )
    return recurrent(cell, Scan()), jnp.full(1, THETA, dtype), jnp.asarray(REST[None], dtype)


def _balancing_loss(ys: jax.Array, targets: Any) -> jax.Array:
    return 0.5 * (ys[-1, :, 0] - 1) ** 2


def _sensitivities(count: int) -> np.ndarray:
    """Return dh_1/dtheta from the last 1, 2, ..., count steps."""
    terms, power = [], S.copy()
    for _ in range(count):
        terms.append(power[0])
        power = A @ power
    return np.cumsum(terms)


def balanced_influence(dtype: Any) -> Values:
    """Measure dh_1/dtheta, the gradient over (h_1 - 1), in full and truncated over two windows."""
    layer, theta, carry = _balancing(dtype)
    error = REST[0] - 1
    measured = []
    for estimator, length in ((full_bptt(), 200), *((truncated_bptt(k), 2 * k) for k in BALANCING_WINDOWS)):
        xs = jnp.zeros((length, 1, 1), dtype)
        measured.append(float(_gradient(estimator, layer, _balancing_loss, theta, carry, xs)[0]) / error)
    exact = _sensitivities(max(BALANCING_WINDOWS))[np.array(BALANCING_WINDOWS) - 1]
    return Values([-6.0, *exact], measured)


def balanced_signs(dtype: Any) -> Values:
    """Compare the sign of the truncated gradient with that of the full gradient, for each window up to 100."""
    layer, theta, carry = _balancing(dtype)
    found = _bias(layer, theta, carry, jnp.zeros((200, 1, 1), dtype), _balancing_loss, 100)
    return Values(-np.sign(_sensitivities(100)), found.cosine)


# ---------------------------------------------------------------- forward accumulation


def real_time(dtype: Any) -> Values:
    """Compare RTRL over two chunks with backpropagation, for two LSTM layers, relative to the largest number."""
    layer = serial(*(recurrent(lstm(2, param_dtype=dtype), Scan()) for _ in range(2)))
    xs = jnp.asarray(gaussian(0, 6, 1, 2), dtype)
    params = jax.jit(layer.init)(jax.random.key(0), xs[0])
    carry = layer.initial_carry(params, xs[0])

    def loss(ys: jax.Array, targets: Any) -> jax.Array:
        return jnp.sum((ys - 1) ** 2, -1)

    init, update = rtrl().bind(layer, loss)

    @jax.jit
    def run(params: Any, carry: Any) -> Any:
        first, after, state = update(params, carry, init(params, carry, xs[0]), Batch(xs[:3], None))
        second = update(params, after, state, Batch(xs[3:], None))[0]
        return jax.tree.map(jnp.add, first.gradients, second.gradients)

    trees = (_gradient(full_bptt(), layer, loss, params, carry, xs), run(params, carry))
    exact, measured = (np.asarray(as_vector(tree)) for tree in trees)
    return Values(exact / np.max(np.abs(exact)), measured / np.max(np.abs(exact)))


CHECKS = (
    # Sums of 161 terms; the influence of the start is negligible after 160 steps.
    Check(
        "C11", "truncated BPTT, K=5, 20: expected relative bias lambda^2K", truncated_expectation, 1e-12, 1e-5
    ),
    Check("C11", "bias by lag, K to 40: lambda^2K", bias_by_lag, 1e-12, 1e-5),
    # With 2^18 examples the square of the mean has a relative deviation of .8%, the variance one of .6%; four of both.
    relative("C11", "gradient SNR at .7: lambda^2/(1 + 2 lambda^2)", signal_to_noise_ratio, 0.04),
    # Numbers up to 16, from sums with cancellation.
    Check(
        "C12", "influence balancing: dh_1/dtheta in full, K=1, 19, 41, 100", balanced_influence, 1e-9, 1e-3
    ),
    Check("C12", "influence balancing: wrong sign to K=40, right from 41", balanced_signs, 1e-9, 1e-3),
    Check("C28", "two LSTM layers, two chunks: RTRL = BPTT", real_time, 1e-12, 1e-5),
)
