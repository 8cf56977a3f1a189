"""Run the programs of `examples/` at toy size; `make examples` runs them by themselves."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNS = {
    "batch_major_data": ({}, lambda difference: difference < 1e-6),
    "compare_implementations": ({"length": 8}, lambda equal: equal is True),
    "encoder_decoder": ({"steps": 2}, lambda right: 0 <= right <= 1),
    "ensemble": ({"steps": 2, "seeds": 2}, lambda losses: losses.shape == (2, 3)),
    "export_model": ({}, lambda difference: difference < 1e-6),
    "gradient_instruments": ({"length": 12, "hidden_size": 4}, lambda found: finite(found.values())),
    "instruments_in_training": ({"steps": 2}, lambda found: all(0 <= lag < 16 for lag in found)),
    "masked_losses": ({}, lambda changes: set(changes.values()) == {0.0}),
    "online_gradients": (
        {"length": 8, "chunk": 4},
        lambda errors: errors["rtrl()"] < 1e-5 < errors["uoro()"],
    ),
    "own_cell": ({"check": False}, lambda shape: shape == (50, 4, 1)),
    "report_on_own_model": ({"length": 30}, lambda steps: 0 < steps < 100),
    "sharding": ({"steps": 2}, lambda difference: difference < 1e-5),
    "stacks": ({"width": 8, "depth": 2}, lambda found: max(found.values()) < 1e-4),
    "streaming": ({"steps": 2}, lambda loss: 2 < loss < 6),
    "train_on_files": ({"steps": 2}, lambda losses: len(losses) == 3 and finite(losses.values())),
    "variable_lengths": ({"steps": 2}, lambda accuracy: 0 <= accuracy <= 1),
    "weights_from_torch": ({"length": 12, "steps": 1}, lambda difference: difference < 1e-6),
}


def finite(numbers):
    """Whether no number is NaN or infinite."""
    return all(map(math.isfinite, np.asarray(list(numbers))))


def load(name):
    """The module of a program."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_program_runs_and_finds_what_it_says(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, holds = RUNS[name]
    assert holds(load(name).main(**arguments))


def test_every_program_is_run_and_listed():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    listed = (EXAMPLES / "README.md").read_text()
    assert names == set(RUNS)
    assert [name for name in names if f"]({name}.py)" not in listed] == []
