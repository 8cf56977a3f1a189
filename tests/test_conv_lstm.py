"""Test the convolutional LSTM against Flax and Haiku; batch axes, the path along c, initial weights, errors."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import B, D, H, T, assert_equal, assert_equals_reference, init, normal, random_case
from helpers.refusals import refusals
from references import nonlinear as references
from references.gated import sigmoid

import seqjax as sj
from seqjax.cells import ConvLSTMCarry, ConvLSTMParams, image

P, Q = 4, 5


def inputs(batch=(B,)):
    return jnp.asarray(normal(0, T, *batch, P, Q, D))


def params_of(kernel_size=3):
    shapes = ((kernel_size, kernel_size, D, 4 * H), (kernel_size, kernel_size, H, 4 * H), (4 * H,))
    return ConvLSTMParams(*(jnp.asarray(0.4 * normal(i, *shape)) for i, shape in enumerate(shapes)), None)


def carry_of(batch=(B,)):
    return ConvLSTMCarry(*jnp.asarray(normal(5, 2, *batch, P, Q, H)))


def to_peer(params):
    """Kernels and biases in the order i, g, f, o of Flax and Haiku, which add 1 to the forget gate's bias."""
    reorder = lambda a: jnp.concatenate([jnp.split(a, 4, -1)[g] for g in (0, 2, 1, 3)], -1)  # noqa: E731
    b = reorder(params.b)
    one = jnp.zeros((4, H)).at[2].set(1).reshape(-1)
    return reorder(params.w_x), reorder(params.w_h), b - one


def flax_unroll(kernel_size):
    cell = nn.ConvLSTMCell(H, (kernel_size, kernel_size))

    def unroll(params, carry, xs):
        w_x, w_h, b = to_peer(params)
        variables = {
            "params": {"ih": {"kernel": w_x, "bias": b}, "hh": {"kernel": w_h, "bias": jnp.zeros_like(b)}}
        }
        return jax.lax.scan(lambda carry, x: cell.apply(variables, carry, x), tuple(carry), xs)

    return unroll


def haiku_unroll(kernel_size):
    hk = pytest.importorskip("haiku")

    def step(x, state):
        return hk.Conv2DLSTM((P, Q), H, kernel_size, name="cell")(x, state)

    transformed = hk.without_apply_rng(hk.transform(step))

    def unroll(params, carry, xs):
        w_x, w_h, b = to_peer(params)
        weights = {
            "cell/input_to_hidden": {"w": w_x, "b": b},
            "cell/hidden_to_hidden": {"w": w_h, "b": jnp.zeros_like(b)},
        }

        def body(state, x):
            y, state = transformed.apply(weights, x, state)
            return state, y

        state, ys = jax.lax.scan(body, hk.LSTMState(carry.h, carry.c), xs)
        return (state.cell, state.hidden), ys

    return unroll


@pytest.mark.parametrize("kernel_size", [3, 2])
@pytest.mark.parametrize("peer", [flax_unroll, pytest.param(haiku_unroll, marks=pytest.mark.peers)])
@pytest.mark.fast_cases(1)
def test_values_and_gradients_equal_those_of(peer, kernel_size):
    operands = params_of(kernel_size), carry_of(), inputs()

    def gradients(unroll):
        def loss(*operands):
            after, ys = unroll(*operands)
            total = jnp.sum(ys * normal(6, *ys.shape))
            return total + sum(jnp.sum(a * normal(7, *a.shape)) for a in after), (after, ys)

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*operands)

    layer = sj.recurrent(sj.conv_lstm(H, kernel_size=kernel_size))
    assert_equal(gradients(layer.unroll), gradients(peer(kernel_size)), 1e-10)


def test_without_peepholes_it_equals_the_reference():
    cell = sj.conv_lstm(H, kernel_size=3)
    assert random_case(cell, image)[1].w_c is None
    assert_equals_reference(cell, references.conv_lstm, image)


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["unbatched", "two axes"])
@pytest.mark.fast_cases(1)
def test_a_batch_may_have_no_axis_or_two(batch):
    layer, params = sj.recurrent(sj.conv_lstm(H)), params_of()
    xs, carry = inputs(batch), carry_of(batch)
    mask = jnp.asarray(normal(8, T, *batch) > 0)
    after, ys = jax.jit(layer.unroll)(params, carry, xs, reset=~mask, mask=mask)
    flat = jax.tree.map(lambda a: a.reshape(-1, P, Q, H), carry)
    flags = mask.reshape(T, -1)
    expected, ys_flat = jax.jit(layer.unroll)(
        params, flat, xs.reshape(T, -1, P, Q, D), reset=~flags, mask=flags
    )
    assert_equal(ys.reshape(ys_flat.shape), ys_flat)
    assert_equal([leaf.reshape(-1, P, Q, H) for leaf in after], expected)


def test_with_gates_of_the_input_alone_c_is_carried_by_the_product_of_forget_gates():
    params = params_of(1)
    params = params._replace(w_h=jnp.zeros_like(params.w_h))
    xs, carry = inputs(()), carry_of(())

    def total_after(c):
        return jnp.sum(
            jax.jit(sj.recurrent(sj.conv_lstm(H, kernel_size=1)).unroll)(params, carry._replace(c=c), xs)[0].c
        )

    z = np.asarray(xs) @ np.asarray(params.w_x[0, 0]) + np.asarray(params.b)
    assert_equal(jax.grad(total_after)(carry.c), sigmoid(z[..., H : 2 * H]).prod(0))


def test_a_gradient_spreads_by_the_radius_of_the_kernel_per_step():
    layer, params = sj.recurrent(sj.conv_lstm(H)), params_of()
    xs = jnp.asarray(normal(0, 2, 9, 9, D))
    carry = ConvLSTMCarry(*jnp.asarray(normal(5, 2, 9, 9, H)))
    gradient = jax.grad(lambda h: jnp.sum(layer.unroll(params, carry._replace(h=h), xs)[1][-1, 4, 4]))(
        carry.h
    )
    reached = np.abs(gradient).sum(-1) > 0
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    np.testing.assert_array_equal(reached, expected)


def test_initial_weights():
    size, kernel_size = 40, 3
    cell = sj.conv_lstm(size, kernel_size=kernel_size, peepholes=True, forget_bias=2.0)
    params = jax.tree.map(np.asarray, init(cell, 10, image))
    for w, channels in ((params.w_x, 10), (params.w_h, size)):
        bound = math.sqrt(6 / (kernel_size**2 * (channels + size)))
        assert 0.98 * bound < np.abs(w).max() <= bound
        gates = np.split(w, 4, -1)
        assert all(np.abs(gates[0] - gate).max() > 0.1 * bound for gate in gates[1:])
    assert params.w_c.shape == (3, 3, 2, size) and not params.w_c.any()
    np.testing.assert_array_equal(
        np.split(params.b, 4), [[0.0] * size, [2.0] * size, [0.0] * size, [0.0] * size]
    )


def unrolled(change, **options):
    """The unroll of a cell on images [7, 3, 3, 2, 4] that were changed."""
    cell, params, carry, xs = random_case(sj.conv_lstm(H, peepholes=True), image)
    return sj.recurrent(cell).unroll(params, carry, change(xs), **options)


REFUSED = {
    "channels": (
        lambda: unrolled(lambda xs: xs[..., :3]), ValueError,
        r"conv_lstm\(.*\)\.unroll: expected floating xs \[\.\.\., P, Q, 4\]"),
    "size": (
        lambda: unrolled(lambda xs: xs[:, :, :2]), ValueError,
        r"expected images of 3 x 2 \(w_c is \[3, 3, 2, 6\]\), got \[3, 2, 2, 4\]"),
    "axes": (
        lambda: unrolled(lambda xs: xs[:, :, 0, 0]), ValueError,
        r"expected xs \[T, \.\.\., D1, D2, D3\], got \[7, 3, 4\]"),
    "a mask of pixels": (
        lambda: unrolled(lambda xs: xs, mask=jnp.ones((7, 3, 3, 2), bool)), ValueError,
        r"expected mask \[7, 3\], as xs \[7, 3, 3, 2, 4\], got \[7, 3, 3, 2\]"),
    "kernel_size": (
        lambda: sj.conv_lstm(3, kernel_size=0), ValueError,
        r"conv_lstm\(kernel_size\): expected a whole number of at least 1, got 0"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
