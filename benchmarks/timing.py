"""The clock: arms measured side by side in interleaved rounds of one process, and the gate before it.

Machines are noisy and the noise drifts, so an absolute time says little. Arms that take turns, A B C A B C, share the
drift, and the ratio of two arms within a round is free of most of it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.statistics import bootstrap


class Mismatch(Exception):
    """An arm that computes something else than the reference: its time would mean nothing."""


class Summary(NamedTuple):
    """Seconds."""

    min: float
    median: float
    p95: float


class Ratio(NamedTuple):
    """The median of paired ratios and its 95% bootstrap interval."""

    median: float
    low: float
    high: float


def _as_they_are(inputs: Any) -> Any:
    return inputs


@dataclass(frozen=True)
class Arm:
    """One of several ways to compute the same thing.

    Attributes:
        name: what the table calls it.
        run: ``own inputs -> result``; it returns when the result is there.
        prepare: ``inputs of the round -> own inputs``, not timed.
        compile_seconds: tracing, lowering and compiling, or None.
        temp_bytes: peak temporary memory of the compiled program, or None.
    """

    name: str
    run: Callable[[Any], Any]
    prepare: Callable[[Any], Any] = _as_they_are
    compile_seconds: float | None = None
    temp_bytes: int | None = None


def compile_timed(
    fn: Callable, *args: Any, donate: tuple[int, ...] = ()
) -> tuple[Callable, float, int | None]:
    """A compiled program, the seconds that tracing and compiling took, and the bytes of its temporaries.

    Args:
        fn: a function of arrays.
        args: arrays or ShapeDtypeStructs.
        donate: arguments whose memory the program may reuse.
    """
    start = time.perf_counter()
    program = jax.jit(fn, donate_argnums=donate).lower(*args).compile()
    seconds = time.perf_counter() - start
    return program, seconds, getattr(program.memory_analysis(), "temp_size_in_bytes", None)


def jax_arm(name: str, fn: Callable, fixed: tuple, example: Sequence[np.ndarray]) -> Arm:
    """An arm ``fn(*fixed, *inputs)`` compiled by JAX; inputs are NumPy arrays like the example."""
    program, seconds, temp_bytes = compile_timed(fn, *fixed, *example)
    return Arm(
        name,
        run=lambda inputs: jax.block_until_ready(program(*fixed, *inputs)),
        prepare=on_device,
        compile_seconds=seconds,
        temp_bytes=temp_bytes,
    )


def on_device(inputs: Sequence[np.ndarray]) -> Any:
    """NumPy arrays as JAX arrays, there when this returns."""
    return jax.block_until_ready(tuple(jax.device_put(a) for a in inputs))


def interleave(
    arms: Sequence[Arm],
    draw: Callable[[int], Any],
    rounds: int = 15,
    *,
    warmup: int = 1,
    pause: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per arm and round, the arms taking turns.

    Args:
        arms: with names that differ.
        draw: ``round -> inputs``, fresh ones each time; the same for all arms of a round.
        rounds: how many count.
        warmup: how many come before and do not.
        pause: seconds of rest before each measurement: OpenMP workers of the arm before go on spinning for some
            milliseconds, and would take a core away from this one.
        clock: seconds.
    """
    samples: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(-warmup, rounds):
        inputs = draw(number)
        for arm in arms:
            own = arm.prepare(inputs)
            time.sleep(pause)
            start = clock()
            result = arm.run(own)
            elapsed = clock() - start
            del result, own
            if number >= 0:
                samples[arm.name].append(elapsed)
    return samples


def summary(seconds: Sequence[float]) -> Summary:
    """Least, median and 95th percentile."""
    return Summary(min(seconds), float(np.median(seconds)), float(np.percentile(seconds, 95)))


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float], *, resamples: int = 2000) -> Ratio:
    """How many times as long as the baseline, round by round: above 1 the baseline is faster."""
    ratios = np.asarray(seconds) / np.asarray(baseline)
    return Ratio(*bootstrap([ratios], np.median, resamples=resamples))


def check(who: str, got: Any, expected: Any, tolerance: float) -> float:
    """The largest normwise error, ``max|got - expected| / max|expected|`` per leaf.

    Raises:
        Mismatch: where it exceeds the tolerance, or structures, shapes or finiteness differ.
    """
    structures = [str(jax.tree.structure(tree)) for tree in (expected, got)]
    if structures[0] != structures[1]:
        raise Mismatch(f"{who}: expected {structures[0]}, got {structures[1]}.")
    worst = 0.0
    for (path, want), leaf in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(got)):
        name = jax.tree_util.keystr(path)
        want, leaf = np.asarray(want, np.float64), np.asarray(leaf, np.float64)
        if want.shape != leaf.shape:
            raise Mismatch(f"{who}: expected result{name} {list(want.shape)}, got {list(leaf.shape)}.")
        error = np.max(np.abs(leaf - want), initial=0) / max(np.max(np.abs(want), initial=0), 1e-30)
        if not error <= tolerance:
            raise Mismatch(
                f"{who}: result{name} differs by {error:.1e} of its largest entry, allowed {tolerance:.0e}."
            )
        worst = max(worst, float(error))
    return worst
