"""Test approximate online estimators: unbiased ones on average, biased ones by their papers' equations."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals
from helpers.tiers import slow

import seqjax as sj
from seqjax.base import Activation, Cell, Dense, Gated, GatedWeights, Step
from seqjax.cells import REGISTRY
from seqjax.gradients import objective
from seqjax.gradients.recurrent_layers import replace_recurrent
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
        x = jax.ShapeDtypeStruct((B, D), float)
        params = jax.eval_shape(layer.init, jax.random.key(0), x)
        w_h, b_h, w = jax.eval_shape(lambda params, of=recurrence.weights: tuple(of(params)), params)
        states = len(jax.tree.leaves(jax.eval_shape(layer.initial_carry, params, x)))
        kind = (
            w_h.ndim,
            w_h.shape[0] == H,
            b_h is None,
            not jax.tree.leaves(w),
            bool(recurrence.split),
            states,
        )
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
            traces = [
                (1 - LEAK) * p + np.multiply.outer(i, slope) for p, i in zip(traces, inputs, strict=True)
            ]
            error = 2 * (state - targets[t, row])
            gradients = [g + error * p for g, p in zip(gradients, traces, strict=True)]
    return gradients


def test_rflo_is_the_papers_rule_for_a_leaky_network():
    layer, batch = sj.recurrent(leaky(H)), batch_of()
    params, carry = start(layer, batch)
    found, after, _ = run(sj.rflo(), layer, params, carry, [batch])
    expected = rflo_by_hand(params, carry.h, *map(np.asarray, batch[:4]))
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


@pytest.mark.parametrize("name", list(gated_cells()))
@pytest.mark.fast_cases(2)
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


@pytest.mark.parametrize("estimator", [sj.rflo(), pytest.param(sj.eprop(), marks=pytest.mark.slow)], ids=repr)
@pytest.mark.parametrize("name", ["indrnn_tanh", "lru", pytest.param("mamba", marks=pytest.mark.slow)])
@pytest.mark.fast_cases(1)
def test_local_rules_are_exact_where_units_are_independent(estimator, name):
    layer, batch = sj.recurrent(REGISTRY[name].make(H)), batch_of()
    params, carry = start(layer, batch)
    found, _, _ = run(estimator, layer, params, carry, [batch])
    assert_close(found, exact(layer, params, carry, batch))


@pytest.mark.slow
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
    sj.residual(
        sj.serial(sj.recurrent(sj.lstm(H, **F64)), sj.pointwise(nn.Dense(H, param_dtype=jnp.float64)))
    ),
    sj.recurrent(sj.lru(H, **F64)),
    sj.pointwise(nn.Dense(H, param_dtype=jnp.float64)),
)


@pytest.mark.slow
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


# ---------------------------------------------------------------- unbiased: UORO and KF-RTRL


def head(size):
    return sj.pointwise(nn.Dense(size, param_dtype=jnp.float64))


UNBIASED = {
    "uoro-elman": (sj.uoro(), sj.recurrent(sj.elman(2, **F64)), 4000),
    "uoro-stack": (
        sj.uoro(),
        sj.serial(sj.recurrent(sj.lru(1, **F64)), sj.recurrent(sj.gru(1, **F64))),
        8000,
    ),
    "kf_rtrl-lstm": (sj.kf_rtrl(), sj.serial(sj.recurrent(sj.peephole_lstm(2, **F64)), head(2)), 2000),
    "kf_rtrl-gru": (sj.kf_rtrl(), sj.recurrent(sj.gru(2, **F64)), 2000),
    "kf_rtrl-blocks": (sj.kf_rtrl(), sj.recurrent(sj.slstm(2, num_heads=2, **F64)), 2000),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("uoro-elman", "kf_rtrl-gru"))) for n in UNBIASED],
)
def test_the_mean_over_keys_is_exact_within_its_confidence_interval(name):
    estimator, layer, number = UNBIASED[name]
    size = 1 if "stack" in name else 2
    batch = batch_of(5, width=2, size=size)
    params, carry = start(layer, batch)
    init, update = estimator.bind(layer, squares)
    state = init(params, carry, batch.xs[0])

    @jax.jit
    @partial(jax.vmap, in_axes=0)
    def gradients(key):
        return update(params, carry, state, batch, key=key)[0].gradients

    def flat(tree, *lead):
        return np.concatenate([np.reshape(a, (*lead, -1)) for a in jax.tree.leaves(tree)], -1)

    samples = flat(gradients(jax.random.split(jax.random.key(7), number)), number)
    expected = flat(exact(layer, params, carry, batch).gradients)
    interval = samples.std(0, ddof=1) / np.sqrt(number) + 1e-9 * np.max(np.abs(expected))
    assert np.max(np.abs(samples.mean(0) - expected) / interval) < 4.5
    # The interval is narrow enough to tell: without the influence the gradient is another one.
    cut, _, _ = run(sj.rflo(), layer, params, carry, [batch])
    assert np.max(np.abs(flat(cut.gradients) - expected) / interval) > 9


def test_estimates_are_reproducible_and_keys_make_them_differ():
    layer, batch = sj.recurrent(sj.elman(2, **F64)), batch_of(4, size=2)
    params, carry = start(layer, batch)
    for estimator in (sj.uoro(), sj.kf_rtrl()):
        a, b, c = (run(estimator, layer, params, carry, [batch], jax.random.key(k))[0] for k in (0, 0, 1))
        np.testing.assert_array_equal(a.gradients.w_h, b.gradients.w_h)
        assert np.any(a.gradients.w_h != c.gradients.w_h)
        with pytest.raises(ValueError, match=r"update: expected a key"):
            run(estimator, layer, params, carry, [batch])


def kf_rtrl_of(layer):
    batch = batch_of()
    return run(sj.kf_rtrl(), layer, *start(layer, batch), [batch], jax.random.key(0))


REFUSED_BY_KF_RTRL = {
    "a diagonal cell": (
        lambda: kf_rtrl_of(sj.recurrent(sj.lru(H))), TypeError,
        r"expected a Gated cell with a Dense projection, .* got lru\(hidden_size=4\). Use uoro"),
    "two recurrent layers": (
        lambda: kf_rtrl_of(sj.serial(sj.recurrent(sj.gru(H)), sj.recurrent(sj.gru(H)))), TypeError,
        r"kf_rtrl\(\): expected recurrent\(cell\), or serial"),
    "params before the recurrent layer": (
        lambda: kf_rtrl_of(sj.serial(head(H), sj.recurrent(sj.gru(H)))), TypeError, r"no earlier params"),
}  # fmt: skip


@refusals(REFUSED_BY_KF_RTRL)
def test_kf_rtrl_refuses_other_models(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- all of them

SLOW = pytest.mark.slow
ALL = [sj.kf_rtrl(), pytest.param(sj.uoro(), marks=SLOW), sj.rflo(), pytest.param(sj.eprop(), marks=SLOW)]


@pytest.mark.parametrize("estimator", ALL, ids=repr)
@pytest.mark.fast_cases(1)
def test_chunks_are_the_whole(estimator):
    batch, layer = batch_of(), sj.serial(sj.recurrent(sj.gru(H, **F64)), head(H))
    params, carry = start(layer, batch)
    init, update = estimator.bind(layer, squares)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(T))
    state, update = init(params, carry, batch.xs[0]), jax.jit(update)
    whole = update(params, carry, state, batch, key=keys)
    total = None
    for first in range(0, T, T // 2):
        part, key = jax.tree.map(lambda a, i=first: a[i : i + T // 2], (batch, keys))
        found, carry, state = update(params, carry, state, part, key=key)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    assert_close((total, carry, state), whole)


@pytest.mark.parametrize("estimator", ALL, ids=repr)
@pytest.mark.fast_cases(1)
def test_a_reset_forgets_and_masked_steps_do_not_happen(estimator):
    """Rows that restart, and rows with steps of NaN that do not happen, equal the same rows without either."""
    layer = sj.recurrent(sj.lstm(H, **F64))
    batch = batch_of(flags=False)
    params, carry = start(layer, batch)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(T))
    init, update = estimator.bind(layer, squares)
    state, update = init(params, carry, batch.xs[0]), jax.jit(update)
    zero = layer.initial_carry(params, batch.xs[0])
    _, _, used = update(params, carry, state, batch, key=keys)
    reset = jnp.zeros((T, B), bool).at[0].set(True)
    again = update(params, carry, used, batch._replace(reset=reset), key=keys)
    assert_close(again, update(params, zero, state, batch._replace(reset=~reset & False), key=keys))
    poisoned = jax.tree.map(lambda a: jnp.insert(a, 2, jnp.nan, axis=0), batch)
    poisoned = poisoned._replace(mask=jnp.ones((T + 1, B), bool).at[2].set(False))
    longer = jnp.concatenate([keys[:2], keys[:1], keys[2:]])
    plain = update(params, carry, state, batch, key=keys)
    assert_close(update(params, carry, state, poisoned, key=longer), plain)


def summed(estimates):
    return jax.tree.map(lambda *a: sum(a), *estimates)


@pytest.mark.parametrize("estimator", [sj.rflo(), sj.eprop()], ids=repr)
@pytest.mark.parametrize(
    "cell", [sj.zoneout(sj.lru(H, **F64), 0.3), sj.variational_dropout(sj.indrnn(H, **F64), 0.5)], ids=repr
)
@pytest.mark.fast_cases(1)
def test_traces_see_the_noise_of_their_own_example(estimator, cell):
    """These are exact with any noise, which each example of several draws by a key of its own."""
    layer, batch = sj.recurrent(cell), batch_of()
    params, carry = start(layer, batch)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(5)))(jnp.arange(T))
    found, _, _ = run(estimator, layer, params, carry, [batch], keys)

    @jax.jit
    def of_row(carry, batch, keys):
        def total(params):
            return objective(layer, squares)(params, carry, batch, key=keys)[0]

        return jax.grad(total)(params)

    rows = []
    for i in range(B):
        part = jax.tree.map(lambda a, i=i: a[:, i : i + 1], batch)
        own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
        rows.append(of_row(jax.tree.map(lambda a, i=i: a[i : i + 1], carry), part, own))
    assert_close(found.gradients, summed(rows))


OTHERS = [pytest.param(estimator, marks=SLOW) for estimator in (sj.eprop(), sj.snap(1))]


@pytest.mark.parametrize("estimator", [sj.kf_rtrl(), sj.uoro(), sj.rflo(), sj.rtrl(), *OTHERS], ids=repr)
@pytest.mark.fast_cases(1)
def test_over_devices_it_is_the_sum_of_what_each_finds(estimator):
    """Params that all devices share, each with one row, against the rows one after another."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    layer = sj.recurrent(sj.gru(H, **F64))
    batch = jax.tree.map(lambda *a: jnp.concatenate(a, 1)[:, :8], *(batch_of(seed=i) for i in range(3)))
    params, carry = start(layer, batch)
    init, update = estimator.bind(layer, squares)
    state, key = init(params, carry, batch.xs[0]), jax.random.key(3)
    one = jax.jit(partial(update, key=key))
    rows = []
    for i in range(8):
        own = jax.tree.map(lambda a, i=i: a[i : i + 1], (carry, state))
        rows.append(one(params, *own, jax.tree.map(lambda a, i=i: a[:, i : i + 1], batch)))

    def on_device(params, carry, state, batch):
        estimate, *streams = update(params, carry, state, batch, key=key)
        return jax.lax.psum(estimate, "data"), *streams

    split = jax.P("data")
    run_all = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(jax.P(), split, split, jax.P(None, "data")),
        out_specs=(jax.P(), split, split),
    )
    found = jax.jit(run_all)(params, carry, state, batch)
    streams = jax.tree.map(lambda *a: np.concatenate(a), *(row[1:] for row in rows))
    assert_close(found, (summed([row[0] for row in rows]), *streams))


def in_dtype(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


@pytest.mark.slow  # another dtype
@pytest.mark.parametrize(
    "estimator", [sj.kf_rtrl(), *slow(sj.uoro(), sj.rflo(), sj.eprop(), sj.rtrl())], ids=repr
)
def test_in_bfloat16_it_is_that_of_float32_but_for_roundings(estimator):
    """Params and inputs that are numbers of bfloat16; what is left are 8 bits in each of T steps."""
    layer, batch = sj.recurrent(sj.lstm(H, **F64)), in_dtype(batch_of(), jnp.bfloat16)
    params, _ = in_dtype(start(layer, batch_of()), jnp.bfloat16)
    init, update = estimator.bind(layer, squares)
    found = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        arguments = in_dtype((params, batch), dtype)
        state = init(arguments[0], None, arguments[1].xs[0])
        estimate, carry, _ = jax.jit(update)(arguments[0], None, state, arguments[1], key=jax.random.key(1))
        assert {leaf.dtype for leaf in jax.tree.leaves((estimate.gradients, carry))} == {jnp.dtype(dtype)}
        assert estimate.total.dtype == jnp.float32
        found[dtype] = np.concatenate(
            [np.ravel(a).astype(np.float64) for a in jax.tree.leaves(estimate.gradients)]
        )
    error = np.linalg.norm(found[jnp.bfloat16] - found[jnp.float32])
    assert 0 < error < T * 2.0**-8 * np.linalg.norm(found[jnp.float32])


def test_a_state_of_other_examples_is_refused():
    layer, batch = sj.recurrent(sj.elman(H, **F64)), batch_of(flags=False)
    params, carry = start(layer, batch)
    for estimator in (sj.rtrl(), sj.eprop()):
        init, update = estimator.bind(layer, squares)
        state = init(params, None, batch.xs[0, :2])
        with pytest.raises(
            ValueError, match=r"update: expected a state of \[\[3, .*, got \[\[2, .*Make one with init"
        ):
            update(params, carry, state, batch)


def test_blocks_are_opened_and_layers_by_hand_refused():
    block = sj.serial(sj.pointwise(nn.Dense(H)), sj.slstm_block(H, num_heads=2))
    assert any("slstm" in repr(cell) for cell in cells_of(block))
    by_hand = dataclasses.replace(sj.recurrent(sj.elman(H)))
    with pytest.raises(
        TypeError, match=r"rflo\(\): expected a model with recurrent\(cell\) layers, .* use snap or uoro"
    ):
        run(sj.rflo(), by_hand, *start(by_hand, batch_of()), [batch_of()])


def cells_of(layer):
    seen = []
    replace_recurrent(layer, lambda cell: seen.append(cell) or sj.recurrent(cell))
    return seen
