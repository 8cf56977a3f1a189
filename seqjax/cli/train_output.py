"""What ``seqjax train`` prints: the messages of `fit` while it runs, and how training ended."""

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from seqjax.cli.common import console
from seqjax.training import DamagedCheckpointWarning, Fitted
from seqjax.training.bar import Shown
from seqjax.training.definition import DEFINITION
from seqjax.training.run import Run


def log_to_stderr() -> None:
    """Print the log messages of `fit` to stderr as they are, also while a progress bar is shown."""

    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            typer.echo(record.getMessage(), err=True)

    logger = logging.getLogger("seqjax.training")
    logger.handlers, logger.propagate = [Echo()], False
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, DamagedCheckpointWarning):
            typer.echo(f"seqjax: {message}", err=True)
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show


def shown_progress(wanted: bool | None) -> Shown:
    """Return how to show progress: as wanted, or by default a bar on a terminal and lines without one."""
    return "lines" if wanted is None and not sys.stderr.isatty() else wanted


def telling(
    evaluate: Callable[[Any], Mapping[str, float]], num_steps: int
) -> Callable[[Any], Mapping[str, float]]:
    """Return an evaluation that prints its metrics to stderr."""

    def evaluate_and_tell(state: Any) -> Mapping[str, float]:
        found = evaluate(state)
        metrics = ", ".join(f"{name} {float(value):.4g}" for name, value in found.items())
        typer.echo(f"step {int(state.step)} of {num_steps}: held-out {metrics}", err=True)
        return found

    return evaluate_and_tell


def show_run(folder: Path, run: Run, fitted: Fitted, tensorboard: bool) -> None:
    """Print how training ended, and the files of the run."""
    console.print(f"Trained: {fitted.reason}. {fitted.skipped or 'No'} steps were skipped.", markup=False)
    metric, success = run.early_stop.metric, run.task.success
    if fitted.best_value is not None:
        solved = f"; solved at {success.metric} {success.threshold:g}" if success else ""
        console.print(
            f"Best held-out {metric} {fitted.best_value:.6g} at step {fitted.best_step}; the memoryless "
            f"baseline has a loss of {run.task.baseline:.6g}{solved}.",
            markup=False,
            soft_wrap=True,
        )
    about = {
        "config.json": "repeats the run: seqjax train --config",
        DEFINITION: "vocabularies, classes and the like, for seqjax generate and evaluate",
        "metrics.jsonl": "metrics of training and evaluation by step",
        "curves.svg": "the same metrics as curves",
        "instruments.jsonl": "measurements of gradients by step: seqjax render draws them",
        "best": "the state of the best evaluation",
        "steps": "the newest states",
        "warm_start.json": "which params came from --init-from",
        "tensorboard": "tensorboard --logdir",
    }
    for name, text in about.items():
        if (folder / name).exists() and (name != "tensorboard" or tensorboard):
            console.print(f"  {folder / name}: {text}", markup=False, soft_wrap=True)
