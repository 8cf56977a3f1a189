"""Test ``seqjax train``: config.json repeats a run, whole or in parts; one-line errors for bad input."""

import dataclasses
import errno
import functools
import importlib
import inspect
import json
import logging
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command_line import run

import seqjax as sj
from seqjax import user_model
from seqjax.training import Checkpoints, load_run
from seqjax.training.folder_lock import FolderLock
from seqjax.training.recipe import OPTIMIZERS, STACKS, Recipe, read_recipe
from seqjax.training.run import prepare
from seqjax.training.run_record import read_config

TINY = (
    "--length 6 --batch-size 4 --hidden-size 3 --steps 7 --eval-every 3 --eval-batches 2 --checkpoint-every 2"
).split()

TRAIN = importlib.import_module("seqjax.cli.train")
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def same_logging():
    """The command speaks by a handler of its own."""
    logger = logging.getLogger("seqjax.training")
    before = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = before


@functools.cache
def first_state(recipe):
    """A state in the form of a run's checkpoints."""
    return prepare(recipe).state


def params(folder, which="."):
    """The bits of the params of a run's newest, or best, checkpoint."""
    recipe = read_recipe(folder / "config.json")
    with Checkpoints(folder / which) as checkpoints:
        step, state = checkpoints.restore(first_state(recipe))
    return step, [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(state.params))]


def measured(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in n.items() if k != "seconds"} for n in found if n.get("event") != "resumed"]


@pytest.mark.draws_curves
def test_a_run_is_repeated_from_its_configuration_alone(monkeypatch, tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    assert run(monkeypatch, "train", "parity", *TINY, "--seed", 5, "--out", first) == 0
    shown = capsys.readouterr().out
    for name in ("config.json", "metrics.jsonl", "curves.svg", "best", "steps"):
        assert f"{first / name}: " in shown and (first / name).exists()
    assert "reached 7 steps" in shown and "Best held-out loss" in shown
    assert run(monkeypatch, "train", "--config", first / "config.json", "--out", again) == 0
    assert (again / "config.json").read_text() == (first / "config.json").read_text()
    assert measured(again) == measured(first)
    assert params(again) == params(first) and params(again, "best") == params(first, "best")
    assert [n["step"] for n in measured(first)] == [3, 6, 7]
    model, loaded = load_run(first)
    again_made = prepare(Recipe(**json.loads((first / "config.json").read_text())))
    assert [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(loaded))] == params(first, "best")[1]
    found = again_made.evaluate(again_made.state._replace(params=loaded))
    assert found["loss"] == min(n["evaluation/loss"] for n in measured(first))
    assert model.unroll(loaded, model.initial_carry(loaded, np.zeros(2, int)), np.zeros((5, 2), int))[
        1
    ].shape == (5, 2, 2)
    newest = load_run(str(first), best=False)[1]
    assert [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(newest))] == params(first)[1]
    assert (
        run(monkeypatch, "train", "--config", first / "config.json", "--seed", 6, "--out", tmp_path / "x")
        == 0
    )
    assert params(tmp_path / "x") != params(first)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.fast_cases(1)
def test_the_command_that_it_names_goes_on_to_the_same_bits(monkeypatch, tmp_path, capsys, number, code):
    text = tmp_path / "my text.txt"
    text.write_bytes(bytes(range(97, 123)) * 20)
    options = [
        text,
        *TINY,
        "--estimator",
        "truncated",
        "--depth",
        2,
        "--model",
        "lru(r_min=0.5)",
        "--tensorboard",
    ]
    whole, halved = tmp_path / "whole", tmp_path / "in two"
    assert run(monkeypatch, "train", *options, "--out", whole) == 0

    def signalled(recipe, *mesh):
        made = prepare(recipe, *mesh)

        def step(state, batch):
            if int(state.step) == 4:
                signal.raise_signal(number)
            return made.step(state, batch)

        return made._replace(step=step)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(TRAIN, "prepare", signalled)
        assert run(patch, "train", *options, "--out", halved) == code
    said = capsys.readouterr().err
    assert f"{number.name}: stopped after step 5" in said
    command = shlex.split(said.split("run '", 1)[1].split("': training continues")[0].replace("''", "'"))
    assert command[:2] == ["seqjax", "train"] and command[-2:] == ["--resume", "--tensorboard"]
    assert run(monkeypatch, *command[1:]) == 0
    assert "continues from step 5" in capsys.readouterr().err
    assert params(halved) == params(whole) and measured(halved) == measured(whole)

    assert run(monkeypatch, "train", "--out", halved, "--resume", "--batch-size", 3) == 2
    assert "belongs to a run with another configuration: batch_size 4 -> 3." in capsys.readouterr().err
    text.write_bytes(bytes(range(97, 123)) * 30)
    assert run(monkeypatch, "train", "--out", halved, "--resume") == 2
    assert "has changed since the run was made" in capsys.readouterr().err


def test_a_model_of_ones_own_is_found_again_from_any_folder(monkeypatch, tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "mine.py").write_text("import seqjax as sj\n\n\ndef build():\n    return sj.elman(3)\n")
    monkeypatch.chdir(here)
    assert run(monkeypatch, "train", "parity", *TINY, "--model", "mine.py:build", "--out", "run") == 0
    monkeypatch.chdir(elsewhere)
    for remembered in (user_model.find_function, user_model.own_layer):
        remembered.cache_clear()
    with pytest.raises(
        ValueError, match=r"mine.py:build' is code, in .*mine.py \(SHA-256 \w{64}\). It was not run."
    ):
        load_run(here / "run")
    assert load_run(here / "run", allow_code=True)[1] is not None
    config = ["--config", here / "run" / "config.json"]
    assert run(monkeypatch, "train", *config, "--out", "again") == 2
    assert run(monkeypatch, "train", *config, "--out", "again", "--allow-code") == 0
    assert params(elsewhere / "again") == params(here / "run")


def test_a_full_disk_at_the_start_is_one_clear_line_and_leaves_no_half_of_a_file(
    monkeypatch, tmp_path, capsys
):
    def full(self, data, **options):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "write_text", full)
        assert run(patch, "train", "parity", *TINY, "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert (
        "config.json cannot be written (No space left on device). Make room" in said and said.count("\n") == 1
    )
    assert list((tmp_path / "run").iterdir()) == []


def test_one_of_several_processes_is_told_to_go_on_as_one_of_them():
    options = {
        "tensorboard": False,
        "distributed": True,
        "coordinator": "host:1",
        "processes": 2,
        "process": 0,
    }
    assert TRAIN._again(Path("run"), options) == (
        "seqjax train --config run/config.json --resume --distributed --coordinator host:1 --processes 2 --process 0"
    )


def test_it_stops_when_solved_and_tells_where_training_failed(monkeypatch, tmp_path, capsys):
    def solved(recipe, *mesh):
        made = prepare(recipe, *mesh)
        return made._replace(evaluate=lambda state: {"loss": 0.1, "accuracy": float(state.step) / 6})

    with monkeypatch.context() as patch:
        patch.setattr(TRAIN, "prepare", solved)
        assert run(patch, "train", "parity", *TINY, "--until-solved", "--out", tmp_path / "solved") == 0
    assert "Trained: accuracy reached 1 (target 0.99)" in capsys.readouterr().out
    options = ["--learning-rate", 1e300, "--clip", 0, "--optimizer", "sgd", "--checkpoint-every", 1]
    assert run(monkeypatch, "train", "adding", *TINY, *options, "--steps", 99, "--out", tmp_path / "x") == 1
    said = capsys.readouterr().err
    assert "seqjax: fit: 5 steps in a row" in said and "Lower the learning rate" in said


@pytest.mark.parametrize(
    "options",
    [
        ["adding", "--model", "gru", "--precision", "bfloat16"],
        ["text", "--model", "transformer", "--hidden-size", 8, "--heads", 2],
        *(
            pytest.param(
                ["parity", "--model", each, "--hidden-size", 8, "--heads", 2], marks=pytest.mark.slow
            )
            for each in STACKS
        ),
    ],
)
def test_stacks_numbers_and_precisions_can_be_prepared(monkeypatch, options):
    """Shapes and dtypes fit together: everything is traced, nothing computed."""
    seen = []
    monkeypatch.setattr(TRAIN, "claim", lambda *args: seen.append(args) or sys.exit(7))
    assert run(monkeypatch, "train", *TINY, *options) == 7 and seen


@pytest.mark.parametrize("model", ["lru", "lstm", "transformer"])
@pytest.mark.fast_cases(1)
def test_a_run_in_float64_has_all_of_its_numbers_in_float64(model):
    made = prepare(
        Recipe(task="adding", length=4, batch_size=2, hidden_size=8, model=model, precision="float64")
    )
    after = jax.eval_shape(made.step.jitted, *made.state, made.batches(0))
    for state in (made.state, after[0]):
        dtypes = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))}
        assert dtypes - {np.dtype("int32")} == {np.dtype("float64")}


def test_adamw_decays_weights_and_neither_biases_nor_decays():
    model = sj.recurrent(sj.rg_lru(4))
    params = model.init(jax.random.key(0), np.ones((1, 3), np.float32))
    optimizer = OPTIMIZERS["adamw"](1.0)
    updates, _ = optimizer.update(jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
    changed = {name for name, update in updates._asdict().items() if np.any(update)}
    assert changed == {"w_x", "w_r", "w_i"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected a task or a file, or --config"),
        (["parrity"], "unknown name 'parrity'. Did you mean 'parity'?"),
        (["nowhere.txt"], "nowhere.txt', which does not exist"),
        (["{empty}"], "is empty"),
        (["{short}"], "{short}: expected at least 70 bytes for --length 6"),
        (["."], "got the folder"),
        (["parity", "--model", "lstn"], "Did you mean 'lstm'?"),
        (["parity", "--model", "lstm(1,"], "expected a name, or a call with plain values"),
        (
            ["parity", "--model", "lstm(nonsense=1)"],
            "seqjax: lstm: got an unexpected keyword argument 'nonsense'",
        ),
        (["parity", "--model", "nowhere.py:build"], "which does not exist"),
        (["parity", "--method", "associative_scan"], "AssociativeScan() cannot run lstm"),
        (["parity", "--estimator", "truncated"], "--estimator truncated goes with a text"),
        (["parity", "--precision", "float17"], "--precision: unknown name"),
        (["parity", "--steps", 0], "--steps: expected a whole number of at least 1, got 0"),
        (["parity", "--learning-rate", "nan"], "--learning-rate: expected a finite number above 0"),
        (["parity", "--seed", -1], "--seed: expected a whole number from 0 to 2^31 - 1, got -1"),
        (["parity", "--seed", 2**31], "--seed: expected a whole number from 0 to 2^31 - 1"),
        (["parity", "--heads", 2], "--heads goes with a stack (griffin, "),
        (["parity", "--model", "griffin", "--method", "scan"], "--method goes with a cell"),
        (["parity", "--resume", "--overwrite", "--out", "{old}"], "expected one of them, got both"),
        (["copying", "--length", 12], "expected a length of at least"),
        (["parity", "--resume"], "expected a run in"),
        (["--resume"], "--resume: expected a run in"),
        (["parity", "--out", "{short}"], "expected a folder, got the file"),
        (["parity", "--out", "{full}"], "is not empty and holds no run"),
        (["parity", "--out", "{old}"], "holds a run already. --resume continues it"),
        (["parity", "--out", "/proc/nowhere"], "cannot be written"),
        (["parity", "--weight-decay", 0.1], "--weight-decay goes with --optimizer adamw"),
        (["parity", "--schedule", "linear", "--warmup-steps", 7], "expected fewer than the 7 steps"),
        (["parity", "--accumulate", 3], "--accumulate: expected a divisor of --batch-size 4, got 3"),
        (["parity", "--dropout", 0.1, "--model", "xlstm"], "--dropout goes with a cell or a transformer"),
        (["{table}"], "whose name is that of a table. Read its columns with datasets.read_table"),
        (["{arrays}"], "whose name is that of arrays. Train on arrays in Python, with datasets.examples"),
        (["--config", "{short}"], "cannot be read as JSON"),
        (["--config", "{full}/config"], "which does not exist"),
        (["--config", "{wrong}"], "expected hidden_size such as 64, got 'wide'"),
        (["--config", "{patience}"], "expected patience such as None, got 'x'"),
        (["--config", "{rate}"], "expected learning_rate such as 0.003, got True"),
        (["--config", "{unknown}"], "unknown name 'hiden_size'. Did you mean 'hidden_size'?"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(monkeypatch, tmp_path, capsys, options, message):
    names = {name: tmp_path / name for name in ("empty", "short", "full", "old", "wrong", "unknown")}
    names |= {name: tmp_path / name for name in ("patience", "rate")}
    names |= {"table": tmp_path / "table.csv", "arrays": tmp_path / "arrays.npz"}
    names["table"].write_text("text\nhello\n" * 50)
    np.savez(names["arrays"], xs=np.zeros((9, 9)))
    names["empty"].touch()
    names["short"].write_text("too short")
    names["full"].mkdir()
    (names["full"] / "precious").touch()
    names["old"].mkdir()
    (names["old"] / "config.json").write_text("{}")
    names["wrong"].write_text('{"hidden_size": "wide"}')
    names["patience"].write_text('{"patience": "x"}')
    names["rate"].write_text('{"learning_rate": true}')
    names["unknown"].write_text('{"hiden_size": 3}')
    options = [str(option).format(**names) for option in options]
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in options else ["--out", tmp_path / "out"]
    assert run(monkeypatch, "train", *TINY, *out, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message.format(**names) in captured.err
    assert captured.err.startswith("seqjax: ") and captured.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_is_replaced_where_that_is_asked_for(monkeypatch, tmp_path):
    assert run(monkeypatch, "train", "parity", *TINY, "--out", tmp_path) == 0
    before = params(tmp_path)
    (tmp_path / "mine.txt").touch()
    assert run(monkeypatch, "train", "parity", *TINY, "--seed", 1, "--overwrite", "--out", tmp_path) == 0
    assert params(tmp_path) != before and (tmp_path / "mine.txt").exists()


@pytest.mark.slow  # test_training_reliability.py reads such paths
def test_a_name_with_brackets_is_trained_loaded_and_resumed(monkeypatch, tmp_path):
    folder = tmp_path / "run[lr=0.1]"
    assert run(monkeypatch, "train", "parity", *TINY, "--out", folder) == 0
    assert load_run(folder)[1] is not None and params(folder)[0] == 7
    assert run(monkeypatch, "train", "--out", folder, "--resume", "--steps", 8) == 0
    assert params(folder)[0] == 8


def test_a_resumed_run_changes_what_was_asked_for_and_nothing_else(monkeypatch, tmp_path, capsys):
    whole, short = tmp_path / "whole", tmp_path / "short"
    assert run(monkeypatch, "train", "parity", *TINY, "--steps", 9, "--out", whole) == 0
    assert run(monkeypatch, "train", "parity", *TINY, "--out", short) == 0
    assert run(monkeypatch, "train", "--out", short, "--resume", "--steps", 9) == 0
    assert params(short) == params(whole)
    assert run(monkeypatch, "train", "--out", short, "--resume", "--steps", 11, "--learning-rate", 0.5) == 0
    assert params(short)[0] == 11
    config = json.loads((short / "config.json").read_text())
    assert config["changes"] == [
        {"after_step": 7, "steps": [7, 9]},
        {"after_step": 9, "steps": [9, 11], "learning_rate": [0.003, 0.5]},
    ]
    assert load_run(short)[1] is not None
    assert "changed on its way" not in capsys.readouterr().err
    assert run(monkeypatch, "train", "--config", short / "config.json", "--out", tmp_path / "again") == 0
    assert "the settings of that run were changed on its way" in capsys.readouterr().err
    assert run(monkeypatch, "train", "--out", short, "--resume", "--seed", 3, "--steps", 12) == 2
    assert "another configuration: seed 0 -> 3." in capsys.readouterr().err
    # An edited config.json is no option: each of these makes another run.
    before = (short / "config.json").read_text()
    for name, value in (("seed", 1), ("learning_rate", 0.4), ("steps", 12), ("clip", 2.0), ("length", 7)):
        (short / "config.json").write_text(json.dumps(config | {name: value}))
        assert run(monkeypatch, "train", "--out", short, "--resume") == 2
        said = capsys.readouterr().err
        assert f"{name} {config[name]} -> {value}" in said and said.count("\n") == 1
        with pytest.raises(ValueError, match=f"{name} .*-> {value}"):
            load_run(short)
    (short / "config.json").write_text(before)
    assert run(monkeypatch, "train", "--out", short, "--resume") == 0


def test_a_folder_from_somebody_else_runs_no_code(monkeypatch, tmp_path, capsys):
    """A file, a file inside the folder, a function of any module, and code that ends the program."""
    code = "import seqjax as sj\nopen({seen!r}, 'w')\n\n\ndef build():\n    return sj.elman(3)\n"
    seen = tmp_path / "seen"
    mine = tmp_path / "mine.py"
    mine.write_text(code.format(seen=str(seen)))
    folder = tmp_path / "run"
    assert run(monkeypatch, "train", "parity", *TINY, "--model", f"{mine}:build", "--out", folder) == 0
    config = json.loads((folder / "config.json").read_text())
    monkeypatch.chdir(tmp_path)
    (folder / "inner.py").write_text(mine.read_text())
    for model in (
        f"{mine}:build",
        "mine.py:build",
        "run/inner.py:build",
        "mine:build",
        "os:getcwd",
        "gone.py:f",
    ):
        for remembered in (user_model.find_function, user_model.own_layer):
            remembered.cache_clear()
        seen.unlink(missing_ok=True)
        (folder / "config.json").write_text(json.dumps(config | {"model": model}))
        with pytest.raises(ValueError, match="is code, in .* It was not run. Pass allow_code=True"):
            load_run(folder)
        for options in (
            ["--config", folder / "config.json", "--out", tmp_path / "x"],
            ["--resume", "--out", folder],
        ):
            assert run(monkeypatch, "train", *options) == 2
            assert "It was not run. Pass --allow-code" in capsys.readouterr().err
        assert not seen.exists()
    (folder / "config.json").write_text(json.dumps(config))
    assert load_run(folder, allow_code=True)[1] is not None
    # The code that trained the run is known by its digest, wherever it lies.
    mine.write_text(mine.read_text() + "# edited\n")
    seen.unlink()
    for remembered in (user_model.find_function, user_model.own_layer):
        remembered.cache_clear()
    with pytest.raises(ValueError, match=r"other inputs: model_sha256 \w{64} -> \w{64}"):
        load_run(folder, allow_code=True)
    assert run(monkeypatch, "train", "--resume", "--out", folder, "--allow-code") == 2
    assert "model_sha256" in capsys.readouterr().err and not seen.exists()
    mine.write_text("import sys\nsys.exit(0)\n")
    assert (
        run(monkeypatch, "train", "parity", *TINY, "--model", f"{mine}:build", "--out", tmp_path / "x") == 2
    )
    assert "mine.py failed: SystemExit: 0" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_running_run_is_neither_replaced_nor_resumed_by_another(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "train", "parity", *TINY, "--out", tmp_path) == 0
    before = sorted(tmp_path.rglob("*"))
    lock = FolderLock(tmp_path)
    lock.acquire()
    for option in ("--overwrite", "--resume"):
        assert run(monkeypatch, "train", "parity", *TINY, option, "--out", tmp_path) == 2
        assert "is being written by process " in capsys.readouterr().err
    lock.release()
    assert sorted(tmp_path.rglob("*")) == before and load_run(tmp_path)[1] is not None


def test_a_run_whose_folder_is_removed_ends_with_status_1(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run"

    def removed(recipe, *mesh):
        made = prepare(recipe, *mesh)

        def step(state, batch):
            if int(state.step) == 4:
                folder.rename(tmp_path / "moved")
            return made.step(state, batch)

        return made._replace(step=step)

    monkeypatch.setattr(TRAIN, "prepare", removed)
    assert run(monkeypatch, "train", "parity", *TINY, "--out", folder) == 1
    said = capsys.readouterr().err
    assert "was removed or replaced while the run was writing to it" in said
    assert said.splitlines()[-1].startswith("seqjax: the last state, of step 7")


RECIPE = Recipe(task="parity", length=6, batch_size=4, hidden_size=3, model="elman", steps=6)


def steps_of(made, number, at=0):
    state, losses = made.state, []
    for step in range(at, at + number):
        state, metrics = made.step(state, made.batches(step))
        losses.append(float(metrics.loss))
    return state, losses


@pytest.mark.slow  # other tests show resumed runs, and noise per step
def test_dropout_draws_noise_in_training_alone_and_resumes_to_the_same_bits(monkeypatch, tmp_path):
    plain, noisy = (prepare(dataclasses.replace(RECIPE, depth=2, dropout=rate)) for rate in (0.0, 0.5))
    assert plain.state.key is None
    for a, b in zip(jax.tree.leaves(plain.state.params), jax.tree.leaves(noisy.state.params), strict=True):
        np.testing.assert_array_equal(a, b)  # the same params in the same order
    assert plain.evaluate(plain.state) == noisy.evaluate(noisy.state)
    (_, without), (_, with_noise) = steps_of(plain, 1), steps_of(noisy, 1)
    assert without != with_noise
    options = ["parity", *TINY, "--model", "elman", "--dropout", 0.3, "--accumulate", 2]
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert run(monkeypatch, "train", *options, "--out", whole) == 0
    assert run(monkeypatch, "train", *options, "--steps", 4, "--out", halved) == 0
    assert run(monkeypatch, "train", "--out", halved, "--resume", "--steps", 7) == 0
    assert params(halved) == params(whole)


def test_micro_batches_of_a_recipe_give_the_params_of_the_whole_batch():
    one, two = (steps_of(prepare(dataclasses.replace(RECIPE, accumulate=n, clip=0)), 2) for n in (1, 2))
    np.testing.assert_allclose(one[1], two[1], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(two[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


SCHEDULED = ["parity", *TINY, "--model", "elman", "--schedule", "cosine", "--warmup-steps", 2]


@pytest.mark.slow  # other tests resume runs, and compare them with longer ones
def test_a_longer_run_with_a_schedule_that_has_an_end_is_a_longer_one(monkeypatch, tmp_path, capsys):
    fixed = [*SCHEDULED, "--decay-steps", 9]
    whole, short = tmp_path / "whole", tmp_path / "short"
    assert run(monkeypatch, "train", *fixed, "--steps", 9, "--out", whole) == 0
    assert run(monkeypatch, "train", *fixed, "--out", short) == 0
    assert run(monkeypatch, "train", "--out", short, "--resume", "--steps", 9) == 0
    assert params(short) == params(whole)
    assert "schedule now ends" not in capsys.readouterr().err


def test_a_longer_run_with_a_schedule_is_a_longer_one_or_is_reported(monkeypatch, tmp_path, capsys):
    moved = tmp_path / "moved"
    assert run(monkeypatch, "train", *SCHEDULED, "--out", moved) == 0
    assert run(monkeypatch, "train", "--out", moved, "--resume", "--steps", 9) == 0
    # Half of the cosine's 7 steps after the warm-up are done, where all of 5 were.
    rate = 0.003 * (1 + np.cos(np.pi * 5 / 7)) / 2
    said = capsys.readouterr().err
    assert "the cosine schedule now ends at step 9: after step 7" in said
    assert f"the learning rate is {rate:.3g}, where it was 0." in said
    assert json.loads((moved / "config.json").read_text())["changes"] == [{"after_step": 7, "steps": [7, 9]}]


@pytest.mark.slow  # as noise in any model
def test_noise_in_a_model_of_ones_own_is_drawn(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import seqjax as sj\n\n\ndef build():\n    return sj.serial(sj.recurrent(sj.elman(3)), sj.dropout(0.5))\n"
    )
    made = prepare(dataclasses.replace(RECIPE, model=f"{mine}:build"))
    without = made._replace(state=made.state._replace(key=None))
    copied = made._replace(state=jax.tree.map(lambda leaf: leaf.copy(), made.state))
    assert steps_of(copied, 1)[1] != steps_of(without, 1)[1]


def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(RECIPE.to_json() | {"weight_decay": 1, "optimizer": "adamw"}), encoding="utf-8-sig"
    )
    assert read_recipe(path) == dataclasses.replace(RECIPE, weight_decay=1, optimizer="adamw")
    assert read_config(path)[0]["task"] == "parity"


LOADED = """
import sys
sys.modules.update(dict.fromkeys(("typer", "matplotlib", "polars", "jinja2")))  # importing these fails; flax needs rich
from seqjax.training import load_run
model, params = load_run(sys.argv[1])
print(type(model).__name__, not any(name.startswith(("seqjax.cli", "seqjax.report")) for name in sys.modules))
"""


def test_a_run_is_loaded_without_the_packages_of_the_command_line(monkeypatch, tmp_path):
    assert run(monkeypatch, "train", "parity", *TINY, "--steps", 1, "--out", tmp_path) == 0
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED, tmp_path], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert loaded.stdout == "Layer True\n"


def test_options_and_checks_come_from_the_fields():
    """The library names the field, the command line names the option."""
    with pytest.raises(ValueError, match=r"^hidden_size: expected a whole number of at least 1, got 0\.$"):
        prepare(Recipe(hidden_size=0))
    with pytest.raises(ValueError, match=r"^model: unknown name 'lstn'\. Did you mean 'lstm'\?"):
        prepare(Recipe(task="parity", model="lstn"))
    options = inspect.signature(TRAIN.train).parameters
    assert {field.name for field in dataclasses.fields(Recipe)} - set(options) == set(TRAIN.SUBJECT)
    assert all(options[name].default is None for name in ("hidden_size", "patience", "until_solved"))
