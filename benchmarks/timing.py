"""Measure the times of arms in interleaved rounds of one process, and check their results first.

The speed of a machine drifts, so absolute times vary between runs. Arms that alternate, A B C A B C, share the drift,
and the ratio of two arms within a round is nearly free of it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.statistics import bootstrap


class Mismatch(Exception):
    """The result of an arm differs from the reference, so its time has no meaning."""


class Summary(NamedTuple):
    """The smallest, the median and the 95th percentile of samples in seconds."""

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
        name: name in the table.
        run: ``prepared inputs -> result``; returns when the result is computed.
        prepare: ``inputs of the round -> prepared inputs``; not timed.
        compile_seconds: seconds of tracing, lowering and compiling, or None.
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
    """Return a compiled program, the seconds of tracing and compiling, and the bytes of its temporaries.

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
    """Return an arm ``fn(*fixed, *inputs)`` that JAX compiled; inputs are NumPy arrays like the example."""
    program, seconds, temp_bytes = compile_timed(fn, *fixed, *example)
    return Arm(
        name,
        run=lambda inputs: jax.block_until_ready(program(*fixed, *inputs)),
        prepare=on_device,
        compile_seconds=seconds,
        temp_bytes=temp_bytes,
    )


def on_device(inputs: Sequence[np.ndarray]) -> Any:
    """Copy NumPy arrays to the device, and wait for the copies."""
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
    """Run the arms in turn, and return seconds per arm and round.

    Args:
        arms: arms with different names.
        draw: ``round -> inputs``: fresh inputs for each round, shared by its arms.
        rounds: number of measured rounds.
        warmup: number of rounds before, which are not measured.
        pause: seconds of rest before each measurement. OpenMP threads of the arm before keep spinning for some
            milliseconds, and would occupy a core.
        clock: returns seconds.
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
    """Return minimum, median and 95th percentile."""
    return Summary(min(seconds), float(np.median(seconds)), float(np.percentile(seconds, 95)))


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float], *, resamples: int = 2000) -> Ratio:
    """Return the time relative to the baseline, round by round; above 1 the baseline is faster."""
    ratios = np.asarray(seconds) / np.asarray(baseline)
    return Ratio(*bootstrap([ratios], np.median, resamples=resamples))


def check(who: str, got: Any, expected: Any, tolerance: float) -> float:
    """Return the largest error over the leaves, ``max|got - expected| / max|expected|``.

    Raises:
        Mismatch: where the error exceeds the tolerance, or structures, shapes or finiteness differ.
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
