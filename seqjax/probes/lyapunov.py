r"""Lyapunov exponents: the rates at which a system stretches small differences, per step and direction.

.. math::
    \lambda_i = \lim_{T \to \infty} \frac1T \sum_{t=1}^T \log (R_t)_{ii}, \qquad J_t Q_{t-1} = Q_t R_t
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import stdtrit

from seqjax.base import Carry
from seqjax.checks import check_whole
from seqjax.probes.internals.checks import check_rank, check_warm_up
from seqjax.probes.internals.system import prepare
from seqjax.probes.internals.tangents import (
    check_qr_every,
    count_steps,
    log_determinants,
    log_growth,
    sum_parts,
)
from seqjax.rows import Row, row

FEWEST_BLOCKS = 20


class LyapunovSpectrum(NamedTuple):
    r"""Result of `lyapunov_spectrum`. ``*B`` is the batch axis of a bound layer; a plain function has none.

    Attributes:
        exponents: the exponents ``[*B, k]`` in nats per step, largest first; -inf for a direction that the system maps
            to zero; NaN for an example without a step that counts.
        low: lower ends of 95% intervals from block means ``[*B, k]``; -inf if there are fewer steps than blocks.
        high: upper ends ``[*B, k]``; inf if there are fewer steps than blocks.
        sum: the sum of the exponents ``[*B]``. For k = S it is the mean of :math:`\log|\det J_t|`, the rate at which
            volumes change.
        log_determinant: the same mean ``[*B]`` from determinants of whole Jacobians; None unless requested.
        kaplan_yorke: the Kaplan-Yorke dimension ``[*B]``, :math:`j + \sum_{i \le j} \lambda_i / |\lambda_{j+1}|` with
            the largest j whose sum is not negative; S if volumes do not shrink; NaN if it depends on exponents beyond
            the first k.
        entropy: the sum of the positive exponents ``[*B]``, an upper bound of the metric entropy (Ruelle). The two are
            equal under Pesin's conditions.
        near_zero: the number of exponents within 1/T of zero ``[*B]``.
        steps: T, the number of steps that count ``[*B]``.
    """

    exponents: Float[Array, "*B k"]
    low: Float[Array, "*B k"]
    high: Float[Array, "*B k"]
    sum: Float[Array, "*B"]
    log_determinant: Float[Array, "*B"] | None
    kaplan_yorke: Float[Array, "*B"]
    entropy: Float[Array, "*B"]
    near_zero: Int[Array, "*B"]
    steps: Int[Array, "*B"]

    def rows(self) -> Iterator[Row]:
        """Yield rows of the report: means over the trajectories of a batch; t is the place of an exponent."""
        at: dict[str, Any] = {"section": "lyapunov"}
        ends = (("exponent", self.exponents), ("exponent_low", self.low), ("exponent_high", self.high))
        means = {name: _mean(np.asarray(value).reshape(-1, value.shape[-1])) for name, value in ends}
        for i in range(self.exponents.shape[-1]):
            for name, mean in means.items():
                yield row(name, mean[i], **at, t=i)
        names = ("sum", "kaplan_yorke", "entropy", "near_zero", "steps", "log_determinant")
        for name in names:
            if getattr(self, name) is not None:
                yield row(name, _mean(np.ravel(getattr(self, name))), **at)


def lyapunov_spectrum(
    bound: Callable,
    batch: Any,
    *,
    carry: Carry = None,
    k: int | None = None,
    qr_every: int | Literal["adaptive"] = 1,
    warm_up: int = 0,
    blocks: int = FEWEST_BLOCKS,
    direction: Literal["forward", "backward"] = "forward",
    log_determinant: bool = False,
    key: jax.Array | None = None,
    initial: Any = None,
) -> LyapunovSpectrum:
    r"""Return the k largest Lyapunov exponents of a trajectory, with intervals.

    The probe pushes k tangents along the trajectory and orthogonalizes them by QR. It sums the logarithms of their
    growth, so a long sequence does not overflow. Work per step: k derivatives of the step and a QR of [S, k].

    * Masked steps do not happen: the spectrum is that of the sequence without them.
    * A reset restarts carry, tangents and warm-up; the growth measured so far counts. The spectrum of several segments
      is therefore the mean of the spectra of the segments, weighted by their numbers of counted steps (before the
      exponents are sorted). The zero Jacobian across a reset is not counted as -inf.
    * If a Jacobian is singular, the lost direction has an exponent of -inf and the other exponents are unaffected. If
      rounding leaves a remainder of order eps in that direction, the step adds log eps (about -36 in float64) instead:
      read exponents of that order as -inf.
    * Exponents at a finite T differ from their limits by O(1/T). With k = S and no key the tangents start as the unit
      vectors, which makes diagonal systems exact at any T. In a system of uncoupled parts (a stack of layers) the unit
      vectors may be in another order than the exponents. Rounding corrects the order after as many as -log eps / gap
      steps, and exponents mix until then. Pass `key=` for random tangents, or a warm-up.

    An exponent is per step; divide it by the step size of an ODE solver for an exponent per unit of time. To measure
    often, compile: ``jax.jit(lambda params: lyapunov_spectrum(bind(layer, params), xs))``.

    Args:
        bound: the result of `bind`, or a plain function ``(carry, x) -> (carry, y)`` without batch axes.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function); its targets are
            ignored. Arrays stand for its xs, as does the number of steps of a function whose x is None.
        carry: the carry entering the first step. A bound layer has its initial carry as the default; a plain function
            has no default.
        k: the number of exponents; by default all S.
        qr_every: the number of steps from one QR to the next, or "adaptive": a QR when the tangents become nearly
            dependent. With m steps, m times the spread of the k exponents should be well below -log eps (36 in float64,
            16 in float32).
        warm_up: the number of steps, from the start and from each reset, that do not count.
        blocks: the number of blocks whose means give the intervals, 20 or more. A block should be longer than the
            correlations.
        direction: "backward" takes the transposed Jacobians from the last step to the first; the limits are equal.
        log_determinant: whether to measure the mean of :math:`\log|\det J_t|`, from S derivatives per step.
        key: draws the first tangents at random.
        initial: the carry that a reset restarts from. The default is the layer's initial carry, or the `carry` of a
            plain function.

    Raises:
        TypeError: for a step with another contract, or a step that changes the form or dtype of its carry.
        ValueError: for data that is not finite, no more steps than the warm-up, k larger than the state, fewer than 20
            blocks, or shapes that do not fit.

    Example:
        The Henon map; its exponents add up to log 0.3:

        >>> import jax.numpy as jnp
        >>> from seqjax.probes import lyapunov_spectrum
        >>> def henon(carry, x):
        ...     a, b = carry
        ...     return (1 - 1.4 * a**2 + b, 0.3 * a), None
        >>> spectrum = lyapunov_spectrum(henon, 20_000, carry=(0.1, 0.1), warm_up=100)
        >>> [round(float(e), 1) for e in spectrum.exponents], round(float(spectrum.sum), 3)
        ([0.4, -1.6], -1.204)
        >>> round(float(spectrum.kaplan_yorke), 2)
        1.26

    References:
        Benettin et al. 1980, "Lyapunov characteristic exponents for smooth dynamical systems", Meccanica 15.
        Vogt et al. 2020, "On Lyapunov exponents for RNNs", arXiv:2006.14123.
        Engelken et al. 2020, "Lyapunov spectra of chaotic recurrent neural networks", arXiv:2006.02427.
    """
    who = "lyapunov_spectrum"
    system = prepare(who, bound, batch, carry=carry, initial=initial)
    k = check_rank(who, k, system.size)
    check_warm_up(who, warm_up, system.num_steps)
    check_qr_every(who, qr_every)
    check_whole(f"{who}(blocks)", blocks, FEWEST_BLOCKS)
    if direction not in ("forward", "backward"):
        raise ValueError(f'{who}(direction): expected "forward" or "backward", got {direction!r}.')

    counting = count_steps(system, warm_up, blocks)
    growth = log_growth(system, counting, k, qr_every=qr_every, key=key, backward=direction == "backward")
    sums = sum_parts(counting, growth)
    lengths = sum_parts(counting, jnp.ones((system.num_steps, system.batch), growth.dtype) * system.happened)
    steps = counting.steps.astype(growth.dtype)
    exponents = jnp.sum(sums, 1) / steps[:, None]
    order = jnp.argsort(-exponents, 1)
    exponents = jnp.take_along_axis(exponents, order, 1)
    means = jnp.take_along_axis(sums / lengths[..., None], order[:, None], 2)
    half = half_width(means)
    half = jnp.where((counting.steps < blocks)[:, None], jnp.inf, half)
    half = jnp.where(jnp.isneginf(exponents), 0, half)
    mean_log_determinant = None
    if log_determinant:
        mean_log_determinant = jnp.sum(sum_parts(counting, log_determinants(system)), 1) / steps
    result = LyapunovSpectrum(
        exponents=exponents,
        low=exponents - half,
        high=exponents + half,
        sum=jnp.sum(exponents, 1),
        log_determinant=mean_log_determinant,
        kaplan_yorke=kaplan_yorke(exponents, system.size),
        entropy=jnp.sum(jnp.maximum(exponents, 0), 1),
        near_zero=jnp.sum(jnp.abs(exponents) <= 1 / steps[:, None], 1),
        steps=counting.steps,
    )
    return system.squeeze(result)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis, without NaN; NaN where all values are NaN."""
    known = ~np.isnan(values)
    total = np.sum(np.where(known, values, 0), 0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def half_width(means: Float[Array, "B blocks k"]) -> Float[Array, "B k"]:
    """Return half the 95% interval ``[B, k]`` of a mean by Student's t, from block means ``[B, blocks, k]``."""
    blocks = means.shape[1]
    quantile = float(stdtrit(blocks - 1, 0.975))
    return quantile / math.sqrt(blocks) * jnp.std(means, 1, ddof=1)


def kaplan_yorke(exponents: Float[Array, "*B k"], size: int) -> Float[Array, "*B"]:
    """Return the Kaplan-Yorke dimension of spectra ``[..., k]``, largest exponent first, of a state of `size` numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> kaplan_yorke(jnp.asarray([0.5, 0.0, -2.0]), 3)
        Array(2.25, dtype=float32)
    """
    sums = jnp.cumsum(exponents, -1)
    # Sums of a sorted spectrum rise, then fall: the sums that count come first.
    whole = jnp.sum(sums >= 0, -1)
    following = jnp.minimum(whole, exponents.shape[-1] - 1)
    rest = jnp.take_along_axis(sums, jnp.maximum(whole - 1, 0)[..., None], -1)[..., 0]
    falling = jnp.take_along_axis(exponents, following[..., None], -1)[..., 0]
    enough = whole < exponents.shape[-1]
    part = jnp.where((whole > 0) & enough, rest / jnp.where(enough, -falling, 1), 0)
    unknown = jnp.isnan(sums[..., -1]) | (~enough & (exponents.shape[-1] < size))
    return jnp.where(unknown, jnp.nan, whole + part)
