"""Compare the methods of this library; the choices of `seqjax.Auto` follow from the results."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from benchmarks.layers import CELLS, random_params
from benchmarks.results import Case, Group, measured
from benchmarks.timing import check, interleave, jax_arm

TITLE = "Methods against each other"
ABOUT = """\
Relative time is the median over paired rounds with a 95% bootstrap interval. Numbers are float32; every round has fresh
inputs; loss = mean(w ys^2) with fixed random w. Before the benchmark measures times, it checks that values and
gradients equal those of `Scan(gradient="autodiff")`. The column "error" is the largest deviation, relative to the
largest entry."""
SHAPES = ((1, 4096, 64, 64), (8, 2048, 64, 64), (32, 512, 128, 128), (32, 256, 256, 512))
CHUNKS = (None, 16, 32, 64, 128, 256)
KEPT = (16, 128)
LENGTHS = (256, 1024, 4096, 16384)
LONGEST_MEMORY = 4096  # Scan stores a matrix per step
TOLERANCE = 2e-4
# Normalized memories divide by numbers that can be small: step-by-step autodiff in float32 differs from float64 by 3e-4
# (mlstm, T = 1024), more than chunks do.
MEMORY_TOLERANCE = 1e-3

AUTODIFF = sj.Scan(gradient="autodiff")
Shape = tuple[int, int, int, int]


def forward_of(layer: sj.Layer) -> Callable:
    """Return ``(params, xs, w) -> ys``."""
    return lambda params, xs, w: layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]


def gradient_of(layer: sj.Layer) -> Callable:
    """Return ``(params, xs, w) -> loss and its gradients with respect to params and xs``."""
    forward = forward_of(layer)

    def loss(params: Any, xs: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.mean(w * jnp.square(forward(params, xs, w)))

    return jax.value_and_grad(loss, (0, 1))


def compare(
    label: str,
    cell: sj.Cell,
    params: Any,
    methods: Mapping[str, sj.Method],
    program: Callable[[sj.Layer], Callable],
    shape: Shape,
    rounds: int,
    baseline: str | None = None,
    tolerance: float = TOLERANCE,
) -> Case:
    """Check and then time methods on one cell and shape ``(B, T, D, H)``; ratios are to the fastest by default.

    Raises:
        Mismatch: where the result of a method differs from that of autodiff.
    """
    batch, length, input_size, hidden_size = shape
    w = np.random.default_rng(0).uniform(0.5, 1.5, (length, batch, hidden_size)).astype(np.float32)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([1, number + 100])
        return rng.standard_normal((length, batch, input_size), np.float32), w

    layers = {name: sj.recurrent(cell, method) for name, method in methods.items()}
    arms = [jax_arm(name, program(layer), (params,), draw(-2)) for name, layer in layers.items()]
    expected = jax.jit(program(sj.recurrent(cell, AUTODIFF)))(params, *draw(-2))
    errors = [check(arm.name, arm.run(arm.prepare(draw(-2))), expected, tolerance) for arm in arms]
    samples = interleave(arms, draw, rounds)
    baseline = baseline or min(samples, key=lambda name: statistics.median(samples[name]))
    chosen = repr(sj.Auto().select(cell, draw(-2)[0]))
    notes = [chosen if method == sj.Auto() else "" for method in methods.values()]
    rows = [measured(arm, samples[arm.name], error, note) for arm, error, note in zip(arms, errors, notes)]
    return Case(label, baseline, rows)


def chunks(cell: str, shapes: Sequence[Shape], rounds: int, say: Callable) -> Group:
    """Measure the gradient of an LSTM or GRU by the settings of `seqjax.Scan`."""
    methods: dict[str, sj.Method] = {f"chunk {size}": sj.Scan(chunk=size) for size in CHUNKS}
    methods |= {f"chunk {size}, gates kept": sj.Scan(chunk=size, keep_gates=True) for size in KEPT}
    methods |= {"Auto": sj.Auto(), "autodiff": AUTODIFF}
    cases = []
    for shape in shapes:
        label = ", ".join(map(str, shape))
        say(f"{cell} by chunk, B, T, D, H = {label}")
        made = sj.lstm(shape[3]) if cell == "lstm" else sj.gru(shape[3])
        params = random_params(cell, *shape[2:])
        cases.append(compare(label, made, params, methods, gradient_of, shape, rounds))
    return Group(f"{cell.upper()}: value and gradient by chunk, relative to the fastest", "B, T, D, H", cases)


def scans(lengths: Sequence[int], size: tuple[int, int], rounds: int, say: Callable) -> list[Group]:
    """Measure a diagonal recurrence, step by step and as a parallel scan; size is ``(B, H)``."""
    batch, hidden_size = size
    cell = sj.lru(hidden_size)
    params = cell.init(jax.random.key(0), jax.ShapeDtypeStruct((batch, hidden_size), jnp.float32))
    methods: dict[str, sj.Method] = {
        "Scan": sj.Scan(),
        "chunk 256": sj.Scan(chunk=256),
        "AssociativeScan": sj.AssociativeScan(),
        "Auto": sj.Auto(),
        "autodiff": AUTODIFF,
    }
    groups = []
    for title, program in {"outputs": forward_of, "value and gradient": gradient_of}.items():
        cases = []
        for length in lengths:
            say(f"LRU {title}, T = {length}")
            shape = (batch, length, hidden_size, hidden_size)
            cases.append(compare(str(length), cell, params, methods, program, shape, rounds, "Scan"))
        groups.append(Group(f"LRU, B = {batch}, H = {hidden_size}: {title}, relative to Scan", "T", cases))
    return groups


def memories(lengths: Sequence[int], size: tuple[int, int], rounds: int, say: Callable) -> list[Group]:
    """Measure matrix recurrences and attention, step by step and in chunks; size is ``(B, H)``, in four heads."""
    batch, hidden_size = size
    methods: dict[str, sj.Method] = {"Scan": sj.Scan()}
    methods |= {f"Chunked({chunk})": sj.Chunked(chunk) for chunk in (16, 32, 64, 128)}
    methods |= {"Auto": sj.Auto()}
    cells = {
        "gated_delta_net": sj.gated_delta_net(hidden_size, num_heads=4),
        "mlstm": sj.mlstm(hidden_size, num_heads=4),
        "gla": sj.gla(hidden_size, num_heads=4),
        "attention, window of 64": sj.attention(hidden_size, num_heads=4, window=64),
    }
    groups = []
    for name, cell in cells.items():
        cases = []
        for length in lengths:
            say(f"{name}, T = {length}")
            shape = (batch, length, hidden_size, hidden_size)
            struct = jax.ShapeDtypeStruct((batch, hidden_size), jnp.float32)
            params = cell.init(jax.random.key(0), struct)
            cases.append(
                compare(
                    str(length),
                    cell,
                    params,
                    methods,
                    gradient_of,
                    shape,
                    rounds,
                    "Scan",
                    MEMORY_TOLERANCE,
                )
            )
        groups.append(
            Group(
                f"{name}, B = {batch}, H = {hidden_size}: value and gradient, relative to Scan",
                "T",
                cases,
            )
        )
    return groups


GROUPS = ("chunks", "scans", "memories")


def run(
    groups: Sequence[str], shapes: Sequence[Shape], lengths: Sequence[int], rounds: int, say: Callable
) -> list[Group]:
    """Measure all `GROUPS`, or some of them."""
    found: list[Group] = []
    if "chunks" in groups:
        found += [chunks(cell, shapes, rounds, say) for cell in CELLS]
    if "scans" in groups:
        found += scans(lengths, (8, 64), rounds, say)
    if "memories" in groups:
        found += memories([n for n in lengths if n <= LONGEST_MEMORY], (8, 64), rounds, say)
    return found
