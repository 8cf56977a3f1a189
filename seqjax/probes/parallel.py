"""Parallelizability of a nonlinear cell over time: the number of Newton iterations by sequence length."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from seqjax.base import Batch, Carry, Cell, Params, Xs
from seqjax.inputs import first_step, num_steps
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Newton, Scan
from seqjax.probes.bound import Bound, bind, bound_cell, conditioned, first_carry
from seqjax.probes.internals.checks import check_batch, check_step
from seqjax.probes.internals.methods import check_lengths
from seqjax.probes.internals.system import check_data
from seqjax.probes.lyapunov import lyapunov_spectrum
from seqjax.probes.power_law import PowerLaw, fit_power_law


class Parallelizability(NamedTuple):
    """Result of `parallelizability`.

    Attributes:
        lengths: T ``[n]``.
        iterations: the number of Newton iterations at each length ``[n]``.
        converged: whether Newton's method converged within these iterations ``[n]``.
        residual: the largest relative residual after the last iteration ``[n]``.
        growth: the power law of iterations in T. With an exponent near 0, all steps together cost a few parallel
            passes; with an exponent near 1, Newton's method saves nothing over a loop. NaN for a single length.
        exponent: the largest Lyapunov exponent in nats per step along the longest sequence, of the example with the
            largest exponent.
        low: lower end of its 95% interval; -inf if there are too few steps.
        high: upper end of the interval; inf if there are too few steps.
    """

    lengths: Int[np.ndarray, " N"]
    iterations: Int[np.ndarray, " N"]
    converged: Bool[np.ndarray, " N"]
    residual: Float[np.ndarray, " N"]
    growth: PowerLaw
    exponent: float
    low: float
    high: float


def parallelizability(
    bound: Bound,
    batch: Any,
    *,
    carry: Carry = None,
    lengths: Sequence[int] | None = None,
    warm_up: int | None = None,
    newton: Newton | None = None,
) -> Parallelizability:
    r"""Count the iterations that `Newton` needs to solve the first T steps of a cell at once, by T.

    Newton's method starts from a guess of the whole trajectory. The Jacobians pass an error at one step on to later
    steps, and their products grow as :math:`e^{\lambda t}` with the largest Lyapunov exponent :math:`\lambda`. For
    :math:`\lambda < 0` errors decay, and a few iterations suffice at any T. For :math:`\lambda > 0` errors grow, and
    the region of convergence shrinks exponentially with T. The solution then advances from the first step on, and the
    number of iterations grows with T, up to T.

    Args:
        bound: ``bind(recurrent(cell), params)``, of a cell of kind `Step` or `Gated`. Its own method is not used.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]``; its targets are ignored. Arrays stand for its xs. Use
            float64 to separate the effect of the cell from roundings.
        carry: the carry entering the first step, leaves ``[B, ...]``; by default the initial carry.
        lengths: the values of T; by default the whole length alone.
        warm_up: the number of steps, from the start and from each reset, that do not count in the exponent. The default
            is a tenth of all steps, or zero if there are resets.
        newton: the settings of Newton's method; by default up to T iterations with full Jacobians. Its fallback is
            switched off.

    Returns:
        The counts by length, their growth, and the exponent (`lyapunov_spectrum`).

    Raises:
        TypeError: for a layer that is not ``recurrent(cell)``, or a cell that Newton's method cannot run.
        ValueError: for lengths beyond the inputs, or inputs without exactly one batch axis.

    Example:
        A contracting cell takes as many iterations at 200 steps as at 20:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell, xs = sj.elman(4), jax.random.normal(jax.random.key(1), (200, 1, 3))
        >>> params = cell.init(jax.random.key(0), xs[0])
        >>> params = params._replace(w_h=0.1 * params.w_h)
        >>> found = parallelizability(sj.probes.bind(sj.recurrent(cell), params), xs, lengths=[20, 200])
        >>> found.iterations.tolist(), found.converged.tolist()
        ([2, 2], [True, True])
        >>> found.high < 0
        True

    References:
        Gonzalez et al. 2025, "Predictability enables parallelization of nonlinear state space models",
        arXiv:2508.16817.
    """
    who = "parallelizability"
    cell, params = bound_cell(who, bound), bound.params
    carry, batch = check_data(who, bound, batch, carry, 1)
    bound, batch = conditioned(who, bound, batch, carry)
    total = num_steps(batch.xs)
    chosen = check_lengths(who, [total] if lengths is None else lengths, 1, total)
    carry = first_carry(bound, carry, batch.xs)
    check_step(who, bound, carry, first_step(batch.xs))
    check_batch(who, carry, batch.xs)
    solver = dataclasses.replace(Newton(max_iterations=None) if newton is None else newton, fallback=False)

    @jax.jit
    def solve(params: Params, carry: Carry, xs: Xs, reset: Any, mask: Any) -> Any:
        return solver.solve(cell, params, carry, xs, reset=reset, mask=mask)[2]

    inputs = (batch.xs, batch.reset, batch.mask)
    reports = [solve(params, carry, *jax.tree.map(lambda a, n=n: a[:n], inputs)) for n in chosen]
    iterations, converged, residual = (
        np.asarray([getattr(report, name) for report in reports])
        for name in ("iterations", "converged", "residual")
    )
    several = len(set(chosen)) > 1
    growth = fit_power_law(chosen, iterations) if several else PowerLaw(math.nan, math.nan, math.nan)
    inputs = jax.tree.map(lambda a: a[: max(chosen)], inputs)
    interval = _largest_exponent(cell, params, carry, Batch(inputs[0], None, *inputs[1:]), warm_up)
    return Parallelizability(np.asarray(chosen), iterations, converged, residual, growth, *interval)


def _largest_exponent(
    cell: Cell, params: Params, carry: Carry, batch: Batch, warm_up: int | None
) -> tuple[float, float, float]:
    """Return the largest exponent and the ends of its interval, of the example with the largest exponent."""
    if warm_up is None:
        warm_up = num_steps(batch.xs) // 10 if batch.reset is None else 0

    @jax.jit
    def measure(params: Params, carry: Carry, batch: Batch) -> Any:
        bound = bind(recurrent(cell, Scan()), params)
        return lyapunov_spectrum(bound, batch, carry=carry, k=1, warm_up=warm_up, key=jax.random.key(0))

    spectrum = measure(params, carry, batch)
    exponents = np.asarray(spectrum.exponents)[:, 0]
    worst = int(np.argmax(np.where(np.isnan(exponents), -np.inf, exponents)))
    low, high = (float(end[worst, 0]) for end in (spectrum.low, spectrum.high))
    return float(exponents[worst]), low, high
