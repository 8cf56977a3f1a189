"""The 1,428 monthly series of the M3 competition: one model for all of them, 18 months ahead."""

from typing import NamedTuple

import numpy as np

import seqjax as sj
from benchmarks.applications.forecasting.common import (
    LOSS,
    MEDIAN,
    Settings,
    Task,
    coverage,
    forecaster,
    mase,
    smape,
    unroller,
)
from seqjax.datasets import sources
from seqjax.training import last_step

HORIZON, SEASON = 18, 12
PAST = 48
"""Months before an origin that the model reads, at most."""
SHORTEST = 24
"""Months before an origin of training, at least."""


class Windows(NamedTuple):
    """W windows: months ``[W, PAST, 2]`` from the first on, their number ``[W]``, and the log of the level ``[W]``.

    The first column is the logarithm of the value relative to the mean of the last 12, the second one is the first a
    year before. The level, the mean of the last three logarithms, is what the targets are relative to.
    """

    xs: np.ndarray
    lengths: np.ndarray
    level: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Where a month is: ``[PAST, W]``."""
        return np.arange(PAST)[:, None] < self.lengths


def data(every: int = 1) -> sources.Forecast:
    """Return every n-th monthly series."""
    return sources.Forecast(*(part[::every] for part in sources.m3("MONTHLY")))


def windows(series: list[np.ndarray], origins: list[tuple[int, int]]) -> Windows:
    """Return the windows before origins ``(number of the series, first month that is not known)``."""
    xs = np.zeros((len(origins), PAST, 2), np.float32)
    lengths, level = np.zeros(len(origins), int), np.zeros(len(origins))
    logs = [np.log(values) for values in series]
    for place, (number, origin) in enumerate(origins):
        known = logs[number][max(0, origin - PAST) : origin]
        first = (known - known[-SEASON:].mean()).astype(np.float32)
        lengths[place], level[place] = len(known), known[-3:].mean()
        xs[place, : len(known), 0] = first
        xs[place, SEASON : len(known), 1] = first[:-SEASON]
    return Windows(xs, lengths, level)


def task(settings: Settings, *, seed: int = 0, toy: bool = False, model: sj.Layer | None = None) -> Task:
    """Return one model of all series, by default that of the settings.

    The last 18 months of the past are the validation part; they are no targets of training.
    """
    _, past, future, _ = data(14 if toy else 1)
    ends = [len(values) for values in past]
    origins = [
        (number, origin)
        for number, end in enumerate(ends)
        for origin in range(SHORTEST, end - 2 * HORIZON + 1)
    ]
    known = windows(past, origins)
    targets = np.stack([np.log(past[number][origin : origin + HORIZON]) for number, origin in origins])
    targets = (targets - known.level[:, None]).astype(np.float32)
    at = {
        "validation": windows(past, [(number, end - HORIZON) for number, end in enumerate(ends)]),
        "test": windows(past, list(enumerate(ends))),
    }
    actual = {"validation": np.stack([values[-HORIZON:] for values in past]), "test": future}
    scales = np.array([np.mean(np.abs(values[SEASON:] - values[:-SEASON])) for values in past])
    model = forecaster(settings, horizon=HORIZON) if model is None else model
    unroll = unroller(model)

    def batches(step: int) -> sj.Batch:
        chosen = np.random.default_rng([seed, step]).integers(0, len(origins), settings.batch_size)
        batch = Windows(known.xs[chosen], known.lengths[chosen], known.level[chosen])
        return sj.Batch(batch.xs.swapaxes(0, 1), targets[chosen], mask=batch.mask)

    def outputs(params, part):
        """Quantiles of the logarithm relative to the level, ``[N, 18, Q]``."""
        xs, mask = at[part].xs.swapaxes(0, 1), at[part].mask
        return np.asarray(sj.last(unroll(params, xs, mask), mask))

    def evaluate(state):
        truth = np.log(actual["validation"]) - at["validation"].level[:, None]
        return {"loss": float(np.mean(LOSS(outputs(state.params, "validation"), truth.astype(np.float32))))}

    def forecasts(params, part):
        return actual[part], np.exp(outputs(params, part) + at[part].level[:, None, None])

    def measure(truth, quantiles):
        middle = quantiles[..., MEDIAN]
        return {
            "M3 sMAPE": smape(truth, middle),
            "M3 MASE": mase(truth, middle, scales),
            "M3 coverage": coverage(truth, quantiles),
        }

    return Task(model, last_step(LOSS), batches, evaluate, forecasts, measure)


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """The seasonal naive forecast, and the Theta method with its 95% intervals."""
    from statsmodels.tsa.forecasting.theta import ThetaModel

    _, past, future, _ = data(70 if toy else 1)
    scales = np.array([np.mean(np.abs(values[SEASON:] - values[:-SEASON])) for values in past])
    naive = np.stack([np.resize(values[-SEASON:], HORIZON) for values in past])
    theta = np.zeros((*future.shape, 5))
    for number, values in enumerate(past):
        fitted = ThetaModel(values, period=SEASON, method="multiplicative").fit()
        bounds = np.asarray(fitted.prediction_intervals(HORIZON, alpha=0.05))
        theta[number] = np.stack([bounds[:, 0], *[np.asarray(fitted.forecast(HORIZON))] * 3, bounds[:, 1]], 1)
    return {
        "seasonal naive": {
            "M3 sMAPE": smape(future, naive),
            "M3 MASE": mase(future, naive, scales),
        },
        "Theta": {
            "M3 sMAPE": smape(future, theta[..., MEDIAN]),
            "M3 MASE": mase(future, theta[..., MEDIAN], scales),
            "M3 coverage": coverage(future, theta),
        },
    }
