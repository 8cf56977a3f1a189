"""Test that training sharded over data, params and time equals training on one device, without collectives in loops."""

import functools
import math
import re
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.hlo import COLLECTIVES, collectives, count, split
from helpers.refusals import refusals

import seqjax as sj
from seqjax.base import Estimate
from seqjax.inputs import first_step
from seqjax.training import init_train_state, make_train_step
from seqjax.training.fsdp import added_up, gathered

T, B, V, H = 16, 8, 5, 8
CELLS = {
    "lstm": sj.lstm,
    "lru": sj.lru,
    "mamba": sj.mamba,
    "gated_delta_net": functools.partial(sj.gated_delta_net, num_heads=2),
}
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "time": {"time": 8},
    "data and fsdp": {"data": 2, "fsdp": 4},
    "all": {"data": 2, "fsdp": 2, "time": 2},
}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


@pytest.fixture(autouse=True)
def even_small_params_are_shared(monkeypatch):
    monkeypatch.setattr("seqjax.training.sharding.SMALLEST_SHARED", 64)


def mesh_of(name):
    axes = MESHES[name]
    return jax.make_mesh(tuple(axes.values()), tuple(axes))


def model_of(name, dtype):
    """On one device as on many: `TimeSharded` needs no mesh."""
    return sj.serial(
        sj.pointwise(nn.Embed(V, H, param_dtype=dtype)),
        sj.residual(
            sj.serial(
                sj.pointwise(nn.LayerNorm(param_dtype=dtype)),
                sj.recurrent(CELLS[name](H, param_dtype=dtype), sj.TimeSharded()),
            )
        ),
        sj.pointwise(nn.Dense(V, param_dtype=dtype)),
    )


def batch_of(seed):
    """Uneven lengths and resets."""
    rng = np.random.default_rng(seed)
    xs, targets = rng.integers(0, V, (2, T, B))
    mask = (np.arange(T)[:, None] < rng.integers(0, T + 1, B)) & (rng.random((T, B)) < 0.9)
    return sj.Batch(xs, targets, rng.random((T, B)) < 0.1, mask)


def start(model):
    return init_train_state(model, OPTIMIZER, jax.random.key(0), first_step(batch_of(0).xs))._replace(
        key=None
    )


def trained(model, mesh, num_steps):
    step, state, losses = make_train_step(model, cross_entropy, OPTIMIZER, mesh=mesh), start(model), []
    for number in range(num_steps):
        state, metrics = step(state, batch_of(number % 7))
        losses.append(float(metrics.loss))
    return jax.device_get((losses, state.params))


@functools.cache
def on_one_device(name, dtype, num_steps):
    return trained(model_of(name, dtype), None, num_steps)


def error(found, expected):
    """Of all numbers together, relative to the largest."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(np.max(np.abs(a - np.asarray(b))) / max(1, np.max(np.abs(b))) for a, b in pairs)


def cells_and_meshes():
    fast = {("lru", "fsdp"), ("lru", "all")}
    for cell in CELLS:
        for mesh in MESHES:
            marks = () if (cell, mesh) in fast else pytest.mark.slow
            yield pytest.param(cell, mesh, id=f"{cell}-{mesh}", marks=marks)


@pytest.mark.parametrize(("cell", "mesh"), list(cells_and_meshes()))
@pytest.mark.fast_cases(1)
def test_fifty_steps_are_those_of_one_device(cell, mesh):
    found = trained(model_of(cell, jnp.float64), mesh_of(mesh), 50)
    assert error(found, on_one_device(cell, jnp.float64, 50)) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("cell", CELLS)
def test_in_float32_fifty_steps_differ_by_the_growth_of_roundings(cell, mesh):
    """By at most 2000 roundings, 2.4e-4: 50 updates of 1e-2, where Adam divides gradients by their own size."""
    found = trained(model_of(cell, jnp.float32), mesh_of(mesh), 50)
    assert error(found, on_one_device(cell, jnp.float32, 50)) < 2000 * np.finfo(np.float32).eps


def numbers_in(text):
    """How many numbers collectives add up or gather, scalars apart; and how many messages of such there are."""
    numbers, messages = Counter(), Counter()
    for shapes, name in re.findall(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", text):
        sizes = [math.prod(map(int, s.split(","))) for s in re.findall(r"\[(\d[\d,]*)\]", shapes)]
        numbers[name] += sum(sizes)
        messages[name] += bool(sizes)
    return numbers, messages


@pytest.mark.parametrize(
    ("cell", "mesh"),
    [
        *(
            pytest.param("lru", mesh, marks=() if mesh in ("fsdp", "all") else pytest.mark.slow)
            for mesh in MESHES
        ),
        ("lstm", "data"),
        pytest.param("lstm", "time", marks=pytest.mark.slow),
        pytest.param("gated_delta_net", "all", marks=pytest.mark.slow),
    ],
)
@pytest.mark.fast_cases(1)
def test_loops_are_silent_and_params_are_spoken_of_once(cell, mesh):
    model, mesh = model_of(cell, jnp.float64), mesh_of(mesh)
    step = make_train_step(model, cross_entropy, OPTIMIZER, mesh=mesh)
    state = start(model)
    text = step.lower(state, batch_of(0)).compile().as_text()
    counted = collectives(text)
    if cell == "lstm" and "time" in mesh.shape:
        # An iteration of Newton, which is no loop over time, solves a linear recurrence over all devices.
        assert counted.in_loops == {"all-gather": 2, "collective-permute": 2, "all-reduce": 2}
        return
    assert counted.num_loops >= 2 and counted.in_loops == {}

    numbers, messages = numbers_in(text)
    size = mesh.shape.get("fsdp", 1)
    shared = sum(a.size for a in jax.tree.leaves(state.params) if a.size >= 64 and size > 1)
    others = sum(a.size for a in jax.tree.leaves(state.params)) - shared
    shares = shared // size if mesh.size > size else 0  # added up over the other axes
    assert numbers["all-reduce"] == others + shares and sum(messages.values()) <= 6
    assert numbers["reduce-scatter"] == shared // size and messages["reduce-scatter"] == (size > 1)
    # Params, and the maps and cotangents of the carries of the only recurrent layer.
    assert messages["all-gather"] == (size > 1) + 2 * ("time" in mesh.shape)
    assert "time" in mesh.shape or numbers["all-gather"] == shared
    assert set(messages) <= {"all-reduce", "all-gather", "reduce-scatter"}


@pytest.mark.slow  # fifty steps of such a model equal those of one device
def test_the_loop_over_repeated_layers_makes_the_gathers_of_each():
    """As many as the layers in a row make, and its loops over time none; a depth that no other loop has tells it."""
    layer, depth = sj.residual(sj.recurrent(sj.lru(V, param_dtype=jnp.float64), sj.TimeSharded())), 7
    model, batch = sj.repeat(layer, depth), sj.Batch(*np.random.default_rng(0).normal(size=(2, T, B, V)))

    def run(mesh):
        step = make_train_step(
            model, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1), OPTIMIZER, mesh=mesh
        )
        state = init_train_state(model, OPTIMIZER, jax.random.key(0), batch.xs[0])
        return step.lower(state, batch).compile().as_text(), step(state, batch)[0].params

    (_, expected), (text, found) = run(None), run(mesh_of("time"))
    assert error(*jax.device_get((found, expected))) < 1e-12
    assert collectives(text).in_loops == {"all-gather": 2}
    bodies = split(text)
    loops = re.findall(r'\bbody=%?([\w.\-]+).*?"known_trip_count":{"n":"(\d+)"}', text)
    talking = [(int(trips), count(bodies[body])) for body, trips in loops if count(bodies[body])]
    assert talking == [(depth, {"all-gather": 1})] * 2


def test_accumulation_gathers_once_and_adds_up_once():
    model, mesh = model_of("lru", jnp.float64), mesh_of("data and fsdp")
    batch = jax.tree.map(lambda a: np.concatenate([a, a[:, ::-1]], 1), batch_of(0))
    found, spoken = [], []
    for number in (1, 2):
        step = make_train_step(model, cross_entropy, OPTIMIZER, mesh=mesh, accumulate=number)
        text = step.lower(start(model), batch).compile().as_text()
        assert collectives(text).in_loops == {}
        spoken.append(numbers_in(text)[0])
        found.append(step(start(model), batch)[0].params)
    assert error(*jax.device_get(found)) < 1e-12
    assert spoken[0] == spoken[1]


def test_each_device_keeps_its_share_of_params_and_optimizer_state():
    model, mesh = model_of("lru", jnp.float64), mesh_of("fsdp")
    step = make_train_step(model, cross_entropy, OPTIMIZER, mesh=mesh)
    state, _ = step(start(model), batch_of(0))
    large = [a for a in jax.tree.leaves((state.params, state.opt_state)) if a.size >= 64]
    assert len(large) == 3 * len([a for a in jax.tree.leaves(state.params) if a.size >= 64]) > 0
    assert all(a.addressable_shards[0].data.size == a.size // 8 for a in large)
    small = [a for a in jax.tree.leaves((state.params, state.opt_state)) if a.size < 64]
    assert all(a.is_fully_replicated for a in small)


def test_shares_are_gathered_and_gradients_added_up_for_any_axis_and_dtype():
    rng = np.random.default_rng(0)
    tree = {
        "rows": rng.normal(size=(8, 3)),
        "columns": rng.normal(size=(2, 12)) + 1j,
        "middle": rng.normal(size=(3, 4, 5)).astype(np.float32),
        "more": rng.normal(size=(4, 4)),
        "whole": rng.normal(size=7),
    }
    specs = {
        "rows": jax.P("fsdp"),
        "columns": jax.P(None, "fsdp"),
        "middle": jax.P(None, "fsdp"),
        "more": jax.P(None, "fsdp"),
        "whole": jax.P(),
    }

    def of_device(tree):
        whole = gathered(tree, specs)
        number = 1.0 + jax.lax.axis_index(("data", "fsdp"))
        scaled = jax.tree.map(lambda a: a * number.astype(a.dtype), whole)
        return added_up(Estimate(number, number, scaled), specs, ("data", "fsdp"))

    run = jax.shard_map(
        of_device,
        mesh=jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2),
        in_specs=(specs,),
        out_specs=Estimate(jax.P(), jax.P(), specs),
    )
    found = jax.jit(run)(tree)
    assert found.total == found.count == 36
    for name, array in tree.items():
        assert found.gradients[name].dtype == array.dtype
        np.testing.assert_allclose(found.gradients[name], 36 * array, rtol=1e-6)


# ---------------------------------------------------------------- errors


def time_step(model, loss=cross_entropy, **options):
    return make_train_step(model, loss, OPTIMIZER, mesh=mesh_of("time"), **options)


@pytest.mark.parametrize("activation", ["swiglu", "geglu", "gelu"])
def test_feed_forward_blocks_are_allowed_on_a_mesh_with_a_time_axis(activation):
    block = sj.blocks.pre_norm(sj.feed_forward(H, activation=activation))
    assert time_step(sj.serial(sj.recurrent(sj.lru(H), sj.TimeSharded()), block))


def of_last(ys, targets, mask):
    return cross_entropy(ys, targets)[-1]


def time_model():
    return model_of("lru", jnp.float64)


REFUSED = {
    "a layer inside that needs all steps": (
        lambda: time_step(
            sj.serial(sj.recurrent(sj.lru(H), sj.TimeSharded()), sj.residual(sj.recurrent(sj.lstm(H))))), TypeError,
        r"got recurrent\(cell=lstm\(hidden_size=8\)\), which needs all steps"),
    "a mean of all steps so far": (
        lambda: time_step(sj.serial(sj.causal_conv(4), sj.running_mean())), TypeError,
        r"got running_mean\(.*\), which needs all steps on one device"),
    "another axis": (
        lambda: time_step(sj.recurrent(sj.lru(H), sj.TimeSharded(axis="rows"))), TypeError,
        r"got recurrent\(.*axis='rows'.*\), which needs all steps"),
    "an estimator with windows": (
        lambda: time_step(time_model(), estimator=sj.truncated_bptt(4)), ValueError,
        r"expected full_bptt\(\) with a mesh axis 'time', got truncated_bptt"),
    "a length that does not divide": (
        lambda: time_step(time_model())(start(time_model()), jax.tree.map(lambda a: a[:12], batch_of(0))), ValueError,
        "among the 8 devices of mesh axis 'time', got T = 12"),
    "a loss per sequence": (
        lambda: time_step(time_model(), of_last)(start(time_model()), batch_of(0)), ValueError,
        r"expected losses per step \[T, B\], which split with the batch over"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_does_not_go_with_parts_of_sequences_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
