"""Test the sLSTM: a weighted mean in closed form, gates of any size, heads, the empty carry, initialization, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import B, D, H, T, assert_equal, assert_equals_reference, init, jacobian, normal
from helpers.tiers import slow
from references import nonlinear as references
from references.gated import sigmoid

import seqjax as sj
from seqjax.cells import SLSTMCarry, SLSTMParams

METHODS = pytest.mark.parametrize("method", [sj.Scan(), sj.Scan(gradient="autodiff")], ids=repr)


def by_the_input_alone(size=H, seed=0, scale=1.0, heads=1, dtype=float):
    """Params without recurrent weights."""
    w_x, b = scale * normal(seed, D, 4 * size), scale * normal(seed + 1, 4 * size)
    w_h = np.zeros((heads, size // heads, 4, size // heads))
    return SLSTMParams(*(jnp.asarray(a, dtype) for a in (w_x, w_h, b)))


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_h_is_the_weighted_mean_of_what_was_stored(forget):
    """Eq. 8-14 without a stabilizer, as one sum over the past."""
    params, xs = by_the_input_alone(), normal(2, T, B, D)
    cell = sj.slstm(H, forget_gate=forget)
    carry = cell.initial_carry(params, jnp.asarray(xs[0]))
    _, ys = jax.jit(sj.recurrent(cell).unroll)(params, carry, jnp.asarray(xs))
    i, f, z, o = np.split(xs @ np.asarray(params.w_x) + np.asarray(params.b), 4, axis=-1)
    f = sigmoid(f) if forget == "sigmoid" else np.exp(f)
    for t in range(T):
        weights = np.stack([np.exp(i[s]) * f[s + 1 : t + 1].prod(0) for s in range(t + 1)])
        mean = (weights * np.tanh(z[: t + 1])).sum(0) / weights.sum(0)
        assert_equal(ys[t], sigmoid(o[t]) * mean)


def test_the_stored_state_times_exp_m_is_carried_by_the_product_of_forget_gates():
    """With m held by an old large gate, dc_T/dc_0 is the product of the gates f."""
    params, xs = by_the_input_alone(), normal(2, T, D)
    carry = SLSTMCarry(*jnp.asarray(np.stack([normal(3, H), np.ones(H), np.full(H, 50.0), np.zeros(H)])))
    got = jacobian(sj.slstm(H), params, carry, jnp.asarray(xs))
    after, _ = jax.jit(sj.recurrent(sj.slstm(H)).unroll)(params, carry, jnp.asarray(xs))
    f = sigmoid(xs @ np.asarray(params.w_x) + np.asarray(params.b))[:, H : 2 * H]
    assert_equal(got * np.exp(np.asarray(after.m) - 50)[:, None], np.diag(f.prod(0)))


@METHODS
@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("size", [1e30, *slow(100.0, 1e4)])
@pytest.mark.fast_cases(2)
def test_gates_of_any_size_give_finite_values_and_gradients(size, forget, method):
    params = by_the_input_alone(scale=0.0, dtype=np.float32)
    cell = sj.slstm(H, forget_gate=forget)
    signs = np.sign(normal(5, 4 * H))
    params = params._replace(b=jnp.asarray(size * signs, jnp.float32))
    xs = jnp.asarray(normal(2, T, B, D), jnp.float32)
    layer = sj.recurrent(cell, method)

    def loss(params, xs):
        carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        return jnp.sum(ys), (carry, ys)

    gradients, (carry, ys) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, xs)
    for leaf in jax.tree.leaves((gradients, carry.c, carry.n, ys)):
        assert np.isfinite(leaf).all()
    assert np.asarray(carry.n).min() >= 1 and np.abs(ys).max() <= 1


def test_the_normalizer_is_at_least_one_from_the_first_step_on():
    cell = sj.slstm(H)
    params, xs = by_the_input_alone(scale=3.0), jnp.asarray(normal(2, 50, B, D))
    carry = cell.initial_carry(params, xs[0])
    step = jax.jit(sj.recurrent(cell).step)
    for x in xs:
        carry, _ = step(params, carry, x)
        assert np.asarray(carry.n).min() >= 1


@METHODS
@pytest.mark.fast_cases(1)
def test_an_empty_carry_is_empty_whatever_its_stabilizer(method):
    params, xs = by_the_input_alone(), jnp.asarray(normal(2, T, B, D))
    layer = sj.recurrent(sj.slstm(H), method)
    zero = jnp.zeros((B, H))

    def loss(params, m):
        carry = SLSTMCarry(zero, zero, m, zero)
        return jnp.sum(layer.unroll(params, carry, xs)[1] * normal(4, T, B, H))

    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    expected = run(params, zero)
    for m in (-1e4, 1e4):
        got = run(params, jnp.full((B, H), m))
        assert_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1][1], zero)
        for a, b in zip(got[1][0], expected[1][0], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_heads_do_not_mix():
    cell, params = sj.slstm(H, num_heads=3), init(sj.slstm(H, num_heads=3, param_dtype=jnp.float64))
    params = params._replace(b=jnp.asarray(normal(6, 4 * H)))
    carry = SLSTMCarry(*jnp.asarray(np.abs(normal(3, 4, H))))
    got = jacobian(cell, params, carry, jnp.asarray(normal(2, T, D)), leaf=3)
    assert np.abs(got).max() > 1e-6
    blocks = np.kron(np.eye(3), np.ones((2, 2)))
    np.testing.assert_array_equal(got[blocks == 0], 0)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.fast_cases(1)
def test_options_of_slstm_equal_the_reference(heads):
    assert_equals_reference(sj.slstm(H, num_heads=heads, forget_gate="exp"), references.slstm("exp"))


def test_slstm_starts_orthogonal_per_head_and_gate_with_its_forget_bias():
    params = jax.tree.map(np.asarray, init(sj.slstm(60, num_heads=3)))
    assert params.w_h.shape == (3, 20, 4, 20)
    blocks = params.w_h.swapaxes(1, 2).reshape(12, 20, 20).astype(float)
    for i, block in enumerate(blocks):
        np.testing.assert_allclose(block.T @ block, np.eye(20), atol=1e-5)
        assert all(np.abs(block - other).max() > 0.1 for other in blocks[:i])
    for options, bias in (({}, 1.0), ({"forget_gate": "exp"}, 0.0), ({"forget_bias": 2.5}, 2.5)):
        b = init(sj.slstm(H, **options)).b
        np.testing.assert_array_equal(np.split(b, 4), [[0.0] * H, [bias] * H, [0.0] * H, [0.0] * H])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, r"slstm\(num_heads\): expected a divisor of hidden_size=6, got 4\."),
        ({"num_heads": 0}, r"slstm\(num_heads\): expected a whole number of at least 1, got 0\."),
        ({"forget_gate": "tanh"}, r"slstm\(forget_gate\): expected one of 'sigmoid', 'exp', got 'tanh'\."),
    ],
)
def test_arguments_of_slstm_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sj.slstm(6, **options)
