"""Estimators of gradients: exact ones equal backpropagation through the whole, the others what they promise."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.gradients import last_step

T, B, D, H = 7, 3, 2, 3
F64 = {"param_dtype": jnp.float64}
STACK = sj.serial(sj.recurrent(sj.lstm(H, **F64)), sj.recurrent(sj.lstm(H, **F64)))
LAYERS = {
    "elman": sj.recurrent(sj.elman(H, **F64)),
    "lru": sj.recurrent(sj.lru(H, **F64)),
    "stack": STACK,
}


def squares(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)


def batch_of(length=T, *, flags=True, seed=0):
    rng = np.random.default_rng(seed)
    batch = sj.Batch(rng.normal(size=(length, B, D)), rng.normal(size=(length, B, H)))
    if flags:
        batch = batch._replace(reset=rng.random((length, B)) < 0.2, mask=rng.random((length, B)) < 0.8)
    return jax.tree.map(jnp.asarray, batch)


def start(layer, batch):
    """Params away from zero, and a carry that is not the initial one."""
    params = layer.init(jax.random.key(0), batch.xs[0])
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params, carry = jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape, a.dtype),
        (params, layer.initial_carry(params, batch.xs[0])),
    )
    return params, carry


def part(batch, first, last):
    return jax.tree.map(lambda a: a[first:last], batch)


def run(estimator, layer, loss, params, carry, chunks, key=None):
    """The sum of the estimates over chunks, and the last carry."""
    init, update = estimator.bind(layer, loss)
    update, state, found = jax.jit(update), init(params, carry, chunks[0].xs[0]), []
    for chunk in chunks:
        estimate, carry, state = update(params, carry, state, chunk, key=key)
        found.append(estimate)
    return jax.tree.map(lambda *a: sum(a), *found), carry


def by_hand(layer, loss, params, carry, batch):
    """Total, count and gradients by a loop over steps in Python, differentiated as a whole."""

    def total(params):
        now, losses = carry, 0.0
        for t in range(len(batch.xs)):
            x, target, reset, mask = jax.tree.map(lambda a, t=t: a[t], batch)
            now, y = layer.step(params, now, x, reset=reset, mask=mask)
            happened = jnp.ones(B, bool) if mask is None else mask
            losses += jnp.sum(jnp.where(happened, loss(y[None], target[None])[0], 0))
        return losses

    count = batch.xs[..., 0].size if batch.mask is None else batch.mask.sum()
    value, gradients = jax.jit(jax.value_and_grad(total))(params)
    return sj.Estimate(value, count, gradients)


def assert_close(got, expected, rtol=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert np.max(np.abs(a - b)) <= rtol * max(1e-300, np.max(np.abs(b)))


# ---------------------------------------------------------------- full and truncated


def test_estimators_are_values():
    assert sj.truncated_bptt(window=64) == sj.truncated_bptt(64) != sj.truncated_bptt(32)
    assert repr(sj.truncated_bptt(64)) == "truncated_bptt(window=64)"
    assert pickle.loads(pickle.dumps(sj.full_bptt())) == sj.full_bptt()


@pytest.mark.parametrize("name", LAYERS)
def test_full_bptt_is_the_gradient_of_the_loop(name):
    layer, batch = LAYERS[name], batch_of()
    params, carry = start(layer, batch)
    found, after = run(sj.full_bptt(), layer, squares, params, carry, [batch])
    assert_close(found, by_hand(layer, squares, params, carry, batch))
    expected = layer.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)[0]
    assert_close(after, expected)


@pytest.mark.parametrize("loss", [squares, last_step(squares)], ids=["per-step", "per-sequence"])
def test_truncation_is_full_bptt_of_each_window(loss):
    layer, batch, window = LAYERS["elman"], batch_of(), 3
    params, carry = start(layer, batch)
    found, after = run(sj.truncated_bptt(window), layer, loss, params, carry, [batch])
    pieces = [part(batch, t, min(t + window, T)) for t in range(0, T, window)]
    expected, last = run(sj.full_bptt(), layer, loss, params, carry, pieces)
    if loss is not squares:  # the loss is the last window's alone
        _, before = run(sj.full_bptt(), layer, loss, params, carry, pieces[:-1])
        expected, _ = run(sj.full_bptt(), layer, loss, params, before, pieces[-1:])
    assert_close(found, expected)
    assert_close(after, last)


@pytest.mark.parametrize("loss", [squares, last_step(squares)], ids=["per-step", "per-sequence"])
def test_a_learned_initial_carry_has_a_gradient(loss):
    cell = sj.Cell(
        init=lambda key, x: jnp.zeros(H),
        initial_carry=lambda params, x: jnp.broadcast_to(params, (*x.shape[:-1], H)),
        recurrence=sj.Step(lambda params, h, x: (0.5 * h + x[..., :1], h)),
    )
    layer, batch = sj.recurrent(cell), batch_of(4, flags=False)
    params = jnp.arange(3.0)
    for estimator, reach in ((sj.full_bptt(), 4), (sj.truncated_bptt(2), 2)):
        init, update = estimator.bind(layer, loss)
        estimate, _, _ = update(params, None, init(params, None, batch.xs[0]), batch)
        ys = layer.unroll(params, layer.initial_carry(params, batch.xs[0]), batch.xs)[1]
        weights = 0.5 ** np.arange(4) * (np.arange(4) < reach)
        if loss is not squares:
            weights *= np.arange(4) == 3
        expected = np.einsum("t,tbh->h", weights, 2 * (ys - batch.targets))
        np.testing.assert_allclose(estimate.gradients, expected, rtol=1e-12, atol=1e-14)


def test_wrong_windows_and_batches_are_refused():
    with pytest.raises(
        ValueError, match=r"truncated_bptt\(window\): expected a whole number of at least 1, got 0"
    ):
        sj.truncated_bptt(0)
    batch = batch_of(0)
    _, update = sj.truncated_bptt(2).bind(LAYERS["elman"], squares)
    params, carry = start(LAYERS["elman"], batch_of())
    with pytest.raises(ValueError, match=r"expected xs \[T, ...\] with T of at least 1"):
        update(params, carry, (), batch)
    with pytest.raises(TypeError, match="expected a Batch, got tuple"):
        update(params, carry, (), tuple(batch))
