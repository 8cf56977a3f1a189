"""Test the command line: a small study from start to page, interruption, resume, and one-line errors for bad input."""

import errno
import gc
import json
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from helpers import cell_checks
from helpers.command_line import ROOT, SMALL, run
from helpers.documents import python_blocks, run_block
from references.gated import sigmoid

import seqjax as sj
from seqjax import __main__, cli
from seqjax.cells import REGISTRY, Entry
from seqjax.install import install_command
from seqjax.report import catalog
from seqjax.study import runner, sections
from seqjax.study.presets import command
from seqjax.study.record import Record, record_of
from seqjax.study.rows import SCHEMA, Part
from seqjax.study.sections import training
from seqjax.study.settings import Settings, load_data
from seqjax.study.store import Store
from seqjax.testing import check_cell, check_method

TINY = [*SMALL, *"--cells elman --seeds 2 --training-steps 2 --lengths 6".split()]


def test_a_study_writes_page_table_and_summary(monkeypatch, tmp_path, capsys):
    out = tmp_path / "report"
    assert run(monkeypatch, "gradients", *TINY, "--out", out) == 0
    assert str(out / "index.html") in capsys.readouterr().out.replace("\n", "")
    assert sorted(p.name for p in out.iterdir()) == [
        "figures",
        "index.html",
        "results.parquet",
        "summary.json",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"] and summary["runs_finished"] == 2
    assert summary["baselines"]["unigram_entropy"] == pytest.approx(3.1, abs=0.1)

    frame = pl.read_parquet(out / "results.parquet")
    assert dict(frame.schema) == SCHEMA
    norms = frame.filter(quantity="log_norm", loss="last", seed=1, training_step=0, leaf="carry")
    assert norms["t"].to_list() == list(range(6)) and norms["value"].is_finite().all()
    for quantity in ("train_loss", "held_out_loss", "parameter_gradient_norm", "exponential_rate", "lag_90"):
        assert frame.filter(quantity=quantity).height, quantity
    assert set(frame["training_step"]) == {0, 1, 2}
    seeds = [frame.filter(seed=seed, quantity="train_loss", training_step=0)["value"][0] for seed in (0, 1)]
    assert seeds[0] != seeds[1]

    # Rendering again needs no measurement and changes nothing.
    page = (out / "index.html").read_bytes()
    there = sorted(out.iterdir())
    monkeypatch.setattr(runner, "run", None)
    (out / "index.html").unlink()
    assert run(monkeypatch, "render", out) == 0
    assert (out / "index.html").read_bytes() == page
    assert sorted(out.iterdir()) == there


def test_an_interrupted_study_resumes_to_the_same_numbers(monkeypatch, tmp_path, capsys):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert run(monkeypatch, "gradients", *TINY, "--out", whole) == 0

    def interrupted(experiment, part):
        if part.seed == 1:
            raise KeyboardInterrupt
        return training.measure(experiment, part)

    with monkeypatch.context() as patch:
        patch.setattr(sections, "MEASUREMENTS", (replace(training.MEASUREMENT, measure=interrupted),))
        assert run(patch, "gradients", *TINY, "--out", halved) == 130
    summary = json.loads((halved / "summary.json").read_text())
    assert not summary["complete"] and summary["runs_finished"] == 1
    assert "1 of 2" in (halved / "index.html").read_text()
    assert "--resume" in capsys.readouterr().out

    # Another setting is refused, and so is starting again without a word.
    assert run(monkeypatch, "gradients", *TINY, "--out", halved) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(monkeypatch, "gradients", *TINY, "--batch-size", 3, "--resume", "--out", halved) == 2
    assert "batch_size 2 -> 3" in capsys.readouterr().err

    assert run(monkeypatch, "gradients", *TINY, "--resume", "--out", halved) == 0
    frames = [pl.read_parquet(folder / "results.parquet") for folder in (whole, halved)]
    assert frames[0].equals(frames[1])
    assert not (halved / "parts").exists() and not (halved / "weights").exists()


def test_parts_of_a_killed_study_count(tmp_path):
    record = Record({"batch": 1}, {}, {})
    part, row = Part("training", "lstm", 4, 0), {"quantity": "x", "value": 1.0}
    with Store(tmp_path / "out") as store:
        store.open(record, resume=False, overwrite=False)
        store.write_summary({"complete": False})
        store.add(part, [row])
    with Store(tmp_path / "out") as store:
        store.open(record, resume=True, overwrite=False)
        assert store.finished() == {"training/lstm/4/0"}
        store.merge()
        store.add(part, [row])  # as if the last merge had been cut short
        assert store.merge().height == 1


def test_a_full_disk_is_one_clear_line_and_leaves_what_can_be_continued(monkeypatch, tmp_path, capsys):
    def full(self, data, **options):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "report"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert run(patch, "gradients", *TINY, "--out", out) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"seqjax: --out: {out} cannot be written (No space left on device). The finished parts"
    )
    assert said.count("\n") == 1 and not [path for path in out.rglob("*") if path.is_file()]

    def full_table(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_table)
        assert run(patch, "gradients", *TINY, "--out", out) == 2
    assert "cannot be written (No space left on device" in capsys.readouterr().err
    assert not list(out.rglob("*.parquet*")) and (out / "summary.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert run(patch, "check", "--only", "C12", "--out", tmp_path / "c.json") == 2
    assert "c.json cannot be written" in capsys.readouterr().err and not (tmp_path / "c.json").exists()


@pytest.mark.slow  # one task runs in every study here
@pytest.mark.parametrize("task", ["copying", "adding"])
@pytest.mark.fast_cases(1)
def test_synthetic_tasks_run(monkeypatch, tmp_path, task):
    options = [*SMALL, *"--cells gru --seeds 1 --training-steps 1".split()]
    assert (
        run(monkeypatch, "gradients", *options, "--lengths", 24, "--task", task, "--out", tmp_path / task)
        == 0
    )
    frame = pl.read_parquet(tmp_path / task / "results.parquet")
    assert frame.filter(quantity="held_out_loss")["value"].is_finite().all()


@pytest.mark.slow  # test_own_models.py has studies of own files; another dtype
def test_a_file_of_ones_own_runs_in_bfloat16(monkeypatch, tmp_path):
    (tmp_path / "mine.bin").write_bytes(bytes(range(256)) * 2)
    options = [*TINY, "--data", tmp_path / "mine.bin", "--dtype", "bfloat16", "--out", tmp_path / "out"]
    assert run(monkeypatch, "gradients", *options) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["data"].endswith("mine.bin")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cells", "lstn"], "--cells: unknown name 'lstn'. Did you mean 'lstm'?"),
        (["--cells", ","], "--cells: expected at least one name"),
        (["--sections", "decai"], "Did you mean 'decay'?"),
        (["--preset", "gpo"], "--preset: unknown name 'gpo'. Did you mean 'gpu'?"),
        (["--method", "asociative"], "Did you mean 'associative_scan'?"),
        (["--task", "coping"], "Did you mean 'copying'?"),
        (["--dtype", "float23"], "Did you mean 'float32'?"),
        (["--lengths", "0"], "--lengths: expected a whole number of at least 1, got 0"),
        (["--lengths", "8,-3"], "got -3"),
        (["--lengths", "many"], "--lengths: expected whole numbers separated by commas, got 'many'"),
        (["--hidden-size", "0"], "--hidden-size: expected a whole number of at least 1, got 0"),
        (["--seeds", "0"], "--seeds"),
        (["--training-steps", "-1"], "--training-steps"),
        (["--learning-rate", "nan"], "--learning-rate: expected a finite number above 0, got nan"),
        (
            ["--method", "associative_scan"],
            "AssociativeScan() cannot run elman(hidden_size=3): its recurrence is Gated",
        ),
        (["--cells", "attention", "--lengths", "8,65"], "expected at most max_length=64 steps"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--data", "."], "folder"),
        (["--data", "{empty}"], "is empty"),
        (["--data", "{short}", "--lengths", "64"], "expected at least 650 bytes for --lengths 64"),
        (["--task", "copying", "--data", "{short}"], "--data goes with --task text"),
        (["--task", "copying", "--lengths", "12"], "length of at least"),
        (["--out", "{file}"], "expected a folder, got the file"),
        (["--out", "{full}"], "is not empty and holds no report"),
        (["--out", "/proc/nowhere/report"], "cannot be written"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(monkeypatch, tmp_path, capsys, options, message):
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"too short")
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    names = {name: tmp_path / name for name in ("empty", "short", "file", "full")}
    options = [option.format(**names) for option in options]
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in options else ["--out", tmp_path / "out"]
    assert run(monkeypatch, "gradients", *TINY, *out, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err
    assert captured.err.startswith("seqjax: ") and captured.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_of_settings_has_the_options_that_differ_from_the_defaults():
    settings = Settings(cells=("a.py:f", "lstm", "b.py:g"), lengths=(8, 16), training_steps=3, data="my text")
    assert command(settings) == (
        "seqjax gradients a.py:f --cells lstm,b.py:g --lengths 8,16 --training-steps 3 --data 'my text'"
    )
    assert command(Settings()) == "seqjax gradients"


def test_rendering_what_is_no_report_is_one_clear_line(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "render", tmp_path) == 2
    assert "expected a report, got a folder without summary.json" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text("{")
    assert run(monkeypatch, "render", tmp_path) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_results_of_another_version_are_one_clear_line(monkeypatch, tmp_path, capsys):
    with Store(tmp_path) as store:
        settings = Settings()
        store.open(record_of(settings, load_data(settings)), resume=False, overwrite=False)
        store.write_summary({"complete": False})
        store.add_rows("x", pl.DataFrame([dict.fromkeys(SCHEMA)], schema=SCHEMA).drop("note"))
    for arguments in (["render", tmp_path], ["gradients", "--resume", "--out", tmp_path]):
        assert run(monkeypatch, *arguments) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "has no column note: another version of seqjax wrote it. Measure again" in error


def test_list_shows_cells_methods_and_tasks(monkeypatch, capsys):
    assert run(monkeypatch, "list") == 0
    shown = capsys.readouterr().out
    for name in ("gru_reset_before", "AssociativeScan", "copying", "text"):
        assert name in shown
    lines = shown.splitlines()
    assert {line.split()[0] for line in lines} == {"cell", "method", "task"}
    assert [line.split()[1] for line in lines if line.startswith("cell")] == list(REGISTRY)


def test_list_shows_the_entries_with_a_word_or_the_docstring_of_a_name(monkeypatch, capsys):
    assert run(monkeypatch, "list", "recall") == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) > 2 and all("recall" in line.lower() for line in shown)
    assert run(monkeypatch, "list", "lstm") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cell lstm: Gated. Long short-term memory.") and "Shapes: x ``[*B, D]``" in shown
    assert run(monkeypatch, "list", "text") == 0
    assert capsys.readouterr().out.startswith("task text: Next-byte prediction")
    assert run(monkeypatch, "list", "lsmt") == 2
    assert capsys.readouterr() == (
        "",
        "seqjax: list: unknown name 'lsmt'. Did you mean 'lstm'? 'seqjax list' shows all.\n",
    )


@pytest.mark.parametrize(
    ("document", "table"),
    [
        ("docs/cells.md", "families"),
        ("docs/methods.md", "methods"),
        ("docs/cells.md", "cells"),
        ("docs/data.md", "data"),
    ],
)
def test_the_tables_of_the_documents_are_current(document, table):
    made = getattr(catalog, table)()
    assert catalog.markdown(made) in (ROOT / document).read_text(), (
        f"{document}: the table of {made.title} is not what the code says; 'make tables' writes it anew"
    )


@pytest.mark.parametrize("methods", ["one", pytest.param("all", marks=pytest.mark.slow)])
def test_the_cell_added_in_contributing_is_complete(methods, monkeypatch):
    """One file, one line, one reference: put in their places, they pass the tests that every cell passes."""
    cell_file, registry_line, reference = python_blocks("CONTRIBUTING.md")[:3]
    defined = run_block(cell_file, "CONTRIBUTING.md")
    ((name, entry),) = eval(f"{{{registry_line}}}", {**defined, "Entry": Entry}).items()
    defined = run_block(reference, "CONTRIBUTING.md", np=np, sigmoid=sigmoid)
    monkeypatch.setitem(REGISTRY, name, entry)
    monkeypatch.setitem(cell_checks.REFERENCES, name, defined[name])
    cell_checks.every_cell_has_a_reference()
    cell_checks.unroll_equals_the_reference(name)
    cell_checks.a_loop_of_step_equals_the_reference(name)
    cell_checks.the_initial_carry_is_zero_and_reads_no_values(name)
    cell_checks.params_have_the_dtype_that_was_asked_for_and_float32_by_default(
        name, {"param_dtype": jnp.bfloat16}
    )
    cell_checks.weights_start_orthogonal_and_uniform_per_gate(name)
    cell_checks.a_size_is_a_whole_number_of_at_least_one(name, 0)
    cell, x = entry.make(5), entry.example((3,), 4)
    if methods == "one":
        check_method(sj.Scan(), cell, x, strict=True)
    else:
        check_cell(cell, x, strict=True)
    assert any(row[0] == name for row in catalog.cells().rows)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before"])
def test_gated_cells_learn_more_than_letter_frequencies(cell, tmp_path):
    settings = Settings(
        cells=(cell,),
        lengths=(64,),
        seeds=1,
        hidden_size=64,
        batch_size=16,
        training_steps=100,
        sections=("training",),
    )
    store, data = Store(tmp_path), load_data(settings)
    store.open(record_of(settings, data), resume=False, overwrite=False)
    assert runner.run(settings, data, store, advance=lambda n: None, describe=lambda text: None)
    frame = pl.read_parquet(tmp_path / "results.parquet").filter(quantity="held_out_loss")
    entropy = store.summary["baselines"]["unigram_entropy"]
    assert frame.filter(training_step=100)["value"][0] < entropy < frame.filter(training_step=0)["value"][0]


@pytest.mark.parametrize("option", ["--workers", "--batch-size"])
def test_an_option_that_takes_a_number_is_named_where_it_has_none(option, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "gradients", option, "x", "--out", tmp_path / "out") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("seqjax: ") and option in shown and shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_a_command_the_help_is_shown_and_no_empty_error(monkeypatch, capsys):
    assert run(monkeypatch) == 2
    captured = capsys.readouterr()
    assert "Usage: " in captured.out and captured.err == ""


def test_help_breaks_lines_at_the_width_of_the_terminal_alone_and_names_defaults(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "train", "--help") == 0
    shown = capsys.readouterr().out
    assert "curves.svg, and checkpoints in steps/ and best/. Ctrl-C and SIGTERM save the state" in shown
    assert "Training steps; 2000 by default." in shown
    assert run(monkeypatch, "gradients", "--help") == 0
    shown = capsys.readouterr().out
    assert "64,512 without a preset." in shown and "Learning rate of Adam; 0.005 by default." in shown


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            ModuleNotFoundError("no", name="typer"),
            2,
            f"the command line needs the package typer: {install_command('report')}.",
        ),
        (KeyboardInterrupt(), 130, "interrupted."),
    ],
    ids=["only the library is installed", "Ctrl-C"],
)
def test_what_stops_the_imports_of_the_command_line_is_one_line(monkeypatch, capsys, error, status, message):
    class Stop:
        def find_spec(self, name, path=None, target=None):
            if name == "seqjax.cli":
                raise error

    monkeypatch.delitem(sys.modules, "seqjax.cli")
    monkeypatch.delattr("seqjax.cli")
    monkeypatch.setattr(sys, "meta_path", [Stop(), *sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert (stop.value.code, capsys.readouterr().err) == (status, f"seqjax: {message}\n")


@pytest.mark.parametrize(("status", "at_once"), [(130, True), (0, False), (2, False)])
def test_after_ctrl_c_no_thread_of_jax_outlives_its_device(monkeypatch, status, at_once):
    """Compiling in one of its threads while Python ended, it brought the process down with a segmentation fault."""
    left, handlers = [], []
    monkeypatch.setattr("signal.signal", lambda number, handler: handlers.append(handler))
    monkeypatch.setattr(cli, "main", lambda: sys.exit(status))
    monkeypatch.setattr("os._exit", left.append)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(SystemExit):
        __main__.main()
    assert left == [status] * at_once
    assert (handlers[-1] is signal.SIG_IGN) != at_once  # a Ctrl-C after the end would change the status


def test_ctrl_c_is_heard_amid_a_callback_of_the_garbage_collector(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", __main__.hear)
    came = []

    def callback(phase, info):
        if not came:
            came.append(phase)
            raise KeyboardInterrupt

    gc.callbacks.append(callback)
    try:
        with pytest.raises(KeyboardInterrupt):
            gc.collect()
            for _ in range(300):  # a signal that comes just before a wait would be heard after it only
                threading.Event().wait(0.1)
    finally:
        gc.callbacks.remove(callback)
    assert came


def test_an_unknown_name_is_answered_with_all_names_or_with_where_they_are_listed(
    monkeypatch, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run(monkeypatch, "gradients", "--dtype", "float16", "--out", out) == 2
    assert capsys.readouterr().err.endswith(
        "Did you mean 'bfloat16'? There are float32, float64, bfloat16.\n"
    )
    assert run(monkeypatch, "gradients", "--cells", "lstn", "--out", out) == 2
    assert capsys.readouterr().err.endswith("Did you mean 'lstm'? 'seqjax list' shows all.\n")
    assert run(monkeypatch, "list") == 0
    shown = capsys.readouterr().out
    assert set(REGISTRY) <= set(re.findall(r"[a-z0-9_]+", shown)) and "…" not in shown
