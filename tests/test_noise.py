"""Test signal to noise and the noise scale: NumPy loops, unbiasedness, and the closed form of C11; clipping."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.probes import (
    adjoint_signal_to_noise,
    bind,
    clipping_statistics,
    gradient_noise_scale,
    per_example_gradients,
    signal_to_noise,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def ratio_by_hand(samples):
    """|G|^2 and tr Sigma, unbiased, from rows."""
    trace = samples.var(0, ddof=1).sum()
    return (samples.mean(0) ** 2).sum() - trace / len(samples), trace


# ---------------------------------------------------------------- of any gradients


def test_signal_trace_and_jackknife_are_those_of_a_loop():
    a, b = normal(0, 6, 2, 3) + 1, normal(1, 6) + 1j * normal(2, 6)
    rows = np.concatenate([a.reshape(6, -1), b.real[:, None], b.imag[:, None]], 1)
    signal, trace = ratio_by_hand(rows)
    found = jax.jit(signal_to_noise)({"a": jnp.asarray(a), "b": jnp.asarray(b)})
    without = np.array([np.divide(*ratio_by_hand(np.delete(rows, i, 0))) for i in range(6)])
    np.testing.assert_allclose(found.ratio, signal / trace, rtol=1e-12)
    jackknife = math.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum())
    np.testing.assert_allclose(found.standard_error, jackknife, rtol=1e-10)
    scale = jax.jit(gradient_noise_scale)({"a": jnp.asarray(a), "b": jnp.asarray(b)})
    np.testing.assert_allclose(
        [scale.noise_scale, scale.squared_norm, scale.trace], [trace / signal, signal, trace], rtol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_ratios_do_not_end_where_squares_leave_the_range_of_floats(scale):
    gradients = jnp.asarray(normal(3, 6, 4) + 1, jnp.float32)
    tiny = (gradients * scale).astype(jnp.float32)
    ratio, same = signal_to_noise(gradients), signal_to_noise(tiny)
    np.testing.assert_allclose(same, ratio, rtol=1e-5)
    found = gradient_noise_scale(tiny)
    np.testing.assert_allclose(found.noise_scale, 1 / ratio.ratio, rtol=1e-5)
    np.testing.assert_allclose(found.ratio_error, ratio.standard_error, rtol=1e-5)


def test_both_estimates_are_unbiased():
    """Over all samples of 3 with replacement from a population of 4, each as likely: exact expectations."""
    population = normal(3, 4, 2)
    index = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)
    found = jax.jit(jax.vmap(gradient_noise_scale))(jnp.asarray(population[index]))
    np.testing.assert_allclose(found.squared_norm.mean(), (population.mean(0) ** 2).sum(), rtol=1e-12)
    np.testing.assert_allclose(found.trace.mean(), population.var(0).sum(), rtol=1e-12)


def test_noise_without_a_signal_has_an_infinite_scale_or_none_and_nan_stays():
    found = gradient_noise_scale(jnp.asarray([[1.0], [-1.0], [1.0], [-1.0]]))
    assert found.noise_scale == math.inf and found.squared_norm < 0
    assert np.isnan(gradient_noise_scale(jnp.asarray([[1.0], [np.nan], [1.0]])).noise_scale)


def leak(decay):
    cell = sj.Cell(
        init=lambda key, x: jnp.asarray(decay),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(lambda params, h, x: (params * h + x,) * 2),
    )
    return sj.recurrent(cell, sj.Scan(gradient="autodiff"))


@pytest.mark.parametrize("decay", [0.5, 0.9])
@pytest.mark.fast_cases(1)
def test_the_gradient_of_a_leaky_sum_has_the_signal_to_noise_of_its_closed_form(decay):
    """C11: loss h_T^2 / 2 in the stationary state, Gaussian input: lambda^2 / (1 + 2 lambda^2)."""
    length, batch = math.ceil(8 / -math.log(decay)), 20_000
    xs = jnp.asarray(normal(4, length, batch, 1))
    layer = leak(decay)
    start = jnp.asarray(normal(5, batch, 1)) / math.sqrt(1 - decay**2)
    loss = lambda ys, _: ys[-1, :, 0] ** 2 / 2  # noqa: E731
    measure = functools.partial(per_example_gradients, loss=loss)
    gradients = jax.jit(measure)(bind(layer, jnp.asarray(decay)), batch=xs, carry=start)
    found = signal_to_noise(gradients)
    expected = decay**2 / (1 + 2 * decay**2)
    assert found.standard_error < 0.06 * expected
    assert abs(found.ratio - expected) < 4 * found.standard_error
    assert abs(gradient_noise_scale(gradients).noise_scale * expected - 1) < 0.2


def test_gradients_per_example_are_those_of_each_example_alone():
    layer = sj.recurrent(sj.gru(3))
    xs, targets = jnp.asarray(normal(6, 5, 3, 2)), jnp.asarray(normal(7, 5, 3, 3))
    mask = jnp.asarray(np.random.default_rng(8).random((5, 3)) < 0.7)
    params = layer.init(jax.random.key(0), xs[0])
    carry = layer.initial_carry(params, xs[0])
    loss = lambda ys, targets: jnp.sum(ys * targets, -1)  # noqa: E731
    measure = functools.partial(per_example_gradients, loss=loss)
    found = jax.jit(measure)(bind(layer, params), batch=sj.Batch(xs, targets, mask=mask), carry=carry)

    @jax.jit
    def alone(carry, xs, targets, mask):
        def mean(params):
            ys = layer.unroll(params, carry, xs, mask=mask)[1]
            return jnp.where(mask, loss(ys, targets), 0).sum() / mask.sum()

        return jax.grad(mean)(params)

    for i in range(3):
        one = slice(i, i + 1)
        expected = alone(
            jax.tree.map(lambda c, one=one: c[one], carry), xs[:, one], targets[:, one], mask[:, one]
        )
        for g, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(g[i], e, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- over time


def test_signal_to_noise_over_time_is_that_of_the_adjoints():
    length, batch = 6, 5
    layer = sj.recurrent(sj.elman(3))
    xs, targets = jnp.asarray(normal(0, length, batch, 2)), jnp.asarray(normal(1, length, batch, 3))
    params = jax.tree.map(lambda p: p.astype(float), layer.init(jax.random.key(0), xs[0]))
    mask = np.ones((length, batch), bool)
    mask[1, :3] = mask[4, 2] = False  # two examples are too few for step 1
    loss = lambda ys, targets: jnp.sum(ys * targets, -1)  # noqa: E731

    def total(deltas):
        def body(h, inputs):
            x, m, delta = inputs
            return layer.step(params, sj.cells.ElmanCarry(h.h + delta), x, mask=m)

        start = layer.initial_carry(params, xs[0])
        losses = loss(jax.lax.scan(body, start, (xs, jnp.asarray(mask), deltas))[1], targets)
        return jnp.where(mask, losses, 0).sum() / mask.sum()

    adjoints = np.asarray(jax.jit(jax.grad(total))(jnp.zeros((length, batch, 3))))
    measure = functools.partial(adjoint_signal_to_noise, loss=loss)
    found = jax.jit(measure)(bind(layer, params), batch=sj.Batch(xs, targets, mask=mask)).h
    for t in range(length):
        if t == 1:
            assert np.isnan(found.ratio[t]) and np.isnan(found.standard_error[t])
            continue
        rows = adjoints[t][mask[t]]
        np.testing.assert_allclose(found.ratio[t], np.divide(*ratio_by_hand(rows)), rtol=1e-9)


def test_signal_to_noise_over_time_does_not_end_with_the_range_of_floats():
    """delta_t = lambda^n w with fixed weights w of the examples: one ratio at every depth, in float32."""
    length, weights = 400, jnp.asarray([1.0, 2.0, 3.0, 4.0], jnp.float32)
    xs = jnp.ones((length, 4, 1), jnp.float32)
    loss = lambda ys, _: ys[-1, :, 0] * weights  # noqa: E731
    measure = functools.partial(adjoint_signal_to_noise, loss=loss)
    found = jax.jit(measure)(bind(leak(0.5), jnp.float32(0.5)), batch=xs)
    np.testing.assert_allclose(found.ratio, 3.5, rtol=1e-5)


REFUSED = {
    "signal_to_noise: two examples": (
        lambda: signal_to_noise(jnp.ones((2, 3))), ValueError,
        r"signal_to_noise\(gradients\): expected at least 3 examples, got 2"),
    "gradient_noise_scale: two numbers of examples": (
        lambda: gradient_noise_scale([jnp.ones((4, 3)), jnp.ones((5, 3))]), ValueError,
        r"gradient_noise_scale\(gradients\): expected a tree of arrays"),
    "adjoint_signal_to_noise: a plain step": (
        lambda: adjoint_signal_to_noise(lambda h, x: (h, h), lambda ys, _: ys.sum(), 3, carry=jnp.ones(2)), ValueError,
        r"adjoint_signal_to_noise: expected a bound layer and at least 3"),
    "clipping_statistics: a scalar": (
        lambda: clipping_statistics([jnp.ones((4, 3)), jnp.ones(())], optax.clip(1.0)), ValueError,
        r"clipping_statistics\(gradients\): expected a tree of arrays \[N"),
}  # fmt: skip


@refusals(REFUSED)
def test_gradients_of_too_few_examples_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- clipping


def test_clipping_by_the_norm_of_all_keeps_the_direction():
    sizes = np.array([0.1, 0.2, 1, 2, 3, 1e-200])
    a, b = normal(0, 6, 2, 3), normal(1, 6, 4)
    norms = np.sqrt((a**2).sum((1, 2)) + (b**2).sum(1)) * sizes
    gradients = {"a": jnp.asarray(a * sizes[:, None, None]), "b": jnp.asarray(b * sizes[:, None])}
    found = jax.jit(lambda g: clipping_statistics(g, optax.clip_by_global_norm(1.5)))(gradients)
    np.testing.assert_allclose(found.norm, norms, rtol=1e-12)
    np.testing.assert_array_equal(found.clipped, norms > 1.5)
    assert 0 < found.share_clipped == (norms > 1.5).mean() < 1
    np.testing.assert_allclose(found.clipped_norm, np.minimum(norms, 1.5), rtol=1e-12)
    assert (np.asarray(found.angle) < 1e-14).all()


@pytest.mark.parametrize("way", ["entries", "leaves", "units"])
def test_the_other_ways_turn_a_gradient_by_the_angle_of_the_arc_cosine(way):
    a, b = normal(2, 5, 3, 2), 0.3 * normal(3, 5, 4)
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(4)}
    if way == "entries":
        clip, left = optax.clip(0.5), (np.clip(a, -0.5, 0.5), np.clip(b, -0.5, 0.5))
    elif way == "leaves":
        rms_a, rms_b = np.sqrt((a**2).mean((1, 2), keepdims=True)), np.sqrt((b**2).mean(1, keepdims=True))
        clip = optax.clip_by_block_rms(0.5)
        left = (a / np.maximum(1, rms_a / 0.5), b / np.maximum(1, rms_b / 0.5))
    else:  # a unit is a column of a, and the whole of a vector; the params' norms are sqrt(3) and 2
        size_a, size_b = np.linalg.norm(a, axis=1, keepdims=True), np.linalg.norm(b, axis=1, keepdims=True)
        clip = optax.adaptive_grad_clip(0.5)
        left = (a * np.minimum(1, 0.5 * math.sqrt(3) / size_a), b * np.minimum(1, 1 / size_b))
    gradients = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
    found = jax.jit(lambda gradients: clipping_statistics(gradients, clip, params))(gradients)
    u, v = (np.concatenate([x.reshape(5, -1), y], 1) for x, y in ((a, b), left))
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    np.testing.assert_allclose(found.angle, np.arccos(cosine), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.clipped_norm, np.linalg.norm(v, axis=1), rtol=1e-10)
    np.testing.assert_array_equal(found.clipped, np.abs(u - v).max(1) > 1e-12)
    assert found.angle.max() > 0.05
