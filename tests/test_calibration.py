"""Test calibration: every check passes, a broken probe fails only its own checks; the command."""

import functools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import digamma

from seqjax import calibration, cli
from seqjax.calibration import algorithms, baselines, closed_forms, estimators, lyapunov, singular
from seqjax.calibration.base import Check, Values, run_checks
from seqjax.calibration.exact import gaussian_mean
from seqjax.ops.gated import batched as gated

ROOT = Path(__file__).parent.parent


@functools.cache
def table(dtype):
    return calibration.run(dtype)


def failed(only):
    return [row.quantity for row in calibration.run(only=only) if not row.passed]


# ---------------------------------------------------------------- the table


def test_every_check_passes_in_float64():
    assert not [row for row in table("float64") if not row.passed]


@pytest.mark.slow
def test_every_check_passes_in_float32_within_its_wider_tolerance():
    assert not [row for row in table("float32") if not row.passed]


def test_float32_is_what_the_float32_table_measures():
    (row,) = calibration.run("float32", only=["C23"])[:1]
    assert row.passed and 1e-9 < row.error


def test_every_closed_form_of_the_list_is_checked():
    listed = [*range(1, 15), 17, 21, *range(23, 27), 28]
    assert calibration.IDS == tuple(f"C{number}" for number in listed)


def test_every_id_has_its_closed_form_and_the_document_is_current():
    assert tuple(form.id for form in calibration.CLOSED_FORMS) == calibration.IDS
    page = closed_forms.page(calibration.CHECKS)
    assert (ROOT / "docs/closed_forms.md").read_text() == page, "run `make tables`"


def test_tolerances_are_no_narrower_in_float32_and_quantities_are_unique():
    assert all(check.float64 <= check.float32 for check in calibration.CHECKS)
    assert len({(check.id, check.quantity) for check in calibration.CHECKS}) == len(calibration.CHECKS)


def test_special_functions_have_their_known_values():
    assert digamma(0.5) == pytest.approx(-np.euler_gamma - 2 * math.log(2), abs=1e-14)
    assert digamma(4) == pytest.approx(1 + 1 / 2 + 1 / 3 - np.euler_gamma, abs=1e-14)
    assert gaussian_mean(lambda z: z**4) == pytest.approx(3, abs=1e-12)


# ---------------------------------------------------------------- broken probes


def test_wrong_lyapunov_exponents_fail_the_checks_of_exponents(monkeypatch):
    measure = lyapunov.lyapunov_spectrum

    def broken(*args, **options):
        spectrum = measure(*args, **options)
        return spectrum._replace(exponents=1.02 * spectrum.exponents)

    monkeypatch.setattr(lyapunov, "lyapunov_spectrum", broken)
    assert failed(["C13", "C24", "C25"]) == ["Henon: exponents, T=20000", "Henon: sum of exponents = ln .3"]


def test_a_wrong_tap_fails_the_check_that_reads_it(monkeypatch):
    norm = gated.norm  # the loop of gated cells reads its taps itself
    monkeypatch.setattr(gated, "norm", lambda x, batch_ndim: norm(x, batch_ndim) ** 1.001)
    assert failed(["C7"]) == ["LSTM, frozen gates: the same by a tap"]


def test_a_plan_with_one_step_too_many_fails_the_check_of_checkpoints(monkeypatch):
    plan = algorithms.revolve.schedule
    monkeypatch.setattr(algorithms.revolve, "schedule", lambda *args: (*plan(*args), plan(*args)[0]))
    assert failed(["C24", "C25"]) == ["Revolve: forward steps for T=1000 and s=10, 20, 32 slots"]


def test_the_widely_copied_baseline_of_adding_fails(monkeypatch):
    task = baselines.adding(4)
    object.__setattr__(task, "baseline", 0.1767)
    monkeypatch.setattr(baselines, "adding", lambda length: task)
    assert failed(["C24", "C25"]) == ["adding: the baseline that the task states"]


def test_an_estimator_that_forgets_a_step_fails_the_checks_of_truncation(monkeypatch):
    make = estimators.truncated_bptt
    monkeypatch.setattr(estimators, "truncated_bptt", lambda window: make(max(window - 1, 1)))
    assert failed(["C11", "C12"]) == [
        "truncated BPTT, K=5, 20: expected relative bias lambda^2K",
        "influence balancing: dh_1/dtheta in full, K=1, 19, 41, 100",
    ]


def test_singular_values_off_by_a_part_in_a_million_fail(monkeypatch):
    measure = singular.singular_values

    def broken(*args, **options):
        fan = measure(*args, **options)
        return fan._replace(log_values=fan.log_values + 1e-6)

    monkeypatch.setattr(singular, "singular_values", broken)
    assert len(failed(["C3", "C4"])) == 2


# ---------------------------------------------------------------- rows


def check(measure, **options):
    return Check("C0", "a number", measure, 1e-3, 1e-2, **options)


@pytest.mark.parametrize(
    ("exact", "measured", "options", "passed"),
    [
        (1.0, 1.0009, {}, True),
        (1.0, 1.0011, {}, False),
        (1e-6, 2e-6, {}, True),
        (1e-6, 2e-6, {"relative": True}, False),
        (0.0, 0.0, {"relative": True}, True),
        (0.0, 1e-300, {"relative": True}, False),
        ([1.0, 2.0], [1.0, math.nan], {}, False),
        (1.0, math.inf, {}, False),
        ([1.0, 2.0], [1.0], {}, False),
        ([], [], {}, False),
        (math.nan, math.nan, {}, False),
    ],
)
def test_a_row_passes_only_when_every_number_is_within_the_tolerance(exact, measured, options, passed):
    (row,) = run_checks([check(lambda dtype: Values(exact, measured), **options)])
    assert row.passed is passed


def test_a_row_shows_the_two_numbers_that_differ_most():
    (row,) = run_checks([check(lambda dtype: Values([1.0, 2.0, 3.0], [1.1, 2.5, 3.0]))])
    assert (row.exact, row.measured, row.error, row.compared) == (2.0, 2.5, 0.5, 3)


def test_a_check_that_raises_is_a_failed_row_and_the_others_run():
    def broken(dtype):
        raise ZeroDivisionError("no\nluck")

    rows = run_checks([check(broken), check(lambda dtype: Values(1, 1))])
    assert [row.passed for row in rows] == [False, True]
    assert rows[0].message == "ZeroDivisionError: no luck" and math.isnan(rows[0].measured)


def test_progress_is_reported_before_each_check_and_at_the_end():
    seen = []
    run_checks([check(lambda dtype: Values(1, 1))] * 2, progress=lambda *now: seen.append(now))
    assert seen == [(0, 2, "C0 a number"), (1, 2, "C0 a number"), (2, 2, "")]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float16"}, "expected a dtype of float64, float32"), ({"only": ["C99"]}, "got C99")],
)
def test_unknown_dtypes_and_ids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        calibration.run(**options)


# ---------------------------------------------------------------- the command


def run(monkeypatch, *args):
    """The exit status of ``seqjax check args``."""
    monkeypatch.setattr(sys, "argv", ["seqjax", "check", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_the_command_shows_a_table_and_exits_zero_when_all_pass(monkeypatch, capsys):
    assert run(monkeypatch, "--only", "c25") == 0
    shown = capsys.readouterr().out
    assert "3636" in shown and "pass" in shown and "1 of 1 pass in float64" in shown


def test_the_command_exits_one_and_says_what_was_raised_when_a_check_fails(monkeypatch, capsys):
    def broken(dtype):
        raise ValueError("[bold]exactly this[/bold]")

    monkeypatch.setattr(calibration, "CHECKS", (check(broken)._replace(id="C25"),))
    assert run(monkeypatch, "--only", "C25") == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown and "[bold]exactly this[/bold]" in shown


def test_json_goes_to_stdout_alone_and_to_a_file(monkeypatch, tmp_path, capsys):
    rows = (check(lambda dtype: Values(1, math.nan))._replace(id="C24"), *calibration.CHECKS)
    monkeypatch.setattr(calibration, "CHECKS", rows)
    out = tmp_path / "check.json"
    assert run(monkeypatch, "--only", "C25", "--json", "--out", out) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    assert found["passed"] and found["dtype"] == "float64" and found["num_checks"] == len(found["rows"]) == 1
    assert found["rows"][0]["id"] == "C25" and found["rows"][0]["measured"] == 3636

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    run(monkeypatch, "--only", "C24", "--json")
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert not found["passed"] and found["rows"][0]["measured"] is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "C99"], "--only: expected C1 or"),
        (["--only", ","], "got none"),
        (["--dtype", "float16"], "--dtype: expected float64 or float32, got float16"),
        (["--out", "/nowhere/check.json"], "--out: expected a file in a folder that exists"),
    ],
)
def test_bad_input_is_one_clear_line(monkeypatch, capsys, args, message):
    assert run(monkeypatch, *args) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1
