"""Time and batch as one axis of rows: the same values, gradients and noise, and no copies of the inputs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.products import mergeable, product

RNG = np.random.default_rng(0)
XS, W = jnp.asarray(RNG.standard_normal((5, 3, 4))), jnp.asarray(RNG.standard_normal((4, 6)))
COTANGENTS = jnp.asarray(RNG.standard_normal((5, 3, 6)))


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def test_several_devices_and_explicit_shardings_keep_the_axes_apart(monkeypatch):
    assert not mergeable(XS, 2)  # the tests have 8 devices
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert mergeable((XS, W), 2)
    assert not mergeable(XS[:, :1], 2)
    assert not mergeable(XS, 1)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    explicit = jax.device_put(XS, jax.NamedSharding(mesh, jax.P(None, "data")))
    assert not mergeable((XS, explicit), 2)
    with jax.set_mesh(mesh):
        assert not jax.jit(lambda xs: [jnp.asarray(mergeable(xs, 2))])(explicit)[0]
        np.testing.assert_allclose(jax.jit(product)(explicit, W), np.asarray(XS) @ np.asarray(W), rtol=1e-12)


def test_products_and_their_gradients_are_those_of_numpy(one_device):
    value, pull_back = jax.vjp(product, XS, W)
    by_xs, by_w = pull_back(COTANGENTS)
    xs, w, d = map(np.asarray, (XS, W, COTANGENTS))
    np.testing.assert_allclose(value, np.einsum("tbi,io->tbo", xs, w), rtol=1e-12)
    np.testing.assert_allclose(by_xs, np.einsum("tbo,io->tbi", d, w), rtol=1e-12)
    np.testing.assert_allclose(by_w, np.einsum("tbi,tbo->io", xs, d), rtol=1e-12)


def test_no_rows_and_several_batch_axes(one_device):
    assert product(XS[:0], W).shape == (0, 3, 6)
    several = jnp.stack([XS, 2 * XS], 2)
    np.testing.assert_allclose(product(several, W)[:, :, 1], 2 * (XS @ W), rtol=1e-12)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        x = nn.Dropout(0.5, deterministic=deterministic)(nn.gelu(nn.Dense(8)(x)))
        return nn.LayerNorm()(nn.Dense(4)(x))


LAYERS = {
    "pointwise": (sj.pointwise(Block()), XS.astype(jnp.float32)),
    "pointwise, two batch axes": (sj.pointwise(Block()), jnp.ones((5, 3, 2, 4)).cumsum(0)),
    "pointwise, no batch axis": (sj.pointwise(Block()), XS[:, 0]),
    "pointwise, tokens": (sj.pointwise(nn.Embed(7, 4)), jnp.arange(15).reshape(5, 3) % 7),
    "Gated": (sj.recurrent(sj.gru(6)), XS),
    "Step": (sj.recurrent(sj.mgu(6)), XS),
    "Diagonal": (sj.recurrent(sj.lru(6)), XS),
    "Matrix": (sj.recurrent(sj.gla(8)), XS),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_same_values_gradients_and_noise(name, monkeypatch):
    layer, xs = LAYERS[name]
    params = layer.init(jax.random.key(0), xs[0])
    mask = jnp.ones(xs.shape[: 1 if "no batch" in name else 2], bool).at[2:].set(False)

    def outcome():
        def loss(params):
            ys = layer.unroll(params, None, xs, mask=mask, key=jax.random.key(1))[1]
            return jnp.sum(jnp.sin(3 * ys)), ys

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    apart = outcome()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    merged = outcome()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), merged, apart)


@pytest.mark.parametrize("name", ["pointwise", "Step", "Diagonal"])
def test_the_gradient_of_the_weights_contracts_one_axis(name, one_device):
    layer, xs = LAYERS[name]
    params = layer.init(jax.random.key(0), xs[0])
    gradient = jax.grad(lambda params: jnp.sum(layer.unroll(params, None, xs)[1]))
    program = jax.jit(gradient).lower(params).as_text()
    assert "contracting_dims = [0] x [0]" in program
    assert "contracting_dims = [0, 1] x [0, 1]" not in program


def test_a_chunk_of_a_gated_cell_on_a_cpu_has_256_kb_of_inputs():
    def chunk(batch, size):
        xs = jax.ShapeDtypeStruct((2048, batch, size), jnp.float32)
        return sj.Auto().select(sj.lstm(size), xs, platform="cpu").chunk

    assert [chunk(1, 64), chunk(8, 64), chunk(16, 64), chunk(8, 128), chunk(32, 256)] == [
        128,
        128,
        64,
        64,
        16,
    ]
