"""Traffic on a highway: the 24 hours of a day, from midnight."""

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
    mae,
    unroller,
)
from seqjax.datasets import sources

DAY, WEEK = 24, 168
PAST = 2 * WEEK
"""Hours before an origin that the model reads."""

LAGS = (24, 48, 72, 168, 336, 504, 672)
PENALTIES = (1.0, 10.0, 100.0)


class Hours(NamedTuple):
    """Vehicles, the hour of the day, the day of the week and the temperature ``[N]``, and where parts begin."""

    vehicles: np.ndarray
    hour: np.ndarray
    weekday: np.ndarray
    temperature: np.ndarray
    validation: int
    test: int

    def origins(self, part: str) -> np.ndarray:
        """Return the midnights of a part."""
        begin, end = (self.validation, self.test) if part == "validation" else (self.test, len(self.vehicles))
        return np.arange(begin, end - DAY + 1, DAY)

    def days(self, origins: np.ndarray) -> np.ndarray:
        """Return the vehicles of the 24 hours after each origin, ``[origins, 24]``."""
        return self.vehicles[origins[:, None] + np.arange(DAY)]


def data() -> Hours:
    """Return the hours with their calendar; 104 empty ones are interpolated linearly."""
    found = sources.traffic()
    since = found.hours.astype(int)  # hours since 1970-01-01, a Thursday
    weekday = (since // DAY + 3) % 7
    temperature = (found.weather[:, 0] - 281) / 13
    return Hours(found.vehicles, since % DAY, weekday, temperature, found.validation, found.test)


def task(settings: Settings, *, seed: int = 0, toy: bool = False, model: sj.Layer | None = None) -> Task:
    """Return a model, by default that of the settings, which reads two weeks and the calendar of the next day.

    The features of an hour are the vehicles, a flag for the day to forecast (where vehicles and temperature are 0),
    hour and weekday as one-hot vectors, the vehicles a week before, and the temperature. The outputs are differences to
    the vehicles a week before.
    """
    traffic = data()
    known = traffic.vehicles[: traffic.validation]
    center, width = known.mean(), known.std()
    vehicles = ((traffic.vehicles - center) / width).astype(np.float32)
    week_ago = np.concatenate([np.zeros(WEEK, np.float32), vehicles[:-WEEK]])
    calendar = np.concatenate([np.eye(DAY)[traffic.hour], np.eye(7)[traffic.weekday]], 1)
    columns = [vehicles, np.zeros_like(vehicles), *calendar.T, week_ago, traffic.temperature]
    features = np.stack(columns, 1).astype(np.float32)
    model = forecaster(settings, horizon=None) if model is None else model
    unroll = unroller(model)
    past = 2 * DAY if toy else PAST

    def windows(origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features ``[past + 24, B, D]`` and differences to the week before ``[24, B]``."""
        steps = origins + np.arange(-past, DAY)[:, None]
        xs = features[steps]
        xs[past:, :, 0], xs[past:, :, 1], xs[past:, :, -1] = 0, 1, 0
        return xs, (vehicles - week_ago)[steps[past:]]

    def batches(step: int) -> sj.Batch:
        begin, end = PAST + WEEK, traffic.validation - DAY
        return sj.Batch(
            *windows(np.random.default_rng([seed, step]).integers(begin, end, settings.batch_size))
        )

    def evaluate(state):
        xs, targets = windows(traffic.origins("validation"))
        return {"loss": float(np.mean(loss(unroll(state.params, xs), targets)))}

    def forecasts(params, part):
        origins = traffic.origins(part)
        found = np.asarray(unroll(params, windows(origins)[0]))[-DAY:]
        before = week_ago[origins + np.arange(DAY)[:, None]][..., None]
        return traffic.days(origins), np.moveaxis((found + before) * width + center, 0, 1)

    def measure(truth, quantiles):
        middle = quantiles[..., MEDIAN]
        return {"traffic MAE": mae(truth, middle), "traffic coverage": coverage(truth, quantiles)}

    return Task(model, loss, batches, evaluate, forecasts, measure)


def loss(ys, targets):
    """The quantile loss of the last day ``[24, B]``, per sequence ``[B]``."""
    return LOSS(ys[-DAY:].swapaxes(0, 1), targets.T)


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Earlier days; ridge regression and boosted trees, which read earlier days and the calendar.

    Regressions are fitted on days from every hour, and once more on days from midnight, as in the test.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge

    traffic = data()
    vehicles = traffic.vehicles

    def inputs(origins: np.ndarray) -> np.ndarray:
        """Lags of each hour, the day before, and the hour of the week: ``[origins * 24, features]``."""
        steps = origins[:, None] + np.arange(DAY)
        lags = np.stack([vehicles[steps - lag] for lag in LAGS], -1).reshape(-1, len(LAGS))
        before = np.repeat(vehicles[origins[:, None] + np.arange(-DAY, 0)], DAY, 0)
        hour = np.eye(WEEK)[(traffic.weekday * DAY + traffic.hour)[steps].ravel()]
        return np.concatenate([lags, before, hour], 1)

    def of(regression, part: str, end: int, every: int = 1) -> float:
        """The error on a part after a fit on the days before `end` that begin at every n-th hour."""
        fitted = np.arange(max(LAGS), end - DAY + 1, DAY if toy else every)
        regression.fit(inputs(fitted), traffic.days(fitted).ravel())
        origins = traffic.origins(part)
        return mae(traffic.days(origins), regression.predict(inputs(origins)).reshape(-1, DAY))

    begin = traffic.validation
    best = min(PENALTIES, key=lambda penalty: of(Ridge(penalty), "validation", begin, DAY))
    origins = traffic.origins("test")
    earlier = lambda *weeks: np.mean([traffic.days(origins - WEEK * week) for week in weeks], 0)  # noqa: E731
    trees = HistGradientBoostingRegressor(loss="absolute_error", random_state=0)
    found = {
        "yesterday": mae(traffic.days(origins), traffic.days(origins - DAY)),
        "last week": mae(traffic.days(origins), earlier(1)),
        "mean of four weeks": mae(traffic.days(origins), earlier(1, 2, 3, 4)),
        "ridge": of(Ridge(best), "test", traffic.test),
        "ridge, from midnight": of(Ridge(best), "test", traffic.test, DAY),
        "boosting": of(trees, "test", traffic.test),
    }
    return {name: {"traffic MAE": value} for name, value in found.items()}
