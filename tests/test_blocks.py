"""Blocks and stacks: conformance as layers, their figures written out by hand, values, errors."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax import blocks
from seqjax.testing import CHECKS

D = 6
X = jnp.zeros((3, D))
recurrent_gate = sj.serial(sj.pointwise(nn.Dense(4)), sj.pointwise(jax.nn.sigmoid))

# The first of them are the fast tier.
FAST = {
    "gated": blocks.gated(sj.recurrent(sj.lstm(4)), recurrent_gate),
    "transformer": sj.transformer_block(D, num_heads=3, num_groups=1, window=5),
}
SLOW = {
    "fork": sj.serial(
        blocks.fork(sj.recurrent(sj.gru(3)), sj.dropout(0.5), sj.recurrent(sj.lru(2))),
        sj.pointwise(jnp.concatenate),
    ),
    "gpt": sj.transformer_block(
        D,
        num_heads=2,
        max_length=16,
        rotary_base=None,
        use_bias=True,
        activation="gelu",
        norm="layer",
        dropout_rate=0.1,
    ),
    "feed forward": sj.feed_forward(D, activation="geglu"),
}


def every_block():
    for tier, marks in ((FAST, ()), (SLOW, pytest.mark.slow)):
        for name, layer in tier.items():
            yield pytest.param(layer, id=name, marks=marks)


every = pytest.mark.parametrize("layer", list(every_block()))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@every
def test_conformance(layer, check):
    check(layer, X)


@every
def test_blocks_are_values(layer):
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert (
        eval(repr(layer), vars(nn) | {"jax": jax} | vars(blocks) | vars(sj)) == layer
    )  # prints as it is made


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def run(layer, seed=0, steps=9):
    """Random params and inputs in float64, and the outputs."""
    xs = jnp.asarray(normal(seed, steps, 3, D))
    params = layer.init(jax.random.key(0), xs[0])
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.2 * normal(1, *p.shape)), params)
    return params, xs, jax.jit(layer.unroll)(params, layer.initial_carry(params, xs[0]), xs)[1]


def part(layer, params, xs):
    """The outputs of a part of a block on inputs of its own."""
    return layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):  # the tanh form
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def swiglu_by_hand(params, x, phi=silu):
    (((first, _), second), _), last = params
    return (phi(x @ first["kernel"]) * (x @ second["kernel"])) @ last["kernel"]


# ---------------------------------------------------------------- values


def test_the_outputs_of_a_fork_are_those_of_its_layers():
    layers = (sj.recurrent(sj.gru(3)), sj.recurrent(sj.lru(2)))
    params, xs, ys = run(blocks.fork(*layers))
    for layer, p, y in zip(layers, params, ys, strict=True):
        assert_close(y, part(layer, p, xs))


def test_gated_is_the_product():
    layer = sj.recurrent(sj.lstm(4))
    params, xs, ys = run(blocks.gated(layer, recurrent_gate))
    (p, (gate, _)), _ = params
    z = np.asarray(xs) @ gate["kernel"] + gate["bias"]
    assert_close(ys, part(layer, p, xs) / (1 + np.exp(-z)))


@pytest.mark.parametrize(("activation", "phi"), [("swiglu", silu), ("geglu", gelu)])
def test_feed_forward_is_a_product_between_two_maps(activation, phi):
    params, xs, ys = run(sj.feed_forward(D, hidden_size=5, activation=activation))
    assert_close(ys, swiglu_by_hand(params, np.asarray(xs), phi))


def test_feed_forward_without_a_gate():
    params, xs, ys = run(sj.feed_forward(4, activation="gelu"))
    first, _, last = params
    assert first["kernel"].shape == (D, 16)
    assert_close(ys, gelu(xs @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"])


def test_gated_feed_forward_has_as_many_params_as_the_plain_one():
    count = lambda layer: sum(p.size for p in jax.tree.leaves(layer.init(jax.random.key(0), X)))  # noqa: E731
    plain = count(sj.feed_forward(D, activation="gelu")) - 4 * D - D  # biases
    assert count(sj.feed_forward(D)) == count(sj.feed_forward(D, activation="geglu")) == plain


def test_a_transformer_block_is_two_residual_branches():
    options = {"num_heads": 3, "num_groups": 1, "window": 5}
    params, xs, ys = run(sj.transformer_block(D, **options))
    (norm_1, attention), (norm_2, mlp) = params
    z = xs + part(sj.recurrent(sj.attention(D, **options)), attention, jnp.asarray(rms(xs, norm_1["scale"])))
    assert_close(ys, z + swiglu_by_hand(mlp, rms(np.asarray(z), norm_2["scale"])))


# ---------------------------------------------------------------- errors


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"feed_forward\(activation\): expected .* got 'relu'\."):
        sj.feed_forward(4, activation="relu")
    with pytest.raises(ValueError, match=r"norm: expected 'rms' or 'layer', got 'batch'\."):
        sj.transformer_block(4, num_heads=1, window=3, norm="batch")
    with pytest.raises(ValueError, match=r"feed_forward\(hidden_size\): expected a whole number .* got 0\."):
        sj.feed_forward(4, hidden_size=0)
    with pytest.raises(
        TypeError, match=r"fork: expected one layer or more, got \(lstm\(hidden_size=4\),\)\."
    ):
        blocks.fork(sj.lstm(4))
    with pytest.raises(TypeError, match=r"fork: expected one layer or more, got \(\)\."):
        blocks.fork()
