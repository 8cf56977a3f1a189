"""Test the first screen of the report: which cell is called ahead, and on what grounds."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from helpers.page import Parsed
from helpers.studies import write_study
from markupsafe import Markup

from seqjax.report import page
from seqjax.report.answer import answer
from seqjax.report.order import certainty
from seqjax.report.quantities import QUANTITIES, measured
from seqjax.report.results import Profile, StudyResults
from seqjax.report.verdict import best_everywhere, each_is_behind, outcome, sentences
from seqjax.statistics import Interval, bootstrap, interquartile_mean, wilson
from seqjax.study.experiment import MOMENTS
from seqjax.study.rows import SCHEMA

BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}
REACH, LOSS, TASKS, ISOMETRY = (BY_NAME[name] for name in ("reach", "remaining loss", "tasks", "isometry"))
CELLS = ("lru", "gru", "elman")


def around(value, width=0.1):
    return Interval(value, value * (1 - width), value * (1 + width))


def alone(value):
    return Interval(value, math.nan, math.nan)


def said(values, cells=CELLS):
    found = sentences(values, cells)
    assert 1 <= len(found) <= 3
    return [Markup(each).striptags().replace("\u00a0", " ") for each in found]


FURTHEST = {"lru": around(200.0), "gru": around(20.0), "elman": around(2.0)}
LOWEST = {"lru": around(0.3), "gru": around(0.5), "elman": around(0.7)}


def test_a_cell_that_is_better_in_everything_is_called_so():
    values = {REACH: FURTHEST, LOSS: LOWEST}
    assert best_everywhere(values, CELLS) == "lru" and not each_is_behind(values, CELLS)
    assert said(values) == [
        "lru is ahead in reach, the lag within which 90 % of the gradient norm of the last loss lies: "
        "200 (180 to 220) steps, against 20 (18 to 22) for gru.",
        "lru is ahead of every other cell in every quantity that can be compared: reach and remaining loss.",
    ]


def test_intervals_that_overlap_name_no_winner():
    close = {"lru": Interval(0.990, 0.985, 0.996), "gru": Interval(0.995, 0.990, 0.999), "elman": around(1.2)}
    assert outcome(LOSS, close) == (None, "overlap")
    first, second = said({LOSS: close, REACH: FURTHEST})
    assert first == (  # elman is behind
        "No cell is ahead in remaining loss, the held-out loss after training, relative to that at initialization. "
        "The best intervals overlap: 0.990 (0.985 to 0.996) for lru and 0.995 (0.990 to 0.999) for gru."
    )
    assert second == "lru is ahead in reach with 200 (180 to 220)."
    many = {cell: Interval(50, 40, 60) for cell in "abcde"}
    assert said({REACH: many}, tuple(many))[0].endswith("50 (40 to 60) for c and those of 2 more cells.")
    # Ends that touch do not lie apart.
    assert outcome(REACH, {"lru": Interval(3, 2, 4), "gru": Interval(1, 1, 2)}).winner is None
    assert outcome(REACH, {"lru": Interval(3, 2, 4), "gru": Interval(1, 1, 1.99)}).winner == "lru"


def test_a_value_without_an_interval_names_no_winner():
    values = {REACH: FURTHEST | {"elman": alone(2.0)}, LOSS: {cell: alone(0.1) for cell in CELLS}}
    assert [outcome(*each) for each in values.items()] == [(None, "no interval")] * 2
    assert best_everywhere(values, CELLS) is None and not each_is_behind(values, CELLS)
    first, second = said(values)
    assert first.endswith(
        "Not every value has an interval: 200 (180 to 220) for lru, 20 (18 to 22) for gru and 2 for elman."
    )
    assert second == "No cell is ahead in remaining loss, where some values have no interval."
    assert "No value has an interval: 0.100 for lru" in said({ISOMETRY: values[LOSS]})[0]


def test_an_unmeasured_quantity_decides_nothing():
    # The second cell alone was trained on tasks; the third was not measured in isometry.
    values = {
        REACH: FURTHEST,
        LOSS: LOWEST,
        TASKS: {"gru": around(0.9)},
        ISOMETRY: {"lru": around(0.8), "gru": around(0.1)},
    }
    assert best_everywhere(values, CELLS) == "lru" and not each_is_behind(values, CELLS)
    text = " ".join(said(values))
    assert (
        "No cell is best" not in text
        and "every quantity that can be compared: reach, remaining loss and isometry" in text
    )
    assert text.endswith("No cell is ahead in tasks, where one cell was measured.")
    # A cell that shares no quantity with another is not ahead of it.
    assert best_everywhere({REACH: {"lru": around(9.0), "gru": around(1.0)}}, CELLS) is None
    assert best_everywhere({}, CELLS) is None and said({}) == [
        "Nothing that compares cells has been measured."
    ]


def test_no_cell_is_best_only_where_each_is_behind_another():
    crossed = {REACH: FURTHEST, LOSS: LOWEST | {"gru": around(0.1), "lru": around(0.4)}}
    assert each_is_behind(crossed, CELLS) and best_everywhere(crossed, CELLS) is None
    text = said(crossed)[1]
    assert (
        text
        == "No cell is best in every quantity: gru is ahead in remaining loss with 0.100 (0.0900 to 0.110)."
    )
    # An overlap shows neither: the first cell is behind no other, and not ahead everywhere.
    open_ = {REACH: FURTHEST, LOSS: LOWEST | {"gru": around(0.3)}}
    assert not each_is_behind(open_, CELLS) and best_everywhere(open_, CELLS) is None
    assert "No cell is best" not in " ".join(said(open_))


def test_one_cell_is_not_compared():
    first, second = said({REACH: {"lru": around(9.0)}}, ("lru",))
    assert first.startswith("Only lru was measured in reach, the lag")
    assert second == "With one cell there is nothing to compare."


def test_every_quantity_is_compared_in_a_sentence_of_the_same_form():
    for quantity in QUANTITIES:
        first = said({quantity: LOWEST})[0]
        best = "elman" if quantity.more else "lru"
        assert first.startswith(f"{best} is ahead in {quantity.name}, the ".replace("\u00a0", " ")), first
        assert first.count(":") == 1 and first.endswith(") for gru."), first


def test_quantities_without_a_winner_are_named_with_the_reason():
    flat = {cell: Interval(0.5, 0.4, 0.6) for cell in CELLS}
    values = {REACH: FURTHEST, ISOMETRY: flat, LOSS: flat, TASKS: {"gru": around(0.9)}}
    assert said(values)[-1] == (
        "No cell is ahead in isometry or remaining loss, where intervals overlap, nor in tasks, where one cell "
        "was measured."
    )


@pytest.mark.parametrize("quantity", [REACH, LOSS], ids=["more is better", "less is better"])
def test_the_winner_is_the_one_cell_whose_interval_lies_beyond_all_others(quantity):
    rng, sign, won = np.random.default_rng(0), 1 if quantity.more else -1, 0
    for _ in range(200):
        ends = np.sort(rng.integers(0, 12, size=(3, 2)), axis=1).astype(float)
        values = {cell: Interval(sum(pair) / 2, *pair) for cell, pair in zip(CELLS, ends, strict=True)}
        beyond = [
            cell
            for cell in CELLS
            if all(
                min(sign * a for a in values[cell][1:]) > max(sign * b for b in values[other][1:])
                for other in CELLS
                if other != cell
            )
        ]
        assert outcome(quantity, values).winner == (beyond[0] if beyond else None)
        won += len(beyond)
    assert 20 < won < 180


def study(seeds=4):
    """Rows in which the first cell is ahead in reach and remaining loss, and tasks overlap."""
    lags, losses = {"lru": 40.0, "gru": 4.0}, {"lru": 0.5, "gru": 0.8}
    rows = []
    for cell, seed, step in itertools.product(lags, range(seeds), (0, 8)):
        at = {"section": "training", "cell": cell, "seed": seed, "training_step": step}
        carry = at | {"loss": "last", "leaf": "carry"}
        rows.append(carry | {"quantity": "lag_90", "value": lags[cell] + seed})
        rows.append(
            at | {"quantity": "held_out_loss", "value": (losses[cell] if step else 1.0) * (1 + seed / 100)}
        )
        norms = -np.arange(64)[::-1] / lags[cell]
        rows += [carry | {"quantity": "log_norm", "t": t, "value": norm} for t, norm in enumerate(norms)]
    rows += [
        {"section": "lyapunov", "cell": "lru", "quantity": "exponent", "value": -0.1 * seed, "seed": seed, "t": 0,
         "group": MOMENTS[-1]}
        for seed in range(seeds)
    ]  # fmt: skip
    for cell, won in (("lru", 3), ("gru", 2)):
        at = {"section": "success", "cell": cell, "group": "adding"}
        rows += [at | {"quantity": "final_loss", "value": float(n >= won), "seed": n} for n in range(4)]
        rows.append(at | {"quantity": "baseline", "value": 1.0})
    rows += [
        {
            "section": "calibration",
            "quantity": "passed",
            "value": 1.0,
            "group": f"C{n}",
            "leaf": "law",
            "t": n,
            "length": None,
        }
        for n in range(3)
    ]
    return pl.DataFrame(
        [dict.fromkeys(SCHEMA) | {"part": "p", "length": 64} | row for row in rows], schema=SCHEMA
    )


SETTINGS = {"cells": ["lru", "gru"], "lengths": [64], "preset": "smoke", "sections": ["training", "decay"]}


def test_values_are_the_means_and_intervals_of_the_rows():
    found = {
        each.name: by_cell
        for each, by_cell in measured(StudyResults(study(), {"settings": SETTINGS})).items()
    }
    assert found["reach"]["lru"] == bootstrap([[40.0, 41.0, 42.0, 43.0]])
    assert found["tasks"] == {"lru": wilson(3, 4), "gru": wilson(2, 4)}
    assert found["remaining loss"]["gru"].estimate == pytest.approx(0.8)
    assert found["|λ₁|"]["lru"].estimate == pytest.approx(interquartile_mean([0, 0.1, 0.2, 0.3]))
    assert "gru" not in found["|λ₁|"] and "isometry" not in found


def test_a_single_seed_has_no_interval():
    # Norms of single sequences are resampled too, but they do not show how seeds differ.
    rows = study(seeds=1)
    sequences = rows.filter(quantity="log_norm").with_columns(
        quantity=pl.lit("sequence_log_norm"), x=pl.lit(0.0)
    )
    more = sequences.with_columns(x=pl.lit(1.0), value=pl.col("value") * 1.5)
    results = StudyResults(pl.concat([rows, sequences, more]), {"settings": SETTINGS})
    reach = measured(results)[REACH]
    assert all(math.isnan(found.low) and found.estimate > 1 for found in reach.values())


def test_the_first_screen_has_the_verdict_the_decay_and_the_table_before_everything_else(tmp_path):
    write_study(tmp_path / "s", study(), {"settings": SETTINGS})
    text = page.render(tmp_path / "s").read_text("utf-8")
    places = [
        text.index(each)
        for each in (
            'id="verdict"', "lru</b> is ahead in reach", 'id="answer-decay-', 'aria-label="Cells compared"',
            "In brackets", "<summary>How to read this", "<summary>Settings", '<nav class="contents"', "<section",
        )
    ]  # fmt: skip
    assert places == sorted(places) and "<details open" not in text
    rows = Parsed(text).rows
    head = next(row for row in rows if row and row[0] == "cell" and "reach" in row[1])
    assert head[1:] == [
        "reach, stepsmore is better", "|λ₁|, nats per stepless is better", "tasks, sharemore is better",
        "remaining loss, share of the firstless is better",
    ]  # fmt: skip
    lru = next(row for row in rows if row and row[0] == "lru" and len(row) == len(head))
    assert lru[1] == "41.5 (40 to 43)"
    words = Parsed(text).text
    assert "95 % intervals over 4 seeds. With fewer than 8 seeds they are too narrow." in words
    assert "All 3 closed forms that check the probes pass." in words
    table = text.split('aria-label="Cells compared"')[1].split("</table>")[0]
    assert (
        table.count("<b>") == 2 + 2
    )  # the names of cells, and the values of lru in reach and remaining loss


def test_a_closed_form_that_fails_stands_above_the_verdict():
    failed = study().with_columns(value=pl.when(pl.col("group") == "C1").then(0.0).otherwise(pl.col("value")))
    found = answer(StudyResults(failed, {"settings": SETTINGS}))
    assert (
        Markup(found.warning).striptags() == "1 closed form failed: see calibration."
        and "pass" not in found.basis
    )
    assert answer(StudyResults(study(), {"settings": SETTINGS})).warning == ""


def test_an_extreme_is_named_with_its_certainty():
    values = {"a": Interval(1.0, 0.0, 2.0), "b": Interval(3.0, 1.9, 5.0), "c": Interval(9.0, 8.0, 10.0)}
    text = {best: certainty(values, best).striptags() for best in values}
    assert text["a"] == "The interval of a overlaps with that of b."
    assert text["b"] == "The interval of b overlaps with that of a."
    assert text["c"] == "The interval of c lies apart from all others."
    assert "this order is not certain" in certainty(values | {"d": alone(1.0)}, "c")
    assert certainty({"a": alone(1.0)}, "a") == ""


def test_the_fall_of_a_profile_has_an_interval_over_seeds():
    values = np.zeros((3, 2, 5))
    values[:, 1, 0] = [-4.0, -8.0, -6.0]
    values[:, 1, -1] = [-1.0, -2.0, -math.inf]
    found = Profile("a", 5, (0, 9), values)
    assert found.falls(1) == bootstrap([[-3.0, -6.0]]) and found.falls(0) == (0.0, 0.0, 0.0)
