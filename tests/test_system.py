"""Test systems: layers and plain functions in one form, their Jacobians, and errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.probes import bind
from seqjax.probes.internals.system import prepare

T, B = 5, 3


def bound(name, width=4, hidden=3):
    rng = np.random.default_rng(0)
    entry = REGISTRY[name]
    layer = sj.recurrent(entry.make(hidden))
    xs = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), entry.example((T, B), width))
    params = layer.init(jax.random.key(0), jax.tree.map(lambda a: a[0], xs))
    return bind(layer, params), xs


def double(carry, x):
    return 2 * carry, carry


def test_a_vector_holds_every_float_and_gives_them_back():
    def step(carry, x):
        return carry, x

    carry = {
        "a": jnp.asarray([[1.0, 2.0]]),
        "b": jnp.asarray([3 + 4j], jnp.complex64),
        "n": jnp.asarray(7),
        "w": jnp.asarray([5.0], jnp.bfloat16),
        "key": jax.random.key(3),
    }
    system = prepare("probe", step, 2, carry=carry)
    assert (system.size, system.dtype, system.batch) == (5, jnp.float64, 1)
    vector = system.vector(carry)
    np.testing.assert_array_equal(vector, [1, 2, 3, 4, 5])
    back = system.with_vector(carry, vector + 1)
    np.testing.assert_array_equal(back["a"], [[2.0, 3.0]])
    np.testing.assert_array_equal(back["b"], [4 + 5j])
    assert back["w"] == 6 and back["n"] == 7 and back["key"] == carry["key"]
    assert jax.tree.map(lambda a: a.dtype, back) == jax.tree.map(lambda a: a.dtype, carry)


def test_a_jacobian_is_the_derivative_by_finite_differences():
    step, xs = bound("lstm")
    system = prepare("probe", step, xs)
    carry = jax.tree.map(lambda a: a[1] + 0.3, system.carry)
    x = xs[0, 1]
    flow = lambda v: system.flow(carry, x)(v)[0]  # noqa: E731
    v, eps = system.vector(carry), 1e-6
    columns = [(flow(v + eps * e) - flow(v - eps * e)) / (2 * eps) for e in np.eye(system.size)]
    np.testing.assert_allclose(system.jacobian(carry, x), np.stack(columns, 1), atol=1e-9)


@pytest.mark.parametrize("name", ["lstm", "attention"])
@pytest.mark.fast_cases(1)
def test_the_trajectory_is_that_of_the_layer(name):
    rng = np.random.default_rng(0)
    step, xs = bound(name)
    reset = jnp.asarray(rng.random((T, B)) < 0.3)
    mask = jnp.asarray(rng.random((T, B)) < 0.7)
    poisoned = jnp.where(mask[..., None], xs, jnp.nan)
    system = prepare("probe", step, sj.Batch(poisoned, None, reset, mask))
    last, entering, ys = system.trajectory()
    layer, params = step.layer, step.params
    expected = layer.unroll(params, layer.initial_carry(params, xs[0]), xs, reset=reset, mask=mask)
    for a, b in zip(jax.tree.leaves((last, ys)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    first = jax.tree.leaves(entering)[0][0]
    np.testing.assert_array_equal(first, jax.tree.leaves(layer.initial_carry(params, xs[0]))[0])


def test_a_reset_of_a_plain_function_restarts_from_the_carry_given_or_from_initial():
    reset = jnp.asarray([False, False, True, True])
    mask = jnp.asarray([True, True, False, True])
    for initial, start in ((None, 1.0), (5.0, 5.0)):
        system = prepare("probe", double, sj.Batch(4, None, reset, mask), carry=1.0, initial=initial)
        last, entering, ys = system.trajectory()
        np.testing.assert_array_equal(entering[:, 0], [1.0, 2.0, start, start])
        np.testing.assert_array_equal(ys[:, 0], [1.0, 2.0, 0.0, start])
        np.testing.assert_array_equal(last, [2 * start])


def test_a_bound_layer_passes_through_jit_and_is_differentiated_by_its_params():
    step, xs = bound("elman")
    value = jax.jit(lambda step, x: step(step.initial_carry(x), x)[1].sum())
    gradient = jax.grad(value)(step, xs[0])
    assert gradient.layer == step.layer
    np.testing.assert_allclose(
        gradient.params.b,
        jax.grad(lambda b: value(bind(step.layer, step.params._replace(b=b)), xs[0]))(step.params.b),
    )


@pytest.mark.parametrize(
    ("step", "carry", "xs", "options", "error", "message"),
    [
        (sj.recurrent(sj.lstm(2)), 1.0, 3, {}, TypeError, r"probe\(bound\): .*Write bind\(layer, params\)"),
        (sj.lstm(2), 1.0, 3, {}, TypeError, r"Write bind\(recurrent\(cell\), params\)"),
        (3, 1.0, 3, {}, TypeError, r"expected bind\(layer, params\), or a function with the contract of lax.scan"),
        (lambda carry: carry, 1.0, 3, {}, TypeError, r"step\(carry, x\) -> \(carry, y\), got <lambda>\(carry\)"),
        (lambda c, x, t: (c, x), 1.0, 3, {}, TypeError, r"got <lambda>\(c, x, t\): missing a required argument: 't'"),
        (lambda c, x: 2 * c, 1.0, 3, {}, TypeError, r"a pair .* float64\[\]; the step returned float64\[\]"),
        (lambda c, x: (c, x, x), 1.0, 3, {}, TypeError, r"returned \(float64\[\], None, None\)"),
        (lambda c, x: ((c, c), x), 1.0, 3, {}, TypeError, r"the carry, float64\[\]; .* \(float64\[\], float64\[\]\)"),
        (lambda c, x: (c + x, x), np.float32(1), np.ones(3), {}, TypeError,
         r"unchanged form of the carry, float32\[\]; the step returned the carry float64\[\].* cast the carry"),
        (double, 1.0, 0, {}, ValueError, r"probe\(num_steps\): expected a whole number of at least 1, got 0"),
        (double, 1.0, np.ones((0, 2)), {}, ValueError, r"T of at least 1, got float64\[0, 2\]"),
        (double, 1.0, 3.0, {}, ValueError, r"expected xs \[T, ...\], or a number of steps"),
        (double, 1.0, None, {}, ValueError, r"expected xs \[T, ...\], or a number of steps"),
        (double, None, 3, {}, TypeError, r"probe\(carry\): expected .* a plain step function .* Pass `carry=`"),
        (double, 1, 3, {}, ValueError, r"expected a carry with floating numbers in it, got int64\[\]"),
        (double, np.nan, 3, {}, ValueError, r"expected finite carry, got nan at carry\[\]"),
        (double, np.ones(2), np.asarray([0.0, np.inf]), {}, ValueError, r"finite xs, got inf at xs\[1\] \(1 such"),
        (double, 1.0, 3, {"reset": np.zeros(2, bool)}, ValueError, r"expected reset bool\[3\], got bool\[2\]"),
        (double, 1.0, 3, {"mask": np.zeros(3)}, ValueError, r"expected mask bool\[3\], got float64\[3\]"),
        (double, 1.0, 3, {"initial": np.ones(2)}, ValueError, r"form of the carry, float64\[\], got float64\[2\]"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(step, carry, xs, options, error, message):
    with pytest.raises(error, match=message):
        initial = options.pop("initial", None)
        prepare("probe", step, sj.Batch(xs, None, **options) if options else xs, carry=carry, initial=initial)


def with_a_float32_carry():
    step, xs = bound("lstm")
    carry = jax.tree.map(lambda a: a.astype(jnp.float32), step.initial_carry(xs[0]))
    prepare("probe", step, xs, carry=carry)


def without_a_carry():
    layer, xs = sj.pointwise(nn.Dense(3)), jnp.ones((T, B, 2))
    prepare("probe", bind(layer, layer.init(jax.random.key(0), xs[0])), xs)


REFUSED = {
    "steps without inputs": (
        lambda: prepare("probe", bound("lstm")[0], 3), TypeError,
        r"expected inputs xs \[T, B, ...\] for a bound layer, got 3 steps"),
    "a carry of another dtype": (
        with_a_float32_carry, TypeError,
        r"form of the carry, .*c=float32.*returned the carry LSTMCarry\(c=float64"),
    "a mask without a batch": (
        lambda: prepare("probe", bound("lstm")[0], sj.Batch(bound("lstm")[1], None, mask=np.ones(T, bool))), ValueError,
        r"expected mask bool\[5, 3\], got bool\[5\]"),
    "a layer without a carry": (
        without_a_carry, ValueError, r"probe: expected a carry with floating numbers in it, got \(\)"),
    "bind: a cell": (
        lambda: bind(sj.lstm(2), None), TypeError, r"bind\(layer\): expected a Layer, got lstm\(.*recurrent\(cell\)"),
    "not causal": (
        lambda: prepare("probe", bind(sj.bidirectional(sj.recurrent(sj.lstm(2))), None), np.ones((T, B, 2))),
        TypeError, r"probe\(bound\): expected a causal layer, got bidirectional"),
}  # fmt: skip


@refusals(REFUSED)
def test_bad_input_of_bound_layers_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_whole_model_is_a_system():
    rng = np.random.default_rng(0)
    model = sj.serial(sj.pointwise(nn.Embed(5, 4)), sj.recurrent(sj.lstm(3)), sj.recurrent(sj.lru(2)))
    tokens = jnp.asarray(rng.integers(0, 5, (T, B)))
    params = model.init(jax.random.key(0), tokens[0])
    system = prepare("probe", bind(model, params), tokens)
    assert system.size == 2 * 3 + 2 * 2
    last, _, ys = system.trajectory()
    expected = model.unroll(params, model.initial_carry(params, tokens[0]), tokens)
    np.testing.assert_allclose(ys, expected[1], atol=1e-6)
