"""Compare gate statistics with gates computed by hand, and decays with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.cells import LRUParams
from seqjax.probes import bind, gate_statistics

T, B, D, H = 8, 2, 3, 4


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def bound(cell, params):
    return bind(sj.recurrent(cell), params)


def drawn(cell, scale=3.0):
    """Random float64 params; large ones, so that some gates are open and some shut."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0), jnp.zeros((B, D)))
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape)), shapes)


def assert_describes(found, values, levels=(0.05, 0.25, 0.5, 0.75, 0.95)):
    values = np.ravel(values)
    np.testing.assert_allclose(found.share_open, (values > 0.99).mean(), rtol=1e-12)
    np.testing.assert_allclose(found.share_shut, (values < 0.01).mean(), rtol=1e-12)
    quantiles = np.quantile(values, levels)
    np.testing.assert_allclose(found.quantiles, quantiles, rtol=1e-9, atol=1e-300)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found.time_constants, -1 / np.log(quantiles), rtol=1e-6)


@pytest.mark.parametrize(
    ("bias", "length"),
    [(0.0, 1.443), (1.0, 3.192), (2.0, 7.878), (np.log(99), 99.50), (np.log(999), 999.5)],
)
@pytest.mark.fast_cases(2)
def test_a_forget_bias_is_an_e_folding_length(bias, length):
    """C8: -1 / ln sigmoid(b)."""
    cell = sj.lstm(H)
    params = jax.tree.map(jnp.zeros_like, drawn(cell))
    params = params._replace(b=params.b.at[H : 2 * H].set(bias))
    found = gate_statistics(bound(cell, params), jnp.asarray(normal(0, T, B, D)))
    for openness in (found.gates[1], found.decays[0]):
        np.testing.assert_allclose(openness.time_constants, length, rtol=1e-3)
        np.testing.assert_allclose(openness.time_constants, -1 / np.log(sigmoid(bias)), rtol=1e-10)


def test_the_gates_of_an_lstm_are_those_along_its_trajectory():
    cell = sj.lstm(H)
    params, xs = drawn(cell), normal(1, T, B, D)
    reset, mask = np.zeros((T, B), bool), np.ones((T, B), bool)
    reset[4, 0], mask[2, 0], mask[5:7, 1] = True, False, False
    seen = []
    for b in range(B):
        c, h = normal(2, B, H)[b], normal(3, B, H)[b]
        for t in range(T):
            c, h = (0 * c, 0 * h) if reset[t, b] else (c, h)
            if not mask[t, b]:
                continue
            i, f, g, o = np.split(xs[t, b] @ params.w_x + h @ params.w_h + params.b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            seen.append((sigmoid(i), sigmoid(f), sigmoid(o)))
    carry = sj.cells.LSTMCarry(*map(jnp.asarray, (normal(2, B, H), normal(3, B, H))))
    xs[~mask] = np.nan

    @jax.jit
    def measure(params, carry, xs):
        return gate_statistics(bound(cell, params), sj.Batch(xs, None, reset, mask), carry=carry)

    found = measure(params, carry, jnp.asarray(xs))
    i, f, o = map(np.stack, zip(*seen, strict=True))
    assert 0 < (f > 0.99).mean() < 1 and 0 < (f < 0.01).mean() < 1
    for openness, values in zip(found.gates, (i, f, None, o), strict=True):
        assert openness is None if values is None else assert_describes(openness, values) is None
    assert_describes(found.decays[0], f)


def test_a_decay_is_what_the_state_is_multiplied_by():
    xs = normal(1, T, B, D)
    cell = sj.gru(H)  # r, z, n: h' = (1 - z) n + z h
    found = gate_statistics(bound(cell, drawn(cell)), jnp.asarray(xs))
    assert found.gates[2] is None
    jax.tree.map(np.testing.assert_array_equal, found.decays[0], found.gates[1])

    cell = sj.coupled_lstm(H)  # 1 - i, and i is no gate but an argument
    params = drawn(cell)
    params = params._replace(w_h=0 * params.w_h)
    found = gate_statistics(bound(cell, params), jnp.asarray(xs))
    assert found.gates[:2] == (None, None)
    i = np.split(xs @ params.w_x + params.b, 3, -1)[0]
    assert_describes(found.decays[0], sigmoid(-i))

    cell = sj.elman(H)
    found = gate_statistics(bound(cell, drawn(cell)), jnp.asarray(xs))
    assert found.decays == (None,) and found.gates == (None,)


def test_the_decays_of_linear_recurrences_are_their_moduli():
    moduli = np.array([0.5, 0.9, 0.995])
    params = LRUParams(
        *map(jnp.asarray, (np.log(-np.log(moduli)), np.ones(3), np.zeros(3))),
        *map(jnp.asarray, (normal(0, D, 6), normal(1, 6, H), np.zeros((D, H)))),
    )
    found = gate_statistics(bound(sj.lru(H, state_size=3), params), jnp.asarray(normal(2, T, B, D)))
    assert found.gates == ()
    assert_describes(found.decays[0], np.tile(moduli, T * B))

    cell = sj.retention(8, num_heads=2)
    params, xs = cell.init(jax.random.key(0), jnp.zeros((B, 8))), jnp.asarray(normal(3, T, B, 8))
    found = gate_statistics(bound(cell, params), xs, quantiles=(0.0, 1.0))
    np.testing.assert_allclose(found.decays[0].quantiles, [1 - 2.0**-5, 1 - 2.0**-6], rtol=1e-6)
    cell = sj.linear_attention(8, num_heads=2)
    found = gate_statistics(bound(cell, cell.init(jax.random.key(0), xs[0])), xs)
    assert (found.decays[0].time_constants == jnp.inf).all() and found.decays[0].share_open == 1


def test_nan_in_a_step_that_happens_is_not_hidden_where_it_cannot_be_refused():
    cell = sj.gru(H)
    xs = jnp.asarray(normal(1, T, B, D)).at[3, 0, 0].set(jnp.nan)
    found = jax.jit(lambda xs: gate_statistics(bound(cell, drawn(cell)), xs))(xs)
    assert np.isnan(found.gates[1].quantiles).all() and np.isnan(found.gates[1].time_constants).all()


ZEROS = jnp.zeros((T, B, D))
REFUSED = {
    "a cell without gates": (
        lambda: gate_statistics(bound(sj.lem(2), None), ZEROS), TypeError,
        r"gate_statistics\(bound\): expected a cell with a Gated, Diagonal or.* got lem\(.*\) \(Step\)"),
    "a cell": (
        lambda: gate_statistics(sj.lstm(2), ZEROS), TypeError,
        r"\(bound\): expected .*, got lstm.* Write bind\(recurrent\(cell\), params\)"),
    "a composition": (
        lambda: gate_statistics(bind(sj.serial(sj.recurrent(sj.lstm(2))), None), ZEROS), TypeError,
        r"expected bind\(recurrent\(cell\), params\), got the layer serial"),
    "no steps": (
        lambda: gate_statistics(bound(sj.lstm(2), None), ZEROS[:0]), ValueError,
        "gate_statistics: expected xs .* got an empty sequence"),
    **{f"quantiles={levels}": (
        lambda levels=levels: gate_statistics(bound(sj.lstm(2), None), ZEROS, quantiles=levels), ValueError,
        rf"\(quantiles\): expected levels in \[0, 1\] such as .*, got {shown}")
       for levels, shown in (((95,), r"\(95,\)"), (0.5, "0.5"))},
}  # fmt: skip


@refusals(REFUSED)
def test_what_has_no_gates_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
