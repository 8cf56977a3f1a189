"""Test Newton's method over time: one iteration on linear cells, at most T, values and gradients, reports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.hlo import collectives
from helpers.tiers import slow

import seqjax as sj
from seqjax.base import Activation
from seqjax.cells import ElmanCarry, ElmanParams
from seqjax.ops.newton import solve as newton
from seqjax.ops.newton.linear import full_jacobian, gated_jacobian, linear_recurrence
from seqjax.ops.step import step_of
from seqjax.ops.tap import dummies
from seqjax.ops.vectors import Coordinates

T, B, D, H = 12, 3, 2, 4
SPECIFICATION = sj.Scan(gradient="autodiff")
FORMS = ("full", "block", "diagonal")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def flags(length=T, batch=(B,)):
    rng = np.random.default_rng(7)
    reset, mask = rng.random((length, *batch)) < 0.2, rng.random((length, *batch)) < 0.7
    reset[3], mask[3] = True, False  # a reset where the step does not happen
    return jnp.asarray(reset), jnp.asarray(mask)


def tanh_network(gain, *, size=H, length=T, batch=B, activation="tanh"):
    """A network whose recurrent weights are a random rotation times a gain: (cell, params, carry, xs)."""
    rotation = np.linalg.qr(normal(0, size, size))[0]
    params = ElmanParams(0.3 * normal(1, D, size), jnp.asarray(gain * rotation), 0.1 * normal(2, size))
    cell = sj.elman(size, activation=activation)
    return cell, params, ElmanCarry(normal(3, batch, size)), normal(4, length, batch, D)


def initialized(cell, *, length=T, batch=(B,), seed=0):
    xs = normal(seed, length, *batch, D)
    params = jax.tree.map(lambda p: p.astype(float), cell.init(jax.random.key(0), xs[0]))
    carry = jax.tree.map(lambda c: c + 0.3, cell.initial_carry(params, xs[0]))
    return cell, params, carry, xs


def solved(method, cell, params, carry, xs, **options):
    return jax.jit(functools.partial(method.solve, cell))(params, carry, xs, **options)


def unrolled(method, cell, params, carry, xs, **options):
    return jax.jit(sj.recurrent(cell, method).unroll)(params, carry, xs, **options)


def gradients(method, cell, params, carry, xs, **options):
    """Final carry, outputs and the gradients of a nonlinear function of both by params, carry, xs and tap."""
    unroll = sj.recurrent(cell, method).unroll
    tap = dummies(carry, len(jax.tree.leaves(xs)[0]), jax.tree.leaves(xs)[0].ndim - 2)

    def loss(params, carry, xs, tap):
        outcome = unroll(params, carry, xs, tap=tap, **options)
        terms = [
            jnp.sum(jnp.cos(jnp.real(a) + 2 * jnp.imag(a)).astype(float)) for a in jax.tree.leaves(outcome)
        ]
        return sum(terms), outcome

    return jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(params, carry, xs, tap)


def assert_close(got, expected, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(1, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=rtol * scale)


# ---------------------------------------------------------------- iterations and convergence


@pytest.mark.parametrize("guess", ["initial", "zeros"])
@pytest.mark.fast_cases(1)
def test_a_linear_cell_takes_exactly_one_iteration(guess):
    problem = tanh_network(1.0, activation="identity", length=64)
    for options in ({}, dict(zip(("reset", "mask"), flags(64), strict=True))):
        carry, ys, report = solved(sj.Newton(guess=guess, fallback=False), *problem, **options)
        assert (int(report.iterations), bool(report.converged), bool(report.fell_back)) == (1, True, False)
        assert_close((carry, ys), unrolled(SPECIFICATION, *problem, **options), rtol=1e-13)


def test_the_adjoint_takes_exactly_one_iteration_too():
    """It is linear, with the transposed Jacobians; with others it would only take more iterations."""
    _, params, carry, xs = tanh_network(1.3)
    reset, mask = flags()

    def step(w_h, h, u):
        h = jnp.tanh(u + h @ w_h)
        return h, h

    def jacobian(w_h, space, entering, us):
        return full_jacobian(functools.partial(step, w_h), space, entering, us)

    adjoint = newton.adjoint_of(newton.System(step, jacobian, "full"))
    inputs = newton._AdjointInputs(
        normal(5, T, B, H), xs @ params.w_x, mask, normal(6, T, B, H), [normal(7, T, B, H)]
    )
    zero = jnp.zeros((B, H))
    operands = newton.Operands(
        params.w_h, inputs, zero, sj.Flags(reset, initial=zero), jnp.int32(T), jnp.zeros((T, B, H))
    )
    settings = newton.Settings(None, 0.0, False, 1)
    report = jax.jit(functools.partial(newton.solve, adjoint, settings))(operands).report
    assert (int(report.iterations), bool(report.converged)) == (1, True)


@pytest.mark.parametrize(("jacobian", "most"), [("full", 8), ("diagonal", 40)])
@pytest.mark.fast_cases(1)
def test_it_agrees_with_the_loop_on_a_long_sequence_of_a_contracting_cell(jacobian, most):
    problem = initialized(sj.gru(H), length=4096, batch=(1,))
    carry, ys, report = solved(sj.Newton(jacobian=jacobian, fallback=False), *problem)
    assert 1 < report.iterations <= most and report.converged and 0 <= report.residual <= 1e-12
    assert_close((carry, ys), unrolled(SPECIFICATION, *problem))


@pytest.mark.slow  # shorter sequences agree, and a long one in values
def test_gradients_agree_with_the_loop_on_a_long_sequence():
    problem = initialized(sj.lstm(H), length=4096, batch=(1,))
    assert_close(
        gradients(sj.Newton(fallback=False), *problem), gradients(SPECIFICATION, *problem), rtol=1e-10
    )


@pytest.mark.parametrize("jacobian", FORMS)
def test_any_cell_takes_at_most_as_many_iterations_as_steps(jacobian):
    problem = tanh_network(4.0, length=24)
    method = sj.Newton(jacobian=jacobian, max_iterations=None, fallback=False)
    carry, ys, report = solved(method, *problem)
    assert report.converged and 3 < report.iterations <= 24
    assert_close((carry, ys), unrolled(SPECIFICATION, *problem))


def test_the_first_steps_are_exact_after_as_many_iterations():
    problem = tanh_network(4.0, length=24)
    expected = unrolled(SPECIFICATION, *problem)[1]
    ys = solved(sj.Newton(jacobian="diagonal", max_iterations=6, fallback=False), *problem)[1]
    assert_close(ys[:7], expected[:7], rtol=1e-13)  # one more: outputs are one step past the iterate
    assert np.abs(ys[7:] - expected[7:]).max() > 0.1


def test_a_chaotic_cell_does_not_converge_and_falls_back_to_the_loop():
    problem = tanh_network(4.0, size=16, length=512, batch=2)
    expected = unrolled(SPECIFICATION, *problem)
    carry, ys, report = solved(sj.Newton(max_iterations=10), *problem)
    assert (int(report.iterations), bool(report.converged), bool(report.fell_back)) == (10, False, True)
    assert report.residual > 0.1
    assert_close((carry, ys), expected, rtol=1e-13)

    carry, ys, report = solved(sj.Newton(max_iterations=10, fallback=False), *problem)
    assert (int(report.iterations), bool(report.converged), bool(report.fell_back)) == (10, False, False)
    assert np.abs(ys - expected[1]).max() > 0.1


def test_gradients_after_a_fallback_are_those_of_the_loop():
    problem = tanh_network(1.5)
    method = sj.Newton(max_iterations=1)
    assert solved(method, *problem)[2].fell_back
    assert_close(gradients(method, *problem), gradients(SPECIFICATION, *problem))


def test_products_of_jacobians_that_overflow_are_repaired():
    """Slopes of 1000 at the guess, so products of 1e900; the solution itself is saturated and forgets at once."""
    cell = sj.elman(2)
    params = ElmanParams(jnp.eye(2), 1000 * jnp.eye(2), jnp.zeros(2))
    problem = (cell, params, ElmanCarry(jnp.zeros((1, 2))), 0.1 + jnp.square(normal(0, 300, 1, 2)))
    carry, ys, report = solved(sj.Newton(guess="zeros", fallback=False), *problem)
    assert report.converged and report.iterations <= 5
    assert_close((carry, ys), unrolled(SPECIFICATION, *problem))


def test_damping_helps_where_the_diagonal_form_diverges():
    """A contracting rotation, R = 0.8 exp(i pi/4); the recurrence takes d = 0.57 (1 - k), the rest is iterated.

    Far from the start the error changes by |R - d| / (1 - d) per iteration: 1.3 for k = 0, 0.83 for k = 0.7.
    """
    cell = sj.elman(2)
    rotation = 0.8 * jnp.asarray([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2)
    params = ElmanParams(0.2 * jnp.eye(2), rotation, jnp.zeros(2))
    problem = (cell, params, ElmanCarry(jnp.zeros((1, 2))), normal(0, 600, 1, 2))

    def report(damping):
        method = sj.Newton(jacobian="diagonal", damping=damping, max_iterations=150, fallback=False)
        return solved(method, *problem)

    assert not report(0.0)[2].converged
    carry, ys, damped = report(0.7)
    assert damped.converged
    assert_close((carry, ys), unrolled(SPECIFICATION, *problem))


def test_a_guess_is_a_head_start_and_reaches_no_gradient():
    cell, params, carry, xs = initialized(sj.lstm(H))
    layer_step, states, now = jax.jit(sj.recurrent(cell).step), [], carry
    for x in xs:
        now = layer_step(params, now, x)[0]
        states.append(now)
    guess = jax.tree.map(lambda *a: jnp.stack(a), *states)
    after, ys, report = solved(sj.Newton(), cell, params, carry, xs, guess=guess)
    assert int(report.iterations) == 0 and report.converged
    assert_close((after, ys), unrolled(SPECIFICATION, cell, params, carry, xs))
    near = jax.tree.map(lambda g: g + 1e-4, guess)
    assert 1 <= solved(sj.Newton(), cell, params, carry, xs, guess=near)[2].iterations <= 2
    by_guess = jax.jit(jax.grad(lambda g: jnp.sum(sj.Newton().solve(cell, params, carry, xs, guess=g)[1])))(
        near
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(by_guess))


def test_what_was_spoilt_before_a_reset_does_not_keep_it_from_converging():
    cell, params, carry, xs = initialized(sj.gru(H), length=40)
    reset = jnp.zeros((40, B), bool).at[20, 0].set(True)
    clean = solved(sj.Newton(), cell, params, carry, xs, reset=reset)
    _, ys, report = solved(
        sj.Newton(fallback=False), cell, params, carry, xs.at[3, 0].set(jnp.nan), reset=reset
    )
    assert report.converged and np.isnan(ys[3:20, 0]).all()
    assert_close(ys[:, 1:], clean[1][:, 1:])
    assert_close((ys[:3, 0], ys[20:, 0]), (clean[1][:3, 0], clean[1][20:, 0]))


# ---------------------------------------------------------------- gradients


def test_neither_pass_runs_over_time():
    """Without the fallback the gradient's program has no loop but Newton's."""
    cell, params, carry, xs = initialized(sj.lstm(H))

    def loops(method):
        unroll = sj.recurrent(cell, method).unroll
        program = str(jax.make_jaxpr(jax.grad(lambda p: jnp.sum(unroll(p, carry, xs)[1])))(params))
        return program.count(" scan["), program.count(" while[")

    assert loops(sj.Newton(fallback=False)) == (0, 2)
    assert loops(sj.Newton())[0] == 2


@pytest.mark.parametrize("jacobian", FORMS)
@pytest.mark.parametrize("cell", [sj.lstm(H), *slow(sj.gru(H))], ids=repr)
@pytest.mark.fast_cases(1)
def test_every_form_has_the_gradients_and_taps_of_the_loop(cell, jacobian):
    problem, (reset, mask) = initialized(cell), flags()
    options = {"reset": reset, "mask": mask}
    found = gradients(sj.Newton(jacobian=jacobian, fallback=False), *problem, **options)
    assert_close(found, gradients(SPECIFICATION, *problem, **options))


def test_gradients_that_vanish_keep_their_own_size():
    """A loss at the end only: dL/dc_0 is far below the rounding of dL/dc_T, and right to all its digits."""
    cell, params, carry, xs = tanh_network(0.3, length=60)

    def by_first(method):
        last = lambda carry: jnp.sum(sj.recurrent(cell, method).unroll(params, carry, xs)[1][-1])  # noqa: E731
        return np.asarray(jax.jit(jax.grad(last))(carry).h)

    expected = by_first(SPECIFICATION)
    assert 0 < np.abs(expected).max() < 1e-25
    for jacobian in ("full", "diagonal"):
        found = by_first(sj.Newton(jacobian=jacobian, fallback=False))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_forward_mode_is_refused():
    cell, params, carry, xs = initialized(sj.gru(H))
    with pytest.raises(
        TypeError,
        match=r"unroll by Newton: .* got forward mode .* Use recurrent\(cell, Scan\(gradient=\"autodiff\"\)\)",
    ):
        jax.jvp(lambda c: sj.Newton().solve(cell, params, c, xs)[1], (carry,), (carry,))


# ---------------------------------------------------------------- carries, batches, dtypes, keys


def mixed_cell():
    """A `Step` over a dict of leaves: a matrix, a complex vector, a scalar per example, a float32 vector."""

    def step(w, carry, u):
        m, z, s, low = carry["m"], carry["z"], carry["s"], carry["low"]
        m = jnp.tanh(0.5 * m @ w + u[..., :, None])
        z = 0.7j * z + jax.lax.complex(jnp.sum(m, -1), 0.1 * u * s[..., None])
        s = 0.5 * jnp.tanh(s + jnp.sum(jnp.real(z * jnp.conj(z)), -1))
        low = 0.5 * jnp.sin(low + jnp.sum(m, -2).astype(jnp.float32))
        return {"m": m, "z": z, "s": s, "low": low}, (jnp.real(z), low)

    def initial_carry(w, x):
        full = functools.partial(jnp.full, dtype=x.dtype)
        return {
            "m": full((*x.shape, 3), 0.1),
            "z": full(x.shape, 0.2).astype(complex),
            "s": full(x.shape[:-1], 0.3),
            "low": jnp.full((*x.shape[:-1], 3), 0.1, jnp.float32),
        }

    return sj.Cell(
        init=lambda key, x: jax.random.normal(key, (3, 3), float),
        initial_carry=initial_carry,
        recurrence=sj.Step(step),
    )


@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
@pytest.mark.fast_cases(1)
def test_a_carry_is_any_tree_of_real_and_complex_leaves(jacobian):
    problem, (reset, mask) = initialized(mixed_cell()), flags()
    options = {"reset": reset, "mask": mask}
    found = gradients(sj.Newton(jacobian=jacobian, fallback=False), *problem, **options)
    expected = gradients(SPECIFICATION, *problem, **options)
    assert_close(found, expected, rtol=1e-5)  # the float32 leaf feeds nothing but itself
    (grads, outcome), (grads_, outcome_) = found, expected
    assert_close((grads[2], outcome[1][0]), (grads_[2], outcome_[1][0]), rtol=1e-6)
    assert outcome[0]["low"].dtype == jnp.float32 and outcome[0]["z"].dtype == jnp.complex128


@pytest.mark.slow  # a batch of other axes
@pytest.mark.parametrize("cell", [sj.gru(H), *slow(sj.gru(H, reset_after=False))], ids=repr)
def test_a_batch_has_any_number_of_axes(cell):
    problem = initialized(cell, batch=(2, 1, 2), length=5)
    reset, mask = flags(5, (2, 1, 2))
    options = {"reset": reset, "mask": mask}
    found = gradients(sj.Newton(fallback=False), *problem, **options)
    assert_close(found, gradients(SPECIFICATION, *problem, **options))
    expected = unrolled(SPECIFICATION, *problem)
    for number in (3, None):  # None: one axis is assumed of a Step, the others belong to the state
        carry, ys, report = solved(sj.Newton(batch_ndim=number), *problem)
        assert report.converged
        assert_close((carry, ys), expected)
    alone = initialized(cell, batch=(), length=5)
    assert_close(solved(sj.Newton(), *alone)[:2], unrolled(SPECIFICATION, *alone))


def test_low_precision_is_computed_in_float32():
    cell, params, carry, xs = initialized(sj.lstm(H), length=64)
    exact = unrolled(SPECIFICATION, cell, params, carry, xs)[1]
    for dtype, bound in ((jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)):
        low = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), (carry, xs))
        after, ys, report = solved(sj.Newton(fallback=False), cell, params, *low)
        assert report.converged and report.residual.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves((after, ys))} == {jnp.dtype(dtype)}
        assert np.abs(np.asarray(ys, float) - exact).max() < bound


def test_noise_enters_step_by_step():
    cell = sj.Cell(
        init=lambda key, x: jnp.full((D, D), 0.3),
        initial_carry=lambda w, x: jnp.zeros_like(x),
        recurrence=sj.Step(lambda w, h, u: (jnp.tanh(h @ w + u),) * 2),
        project=lambda w, x, key=None: x if key is None else x + jax.random.normal(key, x.shape, x.dtype),
    )
    problem, key = initialized(cell), jax.random.key(5)
    expected = unrolled(SPECIFICATION, *problem, key=key)
    assert_close(solved(sj.Newton(), *problem, key=key)[:2], expected)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(T))
    assert_close(solved(sj.Newton(), *problem, key=keys)[:2], expected)
    assert np.abs(expected[1] - solved(sj.Newton(), *problem)[1]).max() > 0.1


def test_an_empty_sequence_is_solved():
    cell, params, carry, xs = initialized(sj.lstm(H))
    after, ys, report = sj.Newton().solve(cell, params, carry, xs[:0])
    assert_close(after, carry)
    assert ys.shape == (0, B, H) and ys.dtype == xs.dtype
    assert int(report.iterations) == 0 and report.converged and not report.fell_back


def test_examples_are_sharded_without_communication_inside_loops():
    cell, params, carry, xs = initialized(sj.gru(H), batch=(8,))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def loss(params, carry, xs):
        return jnp.sum(jnp.cos(sj.recurrent(cell, sj.Newton()).unroll(params, carry, xs)[1]))

    def local(params, carry, xs):
        return jax.lax.psum(loss(params, carry, xs), "data")

    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=(spec(), spec("data"), spec(None, "data")), out_specs=spec()
    )
    compiled = jax.jit(jax.value_and_grad(sharded)).lower(params, carry, xs).compile()
    assert collectives(compiled.as_text()).in_loops == {}
    found = compiled(params, carry, xs)
    assert_close(found, jax.jit(jax.value_and_grad(loss))(params, carry, xs))


# ---------------------------------------------------------------- Jacobians and linear recurrences


def diagonal_weights_cell(emit):
    """Gates whose recurrent weights are diagonal, ``[G, H]``."""
    return sj.Gated(
        activations=(Activation.SIGMOID, Activation.TANH, Activation.SIGMOID)[: 3 if emit else 2],
        num_update=2,
        update=lambda w, state, f, g: (f * state[0] + (1 - f) * g,),
        emit=(lambda w, state, o: o * jnp.tanh(state[0])) if emit else None,
        weights=lambda params: sj.GatedWeights(params),
    )


@pytest.mark.parametrize("heads", [None, "diagonal", 2], ids=str)
@pytest.mark.parametrize("emit", [True, *slow(False)], ids=["emit", "state"])
@pytest.mark.fast_cases(1)
def test_blocks_and_diagonals_are_those_of_the_jacobian(emit, heads):
    recurrence = diagonal_weights_cell(emit)
    num_gates = len(recurrence.activations)
    shapes = {None: (H, num_gates * H), "diagonal": (num_gates, H), 2: (2, H // 2, num_gates, H // 2)}
    weights = sj.GatedWeights(normal(0, *shapes[heads]))
    carry = tuple(normal(i, B, H) for i in range(2 if emit else 1))
    space = Coordinates(carry, batch_ndim=1)
    entering, us = normal(5, T, B, space.vector(carry).shape[-1]), normal(6, T, B, num_gates * H)
    step = step_of(recurrence, weights.w_h, us.dtype)
    whole = full_jacobian(step, space, entering, us)

    s, u = entering[2, 1], us[2, 1]  # one example, by JAX alone
    expected = jax.jacrev(lambda s: space.vector(step(space.tree(s), u)[0]))(s)
    assert_close(whole[2, 1], expected, rtol=1e-13)
    leaves = len(carry)
    by_unit = whole.reshape(T, B, leaves, H, leaves, H)
    by_unit = jnp.moveaxis(jnp.diagonal(by_unit, axis1=3, axis2=5), -1, 2)
    assert_close(gated_jacobian("block", recurrence, weights, space, entering, us), by_unit, rtol=1e-13)
    diagonal = jnp.diagonal(whole, axis1=-2, axis2=-1)
    assert_close(gated_jacobian("diagonal", recurrence, weights, space, entering, us), diagonal, rtol=1e-13)


@pytest.mark.slow  # a case of blocks that are those of the Jacobian
def test_blocks_are_exact_for_diagonal_recurrent_weights():
    cell = sj.Cell(
        init=lambda key, x: (jax.random.normal(key, (D, 3 * H)), jax.random.normal(key, (3, H))),
        initial_carry=lambda params, x: (jnp.zeros((*x.shape[:-1], H), x.dtype),) * 2,
        recurrence=sj.Gated(
            **{**vars(diagonal_weights_cell(True)), "weights": lambda params: sj.GatedWeights(params[1])}
        ),
        project=sj.Dense(lambda params: (params[0], None)),
    )
    problem = initialized(cell, length=64)
    count = {
        form: int(solved(sj.Newton(jacobian=form, fallback=False), *problem)[2].iterations) for form in FORMS
    }
    assert count["block"] == count["full"] < count["diagonal"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [2, T, *slow(1)])
@pytest.mark.fast_cases(1)
def test_a_linear_recurrence_restarts_by_selection(form, length):
    num_leaves, size = 2, 2 * H
    shape = {"full": (size, size), "block": (H, num_leaves, num_leaves), "diagonal": (size,)}[form]
    a, b = 0.5 * normal(0, length, B, *shape), normal(1, length, B, size)
    restart = np.array(flags(max(length, 4))[0][-length:])
    spoilt = a
    if length == T:
        restart[6] = True
        spoilt = a.at[4].set(jnp.nan)
    for cut in (None, jnp.asarray(restart)):
        found = np.asarray(linear_recurrence(form, a if cut is None else spoilt, b, cut))
        delta = np.zeros((B, size))
        for t in range(length):
            delta = np.where(cut[t][:, None], 0, delta) if cut is not None else delta
            if form == "full":
                carried = np.einsum("bij,bj->bi", a[t], delta)
            elif form == "block":
                carried = np.einsum("bhij,bjh->bih", a[t], delta.reshape(B, 2, H)).reshape(B, size)
            else:
                carried = a[t] * delta
            delta = np.asarray(b[t] + carried)
            if cut is None or length < T or t < 4 or t >= 6:
                np.testing.assert_allclose(found[t], delta, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"jacobian": "exact"},
            r"Newton\(jacobian\): expected one of 'full', 'block', 'diagonal', got 'exact'",
        ),
        ({"guess": "ones"}, r"Newton\(guess\): expected one of 'initial', 'zeros', got 'ones'"),
        ({"damping": 1.5}, r"Newton\(damping\): expected a number in \[0, 1\], got 1\.5"),
        ({"tolerance": 0.0}, r"Newton\(tolerance\): expected a finite number above 0, or None, got 0\.0"),
        ({"max_iterations": 0}, r"Newton\(max_iterations\): expected a whole number of at least 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sj.Newton(**options)


def test_cells_that_it_cannot_run_are_refused():
    with pytest.raises(
        TypeError, match=r"Newton\(\) cannot run lru\(.*is Diagonal; Newton runs Step, Gated\. Meth"
    ):
        sj.recurrent(sj.lru(3), sj.Newton())
    with pytest.raises(
        TypeError, match=r"Newton\(\) cannot run lru\(.*is Diagonal; Newton runs Step, Gated\."
    ):
        sj.Newton().solve(*initialized(sj.lru(3)))
    with pytest.raises(
        TypeError, match=r"is Step; jacobian='block' needs Gated\. Use jacobian='full' or 'diagonal'\."
    ):
        sj.Newton(jacobian="block").solve(*initialized(sj.gru(3, reset_after=False)))
    counting = sj.Cell(
        init=lambda key, x: (),
        initial_carry=lambda params, x: {"count": jnp.zeros(x.shape[:-1], jnp.int32)},
        recurrence=sj.Step(lambda params, carry, u: ({"count": carry["count"] + 1}, u)),
    )
    with pytest.raises(TypeError, match=r"carry\['count'\] is int32; .* Methods that can: Scan\."):
        sj.Newton().solve(counting, (), {"count": jnp.zeros(B, jnp.int32)}, normal(0, T, B, D))


def test_it_is_a_value():
    assert sj.Newton(damping=0.5) == sj.Newton(damping=0.5) != sj.Newton()
    assert repr(sj.Newton(jacobian="diagonal")) == "Newton(jacobian='diagonal')"
