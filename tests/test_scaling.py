"""Test scaling by length: known laws are recovered, bytes and operations follow formulas, crossovers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals
from scipy.special import stdtrit

import seqjax as sj
from seqjax.probes import (
    crossovers,
    find_crossover,
    fit_power_law,
    flops_scaling,
    memory_scaling,
    time_scaling,
)
from seqjax.probes.scaling import gradient_of_carry, outputs

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
LENGTHS = np.array([16.0, 64.0, 256.0, 1024.0])


# ---------------------------------------------------------------- laws and crossings


def test_an_exact_power_law_comes_back_without_error():
    law = fit_power_law(LENGTHS, 7 * LENGTHS**1.5)
    np.testing.assert_allclose(law, [1.5, 0, math.log(7)], atol=1e-12)


def test_the_standard_error_is_that_of_textbook_regression():
    values = 7 * LENGTHS**1.5 * np.exp([0.1, -0.2, 0.05, 0.03])
    (slope, intercept), covariance = np.polyfit(np.log(LENGTHS), np.log(values), 1, cov="unscaled")
    residual = np.log(values) - slope * np.log(LENGTHS) - intercept
    expected = math.sqrt(covariance[0, 0] * np.sum(residual**2) / 2)
    np.testing.assert_allclose(fit_power_law(LENGTHS, values), [slope, expected, intercept], rtol=1e-10)


def test_two_lengths_have_a_slope_without_error_and_zeros_have_none():
    law = fit_power_law([10, 1000], [1, 100])
    assert abs(law.exponent - 1) < 1e-12 and math.isnan(law.standard_error)
    assert all(map(math.isnan, fit_power_law([1, 2, 4], [0, 1, 2])))


def test_lines_cross_where_the_formulas_are_equal():
    found = find_crossover(LENGTHS, 100 * LENGTHS, LENGTHS**2)
    np.testing.assert_allclose(found[:3], [100, 100, 100])
    assert found[3:] == (True, "second", "first")
    outside = find_crossover(LENGTHS, 1e6 * LENGTHS, LENGTHS**2)
    np.testing.assert_allclose(outside.length, 1e6)
    assert not outside.inside


def test_parallel_lines_never_cross_and_equal_ones_everywhere():
    parallel = find_crossover(LENGTHS, 2 * LENGTHS, LENGTHS)
    assert parallel[:4] == (math.inf, 0, math.inf, False) and parallel.cheaper_before == ""
    assert math.isnan(find_crossover(LENGTHS, LENGTHS, LENGTHS).length)


@pytest.mark.parametrize("crossing", [100, 3000])
def test_intervals_hold_the_true_crossing_19_times_in_20(crossing):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(600):
        first, second = (np.exp(rng.normal(0, 0.1, 4)) * v for v in (crossing * LENGTHS, LENGTHS**2))
        found = find_crossover(LENGTHS, first, second)
        inside.append(found.low <= crossing <= found.high)
    assert 0.92 < np.mean(inside) < 0.98


def test_slopes_that_cannot_be_told_apart_leave_the_crossing_open():
    found = find_crossover(LENGTHS, LENGTHS * np.array([1.3, 0.8, 1.2, 0.9]), LENGTHS)
    assert (found.low, found.high) == (0, math.inf)


# Tables of Student's distribution, two-sided.
@pytest.mark.parametrize(
    ("freedom", "confidence", "t"),
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.99, 4.604),
        (5, 0.9, 2.015),
        (30, 0.95, 2.042),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom, confidence, t):
    assert abs(stdtrit(freedom, (1 + confidence) / 2) - t) < 6e-4


# ---------------------------------------------------------------- bytes, operations, seconds


def autodiff(hidden_size):
    return sj.recurrent(sj.elman(hidden_size), sj.Scan(gradient="autodiff"))


def test_bytes_of_a_backward_pass_are_at_least_what_it_must_keep_and_linear_in_the_length():
    lengths = [256, 1024, 4096]
    (found,) = memory_scaling(autodiff(16), X, lengths, program=gradient_of_carry)
    assert abs(found.law.exponent - 1) < 0.05 and found.law.standard_error < 0.05
    kept = 4 * 2 * 16 * found.lengths
    assert np.all(found.values >= kept) and np.all(found.values < 12 * kept)
    weights = 4 * (3 * 16 + 16 * 16 + 16)
    pointers = found.inputs_and_outputs - (2 * weights + 4 * 2 * 3 * found.lengths)
    assert np.all((pointers >= 0) & (pointers <= 64))
    (less,) = memory_scaling(autodiff(16), X, lengths, program=gradient_of_carry, known=lambda n: 8 * n)
    np.testing.assert_array_equal(less.values, found.values - 8 * found.lengths)


def test_operations_by_length_are_those_of_the_formulas():
    cell = sj.elman(16)
    methods = {"loop": sj.Scan(), "newton": sj.Newton()}
    loop, newton = flops_scaling(
        lambda method: sj.recurrent(cell, method), X, [64, 256, 1024], methods=methods, program=outputs
    )
    # Products, bias and sum, tanh; all linear in T.
    np.testing.assert_array_equal(loop.values, loop.lengths * 2 * (2 * (3 + 16) * 16 + 3 * 16))
    assert abs(loop.law.exponent - 1) < 1e-12 and loop.note == ""
    assert "1 loop(s) of unknown length counted as one iteration" in newton.note
    assert (loop.method, newton.method) == ("loop", "newton")


def test_seconds_come_from_methods_that_take_turns_and_compare_by_ratios():
    # A machine that slows down from round to round; one method takes T^2 / 8 and the other 4 T.
    layers = {"square": autodiff(2), "linear": sj.recurrent(sj.elman(2), sj.Scan())}
    lengths, rounds = [8, 16, 64], 4
    ticks = [0.0]
    for length in lengths:
        for number in range(-1, rounds):
            for cost in (length**2 / 8, 4 * length):
                took = [0.0, cost * (2 + number)]
                # The first round, which does not count, is not timed to the end.
                ticks += [ticks[-1] + t for t in (took if number >= 0 else took[:1])]
    clock = iter(ticks[1:]).__next__
    square, linear = time_scaling(
        lambda layer: layer, X, lengths, methods=layers, program=outputs, rounds=rounds, clock=clock
    )
    assert square.samples.shape == (3, 4)
    np.testing.assert_allclose(square.samples / linear.samples, np.repeat([[2 / 8], [4 / 8], [2.0]], 4, 1))
    found = crossovers([square, linear])["square", "linear"]
    np.testing.assert_allclose(found.length, 32)
    assert (found.cheaper_before, found.cheaper_after) == ("square", "linear")


PROBES = (memory_scaling, flops_scaling, time_scaling)
REFUSED = {
    **{f"{probe.__name__}: lengths {lengths}": (
        lambda probe=probe, lengths=lengths: probe(autodiff(2), X, lengths), ValueError,
        rf"{probe.__name__}\(lengths\): expected at least 2 different whole numbers")
       for probe in PROBES for lengths in ([], [8], [8, 8], [8, 0], [8, 2.5])},
    **{f"{probe.__name__}: a layer with methods": (
        lambda probe=probe: probe(autodiff(2), X, [8, 16], methods=[sj.Scan()]), TypeError,
        f"{probe.__name__}: expected with methods a function")
       for probe in PROBES},
    **{f"{probe.__name__}: a function without methods": (
        lambda probe=probe: probe(lambda method: autodiff(2), X, [8, 16]), TypeError,
        f"{probe.__name__}: expected a layer, or a function together with methods")
       for probe in PROBES},
    **{f"{probe.__name__}: no method": (
        lambda probe=probe: probe(lambda method: autodiff(2), X, [8, 16], methods=[]), ValueError,
        rf"{probe.__name__}\(methods\): expected one method at least")
       for probe in PROBES},
    "fit_power_law: one value": (
        lambda: fit_power_law([1, 2], [1]), ValueError, "expected one value per length, 2 in all"),
    "find_crossover: one length": (
        lambda: find_crossover([4], [1], [1]), ValueError, "expected two different lengths"),
    "find_crossover: no cost": (
        lambda: find_crossover([4, 5], [1, 0], [1, 1]), ValueError, "expected finite costs above zero"),
    "crossovers: other lengths": (
        lambda: crossovers([
            *flops_scaling(autodiff(2), X, [8, 16], program=outputs),
            *flops_scaling(autodiff(2), X, [8, 32], program=outputs)]), ValueError,
        "expected one quantity at the same lengths"),
}  # fmt: skip


@refusals(REFUSED)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
