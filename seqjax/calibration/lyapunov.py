"""Checks of Lyapunov exponents (C1, C2, C5, C6, C7, C13, C14, C17, C28)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import digamma

from seqjax.calibration.base import Check, Values, roundings
from seqjax.calibration.exact import gaussian, orthogonal, sigmoid
from seqjax.calibration.networks import initialized, network
from seqjax.cells.delta_net import delta_net
from seqjax.cells.gla import gla
from seqjax.cells.ssd import ssd
from seqjax.probes.bound import Bound
from seqjax.probes.lyapunov import lyapunov_spectrum


def _exponents(step: Any, carry: Any, xs: Any, **options: Any) -> np.ndarray:
    """Return the exponents, largest first; of a batch those of the first example."""
    num_steps, xs = (xs, None) if isinstance(xs, int) else (None, xs)

    @jax.jit
    def measure(step: Any, carry: Any, xs: Any) -> jax.Array:
        return lyapunov_spectrum(step, num_steps or xs, carry=carry, **options).exponents

    as_tree = step if isinstance(step, Bound) else jax.tree_util.Partial(step)
    found = np.asarray(measure(as_tree, carry, xs), np.float64)
    return found[0] if found.ndim == 2 else found


# ---------------------------------------------------------------- linear networks


SCALE, LONG = 0.8, 10_000


def scaled_orthogonal(dtype: Any) -> Values:
    """Measure the exponents of h = g Q h."""
    found = _exponents(network(SCALE * orthogonal(0, 5), dtype), None, jnp.zeros((LONG, 1, 1), dtype))
    return Values(np.full(5, math.log(SCALE)), found)


def linear(dtype: Any) -> Values:
    """Measure the exponents of h = W h with real and complex eigenvalues."""
    w = gaussian(1, 5, 5) / math.sqrt(5)
    found = _exponents(network(w, dtype), None, jnp.zeros((LONG, 1, 1), dtype))
    return Values(np.sort(np.log(np.abs(np.linalg.eigvals(w))))[::-1], found)


def gaussian_products(dtype: Any) -> Values:
    """Measure the exponents of products of independent matrices, N = 8, entries of variance 1/N."""
    matrices = jnp.asarray(gaussian(2, 6000, 8, 8) / math.sqrt(8), dtype)
    found = _exponents(lambda h, j: (j @ h, None), jnp.zeros(8, dtype), matrices)
    return Values([(math.log(2 / 8) + digamma((8 - k + 1) / 2)) / 2 for k in range(1, 9)], found)


# ---------------------------------------------------------------- volumes


def tanh_volume(dtype: Any) -> Values:
    """Compare the sum of exponents, and the mean of ln abs(det J), with ln abs(det W) + sum ln(1 - h^2)."""
    w, w_x, xs = 0.9 * orthogonal(3, 4), gaussian(4, 2, 4), gaussian(5, 200, 1, 2)
    h, logs = np.zeros(4), []
    for x in xs[:, 0]:
        h = np.tanh(x @ w_x + h @ w)
        logs.append(np.linalg.slogdet(w)[1] + np.sum(np.log(1 - h**2)))

    @jax.jit
    def measure(step: Any, xs: Any) -> Any:
        spectrum = lyapunov_spectrum(step, xs, log_determinant=True)
        return jnp.stack([spectrum.sum[0], spectrum.log_determinant[0]])  # type: ignore[index]

    measured = measure(network(w, dtype, "tanh", w_x), jnp.asarray(xs, dtype))
    return Values(np.full(2, np.mean(logs)), measured)


def householder_volume(dtype: Any) -> Values:
    """Measure DeltaNet, beta in (0, 2): all columns of its state have the Jacobian I - beta k k'."""
    cell = delta_net(2, num_heads=1, key_size=3, value_size=2, negative_eigenvalues=True, param_dtype=dtype)
    step, params, xs = initialized(cell, gaussian(6, 200, 1, 4), dtype)
    beta = 2 * sigmoid(np.asarray(xs, np.float64)[:, 0] @ params.w_beta)
    measured = np.sum(_exponents(step, None, xs))
    return Values(2 * np.mean(np.log(np.abs(1 - beta))), measured)


def henon_volume(dtype: Any) -> Values:
    """Measure the sum of the exponents; each step contracts areas by b."""
    return Values(math.log(0.3), np.sum(_exponents(_henon, (jnp.asarray(0.1, dtype),) * 2, 200)))


# ---------------------------------------------------------------- decays


def gated_linear_attention(dtype: Any) -> Values:
    """Measure GLA: the rows of the state decay by the mean of ln alpha, in V columns each."""
    cell = gla(2, num_heads=1, key_size=3, value_size=2, rank=2, param_dtype=dtype)
    step, params, xs = initialized(cell, gaussian(7, 100, 1, 4), dtype)
    gates = sigmoid(np.asarray(xs, np.float64)[:, 0] @ params.w_a1 @ params.w_a2 + params.b_a)
    exact = np.repeat(np.mean(np.log(gates) / 16, 0), 2)
    return Values(np.sort(exact)[::-1], _exponents(step, None, xs))


def state_space_duality(dtype: Any) -> Values:
    """Measure SSD: the heads decay by the mean of A dt, in all K V numbers."""
    cell = ssd(4, num_heads=2, key_size=2, value_size=2, param_dtype=dtype)
    step, params, xs = initialized(cell, gaussian(8, 100, 1, 4), dtype)
    dt = np.log1p(np.exp(np.asarray(xs, np.float64)[:, 0] @ params.w_dt + params.b_dt))
    exact = np.repeat(np.mean(-np.exp(params.a_log) * dt, 0), 4)
    return Values(np.sort(exact)[::-1], _exponents(step, None, xs))


# ---------------------------------------------------------------- chaos


def _henon(carry: Any, _: Any) -> Any:
    a, b = carry
    return (1 - 1.4 * a**2 + b, 0.3 * a), None


def henon(dtype: Any) -> Values:
    """Compare with published values."""
    found = _exponents(_henon, (jnp.asarray(0.1, dtype),) * 2, 20_000, warm_up=100)
    return Values([0.41922, -1.62319], found)


def _lorenz_field(s: jax.Array) -> jax.Array:
    x, y, z = s
    return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 * z / 3])


def _lorenz(s: jax.Array, _: Any, dt: float = 0.01) -> Any:
    """Run one step of the Runge-Kutta method of order 4."""
    k1 = _lorenz_field(s)
    k2 = _lorenz_field(s + dt / 2 * k1)
    k3 = _lorenz_field(s + dt / 2 * k2)
    k4 = _lorenz_field(s + dt * k3)
    return s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None


def lorenz(dtype: Any) -> Values:
    """Compare with the three published values, and their sum, the divergence of the field."""
    start = jnp.asarray([-8.0, -7.0, 27.0], dtype)
    found = 100 * _exponents(_lorenz, start, 300_000, warm_up=1000, qr_every=10)
    return Values([0.9056, 0.0, -14.5723, -41 / 3], [*found, np.sum(found)])


def logistic_and_tent(dtype: Any) -> Values:
    """Measure two maps side by side, r = 4 and a slope of 1.7."""

    def step(carry: Any, _: Any) -> Any:
        x, y = carry
        return (4 * x * (1 - x), 1.7 * jnp.minimum(y, 1 - y)), None

    found = _exponents(step, (jnp.asarray(0.3, dtype), jnp.asarray(0.4, dtype)), 100_000)
    return Values([math.log(2), math.log(1.7)], found)


# ---------------------------------------------------------------- two directions


TWO_WAYS = 2000


def _both_ways(dtype: Any) -> list[np.ndarray]:
    step = network(orthogonal(9, 4), dtype, "tanh", gaussian(10, 2, 4))
    xs = jnp.asarray(gaussian(11, TWO_WAYS, 1, 2), dtype)
    return [_exponents(step, None, xs, direction=direction) for direction in ("forward", "backward")]


def two_ways(dtype: Any) -> Values:
    """Compare QR with the Jacobians forward and with their transposes backward."""
    return Values(*_both_ways(dtype))


CHECKS = (
    # At most one rounding of the logarithm per step, averaged.
    Check("C1", f"exponents of h = g Q h, T={LONG}: ln g", scaled_orthogonal, *roundings(LONG)),
    # Finite T: the logarithm of the condition of the eigenvectors, over T.
    Check("C2", f"exponents of h = W h, T={LONG}: ln abs(eigenvalues)", linear, 1e-3, 1e-3),
    # The last one has a standard deviation of 1.11 per step, .014 after 6000.
    Check("C5", "exponents of Gaussian products, N=8, T=6000", gaussian_products, 0.03, 0.03),
    # Means of logarithms with errors of some eps.
    Check("C6", "tanh network: sum of exponents = mean ln abs(det J)", tanh_volume, 1e-10, 1e-4),
    Check("C6", "DeltaNet: sum of exponents = E ln abs(1 - beta)", householder_volume, 1e-10, 1e-4),
    Check("C7", "GLA: all exponents = mean ln alpha", gated_linear_attention, 1e-12, 1e-5),
    Check("C7", "SSD: all exponents = mean of A dt", state_space_duality, 1e-12, 1e-5),
    Check("C13", "Henon: exponents, T=20000", henon, 1e-2, 1e-2),
    Check("C13", "Henon: sum of exponents = ln .3", henon_volume, 1e-10, 1e-5),
    Check("C14", "Lorenz-63: exponents and their sum, -41/3", lorenz, 0.01, 0.01),
    # The exponent of the logistic map is that of the tent map up to O(1/T).
    Check("C17", "logistic map, r=4: ln 2; tent map, slope 1.7", logistic_and_tent, 1e-4, 1e-2),
    # Both differ from their common limit by O(1/T).
    Check(
        "C28",
        f"tanh network: exponents forward and backward, T={TWO_WAYS}",
        two_ways,
        20 / TWO_WAYS,
        20 / TWO_WAYS,
    ),
)
