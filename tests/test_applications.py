"""Test the runner of the applications, the page of their results, and the runner of the notebooks."""

import json
import os
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from benchmarks.applications import (
    APPLICATIONS,
    Bar,
    Trained,
    application,
    fit_best,
    notebooks,
    runner,
    table,
)
from seqjax.datasets.sources import SOURCES, FetchError
from seqjax.training import evaluation

typer_testing = pytest.importorskip("typer.testing", reason="the command line needs typer")
NAME = "text"
FOLDER = runner.RESULTS.parent.parent / "applications"
FILES = [name for name in APPLICATIONS if (FOLDER / name).exists() or (FOLDER / f"{name}.py").exists()]
SILENT = lambda line: None  # noqa: E731


class Fake:
    """An application that trains nothing: the result is the seed plus the number of the variant."""

    TUNING = "Two settings each."
    BARS = (Bar("error", at_most=11.0), Bar("error", "b", at_least=10.0, over="a"))

    def __init__(self):
        self.VARIANTS = {"a": {"width": 1}, "b": {"width": 2}}
        self.calls = []
        self.stop = lambda variant, seed: None

    def train(self, variant, *, seed, toy=False):
        self.calls.append((variant, seed))
        self.stop(variant, seed)
        error = seed + 10 * list(self.VARIANTS).index(variant)
        metrics = {"validation": {"error": -error}, "test": {"error": error, "bad": float("nan")}}
        losses = {"training": [(step, 1 / step) for step in range(1, 1001)], "validation": [(1000, 0.5)]}
        return Trained(None, None, metrics, 0.5, 1234, losses, {"toy": toy})

    def baselines(self, toy=False):
        self.calls.append("baselines")
        return {"copy": {"error": 10.5}}


@pytest.fixture
def fake(monkeypatch):
    module = Fake()
    monkeypatch.setattr(runner, "load", lambda name: module)
    monkeypatch.setattr(runner, "missing_data", lambda name: [])
    return module


def start(out, **options):
    options = {"seeds": 2, "toy": False, "variants": [], "command": ["python", "x"], "say": SILENT} | options
    return runner.run([NAME], out=out, **options)


def stored(out):
    return json.loads((out / f"{NAME}.json").read_text())


ALL = ["baselines", ("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_runs_are_stored_one_by_one_and_continue_after_an_interruption(fake, tmp_path):
    def stop(variant, seed):
        if (variant, seed) == ("b", 0):
            raise KeyboardInterrupt

    fake.stop = stop
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert fake.calls == ALL[:4]
    assert [(run["variant"], run["seed"]) for run in stored(tmp_path)["runs"]] == ALL[1:3]
    assert os.listdir(tmp_path) == [f"{NAME}.json"]

    fake.calls, fake.stop = [], lambda variant, seed: None
    assert start(tmp_path) == [] and fake.calls == ALL[3:]
    fake.calls = []
    assert start(tmp_path, seeds=3) == [] and fake.calls == [("a", 2), ("b", 2)]
    document = stored(tmp_path)
    assert [(run["variant"], run["seed"]) for run in document["runs"]] == [
        (variant, seed) for variant in "ab" for seed in range(3)
    ]
    run = document["runs"][4]
    assert run["metrics"] == {"validation": {"error": -11.0}, "test": {"error": 11.0, "bad": None}}
    assert run["settings"] == "{'width': 2}" and run["parameters"] == 1234 and run["header"]["jax"]
    assert len(run["losses"]["training"]) <= runner.POINTS + 1 and run["losses"]["training"][-1] == [
        1000,
        0.001,
    ]


def test_runs_with_other_settings_are_done_again(fake, tmp_path):
    start(tmp_path)
    fake.calls, fake.VARIANTS["a"] = [], {"width": 7}
    start(tmp_path)
    assert fake.calls == [("a", 0), ("a", 1)]
    fake.calls = []
    start(tmp_path, variants=["b"], seeds=3)
    assert fake.calls == [("b", 2)]
    with pytest.raises(ValueError, match="text: expected a variant of a, b, got 'c'"):
        start(tmp_path, variants=["c"])


def test_a_run_that_fails_is_named_and_the_others_go_on(fake, tmp_path, monkeypatch, capsys):
    from benchmarks import __main__ as command_line

    def stop(variant, seed):
        if variant == "a":
            raise FloatingPointError("the loss is NaN")

    fake.stop = stop
    result = typer_testing.CliRunner().invoke(
        command_line.app, ["applications", NAME, "--seeds", "1", "--toy", "--out", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "Failed: text: a, seed 0: FloatingPointError: the loss is NaN" in result.output
    (run,) = stored(tmp_path / runner.TOY)["runs"]
    assert run["variant"] == "b" and run["extra"] == {"toy": True}
    assert not (tmp_path / f"{NAME}.json").exists()
    assert stored(tmp_path / runner.TOY)["command"] == "python -m benchmarks applications text --seeds 1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["texts"], "expected names of text, sentiment"),
        ([NAME, "--variant", "c"], "expected a variant of a, b"),
    ],
)
def test_unknown_names_are_refused(words, message, fake, tmp_path):
    from benchmarks import __main__ as command_line

    result = typer_testing.CliRunner().invoke(
        command_line.app, ["applications", *words, "--out", str(tmp_path)], env={"COLUMNS": "300"}
    )
    assert result.exit_code == 2 and message in result.output
    assert not list(tmp_path.iterdir())


def test_an_application_without_its_data_is_named(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "missing_data", lambda name: ["laser", "m3"])
    (failure,) = start(tmp_path)
    assert failure == (NAME, "no data. Run 'seqjax data fetch laser m3'")
    assert not fake.calls and not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the page


def document(**of_bar):
    """Variants a (validation 1 and 2, test 3 and 5) and b (validation 4, test 9), and a baseline at 6."""
    run = lambda variant, seed, validation, test: {  # noqa: E731
        "variant": variant,
        "seed": seed,
        "metrics": {"validation": {"m": validation}, "test": {"m": test}},
        "minutes": 1.5,
        "parameters": 1000,
    }
    bar = {"metric": "m", "variant": None, "at_least": None, "at_most": None, "over": None} | of_bar
    return {
        "name": NAME,
        "tuning": "Nothing.",
        "bars": [bar],
        "runs": [run("a", 0, 1, 3), run("a", 1, 2, 5), run("b", 0, 4, 9)],
        "baselines": {"metrics": {"copy": {"m": 6}}},
    }


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ({"at_most": 4.0}, ("a", [3, 5], True)),
        ({"at_most": 3.9}, ("a", [3, 5], False)),
        ({"at_least": 9.0}, ("b", [9], True)),
        ({"at_least": 1.0, "at_most": 2.0}, ("a", [3, 5], False)),
        ({"at_least": 4.0, "variant": "a"}, ("a", [3, 5], True)),
        ({"at_least": 5.0, "variant": "b", "over": "a"}, ("b", [5], True)),
        ({"at_least": 3.5, "variant": "b", "over": "copy"}, ("b", [3], False)),
        ({"at_most": 0.0, "over": "copy"}, ("a", [-3, -1], True)),
        ({"at_least": 0.0, "metric": "other"}, ("", [], None)),
        ({"at_least": 0.0, "over": "absent"}, ("b", [], None)),
    ],
)
def test_a_bar_is_about_the_mean_of_the_variant_chosen_by_validation(bar, expected):
    found = document(**bar)
    assert table.reached(found, found["bars"][0]) == expected


def test_a_bar_without_a_limit_is_refused():
    with pytest.raises(ValueError, match="expected at_least or at_most"):
        Bar("error")


def test_the_page_has_bars_variants_and_baselines(tmp_path):
    (tmp_path / f"{NAME}.json").write_text(json.dumps(document(at_most=3.9)))
    text = table.page(tmp_path)
    assert "| text | m | ≤ 3.9 | a | 2 | 4 [3, 5] | 1.5 | **no** |" in text
    assert (
        "| **a** | 4 [3, 5] | 1,000 | 2 | 1.5 |\n| **b** | 9 | 1,000 | 1 | 1.5 |\n| copy | 6 |  |  |  |"
        in text
    )
    assert text.count("Not run yet") == len(APPLICATIONS) - 1
    assert table.section("digits", tmp_path) == "Not run yet: `python -m benchmarks applications digits`."


def test_the_committed_page_is_that_of_the_committed_files():
    assert table.PAGE.read_text(encoding="utf-8") == table.page()


# ---------------------------------------------------------------- the applications themselves


@pytest.mark.parametrize("name", FILES)
def test_an_application_has_its_parts_and_bars_name_variants(name):
    module = application.load(name)
    assert module.VARIANTS and module.BARS and len(module.TUNING) > 20
    assert {bar.variant for bar in module.BARS} <= {*module.VARIANTS, None}


def test_titles_and_data_are_known():
    for each in APPLICATIONS.values():
        assert set(each.data) <= set(SOURCES)
    assert application.missing_data("tour_of_gradients") == []
    with pytest.raises(ValueError, match="unknown name 'texts'. Did you mean 'text'?"):
        application.load("texts")


def test_a_module_without_its_parts_is_refused(monkeypatch):
    monkeypatch.setattr(application.importlib, "import_module", lambda name: SimpleNamespace(__name__=name))
    with pytest.raises(TypeError, match="VARIANTS, BARS, TUNING, train, baselines missing"):
        application.load(NAME)


def test_the_params_of_the_best_evaluation_are_kept():
    model = sj.serial(sj.pointwise(nn.Dense(2)))
    batch = sj.Batch(jnp.ones((3, 4, 2)), jnp.ones((3, 4, 2)))
    loss = lambda ys, targets: optax.l2_loss(ys, targets)  # noqa: E731
    seen = []

    def evaluate(state):
        seen.append(jax.tree.map(np.asarray, state.params))
        return {"loss": 1.0 + len(seen), "score": [0.3, 0.9, 0.5][len(seen) - 1]}

    options = {"num_steps": 6, "eval_every": 2, "seed": 0, "metric": "score", "lower": False}
    best = fit_best(model, loss, optax.sgd(0.1), lambda step: batch, evaluate, **options)
    assert best.parameters == 6 and best.minutes > 0
    assert best.losses["validation"] == [(2, 2.0), (4, 3.0), (6, 4.0)]
    training = [value for _, value in best.losses["training"]]
    assert len(training) == 6 and training == sorted(training, reverse=True)
    jax.tree.map(np.testing.assert_array_equal, best.params, seen[1])
    final = evaluation(model, loss, lambda step: batch)(SimpleNamespace(params=best.params))
    assert final["loss"] < training[0]


# ---------------------------------------------------------------- notebooks


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two notebooks, one of which has data that are not in the cache."""
    monkeypatch.setenv("SEQJAX_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv(notebooks.TOY_VARIABLE, "")
    return [tmp_path / "forecasting.ipynb", tmp_path / "tour_of_gradients.ipynb"]


def test_a_notebook_without_data_is_skipped_after_a_second_try(two, monkeypatch, capsys):
    tries, ran = [], []

    def fetch(name, report):
        tries.append(name)
        raise FetchError("offline")

    def execute(path):
        ran.append((path.stem, os.environ[notebooks.TOY_VARIABLE]))

    monkeypatch.setattr(notebooks, "fetch", fetch)
    assert notebooks.run_all(two, toy=True, execute=execute, at_once=2, pause=0) == 0
    assert tries == ["laser", "laser"] and ran == [("tour_of_gradients", "1")]
    assert (
        capsys.readouterr().err.splitlines()[-1] == "SKIPPED notebook forecasting, without its data: offline"
    )
    assert os.environ["PYTHONPATH"] == str(notebooks.ROOT)


def test_a_notebook_that_fails_sets_the_exit_status_and_the_others_run(two, monkeypatch, capsys):
    ran = []

    def execute(path):
        ran.append(path.stem)
        assert notebooks.TOY_VARIABLE not in os.environ
        if path.stem == "forecasting":
            raise RuntimeError("cell 3: NameError")

    monkeypatch.setattr(notebooks, "fetch", lambda name, report: None)
    assert notebooks.run_all(two, toy=False, execute=execute, at_once=1, pause=0) == 1
    assert ran == ["forecasting", "tour_of_gradients"]
    errors = capsys.readouterr().err
    assert "cell 3: NameError" in errors and "FAILED notebooks: forecasting" in errors
