"""Test the data and the metrics of the forecasts with models whose forecasts are known, on made-up series."""

import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from benchmarks.applications import forecasting
from benchmarks.applications.forecasting import common, laser, m3, traffic
from seqjax.datasets import sources

QUANTILES = len(common.QUANTILES)


def numbers(*shape):
    return np.random.default_rng(1).normal(size=shape)


@pytest.fixture
def series(monkeypatch):
    """A noise with the sizes of the laser, whose steps do not resemble each other."""
    made = numbers(10_093).astype(np.float32)
    monkeypatch.setattr(sources, "laser", lambda: sources.Parts(made[:7000], made[7000:8000], made[8000:]))
    return made.astype(np.float64)


@pytest.mark.parametrize("horizon", [1, 100])
def test_a_model_that_repeats_its_input_is_the_naive_forecast_of_the_laser(horizon, series):
    repeats = sj.pointwise(lambda x: jnp.broadcast_to(x, (horizon, QUANTILES)))
    task = laser.task(common.Settings("laser", horizon, 4, 3, 1), model=repeats)
    truth, quantiles = task.forecasts((), "test")
    origins = 8000 + 100 * np.arange(20)
    if horizon == 1:
        assert truth.shape == (2000, 1) and quantiles.shape == (2000, 1, QUANTILES)
        order = np.argsort(
            (np.arange(2000) % 20) * 100 + np.arange(2000) // 20
        )  # [100, 20] to the order of time
        np.testing.assert_allclose(truth[order, 0], series[8000:10000], atol=1e-5)
        np.testing.assert_allclose(quantiles[order, 0, 2], series[7999:9999], atol=1e-5)
    else:
        np.testing.assert_allclose(truth, [series[o : o + 100] for o in origins], atol=1e-5)
        np.testing.assert_allclose(
            quantiles[..., 2], np.repeat(series[origins - 1], 100).reshape(20, 100), atol=1e-5
        )
    name = f"laser {horizon} step{'s' if horizon > 1 else ''}"
    error = np.sqrt(np.mean((truth - quantiles[..., 2]) ** 2)) / series[8000:].std()
    assert task.measure(truth, quantiles)[f"{name} NRMSE"] == pytest.approx(error)


def test_targets_of_the_laser_follow_their_inputs_and_stay_in_the_training_part(series):
    task = laser.task(common.Settings("laser", 5, 4, 64, 1), model=sj.pointwise(lambda x: x))
    batch = task.batches(3)
    assert batch.xs.shape == (256, 64, 1) and batch.targets.shape == (256, 64, 5)
    np.testing.assert_array_equal(batch.xs[1:, :, 0], batch.targets[:-1, :, 0])
    np.testing.assert_array_equal(batch.targets[1:, :, :-1], batch.targets[:-1, :, 1:])
    known = (series[:7000] - series[:7000].mean()) / series[:7000].std()
    assert np.isin(batch.targets.round(4), known.astype(np.float32).round(4)).all()


def test_baselines_of_the_laser_are_exact_where_their_assumptions_hold(monkeypatch):
    steps = np.arange(10_093)
    wave = np.sin(2 * np.pi * steps / 25).astype(np.float32)  # a linear recurrence of order 2, and periodic
    monkeypatch.setattr(sources, "laser", lambda: sources.Parts(wave[:7000], wave[7000:8000], wave[8000:]))
    found = laser.baselines()
    for name in ("autoregression", "analogs"):
        assert found[name]["laser 1 step NRMSE"] < 1e-3 and found[name]["laser 100 steps NRMSE"] < 1e-2
    jump = np.sqrt(np.mean(np.diff(wave[7999:]) ** 2)) / wave[8000:].std()
    assert found["last value"]["laser 1 step NRMSE"] == pytest.approx(jump, rel=1e-4)


@pytest.fixture
def hours(monkeypatch):
    first = np.datetime64("2016-10-01T00", "h")  # a Saturday
    made = (1000 + 100 * numbers(17_520)).astype(np.float32)
    weather = np.full((17_520, 4), 281.0, np.float32)
    test = 17_520 - 90 * 24
    parts = (first + np.arange(17_520), made, weather, np.zeros(17_520, bool), test - 60 * 24, test)
    monkeypatch.setattr(sources, "traffic", lambda: sources.Traffic(*parts))
    return made


def test_a_model_of_zeros_repeats_the_last_week_of_traffic(hours):
    zeros = sj.pointwise(lambda x: jnp.zeros(QUANTILES, x.dtype))
    task = traffic.task(common.Settings("traffic", 24, 4, 3, 1), model=zeros)
    truth, quantiles = task.forecasts((), "test")
    days = 17_520 - 90 * 24 + 24 * np.arange(90)[:, None] + np.arange(24)
    np.testing.assert_array_equal(truth, hours[days])
    np.testing.assert_allclose(quantiles, np.repeat(hours[days - 168][..., None], QUANTILES, -1), rtol=1e-5)
    error = np.abs(hours[days] - hours[days - 168]).mean()
    assert task.measure(truth, quantiles)["traffic MAE"] == pytest.approx(error, rel=1e-5)


def test_the_day_to_forecast_is_hidden_from_the_model(hours, monkeypatch):
    task = traffic.task(common.Settings("traffic", 24, 4, 3, 1), model=sj.pointwise(lambda x: x))
    xs = task.batches(0).xs
    assert xs.shape == (2 * 168 + 24, 3, 2 + 24 + 7 + 2)
    assert (xs[-24:, :, [0, -1]] == 0).all() and (xs[-24:, :, 1] == 1).all() and (xs[:-24, :, 1] == 0).all()
    assert (xs[:, :, 2:26].sum(-1) == 1).all() and (xs[:, :, 26:33].sum(-1) == 1).all()
    np.testing.assert_array_equal(xs[168:-24, :, -2], xs[: -168 - 24, :, 0])  # the vehicles a week before
    found = traffic.data()
    assert found.weekday[0] == 5 and found.hour[25] == 1 and found.weekday[48] == 0  # Saturday, and Monday


@pytest.fixture
def months(monkeypatch):
    past = [np.exp(numbers(length)) for length in (48, 61, 126)]
    future = np.exp(np.random.default_rng(2).normal(size=(3, 18)))
    monkeypatch.setattr(
        sources, "m3", lambda period: sources.Forecast(("a", "b", "c"), past, future, ("",) * 3)
    )
    return past, future


def test_a_model_of_zeros_repeats_the_level_of_each_series(months):
    past, future = months
    zeros = sj.pointwise(lambda x: jnp.zeros((18, QUANTILES), x.dtype))
    task = m3.task(common.Settings("M3", 18, 4, 3, 1), model=zeros)
    truth, quantiles = task.forecasts((), "test")
    np.testing.assert_array_equal(truth, future)
    level = np.array([np.exp(np.log(values[-3:]).mean()) for values in past])
    np.testing.assert_allclose(quantiles, np.broadcast_to(level[:, None, None], quantiles.shape), rtol=1e-5)
    truth, quantiles = task.forecasts((), "validation")
    np.testing.assert_array_equal(truth, [values[-18:] for values in past])
    level = np.array([np.exp(np.log(values[-21:-18]).mean()) for values in past])
    np.testing.assert_allclose(quantiles[:, 0, 0], level, rtol=1e-5)
    loss = np.log([values[-18:] for values in past]) - np.log(level)[:, None]
    pinball = np.mean([np.maximum(q * loss, (q - 1) * loss) for q in common.QUANTILES])
    assert task.evaluate(type("State", (), {"params": ()}))["loss"] == pytest.approx(pinball, rel=1e-5)


def test_windows_of_m3_begin_at_the_first_month_and_hold_the_year_before(months):
    past, _ = months
    window = m3.windows(past, [(0, 30), (2, 100)])
    assert window.lengths.tolist() == [30, 48] and window.mask.sum(0).tolist() == [30, 48]
    logs = np.log(past[0][:30])
    np.testing.assert_allclose(window.xs[0, :30, 0], logs - logs[-12:].mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(window.xs[0, 12:30, 1], window.xs[0, :18, 0])
    assert (window.xs[0, :12, 1] == 0).all() and (window.xs[0, 30:] == 0).all()


def test_the_validation_part_of_m3_is_no_target_of_training(months):
    past, _ = months
    for number, values in enumerate(past):
        past[number] = values.copy()
        past[number][-18:] = 1e6
    zeros = sj.pointwise(lambda x: jnp.zeros((18, QUANTILES), x.dtype))
    task = m3.task(common.Settings("M3", 18, 4, 256, 1), model=zeros)
    batch = task.batches(0)
    assert np.abs(batch.targets).max() < 10 and np.abs(batch.xs).max() < 10


def test_metrics_equal_their_definitions():
    actual, forecast = np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([[3.0, 3.0], [1.0, 2.0]])
    assert common.mae(actual, forecast) == 0.75
    assert common.nrmse(actual, forecast, 2.0) == pytest.approx(np.sqrt(5 / 4) / 2)
    assert common.smape(actual, forecast) == pytest.approx((200 * 2 / 4 + 200 * 1 / 3) / 4)
    assert common.mase(actual, forecast, np.array([0.5, 0.25])) == 2.0
    quantiles = np.array([[0.0, 9, 9, 9, 1], [2.0, 9, 9, 9, 3], [3.0, 9, 9, 9, 4], [0.0, 9, 9, 9, 0.5]])
    assert common.coverage(np.array([1.0, 1, 3, 1]), quantiles) == 0.5


def test_every_variant_makes_its_model():
    for settings in forecasting.VARIANTS.values():
        horizon = None if settings.task == "traffic" else settings.horizon
        assert "forecaster" in repr(common.forecaster(settings, horizon=horizon))
