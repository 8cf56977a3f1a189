"""Test damage to the folder of a study: it is named, costs as little as it can, and never draws other figures."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from helpers import toy_study
from helpers.command_line import ROOT, run
from helpers.studies import write_study
from helpers.toy_study import SEEDS

from seqjax.compare.runs import compare_runs
from seqjax.report import page
from seqjax.study import record
from seqjax.study.reading import read_study
from seqjax.study.record import Record, digest_of
from seqjax.study.rows import SCHEMA
from seqjax.study.sealed_files import stem_of
from seqjax.study.store import DamagedResultsWarning, Store

PARTS = 2 * SEEDS


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A complete study, and one interrupted at its seventh part; a second worker may have been at the sixth."""
    folder = tmp_path_factory.mktemp("studies")
    assert toy_study.run(folder / "whole")
    toy_study.run_until(folder / "part", 6)
    return folder


def rows_of(folder):
    return read_study(folder)[1]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path, chance=random.Random(0)):  # noqa: B008 (one sequence for all)
    content = bytearray(path.read_bytes() or b"x")
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def delete(path):
    path.unlink()


def swap(path):
    """Another valid file of the same folder takes its place."""
    others = sorted(each for each in path.parent.iterdir() if each.is_file() and each != path)
    if others:
        path.write_bytes(others[0].read_bytes())


DAMAGES = (cut, empty, flip, delete, swap)


@pytest.mark.parametrize("damage", [cut, empty, flip, swap])
@pytest.mark.parametrize("place", ["parts", "weights"])
def test_a_damaged_part_is_named_and_measured_again(studies, tmp_path, place, damage):
    folder = tmp_path / "s"
    shutil.copytree(studies / "part", folder)
    path = sorted((folder / place).iterdir())[2]
    damage(path)
    if place == "parts":
        with pytest.raises(ValueError, match=r"parts/.* has another SHA-256 .* --resume to measure again"):
            page.render(folder)
    said = []
    assert toy_study.run(folder, resume=True, warn=said.append)
    assert len(said) == 1 and path.name in said[0] and "again" in said[0] and "\n" not in said[0]
    assert rows_of(folder).equals(rows_of(studies / "whole"))


def test_weights_that_are_damaged_while_a_study_runs_are_trained_again(tmp_path):
    with Store(tmp_path) as store, pytest.warns(DamagedResultsWarning, match="trained again"):
        store.save_weights("../a b:c/64/0", [np.arange(3.0), np.ones((2, 2))])
        (path,) = (tmp_path / "weights").iterdir()
        found = store.load_weights("../a b:c/64/0")
        np.testing.assert_array_equal(found[0], np.arange(3.0))
        assert store.load_weights("../a-b:c/64/0") is None  # another name, with the same letters
        # A file of another model under this name is not taken either.
        path.rename(path.with_name(path.name.replace(stem_of("../a b:c/64/0"), stem_of("lstm/64/0"))))
        assert store.load_weights("lstm/64/0") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": []}', '{"sha256": 3}', "[" * 10_000])
def test_with_a_damaged_summary_parts_of_the_same_record_are_kept(studies, tmp_path, text):
    folder = tmp_path / "s"
    shutil.copytree(studies / "part", folder)
    (folder / "summary.json").write_text(text)
    for reader in (page.render, lambda folder: compare_runs(folder, folder)):
        with pytest.raises(
            ValueError, match=r"summary.json (cannot be read|has no SHA-256|has another SHA-256)"
        ):
            reader(folder)
    measured, said = [], []
    kept = len(list((folder / "parts").glob("*.parquet")))
    assert kept in (5, 6, 7)

    def counted(experiment, part):
        measured.append(part)
        return toy_study.measure(experiment, part)

    assert toy_study.run(folder, resume=True, warn=said.append, measure=counted)
    assert len(said) == 1 and "summary.json is damaged or missing" in said[0]
    assert len(measured) == PARTS - kept and rows_of(folder).equals(rows_of(studies / "whole"))
    # Parts of another record are not: nothing says any more what they were measured with.
    shutil.rmtree(folder)
    shutil.copytree(studies / "part", folder)
    (folder / "summary.json").write_text(text)
    other = toy_study.RECORD._replace(inputs={"text": 64 * "b"})
    assert toy_study.run(folder, resume=True, record=other, warn=said.append, measure=counted)
    assert len(measured) == 2 * PARTS - kept


@pytest.mark.parametrize("damage", [cut, empty, flip, delete])
def test_damaged_results_of_a_complete_study_are_refused_and_measured_again(studies, tmp_path, damage):
    folder = tmp_path / "s"
    shutil.copytree(studies / "whole", folder)
    drawn = (folder / "index.html").read_bytes()
    damage(folder / "results.parquet")
    for reader in (page.render, lambda folder: compare_runs(folder, studies / "whole")):
        with pytest.raises(ValueError, match=r"results.parquet (is missing|has another SHA-256)"):
            reader(folder)
    assert (folder / "index.html").read_bytes() == drawn
    said = []
    assert toy_study.run(folder, resume=True, warn=said.append)
    assert len(said) == 1 and "All parts are measured again" in said[0]
    assert rows_of(folder).equals(rows_of(studies / "whole"))


@pytest.mark.slow  # each kind of damage is tested by itself
@pytest.mark.parametrize("times", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_of_many_blind_damages_none_is_silent_and_none_blocks_the_study(studies, tmp_path, times):
    """Reading gives the same rows, fewer parts and their number, or one line; `--resume` gives the same rows."""
    chance = random.Random(times)
    whole, outcomes = rows_of(studies / "whole"), dict.fromkeys(("same", "fewer", "refused", "stuck"), 0)
    for number in range(times):
        name = chance.choice(["whole", "part", "part"])
        folder = tmp_path / str(number)
        shutil.copytree(studies / name, folder)
        rows = rows_of(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in chance.sample(files, chance.choice([1, 1, 1, 2, 3])):
            chance.choice(DAMAGES)(path)
        try:
            page.render(folder)
            found = rows_of(folder)
            assert found.equals(rows.filter(pl.col("part").is_in(found["part"].unique().implode())))
            outcomes["same" if found.equals(rows) else "fewer"] += 1
        except ValueError as error:
            assert "\n" not in str(error) and ("again" in str(error) or "Make a report" in str(error))
            outcomes["refused"] += 1
        said = []
        try:
            assert toy_study.run(folder, resume=True, warn=said.append)
        except ValueError as error:  # no summary, and no parts that could be those of a study
            assert "is not empty and holds no report" in str(error) and not (folder / "summary.json").exists()
            outcomes["stuck"] += 1
            continue
        assert rows_of(folder).equals(whole) and all("\n" not in line for line in said)
        shutil.rmtree(folder)
    assert outcomes["same"] and outcomes["refused"] and outcomes["stuck"] < times / 4, outcomes


@pytest.mark.slow
def test_a_study_that_is_killed_twenty_times_gives_the_same_results(tmp_path):
    script = ROOT / "tests" / "helpers" / "killed_study.py"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, script, tmp_path, "20", "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 20 and found["parts_at_kills"] == sorted(found["parts_at_kills"])
    assert len(set(found["parts_at_kills"])) > 5
    assert rows_of(tmp_path / "killed").equals(rows_of(tmp_path / "whole"))
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "figures",
        "index.html",
        "results.parquet",
        "summary.json",
    ]


# ---------------------------------------------------------------- tables that cannot be drawn


ONE = {"part": "p", "section": "training", "cell": "elman", "length": 4, "seed": 0, "quantity": "log_norm"}
ONE |= {"leaf": "carry", "loss": "last", "training_step": 0, "t": 0, "value": 0.0}


def table(**columns):
    return pl.DataFrame([dict.fromkeys(SCHEMA) | ONE | columns], schema=SCHEMA)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table().drop("note", "x"), "has no column note, x"),
        (table().with_columns(seed=pl.lit("a")), "cannot be read as results"),
        (table().with_columns(t=pl.lit(2**40)), "cannot be read as results"),
        (table().with_columns(value=pl.lit([1.0, 2.0])), "cannot be read as results"),
        (pl.DataFrame([dict.fromkeys(SCHEMA)] * 3, schema=SCHEMA), "expected a part in every row"),
        (table(quantity=None), "expected a quantity in every row"),
        (pl.DataFrame({"a": [1]}), "has no column"),
        (table(t=99), "cannot be drawn"),
        (table(length=-1), "cannot be drawn"),
        (table(section="precision", quantity="error", group="float99", x=4.0, t=None), "cannot be drawn"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_table_that_cannot_be_drawn_is_one_line(monkeypatch, tmp_path, capsys, rows, message, complete):
    with Store(tmp_path) as store:
        store.open(Record({"cells": ["elman"]}, {}, {}), resume=False, overwrite=False)
        if complete:
            store.write_summary({"complete": True})
            rows.write_parquet(tmp_path / "results.parquet")
            digest = hashlib.sha256((tmp_path / "results.parquet").read_bytes()).hexdigest()
            summary = store.summary | {"results_sha256": digest}
            (tmp_path / "summary.json").write_text(record.sealed(summary))
        else:
            store.add_rows("x", rows)
            store.write_summary({"complete": False})
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, "render", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("seqjax: ") and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), None])
@pytest.mark.fast_cases(2)
def test_values_that_are_not_finite_are_drawn_or_refused_in_one_line(monkeypatch, tmp_path, capsys, value):
    rows = [
        table(t=t, value=value, section=section, quantity=quantity, group="g", x=float(t), length=4)
        for section, quantity in (
            ("training", "log_norm"),
            ("singular", "log_singular_value"),
            ("lyapunov", "exponent"),
            ("truncation", "bias"),
            ("success", "final_loss"),
            ("success", "baseline"),
            ("scaling", "bytes"),
            ("signal", "signal_to_noise"),
            ("algorithms", "error"),
        )
        for t in range(4)
    ]
    for section in sorted({frame["section"][0] for frame in rows}):
        some = pl.concat(frame for frame in rows if frame["section"][0] == section)
        write_study(tmp_path, some, {"settings": {"cells": ["elman"], "lengths": [4]}})
        status = run(monkeypatch, "render", tmp_path)
        error = capsys.readouterr().err
        assert (status == 0 and error == "") or (status == 2 and "cannot be drawn" in error), section
        assert error.count("\n") == (status == 2)


@pytest.mark.parametrize("content", [{}, {"settings": []}, {"settings": None, "complete": True}, [], 3, None])
def test_a_summary_that_is_none_is_one_line(monkeypatch, tmp_path, capsys, content):
    content = content | {"sha256": digest_of(content)} if isinstance(content, dict) else content
    (tmp_path / "summary.json").write_text(json.dumps(content))
    table().write_parquet(tmp_path / "results.parquet")
    assert run(monkeypatch, "render", tmp_path) == 2
    error = capsys.readouterr().err
    assert "summary.json" in error and error.count("\n") == 1 and not (tmp_path / "index.html").exists()
