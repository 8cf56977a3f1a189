"""Functions that the closed forms need: in float64, by NumPy alone, independent of the probes."""

import math
from collections.abc import Callable

import numpy as np


def digamma(x: float) -> float:
    r"""The logarithmic derivative of the gamma function, for x > 0, to 1e-14.

    .. math:: \psi(x) = \psi(x + n) - \sum_{i<n} \frac{1}{x + i}, \qquad
        \psi(x) \sim \ln x - \frac{1}{2x} - \sum_k \frac{B_{2k}}{2k\,x^{2k}}

    Example:
        >>> round(-digamma(1.0), 12)  # Euler's constant
        0.577215664902
    """
    shift = 0.0
    while x < 10:  # from there on the first term left out is below 1e-16
        shift, x = shift + 1 / x, x + 1
    bernoulli = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
    series = sum(b / (2 * k * x ** (2 * k)) for k, b in enumerate(bernoulli, 1))
    return math.log(x) - 1 / (2 * x) - series - shift


def gaussian_mean(function: Callable[[np.ndarray], np.ndarray]) -> float:
    """The mean of a smooth function of a standard normal number, by Gauss and Hermite's quadrature of 120 points."""
    return float(WEIGHTS @ function(NODES))


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
WEIGHTS = WEIGHTS / math.sqrt(2 * math.pi)


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers from NumPy's generator, so that they do not depend on JAX's settings or device."""
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(seed: int, size: int) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(gaussian(seed, size, size))[0]
