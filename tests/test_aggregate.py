"""Test interquartile means and intervals over seeds, where some seeds have no number."""

import math

import numpy as np
import pytest

from seqjax.report.aggregate import BAND_POINTS, band, interval, iqm, spread, spread_of_decades
from seqjax.statistics import bootstrap, interquartile_mean


def test_the_middle_is_the_interquartile_mean_of_the_seeds_that_have_a_number():
    values = np.random.default_rng(0).normal(size=(5, 3, 4))
    values[1, 2, 3] = values[4, 2, 3] = values[0, 0, 0] = math.nan
    values[:, 1, 1] = math.nan
    values[2, 0, 2] = -math.inf  # a gradient of zero, outside of the middle half
    expected = np.full((3, 4), math.nan)
    for place in np.ndindex(3, 4):
        known = values[(slice(None), *place)]
        known = known[~np.isnan(known)]
        if known.size:
            expected[place] = interquartile_mean(known)
    np.testing.assert_allclose(iqm(values), expected)
    assert np.isnan(expected).sum() == 1 and np.isfinite(expected[0, 2])


def test_a_band_is_the_bootstrap_interval_of_every_point():
    values = np.random.default_rng(1).normal(size=(8, 3)) + [0.0, 10.0, 20.0]
    low, high = band(values)
    for point in range(3):
        expected = bootstrap([values[:, point]])
        np.testing.assert_allclose([low[point], high[point]], expected[1:], atol=0.15)
        assert low[point] < iqm(values)[point] < high[point]
    # The two seeds of one point give their own range; a single seed tells nothing.
    values[2:, 0] = values[1:, 1] = math.nan
    low, high = band(values)
    np.testing.assert_allclose([low[0], high[0]], np.sort(values[:2, 0]))
    assert np.isnan([low[1], high[1]]).all() and np.isfinite([low[2], high[2]]).all()


def test_a_long_band_is_straight_between_its_points_and_keeps_its_gaps():
    lags = np.arange(4.0 * BAND_POINTS)
    values = np.stack([-lags, -1 - lags])
    values[:, 500:] = math.nan
    low, high = band(values)
    np.testing.assert_allclose(low[:490], values[1, :490])
    np.testing.assert_allclose(high[:490], values[0, :490])
    assert np.isnan(low[510:]).all()


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        ([1.0, 2.0], {"counts": True}, "1.5 (1 to 2)"),
        ([0.5, 0.25], {}, "0.375 (0.250 to 0.500)"),
        ([1.0, 100.0], {"log": True}, "10.0 (1.00 to 100)"),
        ([0.5, 0.25], {"factor": 100.0}, "37.5 (25.0 to 50.0)"),
        ([3.0], {}, "3.00"),
        ([math.nan, None, 3.0], {"counts": True}, "3"),
        ([math.nan], {}, "–"),
        ([], {}, "–"),
        ([-2.0, -4.0], {"counts": True}, "−3 (−4 to −2)"),
    ],
)
def test_a_spread_is_the_middle_and_its_interval(values, options, text):
    assert spread(values, **options).striptags() == text


def test_powers_of_ten_are_spread_in_their_exponents():
    assert spread_of_decades([-2.0, -4.0]).striptags() == "10−3.0 (10−4.0 to 10−2.0)"
    assert spread_of_decades([-math.inf, -math.inf]).striptags() == "exactly 0"
    assert math.isnan(interval([math.nan]).estimate)
