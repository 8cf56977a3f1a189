"""Test the page of a training with instruments: its numbers, and folders that it refuses."""

import json
import re

import numpy as np
import polars as pl
import pytest
from helpers import looks
from helpers.command_line import run

from seqjax.probes import GradientProfile, LyapunovSpectrum, SingularFan
from seqjax.report.drawing import COLORS, TEXT
from seqjax.report.run_page import is_run, read_rows, render_run
from seqjax.rows import rows_of
from seqjax.study.rows import SCHEMA
from seqjax.training import MetricsLog

T, STEPS = 6, (0, 50, 100)


def profile(rate):
    """The norm falls by a rate per step of lag, exactly to zero at the first step."""
    log_norm = -rate * np.arange(T, 0, -1.0)[:, None] * np.ones(2)
    log_norm[0] = -np.inf
    return GradientProfile(log_norm, np.float32(1), {"w": np.ones(4)})


def spectrum(top):
    ends = np.array([[top, top - 1.0]])
    one = np.ones(1)
    return LyapunovSpectrum(ends, ends - 0.1, ends + 0.1, one, None, one, one, one, one)


@pytest.fixture
def folder(tmp_path):
    """A training of which three steps were measured."""
    log = MetricsLog(tmp_path, plots=False)
    log.begin(0)
    for i, step in enumerate(STEPS):
        log.measured(step, "profile", rows_of(profile(1.0 / (i + 1))))
        log.measured(step, "spectrum", rows_of(spectrum(-0.5 + 0.2 * i)))
        fan = SingularFan(np.array([1, 4]), np.full((2, 1, 2), float(i)), *np.ones((3, 2, 1)))
        log.measured(step, "fan", rows_of(fan))
        log.measured(step, "mine<b>", rows_of({"a": i, "curve": np.arange(7.0)}))
        log.write(step, {"loss": 2.0 - i, "gradient_norm": 1.0, "finite": True})
    log.write(100, {"evaluation/loss": 0.25})
    log.end()
    return tmp_path


def lines_of(page):
    """The lines of all charts: values by name, by the label of the horizontal axis."""
    found = {}
    for text in re.findall(r'<script type="application/json">(.*?)</script>', page):
        data = json.loads(text.replace("\\u0026", "&"))
        for line in data.get("s", ()):
            found[line["n"]] = dict(zip(line["x"], line["y"], strict=True))
    return found


def test_the_page_shows_what_was_measured(folder):
    page = render_run(folder).read_text()
    lines = lines_of(page)
    assert lines["λ1"] == pytest.approx({0: -0.5, 50: -0.3, 100: -0.1})
    assert lines["λ2"] == pytest.approx({0: -1.5, 50: -1.3, 100: -1.1})
    assert lines["training"] == {0: 1.0, 50: 1.0, 100: 1.0} and lines["held out"] == {100: 0.25}
    assert lines["σ1"] == pytest.approx({0: 0, 50: 1 / np.log(10), 100: 2 / np.log(10)}, rel=1e-4)
    assert lines["lag 90 %"][0] == 2 and lines["lag 90 %"][100] > 2
    decay = lines["step 100"]
    assert decay[5] is None  # exactly zero
    np.testing.assert_allclose([decay[lag] for lag in range(5)], -np.arange(1, 6) / 3 / np.log(10), rtol=1e-3)
    assert lines["a"] == {0: 0, 50: 1, 100: 2} and lines["at 6"] == {0: 6, 50: 6, 100: 6}
    for text in (
        "profile, T = 6",
        "The largest exponent of spectrum goes from −0.500 to −0.100",
        "mine&lt;b&gt;",
    ):
        assert text in page, text
    assert "<b>: a" not in page
    assert {path.stem for path in (folder / "figures").iterdir()} >= {"run-heat-T6-profile", "run-loss"}


def test_rows_are_those_of_a_study_and_tools_read_them(folder):
    rows = read_rows(folder)
    assert dict(rows.schema) == SCHEMA and set(rows["training_step"]) == set(STEPS)
    zero = rows.filter(quantity="log_norm", t=0)["value"].to_list()
    assert zero == [-np.inf] * 3
    assert pl.read_ndjson(folder / "instruments.jsonl", infer_schema_length=None).height == rows.height


def test_a_training_that_still_runs_is_drawn_without_its_last_line(folder):
    for name in ("instruments.jsonl", "metrics.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"part": "profile", "tr')
    assert "Gradients during a training" in render_run(folder).read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected measurements of a training in instruments.jsonl, got none. Train with"),
        ("{}\n", "expected rows of instruments, got others"),
        ('{"part": "a", "value": 1}\n', "expected part, section, quantity, training_step in every row"),
        ('{"part": "a", "value": "x", "section": "a", "quantity": "a", "training_step": 1}\n', "expected rows"),
        ("{\n{}\n", "line 1 is damaged"),
        ('{"part": "a", "value": 1, "section": "training", "quantity": "log_norm", "training_step": 1, '
         '"leaf": "carry", "length": 2, "t": 5}\n', "cannot be drawn"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_line_and_nothing_is_written(
    monkeypatch, tmp_path, capsys, text, message
):
    (tmp_path / "instruments.jsonl").write_text(text)
    assert is_run(tmp_path) and run(monkeypatch, "render", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("seqjax: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["instruments.jsonl"]


TINY = "--length 4 --batch-size 2 --hidden-size 3 --steps 2 --eval-every 1 --eval-batches 1 --model elman".split()


def test_the_command_line_measures_resumes_and_draws(monkeypatch, tmp_path, capsys):
    options = ["--instruments", "spectrum, profile", "--instrument-every", 2, "--out", tmp_path / "run"]
    assert run(monkeypatch, "train", "parity", *TINY, *options) == 0
    assert "instruments.jsonl: measurements of gradients by step" in capsys.readouterr().out
    assert run(monkeypatch, "train", "--resume", "--steps", 3, *options) == 0
    rows = read_rows(tmp_path / "run")
    assert set(rows["training_step"]) == {0, 2, 3}
    assert rows.select("part", "training_step", "quantity", "leaf", "t").is_unique().all()
    norms = rows.filter(quantity="log_norm", training_step=3, leaf="carry")["value"]
    assert norms.len() == 4 and norms.is_finite().all()
    assert rows.filter(quantity="exponent", training_step=3).height == 3  # of three units
    assert run(monkeypatch, "render", tmp_path / "run") == 0
    assert "elman" in (tmp_path / "run/index.html").read_text()
    assert run(monkeypatch, "train", "parity", *TINY, "--out", tmp_path / "run", "--overwrite") == 0
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"instruments.jsonl", "index.html", "figures"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--instruments spectra", "--instruments: unknown name 'spectra'"),
        ("--instruments ,", "--instruments: expected names out of profile, spectrum, got ','"),
        ("--instrument-every 5", "--instrument-every goes with --instruments, got none"),
        ("--instruments profile --instrument-every 0", "--instrument-every: expected a whole number"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(monkeypatch, tmp_path, capsys, options, message):
    assert run(monkeypatch, "train", "parity", *TINY, *options.split(), "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_lines_have_the_hue_of_the_one_model_and_large_text(folder):
    render_run(folder)
    for path in (folder / "figures").iterdir():
        svg = path.read_text("utf-8")
        assert looks.hues(svg) <= {COLORS[0]} and min(looks.font_sizes(svg)) >= TEXT, path.name
