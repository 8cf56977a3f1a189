"""The laser: forecasts of the next step, and of the next 100 from rolling origins."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import seqjax as sj
from benchmarks.applications.forecasting.common import (
    LOSS,
    MEDIAN,
    Settings,
    Task,
    coverage,
    forecaster,
    mae,
    nrmse,
    unroller,
)
from seqjax.datasets import sources

CONTEXT, EVERY = 200, 100
"""Steps before an origin that the model reads; steps from origin to origin."""
LENGTH = 256
"""Steps of a training window; every step is an origin."""

ORDERS = (5, 20, 40)
DELAYS, NEIGHBORS = (8, 12, 16), (1, 3, 5)


class Laser(NamedTuple):
    """The whole series ``[10093]``, and the first step of the validation and of the test part."""

    series: np.ndarray
    validation: int
    test: int

    def origins(self, part: str) -> np.ndarray:
        """Return the origins of a part: the first step that is not known."""
        end = self.test if part == "validation" else len(self.series)
        return np.arange(self.validation if part == "validation" else self.test, end - EVERY, EVERY)

    @property
    def scale(self) -> float:
        """The standard deviation of the test part."""
        return float(self.series[self.test :].std())


def data() -> Laser:
    """Return the laser."""
    parts = sources.laser()
    return Laser(
        np.concatenate(parts).astype(np.float64), len(parts.train), len(parts.train) + len(parts.validation)
    )


def task(settings: Settings, *, seed: int = 0, toy: bool = False, model: sj.Layer | None = None) -> Task:
    """Return the model of the settings, or the given one, and windows in which every step is an origin."""
    laser, horizon = data(), settings.horizon
    past = laser.series[: laser.validation]
    center, width = past.mean(), past.std()
    series = ((laser.series - center) / width).astype(np.float32)
    length = 32 if toy else LENGTH
    futures = sliding_window_view(series, horizon)  # the horizon that begins at each step
    model = forecaster(settings, horizon=horizon) if model is None else model
    unroll = unroller(model)

    def batches(step: int) -> sj.Batch:
        last = laser.validation - horizon - length
        begin = np.random.default_rng([seed, step]).integers(0, last, settings.batch_size)
        steps = begin + np.arange(length)[:, None]
        return sj.Batch(series[steps][..., None], futures[steps + 1])

    def outputs(params, part):
        """Quantiles ``[EVERY, origins, F, Q]`` of the horizons that begin at the origins and the steps after them."""
        steps = laser.origins(part) - CONTEXT + np.arange(CONTEXT + EVERY)[:, None]
        return np.asarray(unroll(params, series[steps][..., None]))[CONTEXT - 1 : -1]

    def actual(part):
        """The values ``[EVERY, origins, F]`` of these horizons; NaN after the end of the part."""
        end = laser.test if part == "validation" else len(series)
        padded = np.concatenate([series[:end], np.full(horizon, np.nan, np.float32)])
        return sliding_window_view(padded, horizon)[laser.origins(part) + np.arange(EVERY)[:, None]]

    def evaluate(state):
        found, truth = outputs(state.params, "validation"), actual("validation")
        whole = ~np.isnan(truth).any(-1)
        return {"loss": float(np.mean(LOSS(found[whole], truth[whole])))}

    def forecasts(params, part):
        steps = 1 if horizon > 1 else EVERY
        found, truth = outputs(params, part)[:steps], actual(part)[:steps]
        return tuple((a * width + center).reshape(-1, *a.shape[2:]) for a in (truth, found))

    def measure(truth, quantiles):
        name = f"laser {horizon} step{'s' if horizon > 1 else ''}"
        return {
            f"{name} NRMSE": nrmse(truth, quantiles[..., MEDIAN], laser.scale),
            f"{name} MAE": mae(truth, quantiles[..., MEDIAN]),
            f"{name} coverage": coverage(truth, quantiles),
        }

    return Task(model, LOSS, batches, evaluate, forecasts, measure)


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Autoregression and analogs, fitted on the 8,000 steps before the test part."""
    laser = data()
    order = min(ORDERS, key=lambda order: _one_step(_autoregression(laser, order, laser.validation), laser))
    delays, neighbors = min(
        ((d, k) for d in DELAYS for k in NEIGHBORS),
        key=lambda pair: _one_step(_analogs(laser, *pair, laser.validation), laser),
    )
    naive = lambda past: past[..., -1]  # noqa: E731
    return {
        "last value": _measured(naive, laser),
        "autoregression": _measured(_autoregression(laser, order, laser.test), laser),
        "analogs": _measured(_analogs(laser, delays, neighbors, laser.test), laser),
    }


def _autoregression(laser: Laser, order: int, end: int):
    """Return ``past [..., T] -> next``, least squares on the steps before `end`."""
    windows = sliding_window_view(laser.series[:end], order + 1)
    inputs = np.c_[windows[:, :-1], np.ones(len(windows))]
    weights = np.linalg.lstsq(inputs, windows[:, -1], rcond=None)[0]
    return lambda past: past[..., -order:] @ weights[:-1] + weights[-1]


def _analogs(laser: Laser, delays: int, neighbors: int, end: int):
    """Return ``past [..., T] -> next``: the mean of what followed the nearest windows before `end`."""
    from scipy.spatial import cKDTree

    windows = sliding_window_view(laser.series[:end], delays + 1)
    tree = cKDTree(windows[:, :-1])

    def following(past):
        found = tree.query(past[..., -delays:], k=neighbors)[1].reshape(*past.shape[:-1], neighbors)
        return windows[found, -1].mean(-1)

    return following


def _one_step(following, laser: Laser) -> float:
    """The error of one step on the validation part."""
    begin, end = laser.validation, laser.test
    return nrmse(laser.series[begin:end], _next_values(following, laser, begin, end), laser.scale)


def _next_values(following, laser: Laser, begin: int, end: int) -> np.ndarray:
    longest = max(*ORDERS, *DELAYS)
    return following(sliding_window_view(laser.series, longest)[begin - longest : end - longest])


def _measured(following, laser: Laser) -> dict[str, float]:
    """Errors on the test part: of all single steps, and of 100 steps, each from the forecasts before it."""
    end = len(laser.series)
    one = nrmse(laser.series[laser.test :], _next_values(following, laser, laser.test, end), laser.scale)
    origins, longest = laser.origins("test"), max(*ORDERS, *DELAYS)
    path = laser.series[origins[:, None] + np.arange(-longest, 0)]
    for _ in range(EVERY):
        path = np.concatenate([path, following(path)[:, None]], 1)
    truth = laser.series[origins[:, None] + np.arange(EVERY)]
    found = path[:, longest:]
    return {
        "laser 1 step NRMSE": one,
        "laser 100 steps NRMSE": nrmse(truth, found, laser.scale),
        "laser 100 steps MAE": mae(truth, found),
    }
