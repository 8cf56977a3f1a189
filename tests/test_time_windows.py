"""Test that layers and attention that read earlier steps borrow them from other devices, as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.hlo import collectives
from helpers.refusals import refusals
from jax.sharding import AxisType

import seqjax as sj
from seqjax.compat import vary_like
from seqjax.ops.tap import dummies
from seqjax.training import init_train_state, make_train_step

B, D, SLOW = 2, 4, pytest.mark.slow
MESH = {"data": 2, "time": 4}


def attention(**options):
    return sj.recurrent(sj.attention(4, num_heads=2, num_groups=1, **options), sj.TimeSharded())


def mesh_of(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def flags_of(kind, length):
    """Resets and masks; row 0 is never reset, and a stretch longer than a device's share does not happen."""
    rng = np.random.default_rng(1)
    reset = (rng.random((length, B)) < 0.2) & (np.arange(B) > 0)
    mask = rng.random((length, B)) < 0.7
    mask[length // 4 : -length // 4 - 1, 0] = False
    return {"reset": reset if "resets" in kind else None, "mask": mask if "masks" in kind else None}


def setting(layer, length):
    """Params and a carry that are not their initial ones, and inputs, in float64."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(length, B, D))
    params = jax.tree.map(lambda a: a.astype(float), layer.init(jax.random.key(0), xs[0]))
    before = jnp.asarray(rng.normal(size=(5, B, D)))
    return params, layer.unroll(params, None, before)[0], xs


def total(tree):
    floats = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]
    return sum(jnp.sum(a**2 + jnp.sin(a)) for a in floats)


def outcome(layer, params, carry, xs, flags):
    """``(a function of outputs and last carry, (last carry, outputs)), gradients by params, carry, xs``."""

    def of(params, carry, xs):
        after, ys = layer.unroll(params, carry, xs, **flags)
        first = 1.0 if not jax.sharding.get_abstract_mesh().manual_axes else jax.lax.axis_index("time") == 0
        return total(ys) + first * total(after), (after, ys)

    return jax.value_and_grad(of, (0, 1, 2), has_aux=True, allow_int=True)(params, carry, xs)


def on_devices(layer, **axes):
    """The compiled `outcome` where each device has its part of the batch and of the steps."""

    def run(params, carry, xs, flags):
        (value, aux), (d_params, d_carry, d_xs) = outcome(layer, vary_like(params, xs), carry, xs, flags)
        value, d_params = jax.lax.psum((value, d_params), tuple(axes))
        return (value, aux), (d_params, d_carry, d_xs)

    rows, parts = (jax.P("data"), jax.P("time", "data")) if "data" in axes else (jax.P(), jax.P("time"))
    return jax.jit(
        jax.shard_map(
            run,
            mesh=mesh_of(**axes),
            in_specs=(jax.P(), rows, parts, parts),
            out_specs=((jax.P(), (rows, parts)), (jax.P(), rows, parts)),
        )
    )


def assert_equal(found, expected, atol=1e-10):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if a.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1, np.max(np.abs(b), initial=0)))


# A layer, T, flags, and the permutations forward: one passes a share on, two or three reach the shares before.
CASES = {
    "convolution": (sj.causal_conv(4), 16, "", 1),
    "convolution, packed": (sj.causal_conv(4), 16, "resets and masks", 3),
    "convolution, resets": (sj.causal_conv(4), 16, "resets", 1),
    "convolution over two shares": (sj.causal_conv(5), 8, "", 2),
    "convolution over three shares, packed": (sj.causal_conv(7), 8, "resets and masks", 3),
    "convolution longer than the sequence": (sj.causal_conv(12), 8, "resets", 3),
    "convolution of one step": (sj.causal_conv(1), 8, "masks", 0),
    "shift": (sj.token_shift(2), 16, "", 1),
    "shift of one step per device": (sj.token_shift(), 4, "resets and masks", 3),
    "window": (attention(window=4), 16, "", 1),
    "window of a share and one step": (attention(window=5), 16, "resets", 1),
    "window, packed": (attention(window=3), 16, "resets and masks", 3),
    "window over three shares": (attention(window=6, rotary_base=None), 8, "resets", 3),
    "window longer than the sequence": (attention(window=20), 8, "masks", 3),
    "all steps": (attention(max_length=24), 16, "", 3),
    "all steps, packed": (attention(max_length=24), 16, "resets and masks", 3),
}
FAST = ("convolution, packed", "shift", "window")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else SLOW) for n in CASES])
def test_steps_of_earlier_devices_count_as_on_one_device(name):
    layer, length, kind, permutations = CASES[name]
    inputs = (*setting(layer, length), flags_of(kind, length))
    compiled = on_devices(layer, **MESH).lower(*inputs).compile()
    counted = collectives(compiled.as_text())
    assert counted.in_loops == {}
    assert counted.total.get("collective-permute", 0) == 2 * permutations  # and as many backward
    assert counted.total.get("all-gather", 0) == (bool(kind) and "attention" in repr(layer))  # of counts
    assert_equal(compiled(*inputs), jax.jit(functools.partial(outcome, layer))(*inputs))


def test_keys_and_lengths_that_do_not_divide_among_devices():
    """Under a mesh for the whole program, `TimeSharded` appends masked steps, and XLA splits convolutions."""
    layer = sj.serial(sj.causal_conv(3), attention(window=4), sj.dropout(0.3))
    params, carry, xs = setting(layer, 13)
    unroll = jax.jit(functools.partial(layer.unroll, key=jax.random.key(1)))
    expected = unroll(params, carry, xs)
    with jax.set_mesh(mesh_of(time=4)):
        assert_equal(
            jax.jit(functools.partial(layer.unroll, key=jax.random.key(1)))(params, carry, xs), expected
        )


# ---------------------------------------------------------------- training

W, T, M = 6, 16, sj.TimeSharded()
BLOCKS = {
    "griffin_block": sj.griffin_block(W, method=M),
    "mamba_block": sj.mamba_block(W, state_size=2, method=M),
    "mlstm_block": sj.mlstm_block(W, num_heads=2, method=M),
    "slstm_block": sj.slstm_block(W, num_heads=2, method=M),
    "gated_delta_block": sj.gated_delta_block(W, num_heads=2, method=M),
    "transformer_block": sj.transformer_block(W, num_heads=3, window=6, method=M),
    "transformer_block over all steps": sj.transformer_block(W, num_heads=3, max_length=T, method=M),
    "griffin": sj.griffin(W, 3, num_heads=3, window=6, method=M),
    "samba": sj.samba(W, 1, num_heads=3, window=6, state_size=2, method=M),
    "xlstm": sj.xlstm(W, 2, ratio=(1, 1), num_heads=2, method=M),
    "hybrid_delta": sj.hybrid_delta(W, 2, num_heads=3, window=6, method=M),
}


def squares(ys, targets):
    return jnp.mean((ys - targets) ** 2, -1)


def trained(model, mesh):
    """Losses and params of three steps in float64, on packed sequences of uneven lengths; and the program."""
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(2, T, 4, W))
    batch = sj.Batch(xs, targets, rng.random((T, 4)) < 0.1, np.arange(T)[:, None] < np.array([16, 11, 3, 7]))
    optimizer = optax.adam(1e-2)
    state = init_train_state(model, optimizer, jax.random.key(0), xs[0])._replace(key=None)
    state = jax.tree.map(lambda a: a.astype(float) if jnp.issubdtype(a.dtype, jnp.floating) else a, state)
    step = make_train_step(model, squares, optimizer, mesh=mesh)
    text, losses = None if mesh is None else step.lower(state, batch).compile().as_text(), []
    for _ in range(3):
        state, metrics = step(state, batch)
        losses.append(metrics.loss)
    return jax.device_get((losses, state.params)), text


@pytest.mark.slow  # made of windows, shifts and convolutions, which are here
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "griffin_block" else SLOW) for n in BLOCKS]
)
def test_blocks_train_on_a_mesh_for_data_and_time_as_on_one_device(name):
    model = BLOCKS[name]
    assert model.time_shardable
    found, text = trained(model, mesh_of(**MESH))
    assert_equal(found, trained(model, None)[0], 1e-8)
    newton = {"all-gather", "collective-permute", "all-reduce"} if "slstm" in repr(model) + name else set()
    assert collectives(text).in_loops.keys() <= newton


# ---------------------------------------------------------------- errors


def inside(layer, length, tap=False):
    params, carry, xs = setting(layer, length)
    taps = dummies(carry, length) if tap else None

    def run(xs, taps):
        return layer.unroll(params, carry, xs, tap=taps)[1]

    parts = jax.P("time")
    return jax.jit(jax.shard_map(run, mesh=mesh_of(time=4), in_specs=(parts, parts), out_specs=parts))(
        xs, taps
    )


REFUSED = {
    "more steps than max_length on all devices together": (
        lambda: inside(attention(max_length=15), 16), ValueError,
        r"expected at most max_length=15 steps, got 4 shards of 4 steps on mesh axis 'time'\. Use a larger"),
    "a tap of a convolution": (
        lambda: inside(sj.causal_conv(3), 16, tap=True), TypeError,
        r"causal_conv\(kernel_size=3\) cannot tap its carry on a mesh axis 'time'\. Profile"),
    "a tap of attention": (
        lambda: inside(attention(window=3), 16, tap=True), TypeError,
        r"TimeSharded\(\) cannot tap the carry of attention\(.*\) on a mesh axis 'time'\. Profile"),
    "attention by a method for one device": (
        lambda: make_train_step(
            sj.transformer_block(W, num_heads=3, window=6), squares, optax.adam(1e-2), mesh=mesh_of(time=4)),
        TypeError, r"got transformer_block\(.*\), which needs all steps on one device\. Give recurrent layers the"),
}  # fmt: skip


@refusals(REFUSED)
@pytest.mark.fast_cases(3)
def test_what_needs_one_device_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
