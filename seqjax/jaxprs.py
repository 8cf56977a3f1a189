"""Programs of JAX as data: the programs inside an equation, walks over all equations, and their evaluation.

A jaxpr is a list of equations; some primitives (loops, calls, derivatives of one's own) hold further jaxprs in their
params. What differs between versions of JAX is in `seqjax.compat`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from seqjax.compat import bind

# What only wraps a part of a program, by its names in different versions of JAX.
CALLS = frozenset(
    "jit pjit remat2 remat checkpoint closed_call core_call custom_jvp_call custom_vjp_call".split()
)


def is_jit(eqn: Any) -> bool:
    """Whether an equation calls a jitted function."""
    return eqn.primitive.name in ("jit", "pjit")


def is_constant(atom: Any) -> bool:
    """Whether an operand is a literal, in place of a variable."""
    return isinstance(atom, Literal)


def opened(jaxpr: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A jaxpr and the values of its constants; those of an open one are none."""
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def body_of(eqn: Any) -> Any:
    """The jaxpr that an equation calls with its own operands, or None where it calls none."""
    found = (eqn.params.get(name) for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"))
    return next((body for body in found if isinstance(body, Jaxpr | ClosedJaxpr)), None)


def inner_jaxprs(eqn: Any) -> Iterator[Jaxpr]:
    """All jaxprs in the params of an equation."""
    yield from _jaxprs_in(eqn.params.values())


def executed_jaxprs(eqn: Any) -> Iterator[Jaxpr]:
    """The jaxprs that run with an equation: of a linear solve only one, since the products serve derivatives alone."""
    if eqn.primitive.name == "custom_linear_solve":
        yield from _jaxprs_in([eqn.params["jaxprs"].solve])
    else:
        yield from inner_jaxprs(eqn)


def equations(jaxpr: Jaxpr, *, enter: Callable[[Any], bool] = lambda eqn: True) -> Iterator[Any]:
    """All equations of a jaxpr and of those inside them, in order.

    An equation comes before the ones inside it; `enter` says which equations are looked into.

    Example:
        >>> import jax
        >>> program = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x * x, x))(2.0)
        >>> [eqn.primitive.name for eqn in equations(program.jaxpr)]
        ['scan', 'mul', 'add']
    """
    for eqn in jaxpr.eqns:
        yield eqn
        if enter(eqn):
            for inner in inner_jaxprs(eqn):
                yield from equations(inner, enter=enter)


def evaluate(jaxpr: Any, args: Iterable[Any], apply: Callable = bind) -> list:
    """The results of a jaxpr, open or closed, equation by equation.

    Args:
        jaxpr: the program.
        args: its arguments.
        apply: ``(eqn, operands) -> results``; by default as JAX would.
    """
    body, consts = opened(jaxpr)
    values = dict(zip((*body.constvars, *body.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if is_constant(atom) else values[atom]

    for eqn in body.eqns:
        values.update(zip(eqn.outvars, apply(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in body.outvars]


def rewritten(function: Callable, apply: Callable) -> Callable:
    """The function of trees of arrays with `apply` in place of JAX's evaluation of each equation."""

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = evaluate(closed, jax.tree.leaves(args), apply)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def propagate(jaxpr: Jaxpr, marks: Sequence[Any], nothing: Any, through: Callable) -> list:
    """Marks of the results of a jaxpr from those of its arguments, as data flows; constants have none.

    Args:
        jaxpr: the program; the programs inside it are not looked into, which `through` may do.
        marks: of the arguments.
        nothing: the mark of what depends on no argument.
        through: ``(eqn, marks of operands) -> marks of results``.
    """
    known = dict(zip(jaxpr.invars, marks, strict=True))

    def read(atom: Any) -> Any:
        return nothing if is_constant(atom) else known.get(atom, nothing)

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, through(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def depends(function: Callable, *trees: Any) -> list[list[bool]]:
    """Which results of a function of trees depend on which of their leaves; what an equation calls reads all it takes.

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
