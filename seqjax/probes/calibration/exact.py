"""Functions that the closed forms need: in float64, by NumPy alone, independent of the probes."""

import math
from collections.abc import Callable

import numpy as np


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
