r"""What a program costs by its equations: floating-point operations and bytes, with loops multiplied out.

XLA's own ``cost_analysis()`` counts the body of a loop once, whatever its length. Here the program is traced to a jaxpr
and its equations are added up: a scan counts length times, a conditional as its dearest branch, and what no result
depends on not at all. The numbers are exact for the program as it is written, free of noise, and the same on every
machine; what a compiler fuses, shares or drops afterwards is not seen.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr

from seqjax.compat import manual_axes, scan_counts
from seqjax.jaxprs import body_of, is_constant, opened
from seqjax.probes.primitives import FREE, flops_of, traffic_of


class WhileLoop(NamedTuple):
    """A ``while`` loop, whose number of iterations the program does not tell. `Cost` holds one iteration of it.

    Attributes:
        times: how often the loop itself is entered.
        flops: of one iteration, test and body.
        bytes: the same.
    """

    times: int
    flops: int
    bytes: int


class Cost(NamedTuple):
    """What `count_cost` finds.

    Attributes:
        flops: floating-point operations: 2 n m k for a product of matrices, 1 per number for whatever acts elementwise,
            transcendental functions too, or adds up. Complex numbers count as the real operations they take: 6 for a
            product, 2 for a sum. Arithmetic on integers and booleans, comparisons, selections and copies are none.
        bytes: read and written by every equation, as if none were fused with another: an upper bound of the traffic.
            Slices, gathers and updates count what they touch.
        by_primitive: flops by the name of the primitive, the largest first.
        while_loops: loops of unknown length. Each is in `flops` and `bytes` with *one* iteration; n iterations cost
            ``flops + (n - 1) * times * loop.flops``.
        uncounted: names of primitives of which nothing is known (foreign kernels, callbacks): they count as no flops.
    """

    flops: int
    bytes: int
    by_primitive: dict[str, int]
    while_loops: tuple[WhileLoop, ...]
    uncounted: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether nothing was unknown: no loop of unknown length and no primitive of unknown cost."""
        return not self.while_loops and not self.uncounted


def count_cost(function: Callable, *args: Any, **kwargs: Any) -> Cost:
    r"""Floating-point operations and bytes of a function, by walking its jaxpr.

    Args:
        function: of arrays. A gradient is one too: ``count_cost(jax.grad(loss), params)``.
        args: arrays or ShapeDtypeStructs; nothing is computed.
        kwargs: the same.

    Returns:
        The counts. Inside ``jax.shard_map`` the work of all devices is added up.

    Raises:
        TypeError: for something that is not a function.

    Example:
        Ten products of an 8 x 8 matrix and a vector in a scan, 2 * 8 * 8 each; the gradient adds two to each of them.

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
    """Counts of a part of a program: flops by primitive, bytes, ``(times, flops, bytes)`` of loops, unknown names."""

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
    """The tally of what the used results depend on, and which inputs they depend on."""
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
    """The same for one equation."""
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
    """A scan: its operands are constants, carry and inputs; its results are carry and outputs."""
    consts, carries = scan_counts(params)
    body, carry = params["jaxpr"].jaxpr, used[:carries]
    while True:  # a part of the carry is needed where its end is, or where a needed part depends on it
        tally, inputs = _count(body, carry + used[carries:])
        grown = [a or b for a, b in zip(carry, inputs[consts : consts + carries], strict=True)]
        if grown == carry:
            break
        carry = grown
    return _times(tally, params["length"]), inputs
