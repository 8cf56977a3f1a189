"""Test the comparison of two studies: pairs by seed, differences, and too few seeds for a difference."""

import json
import math

import numpy as np
import polars as pl
import pytest
from helpers.command_line import ROOT, run
from helpers.studies import write_study
from scipy import stats

from seqjax.compare import page, runs
from seqjax.compare.runs import compare_runs
from seqjax.study.rows import SCHEMA

SEEDS = 10


def study(folder, values, *, settings=None, complete=True, extra=None, cells=("lstm",)):
    """A folder with results: ``values[quantity]`` by seed, of cells at one length, at the steps 0 and 5."""
    rows = []
    for quantity, numbers in values.items():
        for seed, number in enumerate(numbers):
            for step, value in ((0, 123.0), (5, number)):
                row = {
                    "cell": "lstm",
                    "length": 64,
                    "seed": seed,
                    "training_step": step,
                    "quantity": quantity,
                }
                rows.append(row | {"value": value})
        rows.append(
            {
                "cell": "lstm",
                "length": 64,
                "seed": 0,
                "training_step": 5,
                "quantity": quantity,
                "t": 3,
                "value": 9.0,
            }
        )
    columns = {name: pl.Series([row.get(name) for row in rows], dtype=SCHEMA[name]) for name in SCHEMA}
    frame = pl.DataFrame(columns).with_columns(**(extra or {}))
    each = [frame.with_columns(cell=pl.lit(cell), value=pl.col("value") + i) for i, cell in enumerate(cells)]
    frame = pl.concat(each)
    return write_study(folder, frame, {"settings": settings or {}, "complete": complete})


@pytest.fixture(name="shared")
def _shared():
    return np.random.default_rng(0).normal(3.0, 1.0, SEEDS)


def test_a_difference_that_every_seed_shows_is_found_and_noise_is_not(tmp_path, shared):
    noise = np.random.default_rng(1).normal(0, 0.05, SEEDS)
    noise -= noise.mean()
    a = study(
        tmp_path / "a",
        {"held_out_loss": shared, "lag_90": shared, "parameter_gradient_norm": np.exp(9 * shared)},
    )
    b = study(
        tmp_path / "b",
        {
            "held_out_loss": shared - 0.3,
            "lag_90": shared + noise,
            "parameter_gradient_norm": 1.5 * np.exp(9 * shared),
        },
    )
    found = compare_runs(a, b)
    assert not found.equal and not found.remarks
    loss, lag, norm = sorted(found.rows, key=lambda row: row.key["quantity"])
    assert loss.key == {"section": "training", "cell": "lstm", "length": 64, "quantity": "held_out_loss"}
    assert loss.differs and norm.differs and not lag.differs
    # After the last training step; over all pairs of one sign the sign-flip test has p = 2/2^n.
    assert loss.paired.pairs == SEEDS and loss.paired.p == 2 / 2**SEEDS
    np.testing.assert_allclose(loss.paired.difference, -0.3, rtol=1e-12)
    # What spans decades is compared by its ratio, and its mean is geometric.
    assert norm.ratio and norm.paired.difference.estimate == pytest.approx(1.5)
    ordered = np.sort(9 * shared)  # of ten values the outer two and a half of each side do not count
    assert math.log(norm.a) == pytest.approx((ordered[3:7].sum() + (ordered[2] + ordered[7]) / 2) / 5)
    u = stats.mannwhitneyu(shared - 0.3, shared).statistic
    assert loss.above.estimate == pytest.approx(u / SEEDS**2)
    assert compare_runs(a, a).equal
    heads, rows, differ = page.table(found)
    cells = dict(
        zip(heads, rows[[row.key["quantity"] for row in found.rows].index("held_out_loss")], strict=False)
    )
    assert cells["quantity"] == "training, lstm, T = 64, held_out_loss" and cells["seeds"] == str(SEEDS)
    assert cells["B − A (or B/A)"] == "−0.300" and cells["p"] == "0.00195" and sum(differ) == 2


def test_only_common_seeds_and_quantities_count(tmp_path, shared):
    a = study(tmp_path / "a", {"x": shared, "only_a": shared})
    b = study(
        tmp_path / "b", {"x": shared[:7] + 1, "only_b": shared}, extra={"group": pl.lit(None, pl.String)}
    )
    found = compare_runs(a, b)
    assert [row.key["quantity"] for row in found.rows] == ["x"] and found.rows[0].paired.pairs == 7


def test_many_quantities_need_more_seeds(tmp_path, shared):
    """Among 40 rows a single p of 2/1024 is no proof, among 20 it is."""
    for count, equal in ((40, True), (20, False)):
        names = [f"q{i:02}" for i in range(count)]
        a = study(tmp_path / f"a{count}", dict.fromkeys(names, shared))
        b = study(tmp_path / f"b{count}", dict.fromkeys(names, shared) | {"q07": shared + 1})
        found = compare_runs(a, b, resamples=50)
        assert found.equal == equal and bool(found.remarks) == equal
    assert not compare_runs(tmp_path / "a40", tmp_path / "b40", quantities=["q07"], resamples=50).equal


def test_rows_are_marked_as_by_benjamini_and_hochberg(tmp_path, shared):
    row = compare_runs(study(tmp_path / "a", {"x": shared}), tmp_path / "a").rows[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        ps = rng.choice([0.001, 0.01, 0.02, 0.03, 0.04, 0.05, 0.3, 0.9], size=rng.integers(1, 9))
        marked = runs._marked([row._replace(paired=row.paired._replace(p=p)) for p in ps])
        expected = stats.false_discovery_control(np.sort(ps)) <= runs.LEVEL
        assert [each.paired.p for each in marked] == sorted(ps)
        assert [each.differs for each in marked] == list(expected)


def test_what_sums_a_study_up_is_compared_and_all_of_what_is_asked_for(tmp_path):
    """Not how it was measured, not before training, of curves the end; nothing that too few seeds have."""
    rows = [
        {"section": "singular", "quantity": "isometry", "group": "after training", "x": 2.0},
        {"section": "singular", "quantity": "isometry", "group": "after training", "x": 8.0},
        {"section": "singular", "quantity": "isometry", "group": "initialization", "x": 8.0},
        {"section": "lyapunov", "quantity": "exponent", "group": "after training", "t": 0},
        {"section": "lyapunov", "quantity": "exponent", "group": "after training", "t": 1},
        {"section": "lyapunov", "quantity": "steps", "group": "after training"},
        {"section": "truncation", "quantity": "bias", "x": 9.0},
        {"section": "truncation", "quantity": "window_1"},
        {"section": "training", "quantity": "parameter_gradient_norm", "leaf": "w"},
        {"section": "signal", "quantity": "noise_scale", "seeds": 1},
    ]
    rows = [row | {"seed": seed, "value": 1.0} for row in rows for seed in range(row.pop("seeds", 8))]
    columns = {name: pl.Series([row.get(name) for row in rows], dtype=SCHEMA[name]) for name in SCHEMA}
    write_study(tmp_path, pl.DataFrame(columns), {})

    def compared(*quantities):
        found = compare_runs(tmp_path, tmp_path, quantities=quantities, resamples=20)
        return [(row.key["quantity"], row.key.get("x")) for row in found.rows], found.remarks

    names, remarks = compared()
    assert names == [("exponent", None), ("isometry", 8.0), ("window_1", None)]
    assert remarks[-1] == "Left out: 1 quantities with fewer than 6 common seeds (signal)."
    assert compared("isometry", "parameter_gradient_norm")[0] == [
        ("isometry", 2.0),
        ("isometry", 8.0),
        ("parameter_gradient_norm", None),
    ]
    assert compared("noise_scale")[0] == [("noise_scale", None)]


def test_what_hinders_a_comparison_is_said(tmp_path, shared):
    few = np.append(shared[:2], math.nan)
    a = study(tmp_path / "a", {"x": few}, settings={"batch_size": 1, "seeds": 3}, complete=False)
    b = study(tmp_path / "b", {"x": few + 1}, settings={"batch_size": 2, "seeds": 4})
    found = compare_runs(a, b)
    text = " ".join(found.remarks)
    assert found.equal and "batch_size 1 and 2" in text and "seeds 3" not in text
    assert "2 common seeds: the smallest possible p is 0.5" in text and "Use 6 seeds" in text
    assert "Not every run" in text and "1 pairs" in text


@pytest.mark.parametrize("cells", [None, "position", {"lstm": "lstm"}])
def test_a_study_without_results_of_cells_is_named_with_its_sections(tmp_path, shared, cells):
    a = study(tmp_path / "a", {"x": shared})
    nothing = {"cell": pl.lit(None, pl.String), "quantity": pl.lit("passed")}
    b = study(
        tmp_path / "b", {"x": shared}, settings={"sections": ["calibration"]}, extra=nothing, cells=(None,)
    )
    with pytest.raises(ValueError, match=r"results of cells in .*b, got none \(its sections: calibration\)"):
        compare_runs(a, b, cells=cells)


def test_the_command_compares_two_studies(monkeypatch, tmp_path, capsys, shared):
    folders = [ROOT / "docs" / "report", tmp_path / "b", tmp_path / "c"]
    study(folders[1], {"x": shared})
    study(folders[2], {"x": shared + 1})
    few = [
        study(tmp_path / name, {"x": values}) for name, values in (("d", shared[:2]), ("e", shared[:2] + 1))
    ]
    out = ["--out", tmp_path / "out"]
    assert (
        run(monkeypatch, "compare", *few, *out) == 2
    )  # nothing can be said: a check that relies on it is told
    assert "Undecided: the test needs 6 common seeds" in " ".join(capsys.readouterr().out.split())
    assert (
        run(monkeypatch, "compare", folders[0], folders[0], "--quantities", "held_out_loss,lag_90", *out) == 0
    )
    assert "The test shows no difference" in capsys.readouterr().out
    assert run(monkeypatch, "compare", folders[1], folders[2], *out) == 1
    assert "1 of 1 quantities differ" in capsys.readouterr().out.replace("\n", " ")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["rows"][0]["differs"] and found["rows"][0]["paired"]["difference"][
        "estimate"
    ] == pytest.approx(1)
    assert "1 of 1 quantities differ" in (tmp_path / "out" / "index.html").read_text()
    for folder, extra, message in (
        (folders[0], [], "expected a common cell"),
        (folders[1], ["--quantities", "y"], "expected quantities of both studies (x), got 'y'"),
    ):
        assert run(monkeypatch, "compare", folder, folders[2], *extra, *out) == 2
        assert message in capsys.readouterr().err
    (folders[1] / "results.parquet").write_text("no parquet")
    assert run(monkeypatch, "compare", folders[1], folders[2], *out) == 2
    assert "results.parquet has another SHA-256" in capsys.readouterr().err


OLD, NEW = "old.py:build", "new.py:build"


@pytest.mark.parametrize(
    ("cells", "pairs"),
    [
        (None, {"lstm": -1}),
        ("position", {f"{OLD} | lstm": 0, f"lstm | {NEW}": 0}),
        ({OLD: NEW, "lstm": "lstm"}, {f"{OLD} | {NEW}": 1, "lstm": -1}),
        ({OLD: NEW}, {f"{OLD} | {NEW}": 1}),
    ],
)
def test_cells_are_paired_by_name_or_by_position(tmp_path, shared, cells, pairs):
    """The n-th cell of a study has values that are larger by n."""
    ours, theirs = [OLD, "lstm"], ["lstm", NEW]
    a = study(tmp_path / "a", {"x": shared}, cells=ours, settings={"cells": ours})
    b = study(tmp_path / "b", {"x": shared}, cells=theirs, settings={"cells": theirs})
    found = compare_runs(a, b, cells=cells, resamples=50)
    differences = {row.key["cell"]: row.paired.difference.estimate for row in found.rows}
    assert differences == pytest.approx(pairs)
    alone = [remark for remark in found.remarks if f"Not compared: {OLD} of A and {NEW} of B" in remark]
    assert bool(alone) == (cells is None) and all(f"--cells {OLD}={NEW}" in remark for remark in alone)


def test_pairs_of_cells_that_cannot_be_are_one_line(monkeypatch, tmp_path, capsys, shared):
    a = study(tmp_path / "a", {"x": shared}, cells=[OLD])
    b = study(tmp_path / "b", {"x": shared}, cells=[NEW, "lstm"])
    out = ["--out", tmp_path / "out"]
    for options, message in (
        (
            [],
            f"(cells {OLD}) and {b} (cells lstm, {NEW}). Use studies that share cells, lengths and seeds, or pair",
        ),
        (["--cells", "position"], "expected as many cells in A as in B to pair them by position"),
        (["--cells", f"{OLD}=newer.py:build"], f"B: unknown name 'newer.py:build'. Did you mean '{NEW}'"),
        (
            ["--cells", OLD],
            f"--cells: expected pairs such as old.py:build=new.py:build, or position, got '{OLD}'",
        ),
    ):
        assert run(monkeypatch, "compare", a, b, *options, *out) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert run(monkeypatch, "compare", "lstm", "gru", "--cells", "position", *out) == 2
    assert "--cells goes with two studies" in capsys.readouterr().err
    assert run(monkeypatch, "compare", a, b, "--cells", f"{OLD}={NEW}", *out) == 0
    assert f"{OLD} | {NEW}" in (tmp_path / "out/index.html").read_text()
