"""Compare the gradient profile with autodiff and closed forms at any depth; test fits and horizons."""

import functools
import math
from fractions import Fraction

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis.extra.numpy import arrays

import seqjax as sj
from seqjax.base import Batch
from seqjax.cells import REGISTRY, ElmanCarry, ElmanParams, LRUParams, vector
from seqjax.inputs import first_step, num_steps
from seqjax.ops.select import select
from seqjax.probes import adjoint_profile, bind, fit_decay, gradient_profile, horizon, total_log_norm

T, B, D, H = 12, 3, 4, 5


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def loss_per_step(ys, targets):
    return jnp.sum(jnp.square(ys) * targets, tuple(range(2, ys.ndim)))


def last_sum(ys, targets):
    return ys[-1].sum()


# ---------------------------------------------------------------- against autodiff


def perturbed_profile(layer, loss, params, carry, xs, targets, reset, mask):
    """By the definition: the gradient by an array added to the carry that enters each step, after its reset."""
    initial = layer.initial_carry(params, first_step(xs))

    def evaluate(deltas):
        def body(carry, inputs):
            x, reset, mask, delta = inputs
            carry = select(reset, initial, carry)
            carry = jax.tree.map(
                lambda d, c: c if d is None else c + d, delta, carry, is_leaf=lambda d: d is None
            )
            return layer.step(params, carry, x, mask=mask)

        losses = loss(jax.lax.scan(body, carry, (xs, reset, mask, deltas))[1], targets)
        return losses.mean() if mask is None else jnp.where(mask, losses, 0).sum() / mask.sum()

    def zeros(leaf):  # integers (positions) have no gradient
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.zeros((num_steps(xs), *leaf.shape), leaf.dtype) if inexact else None

    deltas = jax.tree.map(zeros, carry)
    value, gradients = jax.value_and_grad(evaluate)(deltas)
    norm = lambda g: jnp.sqrt(jnp.sum(jnp.abs(g) ** 2, tuple(range(2, g.ndim))))  # noqa: E731
    return value, jax.tree.map(norm, gradients)


def flags(length):
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.random((length, B)) < 0.2), jnp.asarray(rng.random((length, B)) < 0.7)


@functools.cache
def setting(name, length=T, *, top=None):
    """A layer and its inputs, all random; with a top, a dense one and that one above it."""
    layer = sj.recurrent(REGISTRY[name].make(H))
    if top is not None:
        dense = nn.Dense(3, param_dtype=jnp.float64, dtype=jnp.float64)
        layer = sj.serial(layer, sj.pointwise(dense), top)
    zeros = REGISTRY[name].example((length, B), D)
    # Leaves without axes of their own are elapsed times.
    xs = jax.tree.map(lambda a: normal(0, *a.shape) if a.ndim > 2 else 0.5 + normal(1, *a.shape) ** 2, zeros)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), first_step(xs))
    rng = np.random.default_rng(1)

    def draw(like, scale):
        if jnp.issubdtype(like.dtype, jnp.integer):
            return jnp.zeros(like.shape, like.dtype)
        values = scale * rng.normal(size=like.shape)
        if jnp.issubdtype(like.dtype, jnp.complexfloating):
            values = values + 1j * scale * rng.normal(size=like.shape)
        return jnp.asarray(values)

    params = jax.tree.map(functools.partial(draw, scale=0.5), shapes)
    carry = jax.tree.map(
        functools.partial(draw, scale=1), jax.eval_shape(layer.initial_carry, params, first_step(xs))
    )
    ys = jax.eval_shape(layer.unroll, params, carry, xs)[1]
    return layer, params, carry, xs, normal(9, *ys.shape)


def assert_profile(layer, params, carry, xs, targets, reset=None, mask=None, ways=(True, False)):
    def all_of_them(params, carry, xs, targets, reset, mask):
        expected = perturbed_profile(layer, loss_per_step, params, carry, xs, targets, reset, mask)
        got = [
            gradient_profile(
                bind(layer, params),
                loss_per_step,
                Batch(xs, targets, reset, mask),
                carry=carry,
                extended_range=way,
            )
            for way in ways
        ]
        return expected, got

    (value, expected), got = jax.jit(all_of_them)(params, carry, xs, targets, reset, mask)
    for profile in got:
        assert jax.tree.structure(profile.log_norm) == jax.tree.structure(expected)
        np.testing.assert_allclose(profile.loss, value, rtol=1e-12)
        for log_norm, norm in zip(jax.tree.leaves(profile.log_norm), jax.tree.leaves(expected), strict=True):
            assert log_norm.shape == norm.shape == (num_steps(xs), B)
            happened = np.ones(norm.shape, bool) if mask is None else np.asarray(mask)
            assert np.isnan(np.asarray(log_norm)[~happened]).all()
            difference = np.where(happened, np.exp(log_norm) - norm, 0)
            assert np.linalg.norm(difference) <= 1e-12 * np.linalg.norm(np.where(happened, norm, 0))
    return got


VECTORS = [name for name, entry in REGISTRY.items() if entry.example is vector]
ONE_PER_KIND = set({type(REGISTRY[name].make(H).recurrence): name for name in VECTORS}.values())
EVERY_CELL = [pytest.param(n, marks=[] if n in ONE_PER_KIND else pytest.mark.slow) for n in REGISTRY]


@pytest.mark.parametrize("name", EVERY_CELL)
@pytest.mark.fast_cases(2)
def test_a_profile_equals_the_gradient_by_a_perturbation_of_the_carry(name):
    assert_profile(*setting(name), *flags(T))


# One layer shows every kind, two layers what is between them.
@pytest.mark.slow  # profiles of one layer equal it
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "lru" else pytest.mark.slow) for n in VECTORS]
)
def test_a_profile_of_two_layers_equals_the_gradient_by_a_perturbation(name):
    assert_profile(*setting(name, top=sj.recurrent(sj.elman(3))))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("elman", "attention") else pytest.mark.slow) for n in VECTORS]
)
@pytest.mark.fast_cases(1)
def test_the_profile_of_a_bound_layer_is_that_of_the_layer(name):
    layer, params, carry, xs, targets = setting(name)
    reset, mask = flags(T)

    @jax.jit
    def run(params, carry, xs):
        xs = jnp.where(mask[..., None], xs, jnp.nan)
        expected = perturbed_profile(layer, loss_per_step, params, carry, xs, targets, reset, mask)
        batch = Batch(xs, targets, reset, mask)
        return adjoint_profile(bind(layer, params), loss_per_step, batch, carry=carry), expected

    profile, (value, norms) = run(params, carry, xs)
    np.testing.assert_allclose(profile.loss, value, rtol=1e-12)
    assert jax.tree.structure(profile.log_norm) == jax.tree.structure(norms)
    for log_norm, norm in zip(jax.tree.leaves(profile.log_norm), jax.tree.leaves(norms), strict=True):
        difference = np.where(mask, np.exp(log_norm) - norm, 0)
        assert np.isnan(np.asarray(log_norm)[~np.asarray(mask)]).all()
        assert np.linalg.norm(difference) <= 1e-12 * np.linalg.norm(np.where(mask, norm, 0))


def test_the_profile_of_a_plain_function_equals_the_gradient_by_a_perturbation():
    """The map of Henon with a counter beside it, driven, with resets and masked steps that hold NaN."""

    def step(carry, x):
        count, (a, b) = carry
        return (count + 1, (1 - 1.4 * a**2 + 0.3 * b + x, a)), (a * b, count)

    start = (jnp.asarray(0), (jnp.asarray([0.1]), jnp.asarray([0.2])))
    xs, weights = 0.1 * normal(0, 9), normal(1, 9)
    reset, mask = np.zeros(9, bool), np.ones(9, bool)
    reset[4], mask[[2, 6]] = True, False

    def loss(ys, targets):
        return ys[0][:, 0] * targets

    def total(deltas, first):
        at, value = first, 0.0
        for t in range(9):
            at = start[1] if reset[t] else at
            at = jax.tree.map(lambda c, d, t=t: c + d[t], at, deltas)
            if mask[t]:
                (_, at), y = step((0, at), xs[t])
                value += y[0][0] * weights[t]
        return value / mask.sum()

    value, (norms, by_first) = jax.value_and_grad(total, (0, 1))((jnp.zeros((9, 1)),) * 2, start[1])
    poisoned = jnp.where(mask, xs, jnp.nan)
    profile = adjoint_profile(step, loss, Batch(poisoned, weights, reset, mask), carry=start)
    np.testing.assert_allclose(profile.loss, value, rtol=1e-13)
    assert profile.log_norm[0] is None and profile.gradients[0] is None
    for log_norm, norm in zip(profile.log_norm[1], norms, strict=True):
        expected = np.where(mask, np.abs(norm[:, 0]), np.nan)
        np.testing.assert_allclose(np.exp(log_norm), expected, rtol=1e-11)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-12), profile.gradients[1], by_first)


@pytest.mark.slow  # shorter profiles equal it
def test_a_profile_of_64_steps_equals_the_gradient_by_a_perturbation():
    assert_profile(*setting("lstm", 64, top=sj.residual(sj.recurrent(sj.elman(3)))), *flags(64))


@pytest.mark.slow  # with both it equals it too
@pytest.mark.parametrize("which", ["reset", "mask"])
def test_a_profile_with_a_reset_or_a_mask_alone_equals_the_gradient_by_a_perturbation(which):
    reset, mask = flags(T)
    assert_profile(*setting("elman"), **{which: {"reset": reset, "mask": mask}[which]})


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("lstm", sj.Scan(chunk=4)),
        ("elman", sj.Scan(gradient="autodiff")),
        ("gru_reset_before", sj.Scan(chunk=4)),
        ("lru", sj.Scan(gradient="autodiff")),
        ("lru", sj.AssociativeScan()),
    ],
    ids=str,
)
@pytest.mark.fast_cases(1)
def test_a_tapped_profile_is_the_same_by_any_method(name, method):
    _, params, carry, xs, targets = setting(name)
    layer = sj.recurrent(REGISTRY[name].make(H), method)
    assert_profile(layer, params, carry, xs, targets, *flags(T), ways=(False,))


@pytest.mark.slow  # test_checkpoint.py compares taps
def test_a_tapped_profile_passes_through_checkpoints():
    layer, params, carry, xs, targets = setting("elman")
    assert_profile(sj.checkpointed(layer, every=5), params, carry, xs, targets, *flags(T), ways=(False,))


def test_a_tapped_profile_of_both_directions_is_that_of_each():
    layer, params, carry, xs, targets = setting("elman")

    def linear_loss(ys, targets):
        return jnp.sum(ys * targets, -1)

    @jax.jit
    def run(params, carry, xs, targets):
        both = bind(sj.bidirectional(layer, merge="sum"), (params, params))
        forward, batch = bind(layer, params), Batch(xs, targets)
        backward = jax.tree.map(lambda a: a[::-1], batch)
        return [
            gradient_profile(bound, linear_loss, batch, carry=carry, extended_range=False).log_norm
            for bound, batch, carry in (
                (both, batch, (carry, carry)), (forward, batch, carry), (forward, backward, carry)
            )
        ]  # fmt: skip

    both, forward, backward = run(params, carry, xs, targets)
    np.testing.assert_allclose(both[0].h, forward.h, rtol=1e-12)
    np.testing.assert_allclose(both[1].h[::-1], backward.h, rtol=1e-12)


def test_a_profile_comes_with_the_loss_and_its_gradients():
    layer, params, carry, xs, targets = setting("elman")
    reset, mask = flags(T)

    def mean(params):
        ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)[1]
        return jnp.where(mask, loss_per_step(ys, targets), 0).sum() / mask.sum()

    value, gradients = jax.jit(jax.value_and_grad(mean))(params)
    for way in (True, False):
        run = functools.partial(gradient_profile, loss=loss_per_step, extended_range=way)
        profile = jax.jit(run)(bind(layer, params), batch=Batch(xs, targets, reset, mask), carry=carry)
        np.testing.assert_allclose(profile.loss, value, rtol=1e-13)
        for got, expected in zip(profile.gradients, gradients, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_without_a_carry_the_gradient_through_a_learned_initial_carry_counts():
    cell = sj.Cell(
        init=lambda key, x: (jnp.asarray(0.5), jnp.asarray(1.0)),
        initial_carry=lambda params, x: params[1] * jnp.ones_like(x),
        recurrence=sj.Step(lambda params, h, x: (params[0] * h + x,) * 2),
    )
    bound, xs = bind(sj.recurrent(cell), (jnp.asarray(0.5), jnp.asarray(2.0))), jnp.zeros((3, 1, 1))
    for way in (True, False):
        run = functools.partial(gradient_profile, loss=last_sum, extended_range=way)
        found = jax.jit(run)(bound, batch=xs)
        # y_3 = d^3 v: by d 3 d^2 v, by v d^3.
        np.testing.assert_allclose(found.gradients, (3 * 0.25 * 2, 0.125), rtol=1e-12)
        constant = jax.jit(run)(bound, batch=xs, carry=jnp.full((1, 1), 2.0))
        np.testing.assert_allclose(constant.gradients, (3 * 0.25 * 2, 0), rtol=1e-12)
        np.testing.assert_array_equal(found.log_norm, constant.log_norm)


def test_a_profile_with_a_key_draws_as_unroll_does():
    layer, params, carry, xs, targets = setting("elman")
    dropped = sj.serial(sj.dropout(0.5), layer)
    bound, batch = bind(dropped, ((), params)), Batch(xs, targets)

    @jax.jit
    def run(key):
        return [
            gradient_profile(bound, loss_per_step, batch, carry=((), carry), key=key, extended_range=way)
            .log_norm[1]
            .h
            for way in (True, False)
        ]

    extended, tapped = run(jax.random.key(3))
    np.testing.assert_allclose(extended, tapped, rtol=1e-12)
    assert np.abs(run(jax.random.key(4))[0] - extended).max() > 0.1


def test_a_profile_has_no_or_several_batch_axes():
    layer, params, carry, xs, _ = setting("elman")

    @jax.jit
    def run(params, carry, xs):
        measure = functools.partial(gradient_profile, bind(layer, params), last_sum)
        one, more = jax.tree.map(lambda c: c[0], carry), jax.tree.map(lambda c: c[None], carry)
        return (
            measure(xs, carry=carry).log_norm,
            measure(xs[:, 0], carry=one, batch_ndim=0).log_norm,
            measure(xs[:, None], carry=more, batch_ndim=2).log_norm,
        )

    batch, one, split = (log_norm.h for log_norm in run(params, carry, xs))
    assert batch.shape == (T, B) and one.shape == (T,) and split.shape == (T, 1, B)
    np.testing.assert_allclose(one, batch[:, 0], rtol=1e-12)
    np.testing.assert_allclose(split[:, 0], batch, rtol=1e-12)


# ---------------------------------------------------------------- closed forms, deep below the range of floats


def linear(decay, dtype=jnp.float64, size=1):
    """h_t = decay * h_{t-1} + x_t."""
    eye = jnp.eye(size, dtype=dtype)
    params = ElmanParams(eye, eye * jnp.asarray(decay, dtype), jnp.zeros(size, dtype))
    return (
        sj.recurrent(sj.elman(size, activation="identity")),
        params,
        ElmanCarry(jnp.zeros((2, size), dtype)),
    )


def run_profile(layer, loss, params, carry, xs, **options):
    run = functools.partial(gradient_profile, loss=loss, **options)
    return jax.jit(run)(bind(layer, params), batch=xs, carry=carry).log_norm


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-6), (jnp.float32, 0.05)])
@pytest.mark.fast_cases(1)
def test_a_decay_of_131072_steps_is_exact(dtype, tolerance):
    length, decay = 131_072, 0.9
    layer, params, carry = linear(decay, dtype, 4)
    log_norm = run_profile(layer, last_sum, params, carry, jnp.ones((length, 2, 4), dtype)).h
    assert log_norm.dtype == dtype
    steps = length - np.arange(length)
    # Four units of gradient one each: a norm of 2. The decay that was run is the one that dtype holds.
    expected = math.log(2) + math.log(float(np.asarray(decay, dtype))) * steps
    assert expected[0] < -13_800
    assert np.abs(np.asarray(log_norm, float) - expected[:, None]).max() < tolerance


@pytest.mark.parametrize("decay", [0.5, 1.0, 1.5])
@pytest.mark.fast_cases(1)
def test_the_mean_loss_of_a_linear_recurrence_is_a_sum_of_geometric_series(decay):
    length = 3000
    layer, params, carry = linear(decay)
    # dL/ds_t = (a + a^2 + ... + a^n) / (T B) with n = T - t; 1.5^3000 is beyond the range of float64.
    n = length - np.arange(length)
    powers = np.log(decay) * (n + 1) if decay != 1 else np.log(n)
    if decay == 1:
        expected = np.log(n)
    elif decay < 1:
        expected = np.log(decay) + np.log1p(-np.exp(np.log(decay) * n)) - np.log(1 - decay)
    else:
        expected = powers + np.log1p(-np.exp(-np.log(decay) * n)) - np.log(decay - 1)
    # No forward value depends on the decay's powers: inputs and carry are zero.
    log_norm = run_profile(layer, lambda ys, _: ys[..., 0], params, carry, jnp.zeros((length, 2, 1))).h
    np.testing.assert_allclose(
        log_norm, (expected - math.log(length * 2))[:, None].repeat(2, 1), rtol=0, atol=1e-8
    )


def test_a_loss_of_the_last_steps_is_a_sum_of_powers_at_any_depth():
    length, decay = 5000, 0.5
    layer, params, carry = linear(decay, jnp.float32)
    log_norm = run_profile(
        layer, lambda ys, _: ys[-3:].sum(), params, carry, jnp.ones((length, 2, 1), jnp.float32)
    ).h
    n = length - np.arange(length)
    expected = math.log(1 + 2 + 4) + math.log(decay) * n
    expected[-2:] = np.log([0.75, 0.5])
    np.testing.assert_allclose(log_norm[:, 0], expected, rtol=3 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("decays", [(0.99, 0.1), (0.1, 0.99)])
@pytest.mark.fast_cases(1)
def test_layers_that_decay_at_different_rates_keep_exponents_of_their_own(decays):
    length = 2000
    parts = [linear(decay) for decay in decays]
    layer = sj.serial(*(part[0] for part in parts))
    params, carry = tuple(part[1] for part in parts), tuple(part[2] for part in parts)
    log_norm = run_profile(layer, last_sum, params, carry, jnp.ones((length, 2, 1)))
    a, b = decays
    n = length - np.arange(length)
    # s2 decays by its own b; s1 reaches the loss along every mixture of a's and b's: a (a^n - b^n) / (a - b).
    largest = max(a, b)
    lower = (
        math.log(a) + math.log(largest) * n + np.log1p(-((min(a, b) / largest) ** n)) - math.log(abs(a - b))
    )
    np.testing.assert_allclose(log_norm[0].h[:, 0], lower, rtol=0, atol=1e-9)
    np.testing.assert_allclose(log_norm[1].h[:, 0], math.log(b) * n, rtol=0, atol=1e-9)
    assert abs(lower[0] - math.log(b) * length) < 10 or lower[0] - math.log(b) * length > 4000


def lru_of(moduli, angles, readout):
    """One input and output; every state of the given lambda; the output reads one of them."""
    size = len(moduli)
    w_c = np.zeros((2 * size, 1))
    w_c[readout] = 1
    logs = (np.log(-np.log(moduli)), np.log(angles), np.zeros(size))
    params = LRUParams(*map(jnp.asarray, (*logs, np.ones((1, 2 * size)), w_c, np.zeros((1, 1)))))
    return sj.recurrent(sj.lru(1, state_size=size)), params, jnp.zeros((2, size), complex)


@pytest.mark.parametrize("half", [0, 1], ids=["real", "imaginary"])
@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.fast_cases(1)
def test_the_carry_of_lru_decays_by_the_modulus_of_the_lambda_that_is_read(k, half):
    moduli, angles, length = np.array([0.5, 0.95]), np.array([1.0, 2.5]), 1500
    layer, params, carry = lru_of(moduli, angles, k + 2 * half)
    xs = jnp.ones((length, 2, 1))
    n = length - np.arange(length)
    expected = (np.log(moduli[k]) * n)[:, None].repeat(2, 1)
    np.testing.assert_allclose(run_profile(layer, last_sum, params, carry, xs), expected, rtol=0, atol=1e-9)
    tapped = run_profile(layer, last_sum, params, carry, xs[-500:], extended_range=False)
    np.testing.assert_allclose(tapped, expected[-500:], rtol=0, atol=1e-9)


def test_beyond_the_range_a_tap_says_zero_and_the_extended_profile_the_truth():
    layer, params, carry = linear(0.5, jnp.float32)
    xs = jnp.ones((400, 2, 1), jnp.float32)
    extended = np.asarray(run_profile(layer, last_sum, params, carry, xs).h)
    tapped = np.asarray(run_profile(layer, last_sum, params, carry, xs, extended_range=False).h)
    np.testing.assert_allclose(tapped[-120:], extended[-120:], rtol=1e-6)
    assert (tapped[:200] == -np.inf).all() and np.isfinite(extended).all()


def test_a_gradient_beyond_the_greatest_float_is_infinite_in_a_tap_alone():
    layer, params, carry = linear(2.0, jnp.float32)
    xs = jnp.zeros((300, 2, 1), jnp.float32)
    expected = math.log(2) * np.arange(300, 0, -1)[:, None].repeat(2, 1)
    np.testing.assert_allclose(run_profile(layer, last_sum, params, carry, xs).h, expected, rtol=1e-6)
    tapped = np.asarray(run_profile(layer, last_sum, params, carry, xs, extended_range=False).h)
    np.testing.assert_allclose(tapped[-127:], expected[-127:], rtol=1e-6)
    assert (tapped[:-127] == np.inf).all()


# ---------------------------------------------------------------- zeros, NaN, masks


@pytest.mark.parametrize("extended_range", [True, False])
def test_a_gradient_of_exactly_zero_is_minus_infinity(extended_range):
    layer = sj.recurrent(sj.elman(H, activation="relu"))
    params = ElmanParams(normal(0, D, H), normal(1, H, H), jnp.full(H, -100.0))  # dead
    carry = ElmanCarry(normal(2, B, H))
    log_norm = run_profile(
        layer, last_sum, params, carry, normal(3, T, B, D), extended_range=extended_range
    ).h
    assert (np.asarray(log_norm) == -np.inf).all()
    assert total_log_norm((log_norm, log_norm)).max() == -np.inf


@functools.cache
def halving_profile(extended_range):
    """The log norms ``[9, 2]`` of a state that halves, for a loss that weighs the outputs; shared by several tests."""
    layer, params, carry = linear(0.5)

    def run(xs, weights, reset, mask):
        return gradient_profile(
            bind(layer, params), lambda ys, weights, mask: jnp.sum(ys[..., 0] * weights),
            Batch(xs, weights, reset, mask), carry=carry, extended_range=extended_range,
        ).log_norm.h  # fmt: skip

    return jax.jit(run)


ONES, NEVER, ALWAYS = np.ones((9, 2, 1)), np.zeros((9, 2), bool), np.ones((9, 2), bool)
HALVING = math.log(0.5) * np.arange(9, 0, -1)


def step_alone(t):
    return np.eye(9)[t][:, None].repeat(2, 1)


@pytest.mark.parametrize("extended_range", [True, False])
def test_a_loss_before_the_end_leaves_minus_infinity_behind_it(extended_range):
    log_norm = halving_profile(extended_range)(ONES, step_alone(5), NEVER, ALWAYS)
    expected = np.concatenate([HALVING[3:], np.full(3, -np.inf)])
    np.testing.assert_allclose(log_norm, expected[:, None].repeat(2, 1), rtol=1e-14)


@pytest.mark.parametrize("extended_range", [True, False])
def test_a_reset_cuts_the_profile(extended_range):
    reset = NEVER.copy()
    reset[4, 0] = True
    log_norm = halving_profile(extended_range)(ONES, step_alone(8), reset, ALWAYS)
    # The carry that enters step 4 after its reset still counts; what came before it does not.
    np.testing.assert_allclose(log_norm[:, 0], np.where(np.arange(9) < 4, -np.inf, HALVING), rtol=1e-14)
    np.testing.assert_allclose(log_norm[:, 1], HALVING, rtol=1e-14)


@pytest.mark.parametrize("extended_range", [True, False])
def test_a_masked_step_is_nan_and_costs_no_decay(extended_range):
    mask, xs = ALWAYS.copy(), ONES.copy()
    mask[5:7, 0], xs[5:7, 0] = False, np.nan
    log_norm = halving_profile(extended_range)(xs, step_alone(8), NEVER, mask)
    expected = math.log(0.5) * np.array([7, 6, 5, 4, 3, np.nan, np.nan, 2, 1])
    np.testing.assert_allclose(log_norm[:, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(log_norm[:, 1], HALVING, rtol=1e-14)


@pytest.mark.parametrize("extended_range", [True, False])
@pytest.mark.parametrize("name", ["elman", "lru"])
@pytest.mark.fast_cases(2)
def test_nan_in_an_input_gives_nan_for_its_example_alone(name, extended_range):
    layer, params, carry, xs, targets = setting(name)
    run = functools.partial(gradient_profile, loss=loss_per_step, extended_range=extended_range)
    batch = Batch(xs.at[6, 1].set(jnp.nan), targets)
    log_norm = jax.jit(run)(bind(layer, params), batch=batch, carry=carry).log_norm
    for leaf in jax.tree.leaves(log_norm):
        assert np.isnan(leaf[:, 1]).all()
        assert np.isfinite(np.delete(leaf, 1, axis=1)).all()


def test_leaves_without_gradients_have_no_profile():
    def count(params, carry, u):
        steps, h = carry
        return (steps + 1, 0.5 * h + u), 0.5 * h + u

    cell = sj.Cell(
        init=lambda key, x: (),
        initial_carry=lambda params, x: (jnp.zeros(x.shape[:-1], jnp.int32), jnp.zeros_like(x)),
        recurrence=sj.Step(count),
    )
    layer = sj.recurrent(cell)
    xs = jnp.ones((4, 2, 1))
    for extended_range in (True, False):
        log_norm = run_profile(
            layer, last_sum, (), cell.initial_carry((), xs[0]), xs, extended_range=extended_range
        )
        assert log_norm[0] is None
        np.testing.assert_allclose(log_norm[1][:, 0], math.log(0.5) * np.arange(4, 0, -1), rtol=1e-14)
        np.testing.assert_array_equal(total_log_norm(log_norm), log_norm[1])


def test_the_total_is_the_norm_of_all_leaves():
    a = np.array([np.log(3.0), -1e4, np.log(0.5), np.nan])
    b = np.array([np.log(4.0), -1e4, -np.inf, 1.0])
    expected = [np.log(5.0), np.log(math.sqrt(2)) - 1e4, np.log(0.5), np.nan]
    np.testing.assert_allclose(jax.jit(total_log_norm)({"a": a, "b": b, "c": None}), expected, rtol=1e-14)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("extended_range", [True, False])
def test_an_empty_sequence_has_no_profile(extended_range):
    layer, params, carry = linear(0.5)
    with pytest.raises(ValueError, match=r"gradient_profile: expected xs \[T, \.\.\.\] with T of at least 1"):
        gradient_profile(
            bind(layer, params), last_sum, jnp.ones((0, 2, 1)), carry=carry, extended_range=extended_range
        )


def test_a_layer_that_is_not_causal_has_no_extended_profile():
    layer, params, carry = linear(0.5)
    both = sj.bidirectional(layer)
    message = r"gradient_profile: expected a causal layer .* got bidirectional\(.*\), which has no step\. Use extended"
    with pytest.raises(TypeError, match=message):
        gradient_profile(bind(both, (params, params)), last_sum, jnp.ones((3, 2, 1)), carry=(carry, carry))


def test_a_loss_of_another_shape_is_refused():
    layer, params, carry = linear(0.5)
    xs, mask = jnp.ones((3, 2, 1)), jnp.ones((3, 2), bool)
    message = r"loss: expected losses per step \[3, 2\], .* per sequence \[2\] or a scalar, got \[3, 1, 1\]"
    with pytest.raises(ValueError, match=message):
        gradient_profile(
            bind(layer, params), lambda ys, _: ys[:, :1], Batch(xs, None, mask=mask), carry=carry
        )


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize("rate", [-3.0, -0.1, -1e-3, 0.02])
def test_an_exponential_is_recovered(rate):
    decay = fit_decay(2.5 + rate * np.arange(200))
    assert decay.better == "exponential" and decay.exponential_aic < decay.power_aic
    assert decay.exponential_rate == pytest.approx(rate, rel=1e-10)
    assert decay.exponential_length == (pytest.approx(-1 / rate, rel=1e-10) if rate < 0 else math.inf)


@pytest.mark.parametrize("exponent", [-2.0, -0.5, 0.7])
def test_a_power_law_is_recovered(exponent):
    decay = fit_decay(2.5 + exponent * np.log1p(np.arange(200)))
    assert decay.better == "power" and decay.power_aic < decay.exponential_aic
    assert decay.power_exponent == pytest.approx(exponent, rel=1e-10)


def test_a_fit_survives_noise():
    rng = np.random.default_rng(0)
    lags = np.arange(500)
    noise = 0.3 * rng.normal(size=500)
    decay = fit_decay(-0.05 * lags + noise)
    # The standard error of a slope: sigma / sqrt(sum (x - mean)^2).
    assert (
        abs(decay.exponential_rate + 0.05) < 5 * 0.3 / math.sqrt(500**3 / 12)
        and decay.better == "exponential"
    )
    decay = fit_decay(-1.5 * np.log1p(lags) + noise)
    x = np.log1p(lags)
    assert abs(decay.power_exponent + 1.5) < 5 * 0.3 / math.sqrt(((x - x.mean()) ** 2).sum())
    assert decay.better == "power"


def test_aic_is_that_of_a_line_with_normal_errors():
    rng = np.random.default_rng(0)
    log_norm = -0.05 * np.arange(50) + rng.normal(size=50)
    decay = fit_decay(log_norm)
    for x, slope, aic in (
        (np.arange(50.0), decay.exponential_rate, decay.exponential_aic),
        (np.log1p(np.arange(50.0)), decay.power_exponent, decay.power_aic),
    ):
        line = np.polynomial.Polynomial.fit(x, log_norm, 1).convert()
        assert slope == pytest.approx(line.coef[1], rel=1e-9)
        assert aic == pytest.approx(50 * math.log(np.mean((log_norm - line(x)) ** 2)) + 6, rel=1e-9)


@pytest.mark.parametrize("gap", [np.nan, -np.inf])
def test_entries_that_are_not_finite_take_no_part_in_a_fit(gap):
    log_norm = -0.1 * np.arange(40.0)
    log_norm[[0, 7, 8, 39]] = gap
    decay = fit_decay(log_norm)
    assert decay.exponential_rate == pytest.approx(-0.1, rel=1e-10) and decay.better == "exponential"
    assert decay.lag_50 == horizon(log_norm, 0.5)


@pytest.mark.parametrize(
    "log_norm", [[], [0.0], [0.0, -1.0], [np.nan] * 5, [-np.inf] * 5, [0.0, -np.inf, -1.0]]
)
def test_fewer_than_three_points_are_no_fit(log_norm):
    decay = fit_decay(np.array(log_norm))
    numbers = (decay.exponential_rate, decay.exponential_length, decay.exponential_aic)
    assert all(map(math.isnan, (*numbers, decay.power_exponent, decay.power_aic))) and decay.better == ""
    assert math.isnan(decay.lag_90) == (not np.isfinite(log_norm).any())


def test_a_fit_is_of_one_profile():
    with pytest.raises(ValueError, match=r"fit_decay: expected log norms \[T\] by lag, got \[5, 2\]"):
        fit_decay(np.zeros((5, 2)))
    with pytest.raises(
        TypeError, match=r"got GradientProfile\. Pass one leaf of a profile, reversed in time"
    ):
        fit_decay(sj.probes.GradientProfile(*[np.zeros((5, 2))] * len(sj.probes.GradientProfile._fields)))


def test_a_measured_profile_is_fitted_by_its_own_law():
    layer, params, carry = linear(0.9)
    log_norm = np.asarray(run_profile(layer, last_sum, params, carry, jnp.ones((64, 2, 1))).h)
    decay = fit_decay(log_norm[::-1, 0])  # by lag
    assert decay.better == "exponential" and decay.exponential_rate == pytest.approx(math.log(0.9), rel=1e-10)


# ---------------------------------------------------------------- horizons

counts = st.lists(st.integers(0, 9), min_size=1, max_size=30)
shares = st.integers(1, 20)


def log_of(masses):
    with np.errstate(divide="ignore"):
        return np.log(np.array(masses, float))


@given(masses=counts, share=shares)
@example(masses=[1, 9], share=2)  # a tenth, but for the rounding of exp and log
def test_a_horizon_is_the_least_lag_that_holds_the_share(masses, share):
    got = horizon(log_of(masses), share / 20)
    total = sum(masses)
    if total == 0:
        assert math.isnan(got)
        return
    held, wanted = 0, Fraction(share, 20) * total
    for lag, mass in enumerate(masses):
        held += mass
        if held >= wanted:
            assert got == lag
            return


@given(masses=counts, share=shares, shift=st.floats(-1e5, 1e5))
def test_a_horizon_does_not_depend_on_the_scale(masses, share, shift):
    assume(any(masses))
    # A shift of 1e5 costs the logs 1e-11 of their precision: exact ties are left out.
    held = np.cumsum([Fraction(m, sum(masses)) for m in masses])
    assume(all(abs(h - Fraction(share, 20)) > Fraction(1, 10**6) for h in held[:-1]))
    assert horizon(log_of(masses) + shift, share / 20) == horizon(log_of(masses), share / 20)


@given(masses=counts)
def test_horizons_grow_with_the_share(masses):
    assume(any(masses))
    lags = [horizon(log_of(masses), share / 20) for share in range(1, 21)]
    assert lags == sorted(lags) and 0 <= lags[0] and lags[-1] == max(i for i, m in enumerate(masses) if m)


@given(
    arrays(float, st.integers(1, 20), elements=st.floats(-700, 700)), st.integers(0, 19), st.integers(0, 1)
)
def test_nan_counts_as_nothing_in_a_horizon(log_norm, at, kind):
    gone = log_norm.copy()
    gone[at % len(gone)] = [np.nan, -np.inf][kind]
    zero = np.where(np.isnan(gone), -np.inf, gone)
    np.testing.assert_equal(horizon(gone, 0.5), horizon(zero, 0.5))
