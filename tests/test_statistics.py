"""Compare the statistics with closed forms, SciPy and published values, and test their coverage."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from seqjax.probes.lyapunov import half_width
from seqjax.statistics import (
    bootstrap,
    horizon_interval,
    interquartile_mean,
    paired_comparison,
    probability_of_improvement,
    resampling,
    sign_flip_test,
    wilson,
)


@pytest.fixture(name="rng")
def _rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("n", [4, 8, 20, 100])
def test_for_multiples_of_four_the_interquartile_mean_is_the_trimmed_mean(n, rng):
    values = rng.standard_cauchy((3, n))
    np.testing.assert_allclose(
        interquartile_mean(values, axis=1), stats.trim_mean(values, 0.25, axis=1), rtol=1e-13
    )
    assert interquartile_mean(values.reshape(-1)[: 4 * (n // 4)]) == interquartile_mean(
        values.reshape(-1)[: 4 * (n // 4)][::-1]
    )


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 11])
def test_the_interquartile_mean_integrates_the_quantile_function_over_the_middle_half(n, rng):
    values = np.sort(rng.normal(size=n))
    quantile = lambda u: values[min(int(u * n), n - 1)]  # noqa: E731
    inner = [k / n for k in range(1, n) if 0.25 < k / n < 0.75]
    expected = 2 * integrate.quad(quantile, 0.25, 0.75, points=inner or None)[0]
    assert interquartile_mean(rng.permutation(values)) == pytest.approx(expected, rel=1e-10)


def test_an_infinite_value_in_the_outer_quarters_does_not_count():
    assert interquartile_mean([-math.inf, 1.0, 2.0, math.inf]) == 1.5
    assert interquartile_mean([-math.inf, -math.inf, 2.0, 3.0]) == -math.inf


def test_the_bootstrap_of_two_values_has_the_three_resamples_there_are():
    found = bootstrap([[0.0, 1.0]], np.mean, level=0.4)  # 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4
    assert found == (0.5, 0.5, 0.5)
    assert bootstrap([[0.0, 1.0]], np.mean, level=0.6) == (0.5, 0.0, 1.0)


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_limit(rng):
    strata = [rng.normal(size=400), rng.normal(3.0, 2.0, size=600)]
    everything = np.concatenate(strata)
    # Resampling inside the strata leaves out the variance between them.
    deviation = math.sqrt(sum(len(s) * s.var() for s in strata)) / len(everything)
    found = bootstrap(strata, np.mean)
    assert found.estimate == pytest.approx(everything.mean())
    expected = everything.mean() + np.array([-1.96, 1.96]) * deviation
    np.testing.assert_allclose(found[1:], expected, atol=0.06 * deviation)


def test_bootstrap_intervals_cover_what_they_estimate_about_as_often_as_they_say():
    covered = 0
    for trial in range(300):
        values = np.random.default_rng(trial).normal(size=20)
        found = bootstrap([values], resamples=400, level=0.9, seed=trial)
        covered += found.low <= 0 <= found.high
    assert 0.82 <= covered / 300 <= 0.94  # percentile intervals of 20 values are a little too narrow


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(rng):
    values = [rng.normal(size=60)]
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, seed=1) != bootstrap(values)
    assert bootstrap(values, seed=1).low == pytest.approx(bootstrap(values).low, abs=0.1)


def test_blocks_of_resamples_change_nothing_but_the_memory(monkeypatch, rng):
    values = [rng.normal(size=50)]
    whole = bootstrap(values, resamples=4000)
    monkeypatch.setattr(resampling, "BLOCK", 997 * 50)
    assert bootstrap(values, resamples=4000) == pytest.approx(whole, abs=0.05)


def test_logarithms_are_aggregated_as_logarithms():
    values = np.exp([-300.0, -200.0, -100.0, -600.0])
    found = bootstrap([values], np.mean, log=True)
    assert found.estimate == pytest.approx(math.exp(-300.0))
    plain = bootstrap([np.log(values)], np.mean)
    np.testing.assert_allclose(found, np.exp(plain), rtol=1e-12)
    assert bootstrap([[0.0, 1.0]], np.mean, log=True).estimate == 0.0


def test_a_single_seed_has_an_estimate_and_no_interval():
    estimate, low, high = bootstrap([[1.0, 2.0], [3.0]])
    assert estimate == interquartile_mean([1.0, 2.0, 3.0]) and math.isnan(low) and math.isnan(high)
    assert math.isnan(paired_comparison([[1.0]], [[2.0]]).difference.low)
    assert math.isnan(probability_of_improvement([[1.0]], [[2.0]]).high)


def test_a_paired_comparison_sees_what_the_spread_of_the_seeds_hides(rng):
    shared = rng.normal(0, 10, size=12)
    a, b = shared, shared + 0.5 + rng.normal(0, 0.1, size=12)
    paired = paired_comparison([a], [b])
    assert paired.difference.low > 0.3 and paired.difference.high < 0.7
    assert paired.wins == 1.0 and paired.pairs == 12
    unpaired = probability_of_improvement([a], [b])
    assert unpaired.low < 0.5 < unpaired.high


def test_a_paired_ratio_of_a_common_factor_is_that_factor(rng):
    a = np.exp(rng.normal(0, 50, size=8))
    found = paired_comparison([a], [1.25 * a], log=True)
    np.testing.assert_allclose(found.difference, 1.25, rtol=1e-12)
    ties = paired_comparison([[0.0, 1.0, 3.0]], [[0.0, 1.0, 2.0]], log=True)
    assert ties.wins == pytest.approx(1 / 3)


@pytest.mark.parametrize("n", [2, 3, 8, 40])
def test_the_sign_flip_test_is_the_permutation_test_of_scipy(n, rng):
    differences = rng.normal(0.3, 1.0, size=n)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    ).pvalue
    found = sign_flip_test(differences)
    assert found == pytest.approx(expected, rel=1e-12 if n <= 12 else 0.15)
    assert sign_flip_test(-differences) == found


def test_seeds_without_a_difference_and_infinite_ones_have_a_p_as_well():
    assert sign_flip_test(np.zeros(6)) == 1.0
    assert sign_flip_test([math.inf, math.inf, math.inf, math.inf]) == 2 / 16
    assert sign_flip_test([math.inf, -math.inf]) == 1.0


def test_probability_of_improvement_is_the_mann_whitney_statistic(rng):
    a, b = rng.integers(0, 8, 15).astype(float), rng.integers(1, 9, 11).astype(float)  # with ties
    u = stats.mannwhitneyu(b, a).statistic
    found = probability_of_improvement([a], [b])
    assert found.estimate == pytest.approx(u / (15 * 11), rel=1e-12)
    backwards = probability_of_improvement([b], [a])
    assert found.estimate + backwards.estimate == pytest.approx(1)
    both = probability_of_improvement([a, b], [b, b])
    assert both.estimate == pytest.approx((found.estimate + 0.5) / 2)


def test_its_interval_agrees_with_resampling_by_hand(rng):
    a, b = rng.normal(size=30), rng.normal(0.6, 1.0, size=25)
    drawn = []
    for _ in range(4000):
        x, y = rng.choice(a, 30), rng.choice(b, 25)
        drawn.append(np.mean(y[:, None] > x) + 0.5 * np.mean(y[:, None] == x))
    found = probability_of_improvement([a], [b])
    np.testing.assert_allclose(found[1:], np.quantile(drawn, [0.025, 0.975]), atol=0.012)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I: method 3, the score method without continuity correction.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(successes, trials, low, high):
    found = wilson(successes, trials)
    assert found.low == pytest.approx(low, abs=5e-5) and found.high == pytest.approx(high, abs=5e-5)
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(found[1:], expected, atol=1e-12)
    mirrored = wilson(trials - successes, trials)
    np.testing.assert_allclose([1 - mirrored.high, 1 - mirrored.low], found[1:], atol=1e-15)


@pytest.mark.parametrize("p", [0.5, 0.75, 0.9, 0.975, 0.9999])
def test_quantiles_of_student_are_the_closed_forms(p):
    q = 2 * p - 1
    for degrees, expected in (
        (1, math.tan(math.pi * q / 2)),
        (2, q * math.sqrt(2 / (1 - q * q))),
        (4, _quantile_of_four(p)),
    ):
        assert special.stdtrit(degrees, p) == pytest.approx(expected, rel=1e-11, abs=1e-12)


def _quantile_of_four(p):
    """Shaw 2006, "Sampling Student's T distribution", equation 37."""
    root = math.sqrt(4 * p * (1 - p))
    return 2 * math.sqrt(max(math.cos(math.acos(root) / 3) / root - 1, 0.0))


def test_block_means_cover_the_mean_of_a_correlated_series():
    rng, covered, naive = np.random.default_rng(3), 0, 0
    for _ in range(200):
        x, noise = np.zeros(2003), rng.normal(size=2003)
        for t in range(1, len(x)):
            x[t] = 0.8 * x[t - 1] + noise[t]
        means = x[3:].reshape(1, 20, 100, 1).mean(2)
        covered += abs(means.mean()) <= half_width(jnp.asarray(means)).item()
        naive += abs(x.mean()) <= 1.96 * x.std() / math.sqrt(len(x))
    assert 0.9 <= covered / 200 <= 0.99 and naive / 200 < 0.7


def test_a_horizon_is_that_of_the_mean_profile_and_spreads_over_seeds_and_sequences():
    rates = np.array([[0.5, 0.5, 0.5], [0.1, 0.1, 0.1]])
    profiles = -rates[..., None] * np.arange(40)
    reach = lambda profile: float(np.argmax(profile < -1.95))  # noqa: E731
    found = horizon_interval(profiles, reach, resamples=2000)
    # Seeds are drawn first: both fast (1/4), both slow (1/4), or one of each.
    assert found == (7.0, 4.0, 20.0)
    alone = horizon_interval(profiles[:1], reach, resamples=50)
    assert alone == (4.0, 4.0, 4.0)
    assert math.isnan(horizon_interval(profiles[:1, :1], reach).low)


def test_in_the_mean_profile_zeros_are_left_out_unless_all_are_zero():
    seen = []
    profiles = np.array([[[0.0, -1.0, -math.inf, math.nan], [0.0, -math.inf, -math.inf, math.nan]]])
    horizon_interval(profiles, lambda p: seen.append(p.copy()) or 0.0, resamples=1)
    np.testing.assert_array_equal(seen[0], [0.0, -1.0, -math.inf, math.nan])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interquartile_mean([1.0, math.nan]), "1 NaN of 2"),
        (lambda: interquartile_mean([]), "at least one value"),
        (lambda: bootstrap([]), "at least one stratum"),
        (lambda: bootstrap([[[1.0]]]), r"strata \[N\]"),
        (lambda: bootstrap([[-1.0, 2.0]], log=True), "at least 0"),
        (lambda: bootstrap([[1.0, 2.0]], resamples=0), "resamples"),
        (lambda: bootstrap([[1.0, 2.0]], level=95), "level"),
        (lambda: paired_comparison([[1.0, 2.0]], [[1.0]]), "common seeds"),
        (lambda: probability_of_improvement([[1.0]], []), "got 1 and 0"),
        (lambda: wilson(3, 2), "3 of 2"),
        (lambda: horizon_interval(np.zeros((2, 3)), float), r"\[2, 3\]"),
    ],
)
def test_values_that_cannot_be_used_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
