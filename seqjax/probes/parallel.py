"""How far a nonlinear cell can be run in parallel over time: Newton's iterations by length."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.base import Batch, Cell
from seqjax.layers import first_step, num_steps, recurrent
from seqjax.methods import Newton, Sequential
from seqjax.probes.checks import check_batch, check_sequence, check_step
from seqjax.probes.lyapunov import lyapunov_spectrum
from seqjax.probes.power_law import PowerLaw, fit_power_law
from seqjax.probes.scaling import check_lengths
from seqjax.probes.system import bind


class Parallelisability(NamedTuple):
    """What `parallelisability` measures.

    Attributes:
        lengths: T ``[n]``.
        iterations: of Newton's method at each of them ``[n]``.
        converged: whether it had converged by then ``[n]``.
        residual: the largest relative residual at the end ``[n]``.
        growth: the power law of iterations in T: an exponent near 0 says that all steps together cost a few parallel
            passes, near 1 that iterating saves nothing over a loop. NaN of one length.
        exponent: the largest Lyapunov exponent, nats per step, along the longest of the sequences, of the example where
            it is largest.
        low: lower end of its 95% interval; -inf where there are too few steps to tell.
        high: the upper end.
    """

    lengths: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray
    residual: np.ndarray
    growth: PowerLaw
    exponent: float
    low: float
    high: float


def parallelisability(
    cell: Cell,
    params: Any,
    carry: Any,
    xs: Any,
    lengths: Sequence[int] | None = None,
    *,
    warm_up: int | None = None,
    newton: Newton | None = None,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> Parallelisability:
    r"""Count the iterations in which `Newton` solves the first T steps of a cell at once, by T.

    From a guess of the whole trajectory, an error at one step is handed on to later ones by the Jacobians, whose
    products grow as :math:`e^{\lambda t}` with the largest Lyapunov exponent :math:`\lambda`. Below zero errors die out
    and the iterations are few, whatever T; above zero they take over, the basin around the trajectory shrinks
    exponentially with T, and the solution creeps forward from the first step: the iterations grow with T, up to T.

    Args:
        cell: of kind `Step` or `Gated`.
        params: the cell's.
        carry: entering the first step, leaves ``[B, ...]``.
        xs: inputs ``[T, B, ...]``; float64 shows most clearly what is due to the cell and not to roundings.
        lengths: the first T steps for each T here; by default all.
        warm_up: how many steps, from the start and from each reset, do not count in the exponent; by default a tenth of
            all steps, none with resets.
        newton: settings; by default up to T iterations of full Jacobians. Its fallback is switched off.
        reset: ``[T, B]``.
        mask: ``[T, B]``.

    Returns:
        Counts by length, how they grow, and the exponent (`lyapunov_spectrum`).

    Raises:
        TypeError: for something that is not a cell, or a cell that Newton's method cannot run.
        ValueError: for lengths beyond the inputs, or inputs with more than one batch axis or none.

    Example:
        A contracting cell takes as many iterations at 200 steps as at 20:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell, xs = sj.elman(4), jax.random.normal(jax.random.key(1), (200, 1, 3))
        >>> params = cell.init(jax.random.key(0), xs[0])
        >>> params = params._replace(w_h=0.1 * params.w_h)
        >>> found = parallelisability(cell, params, cell.initial_carry(params, xs[0]), xs, [20, 200])
        >>> found.iterations.tolist(), found.converged.tolist()
        ([2, 2], [True, True])
        >>> found.high < 0
        True

    References:
        Gonzalez et al. 2025, "Predictability enables parallelization of nonlinear state space models",
        arXiv:2508.16817.
    """
    who = "parallelisability"
    if not isinstance(cell, Cell):
        raise TypeError(f"{who}(cell): expected a Cell such as gru(8), got {cell!r}.")
    carry, xs, reset, mask = check_sequence(who, carry, xs, reset, mask, 1)
    total = num_steps(xs)
    chosen = check_lengths(who, [total] if lengths is None else lengths, 1)
    if max(chosen) > total:
        raise ValueError(f"{who}(lengths): expected at most the {total} steps of xs, got {max(chosen)}.")
    check_step(who, bind(recurrent(cell), params), carry, first_step(xs))
    check_batch(who, carry, xs)
    solver = dataclasses.replace(Newton(max_iterations=None) if newton is None else newton, fallback=False)

    @jax.jit
    def solve(params: Any, carry: Any, xs: Any, reset: Any, mask: Any) -> Any:
        return solver.solve(cell, params, carry, xs, reset=reset, mask=mask)[2]

    reports = [solve(params, carry, *jax.tree.map(lambda a, n=n: a[:n], (xs, reset, mask))) for n in chosen]
    iterations, converged, residual = (
        np.asarray([getattr(report, name) for report in reports])
        for name in ("iterations", "converged", "residual")
    )
    several = len(set(chosen)) > 1
    growth = fit_power_law(chosen, iterations) if several else PowerLaw(math.nan, math.nan, math.nan)
    interval = _largest_exponent(cell, params, carry, Batch(xs, None, reset, mask), max(chosen), warm_up)
    return Parallelisability(np.asarray(chosen), iterations, converged, residual, growth, *interval)


def _largest_exponent(
    cell: Cell, params: Any, carry: Any, batch: Batch, length: int, warm_up: int | None
) -> tuple[float, float, float]:
    """Exponent, low and high, of the example where it is largest."""
    xs, _, reset, mask = jax.tree.map(lambda a: a[:length], batch)
    if warm_up is None:
        warm_up = length // 10 if reset is None else 0

    @jax.jit
    def measure(params: Any, carry: Any, xs: Any, reset: Any, mask: Any) -> Any:
        return lyapunov_spectrum(
            bind(recurrent(cell, Sequential()), params),
            carry,
            xs,
            k=1,
            warm_up=warm_up,
            key=jax.random.key(0),
            reset=reset,
            mask=mask,
        )

    spectrum = measure(params, carry, xs, reset, mask)
    exponents = np.asarray(spectrum.exponents)[:, 0]
    worst = int(np.argmax(np.where(np.isnan(exponents), -np.inf, exponents)))
    low, high = (float(end[worst, 0]) for end in (spectrum.low, spectrum.high))
    return float(exponents[worst]), low, high
