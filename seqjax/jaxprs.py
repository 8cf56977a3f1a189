"""Read and evaluate jaxprs: the jaxprs inside an equation, walks over all equations, and evaluation.

A jaxpr is a list of equations; some primitives (loops, calls, custom derivatives) hold further jaxprs in their params.
Code that depends on the version of JAX is in `seqjax.compat`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from seqjax.compat import bind, expanded

# Primitives that only wrap a part of a program, under their names in different versions of JAX.
CALLS = frozenset(
    "jit pjit remat2 remat checkpoint closed_call core_call custom_jvp_call custom_vjp_call call_hi_primitive".split()
)


def is_jit(eqn: Any) -> bool:
    """Return whether an equation calls a jitted function."""
    return eqn.primitive.name in ("jit", "pjit")


def is_constant(atom: Any) -> bool:
    """Return whether an operand is a literal instead of a variable."""
    return isinstance(atom, Literal)


def opened(jaxpr: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """Return a jaxpr and the values of its constants; an open jaxpr has none."""
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def body_of(eqn: Any) -> Any:
    """Return the jaxpr that an equation calls with its own operands, or None."""
    found = (eqn.params.get(name) for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"))
    return next((body for body in found if isinstance(body, Jaxpr | ClosedJaxpr)), expanded(eqn))


def inner_jaxprs(eqn: Any) -> Iterator[Jaxpr]:
    """Yield all jaxprs in the params of an equation, and the one that a primitive of hijax stands for."""
    yield from _jaxprs_in((*eqn.params.values(), expanded(eqn)))


def executed_jaxprs(eqn: Any) -> Iterator[Jaxpr]:
    """Yield the jaxprs that run with an equation; a linear solve runs one, its others are for derivatives."""
    if eqn.primitive.name == "custom_linear_solve":
        yield from _jaxprs_in([eqn.params["jaxprs"].solve])
    else:
        yield from inner_jaxprs(eqn)


def equations(jaxpr: Jaxpr, *, enter: Callable[[Any], bool] = lambda eqn: True) -> Iterator[Any]:
    """Yield all equations of a jaxpr and of the jaxprs inside it, in order.

    An equation comes before the equations inside it. The walk enters an equation only if ``enter(eqn)`` is True.

    Example:
        >>> import jax
        >>> program = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x * x, x))(2.0)
        >>> sorted(eqn.primitive.name for eqn in equations(program.jaxpr))
        ['add', 'mul', 'scan']
    """
    for eqn in jaxpr.eqns:
        yield eqn
        if enter(eqn):
            for inner in inner_jaxprs(eqn):
                yield from equations(inner, enter=enter)


def evaluate(jaxpr: Any, args: Iterable[Any], apply: Callable = bind) -> list:
    """Evaluate a jaxpr, open or closed, equation by equation, and return its results.

    Args:
        jaxpr: the program.
        args: its arguments.
        apply: ``(eqn, operands) -> results``; by default JAX's own evaluation.
    """
    body, consts = opened(jaxpr)
    values = dict(zip((*body.constvars, *body.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if is_constant(atom) else values[atom]

    for eqn in body.eqns:
        values.update(zip(eqn.outvars, apply(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in body.outvars]


def rewritten(function: Callable, apply: Callable) -> Callable:
    """Return a function of trees of arrays that evaluates each equation of `function` with `apply`."""

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = evaluate(closed, jax.tree.leaves(args), apply)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def propagate(jaxpr: Jaxpr, marks: Sequence[Any], nothing: Any, through: Callable) -> list:
    """Propagate marks from the arguments of a jaxpr to its results.

    Args:
        jaxpr: the program; `through` may look into the jaxprs inside an equation.
        marks: the marks of the arguments.
        nothing: the mark of values that depend on no argument.
        through: ``(eqn, marks of operands) -> marks of results``.
    """
    known = dict(zip(jaxpr.invars, marks, strict=True))

    def read(atom: Any) -> Any:
        return nothing if is_constant(atom) else known.get(atom, nothing)

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, through(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def depends(function: Callable, *trees: Any) -> list[list[bool]]:
    """Return which results of a function of trees depend on which leaves of the trees.

    Each result of an equation counts as dependent on all operands of the equation.

    Example:
        >>> import jax.numpy as jnp
        >>> depends(lambda a, b: (a + b, jnp.zeros(2), b), 1.0, 2.0)
        [[True, True], [False, False], [False, True]]
    """
    jaxpr = jax.make_jaxpr(function)(*trees).jaxpr
    number = len(jaxpr.invars)

    def through(eqn: Any, marks: list[frozenset[int]]) -> list[frozenset[int]]:
        return [frozenset().union(*marks)] * len(eqn.outvars)

    found = propagate(jaxpr, [frozenset([i]) for i in range(number)], frozenset(), through)
    return [[i in marks for i in range(number)] for marks in found]


def _jaxprs_in(values: Iterable[Any]) -> Iterator[Jaxpr]:
    for value in values:
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, Jaxpr | ClosedJaxpr):
                yield opened(item)[0]
