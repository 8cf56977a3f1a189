"""Approximate online estimators: unbiased ones on average, biased ones by the equations of their papers."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.base import Activation, Cell, Dense, Gated, GatedWeights, Step
from seqjax.cells import REGISTRY
from seqjax.gradients import objective
from seqjax.gradients.inside import replace_recurrent
from seqjax.ops.select import cast
from seqjax.ops.step import gated_step

T, B, D, H = 6, 3, 2, 4
F64 = {"param_dtype": jnp.float64}
LEAK = 0.3


def gated_cells():
    """All gated cells; in the fast tier the first of each structure."""
    seen = set()
    for name, entry in REGISTRY.items():
        recurrence = entry.make(H).recurrence
        if not isinstance(recurrence, Gated):
            continue
        layer = sj.recurrent(entry.make(H))
        x = jnp.zeros((B, D))
        params = layer.init(jax.random.key(0), x)
        w_h, b_h, w = recurrence.weights(params)
        states = len(jax.tree.leaves(layer.initial_carry(params, x)))
        kind = (w_h.ndim, w_h.shape[0] == H, b_h is None, not jax.tree.leaves(w), bool(recurrence.split), states)
        yield pytest.param(name, marks=[pytest.mark.slow] if kind in seen else [])
        seen.add(kind)


def squares(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)


def batch_of(length=T, *, flags=True, seed=0, width=D, size=H):
    rng = np.random.default_rng(seed)
    batch = sj.Batch(rng.normal(size=(length, B, width)), rng.normal(size=(length, B, size)))
    if flags:
        batch = batch._replace(reset=rng.random((length, B)) < 0.2, mask=rng.random((length, B)) < 0.8)
    return jax.tree.map(jnp.asarray, batch)


def start(layer, batch):
    """Params away from zero, and a carry that is not the initial one."""
    params = layer.init(jax.random.key(0), batch.xs[0])
    keys = iter(jax.random.split(jax.random.key(1), 100))

    def moved(a):
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        a = a.astype(jnp.result_type(a.dtype, jnp.float64))
        return a + 0.3 * jax.random.normal(next(keys), a.shape, a.dtype)

    return jax.tree.map(moved, (params, layer.initial_carry(params, batch.xs[0])))


def run(estimator, layer, params, carry, chunks, key=None, loss=squares):
    """The sum of the estimates over chunks, the last carry and the last state."""
    init, update = estimator.bind(layer, loss)
    update, state, found = jax.jit(update), init(params, carry, chunks[0].xs[0]), []
    for chunk in chunks:
        estimate, carry, state = update(params, carry, state, chunk, key=key)
        found.append(estimate)
    return jax.tree.map(lambda *a: sum(a), *found), carry, state


@partial(jax.jit, static_argnums=0)
def exact(layer, params, carry, batch):
    """Backpropagation through the whole, as an estimate."""
    value_and_grad = jax.value_and_grad(objective(layer, squares), has_aux=True)
    (total, (count, _)), gradients = value_and_grad(params, carry, batch)
    return sj.Estimate(total, count, gradients)


def assert_close(got, expected, rtol=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert np.max(np.abs(a - b), initial=0) <= rtol * max(1e-300, np.max(np.abs(b), initial=0))


def leaky(size):
    """Murray's network: h leaks, and integrates a nonlinearity of the products."""
    return Cell(
        init=sj.elman(size, **F64).init,
        initial_carry=sj.elman(size).initial_carry,
        recurrence=Gated(
            activations=(Activation.TANH,),
            num_update=1,
            update=lambda w, state, a: ((1 - LEAK) * state[0] + LEAK * a,),
            emit=None,
            weights=lambda params: GatedWeights(params.w_h),
        ),
        project=Dense(lambda params: (params.w_x, params.b)),
    )


# ---------------------------------------------------------------- biased: RFLO and e-prop


def rflo_by_hand(params, h, xs, targets, reset, mask):
    """Murray 2019: p' = (1 - alpha) p + alpha phi'(u) h, dW = sum of error times p, with the true feedback."""
    w_x, w_h, b = map(np.asarray, params)
    gradients = [np.zeros_like(a) for a in (w_x, w_h, b)]
    for row in range(B):
        state = np.asarray(h)[row]
        traces = [np.zeros_like(a) for a in gradients]
        for t in range(len(xs)):
            if reset[t, row]:
                state, traces = np.zeros(H), [np.zeros_like(a) for a in gradients]
            if not mask[t, row]:
                continue
            inputs = (xs[t, row], state, 1.0)
            u = inputs[0] @ w_x + state @ w_h + b
            slope = LEAK * (1 - np.tanh(u) ** 2)
            state = (1 - LEAK) * state + LEAK * np.tanh(u)
            traces = [(1 - LEAK) * p + np.multiply.outer(i, slope) for p, i in zip(traces, inputs, strict=True)]
            error = 2 * (state - targets[t, row])
            gradients = [g + error * p for g, p in zip(gradients, traces, strict=True)]
    return gradients


def test_rflo_is_the_papers_rule_for_a_leaky_network():
    layer, batch = sj.recurrent(leaky(H)), batch_of()
    params, carry = start(layer, batch)
    found, after, _ = run(sj.rflo(), layer, params, carry, [batch])
    expected = rflo_by_hand(params, carry.h, *map(np.asarray, batch))
    assert_close(list(found.gradients), expected)
    assert_close(after, layer.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)[0])


def eprop_by_hand(params, carry, xs, targets):
    """Bellec et al. 2020, the LSTM: eps' = f eps + dc/dW, e = o (1 - tanh(c)^2) eps, and for the gate o dh/dW alone."""
    w_x, w_h, b = map(np.asarray, params)
    gradients = [np.zeros_like(a) for a in (w_x, w_h, b)]
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    for row in range(B):
        c, h = (np.asarray(a)[row] for a in carry)
        eps = [np.zeros_like(a) for a in gradients]
        for t in range(len(xs)):
            inputs = (xs[t, row], h, 1.0)
            zi, zf, zg, zo = np.split(inputs[0] @ w_x + h @ w_h + b, 4)
            i, f, g, o = sigmoid(zi), sigmoid(zf), np.tanh(zg), sigmoid(zo)
            slope = np.concatenate([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), 0 * o])
            c = f * c + i * g
            h = o * np.tanh(c)
            eps = [np.tile(f, 4) * p + np.multiply.outer(n, slope) for p, n in zip(eps, inputs, strict=True)]
            by_c = np.tile(o * (1 - np.tanh(c) ** 2), 4)
            direct = np.concatenate([0 * i, 0 * i, 0 * i, np.tanh(c) * o * (1 - o)])
            signal = np.tile(2 * (h - targets[t, row]), 4)
            gradients = [
                s + signal * (by_c * p + np.multiply.outer(n, direct))
                for s, p, n in zip(gradients, eps, inputs, strict=True)
            ]
    return gradients


def test_eprop_is_the_papers_rule_for_an_lstm():
    layer, batch = sj.recurrent(sj.lstm(H, **F64)), batch_of(flags=False)
    params, carry = start(layer, batch)
    found, _, _ = run(sj.eprop(), layer, params, carry, [batch])
    expected = eprop_by_hand(params, carry, np.asarray(batch.xs), np.asarray(batch.targets))
    assert_close(list(found.gradients), expected)


@pytest.mark.parametrize("name", gated_cells())
def test_eprop_is_backpropagation_with_the_recurrent_product_cut(name):
    cell = REGISTRY[name].make(H)
    recurrence = cell.recurrence

    def cut(params, carry, u):
        weights = GatedWeights(*cast(tuple(recurrence.weights(params)), u.dtype))
        dense = weights.w_h.ndim == 4 or weights.w_h.shape == (H, H * len(recurrence.activations))
        return gated_step(recurrence, weights, carry, u, on_h=jax.lax.stop_gradient if dense else None)

    layer, batch = sj.recurrent(cell), batch_of()
    params, carry = start(layer, batch)
    found, _, _ = run(sj.eprop(), layer, params, carry, [batch])
    whole = sj.recurrent(dataclasses.replace(cell, recurrence=Step(cut)))
    assert_close(found, exact(whole, params, carry, batch))


@pytest.mark.parametrize("estimator", [sj.rflo(), sj.eprop()], ids=repr)
@pytest.mark.parametrize("name", ["indrnn_tanh", "lru", "mamba"])
def test_local_rules_are_exact_where_units_are_independent(estimator, name):
    layer, batch = sj.recurrent(REGISTRY[name].make(H)), batch_of()
    params, carry = start(layer, batch)
    found, _, _ = run(estimator, layer, params, carry, [batch])
    assert_close(found, exact(layer, params, carry, batch))


def test_eprop_keeps_the_block_of_each_unit_and_rflo_the_diagonal():
    """Of coRNN without recurrent weights each unit is an oscillator of its own, y and z: a block of 2 x 2."""
    layer, batch = sj.recurrent(sj.cornn(H, **F64)), batch_of()
    params, carry = start(layer, batch)
    params = params._replace(w_y=jnp.zeros_like(params.w_y), w_z=jnp.zeros_like(params.w_z))
    expected = exact(layer, params, carry, batch).gradients
    found = {e: run(e, layer, params, carry, [batch])[0].gradients for e in (sj.eprop(), sj.rflo())}
    assert_close(found[sj.eprop()]._replace(w_y=0, w_z=0), expected._replace(w_y=0, w_z=0))
    assert np.max(np.abs(found[sj.rflo()].w_x - expected.w_x)) > 1e-3 * np.max(np.abs(expected.w_x))


STACK = sj.serial(
    sj.pointwise(nn.Dense(H, param_dtype=jnp.float64)),
    sj.residual(sj.serial(sj.recurrent(sj.lstm(H, **F64)), sj.pointwise(nn.Dense(H, param_dtype=jnp.float64)))),
    sj.recurrent(sj.lru(H, **F64)),
    sj.pointwise(nn.Dense(H, param_dtype=jnp.float64)),
)


def test_local_rules_are_exact_in_a_stack_where_nothing_is_dropped():
    """The last recurrent layer of a stack and what follows it: everything below is an input."""
    batch = batch_of()
    params, carry = start(STACK, batch)
    found = run(sj.rflo(), STACK, params, carry, [batch])[0]
    expected = exact(STACK, params, carry, batch)
    assert_close((found.total, found.count), (expected.total, expected.count))
    assert_close(found.gradients[2:], expected.gradients[2:])
    below = jax.tree.leaves(found.gradients[:2])
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in below)


@pytest.mark.parametrize("estimator", [sj.rflo(), sj.eprop()], ids=repr)
def test_chunks_are_the_whole(estimator):
    batch = batch_of()
    params, carry = start(STACK, batch)
    whole = run(estimator, STACK, params, carry, [batch])
    parts = [jax.tree.map(lambda a, i=i: a[3 * i : 3 * i + 3], batch) for i in range(2)]
    assert_close(run(estimator, STACK, params, carry, parts), whole)


def test_blocks_are_opened_and_layers_by_hand_refused():
    block = sj.serial(sj.pointwise(nn.Dense(H)), sj.slstm_block(num_heads=2))
    assert any("slstm" in repr(cell) for cell in cells_of(block))
    by_hand = dataclasses.replace(sj.recurrent(sj.elman(H)))
    with pytest.raises(TypeError, match=r"rflo\(\): expected a model with recurrent\(cell\) layers, .* use snap or uoro"):
        run(sj.rflo(), by_hand, *start(by_hand, batch_of()), [batch_of()])


def cells_of(layer):
    seen = []
    replace_recurrent(layer, lambda cell: seen.append(cell) or sj.recurrent(cell))
    return seen
