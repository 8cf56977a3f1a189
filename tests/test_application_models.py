"""Test vocabularies, stacks and models of users in applications from the command line."""

import logging

import numpy as np
import pytest
from helpers.applications import TINY, answers, command, measured, write_files
from helpers.command_line import run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of the files of all kinds, and of a model of a user."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.fixture(autouse=True)
def same_logging():
    """The command speaks by a handler of its own."""
    logger = logging.getLogger("seqjax.training")
    before = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = before


OWN = """
import jax, jax.numpy as jnp
def build():
    w = 0.1 * jax.random.normal(jax.random.key(0), (8, 8))
    def step(params, carry, x):
        h = jnp.tanh(x + (jnp.zeros(8) if carry is None else carry) @ params)
        return h, h
    return w, step
"""
WIDE = "--hidden-size 8 --heads 2".split()
OTHER = {
    "language, subwords": ("language", ["--vocabulary", "subwords", "--vocabulary-size", "30"]),
    "captions, subwords": ("captions", "--vocabulary subwords --vocabulary-size 24 --length 20".split()),
    "language, characters": ("language", ["--vocabulary", "characters"]),
    "language, own model": ("language", ["--model", "own.py:build", *WIDE[:2]]),
    "captions, characters": ("captions", ["--vocabulary", "characters", "--length", "20"]),
    "captions, a stack": ("captions", ["--model", "griffin", "--depth", "2", *WIDE]),
    "captions, own model": ("captions", ["--model", "own.py:build", *WIDE[:2]]),
    "speech, subwords": ("speech", ["--vocabulary", "subwords", "--vocabulary-size", "8"]),
    "speech, words": ("speech", ["--vocabulary", "words"]),
    "speech, a stack": ("speech", ["--model", "xlstm", *WIDE]),
    "speech, own model": ("speech", ["--model", "own.py:build", *WIDE[:2]]),
    "forecast, layers": ("forecast", ["--model", "gru", "--depth", "2", "--precision", "bfloat16"]),
    "forecast, a stack": ("forecast", ["--model", "samba", *WIDE]),
    "classes, bytes": ("classes", ["--vocabulary", "bytes"]),
    "classes, a stack": ("classes", ["--model", "hybrid_delta", *WIDE]),
    "classes, own model": ("classes", ["--model", "own.py:build", *WIDE[:2]]),
    "translation, a stack": ("translation", ["--model", "griffin", *WIDE]),
    "translation, own model": ("translation", ["--model", "own.py:build", *WIDE[:2]]),
    "forecast, own model": ("forecast", ["--model", "own.py:build", "--depth", "2", *WIDE[:2]]),
}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.fast_cases(1)
def test_vocabularies_stacks_and_own_models_are_used(name, files, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(files)
    kind, options = OTHER[name]
    folder, allow = tmp_path / "run", ["--allow-code"] if "own.py:build" in options else []
    assert run(monkeypatch, "train", *command(kind, files), *TINY, *options, "--out", folder) == 0
    inputs = {"language": [], "forecast": ["series.csv"], "speech": ["speech"], "captions": ["pictures"]}
    lines = [] if kind == "language" else ["a b c", "d"]
    assert answers(monkeypatch, capsys, folder, lines, *inputs.get(kind, []), *allow)
    assert np.isfinite(measured(monkeypatch, capsys, folder, *allow)["loss"])
    if allow:
        assert run(monkeypatch, "generate", folder) == 2 and "was not run" in capsys.readouterr().err
