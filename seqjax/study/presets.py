"""The presets of a study: their settings, and the sizes of single sections in one table."""

import itertools
import shlex
from dataclasses import dataclass
from typing import Any

from seqjax.fields import flag
from seqjax.study.settings import Settings
from seqjax.user_model import is_own


@dataclass(frozen=True)
class Sizes:
    """The sizes of single sections under one preset.

    ``..._cells`` is the largest number of cells that a section measures, of different kinds of recurrence where
    possible; the page names the other cells. ``..._lengths`` are the sequence lengths.

    Attributes:
        calibration_ids: ids of the closed forms to check; empty means all.
        calibration_seconds: seconds that these take, for the progress bar.
        lyapunov_whole: size of the largest state whose whole spectrum and determinant are measured.
        singular_state: size of the largest state that is measured, since a step costs a QR decomposition of the state.
        singular_steps: the largest number of steps.
        precision_dtypes: dtypes to compare with float64.
        algorithms_width: hidden size.
        algorithms_few: whether only four algorithms are measured.
        truncation_steps: the largest number of steps.
        scaling_rounds: number of times that each method is timed.
        scaling_nested: whether nested checkpoints are measured.
        success_tasks: number of tasks.
        success_seeds: trainings per cell, task and length.
        success_steps: training steps.
        success_batch: sequences per training step.
        signal_examples: sequences whose gradients are compared.
    """

    calibration_ids: tuple[str, ...]
    calibration_seconds: float
    lyapunov_whole: int
    singular_state: int
    singular_steps: int
    precision_cells: int
    precision_lengths: tuple[int, ...]
    precision_dtypes: tuple[str, ...]
    algorithms_cells: int
    algorithms_lengths: tuple[int, ...]
    algorithms_width: int
    algorithms_few: bool
    truncation_steps: int
    scaling_cells: int
    scaling_lengths: tuple[int, ...]
    scaling_rounds: int
    scaling_nested: bool
    success_cells: int
    success_tasks: int
    success_lengths: tuple[int, ...]
    success_seeds: int
    success_steps: int
    success_batch: int
    signal_cells: int
    signal_examples: int


TWELVE = (
    "lstm",
    "gru",
    "elman",
    "chrono_lstm",
    "orthogonal_rnn",
    "slstm",
    "lru",
    "s5",
    "mamba",
    "min_gru",
    "gla",
    "gated_delta_net",
)
PRESETS = {
    "smoke": Settings(
        preset="smoke",
        cells=("lstm", "lru"),
        lengths=(24,),
        hidden_size=6,
        batch_size=2,
        seeds=2,
        training_steps=2,
    ),
    "cpu": Settings(preset="cpu", cells=TWELVE, lengths=(512,)),
    "gpu": Settings(
        preset="gpu",
        cells=TWELVE,
        lengths=(512,),
        hidden_size=64,
        batch_size=32,
    ),
}
"""The settings of each preset: "smoke" takes one minute and "cpu" ten on two cores, "gpu" ten minutes on a GPU.

Without a preset the settings are those of "cpu" with four cells and two lengths.
"""
_TABLE: dict[str, tuple[Any, Any, Any]] = {
    "calibration_ids": (("C1", "C8", "C25", "C26"), (), ()),
    "calibration_seconds": (5.0, 40.0, 60.0),
    "lyapunov_whole": (16, 64, 256),
    "singular_state": (64, 128, 256),
    "singular_steps": (16, 128, 256),
    "precision_cells": (1, 3, 6),
    "precision_lengths": ((8,), (32, 256), (64, 512)),
    "precision_dtypes": (("bfloat16",), ("bfloat16", "float32"), ("bfloat16", "tf32", "float32")),
    "algorithms_cells": (1, 2, 2),
    "algorithms_lengths": ((8,), (16, 64), (64, 256)),
    "algorithms_width": (3, 8, 32),
    "algorithms_few": (True, False, False),
    "truncation_steps": (12, 64, 256),
    "scaling_cells": (1, 2, 2),
    "scaling_lengths": ((8, 32), (64, 256, 1024), (256, 1024, 4096)),
    "scaling_rounds": (2, 7, 7),
    "scaling_nested": (False, True, True),
    "success_cells": (1, 3, 3),
    "success_tasks": (1, 2, 3),
    "success_lengths": ((24,), (24, 48), (32, 128)),
    "success_seeds": (2, 4, 8),
    "success_steps": (3, 200, 200),
    "success_batch": (2, 16, 32),
    "signal_cells": (1, 6, 6),
    "signal_examples": (4, 16, 64),
}
SIZES = {name: Sizes(**{size: row[i] for size, row in _TABLE.items()}) for i, name in enumerate(PRESETS)}
"""The sizes of each preset; `_TABLE` has one column per preset, in the order of `PRESETS`."""


def command(settings: Settings) -> str:
    """Return the command line that measures with these settings."""
    options, named = [], settings.preset != "cpu" or settings.cells == TWELVE
    defaults = (PRESETS[settings.preset] if named else Settings()).to_json()
    if named:
        options.append(f" --preset {settings.preset}")
    own = tuple(itertools.takewhile(is_own, settings.cells))
    for name, value in settings.to_json().items():
        if name == "cells":
            value = value[len(own) :]
        if value and value != defaults[name]:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            options.append(f" {flag(name)} {shlex.quote(text)}")
    return "seqjax gradients" + "".join(f" {shlex.quote(name)}" for name in own) + "".join(options)
