"""Compare each combinator with loops by hand; test_conformance checks the contract of layers for all of them."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals
from helpers.tiers import slow

import seqjax as sj
from seqjax.combinators.parallel import ParallelParams
from seqjax.ops.tap import dummies

T, B, D = 9, 2, 3
KEY = jax.random.key(0)
XS = np.random.default_rng(0).normal(size=(T, B, D))


def elman(size=D):
    return sj.recurrent(sj.elman(size))


def setting(layer, xs=XS):
    noise = np.random.default_rng(1)
    params = jax.tree.map(np.asarray, jax.jit(layer.init)(KEY, jnp.asarray(xs[0])))
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.2 * noise.normal(size=p.shape)), params)
    return params, layer.initial_carry(params, jnp.asarray(xs[0]))


def unroll(layer, params, carry, xs=XS, **options):
    return jax.jit(layer.unroll)(params, carry, jnp.asarray(xs), **options)


def tanh_step(params, h, x):
    return np.tanh(x @ np.asarray(params.w_x) + h @ np.asarray(params.w_h) + np.asarray(params.b))


def tanh_loop(params, xs, h=None):
    h, ys = np.zeros((xs.shape[1], len(params.b))) if h is None else h, []
    for x in xs:
        h = tanh_step(params, h, x)
        ys.append(h)
    return np.stack(ys)


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- compose


@pytest.mark.parametrize("merge", ["concatenate", "sum", "gate"])
@pytest.mark.fast_cases(2)
def test_parallel_merges_the_outputs_of_its_branches(merge):
    layer = sj.parallel(elman(), elman(), elman(), merge=merge)
    params, carry = setting(layer)
    branches = params.branches if merge == "gate" else params
    outs = [tanh_loop(p, XS) for p in branches]
    if merge == "concatenate":
        expected = np.concatenate(outs, -1)
    elif merge == "sum":
        expected = outs[0] + outs[1] + outs[2]
    else:
        scores = np.exp(XS @ np.asarray(params.w_gate) + np.asarray(params.b_gate))
        shares = scores / scores.sum(-1, keepdims=True)
        expected = sum(shares[..., i, None] * y for i, y in enumerate(outs))
    close(unroll(layer, params, carry)[1], expected)


def test_a_gate_starts_with_equal_shares():
    layer = sj.parallel(elman(), elman(), merge="gate")
    params = layer.init(KEY, jnp.asarray(XS[0]))
    assert isinstance(params, ParallelParams) and not np.any(params.w_gate) and not np.any(params.b_gate)
    outs = [tanh_loop(p, XS) for p in params.branches]
    np.testing.assert_allclose(
        unroll(layer, params, layer.initial_carry(params, jnp.asarray(XS[0])))[1],
        (outs[0] + outs[1]) / 2,
        atol=1e-6,
    )


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.fast_cases(1)
def test_repeat_equals_serial_of_the_same_layer(remat):
    block = sj.serial(sj.residual(elman()), sj.dropout(0.3))
    repeated, stacked = sj.repeat(block, 3, remat=remat), sj.serial(block, block, block)
    params, carry = setting(repeated)
    apart = tuple(jax.tree.map(lambda p, i=i: p[i], params) for i in range(3))
    carries = tuple(jax.tree.map(lambda c, i=i: c[:, i] + 0.1 * i, carry) for i in range(3))
    carry = jax.tree.map(lambda *c: jnp.stack(c, 1), *carries)
    flags = {"mask": jnp.asarray(XS[:, :, 0] > -1), "reset": jnp.asarray(XS[:, :, 1] > 1), "key": KEY}

    def loss(layer, params, carry, taps):
        after, ys = unroll(layer, params, carry, tap=taps, **flags)
        return jnp.sum(jnp.sin(ys)), (after, ys)

    def run(layer, params, carry):
        taps = dummies(carry, T)
        return jax.grad(lambda *a: loss(layer, *a), (0, 1, 2), has_aux=True)(params, carry, taps)

    (g_params, g_carry, g_taps), (after, ys) = run(repeated, params, carry)
    (s_params, s_carry, s_taps), (s_after, s_ys) = run(stacked, apart, carries)
    close(ys, s_ys)
    close(after, jax.tree.map(lambda *c: jnp.stack(c, 1), *s_after))
    close(g_params, jax.tree.map(lambda *p: jnp.stack(p), *s_params))
    close(g_carry, jax.tree.map(lambda *c: jnp.stack(c, 1), *s_carry))
    # The norm of a stacked leaf is the norm of its layers' norms.
    close(g_taps, jax.tree.map(lambda *n: jnp.sqrt(sum(a**2 for a in n)), *s_taps))


def test_repeat_starts_each_layer_as_serial_does():
    params = sj.repeat(elman(), 3).init(KEY, jnp.asarray(XS[0]))
    expected = sj.serial(elman(), elman(), elman()).init(KEY, jnp.asarray(XS[0]))
    for i, one in enumerate(expected):
        close(jax.tree.map(lambda p, i=i: p[i], params), one)


# ---------------------------------------------------------------- time


def test_reverse_runs_each_row_backward_over_its_own_steps_and_documents():
    layer = sj.reverse(elman())
    params, carry = setting(layer)
    mask, reset = np.ones((T, B), bool), np.zeros((T, B), bool)
    mask[6:, 0], mask[3, 1], reset[4, 1] = False, False, True
    after, ys = unroll(layer, params, carry, mask=jnp.asarray(mask), reset=jnp.asarray(reset))
    expected, last = np.zeros((T, B, D)), []
    for row in range(B):
        h = np.zeros(D)
        for t in reversed(range(T)):
            if t + 1 < T and reset[t + 1, row]:
                h = np.zeros(D)
            if mask[t, row]:
                h = tanh_step(params, h, XS[t, row])
                expected[t, row] = h
        last.append(h)
    close((ys, after.h), (expected, np.stack(last)))


def test_bidirectional_is_parallel_with_a_reversed_half():
    both = sj.bidirectional(elman(), elman(2))
    same = sj.parallel(elman(), sj.reverse(elman(2)))
    params, carry = setting(both)
    close(setting(same)[0], params)
    close(unroll(both, params, carry), unroll(same, params, carry))


@pytest.mark.parametrize("between", ["hold", "zero"])
def test_strided_runs_at_every_kth_step_that_happens(between):
    layer = sj.strided(elman(), 3, between=between)
    params, carry = setting(layer)
    mask, reset = np.ones((T, B), bool), np.zeros((T, B), bool)
    mask[2, 0], mask[4, 1], reset[5, 1], reset[7, 1], mask[7, 1] = False, False, True, True, False
    ys = unroll(layer, params, carry, mask=jnp.asarray(mask), reset=jnp.asarray(reset))[1]
    expected = np.zeros((T, B, D))
    for row in range(B):
        h, held, n = np.zeros(D), np.zeros(D), 0
        for t in range(T):
            if reset[t, row]:
                h, held, n = np.zeros(D), np.zeros(D), 0
            if not mask[t, row]:
                continue
            if n % 3 == 0:
                h = held = tanh_step(params, h, XS[t, row])
                expected[t, row] = h
            elif between == "hold":
                expected[t, row] = held
            n += 1
    close(ys, expected)


def test_gradients_pass_a_strided_layer_by_its_own_steps_alone():
    layer = sj.strided(elman(), 4)
    params, carry = setting(layer)
    g = jax.grad(lambda xs: jnp.sum(unroll(layer, params, carry, xs)[1][-1]))(jnp.asarray(XS))
    assert [t for t in range(T) if np.any(g[t])] == [0, 4, 8]
    # dL/dx_4 = dL/dh_8 . diag(1 - h_8^2) W_h^T diag(1 - h_4^2) W_x^T
    h = tanh_loop(params, XS[::4])
    w_h, w_x = np.asarray(params.w_h), np.asarray(params.w_x)
    close(g[4], ((1 - h[2] ** 2) @ w_h.T * (1 - h[1] ** 2)) @ w_x.T)


@pytest.mark.parametrize("dilation", [1, 2, 4, 20])
@pytest.mark.parametrize("flagged", [True, *slow(False)])
@pytest.mark.fast_cases(2)
def test_dilated_skips_k_steps_of_the_carry(dilation, flagged):
    layer = sj.dilated(elman(), dilation)
    params, carry = setting(layer)
    mask, reset = np.ones((T, B), bool), np.zeros((T, B), bool)
    mask[1, 0], reset[6, 1] = not flagged, flagged
    flags = {"mask": jnp.asarray(mask), "reset": jnp.asarray(reset)} if flagged else {}
    after, ys = unroll(layer, params, carry, **flags)
    expected, last = np.zeros((T, B, D)), np.zeros((B, dilation, D))
    for row in range(B):
        threads, n = [np.zeros(D) for _ in range(dilation)], 0
        for t in range(T):
            if reset[t, row]:
                threads = [np.zeros(D) for _ in range(dilation)]
            if mask[t, row]:
                threads[n % dilation] = expected[t, row] = tanh_step(
                    params, threads[n % dilation], XS[t, row]
                )
                n += 1
        last[row] = [threads[(n + i) % dilation] for i in range(dilation)]
    close((ys, after.h), (expected, last))


def test_a_dilated_layer_equals_separate_sequences_in_gradients():
    layer = sj.dilated(elman(), 2)
    params, carry = setting(layer)
    found = jax.grad(lambda p: jnp.sum(jnp.sin(unroll(layer, p, carry)[1])))(params)

    def apart(p):
        halves = [
            unroll(elman(), p, elman().initial_carry(p, jnp.asarray(XS[0])), XS[i::2])[1] for i in (0, 1)
        ]
        return sum(jnp.sum(jnp.sin(ys)) for ys in halves)

    close(found, jax.grad(apart)(params))


# ---------------------------------------------------------------- regularize


def lstm_step(params, c, h, x):
    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    i, f, g, o = np.split(
        x @ np.asarray(params.w_x) + h @ np.asarray(params.w_h) + np.asarray(params.b), 4, -1
    )
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def test_zoneout_without_a_key_is_the_expectation():
    layer = sj.recurrent(sj.zoneout(sj.lstm(D), (0.5, 0.05)))
    params, carry = setting(layer)
    c, h, expected = np.zeros((B, D)), np.zeros((B, D)), []
    for x in XS:
        new_c, new_h = lstm_step(params, c, h, x)  # h from the whole new c: eq. 6
        c, h = 0.5 * c + 0.5 * new_c, 0.05 * h + 0.95 * new_h
        expected.append(h)
    after, ys = unroll(layer, params, carry)
    close((ys, after), (np.stack(expected), (c, h)))


@pytest.mark.parametrize("cell", [sj.lstm(40), sj.gru(40), sj.lru(40)], ids=repr)
@pytest.mark.fast_cases(1)
def test_zoneout_with_a_key_keeps_entries_or_updates_them(cell):
    plain, zoned = sj.recurrent(cell), sj.recurrent(sj.zoneout(cell, 0.3))
    params, carry = setting(plain)
    carry = jax.tree.map(lambda c: c + 1.5, carry)
    x, stayed, total = jnp.asarray(XS[0]), 0, 0
    for t in range(20):
        key = jax.random.fold_in(KEY, t)
        (before, after), got = (
            (carry, plain.step(params, carry, x)[0]),
            zoned.step(params, carry, x, key=key)[0],
        )
        for old, new, found in zip(*map(jax.tree.leaves, (before, after, got)), strict=True):
            kept = np.asarray(found == old)
            np.testing.assert_allclose(found, np.where(kept, old, new), rtol=1e-14)
            stayed, total = stayed + kept.sum(), total + kept.size
    assert abs(stayed / total - 0.3) < 5 * np.sqrt(0.21 / total)


def test_variational_dropout_has_one_mask_per_sequence():
    layer = sj.variational_dropout(sj.serial(), 0.4)
    xs = jnp.ones((6, 2, 50))
    reset = jnp.zeros((6, 2), bool).at[3, 1].set(True)
    carry = layer.initial_carry((), xs[0])
    after, ys = layer.unroll((), carry, xs, reset=reset, key=KEY)
    ys = np.asarray(ys)
    assert set(np.unique(ys)) == {0, 1 / (1 - 0.4)}
    np.testing.assert_array_equal(ys[:, 0], np.broadcast_to(ys[0, 0], ys[:, 0].shape))
    np.testing.assert_array_equal(ys[3:, 1], np.broadcast_to(ys[3, 1], ys[3:, 1].shape))
    assert np.any(ys[0, 0] != ys[0, 1]) and np.any(ys[2, 1] != ys[3, 1])
    np.testing.assert_array_equal(np.asarray(after.kept) == 1, ys[-1] > 0)
    # Streaming keeps the mask that is in the carry, whatever the key of the second piece is.
    middle, first = layer.unroll((), carry, xs[:2], key=KEY)
    second = layer.unroll((), middle, xs[2:], key=jax.random.key(9))[1]
    np.testing.assert_array_equal(second, np.broadcast_to(first[0], second.shape))
    assert np.array_equal(layer.unroll((), carry, xs)[1], xs)


def test_variational_dropout_draws_at_the_first_step_that_happens():
    layer = sj.variational_dropout(sj.serial(), 0.5)
    xs, mask = jnp.ones((3, 1, 30)), jnp.asarray([False, True, True])[:, None]
    carry = layer.initial_carry((), xs[0])
    late = layer.unroll((), carry, xs, mask=mask, key=KEY)[1]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(3))
    np.testing.assert_array_equal(late[1], layer.step((), carry, xs[1], key=keys[1])[1])
    np.testing.assert_array_equal(late[1], late[2])


def test_variational_dropout_in_a_cell_drops_what_the_product_reads():
    layer = sj.recurrent(sj.variational_dropout(sj.lstm(D), 0.5))
    params, carry = setting(layer)
    after, ys = unroll(layer, params, carry, key=KEY)
    m = np.asarray(after.kept) / 0.5
    assert 0 < m.mean() < 2
    c, h, expected = np.zeros((B, D)), np.zeros((B, D)), []
    for x in XS:
        c, h = lstm_step(params, c, h * m, x)
        expected.append(h)
    close((ys, after.carry), (np.stack(expected), (c, h)))


def test_normalized_lstm_equals_the_equations_of_its_paper():
    layer = sj.recurrent(sj.normalized(sj.lstm(D)))
    params, carry = setting(layer)
    p = jax.tree.map(np.asarray, params)

    def norm(z):
        return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    c, h, expected = np.zeros((B, D)), np.zeros((B, D)), []
    for x in XS:
        z = norm(x @ p.cell.w_x) * p.gain_x + norm(h @ p.cell.w_h) * p.gain_h + p.cell.b  # eq. 20
        i, f, g, o = np.split(z, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)  # eq. 21
        h = sigmoid(o) * np.tanh(norm(c) * p.gain_s + p.shift_s)  # eq. 22
        expected.append(h)
    close(unroll(layer, params, carry), ((c, h), np.stack(expected)))


def test_normalized_gru_keeps_the_summands_of_its_candidate_apart():
    layer = sj.recurrent(sj.normalized(sj.gru(D)))
    params, carry = setting(layer)
    assert params.gain_s == () and params.shift_s == ()
    # Products at any scale give the same: only epsilon sees it.
    scaled = params._replace(cell=params.cell._replace(w_x=params.cell.w_x * 1e4, w_h=params.cell.w_h * 1e4))
    exact = sj.recurrent(sj.normalized(sj.gru(D), epsilon=1e-12))
    ys, ys_scaled = (unroll(exact, p, carry, jnp.asarray(XS) + 1)[1] for p in (params, scaled))
    np.testing.assert_allclose(ys[1:], ys_scaled[1:], atol=1e-6)


# ---------------------------------------------------------------- context


@pytest.mark.parametrize("merge", ["concatenate", "add"])
@pytest.mark.fast_cases(1)
def test_conditioned_joins_the_context_to_each_input_and_resets_leave_it(merge):
    layer = sj.conditioned(elman(), 2, merge=merge)
    params, carry = setting(layer)
    context = np.random.default_rng(2).normal(size=(B, 2))
    carry = sj.set_context(carry, jnp.asarray(context))
    reset = np.zeros((T, B), bool)
    reset[5] = True
    after, ys = unroll(layer, params, carry, reset=jnp.asarray(reset))
    if merge == "concatenate":
        joined, inner = np.concatenate([XS, np.broadcast_to(context, (T, B, 2))], -1), params
    else:
        joined, inner = XS + context @ np.asarray(params.w), params.layer
    close(ys, np.concatenate([tanh_loop(inner, joined[:5]), tanh_loop(inner, joined[5:])]))
    close(after.context, context)


def test_taps_see_the_context_as_a_part_of_the_carry():
    layer = sj.conditioned(elman(), 2)
    params, carry = setting(layer)

    def loss(carry, taps):
        return jnp.sum(unroll(layer, params, carry, tap=taps)[1])

    g_carry, g_taps = jax.grad(loss, (0, 1))(carry, dummies(carry, T))
    close(g_taps.context[0], np.linalg.norm(g_carry.context, axis=-1))
    assert np.all(np.diff(np.asarray(g_taps.context[:, 0])) != 0)


class Softmax:
    """An attention for tests: softmax of ``query W memory^T``."""

    def init(self, key, memory, query):
        return jax.random.normal(key, (query.shape[-1], memory.shape[-1]))

    def __call__(self, params, memory, memory_mask, query):
        scores = jnp.einsum("...m,...sm->...s", query @ params, memory)
        weights = jax.nn.softmax(jnp.where(memory_mask, scores, -1e30), -1)
        return jnp.einsum("...s,...sm->...m", weights, memory), weights


def test_with_memory_joins_what_each_output_finds():
    layer = sj.with_memory(elman(), Softmax(), memory_size=4)
    params, carry = setting(layer)
    memory = np.random.default_rng(3).normal(size=(B, 5, 4))
    mask = np.array([[True] * 5, [True, True, False, True, False]])
    reset = jnp.zeros((T, B), bool).at[4].set(True)
    empty = unroll(layer, params, carry)[1]
    assert empty.shape == (T, B, D + 4) and not np.any(empty[..., D:])
    carry = sj.set_memory(carry, jnp.asarray(memory), jnp.asarray(mask))
    after, ys = unroll(layer, params, carry, reset=reset)
    hs = np.concatenate([tanh_loop(params.layer, XS[:4]), tanh_loop(params.layer, XS[4:])])
    expected = np.zeros((T, B, 4))
    for t in range(T):
        for row in range(B):
            entries = memory[row][mask[row]]
            scores = np.exp(entries @ (hs[t, row] @ np.asarray(params.attention)))
            expected[t, row] = scores / scores.sum() @ entries
    close(ys, np.concatenate([hs, expected], -1))
    close((after.memory, after.memory_mask), (memory, mask))
    step_carry, y = layer.step(params, carry, jnp.asarray(XS[0]))
    close(y, ys[0])


@pytest.mark.parametrize(
    "attention",
    [sj.additive_attention(3), sj.multiplicative_attention(), sj.scaled_dot_attention(2)],
    ids=repr,
)
@pytest.mark.fast_cases(1)
def test_with_memory_takes_the_attentions_that_there_are(attention):
    layer = sj.with_memory(elman(), attention, memory_size=4)
    assert pickle.loads(pickle.dumps(layer)) == layer
    params, carry = setting(layer)
    memory = jnp.asarray(np.random.default_rng(3).normal(size=(B, 5, 4)))
    mask = jnp.array([[True] * 5, [True, False, False, True, False]])
    _, ys = unroll(layer, params, sj.set_memory(carry, memory, mask))
    hs = jnp.asarray(tanh_loop(params.layer, XS))
    found = [attention(params.attention, memory, mask, h)[0] for h in hs]
    close(ys, np.concatenate([hs, np.stack(found)], -1))
    assert np.ptp(np.stack(found), 0).max() > 1e-3


def test_contexts_are_found_anywhere():
    model = sj.serial(
        elman(), sj.residual(sj.conditioned(sj.with_memory(elman(), Softmax(), memory_size=4), 2))
    )
    inner = sj.conditioned(sj.with_memory(elman(), Softmax(), memory_size=4), 2)
    assert isinstance(model, sj.Layer)
    _, carry = setting(inner)
    whole = sj.set_memory(sj.set_context((carry, ()), jnp.ones((B, 2))), jnp.ones((B, 6, 4)))
    assert whole[0].carry.memory.shape == (B, 6, 4) and whole[0].carry.memory_mask.all()
    assert np.all(whole[0].context == 1)


# ---------------------------------------------------------------- boundary


def test_batch_major_swaps_time_and_batch_of_data_and_flags():
    layer = sj.batch_major(sj.serial(elman(), sj.dropout(0.3)))
    inner = sj.serial(elman(), sj.dropout(0.3))
    params, carry = setting(inner)
    mask, reset = jnp.asarray(XS[:, :, 0] > -1), jnp.asarray(XS[:, :, 1] > 1)
    after, ys = layer.unroll(
        params, carry, jnp.swapaxes(jnp.asarray(XS), 0, 1), mask=mask.T, reset=reset.T, key=KEY
    )
    expected_after, expected = unroll(inner, params, carry, mask=mask, reset=reset, key=KEY)
    close((after, jnp.swapaxes(ys, 0, 1)), (expected_after, expected))


def test_frozen_stops_gradients_by_params_alone():
    layer = sj.serial(elman(), sj.frozen(elman()))
    params, carry = setting(layer)
    free = sj.serial(elman(), elman())

    def loss(layer):
        return jax.grad(lambda p: jnp.sum(jnp.sin(unroll(layer, p, carry)[1])))(params)

    first, second = loss(layer)
    assert not any(np.any(g) for g in jax.tree.leaves(second))
    close(first, loss(free)[0])
    assert np.any(first.w_x)


def test_reset_on_a_token_restarts_before_it():
    embed = sj.pointwise(one_hot)
    layer, plain = sj.reset_on(sj.serial(embed, elman(4)), 3), sj.serial(embed, elman(4))
    tokens = jnp.asarray([[1, 3, 0, 2, 3, 2, 1], [3, 1, 1, 2, 0, 1, 3]]).T
    params = layer.init(KEY, tokens[0])
    carry = jax.tree.map(lambda c: c + 1.0, layer.initial_carry(params, tokens[0]))
    mask = jnp.ones(tokens.shape, bool).at[4, 0].set(False)
    extra = jnp.zeros(tokens.shape, bool).at[2, 1].set(True)
    by_hand = ((tokens == 3) & mask) | extra
    found = layer.unroll(params, carry, tokens, mask=mask, reset=extra)
    close(found, plain.unroll(params, carry, tokens, mask=mask, reset=by_hand))


def one_hot(token):
    return jax.nn.one_hot(token, 4)


def test_bptt_barrier_gives_the_gradient_of_separate_pieces():
    layer, every = sj.bptt_barrier(elman(), every=4), 4
    params, carry = setting(layer)
    found = jax.grad(lambda p: jnp.sum(jnp.sin(unroll(layer, p, carry)[1])))(params)

    def in_pieces(p):
        h, total = carry.carry, 0.0
        for begin in range(0, T, every):
            h, ys = unroll(elman(), p, jax.lax.stop_gradient(h), XS[begin : begin + every])
            total += jnp.sum(jnp.sin(ys))
        return total

    close(found, jax.grad(in_pieces)(params))
    whole = jax.grad(lambda p: jnp.sum(jnp.sin(unroll(elman(), p, carry.carry)[1])))(params)
    assert np.abs(found.w_h - whole.w_h).max() > 1e-3


def test_bptt_barriers_of_a_sequence_in_pieces_are_those_of_the_whole():
    layer = sj.bptt_barrier(elman(), every=3)
    params, carry = setting(layer)

    def loss(xs, cut):
        middle, _ = unroll(layer, params, carry, xs[:cut])
        return jnp.sum(unroll(layer, params, middle, xs[cut:])[1][-1])

    grads = [jax.grad(loss)(jnp.asarray(XS), cut) for cut in (0, 2, 7, 8)]
    for g in grads[1:]:
        close(g, grads[0])
    assert [t for t in range(T) if np.any(grads[0][t])] == [6, 7, 8]


def test_bptt_barriers_count_the_steps_of_each_row_since_its_reset():
    layer = sj.bptt_barrier(elman(), every=3)
    params, carry = setting(layer)
    mask = jnp.ones((T, B), bool).at[7, 0].set(False)
    reset = jnp.zeros((T, B), bool).at[4, 1].set(True)

    def loss(xs):
        return jnp.sum(unroll(layer, params, carry, xs, mask=mask, reset=reset)[1][-1])

    g = np.asarray(jax.grad(loss)(jnp.asarray(XS)))
    assert [t for t in range(T) if np.any(g[t, 0])] == [6, 8]
    assert [t for t in range(T) if np.any(g[t, 1])] == [7, 8]  # 4, 5, 6 | 7, 8


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "make",
    [
        lambda: sj.parallel(elman(), sj.reverse(elman()), merge="sum"),
        lambda: sj.repeat(elman(), 2, remat=True),
        lambda: sj.strided(sj.dilated(elman(), 2), 3, between="zero"),
        lambda: sj.recurrent(sj.zoneout(sj.normalized(sj.lstm(3)), (0.1, 0.2))),
        lambda: sj.variational_dropout(sj.recurrent(sj.variational_dropout(sj.lstm(3), 0.1)), 0.2),
        lambda: sj.batch_major(sj.frozen(sj.conditioned(elman(), 2, merge="add"))),
        lambda: sj.reset_on(sj.bptt_barrier(elman(), every=2), 3),
    ],
)
def test_compositions_are_values(make):
    layer = make()
    assert layer == make() and hash(layer) == hash(make())
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert eval(repr(layer), {name: getattr(sj, name) for name in dir(sj)}) == layer


def test_a_nest_of_layers_is_traced_a_few_times_only():
    """Each level wants the output of what is in it: traced anew, ten levels would be traced 2^10 times."""
    calls = []

    def counted(x):
        calls.append(x.shape)
        return 2 * x

    layer, plain = sj.pointwise(counted), sj.pointwise(jnp.negative)
    for _ in range(10):
        layer = sj.serial(layer, plain)
    x = jnp.ones((2, 3))
    params = layer.init(jax.random.key(0), x)
    layer.initial_carry(params, x)
    assert 1 <= len(calls) <= 30
    # Another shape or dtype is another output.
    for other in (jnp.ones((2, 5)), jnp.ones((2, 3), jnp.float32)):
        wide = sj.serial(layer, sj.recurrent(sj.gru(4)))
        found = wide.init(jax.random.key(0), other)[1]
        assert found.w_x.shape[0] == other.shape[1]


def test_an_error_in_a_nest_is_told_alone():
    layer = sj.serial(sj.recurrent(sj.lstm(4)), sj.pointwise(lambda x: x @ jnp.ones((7, 3))))
    nest = sj.serial(layer, sj.recurrent(sj.lru(3)))
    with pytest.raises(TypeError, match="dot_general") as error:
        nest.init(jax.random.key(0), jnp.ones((2, 3)))
    assert error.value.__context__ is None


# ---------------------------------------------------------------- what is refused


def run(layer):
    return unroll(layer, *setting(layer))


def first_step(layer):
    return layer.step(*setting(layer), jnp.asarray(XS[0]))


def carry_with_context():
    return setting(sj.conditioned(sj.with_memory(elman(), Softmax(), memory_size=4), 2))[1]


OF_STEPS = {
    "strided": sj.strided,
    "dilated": sj.dilated,
    "bptt_barrier": lambda layer, k: sj.bptt_barrier(layer, every=k),
}
REFUSED = {
    "parallel: shapes to add": (
        lambda: run(sj.parallel(elman(2), elman(3), merge="sum")), ValueError,
        r"expected outputs of one shape, got \[9, 2, 2\], \[9, 2, 3\]"),
    "parallel: merge": (
        lambda: sj.parallel(elman(), merge="mean"), ValueError,
        r"parallel\(merge\): expected one of 'concatenate', 'sum', 'gate', 'tuple', got 'mean'"),
    "parallel: no layer": (
        sj.parallel, ValueError, "parallel: expected one layer or more"),
    "parallel: gate of tokens": (
        lambda: sj.parallel(sj.serial(), merge="gate").init(KEY, jnp.zeros(3, int)), ValueError,
        r"merge='gate'\): expected floating x"),
    "repeat: another output than the input": (
        lambda: sj.repeat(elman(4), 2).init(KEY, jnp.asarray(XS[0])), ValueError,
        r"repeat\(.*\): expected an output of the input's shape and dtype .*\(2, 3\).* got .*\(2, 4\)"),
    "repeat: depth": (
        lambda: sj.repeat(elman(), 0), ValueError, r"repeat\(depth\): expected a whole number of at least 1, got 0"),
    "reverse: step": (
        lambda: first_step(sj.reverse(elman())), TypeError,
        r"reverse\(.*\) has no step: it reads the whole sequence"),
    "bidirectional: step": (
        lambda: first_step(sj.bidirectional(elman(), elman(2))), TypeError, r"bidirectional\(.*\) has no step"),
    **{f"{name}: number of steps": (
        lambda make=make: make(elman(), 0), ValueError, "expected a whole number of at least 1, got 0")
       for name, make in OF_STEPS.items()},
    **{f"{name}: not causal": (
        lambda make=make: make(sj.reverse(elman()), 2), TypeError, "expected a causal layer, got reverse")
       for name, make in OF_STEPS.items()},
    **{f"{name}: a cell": (
        lambda make=make: make(sj.elman(3), 2), TypeError,
        r"expected layers, got elman.* Bind a cell with recurrent\(cell\)")
       for name, make in OF_STEPS.items()},
    "zoneout: rate": (
        lambda: sj.zoneout(sj.lstm(3), 1), ValueError, r"zoneout\(rate\): expected a number in \[0, 1\), got 1"),
    "zoneout: number of rates": (
        lambda: setting(sj.recurrent(sj.zoneout(sj.lstm(3), (0.1,)))), ValueError,
        r"expected 2 rates, one per floating leaf of the carry, got \(0.1,\)"),
    "zoneout: a layer": (
        lambda: sj.zoneout(elman(), 0.1), TypeError, r"zoneout\(cell\): expected a Cell"),
    "variational_dropout: a diagonal cell": (
        lambda: sj.variational_dropout(sj.lru(3), 0.5), TypeError,
        r"variational_dropout\(lru.*: expected a Gated cell"),
    "normalized: a diagonal cell": (
        lambda: sj.normalized(sj.lru(3)), TypeError, "expected a Gated cell with a Dense projection"),
    "normalized: a cell with another projection": (
        lambda: sj.normalized(sj.gru(3, reset_after=False)), TypeError,
        "expected a Gated cell with a Dense projection"),
    "set_context: shape": (
        lambda: sj.set_context(carry_with_context(), jnp.ones((B, 3))), ValueError,
        r"set_context: expected a context \[2, 2\], got \[2, 3\]"),
    "set_context: no context": (
        lambda: sj.set_context(setting(elman())[1], jnp.ones((B, 2))), ValueError,
        r"set_context: .* a conditioned\(...\) layer, got one without"),
    "set_memory: shape": (
        lambda: sj.set_memory(carry_with_context(), jnp.ones((3, 6, 4))), ValueError,
        r"set_memory: expected a memory \[2, S, 4\], got \[3, 6, 4\]"),
    "set_memory: mask": (
        lambda: sj.set_memory(carry_with_context(), jnp.ones((B, 6, 4)), jnp.ones((B, 6))), ValueError,
        r"set_memory: expected a bool memory_mask \[2, 6\], got"),
    "with_memory: a function": (
        lambda: sj.with_memory(elman(), jnp.tanh, memory_size=4), TypeError,
        r"with_memory\(attention\): expected an attention such as"),
    "batch_major: shape": (
        lambda: sj.batch_major(elman()).unroll(*setting(elman()), jnp.zeros(4)), ValueError,
        r"expected xs \[B, T, ...\], got \[4\]"),
    "reset_on: a token in floats": (
        lambda: unroll(sj.reset_on(elman(), 3), *setting(elman())), TypeError,
        r"reset_on\(when=3\): expected tokens \(integers\), got float64"),
    "reset_on: a function to numbers": (
        lambda: unroll(sj.reset_on(elman(), jnp.sin), *setting(elman())), ValueError,
        "expected a function x -> bool"),
    "reset_on: a text": (
        lambda: sj.reset_on(elman(), "a"), TypeError, r"reset_on\(when\): expected a token or a function"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
