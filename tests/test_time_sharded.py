"""Test that a sequence sharded over devices gives the results of one device, with three collectives at any length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.hlo import collectives
from helpers.refusals import refusals
from jax.sharding import AxisType

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.compat import vary_like
from seqjax.ops.tap import dummies
from seqjax.testing import CHECKS, methods_for, strict_promotion
from seqjax.testing.checks import compiles_once, padding_poison_never_leaks, unroll_is_the_loop_of_step

T, B, D = 16, 4, 3
CELLS = {
    "lru": sj.lru(4),  # constant complex decays
    "mamba": sj.mamba(4),
    "gla": sj.gla(4, num_heads=2),  # decays per key
    "mlstm": sj.mlstm(4, num_heads=2),  # a scale beside the matrix
    "gated_delta_net": sj.gated_delta_net(4, num_heads=2),  # erasure: products of matrices
    "linear_attention": sj.linear_attention(4, num_heads=2),  # no decay
    "lstm": sj.lstm(3),
    "mgu": sj.mgu(3),  # of kind Step
}
SHARDED = {
    name for name, entry in REGISTRY.items() if isinstance(entry.make(6).recurrence, sj.TimeSharded.kinds)
}


def mesh_of(auto=AxisType.Auto, **axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(auto,) * len(axes))


def setting(cell):
    """Params, a carry that is not zero, inputs, resets and masks, in float64."""
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(T, B, D)))
    params = jax.tree.map(lambda a: a.astype(float), cell.init(jax.random.key(0), xs[0]))
    carry = jax.tree.map(lambda c: c + 0.3, cell.initial_carry(params, xs[0]))
    # Row 0 is never reset, so that the carry crosses every border between parts.
    reset = (rng.random((T, B)) < 0.2) & (np.arange(B) > 0)
    return params, carry, xs, jnp.asarray(reset), jnp.asarray(rng.random((T, B)) < 0.8)


def total(tree):
    return sum(jnp.sum(jnp.real(a) ** 2 + jnp.sin(jnp.real(a))) for a in jax.tree.leaves(tree))


def outcome(method, cell, params, carry, xs, reset, mask):
    """A nonlinear function of the last carry and all outputs, and its gradients by params, carry, xs and tap."""

    def of(params, carry, xs, tap):
        layer = sj.recurrent(cell, method)
        return total(layer.unroll(params, carry, xs, reset=reset, mask=mask, tap=tap))

    tap = None if isinstance(cell.recurrence, sj.Matrix) else dummies(carry, T)
    return jax.value_and_grad(of, (0, 1, 2, 3))(params, carry, xs, tap)


@functools.cache
def on_one_device(name):
    """The same by `Scan`."""
    return jax.jit(functools.partial(outcome, sj.Scan(), CELLS[name]))(*setting(CELLS[name]))


def assert_equal(found, expected, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1, float(np.max(np.abs(b)))))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "lru",
        "gated_delta_net",
        *(pytest.param(n, marks=SLOW) for n in ("mlstm", "mamba", "gla", "linear_attention")),
        "lstm",
        pytest.param("mgu", marks=SLOW),
    ],
)
@pytest.mark.fast_cases(1)
def test_on_a_mesh_for_data_and_time_everything_is_as_on_one_device(name):
    cell, inputs = CELLS[name], setting(CELLS[name])
    mesh = mesh_of(data=2, time=4)
    places = [jax.P(), jax.P("data"), *[jax.P("time", "data")] * 3]
    placed = jax.device_put(inputs, tuple(jax.NamedSharding(mesh, place) for place in places))
    with jax.set_mesh(mesh):
        compiled = jax.jit(functools.partial(outcome, sj.TimeSharded(), cell)).lower(*placed).compile()
    assert_equal(compiled(*placed), on_one_device(name))
    if isinstance(cell.recurrence, sj.Diagonal | sj.Matrix):
        assert collectives(compiled.as_text()).in_loops == {}


@pytest.mark.parametrize("name", ["lru", "gated_delta_net", "lstm"])
@pytest.mark.fast_cases(1)
def test_inside_shard_map_each_device_gives_its_part(name):
    cell, inputs = CELLS[name], setting(CELLS[name])
    layer = sj.recurrent(cell, sj.TimeSharded())

    def value_and_gradients(params, carry, xs, reset, mask):
        params = vary_like(params, xs)

        def of(params, carry, xs):
            carry, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)
            return total(ys) + jnp.where(jax.lax.axis_index("time") == 0, total(carry), 0.0)

        value, (d_params, d_carry, d_xs) = jax.value_and_grad(of, (0, 1, 2))(params, carry, xs)
        return *jax.lax.psum((value, d_params), ("data", "time")), d_carry, d_xs

    parts = jax.P("time", "data")
    run = jax.shard_map(
        value_and_gradients,
        mesh=mesh_of(data=2, time=4),
        in_specs=(jax.P(), jax.P("data"), parts, parts, parts),
        out_specs=(jax.P(), jax.P(), jax.P("data"), parts),
    )
    compiled = jax.jit(run).lower(*inputs).compile()
    value, gradients = on_one_device(name)
    assert_equal(compiled(*inputs), (value, *gradients[:3]))

    counted = collectives(compiled.as_text())
    if name == "lstm":
        # Newton's iteration, forward and backward: a gather of maps, a permutation of states, the largest residual.
        assert counted.in_loops == {"all-gather": 2, "collective-permute": 2, "all-reduce": 2}
        return
    assert counted.in_loops == {} and counted.num_loops > 0
    # One gather forward, one backward. Sums: of the value and params, of the last carry, and of the carry's gradient.
    assert counted.total["all-gather"] == 2 and set(counted.total) == {"all-gather", "all-reduce"}
    assert counted.total["all-reduce"] <= 4


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("lru", sj.AssociativeScan()),
        pytest.param("lru", sj.Scan(chunk=3), marks=SLOW),
        pytest.param("mamba", sj.Chunked(3), marks=SLOW),
        ("gated_delta_net", sj.Scan()),
        pytest.param("gated_delta_net", sj.Chunked(3), marks=SLOW),
        ("lstm", sj.Newton(jacobian="block")),
        pytest.param("lstm", sj.Newton(jacobian="diagonal", damping=0.1), marks=SLOW),
    ],
    ids=str,
)
@pytest.mark.fast_cases(1)
def test_any_inner_method_will_do(name, inner):
    cell, inputs = CELLS[name], setting(CELLS[name])
    with jax.set_mesh(mesh_of(time=2)):
        found = jax.jit(functools.partial(outcome, sj.TimeSharded(inner=inner), cell))(*inputs)
    assert_equal(found, on_one_device(name))


@pytest.mark.slow  # test_newton.py has the fallback on one device
def test_where_newton_does_not_converge_the_loop_over_the_whole_sequence_takes_over():
    cell, inputs = CELLS["lstm"], setting(CELLS["lstm"])
    inner = sj.Newton(max_iterations=1)
    with jax.set_mesh(mesh_of(time=4)):
        found = jax.jit(functools.partial(outcome, sj.TimeSharded(inner=inner), cell))(*inputs)
    assert_equal(found, on_one_device("lstm"))
    wrong = sj.TimeSharded(inner=sj.Newton(max_iterations=1, fallback=False))
    with jax.set_mesh(mesh_of(time=4)):
        found = jax.jit(functools.partial(outcome, wrong, cell))(*inputs)
    assert abs(found[0] - on_one_device("lstm")[0]) > 1e-6


def test_without_the_axis_one_device_runs_the_whole_sequence():
    cell, inputs = CELLS["lru"], setting(CELLS["lru"])
    unroll = functools.partial(outcome, sj.TimeSharded(), cell)
    assert_equal(jax.jit(unroll)(*inputs), on_one_device("lru"))
    with jax.set_mesh(mesh_of(data=4)):
        assert_equal(jax.jit(unroll)(*inputs), on_one_device("lru"))
    # Inside shard_map with the whole sequence on each device.
    run = jax.shard_map(unroll, mesh=mesh_of(time=4), in_specs=(jax.P(),) * 5, out_specs=jax.P())
    assert_equal(jax.jit(run)(*inputs), on_one_device("lru"))


def test_the_public_suite_runs_it_where_there_is_an_axis():
    assert sj.TimeSharded() not in methods_for(CELLS["lru"], jnp.ones((2, 4)))
    with jax.set_mesh(mesh_of(time=2)):
        assert sj.TimeSharded() in methods_for(CELLS["lru"], jnp.ones((2, 4)))
        # Newton's iteration, which runs this one, has no use for a counter in the carry.
        kinds = {type(method) for method in methods_for(sj.clockwork(4), jnp.ones((2, 4)))}
        assert kinds == {sj.Scan, sj.Auto}


def test_keys_belong_to_steps_of_the_whole_sequence():
    cell = sj.zoneout(sj.lru(4), 0.5)
    params, carry, xs, *_ = setting(cell)

    def unroll(method):
        return jax.jit(sj.recurrent(cell, method).unroll)(params, carry, xs[:13], key=jax.random.key(1))

    with jax.set_mesh(mesh_of(time=4)):
        found = unroll(sj.TimeSharded())
    assert_equal(found, unroll(sj.Scan()))


def on_an_explicit_mesh():
    params, carry, xs, *_ = setting(CELLS["lru"])
    with jax.set_mesh(mesh_of(AxisType.Explicit, time=4)):
        sj.recurrent(CELLS["lru"], sj.TimeSharded()).unroll(params, carry, xs)


REFUSED = {
    "inner method of a gated cell": (
        lambda: sj.TimeSharded(inner=sj.Scan()).select(sj.lstm(3).recurrence), TypeError,
        r"expected inner to be Newton, got Scan\(\)"),
    "inner method of a diagonal cell": (
        lambda: sj.TimeSharded(inner=sj.Newton()).select(sj.lru(3).recurrence), TypeError,
        "expected inner to be Auto, Scan"),
    "TimeSharded inside itself": (
        lambda: sj.TimeSharded(inner=sj.TimeSharded()), TypeError,
        r"TimeSharded\(inner\): expected a method such as AssociativeScan"),
    "inner method of attention": (
        lambda: sj.TimeSharded(inner=sj.AssociativeScan()).select(sj.Attention(window=4)), TypeError,
        r"cannot run a recurrence of kind Attention: expected inner to be Auto, Scan"),
    "an explicit mesh": (
        on_an_explicit_mesh, ValueError, "expected mesh axis 'time' of type Auto"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_cannot_be_sharded_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def checks():
    """Every check on every cell: with 13 steps, so that some are filled in."""
    for name in sorted(SHARDED):
        for check in CHECKS:
            # It compares arrays from outside a mesh with shapes from inside, which no layer takes for the same.
            if check is compiles_once:
                continue
            fast = name == "lru" and check in (unroll_is_the_loop_of_step, padding_poison_never_leaks)
            marks = () if fast else pytest.mark.slow
            yield pytest.param(name, check, id=f"{name}-{check.__name__}", marks=marks)


@pytest.mark.parametrize(("name", "check"), list(checks()))
def test_checks(name, check):
    entry = REGISTRY[name]
    with jax.set_mesh(mesh_of(time=4)), strict_promotion():
        check(sj.recurrent(entry.make(6), sj.TimeSharded()), entry.example((3,), 4))
