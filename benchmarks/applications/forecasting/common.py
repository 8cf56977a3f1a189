"""What the three tasks of forecasting share."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import seqjax as sj
from seqjax.training import quantile_loss

QUANTILES = (0.025, 0.1, 0.5, 0.9, 0.975)
LOW, MEDIAN, HIGH = 0, 2, 4
"""Places of the bounds of the 95% interval, and of the median."""

LOSS = partial(quantile_loss, quantiles=QUANTILES, event_ndim=1)


class Settings(NamedTuple):
    """The settings of a training run."""

    task: str
    horizon: int
    hidden_size: int
    batch_size: int
    num_steps: int
    cell: str = "lstm"
    num_layers: int = 1
    dropout: float = 0.0
    rate: float = 3e-3


class Task(NamedTuple):
    """A model with its loss and its data.

    ``evaluate(state)`` returns the loss on the validation part. ``forecasts(params, part)`` returns the values
    ``[N, F]`` after the origins of a part, and their quantiles ``[N, F, Q]``, from which ``measure`` makes the metrics.
    """

    model: sj.Layer
    loss: Callable
    batches: Callable[[int], sj.Batch]
    evaluate: Callable[[Any], Mapping[str, float]]
    forecasts: Callable[[Any, str], tuple[np.ndarray, np.ndarray]]
    measure: Callable[[np.ndarray, np.ndarray], Mapping[str, float]]


def forecaster(settings: Settings, *, horizon: int | None) -> sj.Layer:
    """Return the model of some settings."""
    return sj.models.forecaster(
        len(QUANTILES),
        settings.cell,
        horizon=horizon,
        hidden_size=settings.hidden_size,
        num_layers=settings.num_layers,
        dropout=settings.dropout,
        residual=settings.num_layers > 1,
    )


def unroller(model: sj.Layer) -> Callable:
    """Return the compiled ``(params, xs, mask=None) -> outputs [T, B, ...]``, without noise."""
    return jax.jit(lambda params, xs, mask=None: model.unroll(params, None, xs, mask=mask)[1])


def nrmse(actual: np.ndarray, forecast: np.ndarray, scale: float) -> float:
    """Root of the mean squared error relative to a standard deviation."""
    return float(np.sqrt(np.mean(np.square(actual - forecast))) / scale)


def mae(actual: np.ndarray, forecast: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(actual - forecast)))


def smape(actual: np.ndarray, forecast: np.ndarray) -> float:
    """Symmetric mean absolute percentage error, from 0 to 200, as the M3 competition defines it."""
    return float(np.mean(200 * np.abs(actual - forecast) / (np.abs(actual) + np.abs(forecast))))


def mase(actual: np.ndarray, forecast: np.ndarray, scales: np.ndarray) -> float:
    """Mean over series ``[N, H]`` of the mean absolute error relative to that of the seasonal naive one in the past."""
    return float(np.mean(np.abs(actual - forecast).mean(1) / scales))


def coverage(actual: np.ndarray, quantiles: np.ndarray) -> float:
    """Share of values inside the 95% interval, of forecasts ``[..., Q]``."""
    return float(np.mean((actual >= quantiles[..., LOW]) & (actual <= quantiles[..., HIGH])))
