"""Causal normalization over time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import Carry, DiagonalInputs, Flags, Layer, Params, X, Xs, Y, Ys
from seqjax.checks import check_above
from seqjax.compat import vary_like
from seqjax.ops import diagonal as scans
from seqjax.ops.select import keep, select, wide
from seqjax.ops.step import loop
from seqjax.values import definition


class RunningMoments(NamedTuple):
    """The number of steps ``[*B, 1]``; the mean and m2, the sum of squared deviations from it, ``[*B, D]``."""

    steps: Float[Array, "*B 1"]
    mean: Float[Array, "*B D"]
    m2: Float[Array, "*B D"]


@definition
def running_normalization(*, epsilon: float = 1e-5) -> Layer:
    r"""Normalize each feature of each example by its mean and variance over the steps so far.

    .. math::
        n_t &= n_{t-1} + 1, \qquad m_t = m_{t-1} + (x_t - m_{t-1}) / n_t \\
        q_t &= q_{t-1} + (x_t - m_{t-1}) \odot (x_t - m_t) \\
        y_t &= (x_t - m_t) / \sqrt{q_t / n_t + \epsilon}

    over steps that happened since the reset, including the present one (Welford's recurrence). The first output is
    zero. There are no params; add a dense layer for scale and shift.

    Shapes: x ``[*B, D]`` -> y ``[*B, D]``; carry ``RunningMoments(steps [*B, 1], mean [*B, D], m2 [*B, D])``, float32
    at least. `unroll` sums inputs and squared deviations with two linear recurrences: step by step on a CPU, as a
    parallel prefix elsewhere. The sums are of differences from the first input since the reset, or from the mean in the
    carry that enters. In float32 a mean of size m in the carry has a rounding error of about 1e-7 m, and so has the
    result of `step`.

    Args:
        epsilon: added to the variance.

    Raises:
        ValueError: for an epsilon that is not positive.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer = sj.running_normalization()
        >>> xs = jnp.asarray([1.0, 3.0, 2.0]).reshape(3, 1, 1)
        >>> carry, ys = layer.unroll((), layer.initial_carry((), xs[0]), xs)
        >>> ys.ravel().round(3), carry.mean.ravel(), carry.m2.ravel()
        (Array([0., 1., 0.], dtype=float32), Array([2.], dtype=float32), Array([2.], dtype=float32))

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products", Technometrics 4.
    """
    check_above("running_normalization(epsilon)", epsilon)

    def initial_carry(params: Params, x: jax.Array) -> RunningMoments:
        zeros = jnp.zeros_like(x, dtype=wide(x.dtype))
        return RunningMoments(zeros[..., :1], zeros, zeros)

    def normalize(deviation: Float[Array, "*B D"], variance: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return deviation / jnp.sqrt(variance + epsilon)

    def advance(
        carry: RunningMoments, x: Float[Array, "*B D"]
    ) -> tuple[RunningMoments, Float[Array, "*B D"]]:
        wide_x = x.astype(carry.mean.dtype)
        count = carry.steps + 1
        delta = wide_x - carry.mean
        mean = carry.mean + delta / count
        after = RunningMoments(count, mean, carry.m2 + delta * (wide_x - mean))
        return after, normalize(wide_x - mean, after.m2 / jnp.maximum(count, 1)).astype(x.dtype)

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        x = keep(flags.mask, x)
        carry = select(flags.reset, initial_carry(params, x), _fit(carry, x))
        after, y = advance(carry, x)
        return (after if flags.mask is None else select(flags.mask, after, carry)), keep(flags.mask, y)

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        xs = keep(flags.mask, xs)
        carry = vary_like(_fit(carry, xs), xs)
        flags = flags._replace(initial=vary_like(initial_carry(params, xs[0]), xs))
        if flags.tap is not None:
            carry, ys = loop(advance, carry, xs, flags)
            return carry, keep(flags.mask, ys)
        after, *moments = _unrolled(carry, xs.astype(carry.mean.dtype), flags)
        return after, keep(flags.mask, normalize(*moments).astype(xs.dtype))

    return Layer(init=lambda key, x: (), initial_carry=initial_carry, step_fn=step, unroll_fn=unroll)


def _fit(carry: RunningMoments, x: jax.Array) -> RunningMoments:
    return RunningMoments(*(leaf.astype(wide(x.dtype)) for leaf in carry))


def _unrolled(
    carry: RunningMoments, xs: Float[Array, "T *B D"], flags: Flags
) -> tuple[RunningMoments, Float[Array, "T *B D"], Float[Array, "T *B D"]]:
    """Return the moments after the sequence, and the deviation from the mean and the variance of each step.

    The function sums differences from an anchor, so that a large constant costs no digits, and squares, so that no
    variance is negative. The results do not depend on the anchors, so the gradients do not either.
    """
    scan = scans.sequential if jax.default_backend() == "cpu" else scans.associative
    reset, mask, _, _, initial = flags

    def running_sum(
        terms: Float[Array, "T *B D"],
        start: Float[Array, "*B D"],
        restart: Float[Array, "*B D"],
        cut: Any = reset,
    ) -> Float[Array, "T *B D"]:
        inputs = DiagonalInputs(jnp.ones_like(terms), terms)
        return scans.diagonal(scan, inputs, start, Flags(cut, mask, initial=restart))[1]

    count = running_sum(jnp.ones_like(xs[..., :1]), carry.steps, initial.steps)
    none = count == 0
    safe = jnp.where(none, jnp.ones_like(count), count)
    first, anchor = jax.lax.stop_gradient(_anchors(running_sum, carry, xs, count, reset, mask))
    sums = running_sum(xs - anchor, carry.steps * (carry.mean - first), jnp.zeros_like(first))
    offset = jnp.where(none, -anchor, sums / safe)
    entering = jnp.concatenate([(carry.mean - first)[None], offset[:-1]])
    entering = select(reset, initial.mean - anchor, entering)
    m2 = running_sum((safe - 1) / safe * jnp.square(xs - anchor - entering), carry.m2, initial.m2)
    after = RunningMoments(count[-1], anchor[-1] + offset[-1], m2[-1])
    return after, xs - anchor - offset, m2 / jnp.maximum(count, 1)


def _anchors(
    running_sum: Callable,
    carry: RunningMoments,
    xs: Float[Array, "T *B D"],
    count: Float[Array, "T *B 1"],
    reset: Bool[Array, "T *B"] | None,
    mask: Bool[Array, "T *B"] | None,
) -> tuple[Float[Array, "*B D"], Float[Array, "T *B D"]]:
    """Return a value near the inputs, for the segment of the carry and for each step: the mean or the first input."""
    begins = (count == 1)[..., 0] if mask is None else (count == 1)[..., 0] & mask
    at_first = xs[0] if mask is None else jnp.take_along_axis(xs, jnp.argmax(mask, 0)[None, ..., None], 0)[0]
    first = jnp.where(carry.steps > 0, carry.mean, jnp.nan_to_num(at_first))
    zeros = jnp.zeros_like(first)
    return first, running_sum(keep(begins, xs), first, zeros, begins if reset is None else begins | reset)
