"""What `pointwise` accepts, what it refuses by name, and dropout inside a module."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax as sj

XS, KEY = jnp.ones((5, 2, 4)), jax.random.key(0)


class Scaler:
    def __init__(self):
        self.weights = {"scale": jnp.ones(4)}

    def __call__(self, x):
        return self.weights["scale"] * x

    def scale(self, x):
        return self(x)


LINEAR = nnx.Linear(4, 3, rngs=nnx.Rngs(0))


def haiku_transform():
    haiku = pytest.importorskip("haiku")
    return haiku.transform(lambda x: haiku.Linear(3)(x))


REFUSED = {
    "nnx in a closure": (
        lambda: closing_over(LINEAR),
        r"flax\.nnx module Linear in a closure\. Its weights would be constants .*Pass the module itself",
    ),
    "nnx cell": (lambda: nnx.GRUCell(4, 3, rngs=nnx.Rngs(0)), r"the cell GRUCell, which has a carry"),
    "nnx state": (
        lambda: nnx.Sequential(LINEAR, nnx.BatchNorm(3, rngs=nnx.Rngs(0))),
        r"nnx module Sequential, which also has state of the kinds BatchStat",
    ),
    "nnx in a partial": (lambda: functools.partial(LINEAR), r"flax\.nnx module Linear in a partial"),
    "nnx method": (lambda: LINEAR.__call__, r"flax\.nnx module Linear in the object of __call__"),
    "nnx class": (lambda: nnx.Linear, r"the class Linear\. Make an instance"),
    "jitted nnx method": (lambda: jax.jit(functools.partial(LINEAR)), r"flax\.nnx module Linear"),
    "partial": (lambda: functools.partial(jnp.multiply, jnp.ones(4)), r"an array belongs in the params"),
    "partial by name": (
        lambda: functools.partial(jnp.dot, b=np.ones((4, 3))),
        r"an array belongs in the params",
    ),
    "object": (Scaler, r"Scaler, which holds an array \[4\] in its attribute weights"),
    "bound method": (lambda: Scaler().scale, r"scale, which holds an array \[4\]"),
    "linen method": (lambda: nn.Dense(3).__call__, r"a method of Dense.*Pass the module itself"),
    "bound linen": (lambda: nn.Dense(3).bind({"params": {}}), r"Dense bound to params"),
    "cell": (lambda: nn.LSTMCell(3), r"the cell LSTMCell, which has a carry\. Use a cell of seqjax"),
    "other cell": (lambda: nn.GRUCell(3), r"the cell GRUCell"),
    "class": (lambda: nn.Dense, r"the class Dense\. Make an instance: pointwise\(Dense\(\.\.\.\)\)"),
    "own class": (lambda: Scaler, r"the class Scaler"),
    "haiku": (haiku_transform, r"got haiku's Transformed\. Write the module in flax\.linen"),
    "layer": (lambda: sj.dropout(0.5), r"A layer needs no pointwise"),
    "seqjax cell": (lambda: sj.lstm(3), r"Write recurrent\(cell\)"),
    "two inputs": (lambda: TwoInputs(), r"TwoInputs, whose __call__ takes \(x, context\)"),
    "number": (lambda: 3, r"got 3"),
}


class TwoInputs(nn.Module):
    def __call__(self, x, context):
        return x + context


def closing_over(module):
    return lambda x: module(x)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_never_be_trained_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        sj.pointwise(make())


def test_functions_modules_and_dtypes_are_taken():
    shift = jnp.arange(4.0)
    for function in (
        jnp.tanh,
        jax.nn.relu,
        lambda x: x + shift,
        jnp.float32,
        functools.partial(jnp.sum, axis=-1),
    ):
        layer = sj.pointwise(function)
        assert layer.unroll(layer.init(KEY, XS[0]), (), XS)[1].shape[:2] == (5, 2)


class ByArgument(nn.Module):
    """Flax's own guide: whether the module trains is an argument of the call."""

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dropout(0.5)(nn.Dense(3)(x), deterministic=not train)


class ByDefault(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=False):
        return nn.Dropout(0.5)(nn.Dense(3)(x), deterministic=deterministic)


class ByField(nn.Module):
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=self.deterministic)(nn.Dense(3)(x))


class Inside(nn.Module):
    """A module that hard-codes its dropout, two levels down."""

    def setup(self):
        self.inner = nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=False)])

    def __call__(self, x):
        return self.inner(x)


class ByPlace(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5)(nn.Dense(3)(x), False)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=False)]),
        nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=True)]),
        ByArgument(),
        ByDefault(),
        ByField(),
        Inside(),
        ByPlace(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_dropout_inside_a_module_follows_the_key(module):
    layer = sj.pointwise(module)
    params = layer.init(KEY, XS[0])
    plain, again = (layer.unroll(params, (), XS)[1] for _ in range(2))
    np.testing.assert_array_equal(plain, again)
    dropped = layer.unroll(params, (), XS, key=jax.random.key(1))[1]
    assert 0 < np.mean(np.asarray(dropped) == 0) < 1
    kept = np.asarray(dropped) != 0
    np.testing.assert_allclose(np.asarray(dropped)[kept], 2 * np.asarray(plain)[kept], rtol=1e-5)
    assert getattr(module, "deterministic", None) is None or not isinstance(module, ByField)
