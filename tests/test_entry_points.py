"""Test the inputs that layers accept, such as None and lists, and the error with a remedy for each mistake."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj

T, B, D, H = 5, 2, 3, 4
KEY = jax.random.key(0)
XS = np.random.default_rng(0).normal(size=(T, B, D)).astype(np.float32)
LSTM = sj.recurrent(sj.lstm(H))
GRU = sj.recurrent(sj.gru(H))
CONVOLUTION = sj.causal_conv(3)
MODEL = sj.serial(sj.pointwise(nn.Dense(D)), LSTM, CONVOLUTION, sj.dropout(0.5))
MASK = np.arange(T)[:, None] < np.array([T, 2])


@functools.cache
def params_of(layer):
    return layer.init(KEY, XS[0])


def carry_of(layer, x=XS[0]):
    return layer.initial_carry(params_of(layer), x)


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("layer", [LSTM, GRU, CONVOLUTION, MODEL], ids=lambda layer: repr(layer)[:20])
@pytest.mark.fast_cases(1)
def test_a_carry_of_none_is_the_initial_one(layer):
    params, carry = params_of(layer), carry_of(layer)
    same(layer.unroll(params, None, XS), layer.unroll(params, carry, XS))
    same(layer.step(params, None, XS[0]), layer.step(params, carry, XS[0]))
    same(layer.unroll(params, None, XS[:0])[0], carry)


@pytest.mark.parametrize("array", [np.asarray, list, lambda flag: flag.tolist()])
@pytest.mark.fast_cases(2)
def test_flags_may_be_lists_or_numpy_arrays(array):
    params = params_of(MODEL)
    expected = MODEL.unroll(params, None, XS, mask=jnp.asarray(MASK), reset=jnp.asarray(~MASK))
    same(MODEL.unroll(params, None, XS, mask=array(MASK), reset=array(~MASK)), expected)
    of_step = MODEL.step(params, None, XS[0], mask=jnp.asarray(MASK[3]), reset=jnp.asarray(MASK[4]))
    same(MODEL.step(params, None, XS[0], mask=array(MASK[3]), reset=array(MASK[4])), of_step)


def test_a_layer_made_by_hand_is_checked_as_well():
    by_hand = sj.Layer(
        init=lambda key, x: (),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        step_fn=lambda params, carry, x, flags: (carry + x, carry),
        unroll_fn=lambda params, carry, xs, flags: jax.lax.scan(lambda c, x: (c + x, c), carry, xs),
    )
    same(by_hand.unroll((), None, XS)[0], XS[0] + XS[1] + XS[2] + XS[3] + XS[4])
    with pytest.raises(ValueError, match=r"unroll: expected mask of dtype bool, got float32 \[5, 2\]"):
        by_hand.unroll((), None, XS, mask=np.ones((T, B), np.float32))


def test_the_checks_of_a_nest_run_once_at_the_top():
    """A nest of layers calls its parts by their internal functions: an error is that of the outermost layer."""
    nest = sj.residual(sj.serial(sj.serial(sj.dropout(0.5))))
    with pytest.raises(ValueError, match=r"^residual\(.*\)\.unroll: expected mask of dtype bool"):
        nest.unroll(((((),),)), None, XS, mask=np.ones((T, B)))


# ---------------------------------------------------------------- what is refused

SWAPPED = np.swapaxes(XS, 0, 1)
MISTAKES = {
    "the class of a method": (
        lambda: sj.recurrent(sj.lru(H), sj.Chunked), TypeError,
        r"recurrent\(method\): expected a method .* got the class Chunked\. Write Chunked\(\)\."),
    "the name of a method": (
        lambda: sj.recurrent(sj.lru(H), "chunked"), TypeError,
        r"recurrent\(method\): expected a method .* got 'chunked'\. Write Chunked\(\)\."),
    "None as a method": (
        lambda: sj.recurrent(sj.lru(H), None), TypeError,
        r"recurrent\(method\): expected a method .* got None\. Write Auto\(\), or leave the argument out\."),
    "a factory as a cell": (
        lambda: sj.recurrent(sj.lstm), TypeError, r"recurrent\(cell\): expected a Cell .* Call the factory"),
    "a layer as a cell": (
        lambda: sj.recurrent(LSTM), TypeError, r"recurrent\(cell\): expected a Cell .* It is a layer already\."),
    "a list of layers": (
        lambda: sj.serial([LSTM, GRU]), TypeError,
        r"serial: expected layers, got .* Pass the layers one by one: serial\(a, b\), or serial\(\*layers\)\."),
    "a name as a layer": (
        lambda: sj.stack("lstm", 2), TypeError,
        r"stack: expected layers, got 'lstm'\. .* Write sj\.recurrent\(sj\.lstm\(hidden_size\)\)\."),
    "a cell as a layer": (
        lambda: sj.serial(sj.lstm(H)), TypeError, r"serial: expected layers, got lstm.* Bind a cell with recurrent"),
    "pooling as a layer": (
        lambda: sj.serial(LSTM, sj.last), TypeError,
        r"serial: expected layers, got .*last.* Apply it to ys after unroll, or inside the loss\."),
    "batch_major inside a model": (
        lambda: sj.serial(sj.batch_major(LSTM)), TypeError,
        r"serial: expected a time-major layer, .* Put batch_major around the whole model\."),
    "init by a whole sequence": (
        lambda: LSTM.unroll(LSTM.init(KEY, XS), LSTM.initial_carry(LSTM.init(KEY, XS), XS), XS), ValueError,
        r"unroll: expected carry\.c \[2, 4\], got \[5, 2, 4\]\. .* pass one time step, layer\.initial_carry\("),
    "the same in a model": (
        lambda: MODEL.unroll(params_of(MODEL), MODEL.initial_carry(params_of(MODEL), XS), XS), ValueError,
        r"unroll: expected carry\[1\]\.c \[2, 4\], got \[5, 2, 4\]\. The carry was made from a whole sequence"),
    "a sequence for step": (
        lambda: LSTM.step(params_of(LSTM), carry_of(LSTM), XS), ValueError,
        r"step: expected carry\.c \[5, 2, 4\], got \[2, 4\]\. step takes one time step, .* for a sequence use unroll"),
    "the carry of another cell": (
        lambda: LSTM.unroll(params_of(LSTM), carry_of(GRU), XS), ValueError,
        r"expected a carry LSTMCarry\(c=\*, h=\*\), got GRUCarry\(h=\*\)\. Use the carry of this layer: .* or None"),
    "the carry of another model": (
        lambda: MODEL.unroll(params_of(MODEL), carry_of(LSTM), XS), ValueError,
        r"expected a carry \(\(\), LSTMCarry\(c=\*, h=\*\), \*, \(\)\), got LSTMCarry"),
    "the carry of another batch": (
        lambda: CONVOLUTION.unroll(params_of(CONVOLUTION), carry_of(CONVOLUTION)[:1], XS), ValueError,
        r"causal_conv\(kernel_size=3\)\.unroll: expected carry \[2, 2, 3\], got \[1, 2, 3\]\. xs is \[5, 2, 3\]"),
    "params and carry swapped": (
        lambda: LSTM.unroll(carry_of(LSTM), params_of(LSTM), XS), ValueError,
        r"expected a carry LSTMCarry.*, got LSTMParams.* Params and carry are swapped: .*unroll\(params, carry, xs\)"),
    "the same of a model": (
        lambda: MODEL.step(carry_of(MODEL), params_of(MODEL), XS[0]), ValueError,
        r"expected params, got its carry .*Params and carry are swapped: write layer\.step\(params, carry, x\)"),
    "batch before time, by the carry": (
        lambda: LSTM.unroll(params_of(LSTM), carry_of(LSTM), SWAPPED), ValueError,
        r"expected carry\.c \[5, 4\], got \[2, 4\]\. The carry is for a batch of 2, .* \[2, 5, 3\]\. Sequences are "
        r"time-major"),
    "batch before time, by the mask": (
        lambda: LSTM.unroll(params_of(LSTM), None, SWAPPED, mask=MASK), ValueError,
        r"expected mask \[2, 5\], as xs \[2, 5, 3\], got \[5, 2\]\. Sequences are time-major, .*jnp\.swapaxes"),
    "a mask of batch before time": (
        lambda: sj.dropout(0.5).unroll((), (), XS, mask=MASK.T), ValueError,
        r"dropout\(.*\)\.unroll: expected mask \[5, 2\], as xs \[5, 2, 3\], got \[2, 5\]\. Sequences are time-major"),
    "numbers as a mask": (
        lambda: sj.running_mean().unroll((), None, XS, mask=np.ones((T, B), int).tolist()), ValueError,
        r"running_mean\(\)\.unroll: expected mask of dtype bool, got int\d+ \[5, 2\]\. Convert with mask\.astype"),
    "flags of two shapes": (
        lambda: sj.dropout(0.5).unroll((), (), XS, mask=MASK, reset=MASK[:, 0]), ValueError,
        r"unroll: expected reset \[5, 2\], as xs \[5, 2, 3\], got \[5\]"),
    "a reset of a step for a sequence": (
        lambda: MODEL.unroll(params_of(MODEL), None, XS, reset=MASK[0]), ValueError,
        r"unroll: expected reset \[5, 2\], as xs \[5, 2, 3\], got \[2\]"),
    "one step for unroll": (
        lambda: LSTM.unroll(params_of(LSTM), None, np.float32(1)), ValueError,
        r"unroll: expected xs \[T, \*B, \.\.\.\] with one number of steps T, got \[\]\. For one time step use step"),
    "parts of several lengths": (
        lambda: sj.serial().unroll((), (), (XS, XS[1:])), ValueError,
        r"expected xs .* with one number of steps T, got \[5, 2, 3\], \[4, 2, 3\]"),
    "keys for another number of steps": (
        lambda: sj.dropout(0.5).unroll((), (), XS, key=jax.random.split(KEY, 3)), ValueError,
        r"key: expected one key, or one per step, \[5\], got \[3\]"),
    "keys for one step": (
        lambda: sj.dropout(0.5).step((), (), XS[0], key=jax.random.split(KEY, 3)), ValueError,
        r"key: expected one key, got \[3\]"),
    "a number as a key": (
        lambda: sj.dropout(0.5).unroll((), (), XS, key=0), TypeError,
        r"key: expected a typed key such as jax\.random\.key\(0\), got 0"),
    "step of a layer that has none": (
        lambda: sj.serial(sj.reverse(GRU)).step((params_of(GRU),), None, XS[0]), TypeError,
        r"serial\(.*\) has no step: it reads the whole sequence\. Use unroll"),
}  # fmt: skip


@refusals(MISTAKES)
def test_a_mistake_is_told_once_with_what_to_write(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.value.__cause__ is None and (
        caught.value.__context__ is None or caught.value.__suppress_context__
    )
