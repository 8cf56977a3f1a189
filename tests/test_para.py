"""Test ParaGRU and ParaLSTM: structure and entries of their Jacobians, initial weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import H, T, assert_equal, init, jacobian, random_case
from references.gated import sigmoid

import seqjax as sj
from seqjax.cells import ParaLSTMCarry


def test_the_jacobian_of_para_gru_is_diagonal_and_as_derived():
    cell, params, carry, xs = random_case(sj.para_gru(H))
    first = jax.tree.map(lambda a: a[0], carry)
    far = jacobian(cell, params, first, xs[:, 0])
    assert np.abs(np.diag(far)).min() > 0
    np.testing.assert_array_equal(far, np.diag(np.diag(far)))

    h = np.asarray(first.h)
    r, z, n = np.split(np.asarray(xs[0, 0] @ params.w_x + params.b), 3)
    a_r, a_z, a_n = np.asarray(params.w_h)
    r, z = sigmoid(r + a_r * h), sigmoid(z + a_z * h)
    n = np.tanh(n + a_n * r * h)
    by_n = (1 - n**2) * a_n * (r + h * r * (1 - r) * a_r)
    expected = 1 - z + (n - h) * z * (1 - z) * a_z + z * by_n
    assert_equal(jacobian(cell, params, first, xs[:1, 0]), np.diag(expected))


def test_the_jacobian_of_para_lstm_is_a_block_of_two_by_two_per_unit():
    cell, params, carry, xs = random_case(sj.para_lstm(H))

    def after(both):
        return jnp.stack(sj.recurrent(cell).unroll(params, ParaLSTMCarry(*both), xs[:, 0])[0])

    got = np.asarray(jax.jit(jax.jacrev(after))(jnp.stack([leaf[0] for leaf in carry])))
    blocks = np.einsum("ijkj->jik", got)
    assert (np.abs(blocks) > 0).all()
    outside = got * (1 - np.eye(H))[None, :, None, :]
    np.testing.assert_array_equal(outside, 0)


def test_para_lstm_with_a_forget_gate_of_the_input_alone_carries_c_by_its_product():
    cell, params, carry, xs = random_case(sj.para_lstm(H))
    params = params._replace(w_h=jnp.zeros_like(params.w_h), w_c=jnp.zeros_like(params.w_c))
    forget = sigmoid(np.asarray(xs[:, 0] @ params.w_x + params.b))[:, :H]
    got = jacobian(cell, params, jax.tree.map(lambda a: a[0], carry), xs[:, 0])
    assert forget.shape == (T, H)
    assert_equal(got, np.diag(forget.prod(0)))


@pytest.mark.parametrize(("factory", "falling"), [(sj.para_gru, 1), (sj.para_lstm, 0)])
def test_initial_weights_are_those_of_the_authors(factory, falling):
    width, size = 40, 1000
    params = jax.tree.map(np.asarray, init(factory(size), width))
    for w in params[1:-1]:  # w_h, and w_c where there is one
        assert w.std() == pytest.approx(2 / math.sqrt(5 * size), rel=5 / math.sqrt(2 * w.size))
        assert np.mean(w**4) / w.var() ** 2 == pytest.approx(3, abs=0.5)
    bound = math.sqrt(6 / (width + size))
    assert 0.99 * bound < np.abs(params.w_x).max() <= bound
    b = params.b.reshape(3, size)
    np.testing.assert_allclose(b[falling], -np.linspace(0, 1, size), atol=1e-6)
    assert not np.delete(b, falling, 0).any()
