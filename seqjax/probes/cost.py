r"""The cost of a program from its equations: floating-point operations and bytes, with all iterations of loops.

The ``cost_analysis()`` of XLA counts the body of a loop once, whatever its length. `count_cost` traces the program to a
jaxpr and adds up its equations. A scan counts once per iteration, a conditional as its most expensive branch, and an
unused equation not at all. The numbers are exact for the program as written, free of noise, and equal on all machines.
They do not include the effect of the compiler, which fuses, shares and removes operations.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr

from seqjax.compat import manual_axes, scan_counts
from seqjax.jaxprs import body_of, is_constant, opened
from seqjax.probes.internals.primitives import FREE, flops_of, traffic_of


class WhileLoop(NamedTuple):
    """A ``while`` loop with an unknown number of iterations. `Cost` counts one iteration.

    Attributes:
        times: the number of times that the program enters the loop.
        flops: the operations of one iteration, test and body.
        bytes: the bytes of one iteration, test and body.
    """

    times: int
    flops: int
    bytes: int


class Cost(NamedTuple):
    """Result of `count_cost`.

    Attributes:
        flops: floating-point operations. A product of matrices counts 2 n m k. An elementwise function (transcendental
            functions included) and a sum count 1 per number. Complex numbers count as real operations: 6 for a product,
            2 for a sum. Arithmetic on integers and booleans, comparisons, selections and copies count 0.
        bytes: the bytes that every equation reads and writes without fusion: an upper bound of the memory traffic.
            Slices, gathers and updates count the numbers that they read or write.
        by_primitive: flops by the name of the primitive, largest first.
        while_loops: loops of unknown length. `flops` and `bytes` include *one* iteration of each; n iterations cost
            ``flops + (n - 1) * times * loop.flops``.
        uncounted: names of primitives of unknown cost (foreign kernels, callbacks). They count 0 flops.
    """

    flops: int
    bytes: int
    by_primitive: dict[str, int]
    while_loops: tuple[WhileLoop, ...]
    uncounted: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether the counts are complete: no loop of unknown length and no primitive of unknown cost."""
        return not self.while_loops and not self.uncounted


def count_cost(function: Callable, *args: Any, **kwargs: Any) -> Cost:
    r"""Count the floating-point operations and bytes of a function from its jaxpr.

    Args:
        function: a function of arrays, such as a gradient: ``count_cost(jax.grad(loss), params)``.
        args: arrays or ShapeDtypeStructs; nothing is computed.
        kwargs: arrays or ShapeDtypeStructs.

    Returns:
        The counts. Inside ``jax.shard_map`` they sum the work of all devices.

    Raises:
        TypeError: if `function` is not callable.

    Example:
        Ten products of an 8 x 8 matrix and a vector in a scan, 2 * 8 * 8 each. The gradient adds two products to each:

        >>> import jax, jax.numpy as jnp
        >>> def power(w):
        ...     return jax.lax.scan(lambda h, _: (w @ h, None), jnp.ones(8), length=10)[0].sum()
        >>> w = jax.ShapeDtypeStruct((8, 8), jnp.float32)
        >>> count_cost(power, w).by_primitive
        {'dot_general': 1280, 'reduce_sum': 7}
        >>> count_cost(jax.grad(power), w).by_primitive["dot_general"]
        3840
    """
    if not callable(function):
        raise TypeError(f"count_cost: expected a function of arrays, got {function!r}.")
    closed = jax.make_jaxpr(function)(*args, **kwargs)
    tally, _ = _count(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    ranked = {name: n for name, n in sorted(tally.flops.items(), key=lambda item: (-item[1], item[0])) if n}
    loops = tuple(WhileLoop(*loop) for loop in tally.loops)
    return Cost(tally.total, tally.bytes, ranked, loops, tuple(sorted(tally.uncounted)))


class _Tally(NamedTuple):
    """Counts for a part of a program: flops by primitive, bytes, ``(times, flops, bytes)`` of loops, unknown names."""

    flops: Counter
    bytes: int = 0
    loops: tuple[tuple[int, int, int], ...] = ()
    uncounted: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        return sum(self.flops.values())


def _add(*tallies: _Tally) -> _Tally:
    flops: Counter = Counter()
    for tally in tallies:
        flops.update(tally.flops)
    return _Tally(
        flops,
        sum(tally.bytes for tally in tallies),
        tuple(loop for tally in tallies for loop in tally.loops),
        frozenset().union(*(tally.uncounted for tally in tallies)),
    )


def _times(tally: _Tally, n: int) -> _Tally:
    if n == 0:
        return _Tally(Counter())
    flops = Counter({name: n * count for name, count in tally.flops.items()})
    loops = tuple((n * times, flops, size) for times, flops, size in tally.loops)
    return _Tally(flops, n * tally.bytes, loops, tally.uncounted)


def _count(jaxpr: Jaxpr, used: Sequence[bool]) -> tuple[_Tally, list[bool]]:
    """Return the tally of the equations that the used results depend on, and the inputs that they depend on."""
    needed = {v for v, u in zip(jaxpr.outvars, used, strict=True) if u and not is_constant(v)}
    tallies = []
    for eqn in reversed(jaxpr.eqns):
        results = [v in needed for v in eqn.outvars]
        if not any(results) and not eqn.effects:
            continue
        tally, operands = _equation(eqn, results)
        tallies.append(tally)
        needed.update(v for v, u in zip(eqn.invars, operands, strict=True) if u and not is_constant(v))
    return _add(*tallies), [v in needed for v in jaxpr.invars]


def _equation(eqn: Any, used: list[bool]) -> tuple[_Tally, list[bool]]:
    """Return the tally of one equation, and the operands that its used results depend on."""
    name, params = eqn.primitive.name, eqn.params
    everything = [True] * len(eqn.invars)
    match name:
        case "scan":
            return _scan(params, used)
        case "while":
            tests, bodies = (
                _count(params[part].jaxpr, [True] * len(params[part].jaxpr.outvars))[0]
                for part in ("cond_jaxpr", "body_jaxpr")
            )
            once = _add(tests, bodies)
            return once._replace(loops=((1, once.total, once.bytes), *once.loops)), everything
        case "cond":
            counted = [_count(branch.jaxpr, used) for branch in params["branches"]]
            dearest = max((tally for tally, _ in counted), key=lambda tally: (tally.total, tally.bytes))
            return dearest, [True, *(any(flags) for flags in zip(*(inputs for _, inputs in counted)))]
        case "custom_linear_solve":
            solve = params["jaxprs"].solve.jaxpr
            return _count(solve, [True] * len(solve.outvars))[0], everything
        case "shard_map":
            tally, inputs = _count(params["jaxpr"], used)
            devices = math.prod(params["mesh"].shape[axis] for axis in manual_axes(params))
            return _times(tally, devices), inputs
    flops = flops_of(eqn)
    if flops is not None:
        return _Tally(Counter({name: flops}), traffic_of(eqn)), everything
    body = body_of(eqn)
    if body is not None:
        body = opened(body)[0]
        if len(body.invars) == len(eqn.invars) and len(body.outvars) == len(used):
            return _count(body, used)
    unknown = frozenset() if name in FREE else frozenset([name])
    return _Tally(Counter(), traffic_of(eqn), uncounted=unknown), everything


def _scan(params: Any, used: list[bool]) -> tuple[_Tally, list[bool]]:
    """Count a scan, whose operands are constants, carry and inputs, and whose results are carry and outputs."""
    consts, carries = scan_counts(params)
    body, carry = params["jaxpr"].jaxpr, used[:carries]
    while True:  # a part of the carry is needed if its last value is, or if a needed part depends on it
        tally, inputs = _count(body, carry + used[carries:])
        grown = [a or b for a, b in zip(carry, inputs[consts : consts + carries], strict=True)]
        if grown == carry:
            break
        carry = grown
    return _times(tally, params["length"]), inputs
