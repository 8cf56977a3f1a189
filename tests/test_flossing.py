"""Test gradient flossing: the loss, its gradient by finite differences, and its effect on exponents."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax.cells import ElmanParams
from seqjax.probes import bind, flossing_loss, lyapunov_spectrum

LAYER = sj.recurrent(sj.elman(3))


def setting(length=12):
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(length, 2, 2)))
    params = ElmanParams(*(jnp.asarray(rng.normal(size=shape)) for shape in ((2, 3), (3, 3), (3,))))
    return params, xs


def test_the_gradient_is_that_by_finite_differences_and_the_loss_that_of_the_spectrum():
    params, xs = setting()
    reset = jnp.zeros((12, 2), bool).at[5, 0].set(True)
    mask = jnp.ones((12, 2), bool).at[jnp.asarray([3, 8]), 1].set(False)
    batch = sj.Batch(jnp.where(mask[..., None], xs, jnp.nan), None, reset, mask)

    def loss(params):
        return flossing_loss(bind(LAYER, params), batch, k=2, warm_up=2)

    evaluate = jax.jit(jax.value_and_grad(loss))
    value, gradient = evaluate(params)
    found = lyapunov_spectrum(bind(LAYER, params), batch, k=2, warm_up=2)
    np.testing.assert_allclose(value, jnp.sum(found.exponents**2, 1).mean(), rtol=1e-10)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    along = sum(jnp.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    eps = 1e-6
    ends = [evaluate(jax.tree.map(lambda p, d, e=e: p + e * d, params, direction))[0] for e in (eps, -eps)]
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / (2 * eps), rtol=1e-7)


@pytest.mark.parametrize("qr_every", [1, 3])
@pytest.mark.fast_cases(1)
def test_an_optimizer_moves_exponents_to_zero(qr_every):
    params, xs = setting(20)
    params = params._replace(w_h=params.w_h / 4)  # they vanish
    optimizer = optax.adam(0.05)

    def loss(params):
        return flossing_loss(bind(LAYER, params), xs, k=1, qr_every=qr_every)

    @jax.jit
    def update(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for _ in range(60):
        params, state, value = update(params, state)
        values.append(float(value))
    assert values[0] > 3 and values[-1] < 0.03


def test_rows_without_steps_take_no_part():
    params, xs = setting()
    mask = jnp.ones((12, 2), bool).at[:, 1].set(False)
    loss = jax.jit(lambda batch: flossing_loss(bind(LAYER, params), batch, k=1))
    batch = sj.Batch(xs, None, mask=mask)
    both, alone = loss(batch), loss(jax.tree.map(lambda a: a[:, :1], batch))
    np.testing.assert_allclose(both, alone, rtol=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"flossing_loss\(k\): expected a whole number from 1 to 2"):
        flossing_loss(lambda h, x: (h, None), 5, k=3, carry=jnp.ones(2))
    with pytest.raises(ValueError, match=r"flossing_loss\(qr_every\): .* at least 1, got 'adaptive'"):
        flossing_loss(lambda h, x: (h, None), 5, k=1, carry=jnp.ones(2), qr_every="adaptive")
