"""What does it cost? Operations, memory, steps, and the lengths at which one method overtakes another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from pictures.base import Curve, Picture
from seqjax.calibration.exact import gaussian
from seqjax.ops.revolve import fewest_forward_steps
from seqjax.probes.scaling import Scaling, gradient_of_carry, outputs


def count_cost() -> list[Curve]:
    """Count the products of a loop of ten steps and of its gradient, by the size of the matrix."""
    sizes, steps = np.array([4, 8, 16, 32, 64, 128]), 10

    def power(w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, _: (w @ h, None), jnp.ones(len(w)), length=steps)[0].sum()

    def curve(label: str, function: Any, factor: int, formula: str) -> Curve:
        weights = [jax.ShapeDtypeStruct((n, n), float) for n in sizes]
        flops = [sj.probes.count_cost(function, w).by_primitive["dot_general"] for w in weights]
        return Curve(label, sizes, flops, lambda n: factor * steps * n**2, formula)

    return [
        curve("gradient of ten steps", jax.grad(power), 6, "6 n² per step"),
        curve("ten steps h' = W h", power, 2, "2 n² per step"),
    ]


# ---------------------------------------------------------------- memory and steps by schedule


SLOTS, WIDTH, LENGTHS = 10, 1024, [16, 64, 256, 1024]
SCHEDULES = {"stored": None, "nested": sj.Nested(), "binomial": sj.Binomial(slots=SLOTS)}


def tanh_loop(width: int, seen: Any = lambda h: None) -> sj.Layer:
    """Return the layer ``h' = tanh(a h + x)`` with the output x, which calls a function of h whenever a step runs."""

    def step(a: jax.Array, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen(h)
        return jnp.tanh(a * h + x), x

    cell = sj.Cell(
        init=lambda key, x: jnp.ones(width, x.dtype),
        initial_carry=lambda params, x: jnp.zeros(width, x.dtype),
        recurrence=sj.Step(step),
    )
    return sj.recurrent(cell, sj.Scan(gradient="autodiff"))


def by_schedule(layer: sj.Layer) -> Any:
    """Return a function of a schedule that checkpoints the layer."""
    return lambda schedule: layer if schedule is None else sj.checkpointed(layer, schedule)


def memory_scaling() -> list[Curve]:
    """Measure the temporary memory of a gradient by schedule. Three carries per step are its residuals."""
    residuals, x = 3, jax.ShapeDtypeStruct((1,), jnp.float32)
    found = sj.probes.memory_scaling(
        by_schedule(tanh_loop(WIDTH)), x, LENGTHS, methods=SCHEDULES, program=gradient_of_carry
    )
    stored, nested, binomial = (each.values / (4 * WIDTH) for each in found)
    return [
        Curve("all steps stored", LENGTHS, stored, lambda n: residuals * n, "3 T"),
        Curve("Nested()", LENGTHS, nested, lambda n: (1 + residuals) * np.sqrt(n), "(1 + 3) √T"),
        Curve(
            f"Binomial({SLOTS})",
            LENGTHS,
            binomial,
            lambda n: np.full(len(n), SLOTS + 2 + residuals),
            "10 + 2 + 3",
        ),
    ]


def flops_scaling() -> list[Curve]:
    """Count the operations of Elman networks of two sizes by length."""

    def curve(size: int) -> Curve:
        layer, x = sj.recurrent(sj.elman(size), sj.Scan()), jax.ShapeDtypeStruct((2, 3), jnp.float32)
        (found,) = sj.probes.flops_scaling(layer, x, [16, 64, 256, 1024, 4096], program=outputs)
        per_step = 2 * (2 * (3 + size) * size + 3 * size)
        return Curve(
            f"elman({size})", found.lengths, found.values, lambda n: per_step * n, "T B (2 (D + H) H + 3 H)"
        )

    return [curve(64), curve(8)]


def time_scaling() -> list[Curve]:
    """Count the steps that a gradient executes by schedule, with a counter of steps as the clock."""
    executed, lengths, slots = [0.0], [16, 64, 256], 3

    def count(h: Any) -> None:
        executed[0] += 1

    def clock() -> float:
        jax.effects_barrier()
        return executed[0]

    found = sj.probes.time_scaling(
        by_schedule(tanh_loop(1, seen=lambda h: jax.debug.callback(count, h))),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        lengths,
        methods=SCHEDULES | {"binomial": sj.Binomial(slots=slots)},
        program=gradient_of_carry,
        rounds=1,
        clock=clock,
    )
    stored, nested, binomial = (each.values for each in found)

    def revolve(lengths: np.ndarray) -> Any:
        # The forward pass computes one more output than the plan, and each step is taped once.
        return [fewest_forward_steps(round(n), slots) + 1 + round(n) for n in lengths]

    return [
        Curve(f"Binomial({slots})", lengths, binomial, revolve, "r T − C(s+r, s+1) + T + 1"),
        Curve("Nested()", lengths, nested, lambda n: 2 * n, "2 T"),
        Curve("all steps stored", lengths, stored, lambda n: n, "T"),
    ]


# ---------------------------------------------------------------- power laws


def crossovers() -> list[Curve]:
    """Fit costs of 100 T and T^2 with noise of 10%, and find where they cross."""
    lengths = np.array([16, 32, 64, 128, 256, 512])
    noise = np.exp(0.1 * gaussian(4, 2, len(lengths)))
    costs = {"loop": 100 * lengths * noise[0], "product": lengths**2 * noise[1]}
    laws = {name: sj.probes.fit_power_law(lengths, values) for name, values in costs.items()}
    scalings = [Scaling("flops", name, lengths, values, laws[name]) for name, values in costs.items()]
    (crossing,) = sj.probes.crossovers(scalings).values()
    assert crossing == sj.probes.find_crossover(lengths, *costs.values())._replace(
        cheaper_before="product", cheaper_after="loop"
    )

    def label(name: str) -> str:
        return f"{name}, fit: T^{laws[name].exponent:.2f} ± {1.96 * laws[name].standard_error:.2f}"

    where = f"crossover: {crossing.length:.0f} ({crossing.low:.0f} to {crossing.high:.0f})"
    height = np.exp(laws["loop"].log_factor + laws["loop"].exponent * np.log(crossing.length))
    return [
        Curve(label("loop"), lengths, costs["loop"], lambda n: 100 * n, "100 T and T²"),
        Curve(label("product"), lengths, costs["product"], lambda n: n**2, "100 T and T²"),
        Curve(where, [crossing.length], [height]),
    ]


PICTURES = (
    Picture("count_cost", ("count_cost",), "n (size of W)", "flops of products", count_cost, "xy"),
    Picture(
        "memory_scaling", ("memory_scaling",), "T (steps)", "memory (carries)", memory_scaling, "xy", 0.2
    ),
    Picture("flops_scaling", ("flops_scaling",), "T (steps)", "flops", flops_scaling, "xy"),
    Picture("time_scaling", ("time_scaling",), "T (steps)", "executed steps", time_scaling, "xy"),
    Picture(
        "crossovers",
        ("crossovers", "find_crossover", "fit_power_law"),
        "T (steps)",
        "cost (flops)",
        crossovers,
        "xy",
    ),
)
