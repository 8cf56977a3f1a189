"""Test walks over jaxprs, dependencies in them, and their evaluation equation by equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import jaxprs


@jax.custom_jvp
def own(x):
    return jnp.sin(x)


own.defjvp(lambda primals, tangents: (own(*primals), jnp.cos(*primals) * tangents[0]))

PROGRAMS = {
    "plain": lambda x, w: jnp.tanh(x @ w),
    "call": lambda x, w: jax.jit(lambda a: jnp.tanh(a @ w))(x),
    "scan": lambda x, w: jax.lax.scan(lambda c, _: (c @ w, jnp.sum(c)), x, length=3),
    "while": lambda x, w: jax.lax.while_loop(lambda c: jnp.sum(c) < 5, lambda c: c + jnp.exp(c @ w), x),
    "cond": lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda a: a @ w, lambda a: a, x),
    "own": lambda x, w: own(x @ w),
    "gradient": jax.grad(lambda x, w: jnp.sum(jax.checkpoint(own)(x @ w))),
}
X, W = jnp.linspace(0.1, 0.4, 4).reshape(2, 2), jnp.eye(2) + 0.1


def names(program, *args, **options):
    return [eqn.primitive.name for eqn in jaxprs.equations(jax.make_jaxpr(program)(*args).jaxpr, **options)]


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_products_are_found_wherever_they_are(name):
    assert "dot_general" in names(PROGRAMS[name], X, W)


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_program_is_evaluated_as_jax_does(name):
    closed = jax.make_jaxpr(PROGRAMS[name])(X, W)
    seen = []

    def apply(eqn, operands):
        seen.append(eqn.primitive.name)
        return jaxprs.bind(eqn, operands)

    expected = PROGRAMS[name](X, W)
    for found in (
        jaxprs.evaluate(closed, (X, W)),
        jax.tree.leaves(jax.jit(jaxprs.rewritten(PROGRAMS[name], apply))(X, W)),
    ):
        for a, b in zip(found, jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert seen == [eqn.primitive.name for eqn in closed.jaxpr.eqns]


def test_only_equations_that_may_be_entered_are_looked_into():
    def program(x, w):
        return PROGRAMS["call"](x, w), PROGRAMS["scan"](x, w)

    found = names(program, X, W, enter=jaxprs.is_jit)
    assert found.count("dot_general") == 1 and "scan" in found


def test_the_program_that_an_equation_calls():
    closed = jax.make_jaxpr(lambda x, w: (PROGRAMS["call"](x, w), PROGRAMS["own"](x, w), x + 1))(X, W)
    called = {eqn.primitive.name: jaxprs.body_of(eqn) is not None for eqn in closed.jaxpr.eqns}
    assert called["custom_jvp_call"] and not called["add"] and not called["dot_general"]
    assert called["jit" if "jit" in called else "pjit"]


def test_of_a_linear_solve_only_the_solution_runs():
    closed = jax.make_jaxpr(
        lambda a, b: jax.lax.custom_linear_solve(lambda x: a @ x, b, lambda _, b: b / a[0, 0])
    )(W, X[0])
    (eqn,) = (eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "custom_linear_solve")
    inner = [[e.primitive.name for e in jaxpr.eqns] for jaxpr in jaxprs.executed_jaxprs(eqn)]
    assert len(inner) == 1 and "dot_general" not in inner[0]


def test_what_results_depend_on():
    def program(tree, c):
        return tree["a"] * 2, jnp.zeros(3), jax.jit(jnp.add)(tree["b"], c), c

    expected = [[True, False, False], [False] * 3, [False, True, True], [False, False, True]]
    assert jaxprs.depends(program, {"a": 1.0, "b": 2.0}, 3.0) == expected
