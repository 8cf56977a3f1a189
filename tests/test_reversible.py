"""Test backpropagation by reconstruction: the full gradient where carries are reconstructed, NaN where not."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.base import Diagonal
from seqjax.cells import REGISTRY
from seqjax.gradients import objective
from seqjax.gradients.inverses import inverse_of

T, B, D, H = 12, 3, 2, 4
F64 = {"param_dtype": jnp.float64}
INVERTIBLE = {
    "orthogonal": sj.recurrent(sj.orthogonal_rnn(H, activation="identity", **F64)),
    "stack": sj.serial(
        sj.recurrent(sj.cornn(H, epsilon=0.0, **F64)),
        sj.pointwise(nn.Dense(H, param_dtype=jnp.float64)),
        sj.residual(sj.recurrent(sj.lru(H, r_min=0.9, **F64))),
    ),
}


def squares(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)


def batch_of(length=T, *, flags=True):
    rng = np.random.default_rng(0)
    batch = sj.Batch(rng.normal(size=(length, B, D)), rng.normal(size=(length, B, H)))
    if flags:
        batch = batch._replace(reset=rng.random((length, B)) < 0.2, mask=rng.random((length, B)) < 0.7)
    return jax.tree.map(jnp.asarray, batch)


def start(layer, batch):
    params = layer.init(jax.random.key(0), batch.xs[0])
    carry = layer.initial_carry(params, batch.xs[0])
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return params, jax.tree.map(lambda a: a + jax.random.normal(next(keys), a.shape, a.dtype), carry)


@partial(jax.jit, static_argnums=(0, 1))
def run(estimator, layer, params, carry, batch):
    init, update = estimator.bind(layer, squares)
    return update(params, carry, init(params, carry, batch.xs[0]), batch)


def exact(layer, params, carry, batch):
    value_and_grad = jax.value_and_grad(objective(layer, squares), has_aux=True)
    (total, (count, after)), gradients = jax.jit(value_and_grad)(params, carry, batch)
    return sj.Estimate(total, count, gradients), after


def assert_close(got, expected, rtol=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.max(np.abs(a - b), initial=0) <= rtol * max(1e-300, np.max(np.abs(b), initial=0))


@pytest.mark.parametrize("name", [pytest.param("orthogonal", marks=pytest.mark.slow), "stack"])
def test_it_is_full_backpropagation(name):
    layer, batch = INVERTIBLE[name], batch_of()
    params, carry = start(layer, batch)
    estimate, after, state = run(sj.reversible(max_resets=T), layer, params, carry, batch)
    assert_close((estimate, after), exact(layer, params, carry, batch))
    assert np.all(state.error < 1e-12)


@pytest.mark.slow
def test_left_padding_before_a_carry_of_zero_is_no_error():
    layer, batch = INVERTIBLE["orthogonal"], batch_of(flags=False)
    batch = batch._replace(mask=jnp.ones((T, B), bool).at[:3].set(False))
    params, _ = start(layer, batch)
    estimate, _, _ = run(sj.reversible(), layer, params, None, batch)
    carry = layer.initial_carry(params, batch.xs[0])
    assert_close(estimate, exact(layer, params, carry, batch)[0])


@pytest.mark.slow  # as for the other estimators
def test_over_devices_it_is_the_sum_of_what_each_finds():
    mesh = jax.make_mesh((B,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:B])
    layer, batch, estimator = INVERTIBLE["orthogonal"], batch_of(4), sj.reversible(max_resets=4)
    params, carry = start(layer, batch)

    def on_device(params, carry, batch):
        init, update = estimator.bind(layer, squares)
        estimate, after, _ = update(params, carry, init(params, carry, batch.xs[0]), batch)
        return jax.lax.psum(estimate, "data"), after

    split = jax.P("data")
    specs = (jax.P(), split, jax.P(None, "data"))
    found = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=(jax.P(), split)))
    assert_close(found(params, carry, batch), exact(layer, params, carry, batch))


def nans(gradients):
    return all(np.all(np.isnan(g)) for g in jax.tree.leaves(gradients))


def test_digits_lost_to_forgetting_are_noticed():
    layer, batch = sj.recurrent(sj.lru(H, r_min=0.01, r_max=0.1, **F64)), batch_of(flags=False)
    params, carry = start(layer, batch)
    estimate, _, state = run(sj.reversible(), layer, params, carry, batch)
    assert nans(estimate.gradients) and np.all(state.error > 1e-6)
    assert np.isfinite(estimate.total)


WRONG = {
    "constant": lambda params, after, x: jax.tree.map(jnp.zeros_like, after),
    "identity": lambda params, after, x: after,
    "nearly": lambda params, after, x: jax.tree.map(
        lambda a: a * (1 + 1e-6), inverse_of(INVERTIBLE["orthogonal"])(params, after, x, None)
    ),
}


@pytest.mark.parametrize(
    "name", ["constant", *(pytest.param(n, marks=pytest.mark.slow) for n in ("identity", "nearly"))]
)
def test_a_wrong_inverse_is_noticed(name):
    """The constant one ends in the true initial carry, zero: only the steps made anew tell."""
    layer, batch = INVERTIBLE["orthogonal"], batch_of(flags=False)
    params, _ = start(layer, batch)
    carry = layer.initial_carry(params, batch.xs[0])
    estimate, _, _ = run(sj.reversible(WRONG[name]), layer, params, carry, batch)
    assert nans(estimate.gradients)


def test_what_a_nonlinearity_sets_to_zero_is_noticed():
    """Units that modrelu has shut: the step made anew agrees, the carry before does not."""
    layer, batch = sj.recurrent(sj.orthogonal_rnn(H, **F64)), batch_of(3, flags=False)
    params, carry = start(layer, batch)
    estimate, _, _ = run(sj.reversible(), layer, params._replace(b=jnp.full(H, -1.0)), carry, batch)
    assert nans(estimate.gradients)


def test_too_many_resets_are_noticed_and_none_expected_refused():
    layer, batch = INVERTIBLE["orthogonal"], batch_of(flags=False)
    params, carry = start(layer, batch)
    batch = batch._replace(reset=jnp.zeros((T, B), bool).at[jnp.array([2, 5])].set(True))
    assert nans(run(sj.reversible(max_resets=1), layer, params, carry, batch)[0].gradients)
    with pytest.raises(
        ValueError, match=r"expected a batch without resets, .* `reversible\(max_resets=...\)`"
    ):
        run(sj.reversible(), layer, params, carry, batch)


def test_layers_without_an_inverse_are_refused():
    batch = batch_of(1, flags=False)
    for layer in (sj.recurrent(sj.lstm(D)), sj.repeat(sj.recurrent(sj.orthogonal_rnn(D)), 2)):
        with pytest.raises(
            TypeError, match=r"expected a (cell|layer) with an inverse, got .*Cells with an inverse: Diagonal"
        ):
            update = sj.reversible().bind(layer, squares)[1]
            update(*start(layer, batch), None, batch._replace(targets=batch.xs))


def with_inverse():
    for name, entry in REGISTRY.items():
        cell = entry.make(H)
        if cell.inverse is not None or (isinstance(cell.recurrence, Diagonal) and name in ("lru", "qrnn")):
            yield name


@pytest.mark.parametrize("name", [*with_inverse(), "tanh", "implicit"])
@pytest.mark.fast_cases(3)
def test_an_inverse_undoes_a_step(name):
    made = {
        "tanh": partial(sj.orthogonal_rnn, activation="tanh"),
        "implicit": partial(sj.cornn, implicit_damping=True),
    }
    layer = sj.recurrent(made[name](H) if name in made else REGISTRY[name].make(H))
    x = batch_of(1).xs[0]
    params, carry = start(layer, batch_of(1))
    if hasattr(params, "b"):
        params = params._replace(b=jnp.abs(params.b))
    after, _ = layer.step(params, carry, x)
    assert_close(inverse_of(layer)(params, after, x, None), carry, 1e-11)


def test_memory_does_not_grow_with_time():
    layer = sj.recurrent(sj.orthogonal_rnn(16))

    def temporaries(estimator, length):
        batch = sj.Batch(*(jax.ShapeDtypeStruct((length, 2, 16), jnp.float32) for _ in range(2)))
        x = jax.ShapeDtypeStruct((2, 16), jnp.float32)
        params = jax.eval_shape(layer.init, jax.random.key(0), x)
        carry = jax.eval_shape(layer.initial_carry, params, x)
        lowered = jax.jit(lambda p, c, b: run(estimator, layer, p, c, b)[0]).lower(params, carry, batch)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    short, long = (temporaries(sj.reversible(), length) for length in (64, 512))
    assert long < 1.05 * short + 1024
    short, long = (temporaries(sj.full_bptt(), length) for length in (64, 512))
    assert long > 3 * short


def test_it_is_a_value():
    assert sj.reversible() == sj.reversible(max_resets=0) != sj.reversible(max_resets=1)
    assert dataclasses.is_dataclass(sj.reversible())
    with pytest.raises(ValueError, match=r"reversible\(tolerance\): expected a finite number above 0"):
        sj.reversible(tolerance=0.0)
