"""Test instruments inside a training: their rows, their steps, resumed runs, and functions as logs."""

import json
import logging
import math
import signal
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.cells import ElmanCarry, ElmanParams
from seqjax.probes import GradientProfile, LyapunovSpectrum, SingularFan, bind, gradient_profile
from seqjax.rows import COLUMNS, from_line, rows_of, to_line
from seqjax.study.sections import MEASUREMENTS
from seqjax.training import Checkpoints, EarlyStop, MetricsLog, fit


class State(NamedTuple):
    params: Any
    step: Any


class Metrics(NamedTuple):
    loss: Any
    norms: Any


@jax.jit
def step(state, batch):
    params = jnp.cos(3 * state.params + batch)
    return State(params, state.step + 1), Metrics(state.params, jnp.ones(2))


def start():
    return State(jnp.float32(1.0), jnp.int32(0))


def batches(number):
    return np.float32(np.sin(number))


def quiet(folder):
    return MetricsLog(folder, plots=False)


def rows(folder):
    return [from_line(json.loads(line)) for line in (folder / "instruments.jsonl").read_text().splitlines()]


def params_at(number):
    state = start()
    for each in range(number):
        state, _ = step(state, batches(each))
    return float(state.params)


INSTRUMENTS = {"params": lambda state: state.params, "twice": lambda state: {"a": 2 * state.params}}


# ---------------------------------------------------------------- which steps, and what is written


def test_the_first_state_every_so_manyth_and_the_last_are_measured(tmp_path):
    fit(
        step,
        start(),
        batches,
        num_steps=25,
        log=quiet(tmp_path),
        instruments=INSTRUMENTS,
        instrument_every=10,
    )
    found = {(row["part"], row["training_step"]): row["value"] for row in rows(tmp_path)}
    at = {number: params_at(number) for number in (0, 10, 20, 25)}
    assert found == {("params", n): p for n, p in at.items()} | {("twice", n): 2 * p for n, p in at.items()}
    assert {(row["section"], row["quantity"]) for row in rows(tmp_path)} == {
        ("params", "value"),
        ("twice", "a"),
    }
    assert all(set(row) <= set(COLUMNS) for row in rows(tmp_path))


def test_the_state_of_an_early_stop_is_measured(tmp_path):
    fit(
        step,
        start(),
        batches,
        num_steps=25,
        evaluate=lambda state: {"loss": float(state.step)},
        eval_every=3,
        early_stop=EarlyStop(patience=1),
        log=quiet(tmp_path),
        instruments={"step": lambda state: state.step},
        instrument_every=10,
    )
    assert [row["value"] for row in rows(tmp_path)] == [0, 6]


@pytest.mark.parametrize("when", [9, 10, 11])
def test_a_run_that_is_interrupted_resumes_to_the_same_rows(tmp_path, when):
    """At a step that is measured or beside it; a killed run has left rows of later steps, and half of a line."""
    options = {"instruments": INSTRUMENTS, "instrument_every": 5}
    whole = quiet(tmp_path / "whole")
    fit(step, start(), batches, num_steps=22, log=whole, **options)

    def interrupted(state, batch):
        if int(state.step) == when - 1:
            signal.raise_signal(signal.SIGINT)
        return step(state, batch)

    folder = tmp_path / "run"
    with Checkpoints(folder) as checkpoints, pytest.raises(KeyboardInterrupt):
        fit(
            interrupted, start(), batches, num_steps=22, checkpoints=checkpoints, log=quiet(folder), **options
        )
    assert [row["training_step"] for row in rows(folder) if row["part"] == "twice"] == [
        *range(0, when + 1, 5)
    ]
    with (folder / "instruments.jsonl").open("a") as file:
        file.write(
            '{"part": "params", "section": "params", "quantity": "value", "value": 7, "training_step": 20}\n{"pa'
        )
    with Checkpoints(folder) as checkpoints:
        fit(step, start(), batches, num_steps=22, checkpoints=checkpoints, log=quiet(folder), **options)
    assert (folder / "instruments.jsonl").read_text() == (tmp_path / "whole/instruments.jsonl").read_text()


def test_a_finished_run_measures_its_last_state_with_another_instrument_and_keeps_the_other_rows(tmp_path):
    for instruments in ({"params": INSTRUMENTS["params"]}, INSTRUMENTS, {"twice": INSTRUMENTS["twice"]}):
        with Checkpoints(tmp_path) as checkpoints:
            options = {"checkpoints": checkpoints, "log": quiet(tmp_path), "instrument_every": 5}
            fit(step, start(), batches, num_steps=7, instruments=instruments, **options)
    steps = {
        name: [row["training_step"] for row in rows(tmp_path) if row["part"] == name] for name in INSTRUMENTS
    }
    assert steps == {"params": [0, 5, 7], "twice": [7]}


def test_a_new_run_does_not_write_into_the_rows_of_another(tmp_path):
    (tmp_path / "instruments.jsonl").write_text('{"part": "a", "training_step": 30}\n')
    with pytest.raises(ValueError, match=r"instruments.jsonl holds the log of a run already, up to step 30"):
        fit(step, start(), batches, num_steps=2, log=quiet(tmp_path))
    assert (tmp_path / "instruments.jsonl").read_text() == '{"part": "a", "training_step": 30}\n'


def test_an_instrument_is_compiled_unless_it_needs_numbers(tmp_path):
    calls = {"traced": 0, "on the host": 0}

    def traced(state):
        calls["traced"] += 1
        return state.params

    def on_the_host(state):
        calls["on the host"] += isinstance(state.params, jax.Array) and not isinstance(
            state.params, jax.core.Tracer
        )
        return math.exp(float(state.params))

    instruments = {"traced": traced, "on the host": on_the_host}
    fit(step, start(), batches, num_steps=4, log=quiet(tmp_path), instruments=instruments, instrument_every=1)
    assert calls == {"traced": 1, "on the host": 5}
    values = [row["value"] for row in rows(tmp_path) if row["part"] == "on the host"]
    np.testing.assert_allclose(values, [math.exp(params_at(n)) for n in range(5)], rtol=1e-6)


def test_an_error_names_its_instrument_and_comes_before_the_first_step(tmp_path):
    def fails(state):
        raise ZeroDivisionError("never")

    seen = []
    with pytest.raises(ZeroDivisionError) as error:
        fit(
            step,
            start(),
            lambda n: seen.append(n),
            num_steps=4,
            log=quiet(tmp_path),
            instruments={"mine": fails},
        )
    assert (
        error.value.__notes__[-1:] == ["The instrument 'mine' of fit raised this error at step 0."]
        and not seen
    )


REFUSED = {
    "instruments without a log": (
        lambda: fit(step, start(), batches, num_steps=1, instruments=INSTRUMENTS), ValueError,
        r"fit\(instruments\): expected log=, which keeps their rows, got none"),
    "a list of instruments": (
        lambda: fit(step, start(), batches, num_steps=1, instruments=[len]), TypeError,
        r"fit\(instruments\): expected a dict of functions state -> value, .* got list"),
    "no function": (
        lambda: fit(step, start(), batches, num_steps=1, instruments={"a": 3}), TypeError, r"got 'a': 3"),
    "instrument_every": (
        lambda: fit(step, start(), batches, num_steps=1, instrument_every=0), ValueError,
        r"fit\(instrument_every\): expected a whole number of at least 1, got 0"),
    "log": (
        lambda: fit(step, start(), batches, num_steps=1, log=3), TypeError,
        r"fit\(log\): expected a MetricsLog, a folder, a function \(step, metrics\), or a list of these, got 3"),
    "three axes": (
        lambda: rows_of({"a": np.ones((2, 2, 2))}), ValueError, r"one or two axes .* got \[2, 2, 2\] for 'a'"),
    "too many numbers": (lambda: rows_of(np.ones(70_000)), ValueError, r"at most 65536 numbers, got \[70000\]"),
    "complex numbers": (lambda: rows_of(1j), TypeError, "expected real numbers, got complex128 for 'value'"),
    "text": (lambda: rows_of({"a": "b"}), TypeError, "expected real numbers, got <U1 for 'a'"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- rows of values


def test_leaves_are_quantities_and_axes_are_columns():
    value = {"a": jnp.bfloat16(0.5), "b": (np.array([1, 2]), True), "c": np.array([[1.0, 2.0], [3.0, 4.0]])}
    found = {(row["quantity"], row.get("x"), row.get("t")): row["value"] for row in rows_of(value)}
    assert found == {
        ("a", None, None): 0.5,
        ("b.0", None, 0): 1,
        ("b.0", None, 1): 2,
        ("b.1", None, None): 1,
        ("c", 0, 0): 1,
        ("c", 0, 1): 2,
        ("c", 1, 0): 3,
        ("c", 1, 1): 4,
    }


@pytest.mark.parametrize("value", [1 / 3, -np.inf, np.inf, np.nan])
def test_every_number_is_json_and_is_read_as_it_was(value):
    (row,) = rows_of(value)
    line = to_line(row)
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    np.testing.assert_equal(from_line(json.loads(line))["value"], value)


@jax.jit
def measured(params, xs):
    """The profile of a loss of the last step of a linear network."""
    bound, carry = (
        bind(sj.recurrent(sj.elman(1, activation="identity")), params),
        ElmanCarry(jnp.zeros((2, 1))),
    )
    return gradient_profile(bound, lambda ys, _: ys[-1].sum(-1), sj.Batch(xs, None), carry=carry)


def test_a_profile_knows_its_rows():
    params = ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), 0.5), jnp.zeros(1))
    found = rows_of(measured(params, jnp.ones((6, 2, 1))))
    assert {row["section"] for row in found} == {"training"} and {row["length"] for row in found} == {6}
    norms = [row["value"] for row in found if row["quantity"] == "log_norm"]
    # The loss is a mean over two examples.
    np.testing.assert_allclose(norms, np.log(0.5) * np.arange(6, 0, -1) - np.log(2), rtol=1e-5)
    by_name = {(row["quantity"], row.get("leaf")): row["value"] for row in found if "t" not in row}
    np.testing.assert_allclose(by_name["exponential_length", "carry"], 1 / np.log(2), rtol=1e-5)
    np.testing.assert_allclose(by_name["parameter_gradient_norm", "b"], 2 - 0.5**5, rtol=1e-5)
    np.testing.assert_allclose(by_name["loss", None], 2 - 0.5**5, rtol=1e-5)
    assert by_name["zero_share", "carry"] == 0


def test_masked_steps_and_zeros_are_no_part_of_the_mean_of_a_profile():
    c = np.array([[1.0, 3.0, -np.inf], [2.0, np.nan, -np.inf], [np.nan, np.nan, np.nan], [-np.inf] * 3])
    profile = GradientProfile({"c": c, "h": c + 1}, np.float32(7), {"w": np.array([3.0, 4.0])})
    found = rows_of(profile)
    by_leaf = {
        leaf: [row["value"] for row in found if row["quantity"] == "log_norm" and row["leaf"] == leaf]
        for leaf in ("c", "h", "carry")
    }
    np.testing.assert_allclose(by_leaf["c"], [2, 2, np.nan, -np.inf])
    np.testing.assert_allclose(by_leaf["h"], [3, 3, np.nan, -np.inf])
    both = 2 + 0.5 * np.log(1 + np.e**2)  # the norm of two leaves
    np.testing.assert_allclose(by_leaf["carry"], [both, both, np.nan, -np.inf], rtol=1e-6)
    scalars = {(row["quantity"], row.get("leaf")): row["value"] for row in found if "t" not in row}
    assert scalars["zero_share", "carry"] == pytest.approx(5 / 12)
    assert scalars["parameter_gradient_norm", "w"] == 5 and scalars["loss", None] == 7


def test_spectra_know_their_rows():
    ends = np.array([[0.3, -1.0], [0.1, np.nan]])
    each = np.array([2.0, 4.0])
    spectrum = LyapunovSpectrum(ends, ends - 1, ends + 1, each, None, each, each, each, each)
    rows = rows_of(spectrum)
    found = {(row["quantity"], row.get("t")): row["value"] for row in rows}
    assert [found["exponent", i] for i in (0, 1)] == pytest.approx([0.2, -1.0])
    assert [found[f"exponent_{end}", 0] for end in ("low", "high")] == pytest.approx([-0.8, 1.2])
    assert found["sum", None] == 3 and ("log_determinant", None) not in found
    values = np.arange(8.0).reshape(2, 2, 2)  # lags, examples, values
    fan = SingularFan(np.array([1, 4]), values, values[..., 0], values[..., 1], values[..., 0])
    more = rows_of(fan)
    found = {(row["quantity"], row["x"], row.get("t")): row["value"] for row in more}
    assert [found["log_singular_value", 4.0, j] for j in (0, 1)] == [5, 6] and found[
        "isometry", 1.0, None
    ] == 1
    assert {row["section"] for row in rows + more} <= {measurement.name for measurement in MEASUREMENTS}


# ---------------------------------------------------------------- logs


def test_a_function_gets_the_numbers_that_the_file_gets(tmp_path):
    seen = []
    log = [quiet(tmp_path), lambda number, metrics: seen.append((number, metrics))]
    options = {"log_every": 2, "evaluate": lambda state: {"loss": 0.5}, "eval_every": 3}
    instruments = {"mine": lambda state: {"a": state.params, "curve": jnp.ones(3)}}
    fit(step, start(), batches, num_steps=3, log=log, instruments=instruments, **options)
    assert [(number, sorted(metrics)) for number, metrics in seen] == [
        (0, ["mine/a"]),
        (2, ["loss", "norms", "seconds"]),
        (3, ["evaluation/loss"]),
        (3, ["mine/a"]),
    ]
    assert type(seen[1][1]["loss"]) is float and type(seen[1][1]["norms"]) is np.ndarray
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == [seen[1][1]["loss"]] == [params_at(1)]


def test_a_function_that_raises_loses_its_metrics_and_nothing_else(tmp_path, caplog):
    seen = []

    def log(number, metrics):
        if number in (2, 3, 5):
            raise ConnectionError(f"no server\nat {number}.")
        seen.append(number)

    with caplog.at_level(logging.WARNING):
        fitted = fit(step, start(), batches, num_steps=6, log=(log, quiet(tmp_path)), log_every=1)
    assert fitted.reason == "reached 6 steps" and seen == [1, 4, 6]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6
    lost = [f"fit: log raised ConnectionError at step {n}: no server at {n}. Its metrics are lost; training continues."
            for n in (2, 5)]  # fmt: skip
    assert [record.getMessage() for record in caplog.records] == lost


def test_ctrl_c_in_a_function_is_no_error_of_it():
    def log(number, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(step, start(), batches, num_steps=3, log=log, log_every=1)


def test_instruments_need_no_package_of_the_report(tmp_path):
    code = """
import sys
for name in ("polars", "typer", "jinja2", "matplotlib", "markupsafe"):
    sys.modules[name] = None
import typing, jax.numpy as jnp  # flax needs rich
from seqjax.probes import GradientProfile
from seqjax.training import fit
class State(typing.NamedTuple): step: typing.Any
profile = GradientProfile(jnp.ones((4, 2)), jnp.float32(1), jnp.ones(3))
fit(lambda state, batch: (State(state.step + 1), {}), State(jnp.int32(0)), lambda n: jnp.float32(n), num_steps=1,
    log=sys.argv[1], instruments={"profile": lambda state: profile})
"""
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    norms = [row for row in rows(tmp_path) if row["quantity"] == "log_norm"]
    assert [(row["training_step"], row["t"]) for row in norms] == [(n, t) for n in (0, 1) for t in range(4)]
