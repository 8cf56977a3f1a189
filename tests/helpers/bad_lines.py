"""Random command lines that cannot be used, from a grammar of bad values and files."""

import json
import random
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from seqjax.fields import flag
from seqjax.study.settings import Settings
from seqjax.training.recipe import Recipe

READABLE = ["0", "-1", "nan", "-inf", "1e400", "9" * 30, "-" + "9" * 30, "2147483648"]
UNREADABLE = [
    "1.5.2",
    "",
    " ",
    "ü",
    "\udcff",
    "0x1g",
    "1,,",
    "%s",
    "١٢x",
    "a" * 300,
    "[1]",
    "None",
    "1e",
    "9" * 5000,
]
NUMBERS = [*3 * READABLE, *UNREADABLE]
"""Numbers that no option takes, most of them such that they can be read."""
TAKEN = {
    "clip": ("0", "9" * 30, "2147483648"),
    "dropout": ("0",),
    "final_rate": ("0",),
    "learning_rate": ("9" * 30, "2147483648"),
    "seed": ("0",),
    "warmup_steps": ("0",),
    "weight_decay": ("0", "9" * 30, "2147483648"),
}
"""The options that take some of them all the same."""
WORDS = [
    "",
    " ",
    "lstn",
    "LSTM",
    "ü",
    "\udcff",
    "a" * 300,
    "%s%n",
    "'",
    "\n",
    "[",
    "../..",
    "lstm(",
    "None",
    "\U0001d7d9",
    "{}",
]
MODELS = [
    "lstm(1,",
    "lstm(nonsense=1)",
    "lstm(forget_bias='a')",
    "lstm(forget_bias=1e999)",
    "gru(reset_after='int8')",
]
MODELS += [
    "-" * 900 + "1",
    "(" * 900,
    "lstm(**{})",
    "lstm(*[1])",
    "__import__('os')",
    "lstm(forget_bias={[]})",
    "lstm()()",
]
MODELS += [
    "missing.py:f",
    "bad.py:build",
    "exit.py:build",
    "model.py:nothing",
    "model.py:wrong",
    ":",
    "a:b",
    "json:",
    "x.py:",
]
SPECS = [
    *MODELS,
    "lstm,method=Scam",
    "lstm,dtype=float31",
    "lstm,device=gpu:9",
    "lstm,device=cpu:x",
    "lstm,method=Scan(chunk=0)",
]
SPECS += [
    "lstm,,",
    "lstm,dtype=",
    "lstm,method=Scan,method=Scan",
    "lstm,method=Scan(keep_gates='x')",
    "'lstm",
    "lstm)",
    ",",
    "=",
]
SPECS += ["lstm(hidden_size=2147483648)", "lstm(8.5)", "lstm,method=Newton(batch_ndim=-1)", "study"]
FILES = [
    "missing.txt",
    "empty.txt",
    "folder",
    "/dev/zero",
    "large.txt",
    "a" * 300,
    "missing/x",
    "empty.txt/x",
    "array.npz",
    "x.gz",
]
ARRAYS = [
    "cut.npy",
    "words.npy",
    "nan.npy",
    "several.npy",
    "terabytes.npy",
    "text.npy",
    "scalar.npy",
    "missing.npy",
    "folder.npy",
]
CONFIGS = [
    "broken.json",
    "nested.json",
    "list.json",
    "utf16.json",
    "binary",
    "large.txt",
    "rate.json",
    "names.json",
    *FILES[:4],
]
OUTS = ["text.txt", "folder", "text.txt/x", "a" * 300, "/proc/nowhere/x"]
NOISE = ["--nonsense", "--steps=", "-x", "--=", "extra", "ü", "--out", "--length"]


def write_files(folder: Path) -> None:
    """Write the files that the lines name."""
    texts = {
        "text.txt": "abc " * 60,
        "empty.txt": "",
        "x.gz": "no archive",
        "model.py": "import jax\ndef wrong():\n    return 3\n",
        "bad.py": "def (",
        "exit.py": "import sys\nsys.exit(7)",
        "broken.json": '{"task": ',
        "nested.json": "[" * 100_000,
        "list.json": "[1, 2]",
        "rate.json": '{"learning_rate": "fast"}',
        "names.json": '{"hiden_size": 3}',
        "text.npy": "no array",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "utf16.json").write_text("{}", encoding="utf-16")
    (folder / "binary").write_bytes(bytes(range(256)))
    for name in ("folder", "folder.npy", "study"):
        (folder / name).mkdir()
    (folder / "folder" / "precious").touch()
    (folder / "study" / "summary.json").write_text("{}")
    np.save(folder / "good.npy", np.ones((4, 3)))
    np.save(folder / "nan.npy", np.full((4, 3), np.nan))
    np.save(folder / "words.npy", np.array([["a"]]))
    np.save(folder / "scalar.npy", 3.0)
    np.savez(folder / "array.npz", np.ones(3))
    (folder / "several.npy").write_bytes((folder / "array.npz").read_bytes())
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-9])
    whole = (folder / "good.npy").read_bytes()
    (folder / "terabytes.npy").write_bytes(
        whole.replace(b"(4, 3), }" + b" " * 10, b"(400000000000, 3), }"[:19])
    )
    with (folder / "large.txt").open("wb") as file:
        file.truncate(40 * 2**30)  # takes no room


def _options(record: type, leave_out: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Return the options of a record of settings, each with values that it refuses."""
    found = []
    for each in fields(record):
        if each.name in leave_out or each.type is bool:
            continue
        bad = WORDS if each.type in (str, str | None, tuple[str, ...]) else NUMBERS
        bad = [value for value in bad if value not in TAKEN.get(each.name, ())]
        found.append((flag(each.name), bad))
    return found


TRAIN = [
    *_options(Recipe, ("task", "data", "data_sha256", "init_sha256", "model", "init_from")),
    ("--model", MODELS),
    ("--config", CONFIGS),
    ("--out", OUTS),
    ("--processes", ["1"]),
    ("--nonsense", ["x"]),
]
STUDY = [
    *_options(Settings, ("preset", "cells", "data")),
    (
        "--cells",
        [
            "lstn",
            ",",
            "",
            "missing.py:f",
            "bad.py:build",
            "exit.py:build",
            "model.py:wrong",
            "ü",
            "lstm,gruu",
        ],
    ),
    ("--data", [*FILES, "text.txt"]),
    ("--preset", WORDS),
    ("--workers", NUMBERS),
    ("--out", OUTS),
]
COMPARE = [
    *((f"--{name}", NUMBERS) for name in ("length", "batch-size", "input-size", "hidden-size")),
    ("--seed", [n for n in NUMBERS if n != "0"]),
    ("--data", [*FILES, *ARRAYS]),
    ("--out", OUTS),
]
CHECK = [
    ("--only", [",", "C999", "C5,x", "ü", " "]),
    ("--dtype", WORDS),
    ("--out", ["folder", "missing/x", "a" * 300]),
]


OPTIONS = {
    "train": [*TRAIN, *3 * [("--model", MODELS), ("--config", CONFIGS)]],
    "gradients": STUDY,
    "compare": [*COMPARE, *3 * [("--data", [*FILES, *ARRAYS])]],
    "check": CHECK,
}
COMMANDS = [*OPTIONS, "render", "list", "none"]


def _config(choose: random.Random, folder: Path, number: int) -> str:
    """Write a config.json with blind damage, or with values of other types; return its name."""
    values = Recipe(task="parity").to_json()
    for name in choose.sample(sorted(values), choose.randint(0, 3)):
        values[name] = choose.choice([None, True, [], {}, "x", -1, 1e308, 10**30, "\ud800", [[[]]], 0.5])
    data = bytearray(json.dumps(values).encode())
    for _ in range(choose.choice([0, 0, 1, 3])):
        data[choose.randrange(len(data))] = choose.randrange(256)
    name = f"config{number}.json"
    (folder / name).write_bytes(data[: choose.choice([len(data), len(data), choose.randrange(len(data))])])
    return name


def lines(seed: int, count: int, folder: Path) -> Iterator[list[str]]:
    """Yield random lines, each with at least one part that cannot be used; files of their own are in the folder."""
    choose = random.Random(seed)
    for number in range(count):
        command = choose.choices(COMMANDS, [8, 5, 7, 2, 2, 1, 1])[0]
        line = []
        for name, values in choose.choices(
            OPTIONS.get(command, [("--nonsense", ["x"])]), k=choose.choice([1, 1, 2])
        ):
            line += [name, choose.choice(values)]
        if command == "train":
            what = choose.choice([*WORDS, *FILES, "parity", "parity", "copying", "text", "text.txt"])
            line = [what, "--out", "out", *line]
            if choose.random() < 0.3:
                line = [
                    "--config",
                    _config(choose, folder, number),
                    "--out",
                    "out",
                    *line[3:],
                    "--steps",
                    "0",
                ]
        elif command == "gradients":
            line = ["--sections", "training", "--out", "out", *line]
        elif command == "compare":
            a, b = choose.choice(
                [("lstm", "lstm"), ("lstm", choose.choice(SPECS)), (choose.choice(SPECS), "gru")]
            )
            line = ["--length", "3", "--out", "out", *line, "--", a, b]
        elif command == "render":
            line = [choose.choice([*FILES, *WORDS])]
        elif command == "list":
            line = [choose.choice(NOISE)]
        elif command == "none":
            command = choose.choice([word for word in WORDS if word])
        if choose.random() < 0.1:
            line.insert(choose.randrange(len(line) + 1), choose.choice(NOISE))
        yield [command, *line]
