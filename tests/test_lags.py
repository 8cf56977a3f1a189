"""Test causal convolution, token shift and running normalization: NumPy loops, other libraries, taps, errors."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiers import slow

import seqjax as sj
from seqjax.layers.convolution import ConvolutionParams
from seqjax.ops.tap import dummies

KEY = jax.random.key(0)
T, B, D, W = 11, 3, 2, 4


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def flags(seed=3):
    rng = np.random.default_rng(seed)
    return rng.random((T, B)) < 0.25, rng.random((T, B)) < 0.6


def convolution_by_hand(w, b, xs, reset, mask):
    """A list of the inputs so far, per row."""
    ys = np.zeros_like(xs)
    for row in range(B):
        seen = []
        for t in range(T):
            seen = [] if reset[t, row] else seen
            if mask[t, row]:
                seen.append(xs[t, row])
                ys[t, row] = b + sum(w[len(w) - 1 - k] * x for k, x in enumerate(reversed(seen[-len(w) :])))
    return ys


@pytest.mark.parametrize("width", [1, W, 20, *slow(2)])
@pytest.mark.parametrize("which", ["none", "both", *slow("reset", "mask")])
@pytest.mark.fast_cases(3)
def test_a_short_convolution_reads_the_last_steps_that_happened(which, width):
    reset, mask = flags()
    reset = reset if which in ("reset", "both") else np.zeros_like(reset)
    mask = mask if which in ("mask", "both") else np.ones_like(mask)
    w, b, xs = normal(0, width, D), normal(1, D), normal(2, T, B, D)
    layer, params = sj.causal_conv(width), ConvolutionParams(jnp.asarray(w), jnp.asarray(b))
    options = {"reset": jnp.asarray(reset)} if which in ("reset", "both") else {}
    options |= {"mask": jnp.asarray(mask)} if which in ("mask", "both") else {}
    got = jax.jit(layer.unroll)(params, None, jnp.asarray(xs), **options)[1]
    np.testing.assert_allclose(got, convolution_by_hand(w, b, xs, reset, mask), rtol=0, atol=1e-13)


def test_without_flags_there_is_no_loop_and_no_gather():
    layer = sj.causal_conv(W)
    xs = jnp.zeros((T, B, D))
    params = layer.init(KEY, xs[0])
    carry = layer.initial_carry(params, xs[0])
    plain = str(jax.make_jaxpr(layer.unroll)(params, carry, xs))
    assert not any(word in plain for word in ("scan", "while", "gather", "sort"))
    flagged = str(jax.make_jaxpr(layer.unroll)(params, carry, xs, mask=jnp.ones((T, B), bool)))
    assert "scan" not in flagged and "gather" in flagged


def test_a_short_convolution_equals_that_of_flax():
    xs, weights = jnp.asarray(normal(0, T, B, D)), normal(1, T, B, D)
    conv = nn.Conv(D, (W,), padding="CAUSAL", feature_group_count=D, param_dtype=jnp.float64)
    w, b = jnp.asarray(normal(2, W, D)), jnp.asarray(normal(3, D))
    layer = sj.causal_conv(W)

    def ours(w, b, xs):
        params = ConvolutionParams(w, b)
        ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]
        return jnp.sum(ys * weights), ys

    def theirs(w, b, xs):
        variables = {"params": {"kernel": w[:, None, :], "bias": b}}
        ys = jnp.moveaxis(conv.apply(variables, jnp.moveaxis(xs, 0, 1)), 1, 0)
        return jnp.sum(ys * weights), ys

    found, expected = (jax.jit(jax.grad(f, (0, 1, 2), has_aux=True))(w, b, xs) for f in (ours, theirs))
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12)


@pytest.mark.peers
def test_a_short_convolution_equals_that_of_torch():
    torch = pytest.importorskip("torch")
    xs, weights, w, b = normal(0, T, B, D), normal(1, T, B, D), normal(2, W, D), normal(3, D)
    layer = sj.causal_conv(W)
    params = ConvolutionParams(jnp.asarray(w), jnp.asarray(b))

    def loss(params, xs):
        return jnp.sum(layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1] * weights)

    value, (d_params, d_xs) = jax.value_and_grad(loss, (0, 1))(params, jnp.asarray(xs))
    theirs = [torch.tensor(a, requires_grad=True) for a in (w, b, xs)]
    inputs = torch.nn.functional.pad(theirs[2].permute(1, 2, 0), (W - 1, 0))
    ys = torch.nn.functional.conv1d(inputs, theirs[0].T[:, None], theirs[1], groups=D).permute(2, 0, 1)
    total = (ys * torch.tensor(weights)).sum()
    total.backward()
    assert float(value) == pytest.approx(total.item(), rel=1e-12)
    for a, e in zip((*d_params, d_xs), theirs, strict=True):
        np.testing.assert_allclose(a, e.grad.numpy(), rtol=0, atol=1e-12)


def test_weights_start_within_the_inverse_root_of_the_width():
    params = sj.causal_conv(W).init(KEY, jnp.zeros((B, 500)))
    for leaf in params:
        assert 0.99 * W**-0.5 < np.abs(leaf).max() <= W**-0.5
    assert sj.causal_conv(W, bias=False).init(KEY, jnp.zeros((B, D))).b is None


def test_a_token_shift_mixes_each_input_with_the_one_before():
    layer = sj.token_shift(num_outputs=2)
    xs = normal(0, T, B, D)
    params = layer.init(KEY, jnp.asarray(xs[0]))
    np.testing.assert_allclose(params.mu, [[1, 1 - 0.5**0.5], [1, 0.5]], rtol=1e-6)
    mu = normal(1, 2, D)
    params = params._replace(mu=jnp.asarray(mu))
    ys = jax.jit(layer.unroll)(params, layer.initial_carry(params, jnp.asarray(xs[0])), jnp.asarray(xs))[1]
    before = np.concatenate([np.zeros((1, B, D)), xs[:-1]])
    expected = np.concatenate([m * before + (1 - m) * xs for m in mu], -1)
    np.testing.assert_allclose(ys, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.fast_cases(1)
def test_running_normalization_is_that_of_the_steps_so_far(flagged):
    layer = sj.running_normalization(epsilon=1e-3)
    xs = normal(0, T, B, D)
    reset, mask = flags() if flagged else (np.zeros((T, B), bool), np.ones((T, B), bool))
    options = {"reset": jnp.asarray(reset), "mask": jnp.asarray(mask)} if flagged else {}
    carry, ys = jax.jit(layer.unroll)(
        (), layer.initial_carry((), jnp.asarray(xs[0])), jnp.asarray(xs), **options
    )
    for row in range(B):
        seen = []
        for t in range(T):
            seen = [] if reset[t, row] else seen
            if mask[t, row]:
                seen.append(xs[t, row])
                expected = (xs[t, row] - np.mean(seen, 0)) / np.sqrt(np.var(seen, 0) + 1e-3)
                np.testing.assert_allclose(ys[t, row], expected, rtol=0, atol=1e-12)
        assert carry.steps[row, 0] == len(seen)
        np.testing.assert_allclose(carry.m2[row], len(seen) * np.var(seen, 0) if seen else 0, atol=1e-12)


def test_running_normalization_keeps_a_variance_far_from_zero_in_float32():
    xs = (normal(0, 300, 1, 1) + 100).astype(np.float32)
    layer = sj.running_normalization()
    carry, _ = jax.jit(layer.unroll)((), layer.initial_carry((), jnp.asarray(xs[0])), jnp.asarray(xs))
    # Squares minus the square of the mean would lose 1e4 * 6e-8 = 6e-4.
    np.testing.assert_allclose(carry.m2[0, 0] / 300, np.var(xs.astype(float)), rtol=2e-5)


@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.fast_cases(1)
def test_running_normalization_of_a_large_constant_in_float32_is_zero_and_beside_it_noise_keeps_its_digits(
    flagged,
):
    """Sums of the inputs themselves round by 1e-7 of the sum: of a variance of zero they made one below it, and NaN."""
    noise = np.stack([np.zeros((300, 2)), normal(0, 300, 2)], -1)
    xs = (noise + np.asarray([3e6, 2**20])).astype(np.float32)  # [T, B, 2]
    layer = sj.running_normalization()
    options = {"reset": jnp.arange(300)[:, None] % 100 == jnp.asarray([7, 50])} if flagged else {}
    unroll, first = jax.jit(layer.unroll), layer.initial_carry((), jnp.asarray(xs[0]))
    ys = np.asarray(unroll((), first, jnp.asarray(xs), **options)[1])
    assert not ys[..., 0].any()
    exact = np.float64(xs[..., 1:])
    expected = unroll((), layer.initial_carry((), jnp.asarray(exact[0])), jnp.asarray(exact), **options)[1]
    np.testing.assert_allclose(ys[..., 1:], expected, rtol=0, atol=1e-5)


LAYERS = [sj.causal_conv(W), sj.token_shift(), sj.running_normalization(epsilon=0.1)]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.fast_cases(1)
def test_a_tap_reads_the_norm_of_the_gradient_by_the_entering_carry(layer):
    xs, weights = jnp.asarray(normal(0, T, B, D)), normal(1, T, B, D)
    reset, mask = map(jnp.asarray, flags())
    params = layer.init(KEY, xs[0])
    carry = layer.initial_carry(params, xs[0])

    def loss(tap, begin=0, carry=carry):
        some = {"reset": reset[begin:], "mask": mask[begin:], "tap": tap}
        return jnp.sum(layer.unroll(params, carry, xs[begin:], **some)[1] * weights[begin:])

    taps = jax.grad(loss)(dummies(carry, T))
    start = 5
    middle, _ = jax.jit(layer.unroll)(params, carry, xs[:start], reset=reset[:start], mask=mask[:start])
    fresh = layer.initial_carry(params, xs[0])
    now = reset[start]
    middle = jax.tree.map(lambda a, b: jnp.where(now.reshape(B, *(1,) * (a.ndim - 1)), b, a), middle, fresh)
    no_reset = reset.at[start].set(False)

    def rest(carry):
        ys = layer.unroll(params, carry, xs[start:], reset=no_reset[start:], mask=mask[start:])[1]
        return jnp.sum(ys * weights[start:])

    for tap, d in zip(jax.tree.leaves(taps), jax.tree.leaves(jax.grad(rest)(middle)), strict=True):
        np.testing.assert_allclose(
            tap[start], np.linalg.norm(np.asarray(d).reshape(B, -1), axis=-1), atol=1e-12
        )
        assert np.asarray(tap).any()


@pytest.mark.parametrize(
    "layer", [*LAYERS[:2], sj.pointwise(nn.Dense(D)), sj.pointwise(nn.RMSNorm())], ids=repr
)
@pytest.mark.fast_cases(1)
def test_over_bfloat16_inputs_the_gradients_of_elementwise_weights_add_up_in_float32(layer):
    """Over 2,048 rows a sum of ones in bfloat16 stops at 256."""

    def gradients(dtype):
        steps = jnp.arange(64, dtype=dtype)[:, None, None]
        xs = jnp.full((64, 32, D), 0.7, dtype).at[..., 1:].multiply(1 + steps / 64)
        params = jax.tree.map(lambda p: p.astype(jnp.float32), layer.init(KEY, xs[0]))
        carry = layer.initial_carry(params, xs[0])
        loss = lambda p: jnp.sum(layer.unroll(p, carry, xs)[1].astype(jnp.float32))  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    for found, expected in zip(gradients(jnp.bfloat16), gradients(jnp.float32), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sj.causal_conv(0),
            "causal_conv(kernel_size): expected a whole number of at least 1, got 0.",
        ),
        (
            lambda: sj.token_shift(True),
            "token_shift(num_outputs): expected a whole number of at least 1, got True.",
        ),
        (
            lambda: sj.running_normalization(epsilon=0.0),
            "running_normalization(epsilon): expected a finite number above 0, got",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("layer", LAYERS[:2], ids=repr)
def test_inputs_that_do_not_fit_are_refused(layer):
    params = layer.init(KEY, jnp.zeros((B, D)))
    for xs in (jnp.zeros((T, B, 5)), jnp.zeros((T, B, D), int)):
        carry = layer.initial_carry(params, xs[0])
        expected = (
            rf"{repr(layer).split('(')[0]}\(.*\): expected floating inputs \[\.\.\., 2\], got {xs.dtype}"
        )
        with pytest.raises(ValueError, match=expected):
            layer.unroll(params, carry, xs)
        with pytest.raises(ValueError, match=expected):
            layer.step(params, carry, xs[0])
