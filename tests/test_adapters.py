"""Cells of other libraries in seqjax, and layers of seqjax in modules of Flax: values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.parity import assert_parity, normal, random_like
from helpers.refusals import refusals

import seqjax as sj
from seqjax import interop

T, B, D, H = 5, 2, 3, 4
XS = jnp.asarray(normal(0, T, B, D))
KEY = jax.random.key(0)


def compare(cell, unroll):
    """Values and gradients by params, carry and inputs, at random params and carry."""
    layer = sj.recurrent(cell)
    params = random_like(jax.eval_shape(layer.init, KEY, XS[0]), 1)
    params = jax.tree.map(lambda a: a.astype(XS.dtype), params)
    carry = random_like(jax.eval_shape(layer.initial_carry, params, XS[0]), 2)
    assert jax.tree.all(jax.tree.map(lambda a: a.dtype == XS.dtype and a.shape[0] == B, carry))
    assert_parity(layer, unroll, params, carry, XS)
    return layer, params


@pytest.mark.parametrize(
    "module",
    [nn.MGUCell(H, param_dtype=jnp.float64), nn.OptimizedLSTMCell(H, param_dtype=jnp.float64)],
    ids=repr,
)
def test_cells_of_linen(module):
    def unroll(params, carry, xs):
        layer = nn.RNN(module, time_major=True, return_carry=True)
        return layer.apply({"params": {"cell": params}}, xs, initial_carry=carry)

    cell = interop.flax_cell(module)
    compare(cell, unroll)
    assert cell == interop.flax_cell(module)


@pytest.mark.parametrize("kind", [nnx.GRUCell, nnx.OptimizedLSTMCell])
def test_cells_of_nnx(kind):
    module = kind(D, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module, nnx.Param)[:2]

    def unroll(params, carry, xs):
        filled = nnx.clone(nnx.merge(graph, state))
        for name, part in params.items():
            for leaf, value in part.items():
                getattr(getattr(filled, name), leaf)[...] = value

        def one(carry, x):
            return filled(carry, x)

        return jax.lax.scan(one, carry, xs)

    layer, _ = compare(interop.flax_cell(module), unroll)
    own = layer.init(KEY, XS[0])
    np.testing.assert_array_equal(own["dense_h"]["kernel"], module.dense_h.kernel[...])


@pytest.mark.peers
@pytest.mark.parametrize("name", ["LSTM", "VanillaRNN"])
def test_cores_of_haiku(name):
    hk = pytest.importorskip("haiku")
    run = hk.without_apply_rng(hk.transform(lambda xs, s: hk.dynamic_unroll(getattr(hk, name)(H), xs, s)))

    def unroll(params, carry, xs):
        ys, end = run.apply(params, xs, carry)
        return end, ys

    compare(interop.haiku_cell(lambda: getattr(hk, name)(H)), unroll)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_cells_of_equinox(name):
    eqx = pytest.importorskip("equinox")
    module = getattr(eqx.nn, name)(D, H, key=KEY, dtype=jnp.float64)

    def unroll(params, carry, xs):
        cell = eqx.combine(params, eqx.partition(module, eqx.is_inexact_array)[1])

        def one(carry, x):
            after = jax.vmap(cell)(x, carry)
            return after, after[0] if name == "LSTMCell" else after

        return jax.lax.scan(one, carry, xs)

    layer, _ = compare(interop.equinox_cell(module), unroll)
    np.testing.assert_array_equal(layer.init(KEY, XS[0]).weight_ih, module.weight_ih)


@pytest.mark.parametrize("make", [lambda: nn.MGUCell(H), lambda: nnx.GRUCell(D, H, rngs=nnx.Rngs(0))])
def test_foreign_cells_keep_the_rules_of_cells(make):
    """A masked step does not happen, a reset restarts, and the methods and dtypes are those of any `Step`."""
    layer = sj.recurrent(interop.flax_cell(make()))
    xs = XS.astype(jnp.bfloat16)
    params = layer.init(KEY, xs[0])
    mask = np.ones((T, B), bool)
    mask[2, 1] = False
    reset = np.zeros((T, B), bool)
    reset[3, 0] = True
    carry, ys = layer.unroll(params, None, xs, mask=mask, reset=reset)
    assert ys.dtype == jnp.bfloat16 and (ys[2, 1] == 0).all() and carry.shape == (B, H)
    np.testing.assert_array_equal(ys[3:, 0], layer.unroll(params, None, xs[3:])[1][:, 0])


# ---------------------------------------------------------------- layers of seqjax inside


class Tagger(nn.Module):
    layer: sj.Layer

    @nn.compact
    def __call__(self, xs, mask=None):
        _, ys = interop.LinenLayer(self.layer)(xs, mask=mask)
        return nn.Dense(2)(ys)


def test_a_layer_inside_a_linen_module():
    layer = sj.batch_major(sj.recurrent(sj.lstm(H)))
    xs = XS.swapaxes(0, 1).astype(jnp.float32)
    module = Tagger(layer)
    variables = module.init(KEY, xs)
    params = variables["params"]["LinenLayer_0"]["layer"]
    assert type(params).__name__ == "LSTMParams"
    head = variables["params"]["Dense_0"]
    mask = sj.lengths_to_mask(np.array([3, 5]), T).T

    def ours(params, head):
        ys = layer.unroll(params, None, xs, mask=mask)[1] @ head["kernel"] + head["bias"]
        return jnp.sum(ys**2)

    def theirs(variables):
        return jnp.sum(module.apply(variables, xs, mask=mask) ** 2)

    wanted, (d_params, d_head) = jax.jit(jax.value_and_grad(ours, (0, 1)))(params, head)
    loss, gradient = jax.jit(jax.value_and_grad(theirs))(variables)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    for a, b in zip(
        jax.tree.leaves((gradient["params"]["LinenLayer_0"]["layer"], gradient["params"]["Dense_0"])),
        jax.tree.leaves((d_params, d_head)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_cell_is_no_layer_inside_a_module():
    makes = {
        "LinenLayer": lambda cell: interop.LinenLayer(cell).init(KEY, jnp.ones((T, B, 3))),
        "NnxLayer": lambda cell: interop.NnxLayer(cell, jnp.ones((B, 3)), rngs=nnx.Rngs(0)),
    }
    for name, make in makes.items():
        with pytest.raises(
            TypeError, match=rf"{name}: expected a layer, got lstm.* Bind a cell with recurrent\(cell\)"
        ):
            make(sj.lstm(8))


def test_the_stream_of_a_linen_module_is_the_key():
    module = interop.LinenLayer(sj.dropout(0.5))
    ones = jnp.ones((T, B, 16))
    variables = module.init(KEY, ones)
    assert (module.apply(variables, ones)[1] == 1).all()
    dropped = module.apply(variables, ones, rngs={"dropout": KEY})[1]
    assert set(np.unique(dropped)) == {0, 2}


def test_a_layer_inside_an_nnx_module():
    layer = sj.serial(sj.recurrent(sj.gru(H)), sj.dropout(0.5))
    xs = XS.astype(jnp.float32)
    module = interop.NnxLayer(layer, xs[0], rngs=nnx.Rngs(0))
    module.eval()
    run = nnx.jit(nnx.value_and_grad(lambda module, xs: jnp.sum(module(xs)[1] ** 2)))
    loss, gradient = run(module, xs)
    ours = jax.jit(jax.value_and_grad(lambda p: jnp.sum(layer.unroll(p, None, xs)[1] ** 2)))
    wanted, d_params = ours(module.params)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(d_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    module.train()
    outputs = nnx.jit(lambda module, xs: module(xs)[1])
    first, second = outputs(module, xs), outputs(module, xs)
    assert (first != second).any() and 0.2 < np.mean(np.asarray(first) == 0) < 0.8
    given = interop.NnxLayer(layer, xs[0], rngs=nnx.Rngs(1), params=module.params)
    jax.tree.map(np.testing.assert_array_equal, given.params, module.params)


class Counting(nnx.RNNCellBase):
    def __init__(self):
        self.count = nnx.Variable(jnp.zeros(()))

    def __call__(self, carry, x):
        return carry, x

    def initialize_carry(self, input_shape, rngs):
        return jnp.zeros(input_shape)

    @property
    def num_feature_axes(self):
        return 1


REFUSED = {
    "linen": (lambda: interop.flax_cell(nn.Dense(3)), TypeError, "expected an RNNCellBase .* got Dense"),
    "nnx": (
        lambda: interop.flax_cell(nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
        TypeError,
        "expected an RNNCellBase .* got Linear",
    ),
    "state": (
        lambda: interop.flax_cell(Counting()),
        TypeError,
        r"flax_cell\(Counting\): .* got also Variable",
    ),
    "name": (lambda: interop.Bilinear, AttributeError, "module 'seqjax.interop' has no attribute 'Bilinear'"),
}


@refusals(REFUSED)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.peers
def test_refused_by_name_for_haiku_and_equinox():
    pytest.importorskip("haiku")
    eqx = pytest.importorskip("equinox")
    with pytest.raises(TypeError, match="expected a function that makes a core, got int"):
        interop.haiku_cell(3)
    with pytest.raises(TypeError, match="expected a cell such as equinox.nn.GRUCell, got Linear"):
        interop.equinox_cell(eqx.nn.Linear(2, 2, key=KEY))
