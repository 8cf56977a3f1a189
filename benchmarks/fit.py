"""Compare the time of `fit` with that of a bare loop over the same compiled step."""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import seqjax as sj
from benchmarks.results import Case, Group, measured
from benchmarks.timing import Arm, check, interleave, paired_ratio
from seqjax.training import MetricsLog, fit, init_train_state, make_train_step

TITLE = "The training loop beside a bare loop"
ABOUT = """\
Relative time of a number of steps of one compiled training step (LSTM, Adam, float32) on batches in memory: the median
over paired rounds with a 95% bootstrap interval. The bare loop puts a batch on the device, calls the step, and waits at
the end. `fit` also reads the loss of every step, checks that it is finite, and writes every tenth loss to
metrics.jsonl. The last arm also shows a progress bar and writes every loss. Before the benchmark measures times, it
checks that all arms compute the same params bit by bit. The limit is a ratio of 1.03 at steps of 10 ms; an arm misses
it where its whole interval lies above 1.03. No checkpoints are written."""
LIMIT = 1.03
SIZES = {"10 ms": (16, 84, 64, 128), "2 ms": (8, 64, 64, 64)}  # B, T, D, H; on two cores of the 2020s
STEPS = 100
BARE, FIT, ALL = "bare loop", "fit", "fit, every step logged, bar"


def squares(ys: jax.Array, targets: jax.Array) -> jax.Array:
    """Return one loss per step."""
    return ((ys - targets) ** 2).mean(-1)


def measure(label: str, size: tuple[int, int, int, int], steps: int, rounds: int) -> Case:
    """Check and then time the three loops at one size.

    Raises:
        Mismatch: where the loops compute different params.
    """
    batch, length, input_size, hidden_size = size
    model, optimizer = sj.recurrent(sj.lstm(hidden_size)), optax.adam(1e-3)
    step = make_train_step(model, squares, optimizer)
    rng = np.random.default_rng(0)
    shapes = (length, batch, input_size), (length, batch, hidden_size)
    data = [sj.Batch(*(rng.standard_normal(s, np.float32) for s in shapes)) for _ in range(8)]
    start = init_train_state(model, optimizer, jax.random.key(0), data[0].xs[0])

    def batches(number: int) -> sj.Batch:
        return data[number % len(data)]

    def fresh(_: Any) -> Any:
        """Return a copy of the initial state, since the step donates its argument."""
        return jax.block_until_ready(jax.tree.map(lambda leaf: leaf.copy(), start))

    def bare(state: Any) -> Any:
        for number in range(steps):
            state, _ = step(state, jax.device_put(batches(number)))
        return jax.block_until_ready(state.params)

    with tempfile.TemporaryDirectory() as folder:
        number = itertools.count()

        def fitted(state: Any, **options: Any) -> Any:
            log = MetricsLog(Path(folder, str(next(number))), plots=False)
            return jax.block_until_ready(
                fit(step, state, batches, num_steps=steps, log=log, **options).state.params
            )

        arms = [
            Arm(BARE, bare, fresh),
            Arm(FIT, lambda state: fitted(state, progress=False), fresh),
            Arm(ALL, lambda state: fitted(state, progress=True, log_every=1), fresh),
        ]
        expected = bare(fresh(None))
        errors = [check(arm.name, arm.run(fresh(None)), expected, 0.0) for arm in arms]
        samples = interleave(arms, lambda round_: round_, rounds)
    notes = [f"{1000 * min(samples[BARE]) / steps:.2f} ms a step"]
    for arm in arms[1:]:
        within = paired_ratio(samples[arm.name], samples[BARE]).low <= LIMIT
        notes.append(f"{'within' if within else 'above'} {LIMIT}")
    rows = [measured(arm, samples[arm.name], e, n) for arm, e, n in zip(arms, errors, notes, strict=True)]
    return Case(f"{label}: {', '.join(map(str, size))}", BARE, rows)


def run(labels: Sequence[str], steps: int, rounds: int, say: Callable) -> list[Group]:
    """Measure the loops at each size."""
    cases = []
    for label in labels:
        say(f"fit at steps of about {label}")
        cases.append(measure(label, SIZES[label], steps, rounds))
    return [Group(f"{steps} steps, relative to a bare loop", "steps of about, B, T, D, H", cases)]
