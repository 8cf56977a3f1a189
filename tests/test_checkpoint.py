"""Test checkpoints over time: equal gradients, the number of recomputed steps in closed form, growth of memory."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.ops.revolve import fewest_forward_steps, schedule
from seqjax.probes.scaling import gradient_of_carry, memory_scaling

KEY = jax.random.key(0)


def closed_form(num_steps, slots):
    r = next(r for r in range(num_steps) if math.comb(slots + r, slots) >= num_steps)
    return r * num_steps - math.comb(slots + r, slots + 1)


@functools.cache
def by_dynamic_programming(num_steps, slots):
    """The fewest forward steps by trying every place for the next checkpoint."""
    if num_steps == 1:
        return 0
    if slots == 1:
        return num_steps * (num_steps - 1) // 2
    return min(
        m + by_dynamic_programming(num_steps - m, slots - 1) + by_dynamic_programming(m, slots)
        for m in range(1, num_steps)
    )


def simulate(num_steps, slots):
    """Run a plan on states that are step numbers; returns the number of forward steps."""
    stored, state, pending, forward = {0: 0}, 0, num_steps - 1, 0
    for action in schedule(num_steps, slots):
        if action.load >= 0:
            state = stored[action.load]
        assert state == action.step, "a step runs on the state that enters it"
        if action.taped:
            assert action.step == pending, "taped steps come from the last to the first"
            pending -= 1
        else:
            state, forward = state + 1, forward + 1
            if action.store >= 0:
                assert 0 < action.store < slots
                stored[action.store] = state
    assert pending == -1
    return forward


SIZES = [(n, s) for n in (1, 2, 3, 4, 7, 13, 30, 57) for s in (1, 2, 3, 5, 12, 60)]


@pytest.mark.parametrize(("num_steps", "slots"), SIZES)
def test_plans_are_valid_and_optimal(num_steps, slots):
    found = simulate(num_steps, slots)
    assert found == by_dynamic_programming(num_steps, slots) == closed_form(num_steps, slots)
    assert found == fewest_forward_steps(num_steps, slots)


# By hand: 4000 - C(14, 11), 3000 - C(23, 21), 3000 - C(35, 33).
@pytest.mark.parametrize(("slots", "steps"), [(10, 3636), (20, 2747), (32, 2405)])
def test_a_thousand_steps_cost_what_the_closed_form_says(slots, steps):
    assert simulate(1000, slots) == steps == fewest_forward_steps(1000, slots)


def counted(counts):
    """A tanh network that counts on the host how often its step runs."""

    def step(params, h, x):
        jax.debug.callback(lambda _: counts.append(1), h)  # without h it would leave inner loops
        h = jnp.tanh(x + params * h)
        return h, h

    return sj.recurrent(
        sj.Cell(
            init=lambda key, x: jnp.full((1, x.shape[-1]), 0.7),
            initial_carry=lambda params, x: jnp.zeros_like(x),
            recurrence=sj.Step(step),
        )
    )


@pytest.mark.parametrize(("num_steps", "slots"), [(1, 1), (2, 3), (11, 1), (20, 3), (57, 4), (200, 10)])
def test_steps_that_run_are_as_many_as_the_closed_form(num_steps, slots):
    counts = []
    layer = sj.checkpointed(counted(counts), sj.Binomial(slots))
    xs = jax.random.normal(KEY, (num_steps, 1, 2))
    params = layer.init(KEY, xs[0])

    def loss(params):
        return jnp.sum(layer.unroll(params, jnp.zeros((1, 2)), xs)[1])

    jax.block_until_ready(jax.jit(jax.grad(loss))(params))
    jax.effects_barrier()
    # Each step is taped once; the last one runs forward once more, for its output.
    assert len(counts) == closed_form(num_steps, slots) + num_steps + 1


def test_pieces_of_several_steps_are_counted_as_one():
    counts = []
    layer = sj.checkpointed(counted(counts), sj.Binomial(3, every=4))
    xs = jax.random.normal(KEY, (40, 1, 2))
    params = layer.init(KEY, xs[0])
    jax.block_until_ready(
        jax.jit(jax.grad(lambda p: jnp.sum(layer.unroll(p, jnp.zeros((1, 2)), xs)[1])))(params)
    )
    jax.effects_barrier()
    assert len(counts) == 4 * (closed_form(10, 3) + 10 + 1)


SCHEDULES = {
    "every": {"every": 5},
    "nested 1": {"schedule": sj.Nested(1)},
    "nested 2": {"schedule": sj.Nested()},
    "nested 4": {"schedule": sj.Nested(4)},
    "binomial": {"schedule": sj.Binomial(3)},
    "binomial, many slots": {"schedule": sj.Binomial(50)},
    "binomial, pieces": {"schedule": sj.Binomial(2, every=4)},
    "binomial, piece longer than T": {"schedule": sj.Binomial(2, every=40)},
}


@functools.cache
def results(name):
    layer = sj.serial(sj.recurrent(sj.lstm(3)), sj.dropout(0.4), sj.recurrent(sj.lru(2)))
    if name is not None:
        layer = sj.checkpointed(layer, **SCHEDULES[name])
    xs = jax.random.normal(KEY, (23, 2, 4), jnp.float64)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), layer.init(KEY, xs[0]))
    reset = jax.random.bernoulli(jax.random.key(1), 0.1, (23, 2))
    mask = jax.random.bernoulli(jax.random.key(2), 0.8, (23, 2))
    carry = layer.initial_carry(params, xs[0])

    def loss(params, carry, xs, taps):
        after, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask, key=KEY, tap=taps)
        total = sum(jnp.sum(jnp.abs(c) ** 2) for c in jax.tree.leaves(after))
        return total + jnp.sum(jnp.sin(ys)), (after, ys)

    from seqjax.ops.tap import dummies

    grad = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))
    return jax.tree.map(np.asarray, grad(params, carry, xs, dummies(carry, 23)))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.fast_cases(2)
def test_values_gradients_noise_and_taps_stay(name):
    for a, b in zip(jax.tree.leaves(results(name)), jax.tree.leaves(results(None)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


# ---------------------------------------------------------------- memory


HIDDEN = 16


def tanh_of_product(w, h, x):
    h = jnp.tanh(h @ w)
    return h, h


LENGTHS = [4**5, 4**6, 4**7, 4**8]


def scaling(wrap, outputs=0, lengths=LENGTHS):
    """Memory of the gradient by the weights for a loss at the end, less arrays ``[T, H]`` that hold outputs.

    Inputs have no entries, so that no copy of them counts.
    """
    cell = sj.Cell(
        init=lambda key, x: jnp.eye(HIDDEN, dtype=jnp.float32),
        initial_carry=lambda params, x: jnp.ones((1, HIDDEN), jnp.float32),
        recurrence=sj.Step(tanh_of_product),
    )
    (found,) = memory_scaling(
        wrap(sj.recurrent(cell)),
        jax.ShapeDtypeStruct((1, 0), jnp.float32),
        lengths,
        program=gradient_of_carry,
        known=lambda length: outputs * 4 * HIDDEN * length,
    )
    return found


def test_memory_is_linear_without_checkpoints():
    found = scaling(lambda layer: layer)
    assert abs(found.law.exponent - 1) <= 0.05, found


def test_memory_is_the_square_root_with_nested_checkpoints():
    found = scaling(lambda layer: sj.checkpointed(layer, sj.Nested()))
    assert abs(found.law.exponent - 0.5) <= 0.1, found


def test_a_third_level_takes_less_memory_than_two():
    two, three = (
        scaling(lambda layer, n=n: sj.checkpointed(layer, sj.Nested(n)), lengths=LENGTHS[-2:]) for n in (2, 3)
    )
    assert three.values[-1] < two.values[-1] / 2


def test_memory_is_constant_with_a_fixed_number_of_slots():
    # The gradient by the outputs, which the loss does not read, is an array of zeros; compilers of jax 0.12 hold none.
    for outputs in (1, 0):
        found = scaling(lambda layer: sj.checkpointed(layer, sj.Binomial(10)), outputs=outputs)
        if (found.values > 0).all():
            break
    assert abs(found.law.exponent) <= 0.1, found


# ---------------------------------------------------------------- errors


LAYER = sj.recurrent(sj.elman(3))
REFUSED = {
    "neither schedule nor every": (
        lambda: sj.checkpointed(LAYER), ValueError,
        "expected either a schedule or every, got schedule=None and every=None"),
    "schedule and every": (
        lambda: sj.checkpointed(LAYER, sj.Nested(), every=3), ValueError, r"got schedule=Nested\(\) and every=3"),
    "a number as the schedule": (
        lambda: sj.checkpointed(LAYER, 5), TypeError,
        r"checkpointed\(schedule\): expected Nested\(...\) or Binomial\(...\), got 5"),
    "not causal": (
        lambda: sj.checkpointed(sj.bidirectional(LAYER), sj.Binomial(3)), TypeError,
        "expected a causal layer, which can run piece by piece"),
    **{f"{name}: {value!r}": (
        lambda make=make, value=value: make(value), ValueError,
        rf"{re.escape(name)}: expected a whole number of at least 1, got {value!r}")
       for value in (0, -1, 2.0, True, "3")
       for name, make in {
           "Nested(levels)": sj.Nested,
           "Binomial(slots)": sj.Binomial,
           "Binomial(every)": lambda n: sj.Binomial(2, every=n),
           "checkpointed(every)": lambda n: sj.checkpointed(LAYER, every=n),
       }.items()},
}  # fmt: skip


@refusals(REFUSED)
def test_schedules_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_schedules_are_values():
    layer = sj.recurrent(sj.elman(3))
    assert sj.checkpointed(layer, sj.Binomial(3)) == sj.checkpointed(layer, sj.Binomial(3, every=1))
    assert sj.checkpointed(layer, sj.Binomial(3)) != sj.checkpointed(layer, sj.Binomial(4))
    assert repr(sj.checkpointed(layer, sj.Nested(levels=3))).endswith("schedule=Nested(levels=3))")
