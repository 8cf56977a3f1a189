"""Every command finds out that its output cannot be written before it computes anything."""

import errno
import json
import os
import tempfile

import polars as pl
import pytest
from helpers.command_line import run
from helpers.studies import write_study

from seqjax.cli.commands import OPTIONS
from seqjax.files import check_can_write
from seqjax.study.rows import SCHEMA

FIRST = {
    ("gradients", "out"): (["--preset", "smoke", "--out", "new/place"], "seqjax.study.settings.load_data"),
    ("render", "folder"): (["study"], "seqjax.report.page._drawn"),
    ("figures", "out"): (["study", "--out", "new/place"], "seqjax.report.paper._contents"),
    ("check", "out"): (["--out", "new.json"], "seqjax.calibration.run"),
    ("compare", "out"): (["lstm", "gru", "--out", "new/place"], "seqjax.cli.compare.is_run"),
    ("train", "out"): (["parity", "--out", "new/place"], "seqjax.cli.train.prepare"),
    ("generate", "plot"): (["run", "series.csv", "--plot", "new.png"], "seqjax.cli.generate.load"),
}
"""For each path that a command writes: the rest of the line, and the first work that the command does."""
READ = {("train", "config"), ("figures", "folder"), ("generate", "folder"), ("evaluate", "folder")}
"""Paths that a command only reads."""


def test_every_path_of_a_command_is_one_that_it_writes_or_reads():
    commands = json.loads(OPTIONS.read_text())
    paths = {
        (name, parameter["name"])
        for name, command in commands.items()
        for parameter in command["parameters"]
        if parameter["type"] == "Path"
    }
    assert paths == set(FIRST) | READ


@pytest.mark.parametrize("place", FIRST, ids=" ".join)
def test_a_place_that_cannot_be_written_is_found_before_any_work(monkeypatch, tmp_path, capsys, place):
    (line, work), command = FIRST[place], place[0]
    monkeypatch.chdir(tmp_path)
    if "study" in line:
        row = {"part": "p", "section": "training", "cell": "lstm", "quantity": "loss", "value": 1.0}
        rows = pl.DataFrame([dict.fromkeys(SCHEMA) | row], schema=SCHEMA)
        write_study(tmp_path / "study", rows, {"settings": {"cells": ["lstm"], "lengths": [4]}})
    before = sorted(tmp_path.rglob("*"))
    reached = []

    def work_begins(*arguments, **options):
        reached.append(work)
        raise SystemExit(0)

    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(work, work_begins)
    assert run(monkeypatch, command, *line) == 0 and reached == [
        work
    ]  # otherwise the table names another work
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    capsys.readouterr()
    assert run(monkeypatch, command, *line) == 2 and reached == [work]
    said = capsys.readouterr()
    assert "cannot be written (Read-only file system)" in said.err and said.err.startswith("seqjax: ")
    assert said.err.count("\n") == 1 and said.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_is_tried_without_a_trace(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loose").symlink_to(tmp_path / "nothing")
    before = sorted(tmp_path.rglob("*"))
    for fine in (tmp_path, tmp_path / "new", tmp_path / "new" / "below", os.path.relpath(tmp_path / "new")):
        check_can_write(fine)
    for wrong, number in {
        tmp_path / "file": errno.ENOTDIR,
        tmp_path / "file" / "below": errno.ENOTDIR,
        tmp_path / ("a" * 300): errno.ENAMETOOLONG,
        tmp_path / "loose": errno.ENOENT,
        "/proc/nowhere/below": errno.ENOENT,
    }.items():
        with pytest.raises(OSError) as caught:  # noqa: PT011 (the number says which)
            check_can_write(wrong)
        assert caught.value.errno == number, wrong
    assert sorted(tmp_path.rglob("*")) == before
