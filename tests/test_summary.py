"""Test the table of a model's layers: names, outputs, and numbers of params."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.testing.layers import LAYERS

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def sizes(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.fast_cases(4)
def test_the_table_agrees_with_the_params(name):
    entry = LAYERS[name]
    layer = entry.make(sj.Scan())
    found = sj.summary(layer, entry.x)
    params = jax.eval_shape(layer.init, jax.random.key(0), jax.ShapeDtypeStruct(entry.x.shape, entry.x.dtype))
    assert found.num_params == sizes(params) == found.rows[0].num_params
    assert sum(found.bytes_by_dtype.values()) == sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)
    )
    assert jax.tree.map(lambda leaf: leaf.shape, found.rows[0].params) == jax.tree.map(
        lambda leaf: leaf.shape, params
    )
    assert found.rows[0].depth == 0 and len(str(found).splitlines()) == len(found.rows) + 2


def test_a_model_is_opened_and_every_layer_has_its_own_row():
    model = sj.serial(
        sj.stack((sj.lstm(8), sj.gru(8)), bidirectional=True, norm="rms"),
        sj.pointwise(nn.Dense(5)),
        sj.repeat(sj.residual(sj.recurrent(sj.lru(5))), 3),
    )
    found = sj.summary(model, X)
    rows = [(row.depth, row.name.partition("(")[0], row.output.shape[-1]) for row in found.rows]
    layer = [(2, "serial", 16), (3, "pointwise", None), (3, "bidirectional", 16), (4, "recurrent", 8)]
    layer += [(4, "reverse", 8), (5, "recurrent", 8)]
    first, second = (
        [(depth, name, width if size is None else size) for depth, name, size in layer] for width in (3, 16)
    )
    assert rows == [
        (0, "serial", 5), (1, "stack", 16), *first, *second,
        (1, "pointwise", 5), (1, "repeat", 5), (2, "residual", 5), (3, "recurrent", 5),
    ]  # fmt: skip
    repeated, inner = found.rows[-3], found.rows[-1]
    assert repeated.num_params == 3 * inner.num_params and repeated.name == "repeat(depth=3)"
    after = [*found.rows[1:], found.rows[0]]
    leaves = [row for row, next_row in zip(found.rows, after) if next_row.depth <= row.depth]
    assert found.num_params == sum(row.num_params for row in leaves) + 2 * inner.num_params


def test_a_part_looks_as_documented():
    text = str(sj.summary(sj.serial(sj.recurrent(sj.gru(4, param_dtype=jnp.bfloat16)), sj.dropout(0.1)), X))
    assert text.splitlines() == [
        "layer                                                       output  params  shapes of params",
        "serial                                                      [2, 4]     108",
        "  recurrent(cell=gru(hidden_size=4, param_dtype=bfloat16))  [2, 4]     108  w_x [3, 12], w_h [4, 12], "
        "b [12], b_h [12]",
        "  dropout(rate=0.1)                                         [2, 4]       0",
        "total: 108 params, 216 B in bfloat16; 8 numbers in the carry",
    ]
    assert repr(sj.summary(sj.dropout(0.1), X)) == str(sj.summary(sj.dropout(0.1), X))


def test_depth_limits_the_table_and_not_the_total():
    block = sj.feed_forward(4)
    whole, outer = (
        sj.summary(block, X.update(shape=(2, 4))),
        sj.summary(block, X.update(shape=(2, 4)), depth=1),
    )
    assert outer.rows == tuple(row for row in whole.rows if row.depth <= 1) != whole.rows
    assert outer.num_params == whole.num_params > 0
    assert [row.depth for row in sj.summary(block, X.update(shape=(2, 4)), depth=0).rows] == [0]


def test_a_layer_written_by_hand_is_one_row():
    layer = sj.Layer(
        init=lambda key, x: {"w": jnp.ones(3)},
        initial_carry=lambda params, x: (),
        step_fn=lambda params, carry, x, flags: (carry, x * params["w"]),
        unroll_fn=lambda params, carry, xs, flags: (carry, xs * params["w"]),
    )
    found = sj.summary(sj.serial(layer, layer), X)
    assert [row.name for row in found.rows] == ["serial", *2 * ["a layer written by hand"]]
    assert re.search(r"w \[3\]$", str(found).splitlines()[2])


REFUSED = {
    "a cell": (lambda: sj.summary(sj.lstm(4), X), TypeError, r"^summary: expected layers.*recurrent"),
    "a depth below zero": (
        lambda: sj.summary(sj.dropout(0.1), X, depth=-1),
        ValueError,
        r"^summary\(depth\)",
    ),
}


@refusals(REFUSED)
def test_what_is_no_layer_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
