"""Run a study: measure every part of every section, and store each part when it is finished."""

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np

from seqjax.study.experiment import Experiment
from seqjax.study.measuring import Job, Measuring
from seqjax.study.presets import command
from seqjax.study.sections import chosen
from seqjax.study.settings import Settings
from seqjax.study.store import Store
from seqjax.training.run_record import versions


def run(
    settings: Settings,
    data: np.ndarray | None,
    store: Store,
    *,
    advance: Callable[[float], None],
    describe: Callable[[str], None],
    workers: int | None = None,
) -> bool:
    """Measure the parts that the store does not have. Ctrl-C stops early and keeps finished parts.

    Args:
        settings: the settings of the study.
        data: the bytes of the text, for the task "text".
        store: an open store.
        advance: called with finished work, in the units of `total_work`, by several threads.
        describe: called with a description of the current part, by several threads.
        workers: number of cells that are measured at the same time, see `Measuring`.

    Returns:
        True when every part is measured, False after Ctrl-C.
    """
    measuring = Measuring(settings, data, store, advance, describe)
    baselines = _baselines(measuring.experiment())
    started = _now() if store.started is None else store.started
    store.write_summary(_summary(settings, measuring.done, baselines, started) | {"complete": False})
    try:
        measuring.run(_jobs(settings), workers)
        complete = True
    except KeyboardInterrupt:
        complete = False
        store.merge()
    store.write_summary(_summary(settings, measuring.done, baselines, started))
    return complete


def total_work(settings: Settings) -> float:
    """Return the work of all parts, in about seconds on two cores."""
    return sum(measurement.work(settings, part) for measurement, part in _jobs(settings))


def _jobs(settings: Settings) -> list[Job]:
    return [(each, part) for each in chosen(settings.sections) for part in each.parts(settings)]


def _baselines(experiment: Experiment) -> dict[str, float]:
    """Return the losses of memoryless baselines that do not depend on the length."""
    found: dict[str, set[float]] = {}
    for length in experiment.settings.lengths:
        for name, value in experiment.source(length).baselines.items():
            found.setdefault(name, set()).add(value)
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _summary(settings: Settings, done: set[str], baselines: dict[str, float], started: str) -> dict[str, Any]:
    names = [part.name for _, part in _jobs(settings)]
    absent = [name for name in names if name not in done]
    device = jax.devices()[0]
    return {
        "title": "How gradients travel through time",
        "command": command(settings),
        "environment": {
            **versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": f"{device.platform} ({device.device_kind})",
        },
        "complete": not absent,
        "runs_planned": len(names),
        "runs_finished": len(names) - len(absent),
        "runs_absent": absent,
        "started": started,
        "finished": _now() if not absent else None,
        "baselines": baselines,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
