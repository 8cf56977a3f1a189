"""Test that values too large, too deep or without an end are refused in one line, before any work."""

import json
import os
import threading

import numpy as np
import pytest
from helpers.command_line import run

from seqjax.cli.compare import inputs
from seqjax.cli.train_folder import claim
from seqjax.files import put_text
from seqjax.training.folder_lock import FolderLock
from seqjax.training.recipe import read_recipe

DEEP = 100_000
HUGE = 10**20
TRAIN = "train parity --length 4 --hidden-size 4 --batch-size 2 --steps 2 --eval-batches 1 --out out".split()
STUDY = "gradients --cells elman --sections training --out out".split()
COMPARE = "compare lstm lstm --length 4 --batch-size 2 --input-size 3 --hidden-size 4 --out out".split()


def header(shape):
    """The beginning of a .npy file."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def files(folder):
    (folder / "nested.json").write_text("[" * DEEP)
    (folder / "nested2.json").write_text('{"a":' * DEEP)
    (folder / "bigger.json").write_text('{"learning_rate": 1' + "0" * 400 + "}")
    (folder / "infinite.json").write_text('{"learning_rate": Infinity}')
    (folder / "mark.json").write_bytes(b'\xef\xbb\xbf{"task": "parity", "steps": 0}')
    (folder / "terabytes.npy").write_bytes(header("(400000000000, 1)") + bytes(64))
    (folder / "deep.npy").write_bytes(b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000)
    with (folder / "several.npy").open("wb") as file:
        np.savez(file, a=np.ones(3))
    np.save(folder / "complex.npy", np.ones((4, 3), complex))
    with (folder / "large.txt").open("wb") as file:
        file.truncate(40 * 2**30)  # takes no room
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.npy")


CASES = [
    ([*TRAIN, "--model", "-" * 3000 + "1"], "--model: expected a name, .* of at most 1000 letters, got 3001"),
    ([*TRAIN, "--model", "-" * 900 + "1"], "--model: expected a name, or a call"),
    ([*TRAIN, "--model", "lstm(" + "[" * 900], "--model: expected a name, or a call"),
    ([*TRAIN, "--model", r"lstm(forget_bias='\d')"], "lstm(forget_bias): expected"),
    ([*TRAIN, "--model", "lstm(forget_bias={[]})"], "--model: expected a name, or a call"),
    (["compare", "--out", "out", "--", "-" * 3000 + "1", "lstm"], "expected a name"),
    (["compare", "--out", "out", "(" * 400 + "1" + ")" * 400, "lstm"], "expected a name"),
    (["train", "--out", "out", "--config", "nested.json"], "nested.json .* nested too deeply"),
    (["train", "--out", "out", "--config", "nested2.json"], "nested2.json .* nested too deeply"),
    (["train", "--out", "out", "--config", "bigger.json"], "expected learning_rate such as 0.003"),
    (["train", "--out", "out", "--config", "infinite.json"], "--learning-rate: expected a finite number"),
    (
        ["train", "--out", "out", "--config", "mark.json"],
        "--steps: expected a whole number of at least 1, got 0",
    ),
    (["train", "--out", "out", "--config", "/dev/zero"], "'/dev/zero', which is a device"),
    (["train", "--out", "out", "--config", "large.txt"], "expected at most 67108864 bytes, got 'large.txt'"),
    (
        [*TRAIN, "--length", 2**31 - 1],
        "--length times --batch-size times --eval-batches: expected less than 2^31",
    ),
    ([*TRAIN, "--hidden-size", 2**31 - 1], "expected params of at most 4398046511104 bytes"),
    ([*TRAIN, "--depth", 2**31 - 1], "--depth: expected a whole number from 1 to 1000"),
    *(
        ([*TRAIN, f"--{name}", HUGE], f"--{name}: expected a whole number")
        for name in (
            "length depth hidden-size batch-size steps eval-every eval-batches checkpoint-every patience seed"
        ).split()
    ),
    *(
        ([*STUDY, f"--{name}", HUGE], f"--{name}: expected a whole number")
        for name in "lengths hidden-size batch-size seeds training-steps workers".split()
    ),
    ([*STUDY, "--seeds", 2**31 - 1], "--seeds: expected a whole number from 1 to 10000"),
    ([*STUDY, "--lengths", 2**31 - 1], "--lengths times --batch-size: expected less than 2^31"),
    ([*STUDY, "--hidden-size", 2**31 - 1], "expected params of at most 4398046511104 bytes"),
    *(
        ([*COMPARE, f"--{name}", HUGE], f"--{name}: expected a whole number")
        for name in "length batch-size input-size hidden-size seed".split()
    ),
    (
        [*COMPARE, "--length", 2**31 - 1],
        "--length times --batch-size times --input-size: expected less than 2^31",
    ),
    ([*COMPARE, "--hidden-size", 2**31 - 1], "lstm: expected params of at most 4398046511104 bytes"),
    (
        ["compare", "attention(8,num_heads=2,key_size=2147483646,max_length=2147483647)", *COMPARE[2:]],
        "expected params of at most|expected a carry of at most",
    ),
    ([*COMPARE, "--data", "terabytes.npy"], "--data: terabytes.npy cannot be read as an array"),
    ([*COMPARE, "--data", "deep.npy"], "--data: deep.npy cannot be read as an array"),
    ([*COMPARE, "--data", "several.npy"], "--data: expected one array, got several.npy"),
    ([*COMPARE, "--data", "complex.npy"], "--data: expected numbers"),
    ([*COMPARE, "--data", "pipe.npy"], "--data: expected a file, got pipe.npy"),
    ([*COMPARE, "--data", "large.txt"], "expected at most 2147483647 bytes, got 'large.txt'"),
    ([*COMPARE, "--data", "/dev/zero"], "'/dev/zero', which is a device"),
    ([*STUDY, "--data", "/dev/zero"], "'/dev/zero', which is a device"),
    (["train", "/dev/zero", *TRAIN[2:]], "expected a file, which a resumed run reads again"),
    (["train", "pipe", *TRAIN[2:]], "expected a file, which a resumed run reads again, got 'pipe'"),
    (["train", "large.txt", *TRAIN[2:]], "expected at most 2147483647 bytes, got 'large.txt'"),
    *(
        (line, "File name too long|does not exist|expected a report|holds no run|expected a Python file")
        for line in (
            ["train", "a" * 300 + ".txt", "--out", "out"],
            [*TRAIN[:-1], "a" * 300],
            [*TRAIN, "--model", "a" * 300 + ".py:build"],
            ["train", "--config", "a" * 300, "--out", "out"],
            [*COMPARE[:-1], "a" * 300],
            [*COMPARE, "--data", "a" * 300],
            ["check", "--only", "C12", "--out", "a" * 300],
            ["render", "a" * 300],
            [*STUDY[:-1], "a" * 300],
            ["gradients", "a" * 300 + ".py:build", "--out", "out"],
        )
    ),
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_values_too_large_too_deep_or_without_an_end_are_refused_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for line, message in CASES:
        status, said = run(monkeypatch, *line), capsys.readouterr()
        shown = f"{' '.join(map(str, line))[:200]}: status {status}, {said.err[:500]!r}"
        assert status == 2 and said.out == "" and said.err.count("\n") == 1, shown
        first, _, last = said.err.startswith("seqjax: "), *message.partition(" .* ")[1:]
        assert first and any(part in said.err for part in message.partition(" .* ")[0].split("|")), shown
        assert last in said.err and len(said.err) < 1100, shown
        assert sorted(tmp_path.rglob("*")) == before, shown


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_read_once(tmp_path):
    """As ``seqjax compare lstm lstm --data <(command)`` gives it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"abcabcabcabc"))
    writer.start()
    xs = inputs(str(pipe), 6, 2, 5, 0)
    writer.join()
    assert len(np.unique(xs.reshape(-1, 5), axis=0)) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_or_device_as_output_is_written_and_not_replaced(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    put_text(pipe, "whole")
    reader.join()
    assert found == ["whole"] and pipe.is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_overwriting_a_run_removes_a_link_and_not_its_target(tmp_path):
    run_folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (elsewhere / "precious").mkdir(parents=True)
    run_folder.mkdir()
    (run_folder / "config.json").write_text("{}")
    (run_folder / "steps").symlink_to(elsewhere, target_is_directory=True)
    lock = FolderLock(run_folder)
    claim(lock, False, True)
    lock.release()
    assert (elsewhere / "precious").is_dir() and list(run_folder.iterdir()) == []


def test_the_first_steps_of_a_large_array_are_read_and_no_more(tmp_path):
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        file.write(header("(10000000000, 3)"))
        file.truncate(file.tell() + 3 * 8 * 10**10)  # takes no room
    np.testing.assert_array_equal(inputs(str(path), 5, 9, 9, 0), np.zeros((5, 1, 3)))


def test_a_whole_number_is_a_rate_too(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"learning_rate": 10**30, "steps": 7}))
    recipe = read_recipe(config)
    assert recipe.learning_rate == 1e30 and type(recipe.learning_rate) is float and recipe.steps == 7
