"""Checks of the influence of a step on the last carry, and of the sensitivity to params (C9, C10, C21, C28)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Step
from seqjax.calibration.base import Values, relative
from seqjax.calibration.exact import gaussian, gaussian_mean, orthogonal
from seqjax.calibration.networks import initialized, network
from seqjax.cells.elman import ElmanCarry
from seqjax.cells.lru import lru
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Scan
from seqjax.probes.bound import Bound, bind
from seqjax.probes.influence import terminal_influence
from seqjax.probes.memory_curse import memory_sensitivity


def _log_influence(step: Bound, carry: Any, xs: jax.Array, num_probes: int | None) -> np.ndarray:
    """Return the log norms ``[T, B]``."""

    @jax.jit
    def measure(step: Bound, carry: Any, xs: jax.Array) -> jax.Array:
        key = jax.random.key(0)
        return terminal_influence(step, xs, carry=carry, num_probes=num_probes, key=key).log_norm

    return np.asarray(measure(step, carry, xs), np.float64)


# ---------------------------------------------------------------- the Frobenius norm


def _tanh_network(dtype: Any) -> tuple[Bound, jax.Array, np.ndarray]:
    """Return a network, its inputs, and the norms of its products of Jacobians by NumPy."""
    w, w_x, xs = orthogonal(0, 6), gaussian(1, 2, 6), 0.5 * gaussian(2, 12, 1, 2)
    h, jacobians = np.zeros(6), []
    for x in xs[:, 0]:
        h = np.tanh(x @ w_x + h @ w)
        jacobians.append(np.diag(1 - h**2) @ w.T)
    product, norms = np.eye(6), []
    for jacobian in reversed(jacobians):
        product = product @ jacobian
        norms.append(np.linalg.norm(product))
    return network(w, dtype, "tanh", w_x), jnp.asarray(xs, dtype), np.array(norms[::-1])


def frobenius_norm(dtype: Any) -> Values:
    """Measure the norm from all unit vectors."""
    step, xs, norms = _tanh_network(dtype)
    return Values(norms, np.exp(_log_influence(step, None, xs, None)[:, 0]))


def random_probes(dtype: Any) -> Values:
    """Estimate the squared norm from 4096 vectors of random signs."""
    step, xs, norms = _tanh_network(dtype)
    return Values(norms**2, np.exp(2 * _log_influence(step, None, xs, 4096)[:, 0]))


# ---------------------------------------------------------------- linear recurrent units


RINGS, UNITS, LAGS = ((0.0, 1.0), (0.5, 0.99)), 2**15, np.array([1, 3, 10, 30])


def ring(dtype: Any) -> Values:
    """Measure the mean of abs(lambda)^2T over the units of a layer; random signs are exact for diagonal Jacobians."""
    exact, measured = [], []
    for r_min, r_max in RINGS:
        cell = lru(1, state_size=UNITS, r_min=r_min, r_max=r_max, param_dtype=dtype)
        step, _, xs = initialized(cell, np.zeros((LAGS[-1], 1, 1)), dtype)
        log_norm = _log_influence(step, None, xs, 2)[::-1, 0]
        measured.append(np.exp(2 * log_norm[LAGS - 1]) / (2 * UNITS))  # real and imaginary parts
        above = r_max ** (2 * (LAGS + 1)) - r_min ** (2 * (LAGS + 1))
        exact.append(above / ((LAGS + 1) * (r_max**2 - r_min**2)))
    return Values(exact, measured)


# ---------------------------------------------------------------- the curse of memory


def leaky(decay: float) -> Cell:
    """Return the cell ``h' = lambda h + x`` with the single param lambda ``[1]``."""

    def step(params: Any, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = params * h + x
        return h, h

    return Cell(
        init=lambda key, x: jnp.full(1, decay, x.dtype),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=Step(step),
    )


def correlated_inputs(num_steps: int, correlation: float) -> np.ndarray:
    """Return the inputs ``[T, T]``: example i is the response of ``x' = rho x + noise`` to a unit noise at step i."""
    # x_t = rho x_{t-1} + sqrt(1 - rho^2) e_t, of unit variance from the start.
    scales = np.full(num_steps, math.sqrt(1 - correlation**2))
    scales[0] = 1.0
    lags = np.arange(num_steps)[:, None] - np.arange(num_steps)
    return np.where(lags >= 0, float(correlation) ** np.maximum(lags, 0) * scales, 0.0)


CURSES, CURSE_STEPS = ((0.9, 0.0), (0.99, 0.0), (0.95, 0.9)), 1500


def curse_of_memory(dtype: Any) -> Values:
    r"""Measure :math:`E (dh/d\lambda)^2` as a sum over unit inputs, since dh/dlambda is linear in the inputs."""
    layer, exact, measured = recurrent(leaky(0.0), Scan()), [], []

    @jax.jit
    def measure(decay: jax.Array, xs: jax.Array) -> jax.Array:
        return memory_sensitivity(bind(layer, decay), xs, num_probes=None).log_square[-1]

    for decay, correlation in CURSES:
        xs = correlated_inputs(CURSE_STEPS, correlation)
        value = measure(jnp.full(1, decay, dtype), jnp.asarray(xs[..., None], dtype))
        measured.append(math.exp(float(value)) * CURSE_STEPS)  # the probe takes the mean over examples
        square, product = decay**2, decay * correlation
        above = (1 + square) * (1 - product**2) + 2 * (1 - square) * product
        exact.append(above / ((1 - square) ** 3 * (1 - product) ** 2))
    return Values(exact, measured)


# ---------------------------------------------------------------- mean field


VARIANCES, WIDTH = (0.9, 1.5, 2.0, 3.0), 1024


def mean_field(dtype: Any) -> Values:
    """Measure the growth per step of the squared gradient in wide random networks, over 20 steps after 20 steps."""
    z, h = gaussian(0, WIDTH, WIDTH) / math.sqrt(WIDTH), ElmanCarry(jnp.asarray(gaussian(1, 1, WIDTH), dtype))
    step = network(z, dtype, "tanh")

    @jax.jit
    def measure(step: Bound, scale: jax.Array) -> jax.Array:
        scaled = bind(step.layer, step.params._replace(w_h=scale * step.params.w_h))
        xs = jnp.zeros((40, 1, 1), dtype)
        log_norm = terminal_influence(scaled, xs, carry=h, num_probes=4, key=jax.random.key(0)).log_norm
        return (log_norm[20, 0] - log_norm[39, 0]) / 19

    measured = [math.exp(2 * float(measure(step, jnp.sqrt(jnp.asarray(v, dtype))))) for v in VARIANCES]
    return Values([growth(v) for v in VARIANCES], measured)


def growth(variance: float) -> float:
    r"""Return :math:`\chi = \sigma_w^2 E[\tanh'(\sqrt{q}\,z)^2]` at the root of :math:`q = \sigma_w^2 E[\tanh^2]`."""

    def after(q: float) -> float:
        return variance * gaussian_mean(lambda z: np.tanh(math.sqrt(q) * z) ** 2)

    q = 1.0
    for _ in range(1000):
        q = after(q)
    return variance * gaussian_mean(lambda z: np.cosh(math.sqrt(q) * z) ** -4)


CHECKS = (
    # The squares of 2^15 units at T = 30 have a relative deviation of 3.8, their mean one of 2.1%; four of these.
    relative("C9", "LRU rings [0, 1] and [.5, .99]: E abs(lambda)^2T, T to 30", ring, 0.085),
    # After 1500 steps at .99, the start contributes 4e-11. Float32 resolves 1 - .99 to 3e-6, and V is cubic in it.
    relative("C10", "curse of memory, .9, .99, and .95 with correlated inputs", curse_of_memory, 1e-9, 1e-3),
    relative("C21", "tanh mean field, N=1024: chi for sigma_w^2 .9, 1.5, 2, 3", mean_field, 0.03),
    relative("C28", "tanh network: abs(dh_T/dh_t)_F by unit vectors", frobenius_norm, 1e-12, 1e-5),
    # A relative variance of at most 2/4096 per square; four standard deviations.
    relative("C28", "tanh network: abs(J)_F^2 = E abs(Jv)^2, 4096 probes", random_probes, 0.09),
)
