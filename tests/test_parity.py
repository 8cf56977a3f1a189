"""Compare Flax, Haiku, Equinox and Keras on the same weights: outputs, last carries and every gradient."""

import os
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity import assert_parity, normal, setting
from helpers.tiers import slow

import seqjax as sj
from seqjax.cells import ElmanCarry, GRUCarry, LSTMCarry

os.environ.setdefault("KERAS_BACKEND", "jax")

T, B, D, H = 7, 3, 4, 5
LENGTHS = np.array([4, 7, 1])
HOLES = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 1, 0]], bool)
ELMAN, RELU, LSTM, GRU = sj.elman(H), sj.elman(H, activation="relu"), sj.lstm(H), sj.gru(H)
BEFORE = sj.gru(H, reset_after=False)


def by_gate(array, count):
    """The columns of each gate."""
    return jnp.split(array, count, -1)


# ---------------------------------------------------------------- flax.linen


# Our cell; Flax's; the type of our carry; Flax's carry from ours.
FLAX = {
    "elman": (ELMAN, nn.SimpleCell(H), ElmanCarry, lambda carry: carry.h),
    "elman_relu": (RELU, nn.SimpleCell(H, activation_fn=nn.relu), ElmanCarry, lambda carry: carry.h),
    "lstm": (LSTM, nn.LSTMCell(H), LSTMCarry, tuple),
    "lstm_optimized": (LSTM, nn.OptimizedLSTMCell(H), LSTMCarry, tuple),
    "gru": (GRU, nn.GRUCell(H), GRUCarry, lambda carry: carry.h),
}


def run_flax(cell, module, carry_type, theirs, params, carry, xs, lengths=None):
    layer = nn.RNN(module, time_major=True, return_carry=True)
    variables = sj.interop.to_flax(sj.recurrent(cell), params).variables
    end, ys = layer.apply(variables, xs, initial_carry=theirs(carry), seq_lengths=lengths)
    return carry_type(*end) if isinstance(end, tuple) else carry_type(end), ys


@pytest.mark.parametrize("lengths", [LENGTHS, *slow(None)], ids=["lengths", "full"])
@pytest.mark.parametrize("name", FLAX)
@pytest.mark.fast_cases(2)
def test_flax(name, lengths):
    cell = FLAX[name][0]
    xs = jnp.asarray(normal(0, T, B, D))
    mask = None if lengths is None else sj.lengths_to_mask(lengths, T)
    peer = partial(run_flax, *FLAX[name], lengths=None if lengths is None else jnp.asarray(lengths))
    assert_parity(sj.recurrent(cell), peer, *setting(cell, xs), xs, mask=mask)


@pytest.mark.parametrize("lengths", [LENGTHS, *slow(None)], ids=["lengths", "full"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.fast_cases(1)
def test_flax_bidirectional(name, lengths):
    cell, module, carry_type, theirs = FLAX[name]
    xs = jnp.asarray(normal(0, T, B, D))
    layer = nn.Bidirectional(nn.RNN(module), nn.RNN(module.copy()), time_major=True, return_carry=True)

    def peer(params, carry, xs):
        ends, ys = layer.apply(
            sj.interop.to_flax(sj.bidirectional(sj.recurrent(cell)), params).variables,
            xs,
            initial_carry=tuple(map(theirs, carry)),
            seq_lengths=None if lengths is None else jnp.asarray(lengths),
        )
        ends = [carry_type(*end) if isinstance(end, tuple) else carry_type(end) for end in ends]
        return tuple(ends), ys

    halves = [setting(cell, xs), setting(cell, xs[::-1])]
    params = tuple(jax.tree.map(lambda a, s=scale: s * a, half[0]) for scale, half in zip((1, -0.5), halves))
    carry = tuple(jax.tree.map(lambda a, s=scale: s * a, half[1]) for scale, half in zip((1, -0.5), halves))
    mask = None if lengths is None else sj.lengths_to_mask(lengths, T)
    assert_parity(sj.bidirectional(sj.recurrent(cell)), peer, params, carry, xs, mask=mask)


# ---------------------------------------------------------------- dm-haiku


def haiku_elman(params):
    return {"vanilla_rnn/linear": {"w": params.w_x, "b": params.b}, "vanilla_rnn/linear_1": {"w": params.w_h}}


def haiku_lstm(params):
    """Haiku's order is i, g, f, o, and 1 is added to f."""
    (w_x, w_h, b) = ([p[g] for g in (0, 2, 1, 3)] for p in (by_gate(p, 4) for p in params))
    b[2] = b[2] - 1
    w = jnp.concatenate([jnp.concatenate(w_x, -1), jnp.concatenate(w_h, -1)])
    return {"lstm/linear": {"w": w, "b": jnp.concatenate(b)}}


def haiku_gru(params):
    """Haiku's order is z, r, n; its z is our 1 - z, so that its weights are minus ours; it has one bias."""
    (w_x, w_h, b) = (by_gate(p, 3) for p in (params.w_x, params.w_h, params.b + params.b_h))
    w_x, w_h, b = (jnp.concatenate([-z, r, n], -1) for r, z, n in (w_x, w_h, b))
    return {"gru": {"w_i": w_x, "w_h": w_h, "b": b}}


HAIKU = {
    "elman_relu": (RELU, "VanillaRNN", {"double_bias": False}, haiku_elman, ElmanCarry),
    "lstm": (LSTM, "LSTM", {}, haiku_lstm, LSTMCarry),
    "gru_reset_before": (BEFORE, "GRU", {}, haiku_gru, GRUCarry),
}


@pytest.mark.peers
@pytest.mark.parametrize("name", HAIKU)
def test_haiku(name):
    hk = pytest.importorskip("haiku")
    cell, core, options, weights, carry_type = HAIKU[name]
    is_lstm = carry_type is LSTMCarry

    def unroll(xs, state):
        return hk.dynamic_unroll(getattr(hk, core)(H, **options), xs, state)

    run = hk.without_apply_rng(hk.transform(unroll)).apply

    def peer(params, carry, xs):
        state = hk.LSTMState(hidden=carry.h, cell=carry.c) if is_lstm else carry.h
        ys, end = run(weights(params), xs, state)
        return LSTMCarry(end.cell, end.hidden) if is_lstm else carry_type(end), ys

    xs = jnp.asarray(normal(0, T, B, D))
    assert_parity(sj.recurrent(cell), peer, *setting(cell, xs), xs)


# ---------------------------------------------------------------- equinox


def equinox_lstm(params):
    return {"weight_ih": params.w_x.T, "weight_hh": params.w_h.T, "bias": params.b}


def equinox_gru(params):
    """The biases of r and z are one; those of the candidate two."""
    b_h = params.b_h.at[2 * H :].set(0.0)
    return {
        "weight_ih": params.w_x.T,
        "weight_hh": params.w_h.T,
        "bias": params.b + b_h,
        "bias_n": params.b_h[2 * H :],
    }


EQUINOX = {
    "lstm": (LSTM, "LSTMCell", equinox_lstm, LSTMCarry),
    "gru": (GRU, "GRUCell", equinox_gru, GRUCarry),
}


@pytest.mark.peers
@pytest.mark.parametrize("name", EQUINOX)
def test_equinox(name):
    eqx = pytest.importorskip("equinox")
    cell, peer_name, weights, carry_type = EQUINOX[name]
    empty = getattr(eqx.nn, peer_name)(D, H, key=jax.random.key(0))

    def peer(params, carry, xs):
        given = weights(params)
        module = eqx.tree_at(lambda m: [getattr(m, n) for n in given], empty, list(given.values()))

        def one_step(carry, x):
            if carry_type is GRUCarry:
                h = module(x, carry.h)
                return GRUCarry(h), h
            h, c = module(x, (carry.h, carry.c))
            return LSTMCarry(c, h), h

        return jax.lax.scan(lambda carry, x: jax.vmap(one_step)(carry, x), carry, xs)

    xs = jnp.asarray(normal(0, T, B, D))
    assert_parity(sj.recurrent(cell), peer, *setting(cell, xs), xs)


# ---------------------------------------------------------------- keras


KERAS = {
    "elman": (ELMAN, "SimpleRNN", {}, ElmanCarry),
    "elman_relu": (RELU, "SimpleRNN", {"activation": "relu"}, ElmanCarry),
    "lstm": (LSTM, "LSTM", {}, LSTMCarry),
    "gru": (GRU, "GRU", {"reset_after": True}, GRUCarry),
    "gru_reset_before": (BEFORE, "GRU", {"reset_after": False}, GRUCarry),
}


@pytest.mark.peers
@pytest.mark.parametrize(
    "mask", [HOLES, *slow(None, sj.lengths_to_mask(LENGTHS, T))], ids=["holes", "full", "lengths"]
)
@pytest.mark.parametrize("name", KERAS)
@pytest.mark.fast_cases(2)
def test_keras(name, mask):
    """In float32, to which Keras' tanh and sigmoid bring float64. At masked steps it gives the last output again, ours
    zero; the others are compared.
    """
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend than JAX here")
    cell, peer_name, options, carry_type = KERAS[name]
    layer = getattr(keras.layers, peer_name)(H, return_sequences=True, return_state=True, **options)
    layer.build((B, T, D))

    def peer(params, carry, xs):
        (ys, *end), _ = layer.stateless_call(
            sj.interop.keras_weights(sj.recurrent(cell), params),
            [v.value for v in layer.non_trainable_variables],
            xs.swapaxes(0, 1),
            initial_state=list(reversed(carry)),  # h first
            mask=None if mask is None else jnp.asarray(mask).T,
        )
        return carry_type(*reversed(end)), ys.swapaxes(0, 1)

    xs = jnp.asarray(normal(0, T, B, D), jnp.float32)
    mask = None if mask is None else jnp.asarray(mask)
    params, carry = setting(cell, xs, xs.dtype)
    params = jax.tree.map(lambda p: p / 2, params)  # larger ones would amplify the roundings of both
    assert_parity(sj.recurrent(cell), peer, params, carry, xs, mask=mask, rtol=1e-6)
