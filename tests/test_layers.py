"""Test the registry of layers: it is complete, and its layers run on sequences that are sharded over devices."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax import blocks, models
from seqjax.testing.layers import LAYERS

# These compile within seconds: of one recurrence that is linear, or of none.
FAST = {"pointwise", "residual", "pre_norm", "feed_forward", "conditioned", "with_memory"}


def factories_of_layers(module):
    """The public functions of a module that `definition` decorates and that return layers."""
    for name, value in ((name, getattr(module, name)) for name in dir(module)):
        if getattr(value, "__code__", None) is sj.recurrent.__code__ and not name.startswith("_"):
            if inspect.signature(value).return_annotation in (sj.Layer, Any):  # Any: of a layer or of a cell
                yield name, value


@pytest.mark.parametrize("module", [sj, blocks, models], ids=lambda module: module.__name__)
def test_every_public_factory_of_layers_is_in_the_registry(module):
    listed = {entry.factory for entry in LAYERS.values()}
    missing = sorted(name for name, factory in factories_of_layers(module) if factory not in listed)
    assert not missing, f"add a line to seqjax/testing/layers.py for: {', '.join(missing)}"
    assert len(dict(factories_of_layers(module))) > 5  # the search finds them at all


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.fast_cases(20)
def test_a_layer_runs_in_parts_of_a_sequence_where_its_method_does(name):
    entry = LAYERS[name]
    assert entry.make(sj.TimeSharded()).time_shardable is not entry.mixes_time
    has_recurrence = entry.make(sj.Auto()) != entry.make(sj.Scan())
    assert entry.make(sj.Auto()).time_shardable is not (entry.mixes_time or has_recurrence)


def bad_flags(shape):
    """Flags of another dtype or shape than ``shape = [T, *B]``, some of which broadcast to it."""
    yield np.full(shape, 0.3, np.float32)
    yield np.ones(shape, np.int8)
    yield np.ones(shape[:1], bool)
    yield np.ones((), bool)
    yield np.ones((shape[0], 1), bool)
    yield np.ones((1, *shape[1:]), bool)
    yield np.ones((*shape, 1), bool)
    yield np.ones(shape[::-1], bool)
    yield np.ones(shape[:1], bool).tolist()


@pytest.mark.parametrize("flag", ["mask", "reset"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.fast_cases(58)
def test_flags_that_would_broadcast_are_refused_by_every_layer(name, flag):
    entry = LAYERS[name]
    layer = entry.make(sj.Scan())
    xs = np.zeros((6, *entry.x.shape), entry.x.dtype)
    for bad in bad_flags((6, 3)):
        whole = np.swapaxes(bad, 0, 1) if layer.batch_major and np.ndim(bad) > 1 else bad
        whole_xs = np.swapaxes(xs, 0, 1) if layer.batch_major else xs
        with pytest.raises(ValueError, match=rf"expected {flag} (of dtype bool|\[6, 3\]|\[B, T\])"):
            layer.unroll(None, None, whole_xs, **{flag: whole})
    if layer.causal:
        for bad in (np.ones(3, np.float32), np.ones((), bool), np.ones(1, bool), np.ones((3, 1), bool)):
            with pytest.raises(ValueError, match=rf"expected {flag} (of dtype bool|\[3\])"):
                layer.step(None, None, xs[0], **{flag: bad})


def test_flags_of_images_have_the_batch_axes_alone():
    image = np.zeros((6, 3, 8, 8, 2), np.float32)
    mask = np.arange(6)[:, None] < np.array([6, 2, 0])
    for layer in (sj.dropout(0.5), sj.running_mean(), sj.serial(sj.dropout(0.5), sj.running_mean())):
        params = layer.init(jax.random.key(0), image[0])
        same = (layer.unroll(params, None, image, mask=flag)[1] for flag in (mask, mask.tolist()))
        np.testing.assert_array_equal(*same)
    known = (sj.pointwise(jnp.tanh, event_ndim=3), sj.recurrent(sj.conv_lstm(2, kernel_size=3)))
    for layer in (*known, sj.serial(known[1], known[0]), sj.parallel(sj.dropout(0.1), known[0])):
        with pytest.raises(ValueError, match=r"expected mask \[6, 3\], .*got \[6, 3, 8\]"):
            layer.unroll(None, None, image, mask=np.ones((6, 3, 8), bool))


@pytest.mark.parametrize("pool", [sj.last, sj.mean_pool])
def test_pooling_takes_lists_and_refuses_masks_that_would_broadcast(pool):
    ys = np.arange(36.0, dtype=np.float32).reshape(6, 3, 2)
    mask = np.arange(6)[:, None] < np.array([6, 2, 0])
    np.testing.assert_array_equal(pool(ys.tolist(), mask.tolist()), pool(ys, mask))
    assert pool(ys, mask)[2].tolist() == [0, 0]
    for bad in bad_flags((6, 3)):
        with pytest.raises(ValueError, match=rf"{pool.__name__}: expected mask bool \[6, 3"):
            pool(ys, bad)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.fast_cases(2)
def test_masks_from_lengths_of_any_integer_dtype_count_every_step(dtype):
    most = min(np.iinfo(dtype).max, 70_000)
    lengths = np.array([[0, 5], [most, most - 1]], dtype)
    for steps in (most, most + 1, 70_000):
        assert (sj.lengths_to_mask(lengths, steps).sum(0) == lengths).all()
        assert (jax.jit(sj.lengths_to_mask, static_argnums=1)(lengths, steps).sum(0) == lengths).all()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2.5], "expected whole numbers of steps, of an integer dtype, got float64"),
        ([2.0], "got float64"),
        ([True], "got bool"),
        ([-1, 3], "expected lengths from 0 to T = 8, got -1"),
        ([3, 9], "expected lengths from 0 to T = 8, got 9"),
        (np.array([2**40]), "got 1099511627776"),
    ],
)
def test_lengths_that_are_none_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        sj.lengths_to_mask(lengths, 8)
    many = np.zeros((len(lengths), 8, 2))
    with pytest.raises(ValueError, match=message):
        sj.datasets.examples(many, many, batch_size=1, lengths=lengths)


def test_sizes_and_tokens_of_small_integer_dtypes_do_not_wrap_around():
    # Without the checks of annotations that tests run under, which refuse these sizes.
    names = ("streams", "windows", "packed", "padded", "sample_windows", "held_out_windows")
    streams, windows, packed, padded, sample_windows, held_out_windows = (
        inspect.unwrap(getattr(sj.datasets, name)) for name in names
    )
    tokens = np.arange(1000) % 251
    for make in (streams, windows):
        small, plain = (make(tokens, batch_size=kind(4), length=kind(100)) for kind in (np.uint8, int))
        np.testing.assert_array_equal(small(7).xs, plain(7).xs)
    for loader in (packed, padded):
        small, plain = (loader([tokens] * 9, batch_size=kind(4), length=kind(127)) for kind in (np.int8, int))
        np.testing.assert_array_equal(small(5).xs, plain(5).xs)
    assert sample_windows(tokens, 0, 1, 2, np.uint8(255))[0].shape == (255, 2)
    assert held_out_windows(tokens, np.uint8(200), 4)[0].shape == (4, 200)
    # A token beyond the dtype of the inputs matches none of them.
    xs = jnp.asarray([[1], [44], [3]], jnp.uint8)
    counted = sj.serial(sj.pointwise(lambda x: x.astype(jnp.float32)[None]), sj.running_mean())
    for token, means in ((300, [1, 22.5, 16]), (44, [1, 44, 23.5])):
        model = sj.reset_on(counted, token)
        params = model.init(jax.random.key(0), xs[0])
        np.testing.assert_allclose(model.unroll(params, None, xs)[1].ravel(), means)


def time_shardable():
    for name, entry in LAYERS.items():
        if not entry.mixes_time:
            yield pytest.param(name, marks=() if name in FAST else pytest.mark.slow)


@pytest.mark.parametrize("name", list(time_shardable()))
@pytest.mark.fast_cases(2)
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
