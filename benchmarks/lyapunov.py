"""Measure the Lyapunov spectrum of a network over a long sequence, by the interval between QR decompositions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import seqjax as sj
from benchmarks.results import Case, Group, measured
from benchmarks.timing import check, interleave, jax_arm
from seqjax.cells import ElmanParams
from seqjax.probes import bind, lyapunov_spectrum

TITLE = "Lyapunov spectra of long sequences"
ABOUT = """\
The 16 largest exponents of a network of 256 units over 100,000 steps, one example, float32, fresh inputs each round.
Relative time is the median over paired rounds with a 95% bootstrap interval. The network is linear with a symmetric
recurrent matrix, so its exponents are known: they are the logarithms of the matrix's eigenvalues. Before the benchmark
measures times, it checks each arm against them. The column "error" is the largest deviation, relative to the largest
exponent."""
SIZE = (256, 16)  # H, k
LENGTHS = (100_000,)
INPUT_SIZE = 8
EVERY: tuple[Any, ...] = (1, 4, 16, "adaptive")


def network(hidden_size: int) -> tuple[sj.Layer, Any, np.ndarray]:
    """Return a linear network, its params, and its Lyapunov exponents in decreasing order."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((hidden_size, hidden_size)))[0]
    exponents = np.linspace(-0.05, -1.5, hidden_size)
    w_h = rotation @ np.diag(np.exp(exponents)) @ rotation.T
    w_x = rng.standard_normal((INPUT_SIZE, hidden_size)) / np.sqrt(INPUT_SIZE)
    params = ElmanParams(*(jnp.asarray(w, jnp.float32) for w in (w_x, w_h, np.zeros(hidden_size))))
    return sj.recurrent(sj.elman(hidden_size, activation="identity")), params, exponents


def exponents_of(layer: sj.Layer, k: int, qr_every: Any) -> Callable:
    """Return ``(params, xs) -> exponents [1, k]``."""
    return lambda params, xs: lyapunov_spectrum(bind(layer, params), xs, k=k, qr_every=qr_every).exponents


def run(size: tuple[int, int], lengths: Sequence[int], rounds: int, say: Callable) -> list[Group]:
    """Measure spectra of k of H exponents, size ``(H, k)``, at several lengths.

    Raises:
        Mismatch: where an arm does not find the known exponents.
    """
    hidden_size, k = size
    layer, params, known = network(hidden_size)
    cases = []
    for length in lengths:
        say(f"Lyapunov spectrum, H = {hidden_size}, k = {k}, T = {length}")

        def draw(number: int, length: int = length) -> tuple[np.ndarray]:
            rng = np.random.default_rng([2, number + 100])
            return (rng.standard_normal((length, 1, INPUT_SIZE), np.float32),)

        arms = [
            jax_arm(f"QR {every if every == 'adaptive' else f'every {every}'}", program, (params,), draw(-2))
            for every, program in ((every, exponents_of(layer, k, every)) for every in EVERY)
        ]
        # Over T steps an exponent differs from its limit by the initial alignment of the tangents, in nats over T.
        tolerance = 1e-3 + 10 / (length * abs(known[k - 1]))
        expected = known[None, :k]
        errors = [check(arm.name, arm.run(arm.prepare(draw(-2))), expected, tolerance) for arm in arms]
        samples = interleave(arms, draw, rounds)
        rows = [measured(arm, samples[arm.name], error) for arm, error in zip(arms, errors)]
        cases.append(Case(str(length), arms[0].name, rows))
    return [Group(f"The {k} largest of {hidden_size} exponents, relative to a QR at every step", "T", cases)]
