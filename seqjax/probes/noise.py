r"""Gradient noise across examples: the signal to noise ratio of gradients, and the noise scale of a batch.

With :math:`g_i` the gradient of example i, :math:`G = E\, g_i` and :math:`\Sigma` their covariance:

.. math::
    \mathrm{SNR} = |G|^2 / \mathrm{tr}\, \Sigma, \qquad B_\mathrm{simple} = \mathrm{tr}\, \Sigma / |G|^2

Both use unbiased estimators: :math:`S = \frac{1}{n-1} \sum |g_i - \bar g|^2` for the trace, and
:math:`|\bar g|^2 - S/n` for the squared mean. Without the correction S/n, noise would increase the squared mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import Batch, Carry
from seqjax.gradients.objective import Loss
from seqjax.ops.select import expand, wide
from seqjax.ops.vectors import Floating, as_vector
from seqjax.probes.bound import Bound, as_batch, check_bound, mean_loss
from seqjax.probes.internals.checks import check_batch, check_gradients, check_loss
from seqjax.probes.internals.scaled import Scaled, normalize, scale
from seqjax.probes.internals.system import check_data, prepare
from seqjax.probes.profile import system_adjoint


class SignalToNoise(NamedTuple):
    """Result of `signal_to_noise`.

    Attributes:
        ratio: ``|G|^2`` over the trace of the covariance. The ratio is negative if the squared mean is smaller than
            noise alone would give: the signal then cannot be distinguished from noise.
        standard_error: the standard error of the ratio, by the jackknife over examples.
    """

    ratio: Float[Array, "*T"]
    standard_error: Float[Array, "*T"]


class NoiseScale(NamedTuple):
    """Result of `gradient_noise_scale`.

    Attributes:
        noise_scale: the simple noise scale in examples, the batch size at which signal and noise are equal; infinite
            if the signal cannot be distinguished from noise.
        squared_norm: the estimated squared norm of the true gradient; may be negative. Zero or infinite if the dtype
            cannot hold the square; the ratios stay accurate.
        trace: the trace of the covariance of the examples' gradients. Zero or infinite under the same condition.
        ratio_error: the standard error of 1 / noise_scale, the signal to noise ratio, by the jackknife.
    """

    noise_scale: Float[Array, ""]
    squared_norm: Float[Array, ""]
    trace: Float[Array, ""]
    ratio_error: Float[Array, ""]


def signal_to_noise(gradients: Any) -> SignalToNoise:
    """Return the signal to noise ratio of N gradients, one per example.

    Args:
        gradients: a tree of arrays ``[N, ...]``, such as `per_example_gradients` returns, with N of 3 or more.

    Example:
        >>> import jax.numpy as jnp
        >>> found = signal_to_noise(jnp.array([[1.0], [2.0], [3.0], [4.0]]))       # 6.25 - S/4 over S, S = 5/3
        >>> round(float(found.ratio), 4)
        3.5
    """
    vectors, _ = _vectors("signal_to_noise", gradients)
    signal, trace, deviations = _moments(vectors, jnp.ones(len(vectors), bool))
    return _ratio(signal, trace, *deviations)


def gradient_noise_scale(gradients: Any) -> NoiseScale:
    r"""Return the simple noise scale :math:`\mathrm{tr}\, \Sigma / |G|^2` from the gradients of single examples.

    Args:
        gradients: a tree of arrays ``[N, ...]``, such as `per_example_gradients` returns, with N of 3 or more.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(gradient_noise_scale(jnp.array([[1.0], [2.0], [3.0], [4.0]])).noise_scale), 4)
        0.2857

    References:
        McCandlish et al. 2018, "An empirical model of large-batch training", arXiv:1812.06162 (the simple noise scale
        and its unbiased estimators, here with batches of 1 and N).
    """
    vectors, largest = _vectors("gradient_noise_scale", gradients)
    signal, trace, deviations = _moments(vectors, jnp.ones(len(vectors), bool))
    ratio = _ratio(signal, trace, *deviations)
    noise_scale = jnp.where(signal > 0, trace / jnp.where(signal > 0, signal, 1), jnp.inf)
    noise_scale = jnp.where(jnp.isnan(signal), jnp.nan, noise_scale)
    signal, trace = (moment * largest * largest for moment in (signal, trace))
    return NoiseScale(noise_scale, signal, trace, ratio.standard_error)


def adjoint_signal_to_noise(
    bound: Callable, loss: Loss, batch: Any, *, carry: Any = None, initial: Any = None
) -> Any:
    r"""Return the signal to noise ratio of the gradient with respect to the carry entering each step.

    The ratio is taken across the examples of a batch. For a loss of the last step alone, step t stands for the lag
    T - t. The ratio is accurate at any depth: the examples share one power of two per step.

    Args:
        bound: a bound layer. A plain function has no batch axis, and so no examples to compare.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]``, B of 3 or more. Arrays stand for its xs. A masked example
            does not count in that step.
        carry: the carry entering the first step, leaves ``[B, ...]``; by default the layer's initial carry.
        initial: the carry that a reset restarts from; by default the layer's initial carry.

    Returns:
        A tree like the carry of `SignalToNoise` with leaves ``[T]``, None for integers. A step is NaN if fewer than
        three examples count, or all gradients are zero.
    """
    check_loss("adjoint_signal_to_noise", loss)
    system = prepare("adjoint_signal_to_noise", bound, batch, carry=carry, initial=initial)
    if system.batch < 3:
        raise ValueError(
            f"adjoint_signal_to_noise: expected a bound layer and at least 3 examples, got {system.batch}."
        )
    targets = as_batch(batch).targets
    _, _, adjoints = system_adjoint(system, loss, targets, lambda at_carry, at_x: at_carry)

    def at_step(scaled: Scaled, happened: jax.Array) -> SignalToNoise:
        scaled = normalize(scaled, 1)
        some = happened & jnp.any(scaled.mantissa != 0, tuple(range(1, scaled.mantissa.ndim)))
        lowest = jnp.iinfo(jnp.int32).min // 2
        top = jnp.max(jnp.where(some, scaled.exponent, lowest))
        array = scale(scaled.mantissa, jnp.minimum(scaled.exponent - top, 0))
        array = jnp.where(expand(happened, array.ndim), array, jnp.zeros_like(array))
        signal, trace, deviations = _moments(jax.vmap(as_vector)(array), happened)
        return _ratio(signal, trace, *deviations)

    found = [jax.vmap(at_step)(scaled, system.happened) for scaled in adjoints]
    return Floating(system.carry).tree_of(found)


def per_example_gradients(bound: Bound, loss: Loss, batch: Any, *, carry: Carry = None) -> Any:
    """Return the gradient of each example's mean loss with respect to the params, ``[B, *param.shape]``.

    The result takes B times the memory of the params.

    Args:
        bound: a bound layer, ``bind(layer, params)``.
        loss: ``(ys, targets) -> losses``, one per step or per sequence. The loss is called with one example at a time
            and a batch axis of one.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]``, targets included. Arrays stand for its xs.
        carry: the carry entering the first step, leaves ``[B, ...]``. The default is the layer's initial carry, and
            the gradient through it counts.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.lstm(2))
        >>> xs = jnp.ones((5, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> per_example_gradients(sj.probes.bind(layer, params), lambda ys, _: ys.sum(-1), xs).w_h.shape
        (4, 2, 8)
    """
    who = "per_example_gradients"
    check_bound(who, bound)
    check_loss(who, loss)
    carry, batch = check_data(who, bound, batch, carry, 1)
    check_batch(who, carry, batch.xs)
    context, batch = batch.context, batch._replace(context=None)

    def of_one(carry: Carry, batch: Batch, context: Any) -> Any:
        carry, context = jax.tree.map(lambda leaf: leaf[None], (carry, context))
        batch = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 1), batch)._replace(context=context)
        return jax.grad(mean_loss(who, bound.layer, loss))(bound.params, carry, batch)

    return jax.vmap(of_one, (0, 1, 0))(carry, batch, context)


def _vectors(who: str, gradients: Any) -> tuple[Float[Array, "N P"], Float[Array, ""]]:
    """Divide the gradients ``[N, P]`` by their largest number, whose square may overflow; also return that number."""
    gradients, number = check_gradients(who, gradients)
    if number < 3:
        raise ValueError(f"{who}(gradients): expected at least 3 examples, got {number}.")
    vectors = jax.vmap(as_vector)(gradients)
    largest = jnp.max(jnp.abs(vectors), initial=0)
    largest = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    return vectors / largest, largest


def _moments(
    vectors: Float[Array, "N P"], counts: Bool[Array, " N"]
) -> tuple[Float[Array, ""], Float[Array, ""], tuple[jax.Array, ...]]:
    """Return |G|^2 and the trace, unbiased, of the vectors ``[N, P]`` that count (others are zero).

    The third result serves the jackknife: n, |mean|^2, per example the squared deviation and its product with the
    mean, and the counts.
    """
    dtype = wide(vectors.dtype)
    n = jnp.sum(counts).astype(dtype)
    mean = jnp.sum(vectors, 0, dtype=dtype) / n
    deviations = jnp.where(counts[:, None], vectors - mean, 0)
    squares = jnp.sum(jnp.square(deviations), 1)
    square = jnp.sum(jnp.square(mean))
    trace = jnp.sum(squares) / (n - 1)
    return square - trace / n, trace, (n, square, squares, deviations @ mean, counts)


def _ratio(
    signal: Float[Array, ""],
    trace: Float[Array, ""],
    n: Float[Array, ""],
    square: Float[Array, ""],
    squares: Float[Array, " N"],
    along: Float[Array, " N"],
    counts: Bool[Array, " N"],
) -> SignalToNoise:
    """Return the ratio, and its standard error from the ratios without one example each, in closed form."""
    trace_without = (trace * (n - 1) - squares * n / (n - 1)) / (n - 2)
    square_without = square - 2 * along / (n - 1) + squares / (n - 1) ** 2
    without = (square_without - trace_without / (n - 1)) / trace_without
    center = jnp.sum(jnp.where(counts, without, 0)) / n
    variance = (n - 1) / n * jnp.sum(jnp.where(counts, jnp.square(without - center), 0))
    enough = n >= 3
    return SignalToNoise(*(jnp.where(enough, v, jnp.nan) for v in (signal / trace, jnp.sqrt(variance))))
