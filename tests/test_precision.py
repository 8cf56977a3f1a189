"""Test the precision of gradients: closed forms of the effect of each rounding, and limits of dtypes."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.probes import bind, longest_time_constant, precision_error, unrepresentable_share
from seqjax.probes.internals.rounding import TF32, format_of, kept_in, round_to, with_rounded_products

KEY = jax.random.key(0)
EPS = {"bfloat16": 2.0**-8, "float32": 2.0**-24}


def scalar(decay, dtype=jnp.float64):
    """h_t = a h_{t-1} + x_t with one unit."""
    cell = sj.Cell(
        init=lambda key, x: jnp.full((1,), decay, dtype),
        initial_carry=lambda params, x: jnp.ones_like(x),
        recurrence=sj.Step(lambda a, h, x: (a * h + x, a * h + x)),
    )
    return sj.recurrent(cell), jnp.full((1,), decay, dtype)


def last(ys, targets):
    return ys[-1, :, 0]


def measure(decay, num_steps, xs=None, loss=last, targets=None, **options):
    layer, params = scalar(decay)
    xs = jnp.zeros((num_steps, 1, 1)) if xs is None else jnp.asarray(xs, jnp.float64).reshape(-1, 1, 1)
    return precision_error(bind(layer, params), loss, sj.Batch(xs, targets), **options)


# ---------------------------------------------------------------- what a dtype can hold


def largest_below_one(dtype):
    return float(np.nextafter(np.asarray(1, dtype), np.asarray(0, dtype)))


@pytest.mark.parametrize(
    ("dtype", "published", "numpy"),
    [
        ("bfloat16", 255.5, ml_dtypes.bfloat16),
        ("float16", 2047.5, np.float16),
        ("float32", 1.678e7, np.float32),
    ],
)
def test_longest_time_constants_are_those_of_the_largest_number_below_one(dtype, published, numpy):
    found = longest_time_constant(dtype)
    assert abs(found / published - 1) < 1e-3
    assert abs(found * -math.log(largest_below_one(numpy)) - 1) < 1e-8


def test_operands_of_ten_bits_hold_as_long_a_time_constant_as_float16():
    assert longest_time_constant("tf32") == longest_time_constant("float16")


def test_decays_beyond_the_largest_number_below_one_are_those_that_cannot_be_held():
    decays = np.array([-0.9, 0.5, 1 - 2.0**-8, 1 - 2.0**-9, 0.999, 1.0, 1.1, 0.0])
    assert unrepresentable_share(decays, "bfloat16") == 2 / 8
    assert float(jnp.asarray(0.999, jnp.bfloat16)) == 1.0
    assert unrepresentable_share(decays, "float32") == 0
    assert unrepresentable_share(0.999 * np.exp(1j * np.arange(4)), jnp.bfloat16) == 1


def test_the_share_of_a_ring_is_its_area():
    # |lambda|^2 is uniform in [0, 1]: beyond 1 - 2^-8 lies 1 - (1 - 2^-8)^2.
    modulus = np.sqrt((np.arange(100_000) + 0.5) / 100_000)
    assert abs(unrepresentable_share(modulus, "bfloat16") - (1 - (1 - 2.0**-8) ** 2)) < 2e-5


# ---------------------------------------------------------------- roundings


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_rounding_is_that_of_a_cast(dtype):
    x = np.random.default_rng(0).normal(size=100) * 10.0 ** np.arange(-3, 2).repeat(20)
    np.testing.assert_array_equal(round_to(x, format_of(dtype)), x.astype(dtype).astype(np.float64))
    z = x + 1j * x[::-1]
    expected = x.astype(dtype).astype(np.float64) + 1j * x[::-1].astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(round_to(z, format_of(dtype)), expected)


def test_what_is_kept_is_rounded_in_both_directions():
    form = format_of("bfloat16")
    value, gradient = jax.value_and_grad(lambda x: 1.001 * kept_in(x, form))(1.001)
    assert (value, gradient) == (1.001, 1.0)


def test_rounded_products_reach_every_place_and_nothing_else():
    w, v = np.random.default_rng(0).normal(size=(2, 4, 4))

    def program(w, v):
        def step(h, x):
            return jax.lax.cond(x[0] > 0, lambda h: w @ h, lambda h: h @ w, h), jnp.tanh(x)

        h, ys = jax.lax.scan(jax.checkpoint(step), v, v)
        _, h = jax.lax.while_loop(
            lambda c: c[0] < 2, lambda c: (c[0] + 1, jax.jit(jnp.matmul)(w, c[1])), (0, h)
        )
        return h, ys

    def rounded(a):
        return a.astype(ml_dtypes.bfloat16).astype(np.float64)

    h = v
    for x in v:
        h = rounded(w) @ rounded(h) if x[0] > 0 else rounded(h) @ rounded(w)
    for _ in range(2):
        h = rounded(w) @ rounded(h)
    run = with_rounded_products(program, lambda kind: format_of("bfloat16"))
    found, ys = jax.jit(run)(w, v)
    np.testing.assert_allclose(found, h, rtol=1e-13)
    np.testing.assert_allclose(ys, np.tanh(v), rtol=1e-15)


def test_products_out_of_reach_are_refused():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    with pytest.raises(TypeError, match="cannot round the operands of products inside shard_map"):
        with_rounded_products(sharded, lambda kind: TF32)(jnp.ones((2, 2)))


def ragged(x):
    return jax.lax.ragged_dot(x, x[None], jnp.full(1, 2, jnp.int32))


@pytest.mark.parametrize(
    "run", [ragged, lambda x: jax.pure_callback(np.dot, x, x, x)], ids=["ragged", "foreign"]
)
def test_primitives_that_may_be_products_are_refused(run):
    """A product of a newer version of JAX under another name would otherwise stay unrounded."""
    with pytest.raises(
        TypeError, match="cannot round the operands of (ragged_dot|pure_callback).*: expected products by"
    ):
        with_rounded_products(run, lambda kind: TF32)(jnp.ones((2, 2)))


# ---------------------------------------------------------------- errors of gradients


def test_a_rounded_decay_changes_the_gradient_as_its_power_says():
    decay = 0.99
    rows = measure(decay, 200, lengths=[20, 200], dtypes=["bfloat16", "float32"])
    assert [(row.length, row.dtype) for row in rows] == [
        (20, "bfloat16"), (20, "float32"), (200, "bfloat16"), (200, "float32")
    ]  # fmt: skip
    for row in rows:
        rounded = float(jnp.asarray(decay, row.dtype))
        expected = abs((rounded / decay) ** (row.length - 1) - 1)  # T a^(T-1)
        np.testing.assert_allclose(row.parameters, expected, rtol=1e-7)
        assert (row.inputs, row.products, row.vanished, row.cosine) == (0, 0, 0, 1)
        np.testing.assert_allclose(row.log_norm, math.log(row.length) + (row.length - 1) * math.log(decay))
    errors = {(row.dtype, row.length): row.error for row in rows}
    assert errors["bfloat16", 200] > 3 * errors["bfloat16", 20] > 1e3 * errors["float32", 20]


def test_rounded_states_change_the_gradient_as_a_loop_in_numpy_says():
    decay, num_steps = 0.75, 12
    (row,) = measure(decay, num_steps, dtypes=["bfloat16"])
    states, pulled, gradient = [1.0], 1.0, 0.0
    rounded = lambda a: float(np.asarray(a, ml_dtypes.bfloat16))  # noqa: E731
    for _ in range(num_steps):
        states.append(rounded(decay * states[-1]))
    # The output of the last step is the carry before it is rounded.
    for t in reversed(range(num_steps)):
        gradient += pulled * states[t]
        pulled = rounded(pulled * decay)
    exact = num_steps * decay ** (num_steps - 1)
    np.testing.assert_allclose(row.state, abs(gradient / exact - 1), rtol=1e-10)
    assert row.parameters == 0 and row.state > 1e-4


def test_rounded_inputs_and_operands_change_the_gradient_by_their_own_rounding():
    rng = np.random.default_rng(0)
    x, w, target = rng.normal(size=(1, 3, 4)), rng.normal(size=(4, 4)), rng.normal(size=(1, 3, 4))
    cell = sj.Cell(
        init=lambda key, x: jnp.asarray(w),
        initial_carry=lambda params, x: jnp.zeros((*x.shape[:-1], 1), x.dtype),
        recurrence=sj.Step(lambda w, h, x: (h, x @ w)),
    )
    (row,) = precision_error(
        bind(sj.recurrent(cell), jnp.asarray(w)),
        lambda ys, targets: 0.5 * jnp.sum((ys - targets) ** 2, -1),
        sj.Batch(jnp.asarray(x), jnp.asarray(target)),
        dtypes=["bfloat16"],
    )

    def rounded(a):
        return a.astype(ml_dtypes.bfloat16).astype(np.float64)

    def gradient(x, w, target):
        return x[0].T @ (x[0] @ w - target[0]) / 3

    exact = gradient(x, w, target)

    def relative(found):
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    np.testing.assert_allclose(row.inputs, relative(gradient(rounded(x), w, rounded(target))), rtol=1e-9)
    np.testing.assert_allclose(row.parameters, relative(gradient(x, rounded(w), target)), rtol=1e-9)
    cotangent = (rounded(x[0]) @ rounded(w) - target[0]) / 3
    np.testing.assert_allclose(row.products, relative(rounded(x[0]).T @ rounded(cotangent)), rtol=1e-9)
    assert row.state == 0


def random_case(cell, num_steps):
    layer, xs = sj.recurrent(cell), jax.random.normal(KEY, (num_steps, 2, 3))
    params = jax.tree.map(lambda p: p.astype(jnp.float64) + 0.01, layer.init(KEY, xs[0]))
    return params, layer.initial_carry(params, xs[0]), xs


def square(ys, targets):
    return jnp.sum(ys**2, -1)


def check_parts(row):
    parts = [row.inputs, row.parameters, row.state, row.products, row.accumulation]
    assert all(0.01 * EPS[row.dtype] < part < 10 * EPS[row.dtype] for part in parts), row
    assert abs(row.cosine - 1) < 100 * EPS[row.dtype] ** 2 + 1e-15
    assert row.error <= sum(parts) * (1 + 1e-9)  # they add up as vectors


def test_errors_are_of_the_size_of_the_roundings_and_the_parts_add_up():
    params, carry, xs = random_case(sj.elman(4), 8)
    rows = precision_error(bind(sj.recurrent(sj.elman(4)), params), square, xs, carry=carry)
    assert [row.dtype for row in rows] == ["bfloat16", "float32"]
    for row in rows:
        check_parts(row)


def test_what_a_layer_keeps_in_float32_is_rounded_to_that_and_parts_do_not_depend_on_the_method():
    params, carry, xs = random_case(sj.lru(3), 5)
    methods = {"loop": sj.Scan(gradient="autodiff"), "pieces": sj.Scan(chunk=2)}
    loop, pieces = precision_error(
        lambda method: bind(sj.recurrent(sj.lru(3), method), params), square, xs, carry=carry,
        dtypes=["bfloat16"], methods=methods,
    )  # fmt: skip
    assert (loop.method, pieces.method) == ("loop", "pieces")
    assert 0 < loop.state < 10 * EPS["float32"] < 0.01 * loop.parameters
    assert loop[7:11] == pieces[7:11]


@pytest.mark.slow
@pytest.mark.parametrize("method", [sj.Scan(), sj.Scan(chunk=4), sj.Newton()])
def test_every_method_of_a_gated_cell_has_errors_of_the_size_of_the_roundings(method):
    params, carry, xs = random_case(sj.gru(4), 10)
    rows = precision_error(
        bind(sj.recurrent(sj.gru(4), method), params), square, xs, carry=carry,
        dtypes=["bfloat16", "float32", "float64"],
    )  # fmt: skip
    if isinstance(method, sj.Newton):
        assert rows[1].accumulation < 1e-5  # its tolerance in float32
    else:
        check_parts(rows[0])
        check_parts(rows[1])
    assert rows[2].error < 1e-11


@pytest.mark.slow
def test_methods_differ_in_how_they_accumulate():
    params, carry, xs = random_case(sj.lru(3), 200)
    loop, scan = precision_error(
        lambda method: bind(sj.recurrent(sj.lru(3), method), params), square, xs, carry=carry,
        dtypes=["float32"], methods=[sj.Scan(), sj.AssociativeScan()],
    )  # fmt: skip
    assert loop.accumulation != scan.accumulation and loop[7:11] == scan[7:11]
    assert max(loop.accumulation, scan.accumulation) < 1e-4


def test_vanished_gradients_are_told_from_small_errors():
    # T a^(T-1) leaves the range of float32 (smallest normal number: 1.2e-38), not that of float64.
    decay, num_steps = 0.75, 400
    (row,) = measure(decay, num_steps, dtypes=["float32"])
    assert (row.error, row.vanished) == (1, 1) and math.isnan(row.cosine)
    np.testing.assert_allclose(row.log_norm, math.log(num_steps) + (num_steps - 1) * math.log(decay))
    # Beyond float64 there is nothing to compare with.
    (row,) = measure(decay, 4000, dtypes=["float32"])
    assert math.isnan(row.error) and row.log_norm == -math.inf
    # Where squares would vanish, norms do not.
    (row,) = measure(decay, 1500, dtypes=["float64"])
    assert row.error < 1e-10 and abs(row.cosine - 1) < 1e-12


def test_overflow_is_an_infinite_error():
    (row,) = measure(2.0, 20, dtypes=["float16"])
    assert row.error == math.inf and math.isnan(row.cosine) and row.vanished == 0


def test_tf32_is_float32_with_rounded_operands():
    params, carry, xs = random_case(sj.elman(4, activation="identity"), 5)
    params, carry, xs = jax.tree.map(lambda a: a.astype(jnp.float32), (params, carry, xs))
    layer = sj.recurrent(sj.elman(4, activation="identity"))
    (row,) = precision_error(bind(layer, params), square, xs, carry=carry, dtypes=["tf32"])
    assert 2.0**-15 < row.products < 2.0**-9 and abs(row.error / row.products - 1) < 0.01
    assert 0 < row.state < 2.0**-22 and row.accumulation < 2.0**-20
    assert row.parameters == row.inputs == 0  # they were float32 already


def test_flags_and_targets_are_cut_with_the_inputs():
    layer, params = scalar(0.9)
    xs = jax.random.normal(KEY, (6, 2, 1))
    targets = jax.random.normal(jax.random.key(1), (6, 2, 1))
    mask = jnp.ones((6, 2), bool).at[1, 0].set(False)
    reset = jnp.zeros((6, 2), bool).at[2, 1].set(True)

    def run(n, **options):
        batch = jax.tree.map(lambda a: a[:n], sj.Batch(xs, targets, reset, mask))
        loss = lambda ys, targets: jnp.sum((ys - targets) ** 2, -1)  # noqa: E731
        return precision_error(bind(layer, params), loss, batch, dtypes=["float32"], **options)

    assert run(6, lengths=[4]) == run(4)


def without_float64():
    layer, params = scalar(0.9, jnp.float32)
    with jax.enable_x64(False):
        precision_error(bind(layer, params), last, jnp.ones((3, 1, 1)))


REFUSED = {
    **{f"dtypes {dtypes}": (
        lambda dtypes=dtypes: measure(0.9, 3, dtypes=dtypes), ValueError,
        "precision_error: expected floating dtypes such as 'bfloat16'")
       for dtypes in (["bfloat61"], ["int32"], [None], [], "half precision")},
    **{f"lengths {lengths}": (
        lambda lengths=lengths: measure(0.9, 3, lengths=lengths), ValueError,
        r"precision_error\(lengths\): expected at least one whole number")
       for lengths in ([], [0], [2.5])},
    "a length beyond the data": (
        lambda: measure(0.9, 3, lengths=[4]), ValueError, "expected at most the 3 steps of xs, got 4"),
    "two dtypes": (
        lambda: precision_error(bind(*scalar(0.9, jnp.float32)), last, jnp.ones((3, 1, 1))), ValueError,
        r"one floating dtype, got float32 \(\['params'\]\), float64 \(\['xs'\]\)"),
    "not causal": (
        lambda: precision_error(
            bind(sj.bidirectional(sj.recurrent(sj.elman(2))), jnp.ones(1)), last, jnp.ones((3, 1, 1))), TypeError,
        "expected a causal layer, whose step is the reference"),
    "decays": (
        lambda: unrepresentable_share([0.5, math.nan], "bfloat16"), ValueError,
        "unrepresentable_share: expected decays that are numbers"),
    "an integer dtype": (
        lambda: longest_time_constant("int8"), ValueError, "longest_time_constant: expected floating dtypes"),
    "without float64": (
        without_float64, ValueError, "precision_error: expected float64; call jax.config.update"),
}  # fmt: skip


@refusals(REFUSED)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_products_inside_a_linear_solve_serve_its_derivatives_and_are_left_alone():
    a, b = jax.random.normal(KEY, (4, 4)) + 4 * jnp.eye(4), jax.random.normal(jax.random.key(1), (4, 4))
    rounded = with_rounded_products(lambda a, b: jnp.linalg.solve(a, b @ b), lambda kind: TF32)
    low = round_to(b, TF32)
    np.testing.assert_allclose(rounded(a, b), jnp.linalg.solve(a, low @ low), rtol=1e-12)
    assert jnp.abs(rounded(a, b) - jnp.linalg.solve(a, b @ b)).max() > 1e-6
