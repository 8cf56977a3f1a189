"""Test the tables, lines and conclusions of each section for rows with known numbers."""

import math

import numpy as np
import polars as pl
import pytest
from helpers import looks
from markupsafe import Markup

from seqjax.report.content import Figure, Fold, Note, Table
from seqjax.report.drawing import TEXT, color_of
from seqjax.report.quantities import measured
from seqjax.report.results import StudyResults
from seqjax.report.sections import (
    algorithms,
    calibration,
    decay,
    losses,
    lyapunov,
    precision,
    scaling,
    signal,
    singular,
    success,
    summary,
    truncation,
)
from seqjax.statistics import wilson
from seqjax.study.experiment import MOMENTS
from seqjax.study.rows import SCHEMA

A, B = "lstm", "lru"
AFTER = {"group": MOMENTS[1]}


def row(section, cell, quantity, value, **columns):
    return {"section": section.SECTION.name, "cell": cell, "quantity": quantity, "value": value} | columns


class Shown:
    """A section's view of rows: its words, its lines by panel and name, its tables as text."""

    def __init__(self, section, rows, baselines=None, **settings):
        tidy = [dict.fromkeys(SCHEMA) | {"part": "p", "length": 64} | each for each in rows]
        settings = {"cells": [A, B], "lengths": [64], "preset": "cpu"} | settings
        self.results = StudyResults(
            pl.DataFrame(tidy, schema=SCHEMA), {"settings": settings, "baselines": baselines}
        )
        self.view = section.view(self.results)
        self.intro, self.lines, self.tables, self.captions = self.words(self.view.intro), {}, {}, []
        self.notes = []
        self._collect(self.view.blocks)

    @staticmethod
    def words(text):
        return " ".join(Markup(text).striptags().split()).replace("\u00a0", " ")

    def _collect(self, blocks):
        for block in blocks:
            if isinstance(block, Fold):
                self._collect(block.blocks)
            if isinstance(block, Table):
                for heading, lines in block.groups:
                    for line in lines:
                        cells = [self.words(cell) for cell in line]
                        self.tables.setdefault((block.label, self.words(heading)), []).append(cells)
            if isinstance(block, Note):
                self.notes.append(self.words(block.text))
            if isinstance(block, Figure):
                self.captions.append(self.words(" ".join(block.caption)))
                for panel in block.panels:
                    hues = looks.hues(panel.svg)
                    cells = [panel.cell] if panel.cell else self.results.cells
                    assert hues <= {color_of(self.results.places[cell]) for cell in cells}, panel.name
                    assert min(looks.font_sizes(panel.svg)) >= TEXT, panel.name
                    for each in (panel.data or {}).get("s", ()):
                        self.lines[panel.name, each["n"]] = each

    def table(self, heading=None):
        """The lines under a heading, or of the only table."""
        if heading is None:
            (lines,) = self.tables.values()
            return lines
        return next(lines for (label, under), lines in self.tables.items() if heading in (label, under))


def test_precision_shows_each_error_and_where_it_comes_from_at_the_greatest_length():
    errors = {A: {8.0: 0.01, 64.0: 0.02}, B: {8.0: 0.1, 64.0: 0.7}}
    rows = [
        row(precision, cell, "error", value, group="bfloat16", x=x)
        for cell, by_length in errors.items()
        for x, value in by_length.items()
    ]
    for place, name in enumerate(("cosine", *precision.SOURCES)):
        rows += [row(precision, B, name, 0.1 * place + x / 1000, group="bfloat16", x=x) for x in (8.0, 64.0)]
    rows += [
        row(precision, B, "vanished", share, group="bfloat16", x=x) for x, share in ((8.0, 0.9), (64.0, 0.25))
    ]
    shown = Shown(precision, rows)
    assert list(shown.lines["precision-bfloat16", A]["y"]) == [0.01, 0.02]
    assert list(shown.lines["precision-bfloat16", B]["x"]) == [8.0, 64.0]
    assert shown.table("bfloat16")[1] == [B, "0.70", "0.0640", "0.16", "0.26", "0.36", "0.46", "0.56", "25 %"]
    assert "In bfloat16 the error at T = 64 goes from 0.020 (lstm) to 0.70 (lru). " in shown.captions[0]
    assert "The error is one half or more for lru." in shown.captions[0]
    assert "bfloat16: 255.5 steps" in shown.intro


def test_algorithms_show_the_middle_of_the_draws_and_name_the_nearest():
    found = {  # errors by draw, cosine, bytes, seconds
        "full BPTT": ([0.0], 1.0, 1000, 0.1),
        "RTRL": ([1e-7], 1.0, 4000, 0.5),
        "SnAp-1": ([0.3], 0.9, 500, 0.2),
        "UORO": ([1.0, 100.0], 0.2, 100, 0.4),
    }
    rows = []
    for x, factor in ((16.0, 1), (64.0, 2)):
        for name, (errors, cosine, size, seconds) in found.items():
            at = {"group": name, "x": x}
            rows += [row(algorithms, A, "error", factor * error, t=t, **at) for t, error in enumerate(errors)]
            rows += [row(algorithms, A, "cosine", cosine, t=t, **at) for t in range(len(errors))]
            for quantity, value in (("draws", len(errors)), ("bytes", size), ("seconds", seconds)):
                rows.append(row(algorithms, A, quantity, value, **at))
            rows.append(row(algorithms, A, "error_of_mean", 0.5, **at))
        rows.append(row(algorithms, A, "not_applicable", 1, group="KF-RTRL", x=x, note="not for this cell"))
    shown = Shown(algorithms, rows)
    by_name = {line[0]: line[1:] for line in shown.table("lstm, T = 64")}
    assert by_name["SnAp-1"] == ["0.900", "0.600", "", "500 B", "200 ms", ""]
    assert by_name["UORO"] == ["0.200", "20.0 (2.00 to 200)", "0.50", "100 B", "400 ms", "2 draws"]
    assert by_name["KF-RTRL"][-1] == "does not apply"
    uoro = shown.lines["algorithms-bytes-lstm", "UORO"]
    assert uoro["x"] == [100] and uoro["y"] == pytest.approx([20.0])
    assert list(shown.lines["algorithms-seconds-lstm", "full BPTT"]["y"]) == [1e-8]
    assert "lstm: RTRL is also exact, with 4.0 times the memory of backpropagation; " in shown.captions[0]
    assert (
        "of the inexact algorithms, SnAp-1 has the smallest error (0.60, cosine 0.900)." in shown.captions[0]
    )
    assert "Not measured under this preset: lru." in shown.captions[0]


def test_scaling_shows_exponents_crossovers_and_what_checkpoints_save():
    values = {"scan": {"bytes": 8000.0, "seconds": 1.0}, "nested": {"bytes": 2000.0, "seconds": 1.5}}
    rows = []
    for method, quantities in values.items():
        for quantity, value in quantities.items():
            rows += [row(scaling, A, quantity, value / f, group=method, x=64.0 / f) for f in (4, 1)]
            rows.append(
                row(scaling, A, f"{quantity}_exponent", 0.9 if method == "nested" else 1.02, group=method)
            )
            rows.append(row(scaling, A, f"{quantity}_exponent_error", 0.04, group=method))
    rows.append(row(scaling, A, "bytes_crossover", 23.4, group="scan to nested"))
    shown = Shown(scaling, rows, batch_size=5)
    assert shown.table()[1] == [A, "nested", "0.90 ± 0.04", "–", "0.90 ± 0.04", "23 (memory, than scan)"]
    assert shown.table()[0][-1] == "" and "for 5 sequences" in shown.intro
    assert list(shown.lines["scaling-bytes-nested", A]["y"]) == [500.0, 2000.0]
    assert list(shown.lines["scaling-seconds-scan", A]["y"]) == [0.25, 1.0]
    assert (
        "At T = 64 nested checkpoints save most memory for lstm: they take 4.0 times less memory and 1.5 times"
        in shown.captions[0]
    )
    assert "Their memory still grows almost like T for lstm." in shown.captions[0]


def test_success_counts_the_seeds_below_half_of_the_blind_baseline():
    losses = {(A, 24): [0.1, 0.2, 0.3, 0.4], (A, 48): [0.1, 0.99, 0.3, math.nan], (B, 24): [2.0] * 4}
    rows = [
        row(success, cell, "final_loss", loss, group="adding", length=length, seed=seed)
        for (cell, length), by_seed in losses.items()
        for seed, loss in enumerate(by_seed)
    ]
    rows += [row(success, *key[:1], "baseline", 1.0, group="adding", length=key[1]) for key in losses]
    shown = Shown(success, rows)
    low, high = wilson(2, 4)[1:]
    assert shown.table() == [
        [A, "24", "4 of 4", "0.51 to 1.00", "0.250"],
        [A, "48", "2 of 4", f"{low:.2f} to {high:.2f}", "0.645"],
        [B, "24", "0 of 4", "0.00 to 0.49", "2.00"],
    ]
    assert "adding: every seed succeeds at T = 24 for lstm." in shown.captions[0]
    (figure,) = [block for block in shown.view.blocks if isinstance(block, Figure)]
    assert all(f">{won} of 4<" in figure.panels[0].svg for won in (4, 2, 0))


def test_signal_to_noise_is_shown_by_lag_and_gates_and_clipping_by_number():
    ratios = {A: [0.5, 0.2, 0.05, -0.1], B: [0.01, 0.02, 0.03, 0.04]}
    rows = [
        row(signal, cell, "signal_to_noise", value, t=t, length=4)
        for cell, by_step in ratios.items()
        for t, value in enumerate(by_step)
    ]
    rows += [row(signal, cell, "examples", 16) for cell in ratios]
    rows += [row(signal, cell, "noise_scale", 12.5) for cell in ratios]
    gates = {"share_open": 0.25, "share_shut": 0.001}
    rows += [row(signal, A, name, value, leaf="decay 0", **AFTER) for name, value in gates.items()]
    for level, quantile, constant in zip(signal.LEVELS, (0.1, 0.6, 0.9), (0.4, 2.0, 9.5), strict=True):
        rows.append(row(signal, A, "quantile", quantile, leaf="decay 0", x=level, **AFTER))
        rows.append(row(signal, A, "time_constant", constant, leaf="decay 0", x=level, **AFTER))
    for seed, norms in enumerate(([0.5, 2.0, 1.0, 7.0], [0.1, 0.2, 3.0, 0.4])):
        rows += [
            {"section": "training", "cell": A, "quantity": "gradient_norm", "value": norm, "seed": seed}
            for norm in norms
        ]
    shown = Shown(signal, rows)
    # The first lag is the last step; what is not above zero has no place on the axis.
    np.testing.assert_array_equal(shown.lines["signal-to-noise", A]["y"], [math.nan, 0.05, 0.2, 0.5])
    assert "Of 4 lags the ratio is above 0.1 at 2 for lstm; nowhere for lru. One seed" in shown.captions[0]
    assert shown.table("Table of noise and clipping")[0] == [A, "12.5", "37.5 (25.0 to 50.0)", "7.00"]
    gate = [line for line in shown.table("Table of gates and decays") if line[3] != "–"]
    assert gate == [[A, "decay of c", MOMENTS[1], "25 %", "under 1 %", "0.600", "0.400 / 2.00 / 9.50"]]


def exponents(by_seed, **more):
    """Rows of a spectrum by seed, with its sum, and the determinant off by a millionth."""
    for seed, values in enumerate(by_seed):
        at = {"seed": seed} | AFTER
        for t, value in enumerate(values):
            yield from (
                row(lyapunov, A, name, value + shift, t=t, **at)
                for name, shift in (("exponent", 0), ("exponent_low", -0.01), ("exponent_high", 0.02))
            )
        derived = {"sum": sum(values), "log_determinant": sum(values) * (1 + 1e-6), "near_zero": 1 + seed}
        derived |= {"kaplan_yorke": 1.5, "state_size": len(values)} | more
        yield from (row(lyapunov, A, name, value, **at) for name, value in derived.items())


def test_exponents_are_the_middle_of_the_seeds_and_their_sum_is_held_against_the_determinant():
    shown = Shown(lyapunov, list(exponents([(-0.2, -1.0), (-0.4, -2.0)])))
    points = shown.lines["lyapunov-lstm", MOMENTS[1]]
    assert points["y"] == pytest.approx([-0.3, -1.5]) and points["x"].tolist() == [1, 2]
    assert points["e"][1].tolist() == [-0.4, -2.0]
    line = next(line for line in shown.table() if line[1] == MOMENTS[1])
    assert line[2:] == [
        "2", "−0.300 (−0.400 to −0.200)", "1.5 (1 to 2)", "1.50", "−1.800 (−2.400 to −1.200)", "1.0×10⁻⁶",
    ]  # fmt: skip
    assert "that of lstm, λ1 = −0.300 (1/e in 3.33 steps)." in shown.captions[0]
    assert "No exponent is clearly above zero. The sums of whole spectra equal" in shown.captions[0]
    shown = Shown(lyapunov, list(exponents([(0.2, -1.0)], log_determinant=-1.0)))
    assert (
        "so gradients grow, for lstm." in shown.captions[0]
        and "so the small exponents are unreliable" in shown.captions[0]
    )


def test_a_fan_is_the_middle_of_the_seeds_in_decades():
    rows = []
    for seed, scale in enumerate((1.0, 3.0)):
        for x in (1.0, 8.0):
            at = {"seed": seed, "x": x} | AFTER
            values = [scale * x * decade * math.log(10) for decade in (0.1, -0.5, -1.0, -2.0, -4.0)]
            rows += [
                row(singular, A, "log_singular_value", value, t=t, **at) for t, value in enumerate(values)
            ]
            rows.append(row(singular, A, "log_condition", values[0] - values[-1], **at))
            rows += [row(singular, A, name, x / 10, **at) for name in ("participation_ratio", "isometry")]
    shown = Shown(singular, rows)
    for place, name in enumerate(singular.SHARES):
        slope = (0.1, -0.5, -1.0, -2.0, -4.0)[place]
        np.testing.assert_allclose(
            shown.lines["singular-lstm", name]["y"], [2 * slope, 16 * slope], rtol=1e-12
        )
    assert shown.table() == [[
        A, MOMENTS[1], "101.6 (100.8 to 102.4)", "10−64 (10−96 to 10−32)", "1066 (1033 to 1098)",
        "0.800", "of 5", "80.0",
    ]]  # fmt: skip
    assert "Over 8 steps the fan of lstm opens to a condition number of 1066." in shown.captions[0]
    assert "lstm keeps most directions within a factor of two of 1: 80 %." in shown.captions[0]


def test_both_laws_are_the_least_squares_lines_through_the_middle_profile():
    lags, norms = np.arange(16), []
    for seed in range(2):
        norms.append(-1.0 * lags - 0.2 * (1 + seed) * np.log1p(lags) + 0.1 * np.sin(lags))
    at = {
        "section": "training",
        "cell": A,
        "length": 16,
        "quantity": "log_norm",
        "loss": "last",
        "leaf": "carry",
    }
    rows = [
        at | {"training_step": step, "seed": seed, "t": 15 - int(lag), "value": (1 + step) * norm}
        for step in (0, 4)
        for seed, line in enumerate(norms)
        for lag, norm in zip(lags, line, strict=True)
    ]
    shown = Shown(decay, rows, lengths=[16])
    middle = 5 * np.mean(norms, axis=0) / math.log(10)
    np.testing.assert_allclose(shown.lines["fits-T16-lstm", "measured"]["y"], middle)
    for name, x in (("exponential", lags), ("power law", np.log1p(lags))):
        line = shown.lines["fits-T16-lstm", name]
        np.testing.assert_allclose(line["y"], np.polyval(np.polyfit(x, middle, 1), x), rtol=1e-9)
        assert line["x"].tolist() == lags.tolist()
    rate = -np.polyfit(lags, 5 * np.mean(norms, axis=0), 1)[0]
    assert f"The exponential fits better for lstm (e-folding {1 / rate:#.3g} steps)" in " ".join(
        shown.captions
    )


def test_losses_are_held_against_the_baseline_and_the_lowest_on_the_same_seeds():
    held_out = {A: [2.0, 2.1, 2.2, 2.3, 2.4, 2.5], B: [2.6, 2.6, 2.7, 2.9, 2.9, 3.0]}
    rows = [
        {
            "section": "training",
            "cell": cell,
            "quantity": quantity,
            "value": value,
            "seed": seed,
            "training_step": step,
        }
        for cell, values in held_out.items()
        for seed, last in enumerate(values)
        for quantity in ("train_loss", "held_out_loss")
        for step, value in ((0, 5.0), (9, last - (quantity == "train_loss")))
    ]
    shown = Shown(losses, rows, baselines={"unigram_entropy": 3.0})
    lstm, lru = shown.table()
    assert lstm[:2] == [A, "5.000"] and lstm[2].startswith("1.250 (") and lstm[-1] == "the lowest"
    assert lstm[3].startswith("2.250 (") and lstm[4].startswith("−0.750 (") and lru[3].startswith("2.783 (")
    # Differences .6, .5, .5, .6, .5, .5; all of one sign among 2^6.
    assert lru[-1].startswith("0.517 (0.500 to ") and lru[-1].endswith("), p = 0.031")
    assert "Baseline: unigram entropy 3.000." in shown.intro


def test_truncation_is_the_middle_in_logarithms_and_the_windows_are_counted():
    rows = []
    for cell, windows in ((A, (2, 4)), (B, (7, 8))):
        for seed, window in enumerate(windows):
            for x in range(1, 9):
                rows.append(row(truncation, cell, "bias", 10.0 ** (-x * (seed + 1)), seed=seed, x=float(x)))
                rows.append(row(truncation, cell, "cosine", 1 - 0.1 / (x + seed), seed=seed, x=float(x)))
            rows.append(row(truncation, cell, "window_10", window, seed=seed))
            rows.append(row(truncation, cell, "window_1", 2 * window, seed=seed))
    shown = Shown(truncation, rows)
    bias, cosine = (shown.lines[f"truncation-{name}", A] for name in ("bias", "cosine"))
    np.testing.assert_allclose(bias["y"], 10.0 ** (-1.5 * np.arange(1, 9)), rtol=1e-9)
    np.testing.assert_allclose(cosine["y"][:2], [1 - 0.075, 1 - (0.05 + 0.1 / 3) / 2], rtol=1e-9)
    assert shown.table() == [[A, "3 (2 to 4)", "6 (4 to 8)"], [B, "7.5 (7 to 8)", "15 (14 to 16)"]]
    assert (
        "needs K = 3 for lstm and K = 7.5 for lru, of 8 steps. The interval of lstm lies apart from all others. "
        "For lru this is more than half of the sequence" in shown.captions[0]
    )


def test_the_summary_compares_what_the_sections_found():
    rows = []
    for cell, lag, exponent, error, ends in (
        (A, 63.0, 0.0, 1e-3, (4.0, 1.0)),
        (B, 6.3, -0.1, 1.0, (4.0, 4.0)),
    ):
        for step, value in ((0, 1.0), (9, lag)):
            at = {"training_step": step, "loss": "last", "leaf": "carry", "seed": 0}
            rows.append({"section": "training", "cell": cell, "quantity": "lag_90", "value": value} | at)
        for step, loss in zip((0, 9), ends, strict=True):
            at = {"section": "training", "cell": cell, "training_step": step, "seed": 0}
            rows.append(at | {"quantity": "held_out_loss", "value": loss})
        rows.append(row(lyapunov, cell, "exponent", exponent, t=0, **AFTER))
        rows.append(row(precision, cell, "error", error, group="bfloat16", x=64.0))
        for x, share in ((1.0, 1.0), (8.0, 0.25)):
            rows.append(row(singular, cell, "isometry", share, x=x, **AFTER))
        rows += [row(success, cell, "final_loss", loss, group="g", length=9) for loss in (0.1, 0.4, 0.6, 0.9)]
        rows.append(row(success, cell, "baseline", 1.0, group="g", length=9))
    shown = Shown(summary, rows)
    found = {each.name: by_cell for each, by_cell in measured(shown.results).items()}
    assert {name: [by_cell[cell].estimate for cell in (A, B)] for name, by_cell in found.items()} == {
        "reach": [63.0, 6.3], "|λ₁|": [0.0, 0.1], "isometry": [0.25, 0.25], "bfloat16": [1e-3, 1.0],
        "tasks": [0.5, 0.5], "remaining loss": [0.25, 1.0],
    }  # fmt: skip
    # One seed has no interval, so nothing is won; the rates of tasks have intervals, which are equal.
    assert {name for name, by_cell in found.items() if not math.isnan(by_cell[A].low)} == {"tasks"}
    assert [line[-1] for line in shown.table("Quantities")] == [
        *["none: no interval"] * 4, "none: overlap", "none: no interval"
    ]  # fmt: skip
    assert (
        "in reach, the lag within which 90 % of the gradient norm of the last loss lies. No value has an interval: "
        "63 for lstm and 6.3 for lru." in shown.captions[0]
    )
    assert (
        "is ahead" not in shown.captions[0].replace("No cell is ahead", "")
        and "No cell is best" not in shown.captions[0]
    )
    (figure,) = [block for block in shown.view.blocks if isinstance(block, Figure)]
    assert [panel.title for panel in figure.panels] == list(found)


def test_calibration_names_the_closed_form_that_is_closest_to_its_tolerance():
    rows = []
    for place, (name, error, tolerance) in enumerate((("C1", 0.1, 1.0), ("C2", 0.3, 0.5))):
        values = {
            "exact": 1.0,
            "measured": 1.0 + error,
            "error": error,
            "tolerance": tolerance,
            "passed": 1.0,
        }
        rows += [
            row(calibration, None, quantity, value, group=name, leaf=f"law {place}", t=place)
            for quantity, value in values.items()
        ]
    rows.append(row(calibration, None, "checks_in_all", 46))
    shown = Shown(calibration, rows)
    assert "was first checked against 2 closed forms" in shown.intro and "runs 2 of 46" in shown.intro
    assert "All pass. The closest to its tolerance is C2 (law 1), which uses 60 % of it." in shown.intro
    assert shown.table()[1] == ["C2", "law 1", "1.00000", "1.30000", "0.30", "0.50", "pass"]
