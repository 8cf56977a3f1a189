"""Test docs/promises.md: every promise names tests that exist, and those of masks and dtypes in training hold."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax.jaxprs import equations
from seqjax.training import BFLOAT16, FLOAT16, FLOAT32, evaluation, init_train_state, make_train_step

PAGE = Path(__file__).parent.parent / "docs" / "promises.md"
ROWS = [
    line
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_every_promise_names_a_test_that_exists(row):
    promise, tests = row.strip("| ").rsplit(" | ", 1)
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", tests)
    assert promise and (named or tests.startswith("the same test"))
    for file, name in named:
        text = (Path(__file__).parent / file).read_text()
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), f"{file} has no {name}"
    for check in re.findall(r"\(`(\w+)`\)", promise):
        assert hasattr(__import__("seqjax.testing.checks", fromlist=[check]), check)


T, B, D = 5, 4, 3
RANDOM = np.random.default_rng(0)
XS, TARGETS = RANDOM.normal(size=(2, T, B, D)).astype("f")
MASK = np.arange(T)[:, None] < np.array([5, 3, 1, 4])


def per_sequence(ys, targets, mask):
    return optax.l2_loss(sj.last(ys, mask), targets[0]).mean(-1)


@pytest.mark.parametrize("loss", [optax.l2_loss, per_sequence], ids=["per step", "per sequence"])
@pytest.mark.fast_cases(1)
def test_what_masked_steps_of_a_batch_hold_changes_no_bit_of_training(loss):
    model = sj.serial(sj.pointwise(nn.Dense(D)), sj.recurrent(sj.gru(D)), sj.pointwise(nn.LayerNorm()))
    optimizer = optax.adam(1e-2)
    step = make_train_step(model, loss, optimizer, accumulate=2)

    def result(poison):
        xs, targets = (np.where(MASK[..., None], a, np.float32(poison)) for a in (XS, TARGETS))
        batch = sj.Batch(xs, TARGETS if loss is per_sequence else targets, mask=MASK)
        state = init_train_state(model, optimizer, jax.random.key(0), xs[0])
        evaluated = evaluation(model, loss, lambda number: batch)(state)
        state, metrics = step(state, batch)
        assert metrics.finite and np.isfinite(metrics.loss) and np.isfinite(evaluated["loss"])
        return jax.device_get((state.params, state.opt_state, metrics, evaluated))

    clean = result(0.0)
    for poison in (np.nan, np.inf, 1e30):
        jax.tree.map(np.testing.assert_array_equal, result(poison), clean)


def traced(name, precision):
    model, optimizer = (
        sj.serial(sj.recurrent(sj.REGISTRY[name].make(4)), sj.pointwise(nn.Dense(D))),
        optax.adam(1e-2),
    )
    step = make_train_step(model, optax.l2_loss, optimizer, precision=precision)
    state = jax.eval_shape(
        lambda: init_train_state(model, optimizer, jax.random.key(0), XS[0], precision=precision)
    )
    return step, state, sj.Batch(XS, TARGETS, mask=MASK)


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16, FLOAT16], ids=["float32", "bfloat16", "float16"])
def test_a_training_step_keeps_every_dtype(precision):
    step, state, batch = traced("lru", precision)
    after, metrics = jax.eval_shape(step.jitted, *state, batch)
    for (path, leaf), new in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True
    ):
        assert (new.dtype, new.shape) == (leaf.dtype, leaf.shape), jax.tree_util.keystr(path)
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {np.dtype("float32")}
    assert metrics.loss.dtype == jnp.float32


@pytest.mark.parametrize("name", ["lstm", "lru", "gated_delta_net", "attention"])
@pytest.mark.fast_cases(2)
def test_a_step_in_float32_has_no_array_in_float64(name):
    """The tests have 64 bits, so that a constant or a default dtype would show. Scalars of optax may be wider."""
    step, state, batch = traced(name, FLOAT32)
    program = jax.make_jaxpr(step.jitted)(*state, batch)
    wide = [
        (equation.primitive, variable.aval)
        for equation in equations(program.jaxpr)
        for variable in equation.outvars
        if getattr(variable.aval, "dtype", None) in (jnp.float64, jnp.complex128) and variable.aval.ndim
    ]
    assert not wide
