"""Weights in and out: values against the library itself, round trips, and what is refused.

The parity tests (test_torch.py, test_parity.py) compare single layers and their gradients by the same converters.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.parity import normal
from helpers.refusals import refusals

import seqjax as sj
from seqjax import interop
from seqjax.interop import Nonlinearity

os.environ.setdefault("KERAS_BACKEND", "jax")

T, B, D, H = 5, 2, 3, 4
XS = jnp.asarray(normal(0, T, B, D))
KEY = jax.random.key(0)
SIGMOID, TANH = Nonlinearity("sigmoid"), Nonlinearity("tanh")


def outputs(layer, params, xs=XS):
    return np.asarray(jax.jit(lambda params, xs: layer.unroll(params, None, xs)[1])(params, xs))


def drawn(layer, x=XS[0]):
    """Params that are random everywhere, biases too."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(layer.init, KEY, x))
    return tree.unflatten([jnp.asarray(normal(i, *leaf.shape) / 2, x.dtype) for i, leaf in enumerate(leaves)])


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, b)


def deep(cell, rate=0.25):
    layer = sj.bidirectional(sj.recurrent(cell))
    return sj.serial(layer, sj.dropout(rate), layer) if rate else sj.serial(layer, layer)


# ---------------------------------------------------------------- torch


@pytest.mark.peers
@pytest.mark.parametrize("projected", [False, True])
def test_stacks_of_both_directions_equal_torch_in_values_and_gradients(projected):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    options = {"proj_size": 2} if projected else {}
    module = torch.nn.LSTM(D, H, 2, bidirectional=True, dropout=0.25, **options).double().eval()
    layer, params = interop.from_torch(module)
    cell = (
        sj.projection_lstm(2, cell_size=H, param_dtype=jnp.float64)
        if projected
        else sj.lstm(H, param_dtype=jnp.float64)
    )
    assert layer == deep(cell)
    xs = torch.tensor(np.array(XS), requires_grad=True)
    weights = normal(1, T, B, 2 * (2 if projected else H))
    ys = module(xs)[0]
    gradients = torch.autograd.grad((ys * torch.tensor(weights)).sum(), [xs, *module.parameters()])
    run = jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(weights * layer.unroll(p, None, x)[1]), (0, 1)))
    loss, (d_params, d_xs) = run(params, XS)
    np.testing.assert_allclose(loss, (ys.detach().numpy() * weights).sum(), rtol=1e-12)
    np.testing.assert_allclose(d_xs, gradients[0], rtol=0, atol=1e-12)
    names = [name for name, _ in module.named_parameters()]
    theirs = dict(zip(names, (jnp.asarray(g) for g in gradients[1:]), strict=True))
    expected = jax.vjp(lambda p: interop.torch_state_dict(layer, p), params)[1](theirs)[0]
    for a, b in zip(jax.tree.leaves(d_params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize(
    "cell",
    [
        sj.elman(H, activation="relu", param_dtype=jnp.float64),
        sj.gru(H, param_dtype=jnp.float64),
        sj.projection_lstm(2, cell_size=H, param_dtype=jnp.float64),
    ],
    ids=repr,
)
def test_to_torch_gives_a_module_with_the_same_outputs(cell):
    torch = pytest.importorskip("torch")
    layer = deep(cell)
    params = drawn(layer)
    module = interop.to_torch(layer, params).eval()
    with torch.no_grad():
        found = module(torch.tensor(np.array(XS)))[0].numpy()
    np.testing.assert_allclose(found, outputs(layer, params), rtol=0, atol=1e-12)
    again = interop.from_torch(module)
    assert again.layer == layer
    same(again.params, params)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_torch_cells_and_layers_without_biases(kind):
    torch = pytest.importorskip("torch")
    cell = getattr(torch.nn, kind)(D, H).double()
    layer, params = interop.from_torch(cell)
    h = cell(torch.tensor(np.array(XS[0])))
    h = h[0] if isinstance(h, tuple) else h
    np.testing.assert_allclose(outputs(layer, params, XS[:1])[0], h.detach().numpy(), rtol=0, atol=1e-12)
    module = getattr(torch.nn, kind.removesuffix("Cell"))(D, H, bias=False).double()
    layer, params = interop.from_torch(module)
    ys = module(torch.tensor(np.array(XS)))[0].detach().numpy()
    np.testing.assert_allclose(outputs(layer, params), ys, rtol=0, atol=1e-12)


def test_a_state_dict_and_a_safetensors_file_are_read_without_torch(tmp_path):
    layer = deep(sj.lstm(H, param_dtype=jnp.float64), rate=0)
    params = drawn(layer)
    weights = {f"model.rnn.{name}": value for name, value in interop.torch_state_dict(layer, params).items()}
    weights["model.head.weight"] = jnp.ones((2, 2))
    for prefix in ("model.rnn", "model.rnn."):
        again = interop.from_torch(weights, prefix=prefix)
        assert again.layer == layer
        same(again.params, params)
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, tmp_path / "model.safetensors")
    same(interop.from_torch(tmp_path / "model.safetensors", prefix="model.rnn").params, params)


def test_bfloat16_weights_stay_bfloat16():
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(D, H).bfloat16()
    layer, params = interop.from_torch(module)
    assert layer == sj.recurrent(sj.gru(H, param_dtype=jnp.bfloat16)) and params.w_x.dtype == jnp.bfloat16
    again = interop.to_torch(layer, params)
    assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(module.parameters(), again.parameters()))


def state_dict(**changes):
    shapes = {"weight_ih_l0": (12, D), "weight_hh_l0": (12, H), "bias_ih_l0": (12,), "bias_hh_l0": (12,)}
    return {name: np.zeros(shape) for name, shape in (shapes | changes).items() if shape}


TORCH_REFUSED = {
    "prefix": (
        lambda: interop.from_torch({f"a.{k}": v for k, v in state_dict().items()}),
        ValueError,
        r"expected a weight weight_ih_l0, got .* under prefix=\['a'\]",
    ),
    "one bias": (lambda: interop.from_torch(state_dict(bias_hh_l0=None)), ValueError, "both biases or none"),
    "gates": (
        lambda: interop.from_torch(state_dict(weight_hh_l0=(8, H))),
        ValueError,
        r"\[4H, H\] \(LSTM\), got \[8, 4\]",
    ),
    "shape": (
        lambda: interop.from_torch(state_dict(bias_ih_l0=(9,))),
        ValueError,
        r"expected bias_ih_l0 \[12\], got \[9\]",
    ),
    "a gap": (
        lambda: interop.from_torch(state_dict(weight_ih_l2=(12, H))),
        ValueError,
        r"layers 0 to 0 alone, got also \['weight_ih_l2'\]",
    ),
    "number": (
        lambda: interop.from_torch(3),
        TypeError,
        "a state_dict, or the path of a safetensors file, got int",
    ),
    "nonlinearity": (
        lambda: interop.from_torch({}, nonlinearity="gelu"),
        ValueError,
        "expected one of 'tanh', 'relu'",
    ),
    "reset before": (
        lambda: out(interop.torch_state_dict, sj.recurrent(sj.gru(H, reset_after=False))),
        TypeError,
        "torch_state_dict: expected reset_after=True, got reset_after=False. torch.nn.GRU has that form only",
    ),
    "identity": (
        lambda: out(interop.torch_state_dict, sj.recurrent(sj.elman(H, activation="identity"))),
        TypeError,
        "expected activation='tanh' or 'relu', got activation='identity'",
    ),
    "another cell": (
        lambda: out(interop.torch_state_dict, sj.recurrent(sj.lem(H))),
        TypeError,
        r"one of the cells elman, lstm, gru, projection_lstm, got lem\(hidden_size=4\)",
    ),
    "two cells": (
        lambda: out(interop.torch_state_dict, sj.serial(sj.recurrent(sj.gru(H)), sj.recurrent(sj.gru(3)))),
        TypeError,
        "expected one cell in all layers",
    ),
    "a head": (
        lambda: out(interop.torch_state_dict, sj.serial(sj.recurrent(sj.gru(H)), sj.pointwise(jnp.tanh))),
        TypeError,
        r"recurrent\(cell\), reverse or bidirectional .* got pointwise",
    ),
    "sum": (
        lambda: out(interop.torch_state_dict, sj.bidirectional(sj.recurrent(sj.gru(H)), merge="sum")),
        TypeError,
        "merge='concatenate'",
    ),
    "reverse": (
        lambda: out(interop.torch_state_dict, sj.reverse(sj.recurrent(sj.gru(H)))),
        TypeError,
        "all layers to be bidirectional, or all to run forward",
    ),
    "dropout at the end": (
        lambda: out(interop.torch_state_dict, sj.serial(sj.recurrent(sj.gru(H)), sj.dropout(0.5))),
        TypeError,
        "no dropout between them, or one rate between all",
    ),
}


def out(function, layer):
    return function(layer, drawn(layer))


@refusals(TORCH_REFUSED)
def test_refused_by_torch(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.peers
def test_other_torch_modules_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"got Linear\. Pass the recurrent module inside it"):
        interop.from_torch(torch.nn.Linear(2, 2))


# ---------------------------------------------------------------- keras


def keras_layers(keras):
    k = keras.layers
    return {
        "rnn": k.SimpleRNN(H, activation="softsign", return_sequences=True),
        "lstm": k.LSTM(H, recurrent_activation="hard_sigmoid", use_bias=False, return_sequences=True),
        "gru_after": k.GRU(H, activation="relu", return_sequences=True),
        "gru_before": k.GRU(H, reset_after=False, recurrent_activation="hard_sigmoid", return_sequences=True),
        "both": k.Bidirectional(k.GRU(H, return_sequences=True)),
    }


@pytest.mark.peers
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru_after", "gru_before", "both"])
@pytest.mark.fast_cases(2)
def test_keras_layers_with_other_activations_and_options(name):
    """Values and the gradients by the inputs, and back out to Keras. In float32, to which Keras' sigmoids bring all."""
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend than JAX here")
    theirs, xs = keras_layers(keras)[name], XS.astype(jnp.float32)
    theirs.build((B, T, D))
    shapes = [w.shape for w in theirs.get_weights()]
    theirs.set_weights([normal(i, *shape).astype(np.float32) / 2 for i, shape in enumerate(shapes)])
    layer, params = interop.from_keras(theirs)
    weights = jnp.asarray(normal(9, T, B, 2 * H if name == "both" else H), jnp.float32)

    def loss(xs):
        ys = theirs(xs.swapaxes(0, 1)).swapaxes(0, 1)
        return jnp.sum(weights * ys), ys

    def ours(xs):
        ys = layer.unroll(params, None, xs)[1]
        return jnp.sum(weights * ys), ys

    (d_found, found), (d_wanted, wanted) = (jax.jit(jax.grad(f, has_aux=True))(xs) for f in (ours, loss))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
    np.testing.assert_allclose(d_found, d_wanted, rtol=0, atol=1e-5)
    model = interop.to_keras(layer, params)
    np.testing.assert_allclose(model(xs.swapaxes(0, 1)).swapaxes(0, 1), wanted, rtol=0, atol=2e-6)
    again = interop.from_keras(model)
    assert again.layer == layer
    same(again.params, params)


def keras_weights(gates, bias=(12,)):
    return [normal(i, *shape) for i, shape in enumerate(((D, gates * H), (H, gates * H), bias))]


def described(kind, **config):
    return {"class_name": kind, "config": {"units": H, **config}}


def test_a_description_of_keras_2_has_the_old_hard_sigmoid_and_resets_before():
    """Against a loop in NumPy: gates z, r, h; hard_sigmoid is clip(0.2 x + 0.5, 0, 1)."""
    w_x, w_h, b = weights = keras_weights(3)
    layer, params = interop.from_keras(described("GRU"), weights, version=2)
    h, expected = np.zeros((B, H)), []

    def gate(x):
        return np.clip(0.2 * x + 0.5, 0, 1)

    for x in np.asarray(XS):
        z, r, n = np.split(x @ w_x + b, 3, -1)
        u_z, u_r, u_n = np.split(w_h, 3, -1)
        z, r = gate(z + h @ u_z), gate(r + h @ u_r)
        h = z * h + (1 - z) * np.tanh(n + (r * h) @ u_n)
        expected.append(h)
    np.testing.assert_allclose(outputs(layer, params), expected, rtol=0, atol=1e-12)


KERAS_REFUSED = {
    "class": (
        lambda: interop.from_keras(described("Dense"), []),
        TypeError,
        "a Sequential of these, got Dense",
    ),
    "no layer": (lambda: interop.from_keras(3), TypeError, "a Keras layer or its description, got int"),
    "dropout": (
        lambda: interop.from_keras(described("GRU", recurrent_dropout=0.1), []),
        TypeError,
        "recurrent_dropout=0, got recurrent_dropout=0.1. Pass ignore_dropout=True",
    ),
    "backwards": (
        lambda: interop.from_keras(described("GRU", go_backwards=True), []),
        TypeError,
        "go_backwards=False, got go_backwards=True",
    ),
    "merge": (
        lambda: interop.from_keras({"class_name": "Bidirectional", "config": {"merge_mode": "mul"}}, []),
        TypeError,
        "merge_mode='concat', got merge_mode='mul'",
    ),
    "activation": (
        lambda: interop.from_keras(described("GRU", activation="swish"), keras_weights(3, (2, 12))),
        TypeError,
        "from_keras: expected activation=one of tanh, .*, got activation='swish'",
    ),
    "too few": (
        lambda: interop.from_keras(described("GRU"), []),
        ValueError,
        "3 more arrays for a GRU, got 0",
    ),
    "too many": (
        lambda: interop.from_keras(described("LSTM"), 2 * keras_weights(4, (16,))),
        ValueError,
        "the weights of 1 recurrent layers, got 3 more arrays",
    ),
    "form": (
        lambda: interop.from_keras(described("GRU"), keras_weights(3)),
        ValueError,
        r"expected the bias of GRU \[2, 12\], got \[12\]",
    ),
    "old hard sigmoid out": (
        lambda: out(
            interop.keras_weights,
            sj.recurrent(interop.general_gru(H, (Nonlinearity("hard_sigmoid", 0.2, 0.5), TANH))),
        ),
        TypeError,
        "keras_weights: expected activation=one of .*alpha=0.2.*Keras 3 has no name",
    ),
    "clip": (
        lambda: out(interop.keras_weights, sj.recurrent(interop.general_elman(H, TANH, clip=1.0))),
        TypeError,
        "expected clip=None or False, got clip=1.0",
    ),
    "output": (
        lambda: out(interop.keras_weights, sj.recurrent(interop.general_lstm(H, (SIGMOID, TANH, SIGMOID)))),
        TypeError,
        "an output activation that equals the candidate's",
    ),
}


@refusals(KERAS_REFUSED)
def test_refused_by_keras(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- flax


NNX = {
    "elman": lambda options: nnx.SimpleCell(D, H, activation_fn=nnx.relu, **options),
    "lstm": lambda options: nnx.LSTMCell(D, H, gate_fn=nnx.soft_sign, **options),
    "lstm_optimized": lambda options: nnx.OptimizedLSTMCell(D, H, **options),
    "gru": lambda options: nnx.GRUCell(D, H, **options),
}


def weighted(unroll):
    """A loss over all outputs and the last carry."""

    def loss(first, *others):
        leaves = jax.tree.leaves(unroll(first, *others))
        return sum(jnp.sum(leaf * normal(50 + i, *leaf.shape)) for i, leaf in enumerate(leaves))

    return loss


@pytest.mark.parametrize("name", NNX)
@pytest.mark.fast_cases(2)
def test_nnx_modules_are_imported_with_their_values_and_gradients(name):
    """The gradients of nnx go into a copy of the module: the import of its params is that of its gradients."""
    options = {"dtype": None, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    module = nnx.RNN(NNX[name](options), time_major=True, return_carry=True)
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda a: a + normal(a.size, *a.shape) / 4, state))  # biases are not zero
    layer, params = interop.from_flax(module)
    carry = jax.tree.map(lambda a: jnp.asarray(normal(a.size, *a.shape)), layer.initial_carry(params, XS[0]))
    begin = tuple(carry) if len(carry) == 2 else carry[0]

    run = nnx.jit(
        nnx.value_and_grad(weighted(lambda module, xs: module(xs, initial_carry=begin)), argnums=(0, 1))
    )
    loss, (d_module, d_xs) = run(module, XS)
    nnx.update(module, d_module)
    ours = jax.jit(jax.value_and_grad(weighted(lambda p, xs: layer.unroll(p, carry, xs)), (0, 1)))
    found, (d_params, d_ours) = ours(params, XS)
    np.testing.assert_allclose(found, loss, rtol=1e-12)
    np.testing.assert_allclose(d_ours, d_xs, rtol=0, atol=1e-12)
    expected = interop.from_flax(module).params
    if name == "gru":  # nnx has one bias; the second one of ours came as zeros
        d_params, expected = d_params[:3], expected[:3]
    for a, b in zip(d_params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        sj.bidirectional(sj.recurrent(sj.gru(H, param_dtype=jnp.float64))),
        sj.serial(
            sj.recurrent(sj.lstm(H, param_dtype=jnp.float64)),
            sj.reverse(sj.recurrent(sj.elman(H, activation="relu", param_dtype=jnp.float64))),
        ),
    ],
    ids=repr,
)
def test_layers_become_nnx_modules_with_the_same_values_and_gradients(layer):
    params = drawn(layer)
    ours = weighted(lambda p, xs: layer.unroll(p, None, xs)[1])
    theirs = weighted(lambda p, xs: interop.to_nnx(layer, p)(xs))
    got, expected = (jax.jit(jax.value_and_grad(loss, (0, 1)))(params, XS) for loss in (ours, theirs))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    again = interop.from_flax(interop.to_nnx(layer, params))
    assert again.layer == layer
    same(again.params, params)


@pytest.mark.parametrize(
    "layer",
    [
        deep(sj.gru(H, param_dtype=jnp.float64), rate=0),
        sj.reverse(sj.recurrent(sj.lstm(H, param_dtype=jnp.float64))),
        sj.recurrent(sj.elman(H, activation="relu", param_dtype=jnp.float64)),
    ],
    ids=repr,
)
def test_flax_modules_go_out_and_in(layer):
    params = drawn(layer)
    module, variables = interop.to_flax(layer, params)
    expected = jax.jit(module.apply)(variables, XS)
    np.testing.assert_allclose(outputs(layer, params), expected, rtol=0, atol=1e-12)
    shapes = jax.eval_shape(module.init, KEY, XS)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes) == jax.tree.map(
        lambda a: (a.shape, a.dtype), variables
    )
    again = interop.from_flax(module, variables)
    assert again.layer == layer
    np.testing.assert_allclose(outputs(*again), expected, rtol=0, atol=1e-12)


def in_flax(module):
    variables = module.init(KEY, jnp.zeros((1, H)), jnp.zeros((1, D)))
    return interop.from_flax(module, variables)


RNN = nnx.RNN(nnx.GRUCell(D, H, rngs=nnx.Rngs(0)))
FLAX_REFUSED = {
    "residual": (
        lambda: in_flax(nn.SimpleCell(H, residual=True)),
        TypeError,
        "residual=False, got residual=True. Use seqjax.interop.flax_cell",
    ),
    "activation": (
        lambda: in_flax(nn.SimpleCell(H, activation_fn=jax.nn.silu)),
        TypeError,
        "expected activation_fn=an activation of jax.nn",
    ),
    "cell": (lambda: in_flax(nn.MGUCell(H)), TypeError, "OptimizedLSTMCell, GRUCell, got MGUCell"),
    "reversed order": (
        lambda: interop.from_flax(nn.RNN(nn.GRUCell(H), reverse=True), {"cell": {}}),
        TypeError,
        "keep_order=True where reverse=True, got keep_order=False",
    ),
    "merge": (
        lambda: interop.from_flax(nn.Bidirectional(None, None, merge_fn=max), {}),
        TypeError,
        "expected merge_fn=the default",
    ),
    "dtype": (
        lambda: in_flax(nn.GRUCell(H, dtype=jnp.bfloat16)),
        TypeError,
        "expected dtype=None or float32, the dtype of the params, got dtype='bfloat16'",
    ),
    "carry": (
        lambda: in_flax(nn.GRUCell(H, carry_init=nn.initializers.ones_init())),
        TypeError,
        "expected carry_init=zeros, got carry_init=<function ones",
    ),
    "shared in linen": (
        lambda: interop.from_flax(nn.Bidirectional(*2 * [nn.RNN(nn.GRUCell(H))]), {"forward_rnn": {}}),
        TypeError,
        "expected the params of GRUCell, got none.* clone a module that stands in two places",
    ),
    "shared in nnx": (
        lambda: interop.from_flax(nnx.Bidirectional(RNN, RNN)),
        TypeError,
        "expected the params of GRUCell, got none",
    ),
    "shared in a stack": (
        lambda: interop.from_flax(nnx.Sequential(RNN, RNN)),
        TypeError,
        "expected the params of GRUCell, got none",
    ),
    "part of a stack": (
        lambda: interop.from_flax(nnx.Sequential(RNN, nnx.Linear(H, 1, rngs=nnx.Rngs(0)))),
        TypeError,
        "expected RNN, Bidirectional, .*, got Linear",
    ),
    "function in a stack": (
        lambda: interop.from_flax(nnx.Sequential(RNN, jnp.flip)),
        TypeError,
        "expected RNN, Bidirectional",
    ),
    "half": (
        lambda: interop.from_flax(nnx.Bidirectional(RNN, nnx.GRUCell(D, H, rngs=nnx.Rngs(0)))),
        TypeError,
        "expected backward_rnn=an RNN, got backward_rnn=GRUCell",
    ),
    "variables": (
        lambda: interop.from_flax(nn.GRUCell(H)),
        TypeError,
        "expected the variables of GRUCell, got None",
    ),
    "no module": (lambda: interop.from_flax(3), TypeError, "expected a module of Flax, got int"),
    **{
        f"{what} to {target.__name__}": (lambda f=target, layer=layer: out(f, layer), TypeError, message)
        for target in (interop.to_flax, interop.to_nnx)
        for what, layer, message in (
            (
                "reset before",
                sj.recurrent(sj.gru(H, reset_after=False)),
                f"{target.__name__}: expected reset_after=True",
            ),
            (
                "identity",
                sj.recurrent(sj.elman(H, activation="identity")),
                f"{target.__name__}: expected activation='tanh' or 'relu'",
            ),
            ("dropout", deep(sj.gru(H)), "expected rate=no dropout, got rate=0.25"),
            (
                "another cell",
                sj.recurrent(sj.lem(H)),
                "expected a layer of one of the cells elman, gru, lstm",
            ),
        )
    },
}


@refusals(FLAX_REFUSED)
def test_refused_by_flax(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("x", "name", "alpha", "beta", "expected"),
    [
        (-3.0, "hard_sigmoid", 0.2, 0.5, 0.0),
        (1.0, "hard_sigmoid", 0.2, 0.5, 0.7),
        (-2.0, "leaky_relu", 0.1, 0.0, -0.2),
        (0.5, "thresholded_relu", 1.0, 0.0, 0.0),
        (2.0, "scaled_tanh", 1.5, 0.5, 1.5 * np.tanh(1.0)),
        (2.0, "affine", 3.0, 1.0, 7.0),
        (-1.0, "elu", 2.0, 0.0, 2 * (np.exp(-1) - 1)),
        (-3.0, "softsign", 0.0, 0.0, -0.75),
        (0.0, "softplus", 0.0, 0.0, np.log(2)),
    ],
)
def test_nonlinearities_have_their_formulas(x, name, alpha, beta, expected):
    np.testing.assert_allclose(Nonlinearity(name, alpha, beta)(jnp.asarray(x)), expected, atol=1e-14)


def test_unknown_nonlinearities_are_refused():
    with pytest.raises(ValueError, match=r"Nonlinearity\(name\): expected one of 'sigmoid', .*, got 'gelu'"):
        Nonlinearity("gelu")


def test_the_examples_of_the_page_run():
    page = Path(__file__).parent.parent / "docs/interop.md"
    names = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


def test_importing_interop_imports_no_other_library():
    code = "import seqjax.interop, sys; sys.exit(any(n in sys.modules for n in ('torch', 'keras', 'onnx')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
