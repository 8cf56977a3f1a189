"""What every layer does with integers where floats are meant, with keys of both kinds, and with float64 of NumPy."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.testing.layers import LAYERS
from seqjax.training import init_train_state

X = np.random.default_rng(0).normal(size=(5, 3, 4))
DROPOUT = {
    "dropout": sj.dropout(0.5),
    "serial": sj.serial(sj.recurrent(sj.lstm(4)), sj.dropout(0.5)),
    "flax": sj.pointwise(nn.Dropout(0.5)),
    "variational": sj.variational_dropout(sj.recurrent(sj.gru(4)), 0.5),
    "repeat": sj.repeat(sj.serial(sj.recurrent(sj.elman(4)), sj.dropout(0.5)), 2),
    "zoneout": sj.recurrent(sj.zoneout(sj.lstm(4), 0.5)),
    "batch_major": sj.batch_major(sj.dropout(0.5)),
}


def as_integers(tree):
    return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.int32), tree)


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.fast_cases(12)
def test_integers_are_refused_by_every_cell_at_every_entry(name):
    entry = REGISTRY[name]
    cell, example = entry.make(6), entry.example((3,), 4)
    layer = sj.recurrent(cell)
    x = as_integers(example)
    xs = jax.tree.map(lambda a: a[None], x)
    params = jax.eval_shape(layer.init, jax.random.key(0), example)
    carry = jax.eval_shape(layer.initial_carry, params, example)
    calls = {
        "init": lambda: jax.eval_shape(layer.init, jax.random.key(0), x),
        "initial_carry": lambda: jax.eval_shape(layer.initial_carry, params, x),
        "step": lambda: jax.eval_shape(layer.step, params, carry, x),
        "unroll": lambda: jax.eval_shape(layer.unroll, params, carry, xs),
        "initial_carry, by unroll": lambda: jax.eval_shape(layer.unroll, params, None, xs),
    }
    for call, run in calls.items():
        with pytest.raises(ValueError, match="expected floating") as error:
            run()
        said = str(error.value)
        assert said.startswith(f"{cell!r}.{call.split(',')[0]}: expected floating ") and "int32" in said


def test_a_cell_of_ones_own_may_take_integers():
    def look_up(params, carry, token):
        carry = 0.5 * carry + params[token]
        return carry, carry

    cell = sj.Cell(
        init=lambda key, x: jax.random.normal(key, (7, 2)),
        initial_carry=lambda params, x: jnp.zeros((*x.shape, 2), params.dtype),
        recurrence=sj.Step(look_up),
        event_ndim=0,
    )
    layer, tokens = sj.recurrent(cell), np.array([[1, 2], [3, 4]])
    params = layer.init(jax.random.key(0), tokens[0])
    ys = layer.unroll(params, None, tokens)[1]
    np.testing.assert_allclose(
        ys[1], 0.5 * params[tokens[0]] + params[tokens[1]]
    )  # the params are no integers

    def leak(params, h, x):
        return 0.5 * h + x, h

    takes_the_dtype = sj.Cell(
        init=lambda key, x: (), initial_carry=lambda params, x: jnp.zeros_like(x), recurrence=sj.Step(leak)
    )
    with pytest.raises(ValueError, match=r"expected floating xs \[..., D\], got int64 \[2\]. Turn tokens"):
        sj.recurrent(takes_the_dtype).init(jax.random.key(0), tokens[0])


@pytest.mark.parametrize("name", DROPOUT)
@pytest.mark.fast_cases(2)
def test_raw_keys_are_taken_at_every_entry_and_give_what_typed_keys_give(name):
    layer = DROPOUT[name]
    raw, typed = jax.random.PRNGKey(3), jax.random.key(3)
    x = X[0]
    params = layer.init(typed, x)
    jax.tree.map(np.testing.assert_array_equal, layer.init(raw, x), params)
    jax.tree.map(np.testing.assert_array_equal, layer.init(np.asarray(raw), x), params)
    steps = jax.random.split(raw, 5), jax.random.split(typed, 5)
    xs = np.swapaxes(X, 0, 1) if layer.batch_major else X
    for one, other in ((raw, typed), (np.asarray(raw), typed), steps):
        found, expected = (layer.unroll(params, None, xs, key=key)[1] for key in (one, other))
        np.testing.assert_array_equal(found, expected)
    found, expected = (layer.step(params, None, x, key=key)[1] for key in (raw, typed))
    np.testing.assert_array_equal(found, expected)
    jax.jit(layer.unroll)(params, None, xs, key=raw)


@pytest.mark.parametrize("name", DROPOUT)
@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (7, r"got 7\. Pass jax\.random\.key\(7\)\."),
        (np.int64(7), r"got int64 \[\]\. Pass jax\.random\.key\(0\)"),
        (1.5, r"got 1\.5\. Pass"),
        (True, r"got True\. Pass jax\.random\.key\(0\)"),
        (np.zeros(3, np.uint32), r"got uint32 \[3\]\. Pass"),
        (np.zeros(2), r"got float64 \[2\]\. Pass"),
    ],
)
def test_what_is_no_key_is_refused_at_every_entry(name, bad, found):
    layer = DROPOUT[name]
    message = r"key\)?: expected a typed key such as jax\.random\.key\(0\), " + found
    params = layer.init(jax.random.key(0), X[0])
    xs = np.swapaxes(X, 0, 1) if layer.batch_major else X
    for call in (
        lambda: layer.init(bad, X[0]),
        lambda: layer.unroll(params, None, xs, key=bad),
        lambda: layer.step(params, None, X[0], key=bad),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_decoding_and_windows_take_raw_keys():
    layer = sj.pointwise(lambda token: jnp.sin(jnp.arange(5.0) + token))
    both = [
        sj.generate(
            layer, (), (), jnp.asarray([[0, 1]]), max_length=4, sampler=sj.decode.categorical(), key=key
        )
        for key in (jax.random.PRNGKey(0), jax.random.key(0))
    ]
    np.testing.assert_array_equal(both[0].tokens, both[1].tokens)
    with pytest.raises(
        TypeError, match=r"generate\(key\): expected a typed key .* got 3\. Pass jax.random.key\(3\)"
    ):
        sj.generate(layer, (), (), jnp.asarray([[0]]), max_length=4, sampler=sj.decode.categorical(), key=3)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.fast_cases(8)
def test_float64_of_numpy_is_taken_without_warnings_where_x64_is_off(name):
    """Warnings of the library are the user's to read; a dtype that JAX does not have is nothing to warn of."""
    entry = LAYERS[name]
    layer = entry.make(sj.Scan())
    x = np.asarray(entry.x, np.float64 if np.issubdtype(entry.x.dtype, np.floating) else np.int64)
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        struct = jax.ShapeDtypeStruct(x.shape, x.dtype)
        params = jax.eval_shape(lambda key: layer.init(key, struct), jax.random.key(0))
        for example in (x, struct):
            carry = jax.eval_shape(lambda p, e=example: layer.initial_carry(p, e), params)
            assert not any(a.dtype == np.float64 for a in jax.tree.leaves((params, carry)))


@pytest.mark.parametrize("name", ["lstm", "lru", "attention", "mlstm"])
@pytest.mark.fast_cases(1)
def test_a_run_on_float64_of_numpy_raises_no_warning_where_x64_is_off(name):
    layer, xs = sj.recurrent(REGISTRY[name].make(4)), X.astype(np.float64)
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        params = layer.init(jax.random.key(0), xs[0])
        wide = jax.tree.map(
            lambda c: np.asarray(c, np.complex128 if np.iscomplexobj(c) else np.float64),
            layer.initial_carry(params, xs[0]),
        )
        carry, ys = layer.unroll(params, wide, xs)
        layer.step(params, wide, xs[0])
        sj.last(np.asarray(ys, np.float64)), sj.mean_pool(np.asarray(ys, np.float64))
    assert ys.dtype == jnp.float32


def test_a_train_state_takes_raw_keys_and_refuses_seeds():
    model, optimizer = sj.recurrent(sj.elman(2)), optax.sgd(0.1)
    x = np.ones((1, 3), np.float32)
    raw, typed = (
        init_train_state(model, optimizer, key, x) for key in (jax.random.PRNGKey(3), jax.random.key(3))
    )
    assert raw.key == typed.key and jnp.array_equal(raw.params.w_x, typed.params.w_x)
    with pytest.raises(
        TypeError, match=r"init_train_state\(key\): expected a typed key .*got 3. Pass jax.random.key\(3\)"
    ):
        init_train_state(model, optimizer, 3, x)
