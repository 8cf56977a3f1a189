"""Test users' models in the report: every form of `build`, and a one-line error for every mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from helpers.command_line import SMALL, run

import seqjax as sj
from seqjax.study.experiment import Experiment
from seqjax.study.models import layers_of
from seqjax.study.settings import Settings, check
from seqjax.study.store import Store
from seqjax.tasks import delayed_recall
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


TOKENS = """
import flax.linen as nn, jax, jax.numpy as jnp, seqjax as sj
def step(vocabulary_size, hidden_size, seed):
    params = {"e": jax.random.normal(jax.random.key(seed), (vocabulary_size, hidden_size)), "a": jnp.float32(0.5)}
    def step(params, h, x):
        h = params["a"] * h + params["e"][x]
        return h, h
    return params, step, jnp.zeros(hidden_size)
def layer(vocabulary_size, num_outputs, hidden_size=5):
    ends = nn.Embed(vocabulary_size, hidden_size), nn.Dense(num_outputs)
    return sj.serial(sj.pointwise(ends[0]), sj.recurrent(sj.elman(hidden_size)), sj.pointwise(ends[1]))
def build():
    return sj.serial(sj.pointwise(nn.Embed(8, 3)), sj.recurrent(sj.elman(3)))
def other(seed):
    return jnp.ones(2 + seed, jnp.float32), lambda params, h, x: (h, h), jnp.zeros(3)
"""


def named(folder, function):
    return write(folder, TOKENS).replace(":build", f":{function}")


def test_a_step_of_tokens_is_run_as_a_loop_and_has_a_gradient(tmp_path):
    layer = own_layer(named(tmp_path, "step"), 3, sj.Auto(), seed=7, vocabulary_size=4)
    xs = jnp.array([[0, 3], [1, 1], [3, 2]])
    params = layer.init(jax.random.key(0), xs[0])
    drawn = jax.random.normal(jax.random.key(7), (4, 3))
    np.testing.assert_array_equal(params["e"], drawn.astype(jnp.float32))

    def loss(params):
        return jnp.sum(layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1][-1])

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    e = np.asarray(params["e"])
    np.testing.assert_allclose(value, (0.25 * e[xs[0]] + 0.5 * e[xs[1]] + e[xs[2]]).sum(), rtol=1e-5)
    # Token 3 came first in one sequence, and last in the other.
    np.testing.assert_allclose(gradients["e"][:, 0], [0.25, 1, 1, 1.25], rtol=1e-6)
    np.testing.assert_allclose(gradients["a"], (2 * 0.5 * e[xs[0]] + e[xs[1]]).sum(), rtol=1e-5)


def test_maps_that_a_model_has_itself_are_left_out(tmp_path):
    task, x = delayed_recall(6), jnp.zeros(2, int)
    shapes = {}
    for name in (named(tmp_path, "layer"), named(tmp_path, "step"), "elman"):
        model = sj.serial(*layers_of(name, 5, sj.Auto(), "float32", task))
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        shapes[name.rpartition(":")[2]] = [len(jax.tree.leaves(part)) for part in params]
        _, y = jax.eval_shape(lambda p: model.step(p, model.initial_carry(p, x), x), params)  # noqa: B023
        assert y.shape == (2, task.num_outputs)
    assert shapes == {"layer": [0, 6, 0], "step": [0, 2, 2], "elman": [1, 3, 2]}


def test_every_seed_begins_with_the_params_that_the_model_draws_for_it(tmp_path):
    name = named(tmp_path, "step")
    settings = Settings(cells=(name,), lengths=(5,), hidden_size=3, batch_size=2, task="delayed_recall")
    experiment = Experiment(settings, None, Store(tmp_path / "study"), lambda work: None)
    for seed in (0, 3):
        e = experiment.run(name, 5).start(seed).params[1]["e"]
        size = experiment.source(5).task.num_inputs
        drawn = jax.random.normal(jax.random.key(seed), (size, 3))
        np.testing.assert_array_equal(e, drawn.astype(jnp.float32))


@pytest.mark.parametrize(
    ("function", "task", "message"),
    [
        ("build", "delayed_recall", "A model of tokens is made by build(vocabulary_size)"),
        ("step", "adding", "expected a task of tokens for build(vocabulary_size), got real inputs"),
    ],
)
def test_a_model_of_tokens_says_so_and_needs_tokens(tmp_path, function, task, message):
    name = named(tmp_path, function)
    with pytest.raises(ValueError, match="^.*mine.py:") as error:
        check(Settings(cells=(name,), lengths=(8,), hidden_size=3, task=task))
    assert message in str(error.value)


def test_params_of_another_form_for_another_seed_are_refused(tmp_path):
    name = named(tmp_path, "other")
    settings = Settings(cells=(name,), lengths=(5,), hidden_size=3, batch_size=2, task="delayed_recall")
    experiment = Experiment(settings, None, Store(tmp_path / "study"), lambda work: None)
    with pytest.raises(
        ValueError, match=r"one form for every seed, float32\[2\] for seed 0, got float32\[3\] for seed 1"
    ):
        experiment.run(name, 5).start(1)


@pytest.mark.slow  # one model has a study of its own here
def test_two_models_of_tokens_share_a_study(monkeypatch, tmp_path):
    names = [named(tmp_path, "step"), named(tmp_path, "layer")]
    options = [*SMALL, "--lengths", 6, "--seeds", 1, "--training-steps", 1, "--out", tmp_path / "out"]
    assert run(monkeypatch, "gradients", *names, *options, "--task", "delayed_recall") == 0
    frame = pl.read_parquet(tmp_path / "out" / "results.parquet")
    norms = frame.filter(quantity="log_norm", loss="last", training_step=0, leaf="carry").sort("t")
    linear = norms.filter(cell=names[0])["value"].to_numpy()
    np.testing.assert_allclose(np.diff(linear), np.log(2), rtol=1e-4)  # the step halves its state
    assert norms.filter(cell=names[1])["value"].is_finite().all()
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"seqjax gradients {names[0]} {names[1]} --" in page
