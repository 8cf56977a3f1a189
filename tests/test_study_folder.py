"""Test the folder of a study: what it was measured with, one writer, and names out of foreign files."""

import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers import toy_study
from helpers.command_line import SMALL, run
from helpers.studies import write_study
from helpers.toy_study import RECORD, SEEDS

from seqjax.report import page
from seqjax.report.content import Panel
from seqjax.study import reading, record
from seqjax.study.reading import read_study
from seqjax.study.record import Record, record_of
from seqjax.study.rows import SCHEMA, Part
from seqjax.study.settings import Settings
from seqjax.study.store import Store

PARTS = 2 * SEEDS


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A complete study, and one that was interrupted after six parts."""
    folder = tmp_path_factory.mktemp("studies")
    assert toy_study.run(folder / "whole")
    toy_study.run_until(folder / "part", 6)
    return folder


def rows_of(folder):
    return read_study(folder)[1]


# ---------------------------------------------------------------- what a study depends on


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": RECORD.settings | {"seeds": 9}}, "the settings differ .*: seeds 5 -> 9. Use the same"),
        ({"inputs": {"text": 64 * "b"}}, "the inputs differ .*: text aaaaaaaa -> bbbbbbbb. Use the same"),
        (
            {"inputs": RECORD.inputs | {"models": {"m.py:f": {"m.py": 64 * "c", "net.py": 64 * "d"}}}},
            "models None -> ",
        ),
        ({"versions": RECORD.versions | {"jax": "1.1"}}, "jax 1.0 -> 1.1. Use the same, or add --other-ver"),
        ({"versions": RECORD.versions | {"device": "H100"}}, "device cpu -> H100"),
    ],
)
def test_a_study_is_continued_only_with_what_it_began_with(studies, tmp_path, changed, message):
    for name in ("part", "whole"):
        shutil.copytree(studies / name, tmp_path / name)
        before = {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=message):
            toy_study.run(tmp_path / name, resume=True, record=RECORD._replace(**changed))
        after = {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert before == after


def test_other_versions_are_allowed_when_asked_for_and_then_logged(studies, tmp_path):
    shutil.copytree(studies / "part", tmp_path / "s")
    newer = RECORD._replace(versions=RECORD.versions | {"jax": "1.1"})
    toy_study.run_until(tmp_path / "s", 2, resume=True, record=newer, other_versions=True)
    with pytest.raises(ValueError, match=r"jax 1.1 -> 1.0"):
        toy_study.run(tmp_path / "s", resume=True)
    assert toy_study.run(tmp_path / "s", resume=True, other_versions=True)
    assert rows_of(tmp_path / "s").equals(rows_of(studies / "whole"))
    changes = read_study(tmp_path / "s")[0]["changes"]
    assert [change["jax"] for change in changes] == [["1.0", "1.1"], ["1.1", "1.0"]]
    assert [change["digest"] for change in changes] == [RECORD.digest, newer.digest]
    assert "1.0, 1.1" in (tmp_path / "s" / "index.html").read_text()


def test_the_record_has_the_text_the_source_of_own_models_and_the_modules_that_they_import(tmp_path):
    (tmp_path / "m.py").write_text("import net\ndef build(): return net.cell()\n")
    (tmp_path / "net.py").write_text("def cell(): ...\n")
    settings = Settings(cells=(f"{tmp_path / 'm.py'}:build", "lstm"))
    text = np.frombuffer(b"some text", np.uint8)
    first = record_of(settings, text)
    assert list(first.inputs["models"]) == [settings.cells[0]]
    assert list(first.inputs["models"][settings.cells[0]]) == ["m.py", "net.py"]
    assert record_of(settings, text) == first and record_of(settings, text).digest == first.digest
    assert {"jax", "seqjax", "device"} <= set(first.versions)
    records = [first, record_of(settings, text[:-1]), record_of(replace(settings, seeds=3), text)]
    (tmp_path / "net.py").write_text("def cell(): return 1\n")
    records.append(record_of(settings, text))
    assert len({each.digest for each in records}) == len(records)
    assert record.changes(first.inputs, records[-1].inputs)[0].startswith(
        f"models.{settings.cells[0]}.net.py "
    )


def test_the_command_refuses_another_text_and_another_model(monkeypatch, tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(bytes(range(200)) * 2)
    (tmp_path / "m.py").write_text("import seqjax as sj, sizes\ndef build(): return sj.elman(sizes.WIDTH)\n")
    (tmp_path / "sizes.py").write_text("WIDTH = 3\n")
    out = tmp_path / "out"
    monkeypatch.setattr(toy_study.runner.Measuring, "run", lambda self, jobs, workers: _interrupt())
    arguments = ["gradients", f"{tmp_path / 'm.py'}:build", *SMALL, "--lengths", 6, "--seeds", 1]
    arguments += ["--data", tmp_path / "a.txt", "--out", out]
    assert run(monkeypatch, *arguments) == 130
    assert run(monkeypatch, *arguments, "--resume") == 130
    capsys.readouterr()
    (tmp_path / "sizes.py").write_text("WIDTH = 3  # the same\n")
    assert run(monkeypatch, *arguments, "--resume") == 2
    error = capsys.readouterr().err
    assert "--resume: the inputs differ" in error and "sizes.py" in error and error.count("\n") == 1
    (tmp_path / "sizes.py").write_text("WIDTH = 3\n")
    (tmp_path / "a.txt").write_bytes(bytes(range(200)) * 2 + b"x")
    assert run(monkeypatch, *arguments, "--resume") == 2
    assert "--resume: the inputs differ" in (error := capsys.readouterr().err) and ": text " in error
    assert run(monkeypatch, *arguments, "--resume", "--overwrite") == 2
    assert "expected one of them, got both" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--overwrite") == 130


def _interrupt():
    raise KeyboardInterrupt


# ---------------------------------------------------------------- one process writes


HOLD = """
import sys, time
from seqjax.study.store import Store
from seqjax.study.record import Record
from seqjax.study.rows import Part
store = Store(sys.argv[1])
store.open(Record({"a": 1}, {}, {}), resume=False, overwrite=False)
store.write_summary({"complete": False})
store.add(Part("training", "elman", 4, 0), [{"quantity": "train_loss", "value": 1.0, "training_step": 0}])
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_is_named_and_its_end_releases_the_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "s"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        said = f"is being written by process {holder.pid} on "
        here = Record({"a": 1}, {}, {})
        for options in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
            with pytest.raises(ValueError, match=f"--out: {folder} {said}"):
                Store(folder).open(here, **options)
        with pytest.raises(ValueError, match=said):
            Store(folder).merge()
        with pytest.raises(ValueError, match=said):
            Store(folder).add(Part("training", "elman", 4, 1), [])
        # Reading takes no lock, and leaves the parts alone.
        assert run(monkeypatch, "render", folder) == 0
        assert rows_of(folder)["value"].to_list() == [1.0]
        assert len(list((folder / "parts").iterdir())) == 1 and not (folder / "results.parquet").exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with Store(folder) as store:
        store.open(here, resume=True, overwrite=False)
        assert store.finished() == {"training/elman/4/0"}


def test_a_study_is_read_at_any_moment_while_it_is_written(tmp_path):
    """The rows only become more, also while the study is completed and its parts are deleted."""
    counts, errors, done = [], [], threading.Event()

    def read():
        while not done.is_set():
            try:
                if (tmp_path / "s" / "summary.json").exists():
                    counts.append(rows_of(tmp_path / "s").height)
            except ValueError as error:
                errors.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(3):
            toy_study.run(tmp_path / "s", resume=True)
    finally:
        done.set()
        reader.join()
    assert not errors and counts[-1] == PARTS * 5 and counts == sorted(counts)


def test_a_study_that_is_completed_while_its_parts_are_read_is_read_again(monkeypatch, tmp_path):
    read_parts = reading.read_parts
    with Store(tmp_path) as store:
        store.open(RECORD, resume=False, overwrite=False)
        store.write_summary({"complete": False})
        store.add(Part("training", "elman", 4, 0), [{"quantity": "x", "value": 1.0}])

        def late(folder, keys):
            if (tmp_path / "parts").exists():
                store.write_summary({"complete": True})
            return read_parts(folder, keys)

        monkeypatch.setattr(reading, "read_parts", late)
        assert rows_of(tmp_path)["value"].to_list() == [1.0]


def test_a_folder_that_is_replaced_while_a_study_runs_is_not_written(tmp_path):
    def replaced(experiment, part):
        shutil.rmtree(tmp_path / "s")
        (tmp_path / "s" / "parts").mkdir(parents=True)
        return toy_study.measure(experiment, part)

    alone = replace(toy_study.SETTINGS, cells=("elman",))  # one thread
    with pytest.raises(OSError, match="was removed or replaced"):
        toy_study.run(tmp_path / "s", measure=replaced, settings=alone)
    assert not list((tmp_path / "s" / "parts").iterdir())


# ---------------------------------------------------------------- names


HOSTILE = ("x/../../../OUT", "", "a b", "a-b", "/OUT", "a\0b", "ü" * 300)


def test_no_name_in_a_table_leads_out_of_the_folder(tmp_path):
    folder = tmp_path / "a" / "b" / "s"
    for trap in ("success-x", "success-", "precision-x", "scaling-bytes-x", "scaling-bytes-", "fits-T4-x"):
        (folder / "figures" / trap).mkdir(parents=True)
    rows = []
    for name in HOSTILE[:4]:
        at = dict.fromkeys(SCHEMA) | {"part": "p", "length": 4, "seed": 0, "value": 0.5}
        success = at | {"section": "success", "group": name, "cell": "elman"}
        rows += [
            success | {"quantity": quantity, "length": length}
            for quantity in ("final_loss", "baseline")
            for length in (4, 8)
        ]
        scaling = at | {"section": "scaling", "group": name, "cell": "elman"}
        rows += [
            scaling | {"quantity": quantity, "x": x} for quantity in ("bytes", "seconds") for x in (4.0, 8.0)
        ]
        norms = {
            "section": "training",
            "quantity": "log_norm",
            "leaf": "carry",
            "loss": "last",
            "training_step": 0,
        }
        rows += [at | norms | {"cell": f"{name}.py:f", "t": t} for t in range(4)]
    settings = {"sections": ["success", "scaling", "training", "decay"], "cells": ["elman"]}
    write_study(folder, pl.DataFrame(rows, schema=SCHEMA), {"settings": settings})
    page.render(folder)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.parent) for path in files} == {"a/b/s", "a/b/s/figures"}
    drawn = sorted(path.name for path in (folder / "figures").glob("*.svg"))
    # A map per task; two curves per method; a map and the fits per cell; one scale and the curves of the length, which
    # are on the first screen, too.
    assert len(drawn) == 4 * (1 + 2 + 2) + 2 + 1
    assert not [path for path in files if "OUT" in path.name and path.parent.name != "figures"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a b", ".x", "a\n", "ü"])
def test_a_panel_has_the_name_of_a_file(name):
    with pytest.raises(ValueError, match="Panel: expected letters"):
        Panel(name, "<svg/>")


def test_parts_and_weights_of_any_names_stay_in_their_folders_and_apart(tmp_path):
    names = [*HOSTILE, "../OUT", " ", "a\nb", "a.b", "a:b", "A B"]
    folder = tmp_path / "s[1]*?{x}"
    with Store(folder) as store:
        store.open(RECORD, resume=False, overwrite=False)
        store.write_summary({"complete": False})
        for number, name in enumerate(names):
            store.add(Part("training", name, 4, 0), [{"quantity": "x", "value": number}])
            store.save_weights(f"{name}/4/0", [np.full(2, number)])
        assert store.merge()["cell"].n_unique() == len(names)
        for number, name in enumerate(names):
            assert store.load_weights(f"{name}/4/0")[0].tolist() == [number] * 2
    assert {path.parent.name for path in Path(tmp_path).rglob("*.npz")} == {"weights"}
    assert len(list((folder / "parts").iterdir())) == len(names)
    assert rows_of(folder)["value"].sort().to_list() == list(range(len(names)))
