"""Test both scans of the diagonal linear recurrence against a NumPy loop and the specification's gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiers import slow

import seqjax as sj
from seqjax.base import Diagonal, DiagonalInputs
from seqjax.cells import LRUParams
from seqjax.ops.diagonal import associative, diagonal, linear_scan, sequential
from seqjax.ops.select import keep, select
from seqjax.ops.step import loop, step_of

T, B, H = 11, 3, 4
both_scans = pytest.mark.parametrize("scan", [sequential, associative], ids=lambda scan: scan.__name__)
jitted = jax.jit(linear_scan, static_argnums=0)


def normal(seed, *shape, kind=float):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    return values + 1j * rng.normal(size=shape) if kind is complex else values


def flags():
    rng = np.random.default_rng(7)
    reset, mask = rng.random((T, B)) < 0.3, rng.random((T, B)) < 0.7
    reset[0], mask[3, 0], reset[3, 0] = [True, False, False], False, True  # at the first step; where masked
    return reset, mask


def numpy_loop(a, b, carry, initial, reset=None, mask=None):
    a = np.broadcast_to(a if np.ndim(a) == b.ndim else np.asarray(a)[None], b.shape)
    h, hs = carry, []
    for t in range(len(b)):
        if reset is not None:
            h = np.where(reset[t][..., None], initial, h)
        after = a[t] * h + b[t]
        h = after if mask is None else np.where(mask[t][..., None], after, h)
        hs.append(h)
    return np.stack(hs)


def operands(kind, constant, dtype=None):
    a = 0.9 * normal(0, *((H,) if constant else (T, B, H)), kind=kind)
    b, carry, initial = normal(1, T, B, H, kind=kind), normal(2, B, H, kind=kind), normal(3, B, H, kind=kind)
    return tuple(jnp.asarray(array, dtype) for array in (a, b, carry, initial))


def assert_close(got, expected, rtol=1e-12):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(1, np.abs(y).max()))


def assert_same(got, expected, where=...):
    """Bit by bit."""
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[where], np.asarray(y)[where])


def weighted(carry, hs):
    """A real function of everything that a scan returns."""
    total = jnp.sum(jnp.real(hs * normal(20, *hs.shape, kind=complex)))
    return total + jnp.sum(jnp.real(carry * normal(21, *carry.shape, kind=complex)))


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
@pytest.mark.parametrize("kind", [float, complex])
@both_scans
@pytest.mark.fast_cases(2)
def test_a_scan_equals_the_loop(scan, kind, constant):
    a, b, carry, initial = operands(kind, constant)
    for reset in (None, flags()[0]):
        assert_close(jitted(scan, a, b, carry, initial, reset, None), numpy_loop(a, b, carry, initial, reset))


@both_scans
def test_a_bare_scan_starts_from_zero_and_restarts_from_zero(scan):
    a, b, carry, _ = operands(float, False)
    reset, _ = flags()
    zero = np.zeros_like(carry)
    assert_close(jax.jit(scan)(a, b, None), numpy_loop(a, b, zero, zero))
    assert_close(jax.jit(scan)(a, b, jnp.asarray(reset)), numpy_loop(a, b, zero, zero, reset))


@pytest.mark.parametrize("shape", [(), (2, 1, 3), *slow((2,))], ids=str)
@both_scans
@pytest.mark.fast_cases(2)
def test_a_batch_has_any_number_of_axes(scan, shape):
    a, b, carry = normal(0, H), normal(1, T, *shape, H), normal(2, *shape, H)
    reset = np.random.default_rng(3).random((T, *shape)) < 0.3
    got = jitted(scan, a, b, carry, np.zeros_like(carry), reset, None)
    assert_close(got, numpy_loop(a, b, carry, np.zeros_like(carry), reset))


@pytest.mark.parametrize("length", [1, 2])
@both_scans
@pytest.mark.fast_cases(2)
def test_short_sequences_work(scan, length):
    a, b, carry, initial = operands(float, False)
    reset = jnp.ones((length, B), bool)
    for flag in (None, reset):
        got = jitted(scan, a[:length], b[:length], carry, initial, flag, None)
        assert_close(got, numpy_loop(a[:length], b[:length], carry, initial, flag))


@both_scans
def test_the_recurrence_runs_in_the_dtype_of_its_carry(scan):
    a, b, carry, initial = operands(float, False)
    inputs = DiagonalInputs(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))
    carry, initial = carry.astype(jnp.float32), initial.astype(jnp.float32)
    run = jax.jit(functools.partial(diagonal, scan))
    after, hs = run(inputs, carry, sj.Flags(initial=initial))
    assert after.dtype == hs.dtype == jnp.float32
    expected = numpy_loop(*(np.asarray(x, np.float64) for x in (*inputs, carry, initial)))
    assert_close(hs, expected, rtol=1e-6)


# ---------------------------------------------------------------- gradients


def by_specification(inputs, carry, initial, reset, mask):
    """The step-by-step loop that JAX differentiates."""
    us = DiagonalInputs(jnp.broadcast_to(inputs.a, inputs.b.shape), inputs.b)
    return loop(step_of(Diagonal(), None, None), carry, us, sj.Flags(initial=initial, reset=reset, mask=mask))


def gradients(run, kind, constant, reset, mask):
    """Value and gradients by every operand of ``run(inputs, carry, initial, reset, mask) -> (carry, hs)``."""

    def loss(a, b, carry, initial):
        after, hs = run(DiagonalInputs(a, b), carry, initial, reset, mask)
        return weighted(after, keep(mask, hs))  # what a masked step emits is cut off by the layer

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(*operands(kind, constant))


@functools.cache
def specified_gradients(kind, constant, flagged):
    return gradients(
        by_specification, kind, constant, *(map(jnp.asarray, flags()) if flagged else (None, None))
    )


def by_scan(scan):
    def run(inputs, carry, initial, reset, mask):
        return diagonal(scan, inputs, carry, sj.Flags(initial=initial, reset=reset, mask=mask))

    return run


@pytest.mark.parametrize(
    ("kind", "constant", "flagged"),
    [
        (float, False, True),
        (float, True, True),
        (complex, False, True),
        (complex, True, True),
        (complex, True, False),
    ],
    ids=str,
)
@both_scans
@pytest.mark.fast_cases(3)
def test_values_and_gradients_by_every_operand_equal_the_specification(scan, kind, constant, flagged):
    reset, mask = map(jnp.asarray, flags()) if flagged else (None, None)
    got = gradients(by_scan(scan), kind, constant, reset, mask)
    assert_close(got, specified_gradients(kind, constant, flagged))
    if flagged:
        d_initial = np.asarray(got[1][3])
        assert (np.abs(d_initial).max(-1) > 0).all()  # every row has a reset: the check above is not of zeros


@both_scans
def test_values_with_a_mask_equal_the_loop(scan):
    a, b, carry, initial = operands(complex, True)
    reset, mask = flags()
    run = jax.jit(functools.partial(diagonal, scan))
    after, hs = run(DiagonalInputs(a, b), carry, sj.Flags(initial=initial, reset=reset, mask=mask))
    expected = numpy_loop(a, b, carry, initial, reset, mask)
    assert_close((after, hs), (expected[-1], expected))


@both_scans
@pytest.mark.fast_cases(1)
def test_decays_that_broadcast_over_the_batch_have_gradients_of_their_own_shape(scan):
    a, b, carry, initial = operands(float, False)
    shared = a[:, :1]
    reset = jnp.asarray(flags()[0])

    def loss(a, b):
        return weighted(carry, linear_scan(scan, a, b, carry, initial, reset, None))

    got = jax.jit(jax.grad(loss, (0, 1)))(shared, b)
    expected = jax.jit(jax.grad(loss, (0, 1)))(jnp.broadcast_to(shared, b.shape), b)
    assert_close(got, (expected[0].sum(1, keepdims=True), expected[1]))


@pytest.mark.parametrize("kind", [float, complex])
@both_scans
@pytest.mark.fast_cases(1)
def test_second_derivatives_equal_those_of_the_specification(scan, kind):
    a, b, carry, initial = operands(kind, True)
    reset, mask = map(jnp.asarray, flags())

    def squared_gradient(run):
        def loss(a, b, carry, initial):
            after, hs = run(DiagonalInputs(a, b), carry, initial, reset, mask)
            return weighted(after, keep(mask, hs))

        def total(*operands):
            grads = jax.grad(loss, (0, 1, 2, 3))(*operands)
            return sum(jnp.sum(jnp.abs(g) ** 2) for g in grads)

        return jax.jit(jax.grad(total, (0, 1, 2, 3)))(a, b, carry, initial)

    assert_close(squared_gradient(by_scan(scan)), squared_gradient(by_specification), rtol=1e-11)


@both_scans
@pytest.mark.fast_cases(1)
def test_rows_under_vmap_have_the_gradients_of_the_batch(scan):
    a, b, carry, initial = operands(complex, True)
    reset = jnp.asarray(flags()[0])

    def loss(b, carry, initial, reset, weights):
        hs = linear_scan(scan, a, b, carry, initial, reset, None)
        return jnp.sum(jnp.real(hs * weights))

    weights = jnp.asarray(normal(20, T, B, H, kind=complex))
    whole = jax.jit(jax.grad(loss, (0, 1, 2)))(b, carry, initial, reset, weights)
    rows = jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2)), (1, 0, 0, 1, 1), (1, 0, 0)))(
        b, carry, initial, reset, weights
    )
    assert_close(rows, whole)


@both_scans
@pytest.mark.fast_cases(1)
def test_a_tap_reads_the_norm_of_the_gradient_by_the_entering_carry(scan):
    a, b, carry, initial = operands(complex, False)
    reset, mask = map(jnp.asarray, flags())

    def loss(deltas, tap):
        """By the definition, with an array added to the carry after its reset; or by the tap."""
        if tap is not None:
            after, hs = diagonal(
                scan, DiagonalInputs(a, b), carry, sj.Flags(initial=initial, reset=reset, mask=mask, tap=tap)
            )
            return weighted(after, keep(mask, hs))

        def body(h, inputs):
            a, b, reset, mask, delta = inputs
            h = select(reset, initial, h) + delta
            h = select(mask, a * h + b, h)
            return h, h

        after, hs = jax.lax.scan(body, carry, (a, b, reset, mask, deltas))
        return weighted(after, keep(mask, hs))

    expected = jnp.linalg.norm(jax.jit(jax.grad(loss))(jnp.zeros_like(b), None), axis=-1)
    got = jax.jit(jax.grad(loss, 1))(None, jnp.zeros((T, B)))
    assert_close(got, expected)


# ---------------------------------------------------------------- what must not leak


POISON = [np.nan, *slow(np.inf, 1e30)]


@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
@both_scans
@pytest.mark.fast_cases(1)
def test_nan_before_a_reset_reaches_nothing_after_it(scan, constant):
    a, b, carry, initial = operands(complex, constant)
    reset = jnp.zeros((T, B), bool).at[6, 0].set(True)

    @jax.jit
    def run(a, b, carry):
        def loss(b, initial):
            hs = linear_scan(scan, a, b, carry, initial, reset, None)
            return weighted(hs[-1], hs), hs

        return jax.grad(loss, (0, 1), has_aux=True)(b, initial)

    (clean_b, clean_initial), clean = run(a, b, carry)
    poisons = [(a, b.at[4, 0].set(jnp.nan), carry), (a, b, carry.at[0].set(jnp.nan))]
    if not constant:
        poisons.append((a.at[2, 0].set(jnp.nan), b, carry))
    for poisoned in poisons:
        (d_b, d_initial), hs = run(*poisoned)
        assert np.isnan(np.asarray(hs)[:6, 0]).any()
        assert_same((hs, d_b), (clean, clean_b), np.s_[6:])
        assert_same((hs, d_b), (clean, clean_b), np.s_[:, 1:])
        assert_same(d_initial, clean_initial)
    if not constant:  # nor does the gradient of what comes after reach before it
        (d_b, _), _ = run(a.at[8, 0].set(jnp.nan), b, carry)
        assert np.isnan(np.asarray(d_b)[6:8, 0]).all()
        assert_same(d_b[:6], clean_b[:6])


@pytest.mark.parametrize("poison", POISON)
@both_scans
@pytest.mark.fast_cases(1)
def test_what_masked_steps_hold_changes_nothing(scan, poison):
    a, b, carry, initial = operands(float, False)
    reset, mask = map(jnp.asarray, flags())

    @jax.jit
    def run(a, b):
        def loss(a, b, carry, initial):
            after, hs = diagonal(
                scan, DiagonalInputs(a, b), carry, sj.Flags(initial=initial, reset=reset, mask=mask)
            )
            return weighted(after, hs), (after, hs)

        return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(a, b, carry, initial)

    clean = run(a, b)
    gone = ~mask[..., None]
    assert_same(run(jnp.where(gone, poison, a), jnp.where(gone, poison, b)), clean)
    assert (np.asarray(clean[0][0])[~np.asarray(mask)] == 0).all()
    assert (np.asarray(clean[0][1])[~np.asarray(mask)] == 0).all()


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("method", [sj.Scan(), sj.Scan(gradient="autodiff"), sj.AssociativeScan()], ids=repr)
@pytest.mark.fast_cases(1)
def test_what_masked_inputs_of_a_layer_hold_changes_nothing(method, poison):
    layer, params, carry, xs = layer_setting(method)
    reset, mask = map(jnp.asarray, flags())

    @jax.jit
    def run(xs):
        def loss(params, carry, xs):
            after, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)
            return weighted(after, ys), (after, ys)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(params, carry, xs)

    clean = run(xs)
    assert_same(run(jnp.where(mask[..., None], xs, poison)), clean)
    gone = ~np.asarray(mask)
    assert (np.asarray(clean[0][2])[gone] == 0).all() and (np.asarray(clean[1][1])[gone] == 0).all()


@pytest.mark.parametrize("method", [sj.Scan(), sj.Scan(gradient="autodiff"), sj.AssociativeScan()], ids=repr)
@pytest.mark.fast_cases(1)
def test_nan_in_an_input_of_a_layer_reaches_nothing_after_a_reset(method):
    layer, params, carry, xs = layer_setting(method)
    reset = jnp.zeros((T, B), bool).at[6, 0].set(True)

    @jax.jit
    def run(xs):
        def loss(xs):
            after, ys = layer.unroll(params, carry, xs, reset=reset)
            return weighted(after, ys), (after, ys)

        return jax.grad(loss, has_aux=True)(xs)

    d_clean, (after, clean) = run(xs)
    d_xs, (got, ys) = run(xs.at[4, 0].set(jnp.nan))
    assert np.isnan(np.asarray(ys)[4:6, 0]).all()
    assert_same((got, ys[6:], d_xs[6:]), (after, clean[6:], d_clean[6:]))
    assert_same((ys[:, 1:], d_xs[:, 1:]), (clean[:, 1:], d_clean[:, 1:]))


# ---------------------------------------------------------------- layers


def layer_setting(method, dtype=jnp.float64):
    width = 3
    sizes = [(H,), (H,), (H,), (width, 2 * H), (2 * H, 5), (width, 5)]
    params = LRUParams(*(jnp.asarray(0.5 * normal(30 + i, *size), dtype) for i, size in enumerate(sizes)))
    carry = jnp.asarray(normal(36, B, H, kind=complex), jnp.promote_types(dtype, jnp.complex64))
    return (
        sj.recurrent(sj.lru(5, state_size=H), method),
        params,
        carry,
        jnp.asarray(normal(37, T, B, width), dtype),
    )


@pytest.mark.slow  # conformance compares every method with the loop
def test_methods_agree_on_a_layer_whatever_the_chunk():
    reset, mask = map(jnp.asarray, flags())

    def run(method):
        layer, params, carry, xs = layer_setting(method)

        def loss(params, carry, xs):
            after, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)
            return weighted(after, ys), (after, ys)

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, carry, xs)

    expected = run(sj.Scan(gradient="autodiff"))
    odd = sj.Scan(gradient="autodiff", chunk=4, unroll_factor=3)
    for method in (sj.AssociativeScan(), odd, sj.Scan(chunk=4), sj.Scan(chunk=T + 5)):
        assert_close(run(method), expected)


@pytest.mark.parametrize("method", [sj.Scan(), sj.AssociativeScan()], ids=repr)
@pytest.mark.fast_cases(1)
def test_bfloat16_inputs_give_bfloat16_outputs_and_a_recurrence_in_float32(method):
    layer, params, _, xs = layer_setting(method, jnp.float32)
    low = xs.astype(jnp.bfloat16)

    def loss(params, xs):
        carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        return jnp.sum(jnp.square(ys.astype(jnp.float32))), (carry, ys)

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (d_params, d_xs), (carry, ys) = run(params, low)
    (wide_params, wide_xs), (_, wide) = run(params, low.astype(jnp.float32))
    assert ys.dtype == d_xs.dtype == jnp.bfloat16 and carry.dtype == jnp.complex64
    assert {leaf.dtype for leaf in d_params} == {jnp.dtype(jnp.float32)}
    # Weights, projections and outputs are rounded to 8 bits, a handful of times; the recurrence over 11 steps is not.
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for got, expected in zip([ys, d_xs, *d_params], [wide, wide_xs, *wide_params], strict=True):
        error = np.linalg.norm(np.asarray(got, np.float32) - expected) / np.linalg.norm(expected)
        assert error < 3 * eps


def test_a_sequence_in_forward_mode_equals_reverse_mode():
    layer, params, carry, xs = layer_setting(sj.Scan(gradient="autodiff"))
    direction = jax.tree.map(lambda p: jnp.asarray(normal(40, *p.shape)), params)

    def outputs(params):
        return layer.unroll(params, carry, xs)[1]

    ys, tangent = jax.jit(lambda p, d: jax.jvp(outputs, (p,), (d,)))(params, direction)
    weights = normal(41, *ys.shape)
    batched = sj.recurrent(sj.lru(5, state_size=H), sj.Scan())
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(batched.unroll(p, carry, xs)[1] * weights)))(params)
    forward = sum(float(jnp.sum(g * d)) for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(float(jnp.sum(tangent * weights)), forward, rtol=1e-12)


def test_inputs_that_do_not_fit_are_refused():
    layer, params, carry, xs = layer_setting(sj.Scan())
    with pytest.raises(ValueError, match=r"lru.*expected floating .* got int"):
        layer.unroll(params, carry, jnp.ones((T, B, 3), int))
    with pytest.raises(ValueError, match=r"lru.*expected .*3\].* got .*\[(11, )?3, 2\]"):
        layer.unroll(params, carry, xs[..., :2])
