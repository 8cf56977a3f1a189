"""Compare gradient algorithms: error against the exact gradient, memory and time, by T."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from benchmarks.results import Case, Group, Measured, measured
from benchmarks.timing import Mismatch, check, interleave, jax_arm
from seqjax.ops.vectors import as_host_vector

TITLE = "Gradient algorithms against each other"
ABOUT = """\
Relative time is the median over paired rounds with a 95% bootstrap interval. Numbers are float32; every round has fresh
inputs. The loss is the squared error against a random linear map of the input 5 steps earlier, summed over all steps.
The column "error" is |g - g*| / |g*| of the gradient with respect to all params together, with g* from full BPTT, for
one draw of the inputs. The note has the cosine of g and g*. For random algorithms both are medians over keys. Before
the benchmark measures times, it checks that exact algorithms equal full BPTT leaf by leaf. The column "temporaries"
includes the state of an online algorithm, since the program begins and ends with the chunk."""
LENGTHS = (64, 256, 1024)
LAG = 5
DRAWS = 32
TOLERANCE = 2e-4
Size = tuple[int, int, int]


class Algorithm(NamedTuple):
    """An estimator on a layer, whether it is exact, and whether it is random."""

    estimator: sj.Estimator
    layer: sj.Layer
    exact: bool = False
    draws: bool = False


def algorithms(length: int, hidden_size: int) -> dict[str, dict[str, Algorithm]]:
    """Return algorithms by model: a dense, a diagonal and a reversible recurrence."""
    window, every = max(1, length // 8), max(1, round(math.sqrt(length)))

    def common(cell: sj.Cell) -> dict[str, Algorithm]:
        layer = sj.recurrent(cell)
        full, whole = sj.full_bptt(), sj.checkpointed(layer, every=every)
        return {
            "full BPTT": Algorithm(full, layer, exact=True),
            "sqrt checkpoints": Algorithm(full, whole, exact=True),
            "truncated T/8": Algorithm(sj.truncated_bptt(window), layer),
            "randomized T/8": Algorithm(sj.randomized_truncated_bptt(window, cut=0.25), layer, draws=True),
            "SnAp-1": Algorithm(sj.snap(1), layer),
            "UORO": Algorithm(sj.uoro(), layer, draws=True),
            "RFLO": Algorithm(sj.rflo(), layer),
            "e-prop": Algorithm(sj.eprop(), layer),
        }

    lstm, lru = sj.lstm(hidden_size), sj.lru(hidden_size, r_min=0.9, r_max=0.999)
    turning = sj.recurrent(sj.orthogonal_rnn(hidden_size, activation="identity"))
    of_turning = {
        "full BPTT": Algorithm(sj.full_bptt(), turning, exact=True),
        "sqrt checkpoints": Algorithm(sj.full_bptt(), sj.checkpointed(turning, every=every), exact=True),
        "reversible": Algorithm(sj.reversible(tolerance=1e-3), turning, exact=True),
    }
    return {
        "LSTM": {
            **common(lstm),
            "RTRL dense": Algorithm(sj.rtrl("dense"), sj.recurrent(lstm), exact=True),
            "SnAp-2": Algorithm(sj.snap(2), sj.recurrent(lstm)),
            "KF-RTRL": Algorithm(sj.kf_rtrl(), sj.recurrent(lstm), draws=True),
        },
        "LRU": {
            **common(lru),
            "RTRL diagonal": Algorithm(sj.rtrl("diagonal"), sj.recurrent(lru), exact=True),
        },
        "orthogonal RNN": of_turning,
    }


def gradient_of(algorithm: Algorithm) -> Callable:
    """Return ``(params, xs, targets, key data) -> gradients`` of one chunk from the initial carry."""
    init, update = algorithm.estimator.bind(algorithm.layer, _squares)

    def gradient(params: Any, xs: jax.Array, targets: jax.Array, key_data: jax.Array) -> Any:
        carry = algorithm.layer.initial_carry(params, xs[0])
        key = jax.random.wrap_key_data(key_data) if algorithm.draws else None
        state = init(params, carry, xs[0])
        return update(params, carry, state, sj.Batch(xs, targets), key=key)[0].gradients

    return gradient


def fidelity(
    algorithm: Algorithm, params: Any, inputs: Sequence[np.ndarray], exact: Any
) -> tuple[float, float]:
    """Return relative error and cosine against the exact gradient, as medians over keys."""
    xs, targets, _ = inputs
    gradient = jax.jit(gradient_of(algorithm))
    found = []
    for seed in range(DRAWS if algorithm.draws else 1):
        g, best = (
            as_host_vector(gradient(params, xs, targets, jax.random.key_data(jax.random.key(seed)))),
            as_host_vector(exact),
        )
        size = np.linalg.norm(best)
        found.append((np.linalg.norm(g - best) / size, g @ best / (np.linalg.norm(g) * size)))
    error, cosine = np.median(np.asarray(found), 0)
    return float(error), float(cosine)


def compare(
    label: str, table: Mapping[str, Algorithm], size: Size, length: int, rounds: int, say: Callable
) -> Case:
    """Check and then time the algorithms on one model; size is ``(B, D, H)``.

    Raises:
        Mismatch: where the gradient of an exact algorithm differs from that of full BPTT.
    """
    batch, input_size, hidden_size = size
    readout = np.random.default_rng(0).standard_normal((input_size, hidden_size)) / math.sqrt(input_size)

    def draw(number: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([1, number + 100])
        xs = rng.standard_normal((length, batch, input_size), np.float32)
        before = np.concatenate([np.zeros_like(xs[:LAG]), xs[:-LAG]])[:length] @ readout
        return xs, before.astype(np.float32), np.asarray(rng.integers(0, 2**32, 2, np.uint32))

    first = table["full BPTT"]
    params = first.layer.init(jax.random.key(0), jax.ShapeDtypeStruct((batch, input_size), jnp.float32))
    inputs = draw(-2)
    exact = jax.jit(gradient_of(first))(params, *inputs)
    arms, errors, notes = [], [], []
    for name, algorithm in table.items():
        say(f"{label}, T = {length}: {name}")
        arm = jax_arm(name, gradient_of(algorithm), (params,), inputs)
        if algorithm.exact:
            check(f"{name}, T = {length}", arm.run(arm.prepare(inputs)), exact, TOLERANCE)
        error, cosine = fidelity(algorithm, params, inputs, exact)
        if not math.isfinite(error):
            raise Mismatch(f"{name}, T = {length}: the gradient is not finite.")
        arms.append(arm)
        errors.append(error)
        notes.append(f"cosine {cosine:.4f}")
    samples = interleave(arms, draw, rounds)
    rows: list[Measured] = [
        measured(arm, samples[arm.name], error, note)
        for arm, error, note in zip(arms, errors, notes, strict=True)
    ]
    return Case(str(length), "full BPTT", rows)


def run(lengths: Sequence[int], size: Size, rounds: int, say: Callable) -> list[Group]:
    """Measure all algorithms, by model and T."""
    groups = []
    for name in algorithms(lengths[0], size[2]):
        cases = [
            compare(name, algorithms(length, size[2])[name], size, length, rounds, say) for length in lengths
        ]
        shape = "B = {}, D = {}, H = {}".format(*size)
        groups.append(Group(f"{name}, {shape}: the gradient, relative to full BPTT", "T", cases))
    return groups


def _squares(ys: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(ys - targets), -1)
