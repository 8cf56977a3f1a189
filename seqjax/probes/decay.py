"""Decay of a gradient with the lag: fits of two laws, and horizons without a fit, in float64 on NumPy arrays."""

import math
from typing import NamedTuple

import numpy as np

from seqjax.checks import check_within


class Decay(NamedTuple):
    r"""Result of `fit_decay` for a profile of log norms over lags 0, 1, 2, ...

    Attributes:
        exponential_rate: slope a in :math:`\log n = c + a \tau`, in nats per step of lag; negative for vanishing
            gradients.
        exponential_length: e-folding length -1/a in steps; infinite if the gradients do not decay.
        exponential_aic: Akaike's criterion of the exponential fit. The smaller criterion is the better fit.
        power_exponent: p in :math:`\log n = c + p \log(1 + \tau)`.
        power_aic: Akaike's criterion of the power law.
        better: "exponential" or "power", by the smaller criterion.
        lag_50: the smallest lag that covers 50% of the summed norm.
        lag_90: the smallest lag that covers 90% of the summed norm.
    """

    exponential_rate: float
    exponential_length: float
    exponential_aic: float
    power_exponent: float
    power_aic: float
    better: str
    lag_50: float
    lag_90: float


def fit_decay(log_norm: np.ndarray) -> Decay:
    r"""Fit an exponential and a power law to a profile, by least squares in the log domain.

    Both laws have two parameters and a variance, so AIC, :math:`n \log(\mathrm{RSS}/n) + 2 \cdot 3`, compares their
    residuals. The fits exclude entries that are not finite (masked steps, gradients of exactly zero). In the horizons
    zeros count as zero. With fewer than three finite entries the fits are NaN. The better law depends on the range of
    lags: a mixture of exponentials may resemble a power law at short lags.

    Args:
        log_norm: natural logs ``[T]`` by lag: ``log_norm[tau]`` belongs to the step tau before the last.

    Raises:
        TypeError: for a `GradientProfile` or its tree of leaves.
        ValueError: unless `log_norm` is a single profile.

    Example:
        >>> import numpy as np
        >>> decay = fit_decay(np.log(0.5) * np.arange(20))
        >>> decay.better, round(decay.exponential_length, 4), decay.lag_50, decay.lag_90
        ('exponential', 1.4427, 0.0, 3.0)
    """
    if isinstance(log_norm, tuple):
        raise TypeError(
            f"fit_decay: expected log norms [T] by lag, got {type(log_norm).__name__}. "
            "Pass one leaf of a profile, reversed in time: fit_decay(profile.log_norm.h[::-1, 0])."
        )
    log_norm = np.asarray(log_norm, np.float64)
    if log_norm.ndim != 1:
        raise ValueError(
            f"fit_decay: expected log norms [T] by lag, got {list(log_norm.shape)}. Fit each example by itself."
        )
    lags = np.arange(len(log_norm), dtype=np.float64)
    finite = np.isfinite(log_norm)
    rate, exponential_aic = _line(lags[finite], log_norm[finite])
    exponent, power_aic = _line(np.log1p(lags[finite]), log_norm[finite])
    better = "" if math.isnan(rate) else ("exponential" if exponential_aic <= power_aic else "power")
    length = math.nan if math.isnan(rate) else (-1 / rate if rate < 0 else math.inf)
    lags_50_90 = horizon(log_norm, 0.5), horizon(log_norm, 0.9)
    return Decay(rate, length, exponential_aic, exponent, power_aic, better, *lags_50_90)


def horizon(log_norm: np.ndarray, share: float) -> float:
    """Return the smallest lag that covers a share of the summed norm; NaN if all norms are zero or NaN.

    Args:
        log_norm: natural logs ``[T]`` by lag.
        share: the share of the sum over all lags, in (0, 1].

    Raises:
        ValueError: for a share outside (0, 1], or unless `log_norm` is a single profile.

    Example:
        >>> import numpy as np
        >>> horizon(np.log([1.0, 1.0, 1.0, 1.0]), 0.5)
        1.0
    """
    check_within("horizon(share)", share, "(0, 1]")
    if np.ndim(log_norm) != 1:
        raise ValueError(
            f"horizon: expected log norms [T] by lag, got {list(np.shape(log_norm))}. Measure each example by itself."
        )
    log_norm = np.where(np.isnan(log_norm), -np.inf, np.asarray(log_norm, np.float64))
    largest = np.max(log_norm, initial=-np.inf)
    if not np.isfinite(largest):
        return math.nan
    mass = np.cumsum(np.exp(log_norm - largest))
    # One rounding error per term must not shift the horizon by a step.
    return float(np.argmax(mass >= share * mass[-1] * (1 - 1e-12 * len(mass))))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and AIC of a straight line by least squares."""
    if len(x) < 3:
        return math.nan, math.nan
    centered = x - x.mean()
    slope = float(centered @ (y - y.mean()) / (centered @ centered))
    residual = y - y.mean() - slope * centered
    # An exact fit has no residual; the rounding of the data bounds the residual from below.
    floor = (np.finfo(np.float64).eps * max(1.0, float(np.max(np.abs(y))))) ** 2
    return slope, len(x) * math.log(max(float(residual @ residual) / len(x), floor)) + 6
