"""Test the registry of layers: it is complete, and its layers run on sequences that are sharded over devices."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax import blocks
from seqjax.testing.layers import LAYERS

# These compile within seconds: of one recurrence that is linear, or of none.
FAST = {"pointwise", "residual", "pre_norm", "feed_forward", "conditioned", "with_memory"}


def factories_of_layers(module):
    """The public functions of a module that `definition` decorates and that return layers."""
    for name, value in vars(module).items():
        if getattr(value, "__code__", None) is sj.recurrent.__code__ and not name.startswith("_"):
            if inspect.signature(value).return_annotation in (sj.Layer, Any):  # Any: of a layer or of a cell
                yield name, value


@pytest.mark.parametrize("module", [sj, blocks], ids=lambda module: module.__name__)
def test_every_public_factory_of_layers_is_in_the_registry(module):
    listed = {entry.factory for entry in LAYERS.values()}
    missing = sorted(name for name, factory in factories_of_layers(module) if factory not in listed)
    assert not missing, f"add a line to seqjax/testing/layers.py for: {', '.join(missing)}"
    assert len(dict(factories_of_layers(module))) > 5  # the search finds them at all


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_runs_in_parts_of_a_sequence_where_its_method_does(name):
    entry = LAYERS[name]
    assert entry.make(sj.TimeSharded()).time_shardable is not entry.mixes_time
    has_recurrence = "recurrent(" in repr(entry.make(sj.Auto()))
    assert entry.make(sj.Auto()).time_shardable is not (entry.mixes_time or has_recurrence)


def time_shardable():
    for name, entry in LAYERS.items():
        if not entry.mixes_time:
            yield pytest.param(name, marks=() if name in FAST else pytest.mark.slow)


@pytest.mark.parametrize("name", list(time_shardable()))
def test_parts_of_a_sequence_on_eight_devices_give_what_the_whole_gives(name):
    entry = LAYERS[name]
    whole, split = entry.make(sj.Auto()), entry.make(sj.TimeSharded())
    random = np.random.default_rng(0)
    tokens = np.issubdtype(entry.x.dtype, np.integer)
    xs = random.integers(0, 2, (16, *entry.x.shape)) if tokens else random.normal(size=(16, *entry.x.shape))
    reset, mask = (random.random((16, 3)) < share for share in (0.2, 0.8))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), whole.init(jax.random.key(0), xs[0]))
    carry = whole.initial_carry(params, xs[0])
    mesh = jax.make_mesh((8,), ("time",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(params, carry, xs, reset, mask):
        return split.unroll(params, carry, xs, reset=reset, mask=mask)

    everywhere, by_time = jax.P(), jax.P("time")
    found = jax.jit(
        jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(everywhere, everywhere, by_time, by_time, by_time),
            out_specs=(everywhere, by_time),
        )
    )(params, carry, xs, reset, mask)
    expected = jax.jit(whole.unroll)(params, carry, xs, reset=reset, mask=mask)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
