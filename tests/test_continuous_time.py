"""Test CfC and LTC: limits of elapsed time, the solver against the exact solution, timed inputs, errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import (
    B,
    D,
    H,
    T,
    assert_equal,
    assert_equals_reference,
    init,
    jacobian,
    normal,
    random_case,
)
from references import nonlinear as references
from references.gated import sigmoid

import seqjax as sj
from seqjax.cells import ContinuousTimeCarry, LTCParams, timed


def with_gaps(xs, dt):
    return sj.TimedInputs(xs.x, jnp.full_like(xs.dt, dt))


def one_step(cell, params, carry, xs):
    return np.asarray(
        jax.jit(sj.recurrent(cell).unroll)(params, carry, jax.tree.map(lambda a: a[:1], xs))[1][0]
    )


# ---------------------------------------------------------------- cfc


def test_cfc_goes_from_the_mean_of_its_candidates_to_one_of_them():
    """The gate is 1/2 where no time goes by; after a long time it is shut where f > 0 and open where f < 0."""
    cell, params, carry, xs = random_case(sj.cfc(H), timed)
    s = 1.7159 * np.tanh(2 / 3 * np.asarray(xs.x[0] @ params.w_x + carry.h @ params.w_h + params.b))
    f, g, k = np.split(s @ np.asarray(params.w_o) + np.asarray(params.b_o), 3, axis=-1)
    assert_equal(one_step(cell, params, carry, with_gaps(xs, 0.0)), (np.tanh(g) + np.tanh(k)) / 2)
    late = np.where(f > 0, np.tanh(k), np.tanh(g))
    assert (f > 0).any() and (f < 0).any()
    assert_equal(one_step(cell, params, carry, with_gaps(xs, 1e6)), late)


def test_cfc_has_no_path_along_h_but_through_its_matrices():
    cell, params, carry, xs = random_case(sj.cfc(H), timed)
    params = params._replace(w_h=jnp.zeros_like(params.w_h))
    got = jacobian(cell, params, ContinuousTimeCarry(carry.h[0]), jax.tree.map(lambda a: a[:1, 0], xs))
    np.testing.assert_array_equal(got, np.zeros((H, H)))


def test_the_backbone_may_have_another_size():
    cell = sj.cfc(H, backbone_size=9)
    assert init(cell, example=timed).w_o.shape == (9, 3 * H)
    assert_equals_reference(cell, references.cfc, timed)


# ---------------------------------------------------------------- ltc


def by_the_input_alone():
    """LTC params without recurrent weights: a linear equation with constant coefficients within each step."""
    w_x, b, log_tau, a = normal(0, D, H), normal(1, H), normal(2, H), normal(3, H)
    return LTCParams(*map(jnp.asarray, (w_x, np.zeros((H, H)), b, log_tau, a)))


def test_the_solver_of_ltc_converges_to_the_exact_solution_at_first_order():
    params, h, x, dt = by_the_input_alone(), normal(4, B, H), normal(5, B, D), np.abs(normal(6, B))
    f = sigmoid(x @ np.asarray(params.w_x) + np.asarray(params.b))
    rate = np.exp(-np.asarray(params.log_tau)) + f
    limit = f * np.asarray(params.a) / rate
    exact = limit + (h - limit) * np.exp(-rate * dt[:, None])
    errors = []
    for unfolds in (20, 40, 80):
        xs = sj.TimedInputs(jnp.asarray(x)[None], jnp.asarray(dt)[None])
        found = one_step(sj.ltc(H, unfolds=unfolds), params, ContinuousTimeCarry(jnp.asarray(h)), xs)
        errors.append(np.abs(found - exact).max())
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1) and errors[1] / errors[2] == pytest.approx(
        2, abs=0.05
    )


def test_ltc_carries_h_by_a_product_over_solver_steps():
    params, unfolds = by_the_input_alone(), 4
    x, dt = normal(4, T, D), np.abs(normal(5, T))
    got = jacobian(
        sj.ltc(H, unfolds=unfolds),
        params,
        ContinuousTimeCarry(jnp.asarray(normal(6, H))),
        sj.TimedInputs(jnp.asarray(x), jnp.asarray(dt)),
    )
    f = sigmoid(x @ np.asarray(params.w_x) + np.asarray(params.b))
    rate = np.exp(-np.asarray(params.log_tau)) + f
    assert_equal(got, np.diag(((1 + dt[:, None] / unfolds * rate) ** -unfolds).prod(0)))


@pytest.mark.parametrize("dt", [0.0, -3.0])
def test_where_no_time_goes_by_the_state_of_ltc_stays(dt):
    cell, params, carry, xs = random_case(sj.ltc(H), timed)
    np.testing.assert_array_equal(one_step(cell, params, carry, with_gaps(xs, dt)), carry.h)


@pytest.mark.parametrize("dt", [0.1, 1e3, 1e8])
def test_the_state_of_ltc_stays_between_zero_and_a(dt):
    """Theorem 2 of the paper."""
    cell, params, carry, xs = random_case(sj.ltc(H), timed)
    carry = jax.tree.map(jnp.zeros_like, carry)
    _, ys = jax.jit(sj.recurrent(cell).unroll)(params, carry, with_gaps(xs, dt))
    low, high = np.minimum(0, params.a), np.maximum(0, params.a)
    assert (np.asarray(ys) >= low - 1e-12).all() and (np.asarray(ys) <= high + 1e-12).all()


def test_the_number_of_unfolds_equals_the_reference():
    assert_equals_reference(sj.ltc(H, unfolds=2), references.ltc(2), timed)


def test_initial_weights_of_ltc():
    width, size = 40, 400
    params = jax.tree.map(np.asarray, init(sj.ltc(size), width, timed))
    for w, rows in ((params.w_x, width), (params.w_h, size)):
        bound = math.sqrt(6 / (rows + size))
        assert 0.98 * bound < np.abs(w).max() <= bound
    assert not params.b.any() and not params.log_tau.any()
    assert -1 <= params.a.min() < -0.9 and 0.9 < params.a.max() <= 1


# ---------------------------------------------------------------- inputs of two parts


@pytest.mark.parametrize("factory", [sj.cfc, sj.ltc])
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["unbatched", "two axes"])
@pytest.mark.fast_cases(1)
def test_a_batch_may_have_no_axis_or_two(factory, batch):
    cell = factory(H)
    layer = sj.recurrent(cell)
    params = random_case(cell, timed)[1]
    xs = sj.TimedInputs(jnp.asarray(normal(0, T, *batch, D)), jnp.asarray(normal(1, T, *batch)))
    mask = jnp.asarray(normal(2, T, *batch) > 0)
    carry = layer.initial_carry(params, jax.tree.map(lambda a: a[0], xs))
    after, ys = jax.jit(layer.unroll)(params, carry, xs, reset=~mask, mask=mask)
    assert ys.shape == (T, *batch, H)
    flat, flags = jax.tree.map(lambda a: a.reshape(T, -1, *a.shape[1 + len(batch) :]), (xs, mask))
    carry = layer.initial_carry(params, jax.tree.map(lambda a: a[0], flat))
    after_flat, ys_flat = jax.jit(layer.unroll)(params, carry, flat, reset=~flags, mask=flags)
    assert_equal(ys.reshape(T, -1, H), ys_flat)
    assert_equal(after.h.reshape(-1, H), after_flat.h)
    y = layer.step(params, after, jax.tree.map(lambda a: a[0], xs))[1]
    assert y.shape == (*batch, H)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda xs: xs.x,
            r"ltc\(hidden_size=6\)\.unroll: expected TimedInputs\(x \[\.\.\., D\], dt \[\.\.\.\]\), got",
        ),
        (
            lambda xs: xs._replace(dt=xs.dt[:3]),
            r"xs \[T, \*B, ...\] with one number of steps T, got \[7, 3, 4\], \[3, 3\]",
        ),
        (
            lambda xs: xs._replace(dt=xs.x),
            r"expected floating TimedInputs\(x \[\.\.\., 4\], .* dt float64 \[3, 4\]",
        ),
        (
            lambda xs: xs._replace(x=xs.x[..., :2]),
            r"expected floating TimedInputs\(x \[\.\.\., 4\], .* \[3, 2\]",
        ),
        (lambda xs: xs._replace(dt=xs.dt.astype(int)), r"expected floating TimedInputs\(.* dt int64 \[3\]"),
        (lambda xs: xs._replace(x=xs.x[:, 0, 0]), r"expected xs \[T, \.\.\., D\], got \[7\]"),
    ],
    ids=["one part", "length", "two axes", "width", "dtype", "no axis"],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    cell, params, carry, xs = random_case(sj.ltc(H), timed)
    with pytest.raises(ValueError, match=message):
        sj.recurrent(cell).unroll(params, carry, change(xs))


@pytest.mark.parametrize("name", ["reset", "mask"])
def test_flags_are_compared_with_the_batch_of_every_input(name):
    cell, params, carry, xs = random_case(sj.cfc(H), timed)
    with pytest.raises(ValueError, match=rf"expected {name} \[7, 3\], as xs \[7, 3, 4\], got \[7\]"):
        sj.recurrent(cell).unroll(params, carry, xs, **{name: jnp.ones(T, bool)})


def test_sizes_are_checked():
    with pytest.raises(
        ValueError, match=r"cfc\(backbone_size\): expected a whole number of at least 1, got 0\."
    ):
        sj.cfc(3, backbone_size=0)
    with pytest.raises(ValueError, match=r"ltc\(unfolds\): expected a whole number of at least 1, got 0\."):
        sj.ltc(3, unfolds=0)
