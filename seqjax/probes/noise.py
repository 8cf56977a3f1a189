r"""Gradient noise across examples: signal to noise of any gradient, over time, and the noise scale of a batch.

With :math:`g_i` the gradient of example i, :math:`G = E\, g_i` and :math:`\Sigma` their covariance:

.. math::
    \mathrm{SNR} = |G|^2 / \mathrm{tr}\, \Sigma, \qquad B_\mathrm{simple} = \mathrm{tr}\, \Sigma / |G|^2

Both from unbiased estimators, :math:`S = \frac{1}{n-1} \sum |g_i - \bar g|^2` for the trace and
:math:`|\bar g|^2 - S/n` for the square of the mean, which is the larger the noisier without that correction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.combinators.common import check_layers
from seqjax.gradients.objective import Loss, loss_sum
from seqjax.ops.select import expand, wide
from seqjax.ops.vectors import Floating, as_vector
from seqjax.probes.checks import check_batch, check_gradients, check_loss, check_sequence
from seqjax.probes.profile import system_adjoint
from seqjax.probes.scaled import Scaled, normalise, scale
from seqjax.probes.system import prepare


class SignalToNoise(NamedTuple):
    """What `signal_to_noise` finds.

    Attributes:
        ratio: |G|^2 over the trace of the covariance. Below zero where the signal cannot be told from noise: the square
            of the mean of few examples, less what noise alone would give.
        standard_error: of the ratio, by the jackknife over examples.
    """

    ratio: jax.Array
    standard_error: jax.Array


class NoiseScale(NamedTuple):
    """What `gradient_noise_scale` finds.

    Attributes:
        noise_scale: the simple noise scale in examples, the batch size at which signal and noise are equal; infinite
            where the signal cannot be told from noise.
        squared_norm: of the true gradient; may come out below zero. Zero or infinite, alone of all results, where the
            dtype cannot hold the square.
        trace: of the covariance of the examples' gradients; the same.
        ratio_error: the standard error of its reciprocal, the signal to noise, by the jackknife.
    """

    noise_scale: jax.Array
    squared_norm: jax.Array
    trace: jax.Array
    ratio_error: jax.Array


def signal_to_noise(gradients: Any) -> SignalToNoise:
    """Signal to noise of N gradients, one per example.

    Args:
        gradients: a tree of arrays ``[N, ...]``, such as `per_example_gradients` gives; N of at least 3.

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
    r"""The simple noise scale :math:`\mathrm{tr}\, \Sigma / |G|^2` from the gradients of single examples.

    Args:
        gradients: a tree of arrays ``[N, ...]``, such as `per_example_gradients` gives; N of at least 3.

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
    step: Callable,
    carry: Any,
    xs: Any,
    loss: Loss,
    targets: Any,
    *,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
    initial: Any = None,
) -> Any:
    r"""Signal to noise, across the examples of a batch, of the gradient by the carry entering each step.

    For a loss of the last step alone, the step t shows the lag T - t. At any depth: examples are compared after
    scaling by one power of two per step.

    Args:
        step: `probes.bind` of a layer. A plain function has no batch axis, so no examples to compare.
        carry: entering the first step, leaves ``[B, ...]``, B of at least 3; None is the layer's initial carry.
        xs: inputs ``[T, B, ...]``.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`.
        targets: what the loss compares the outputs with.
        reset: ``[T, B]``.
        mask: ``[T, B]``; a masked example takes no part in that step.
        initial: the carry at a reset; by default the one given, or that of the layer.

    Returns:
        A tree like the carry of `SignalToNoise` with leaves ``[T]``, None for integers. NaN where fewer than three
        examples take part, or all gradients are zero.
    """
    check_loss("adjoint_signal_to_noise", loss)
    system = prepare("adjoint_signal_to_noise", step, carry, xs, reset=reset, mask=mask, initial=initial)
    if system.batch < 3:
        raise ValueError(
            f"adjoint_signal_to_noise: expected a bound layer and at least 3 examples, got {system.batch}."
        )
    _, _, adjoints = system_adjoint(system, loss, targets, lambda at_carry, at_x: at_carry)

    def at_step(scaled: Scaled, happened: jax.Array) -> SignalToNoise:
        scaled = normalise(scaled, 1)
        some = happened & jnp.any(scaled.mantissa != 0, tuple(range(1, scaled.mantissa.ndim)))
        lowest = jnp.iinfo(jnp.int32).min // 2
        top = jnp.max(jnp.where(some, scaled.exponent, lowest))
        array = scale(scaled.mantissa, jnp.minimum(scaled.exponent - top, 0))
        array = jnp.where(expand(happened, array.ndim), array, jnp.zeros_like(array))
        signal, trace, deviations = _moments(jax.vmap(as_vector)(array), happened)
        return _ratio(signal, trace, *deviations)

    found = [jax.vmap(at_step)(scaled, system.happened) for scaled in adjoints]
    return Floating(system.carry).tree_of(found)


def per_example_gradients(
    layer: Layer,
    loss: Loss,
    params: Any,
    carry: Any,
    xs: Any,
    targets: Any,
    *,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> Any:
    """The gradient of each example's own mean loss by the params, ``[B, *param.shape]``: B times their memory.

    Args:
        layer: the model.
        loss: ``(ys, targets) -> losses``, one per step or per sequence; it sees one example at a time, with a batch
            axis of one.
        params: the model's.
        carry: leaves ``[B, ...]``.
        xs: inputs ``[T, B, ...]``.
        targets: leaves ``[T, B, ...]``, or None.
        reset: ``[T, B]``.
        mask: ``[T, B]``.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.lstm(2))
        >>> xs = jnp.ones((5, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry = layer.initial_carry(params, xs[0])
        >>> per_example_gradients(layer, lambda ys, _: ys.sum(-1), params, carry, xs, None).w_h.shape
        (4, 2, 8)
    """
    who = "per_example_gradients"
    check_layers(who, (layer,))
    check_loss(who, loss)
    carry, xs, reset, mask = check_sequence(who, carry, xs, reset, mask, 1)
    check_batch(who, carry, xs)

    def of_one(carry: Any, xs: Any, targets: Any, reset: Any, mask: Any) -> Any:
        carry = jax.tree.map(lambda leaf: leaf[None], carry)
        xs, targets, reset, mask = jax.tree.map(
            lambda leaf: jnp.expand_dims(leaf, 1), (xs, targets, reset, mask)
        )

        def mean(params: Any) -> jax.Array:
            ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)[1]
            total, count = loss_sum(loss(ys, targets), mask)
            return total / jnp.maximum(count, 1)

        return jax.grad(mean)(params)

    return jax.vmap(of_one, (0, 1, 1, 1, 1))(carry, xs, targets, reset, mask)


def _vectors(who: str, gradients: Any) -> tuple[jax.Array, jax.Array]:
    """The gradients ``[N, P]`` over their largest number, whose square a float may not hold; and that number."""
    gradients, number = check_gradients(who, gradients)
    if number < 3:
        raise ValueError(f"{who}(gradients): expected at least 3 examples, got {number}.")
    vectors = jax.vmap(as_vector)(gradients)
    largest = jnp.max(jnp.abs(vectors), initial=0)
    largest = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    return vectors / largest, largest


def _moments(vectors: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """|G|^2 and the trace, unbiased, of the vectors ``[N, P]`` that count (others are zero); more for the jackknife.

    That is the number n, |mean|^2, and per example its deviation's square and its product with the mean.
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
    signal: jax.Array, trace: jax.Array, n: Any, square: Any, squares: Any, along: Any, counts: Any
) -> SignalToNoise:
    """The ratio, and its standard error from the ratios with one example left out, each in closed form."""
    trace_without = (trace * (n - 1) - squares * n / (n - 1)) / (n - 2)
    square_without = square - 2 * along / (n - 1) + squares / (n - 1) ** 2
    without = (square_without - trace_without / (n - 1)) / trace_without
    centre = jnp.sum(jnp.where(counts, without, 0)) / n
    variance = (n - 1) / n * jnp.sum(jnp.where(counts, jnp.square(without - centre), 0))
    enough = n >= 3
    return SignalToNoise(*(jnp.where(enough, v, jnp.nan) for v in (signal / trace, jnp.sqrt(variance))))
