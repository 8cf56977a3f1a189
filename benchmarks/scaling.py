"""Measure how memory, operations and time of the gradient grow with T, by method, and where methods cross."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from benchmarks.methods import AUTODIFF, TOLERANCE, gradient_of
from benchmarks.results import Case, Group, Table, measured
from benchmarks.timing import check, interleave, jax_arm
from seqjax.probes import Crossover, Scaling, crossovers, fit_power_law, flops_scaling

TITLE = "Scaling with the length"
ABOUT = """\
Gradients are with respect to params and inputs, for a loss at every step, in float32. Before the benchmark measures
times, it checks that values and gradients equal those of `Scan(gradient="autodiff")`. Seconds are medians of paired
rounds with fresh inputs. Bytes are temporaries of the compiled program, without inputs and outputs. Operations are
counted from the equations of the program; an iteration until convergence is counted once. Slopes are exponents p of
c T^p by least squares, with standard errors. A crossover is the T at which two lines cross, with Fieller's 95% interval
(for seconds, from the ratios within rounds). Crossovers outside the measured lengths stand in brackets; those beyond
them by more than a factor of 16 are left out."""
NEAR = 16
LENGTHS = (256, 1024, 4096, 16384)
LONGEST_AUTODIFF = {
    "gated_delta_net": 4096,
    "attention": 4096,
}  # autodiff stores a matrix, or all keys, per step

LONG = "long_lstm"
"""An LSTM with the methods for a million steps; measured where it is asked for, with lengths of its own."""

Wrap = Callable[[sj.Cell], sj.Layer]


def by(method: sj.Method) -> Wrap:
    """Return a function from a cell to its layer under a method."""
    return lambda cell: sj.recurrent(cell, method)


def checkpoints(schedule: Any) -> Wrap:
    """Return a function from a cell to its layer under `Scan`, with checkpoints over time."""
    return lambda cell: sj.checkpointed(sj.recurrent(cell, sj.Scan()), schedule)


SCHEDULES: dict[str, Wrap] = {
    "Nested()": checkpoints(sj.Nested()),
    "Binomial(10)": checkpoints(sj.Binomial(10)),
}
CELLS: dict[str, tuple[Callable[[int], sj.Cell], dict[str, Wrap]]] = {
    "lstm": (
        sj.lstm,
        {
            "autodiff": by(AUTODIFF),
            "Scan()": by(sj.Scan()),
            "Auto()": by(sj.Auto()),
            **SCHEDULES,
        },
    ),
    LONG: (
        sj.lstm,
        {
            "autodiff": by(AUTODIFF),
            "Auto()": by(sj.Auto()),
            "Nested()": SCHEDULES["Nested()"],
            "Auto(), every=1024": lambda cell: sj.checkpointed(sj.recurrent(cell, sj.Auto()), every=1024),
        },
    ),
    "lru": (
        sj.lru,
        {
            "autodiff": by(AUTODIFF),
            "Scan()": by(sj.Scan()),
            "AssociativeScan()": by(sj.AssociativeScan()),
            "Auto()": by(sj.Auto()),
            **SCHEDULES,
        },
    ),
    "gated_delta_net": (
        lambda hidden_size: sj.gated_delta_net(hidden_size, num_heads=4),
        {"autodiff": by(AUTODIFF), "Chunked(16)": by(sj.Chunked(16)), "Chunked(64)": by(sj.Chunked(64))},
    ),
    "attention": (
        lambda hidden_size: sj.attention(hidden_size, num_heads=4, window=64),
        {"autodiff": by(AUTODIFF), "Chunked(128)": by(sj.Chunked(128))},
    ),
}


def usual() -> list[str]:
    """Return the cells that are measured unless others are asked for."""
    return [name for name in CELLS if name != LONG]


def program(layer: sj.Layer) -> Callable:
    """Return ``(params, xs) -> loss and its gradients with respect to both``; the weights of the loss are one."""
    gradient = gradient_of(layer)
    return lambda params, xs: gradient(params, xs, jnp.ones((), xs.dtype))


def cases(
    cell: sj.Cell, methods: Mapping[str, Wrap], lengths: Sequence[int], size: tuple[int, int], rounds: int
) -> list[Case]:
    """Check and then time the methods at each length; size is ``(B, H)``.

    Raises:
        Mismatch: where the result of a method differs from that of autodiff.
    """
    batch, hidden_size = size
    params = cell.init(jax.random.key(0), jax.ShapeDtypeStruct((batch, hidden_size), jnp.float32))
    found = []
    for length in lengths:

        def draw(number: int, length: int = length) -> tuple[np.ndarray]:
            rng = np.random.default_rng([2, number + 100])
            return (rng.standard_normal((length, batch, hidden_size), np.float32),)

        arms = [jax_arm(name, program(wrap(cell)), (params,), draw(-2)) for name, wrap in methods.items()]
        expected = jax.jit(program(sj.recurrent(cell, AUTODIFF)))(params, *draw(-2))
        errors = [check(arm.name, arm.run(arm.prepare(draw(-2))), expected, TOLERANCE) for arm in arms]
        samples = interleave(arms, draw, rounds)
        rows = [measured(arm, samples[arm.name], error) for arm, error in zip(arms, errors)]
        found.append(Case(str(length), arms[0].name, rows))
    return found


def measured_scaling(found: Sequence[Case], quantity: str) -> list[Scaling]:
    """Return seconds or temporary bytes of the cases as `Scaling`, one per arm."""
    lengths = np.asarray([int(case.label) for case in found])
    scalings = []
    for i, arm in enumerate(found[0].arms):
        samples = np.asarray([case.arms[i].seconds for case in found]) if quantity == "seconds" else None
        temporaries = [case.arms[i].temp_bytes or 0 for case in found]
        values = np.asarray(temporaries) if samples is None else np.median(samples, axis=1)
        law = fit_power_law(lengths, values)
        scalings.append(Scaling(quantity, arm.name, lengths, values, law, samples=samples))
    return scalings


def tables(scalings: Sequence[Scaling]) -> list[Table]:
    """Return a table of values with slopes, and one of the crossovers of pairs of methods."""
    quantity = scalings[0].quantity
    rows = [[s.method, *(f"{value:.4g}" for value in s.values), _slope(s), s.note] for s in scalings]
    found = [Table(quantity, ["method", *map(str, scalings[0].lengths), "slope", "note"], rows)]
    # Zero bytes have no logarithm to fit.
    pairs = crossovers([s for s in scalings if np.all(s.values > 0)])
    crossing = [
        [f"{first}, {second}", _crossing(pair), pair.cheaper_before, pair.cheaper_after]
        for (first, second), pair in pairs.items()
        if pair.cheaper_before and _near(pair, scalings[0].lengths)
    ]
    if crossing:
        columns = ["methods", "T", "cheaper below", "cheaper above"]
        found.append(Table(f"{quantity}: crossovers", columns, crossing))
    return found


def run(
    lengths: Sequence[int],
    size: tuple[int, int],
    rounds: int,
    say: Callable,
    names: Sequence[str] | None = None,
) -> list[Group]:
    """Measure cells with their methods, by default every one but `LONG`; size is ``(B, H)``."""
    batch, hidden_size = size
    x = jax.ShapeDtypeStruct((batch, hidden_size), jnp.float32)
    groups = []
    for name in names or usual():
        make, methods = CELLS[name]
        cell = make(hidden_size)
        chosen = [n for n in lengths if n <= LONGEST_AUTODIFF.get(name, n)]
        if len(set(chosen)) < 2:
            say(f"{name}: left out, since fewer than two lengths are at most {LONGEST_AUTODIFF[name]}")
            continue
        say(f"{name}, T = {', '.join(map(str, chosen))}")

        def layer(wrap: Wrap, cell: sj.Cell = cell) -> sj.Layer:
            return wrap(cell)

        timed = cases(cell, methods, chosen, size, rounds)
        found = [
            measured_scaling(timed, "bytes"),
            flops_scaling(layer, x, chosen, methods=methods, program=program),
            measured_scaling(timed, "seconds"),
        ]
        title = f"{name}, B = {batch}, D = H = {hidden_size}: value and gradient, relative to autodiff"
        groups.append(Group(title, "T", timed, [table for scalings in found for table in tables(scalings)]))
    return groups


def _slope(scaling: Scaling) -> str:
    return f"{scaling.law.exponent:.2f} ± {scaling.law.standard_error:.2f}"


def _near(found: Crossover, lengths: Any) -> bool:
    return min(lengths) / NEAR <= found.length <= max(lengths) * NEAR


def _crossing(found: Crossover) -> str:
    text = f"{found.length:.3g} [{found.low:.3g}, {found.high:.3g}]"
    return text if found.inside else f"({text})"
