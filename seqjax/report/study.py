"""The main job: every run of a study, one after the other, kept as it finishes."""

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from seqjax.report.measure import Programs, make_source
from seqjax.report.settings import Settings, command
from seqjax.report.store import Run, Store


def run(
    settings: Settings,
    data: np.ndarray | None,
    store: Store,
    *,
    advance: Callable[[int], None],
    describe: Callable[[str], None],
) -> bool:
    """Measure what is not measured yet; True when all is. Stops early, keeping what is finished, on Ctrl-C.

    Args:
        settings: what to measure.
        data: the bytes of the text, for the task "text".
        store: an open store.
        advance: told of finished work, in the units of `total_work`.
        describe: told what is being done.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    done = store.finished()
    baselines: dict[str, float] = {}
    store.write_summary(_summary(settings, done, baselines, started))
    try:
        for length in settings.lengths:
            source = make_source(settings, length, data)
            # A baseline that depends on the length has no place in a table for all lengths.
            baselines = {n: v for n, v in source.baselines.items() if baselines.get(n, v) == v}
            for cell in settings.cells:
                programs = None
                for seed in range(settings.seeds):
                    if (cell, length, seed) in done:
                        advance(run_work(settings, length))
                        continue
                    describe(f"{cell}, T = {length}, seed {seed}")
                    programs = programs or Programs(settings, cell, source)
                    rows = list(programs.measure(seed, advance))
                    tags = {"cell": cell, "length": length, "seed": seed}
                    store.add((cell, length, seed), [tags | row for row in rows])
                    done.add((cell, length, seed))
    except KeyboardInterrupt:
        store.merge()
        store.write_summary(_summary(settings, done, baselines, started))
        return False
    store.merge()
    store.write_summary(_summary(settings, done, baselines, started))
    return True


def run_work(settings: Settings, length: int) -> int:
    """The work of one run in time steps: a snapshot costs about as much as four steps of training."""
    return length * (settings.training_steps + 4 * len(settings.snapshots()))


def total_work(settings: Settings) -> int:
    """The work of all runs."""
    return (
        sum(run_work(settings, length) for length in settings.lengths) * len(settings.cells) * settings.seeds
    )


def _summary(settings: Settings, done: set[Run], baselines: dict[str, float], started: str) -> dict[str, Any]:
    planned = len(settings.cells) * len(settings.lengths) * settings.seeds
    complete = len(done) == planned
    device = jax.devices()[0]
    return {
        "title": "How gradients travel through time",
        "command": command(settings),
        "settings": settings.to_json(),
        "environment": {
            **{name: version(name) for name in ("seqjax", "jax", "jaxlib", "flax", "optax", "numpy")},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": f"{device.platform} ({device.device_kind})",
        },
        "complete": complete,
        "runs_planned": planned,
        "runs_finished": len(done),
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds") if complete else None,
        "baselines": baselines,
    }
