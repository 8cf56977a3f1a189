"""Test estimators of gradients: exact ones equal full backpropagation, the others have their documented bias."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.gradients import last_step
from seqjax.gradients.online.common import example_step, model_of
from seqjax.gradients.online.sparsity import step_pattern
from seqjax.ops.vectors import Coordinates

T, B, D, H = 6, 3, 2, 3
F64 = {"param_dtype": jnp.float64}


def lru():
    return sj.recurrent(sj.lru(H, **F64))


LAYERS = {
    "elman": sj.recurrent(sj.elman(H, **F64)),
    "gru": sj.recurrent(sj.gru(H, **F64)),
    "indrnn": sj.recurrent(sj.indrnn(H, **F64)),
    "lru": lru(),
    "two lrus": sj.serial(lru(), lru(), sj.pointwise(nn.Dense(H, param_dtype=jnp.float64))),
    "two lstms": sj.serial(sj.recurrent(sj.lstm(H, **F64)), sj.recurrent(sj.lstm(H, **F64))),
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
    params = jax.jit(layer.init)(jax.random.key(0), batch.xs[0])
    rng = np.random.default_rng(1)

    def moved(a):
        noise = rng.normal(size=a.shape) + (1j * rng.normal(size=a.shape) if jnp.iscomplexobj(a) else 0)
        return jnp.asarray(np.asarray(a) + 0.3 * noise)

    return jax.tree.map(moved, (params, layer.initial_carry(params, batch.xs[0])))


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
    """Total, count and gradients by a scan over steps, differentiated as a whole."""

    def total(params):
        def body(carry, now):
            carry, y = layer.step(params, carry, now.xs, reset=now.reset, mask=now.mask)
            losses = loss(y[None], now.targets[None])[0]
            return carry, losses if now.mask is None else jnp.where(now.mask, losses, 0)

        return jnp.sum(jax.lax.scan(body, carry, batch)[1])

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


@pytest.mark.parametrize("name", ["elman", "lru"])
@pytest.mark.fast_cases(1)
def test_full_bptt_is_the_gradient_of_the_loop(name):
    layer, batch = LAYERS[name], batch_of()
    params, carry = start(layer, batch)
    found, after = run(sj.full_bptt(), layer, squares, params, carry, [batch])
    assert_close(found, by_hand(layer, squares, params, carry, batch))
    expected = layer.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)[0]
    assert_close(after, expected)


@pytest.mark.parametrize("loss", [squares, last_step(squares)], ids=["per-step", "per-sequence"])
@pytest.mark.fast_cases(1)
def test_truncation_is_full_bptt_of_each_window(loss):
    layer, batch, window = LAYERS["elman"], batch_of(7), 3
    if loss is not squares:  # the last step that happened is in the last window
        batch = batch._replace(mask=batch.mask.at[-1].set(True))
    params, carry = start(layer, batch)
    found, after = run(sj.truncated_bptt(window), layer, loss, params, carry, [batch])
    pieces = [part(batch, t, t + window) for t in range(0, 7, window)]
    expected, last = run(sj.full_bptt(), layer, loss, params, carry, pieces)
    if loss is not squares:  # the loss is the last window's alone
        _, before = run(sj.full_bptt(), layer, loss, params, carry, pieces[:-1])
        expected, _ = run(sj.full_bptt(), layer, loss, params, before, pieces[-1:])
    assert_close(found, expected)
    assert_close(after, last)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.fast_cases(1)
def test_a_sliding_window_takes_each_loss_back_as_far(stride):
    """Losses of steps a to b by the steps from b - K on, with masks, resets and noise, over an uneven length."""
    layer, batch, window = sj.serial(sj.dropout(0.2), LAYERS["elman"]), batch_of(5), 4
    params, carry = start(layer, batch)
    key = jax.random.key(4)
    found, after = run(sj.truncated_bptt(window, stride=stride), layer, squares, params, carry, [batch], key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))

    def unroll(params, carry, first, last):
        some = part(batch, first, last)
        flags = {"reset": some.reset, "mask": some.mask, "key": keys[first:last]}
        return layer.unroll(params, carry, some.xs, **flags)

    def total(params):
        losses = 0.0
        for a in range(0, 5, stride):
            b = min(a + stride, 5)
            first = max(0, a + stride - window)
            entering = unroll(held, carry, 0, first)[0] if first else carry
            ys = unroll(params, entering, first, b)[1][a - first :]
            losses += jnp.sum(jnp.where(batch.mask[a:b], squares(ys, batch.targets[a:b]), 0))
        return losses

    held = params
    expected, gradients = jax.jit(jax.value_and_grad(total))(params)
    assert_close((found.total, found.gradients), (expected, gradients))
    assert found.count == batch.mask.sum()
    assert_close(after, unroll(params, carry, 0, 5)[0])


@pytest.mark.parametrize("loss", [squares, last_step(squares)], ids=["per-step", "per-sequence"])
@pytest.mark.fast_cases(1)
def test_a_learned_initial_carry_has_a_gradient(loss):
    cell = sj.Cell(
        init=lambda key, x: jnp.zeros(H),
        initial_carry=lambda params, x: jnp.broadcast_to(params, (*x.shape[:-1], H)),
        recurrence=sj.Step(lambda params, h, x: (0.5 * h + x[..., :1], h)),
    )
    layer, batch = sj.recurrent(cell), batch_of(4, flags=False)
    params = jnp.arange(3.0)
    for estimator, reach in (
        (sj.full_bptt(), 4),
        (sj.truncated_bptt(2), 2),
        (sj.truncated_bptt(2, stride=1), 2),
    ):
        if loss is not squares and estimator == sj.truncated_bptt(2, stride=1):
            continue
        init, update = estimator.bind(layer, loss)
        estimate, _, _ = update(params, None, init(params, None, batch.xs[0]), batch)
        ys = layer.unroll(params, layer.initial_carry(params, batch.xs[0]), batch.xs)[1]
        weights = 0.5 ** np.arange(4) * (np.arange(4) < reach)
        if loss is not squares:
            weights *= np.arange(4) == 3
        expected = np.einsum("t,tbh->h", weights, 2 * (ys - batch.targets))
        np.testing.assert_allclose(estimate.gradients, expected, rtol=1e-12, atol=1e-14)


def update_of(estimator, loss, batch):
    """The estimate and the carry of an Elman network after one chunk."""
    layer = LAYERS["elman"]
    params, carry = start(layer, batch_of())
    init, update = estimator.bind(layer, loss)
    return update(params, carry, init(params, carry, batch_of().xs[0]), batch)


def state_without_a_carry(estimator):
    layer, x = sj.pointwise(nn.Dense(H)), jnp.zeros((B, D))
    return estimator.bind(layer, squares)[0](layer.init(jax.random.key(0), x), (), x)


def state_of(estimator):
    layer, batch = LAYERS["elman"], batch_of()
    return estimator.bind(layer, squares)[0](*start(layer, batch), batch.xs[0])


NO_CARRY = r"init: expected a layer with floating numbers in its carry, got po"
REFUSED = {
    "truncated_bptt: window": (
        lambda: sj.truncated_bptt(0), ValueError,
        r"truncated_bptt\(window\): expected a whole number of at least 1, got 0"),
    "truncated_bptt: stride": (
        lambda: sj.truncated_bptt(4, stride=3), ValueError, "expected a divisor of the window of 4, got 3"),
    "truncated_bptt: a loss per sequence": (
        lambda: update_of(sj.truncated_bptt(4, stride=2), last_step(squares), batch_of()), ValueError,
        r"expected a loss per step \[T, \*B\] .* with a stride"),
    "truncated_bptt: no steps": (
        lambda: update_of(sj.truncated_bptt(2), squares, batch_of(0)), ValueError,
        r"expected xs \[T, ...\] with T of at least 1"),
    "truncated_bptt: a tuple": (
        lambda: update_of(sj.truncated_bptt(2), squares, tuple(batch_of(0))), TypeError,
        "expected a Batch, got tuple"),
    "rtrl: no carry": (lambda: state_without_a_carry(sj.rtrl()), TypeError, NO_CARRY),
    "uoro: no carry": (lambda: state_without_a_carry(sj.uoro()), TypeError, NO_CARRY),
    "reversible: no carry": (lambda: state_without_a_carry(sj.reversible()), TypeError, NO_CARRY),
    "rtrl: structure": (
        lambda: sj.rtrl("sparse"), ValueError,
        r"rtrl\(structure\): expected one of 'auto', 'dense', 'diagonal', got 'sparse'"),
    "rtrl: a dense Jacobian": (
        lambda: state_of(sj.rtrl("diagonal")), ValueError, "expected a layer with a diagonal recurrent Jacobian"),
    "rtrl: a loss per sequence": (
        lambda: update_of(sj.rtrl(), last_step(squares), batch_of()), ValueError,
        r"rtrl.*update: expected a loss per step \[T, B\] of targets"),
    "rtrl: targets of one step": (
        lambda: update_of(sj.rtrl(), last_step(squares), batch_of()._replace(targets=batch_of().targets[0])),
        ValueError, r"expected a loss per step \[T, B\] of targets"),
    "snap: steps": (
        lambda: sj.snap(0), ValueError, r"snap\(steps\): expected a whole number of at least 1, got 0"),
    "snap: not causal": (
        lambda: sj.snap(1).bind(sj.bidirectional(LAYERS["elman"]), squares), TypeError, "expected a causal layer"),
    "randomized_truncated_bptt: no key": (
        lambda: update_of(sj.randomized_truncated_bptt(2), squares, batch_of()), ValueError,
        "expected a key for random draws, got None"),
    "randomized_truncated_bptt: cut": (
        lambda: sj.randomized_truncated_bptt(2, cut=1), ValueError, r"cut\): expected a number in \[0, 1\), got 1"),
}  # fmt: skip


@refusals(REFUSED)
def test_arguments_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- real-time recurrent learning


EXACT = [
    ("elman", sj.rtrl()),
    ("elman", sj.snap(2)),
    ("gru", sj.rtrl("dense")),
    ("indrnn", sj.rtrl("diagonal")),
    ("lru", sj.rtrl("diagonal")),
    ("lru", sj.snap(1)),
    pytest.param("two lrus", sj.rtrl(), marks=pytest.mark.slow),
    pytest.param("two lstms", sj.rtrl(), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "estimator"), EXACT, ids=str)
@pytest.mark.fast_cases(3)
def test_over_two_chunks_it_is_full_bptt_over_both(name, estimator):
    """With masks, resets, and a carry at the start that is not the initial one."""
    layer, batch = LAYERS[name], batch_of()
    params, carry = start(layer, batch)
    chunks = [part(batch, 0, 3), part(batch, 3, T)]
    found, after = run(estimator, layer, squares, params, carry, chunks)
    expected, last = run(sj.full_bptt(), layer, squares, params, carry, [batch])
    assert_close(found, expected)
    assert_close(after, last)


@pytest.mark.slow
def test_attention_with_its_cache_and_positions_as_the_carry():
    layer = sj.recurrent(sj.attention(H, num_heads=1, key_size=2, window=2, **F64))
    batch = batch_of()
    params = layer.init(jax.random.key(0), batch.xs[0])
    carry = layer.initial_carry(params, batch.xs[0])
    chunks = [part(batch, 0, 3), part(batch, 3, T)]
    found, _ = run(sj.rtrl(), layer, squares, params, carry, chunks)
    expected, _ = run(sj.full_bptt(), layer, squares, params, carry, [batch])
    assert_close(found, expected)


def test_snap_1_is_the_influence_on_its_own_unit():
    """Menick et al. 2020 in NumPy: of dh_k/dw only those w that feed unit k, and of the Jacobian its diagonal."""
    layer, batch = LAYERS["elman"], batch_of(flags=False)
    params, carry = start(layer, batch)
    found, _ = run(sj.snap(1), layer, squares, params, carry, [batch])
    w_x, w_h, b = map(np.asarray, params)
    g_x, g_h, g_b = np.zeros_like(w_x), np.zeros_like(w_h), np.zeros_like(b)
    for row in range(B):
        h = np.asarray(carry.h[row])
        m_x, m_h, m_b = np.zeros_like(w_x), np.zeros_like(w_h), np.zeros_like(b)
        for x, target in zip(np.asarray(batch.xs[:, row]), np.asarray(batch.targets[:, row]), strict=True):
            after = np.tanh(x @ w_x + h @ w_h + b)
            slope = 1 - after**2
            delta = 2 * (after - target) * slope  # by the pre-activations of this step
            through = w_h @ delta  # by h before it
            g_x += np.outer(x, delta) + through * m_x
            g_h += np.outer(h, delta) + through * m_h
            g_b += delta + through * m_b
            own = slope * np.diag(w_h)
            m_x = own * m_x + np.outer(x, slope)
            m_h = own * m_h + np.outer(h, slope)
            m_b = own * m_b + slope
            h = after
    assert_close(tuple(found.gradients), (g_x, g_h, g_b))


def test_what_did_not_happen_and_what_came_before_a_reset_may_be_nan():
    layer, batch = LAYERS["lru"], batch_of()
    reset = jnp.zeros((T, B), bool).at[4].set(True)
    mask = jnp.ones((T, B), bool).at[1, 0].set(False)
    batch = batch._replace(reset=reset, mask=mask)
    params, carry = start(layer, batch)
    poisoned = batch._replace(xs=batch.xs.at[1, 0].set(jnp.nan), targets=batch.targets.at[1, 0].set(jnp.nan))
    init, update = sj.rtrl().bind(layer, squares)
    state, update = init(params, carry, batch.xs[0]), jax.jit(update)
    expected = update(params, carry, state, batch)
    assert_close(update(params, carry, state, poisoned), expected)
    lost = update(params, carry, jax.tree.map(lambda a: a * jnp.nan, state), batch)
    assert np.isnan(lost[0].gradients.nu_log).all()
    assert_close(lost[1:], expected[1:])


@pytest.mark.slow  # a learned initial carry has a gradient
def test_a_learned_initial_carry_counts_at_the_start_and_at_resets():
    cell = sj.Cell(
        init=lambda key, x: jnp.zeros(2 * H),
        initial_carry=lambda params, x: jnp.broadcast_to(params[:H], (*x.shape[:-1], H)),
        recurrence=sj.Step(lambda params, h, x: (params[H:] * h + x[..., :1], jnp.sin(h))),
    )
    layer, batch = sj.recurrent(cell), batch_of()
    params = jnp.linspace(0.3, 0.8, 2 * H)
    found, _ = run(sj.rtrl(), layer, squares, params, None, [batch])
    expected, _ = run(sj.full_bptt(), layer, squares, params, None, [batch])
    assert_close(found, expected)


def test_noise_is_that_of_the_step_for_one_example():
    layer = sj.serial(sj.dropout(0.5), LAYERS["elman"])
    batch = jax.tree.map(lambda a: a[:, :1], batch_of(flags=False))
    params, carry = start(layer, batch)
    key = jax.random.key(5)
    found, _ = run(sj.rtrl(), layer, squares, params, carry, [batch], key)
    expected, _ = run(sj.full_bptt(), layer, squares, params, carry, [batch], key)
    assert_close(found, expected)


def test_precisions_stay_those_of_the_params():
    layer = sj.recurrent(sj.lru(H, param_dtype=jnp.bfloat16))
    batch = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.dtype == float else a, batch_of())
    params = layer.init(jax.random.key(0), batch.xs[0])
    for estimator in (sj.rtrl(), sj.truncated_bptt(3)):
        found, _ = run(estimator, layer, squares, params, None, [batch])
        assert {leaf.dtype for leaf in jax.tree.leaves(found.gradients)} == {jnp.dtype(jnp.bfloat16)}
        assert found.total.dtype == jnp.float32


def model_vectors(model):
    return jnp.zeros(model.params.size, model.params.dtype), jnp.zeros(model.carry.size, model.carry.dtype)


CELLS = (
    "irnn",
    "clockwork",
    "lstm",
    "rg_lru",
    "mamba",
    "delta_net",
    "slstm",
    "layer_norm_lstm",
    "cornn",
    "s5",
)


def test_stacked_and_unstacked_arrays_are_seen_through():
    space = Coordinates(jnp.ones(2))

    def separate(theta, s):  # the pullback of a stack is an unstack, and the other way round
        a, b = (part[0] for part in jnp.stack([s, theta], 1)[:, None])
        return jnp.stack([a[0] * a[1], b[0] * b[1]])

    by_params, by_carry = step_pattern(separate, space, space)
    assert (by_params == np.eye(2)).all() and (by_carry == np.eye(2)).all()


@pytest.mark.parametrize(
    "name", [n if n in CELLS else pytest.param(n, marks=pytest.mark.slow) for n in sj.REGISTRY]
)
@pytest.mark.fast_cases(1)
def test_a_pattern_is_never_too_small(name):
    """Wherever a derivative is not zero at some random point, the pattern says that it may be."""
    entry = sj.REGISTRY[name]
    layer, x = sj.recurrent(entry.make(4)), entry.example((1,), 3)
    params = layer.init(jax.random.key(0), x)
    carry = layer.initial_carry(params, x)
    model = model_of(layer, params, carry, x)
    patterns = step_pattern(model.step, model.params, model.carry)

    @jax.jit
    def derivatives(theta, s, x):
        def step(theta, s):
            now = sj.Batch(jax.tree.map(lambda a: a[0], x), None)
            one = jax.tree.map(lambda a: a[0], carry)
            after = example_step(
                layer, model.params.tree(theta, params), model.carry.tree(s, one), now, None
            )[0]
            return model.carry.vector(after)

        return jax.jacrev(step, (0, 1))(theta, s)

    for seed in range(3):
        keys = iter(jax.random.split(jax.random.key(seed), 20))
        theta, s, inputs = jax.tree.map(
            lambda a, k=keys: jax.random.normal(next(k), a.shape, a.dtype), (*model_vectors(model), x)
        )
        for pattern, found in zip(
            patterns, derivatives(theta, abs(s), jax.tree.map(abs, inputs)), strict=True
        ):
            assert not (np.asarray(found) != 0)[~pattern].any()


def test_losses_of_as_many_sequences_as_steps_are_not_taken_for_losses_of_steps():
    """Of B = T sequences, by a loss that takes each with its target and would not take one target for all."""
    layer, batch = LAYERS["elman"], part(batch_of(flags=False), 0, B)

    def of_sequences(ys, targets):
        return jax.vmap(lambda y, t: jnp.sum((y[-1] - t) ** 2), (1, 0))(ys, targets)

    batch = batch._replace(targets=batch.targets[-1])
    params, carry = start(layer, batch)
    found, _ = run(sj.truncated_bptt(2), layer, of_sequences, params, carry, [batch])
    expected, _ = run(sj.truncated_bptt(2), layer, lambda ys, t: squares(ys[-1], t), params, carry, [batch])
    assert_close(found, expected)


# ---------------------------------------------------------------- bias


def linear_cell(matrix, source):
    """h' = A h + theta s + x, for A by params["a"] or fixed."""

    def step(theta, h, x):
        after = (theta * h if matrix is None else h @ matrix.T + theta * source) + x
        return after, after

    return sj.recurrent(
        sj.Cell(
            init=lambda key, x: jnp.ones(()),
            initial_carry=lambda theta, x: jnp.zeros_like(x),
            recurrence=sj.Step(step),
        )
    )


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.fast_cases(1)
def test_truncation_lacks_a_share_of_decay_to_the_twice_window(window):
    """h' = a h + x, loss h_T^2 / 2, white input: the mean of a quadratic form is its sum over impulses."""
    decay, length = 0.8, 96
    layer = linear_cell(None, None)
    last = jnp.zeros((length, length, 1)).at[-1].set(1)
    batch = sj.Batch(jnp.eye(length)[..., None], last)

    def loss(ys, weights):
        return jnp.sum(weights * ys**2 / 2, -1)

    carry, theta = jnp.zeros((length, 1)), jnp.asarray(decay)
    exact, _ = run(sj.rtrl(), layer, loss, theta, carry, [batch])
    found, _ = run(sj.truncated_bptt(window), layer, loss, theta, carry, [batch])
    np.testing.assert_allclose(exact.gradients, decay / (1 - decay**2) ** 2, rtol=1e-12)
    np.testing.assert_allclose(1 - found.gradients / exact.gradients, decay ** (2 * window), rtol=1e-10)


@pytest.mark.parametrize("window", [1, 19, 40, 41])
@pytest.mark.fast_cases(1)
def test_truncation_turns_the_sign_where_lags_oppose(window):
    """Influence balancing: h' = A h + theta s with s = +1 ten times, then -1; loss (h_1 - 1)^2 / 2."""
    matrix = np.eye(23) / 2 + np.eye(23, k=1) / 2
    source = np.repeat([1.0, -1.0], [10, 13])
    layer, theta = linear_cell(jnp.asarray(matrix), jnp.asarray(source)), jnp.ones(())
    rest = np.linalg.solve(np.eye(23) - matrix, source)
    assert abs(rest[0] + 6) < 1e-9
    length = 2 * window
    batch = sj.Batch(jnp.zeros((length, 1, 23)), jnp.zeros((length, 1)).at[-1].set(1))

    def loss(ys, weights):
        return weights * (ys[..., 0] - 1) ** 2 / 2

    found, _ = run(sj.truncated_bptt(window), layer, loss, theta, jnp.asarray(rest[None]), [batch])
    reach = sum(np.linalg.matrix_power(matrix, lag) @ source for lag in range(window))[0]
    np.testing.assert_allclose(found.gradients, (rest[0] - 1) * reach, rtol=1e-9)
    assert (found.gradients > 0) == (window > 40)  # the whole gradient is (-7) (-6)


@pytest.mark.parametrize("loss", [squares, last_step(squares)], ids=["per-step", "per-sequence"])
@pytest.mark.fast_cases(1)
def test_random_truncation_is_unbiased(loss):
    """The mean over draws within four of its standard errors of the truth; the plain truncation is many away."""
    layer, batch = LAYERS["elman"], jax.tree.map(lambda a: a[:, :1], batch_of(flags=False))
    params, carry = start(layer, batch)
    params = params._replace(w_h=0.8 * jnp.eye(H), b=0 * params.b)
    _, update = sj.randomized_truncated_bptt(2, cut=0.4).bind(layer, loss)
    keys = jax.random.split(jax.random.key(0), 2000)
    draws = jax.jit(jax.vmap(lambda k: update(params, carry, (), batch, key=k)[0].gradients.w_h))(keys)
    exact, _ = run(sj.full_bptt(), layer, loss, params, carry, [batch])
    cut, _ = run(sj.truncated_bptt(2), layer, loss, params, carry, [batch])
    error = np.std(draws, 0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, 0) - exact.gradients.w_h) < 4 * error).all()
    assert np.max(np.abs(cut.gradients.w_h - exact.gradients.w_h) / error) > 20
