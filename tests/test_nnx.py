"""Modules of flax.nnx in `pointwise`: split into graph and params, trained, exported, saved and sharded."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import export

import seqjax as sj
from seqjax.training import Checkpoints, init_train_state, make_train_step, warm_start

XS, KEY = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 3)), jnp.float32), jax.random.key(0)


class Perceptron(nnx.Module):
    """A module of two layers with dropout between them, which draws from a stream of its own."""

    def __init__(self, features, rngs):
        self.layers = nnx.List([nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, features, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(nnx.relu(self.layers[0](x))))


MODULE = Perceptron(2, nnx.Rngs(0))


def test_a_module_equals_itself_in_values_and_gradients():
    """The library itself differentiates the module on [T, B, D]; it acts on each example alone."""
    layer = sj.pointwise(MODULE)
    params = layer.init(KEY, XS[0])
    assert jax.tree.map(jnp.shape, params) == {
        "layers": {"0": {"kernel": (3, 8), "bias": (8,)}, "1": {"kernel": (8, 2), "bias": (2,)}}
    }
    weights = jnp.arange(1.0, 3)
    plain = nnx.clone(MODULE)
    plain.eval()

    def loss(module, xs):
        return jnp.sum(weights * module(xs) ** 2)

    d_module, d_xs = nnx.jit(nnx.grad(loss, argnums=(nnx.DiffState(0, nnx.Param), 1)))(plain, XS)
    ours = jax.jit(jax.grad(lambda p, xs: jnp.sum(weights * layer.unroll(p, (), xs)[1] ** 2), (0, 1)))
    d_params, d_ours = ours(params, XS)
    np.testing.assert_allclose(layer.unroll(params, (), XS)[1], plain(XS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_ours, d_xs, rtol=1e-5, atol=1e-6)
    expected = nnx.to_pure_dict(d_module)["layers"]
    for number in (0, 1):
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(
                d_params["layers"][str(number)][name], expected[number][name], rtol=1e-4, atol=1e-5
            )


def test_dropout_follows_the_key_and_differs_between_steps_and_examples():
    layer = sj.pointwise(nnx.Sequential(nnx.Dropout(0.5, deterministic=False, rngs=nnx.Rngs(3))))
    params = layer.init(KEY, XS[0])
    np.testing.assert_array_equal(layer.unroll(params, (), XS)[1], XS)
    ones = jnp.ones((5, 4, 32))
    dropped = np.asarray(layer.unroll(params, (), ones, key=jax.random.key(1))[1])
    assert 0.3 < np.mean(dropped == 0) < 0.7 and set(np.unique(dropped)) == {0, 2}
    rows = dropped.reshape(20, 32)
    assert len({row.tobytes() for row in rows}) == 20
    again = layer.unroll(params, (), ones, key=jax.random.key(1))[1]
    np.testing.assert_array_equal(dropped, again)


def test_two_dropouts_on_streams_of_their_own_draw_different_masks():
    streams = [nnx.Dropout(0.5, rngs=nnx.Rngs(seed)) for seed in (0, 0)]
    layer = sj.pointwise(nnx.Sequential(lambda x: jnp.stack([x, x]), Halves(*streams)))
    first, second = layer.unroll(layer.init(KEY, XS[0]), (), jnp.ones((1, 1, 64)), key=KEY)[1][0, 0]
    assert (first != second).any()


class Halves(nnx.Module):
    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, x):
        return jnp.stack([self.first(x[0]), self.second(x[1])])


def test_the_module_itself_does_not_change():
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(MODULE, nnx.Param)))
    count = int(MODULE.dropout.rngs.count[...])
    layer = sj.pointwise(MODULE)
    layer.unroll(layer.init(KEY, XS[0]), (), XS, key=KEY)
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(MODULE, nnx.Param)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert int(MODULE.dropout.rngs.count[...]) == count and not MODULE.dropout.deterministic


def test_params_may_be_donated():
    layer = sj.pointwise(MODULE)
    jax.tree.map(lambda a: a.delete(), layer.init(KEY, XS[0]))
    assert np.isfinite(layer.unroll(layer.init(KEY, XS[0]), (), XS)[1]).all()


def test_a_partial_of_a_class_is_a_value_and_draws_from_the_key():
    layer = sj.pointwise(functools.partial(nnx.Linear, 3, 2))
    assert layer == sj.pointwise(functools.partial(nnx.Linear, 3, 2)) == pickle.loads(pickle.dumps(layer))
    assert repr(layer) == "pointwise(module=partial(Linear, 3, 2))" or "Linear" in repr(layer)
    params = jax.vmap(layer.init, (0, None))(jax.random.split(KEY, 3), XS[0])
    assert params["kernel"].shape == (3, 3, 2) and len(np.unique(params["kernel"])) == 18
    assert layer.unroll(layer.init(KEY, XS[0]), (), XS)[1].shape == (5, 4, 2)


def test_the_text_of_a_layer_holds_no_arrays():
    assert repr(sj.pointwise(MODULE)) == "pointwise(module=Perceptron(...))"


def test_modules_with_a_dtype_are_no_dtypes():
    """An Embed has the attribute dtype, as jnp.float32 has."""
    first, second = (sj.pointwise(nnx.Embed(7, 3, rngs=nnx.Rngs(0))) for _ in range(2))
    assert first != second and repr(first) == "pointwise(module=Embed(...))"
    assert sj.pointwise(jnp.float32) == sj.pointwise(jnp.float32)


def test_params_are_cast_to_the_dtype_of_the_inputs_and_tokens_are_embedded():
    layer = sj.pointwise(MODULE)
    params = layer.init(KEY, XS[0])
    assert layer.unroll(params, (), XS.astype(jnp.bfloat16))[1].dtype == jnp.bfloat16
    embed = sj.pointwise(nnx.Embed(7, 3, rngs=nnx.Rngs(0)))
    tokens = jnp.zeros((5, 4), int)
    assert embed.unroll(embed.init(KEY, tokens[0]), (), tokens)[1].shape == (5, 4, 3)


def model_of():
    return sj.serial(
        sj.pointwise(nnx.Embed(8, 8, rngs=nnx.Rngs(0))),
        sj.recurrent(sj.gru(8)),
        sj.pointwise(nnx.Linear(8, 8, rngs=nnx.Rngs(1))),
    )


LOSS, OPTIMIZER = optax.softmax_cross_entropy_with_integer_labels, optax.adam(1e-2)
TOKENS = np.random.default_rng(0).integers(0, 8, (6, 8))


def trained(model, mesh=None, steps=3):
    step = make_train_step(model, LOSS, OPTIMIZER, mesh=mesh)
    state = init_train_state(model, OPTIMIZER, KEY, TOKENS[0], mesh=mesh)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, sj.Batch(TOKENS, TOKENS))
        losses.append(float(metrics.loss))
    return state, losses


@pytest.mark.slow  # the layer is one like any other
def test_a_model_trains_is_sharded_saved_and_exported(tmp_path, monkeypatch):
    monkeypatch.setattr("seqjax.training.sharding.SMALLEST_SHARED", 8)
    model = model_of()
    state, losses = trained(model)
    assert losses[0] > losses[-1]
    sharded, again = trained(model, jax.make_mesh((2, 4), ("data", "fsdp")))
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    kernel = sharded.params[2]["kernel"]
    assert not kernel.sharding.is_fully_replicated
    with Checkpoints(tmp_path / "run") as folder:
        folder.save(3, {"params": state.params})
    restored, report = warm_start(jax.tree.map(jnp.zeros_like, state.params), tmp_path / "run")
    assert report.whole
    jax.tree.map(np.testing.assert_array_equal, restored, state.params)

    def run(params, tokens):
        return model.unroll(params, None, tokens)[1]

    t, b = export.symbolic_shape("t, b")
    spec = jax.ShapeDtypeStruct((t, b), TOKENS.dtype)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state.params)
    blob = export.export(jax.jit(run))(shapes, spec).serialize()
    found = export.deserialize(blob).call(state.params, TOKENS)
    np.testing.assert_allclose(found, jax.jit(run)(state.params, TOKENS), rtol=1e-5, atol=1e-6)
