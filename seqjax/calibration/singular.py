"""Checks of singular values of Jacobians over many steps (C1, C2, C3, C4)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.calibration.base import Check, Values, relative, roundings
from seqjax.calibration.exact import orthogonal
from seqjax.calibration.networks import network
from seqjax.probes.bound import Bound
from seqjax.probes.singular import SingularFan, singular_values


def _fan(step: Bound, num_steps: int, dtype: Any, **options: Any) -> SingularFan:
    """Measure a network without inputs at h = 0."""
    xs = jnp.zeros((num_steps, 1, 1), dtype)
    fan = jax.jit(lambda step, xs: singular_values(step, xs, **options))(step, xs)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), fan)


SCALE, STEPS = 0.8, 1000


def scaled_orthogonal(dtype: Any) -> Values:
    """Measure h = g Q h: the logarithms of all singular values, and of the condition number, which is 1."""
    fan = _fan(network(SCALE * orthogonal(0, 5), dtype), STEPS, dtype, taus=(STEPS,))
    exact = np.append(np.full(5, STEPS * math.log(SCALE)), 0.0)
    return Values(exact, np.append(fan.log_values[0, 0], fan.log_condition[0, 0]))


# Not normal, and conditioned so that NumPy resolves all singular values of the product to 1e-13.
MATRIX = orthogonal(1, 4) @ np.diag([1.3, 1.1, 0.9, 0.8]) @ orthogonal(2, 4)


def linear(dtype: Any, activation: Any = "identity") -> Values:
    """Measure h = W h, or h = tanh(W h) at zero: W^T for T = 1, 4, 8."""
    fan = _fan(network(MATRIX, dtype, activation), 8, dtype, taus=(1, 4, 8))
    powers = [np.linalg.matrix_power(MATRIX, tau) for tau in (1, 4, 8)]
    return Values(np.log(np.linalg.svd(powers, compute_uv=False)), fan.log_values[:, 0])


def tanh_at_zero(dtype: Any) -> Values:
    """Measure the nonlinear network where its slopes are 1."""
    return linear(dtype, "tanh")


def jordan_block(dtype: Any) -> Values:
    """Measure the largest singular value, which grows before it decays."""
    decay = float(np.asarray(0.9, dtype))
    taus = np.array([9, 50, 100])
    fan = _fan(network(np.array([[decay, 1.0], [0.0, decay]]), dtype), 100, dtype, taus=taus.tolist())
    half = taus / (2 * decay)
    return Values(decay**taus * (half + np.sqrt(1 + half**2)), np.exp(fan.log_values[:, 0, 0]))


CHECKS = (
    # One rounding per step of each logarithm; the condition is a difference of two.
    Check(
        "C1",
        f"h = g Q h: log singular values T ln g and log condition 0, T={STEPS}",
        scaled_orthogonal,
        *roundings(2 * STEPS),
    ),
    Check("C2", "h = W h: log singular values of W^T, T=1, 4, 8", linear, 1e-12, 1e-5),
    Check("C3", "h = tanh(W h) at h=0: the same", tanh_at_zero, 1e-12, 1e-5),
    relative("C4", "Jordan block, .9: largest singular value, T=9, 50, 100", jordan_block, 1e-10, 1e-4),
)
