"""Test users' models in the report: every form of `build`, and a one-line error for every mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from helpers.command_line import SMALL, run

import seqjax as sj
from seqjax.user_model import own_layer

STEP = """
import jax.numpy as jnp
def build():
    params = {"w": 0.1 * jnp.ones((3, 3)), "a": jnp.full(3, 0.5)}
    def step(params, carry, x):
        h = params["a"] * carry["h"] + x @ params["w"]
        return {"h": h}, jnp.tanh(h)
    return params, step, {"h": jnp.zeros(3)}
"""
FORMS = {
    "a tuple with a carry": STEP,
    "a carry from a function": STEP.replace(
        '{"h": jnp.zeros(3)}\n', 'lambda params, x: {"h": jnp.zeros(3)}\n'
    ),
    "no carry": STEP.replace(', {"h": jnp.zeros(3)}\n', "\n").replace(
        "h = params", 'carry = carry or {"h": 0 * x}; h = params'
    ),
}


def write(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(text)
    return f"{folder / 'mine.py'}:build"


@pytest.mark.parametrize("form", FORMS)
def test_a_step_of_ones_own_is_run_as_a_loop(tmp_path, form):
    layer = own_layer(write(tmp_path, FORMS[form]), 3, sj.Auto())
    xs = jax.random.normal(jax.random.key(0), (5, 2, 3))
    reset = jnp.zeros((5, 2), bool).at[3, 0].set(True)
    params = layer.init(jax.random.key(1), xs[0])
    carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs, reset=reset)
    h = np.zeros((2, 3))
    for t, x in enumerate(np.asarray(xs, float)):
        h = np.where(np.asarray(reset)[t, :, None], 0, h) * 0.5 + x @ np.full((3, 3), 0.1)
        np.testing.assert_allclose(ys[t], np.tanh(h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carry["h"], h, rtol=1e-5, atol=1e-6)


def test_a_cell_and_a_layer_of_ones_own_are_taken_as_they_are(tmp_path):
    text = (
        "import seqjax as sj\ndef build(): return sj.lstm(3)\ndef layer(): return sj.recurrent(sj.gru(3))\n"
    )
    name = write(tmp_path, text)
    assert own_layer(name, 3, sj.Scan()) == sj.recurrent(sj.lstm(3), sj.Scan())
    assert own_layer(name.replace(":build", ":layer"), 3, sj.Scan()) == sj.recurrent(sj.gru(3))


def test_a_model_of_ones_own_gets_the_same_pages(monkeypatch, tmp_path):
    name = write(tmp_path, STEP)
    options = [*SMALL, "--lengths", 6, "--seeds", 1, "--training-steps", 1, "--out", tmp_path / "out"]
    assert run(monkeypatch, "gradients", name, *options) == 0
    frame = pl.read_parquet(tmp_path / "out" / "results.parquet")
    norms = frame.filter(quantity="log_norm", loss="last", training_step=0, leaf="carry").sort("t")["value"]
    # The state of the step before is halved, so that the norm halves per step of lag.
    np.testing.assert_allclose(np.diff(norms.to_numpy()), np.log(2), rtol=1e-4)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "mine.py:build, T = 6</text>" in page and f"seqjax gradients {name}" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STEP.replace("params, carry, x)", "params, x)"), "failed on carry {h: float32[3]} and x float32[3]"),
        (
            STEP.replace("params, carry, x)", "params, x)"),
            "build() -> (params, step) or (params, step, carry)",
        ),
        (STEP.replace('return {"h": h}, jnp.tanh(h)', "return h"), "step returned"),
        (STEP.replace('return {"h": h}', 'return {"h": h[:2]}'), "float32[3]}, got {h: float32[2]}"),
        (
            STEP.replace("jnp.tanh(h)\n", "h.sum()\n"),
            "expected step to return y [D], one vector, got float32[]",
        ),
        (
            STEP.replace(', {"h": jnp.zeros(3)}\n', "\n"),
            "Return (params, step, carry) if step cannot take None",
        ),
        (STEP.replace("return params, step,", "return step, params,"), "got a tuple of 3"),
        (STEP.replace("def build():", "def build(width):"), "missing 1 required positional argument"),
        (STEP.replace("def build", "def other"), "expected a function 'build'"),
        ("import nothing_of_this_name", "importing"),
    ],
)
def test_a_wrong_model_of_ones_own_is_one_clear_line(monkeypatch, tmp_path, capsys, text, message):
    name = write(tmp_path / "models", text)
    assert run(monkeypatch, "gradients", name, *SMALL, "--lengths", 6, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("seqjax: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_file_and_a_cell_in_the_place_of_a_model_are_clear(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "gradients", tmp_path / "no.py:build", "--out", tmp_path / "out") == 2
    assert "which does not exist" in capsys.readouterr().err
    assert run(monkeypatch, "gradients", "lstm", "--out", tmp_path / "out") == 2
    assert "Give a cell by --cells lstm" in capsys.readouterr().err
