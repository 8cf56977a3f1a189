"""Functions for the closed forms, in float64 by NumPy, independent of the probes."""

import math
from collections.abc import Callable

import numpy as np


def gaussian_mean(function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the mean of a smooth function of a standard normal number, by Gauss-Hermite quadrature of 120 points."""
    return float(WEIGHTS @ function(NODES))


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
WEIGHTS = WEIGHTS / math.sqrt(2 * math.pi)


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    """Return the logistic function of x."""
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Draw standard normal numbers by NumPy, independently of the settings and device of JAX."""
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(seed: int, size: int) -> np.ndarray:
    """Draw a random orthogonal matrix."""
    return np.linalg.qr(gaussian(seed, size, size))[0]
