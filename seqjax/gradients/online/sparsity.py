r"""Sparsity of influences: the sparsity pattern of a step, and influences stored on such a pattern.

The jaxpr of a step's pullback is linear, with coefficients that depend on params, carry and inputs. To find the
derivatives that can differ from zero for *any* input, the pullback is evaluated with replacements. Every coefficient
becomes a random positive number, every difference a sum, and every selection the sum of its operands. Every operation
whose connections depend on data (a gather by token, a slice at a position), and every operation that is not in the
lists below, connects all inputs with all outputs. A zero of the result is zero for all inputs; the converse does not
hold. A pattern may therefore be too large, but never too small.

Params that reach the same rows K of the carry share a block. The update of a block needs :math:`J_{KK}` alone:

.. math:: M_{K} \leftarrow J_{KK} M_{K} + D_{K}, \qquad J = \partial f/\partial s, \quad D = \partial f/\partial\theta

J and D are computed by pullbacks of the step. Rows whose derivatives have no column in common share one pullback of
their sum. An elementwise recurrence needs one pullback, a dense recurrence n.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from seqjax.compat import vary_like
from seqjax.gradients.online.rule import Model, Rule
from seqjax.jaxprs import is_jit, propagate
from seqjax.ops.vectors import Coordinates


def params_reaching(step: Callable, params: Coordinates, carry: Coordinates) -> tuple[bool, ...]:
    """Return for each leaf of the params whether the carry after ``step(theta, s) -> s`` depends on it."""
    by_params, _ = _generic_pullback(step, params, carry)(np.ones(carry.size))
    pieces = iter(np.split(by_params, np.cumsum(params.sizes)[:-1]))
    return tuple(is_chosen and bool(np.any(next(pieces))) for is_chosen in params.chosen)


def step_pattern(
    step: Callable, params: Coordinates, carry: Coordinates
) -> tuple[Bool[np.ndarray, "n P"], Bool[np.ndarray, "n n"]]:
    """Return where derivatives of ``step(theta, s) -> s`` may be nonzero, by theta ``[n, P]`` and s ``[n, n]``."""
    pull = _generic_pullback(step, params, carry)
    rows = [[part != 0 for part in pull(row)] for row in np.eye(carry.size)]
    by_params, by_carry = (np.stack(part) for part in zip(*rows, strict=True))
    return by_params, by_carry


def _generic_pullback(step: Callable, params: Coordinates, carry: Coordinates) -> Callable:
    theta, s = (jax.ShapeDtypeStruct((space.size,), space.dtype) for space in (params, carry))

    def pull(theta: jax.Array, s: jax.Array, cotangent: jax.Array) -> Any:
        return jax.vjp(step, theta, s)[1](cotangent)

    jaxpr = jax.make_jaxpr(pull)(theta, s, s).jaxpr

    def pullback(cotangent: np.ndarray) -> Any:
        found = _evaluate(jaxpr, [None, None, cotangent], np.random.default_rng(0))
        return [np.zeros(a.shape) if b is None else b for a, b in zip((theta, s), found, strict=True)]

    return pullback


def _evaluate(jaxpr: Any, inputs: list, random: np.random.Generator) -> list:
    """Evaluate a jaxpr in NumPy; None represents a value that does not depend on the cotangent."""

    def through(equation: Any, operands: list) -> list:
        if all(operand is None for operand in operands):
            return [None] * len(equation.outvars)
        return _apply(equation, operands, random)

    return propagate(jaxpr, inputs, None, through)


def _apply(equation: Any, operands: list, random: np.random.Generator) -> list:
    name, settings = equation.primitive.name, equation.params
    avals, outs = ([atom.aval for atom in atoms] for atoms in (equation.invars, equation.outvars))
    there = [a for a in operands if a is not None]
    if is_jit(equation):
        return _evaluate(settings["jaxpr"].jaxpr, operands, random)
    if name in ("neg", "copy", "convert_element_type", "reduce_precision"):
        return operands
    if name in ("add", "add_any", "sub", "select_n") and (name != "select_n" or operands[0] is None):
        return [sum(np.broadcast_to(a, outs[0].shape) for a in there)]
    if name in BILINEAR:
        filled = [_coefficients(random, s) if a is None else a for a, s in zip(operands, avals, strict=True)]
        return [BILINEAR[name](*filled, **settings)]
    if name in LINEAR:
        # All other operands can only be zeros.
        filled = [np.zeros(s.shape) if a is None else a for a, s in zip(operands, avals, strict=True)]
        found = LINEAR[name](*filled, **settings)
        return found if equation.primitive.multiple_results else [found]
    everything = sum(np.sum(np.abs(a)) for a in there)
    return [everything * _coefficients(random, out) for out in outs]


def _coefficients(random: np.random.Generator, like: Any) -> np.ndarray:
    real, imaginary = 0.5 + random.random((2, math.prod(like.shape)))
    is_complex = jnp.issubdtype(like.dtype, jnp.complexfloating)
    return (real + 1j * imaginary if is_complex else real).reshape(like.shape)


def _dot(a: np.ndarray, b: np.ndarray, *, dimension_numbers: Any, **_: Any) -> np.ndarray:
    (contract_a, contract_b), (batch_a, batch_b) = dimension_numbers
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_a = [next(letters) for _ in a.shape]
    of_b = [next(letters) for _ in b.shape]
    for i, j in zip((*contract_a, *batch_a), (*contract_b, *batch_b), strict=True):
        of_b[j] = of_a[i]
    free_a = [x for i, x in enumerate(of_a) if i not in (*contract_a, *batch_a)]
    free_b = [x for i, x in enumerate(of_b) if i not in (*contract_b, *batch_b)]
    out = [*(of_a[i] for i in batch_a), *free_a, *free_b]
    return np.einsum(f"{''.join(of_a)},{''.join(of_b)}->{''.join(out)}", a, b)


def _broadcast(a: np.ndarray, *, shape: tuple, broadcast_dimensions: tuple, **_: Any) -> np.ndarray:
    wide = [1] * len(shape)
    for size, axis in zip(a.shape, broadcast_dimensions, strict=True):
        wide[axis] = size
    return np.broadcast_to(a.reshape(wide), shape)


def _pad(a: np.ndarray, _: Any, *, padding_config: tuple) -> np.ndarray:
    for axis, (low, high, inner) in enumerate(padding_config):
        size = a.shape[axis]
        spread = np.zeros((*a.shape[:axis], max(size + inner * (size - 1), 0), *a.shape[axis + 1 :]), a.dtype)
        at = (slice(None),) * axis
        spread[(*at, slice(None, None, inner + 1))] = a
        widths = [(0, 0)] * a.ndim
        widths[axis] = (max(low, 0), max(high, 0))
        a = np.pad(spread, widths)
        a = a[(*at, slice(max(-low, 0), a.shape[axis] - max(-high, 0)))]
    return a


BILINEAR: dict[str, Callable] = {
    "mul": lambda a, b, **_: a * b,
    "div": lambda a, b, **_: a / b,
    "dot_general": _dot,
}
LINEAR: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "complex": lambda a, b, **_: a + 1j * b,
    "concatenate": lambda *parts, dimension: np.concatenate(parts, dimension),
    "conj": lambda a, **_: np.conj(a),
    "imag": lambda a, **_: np.imag(a),
    "pad": _pad,
    "real": lambda a, **_: np.real(a),
    "reduce_sum": lambda a, *, axes, **_: np.sum(a, axes),
    "reshape": lambda a, *, new_sizes, **_: np.reshape(a, new_sizes),
    "rev": lambda a, *, dimensions: np.flip(a, dimensions),
    "slice": lambda a, *, start_indices, limit_indices, strides: a[
        tuple(map(slice, start_indices, limit_indices, strides or [1] * a.ndim))
    ],
    "split": lambda a, *, sizes, axis: np.split(a, np.cumsum(sizes)[:-1], axis),
    "squeeze": lambda a, *, dimensions: np.squeeze(a, dimensions),
    "stack": lambda *parts, axis: np.stack(parts, axis),
    "transpose": lambda a, *, permutation: np.transpose(a, permutation),
    "unstack": lambda a, *, axis: list(np.moveaxis(a, axis, 0)),
}


# ---------------------------------------------------------------- influences on a pattern


class Pattern(NamedTuple):
    """Sparsity patterns (bool): ``kept`` and ``by_theta [n, P]``, ``by_s [n, n]``."""

    kept: Bool[np.ndarray, "n P"]
    by_theta: Bool[np.ndarray, "n P"]
    by_s: Bool[np.ndarray, "n n"]


def reach(model: Model, steps: int | None) -> Pattern:
    """Return the entries of M that params reach within a number of steps, or ever; complex numbers as a whole."""
    by_theta, by_s = step_pattern(model.step, model.params, model.carry)
    partner = partners(model.carry)
    by_theta = by_theta | by_theta[partner]
    by_s = by_s | by_s[partner]
    by_s = by_s | by_s[:, partner]
    kept, done = by_theta, 1
    while steps is None or done < steps:
        further = by_theta | ((by_s.astype(np.float32) @ kept.astype(np.float32)) > 0)
        if (further == kept).all():
            break
        kept, done = further, done + 1
    return Pattern(kept, by_theta, by_s)


def partners(carry: Coordinates) -> Int[np.ndarray, " n"]:
    """Return for each coordinate the index of the other half of its complex number, or its own index."""
    found, position = np.arange(carry.size), 0
    chosen = [leaf for leaf, is_chosen in zip(carry.leaves, carry.chosen, strict=True) if is_chosen]
    for leaf, size in zip(chosen, carry.sizes, strict=True):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            found[position : position + size] = position + np.roll(np.arange(size), size // 2)
        position += size
    return found


def is_elementwise(model: Model, pattern: Pattern) -> bool:
    """Return whether the recurrent Jacobian is diagonal, up to the two halves of a complex number."""
    own = np.eye(model.carry.size, dtype=bool)
    return not (pattern.by_s & ~(own | own[partners(model.carry)])).any()


class Block(NamedTuple):
    """G sets of r rows, and the c columns of each set: ``rows [G, r]``, ``columns [G, c]`` (padded with P)."""

    rows: Int[np.ndarray, "G r"]
    columns: Int[np.ndarray, "G c"]


def blocks_of(kept: Bool[np.ndarray, "n P"]) -> list[Block]:
    """Return the blocks of a pattern ``[n, P]``; columns without any row belong to no block."""
    sets, members = np.unique(kept.T, axis=0, return_inverse=True)
    order = [np.flatnonzero(members.ravel() == i) for i in range(len(sets))]
    found = []
    for number in sorted(set(sets.sum(1).tolist()) - {0}):
        chosen = np.flatnonzero(sets.sum(1) == number)
        width = max(len(order[i]) for i in chosen)
        columns = np.full((len(chosen), width), kept.shape[1])
        for g, i in enumerate(chosen):
            columns[g, : len(order[i])] = order[i]
        found.append(Block(np.stack([np.flatnonzero(sets[i]) for i in chosen]), columns))
    return found


def colors(pattern: Bool[np.ndarray, "n m"]) -> Int[np.ndarray, " n"]:
    """Return a color ``[n]`` for each row of a pattern; rows of one color have no column in common."""
    taken: list[np.ndarray] = []
    found = np.zeros(len(pattern), int)
    for i, row in enumerate(pattern):
        free = [c for c, used in enumerate(taken) if not (used & row).any()]
        found[i] = free[0] if free else len(taken)
        if free:
            taken[free[0]] = taken[free[0]] | row
        else:
            taken.append(row)
    return found


def sparse(model: Model, pattern: Pattern) -> Rule:
    """Return the rule that stores M on a pattern."""
    n, size = pattern.kept.shape
    dtype = jnp.promote_types(model.params.dtype, model.carry.dtype)
    blocks = blocks_of(pattern.kept)
    colors_theta, colors_s = colors(pattern.by_theta), colors(pattern.by_s)
    # At entries outside the pattern, the sum over the rows of a color contains values of other rows.
    by_theta_or_none = np.concatenate([pattern.by_theta, np.zeros((n, 1), bool)], 1)

    def rows_of(pull: Callable, color: np.ndarray, of: Any) -> jax.Array:
        sums = jnp.asarray(np.arange(color.max(initial=0) + 1)[:, None] == color, of.dtype)
        return jax.vmap(pull)(vary_like(sums, of))

    def advance(step: Any, theta: jax.Array, s: jax.Array, influence: list, key: Any) -> list:
        after, pull = jax.vjp(step, theta, s)
        by_theta = rows_of(lambda ct: pull(ct)[0], colors_theta, after)
        by_s = rows_of(lambda ct: pull(ct)[1], colors_s, after)
        found = []
        for (rows, columns), held in zip(blocks, influence, strict=True):
            into, out_of, column = rows[:, :, None], rows[:, None, :], columns[:, None, :]
            jacobian = jnp.where(pattern.by_s[into, out_of], by_s[colors_s[into], out_of], 0)
            direct = by_theta.at[colors_theta[into], column].get(mode="fill", fill_value=0)
            found.append(jacobian @ held + jnp.where(by_theta_or_none[into, column], direct, 0))
        return found

    def read(influence: list, delta: jax.Array) -> jax.Array:
        found = jnp.zeros(size, dtype)
        for (rows, columns), held in zip(blocks, influence, strict=True):
            through = jnp.einsum("gr,grc->gc", delta[rows], held)
            found = found.at[columns].add(through, mode="drop")
        return found

    def zero() -> list:
        return [jnp.zeros((*b.rows.shape, b.columns.shape[1]), dtype) for b in blocks]

    return Rule(zero=zero, read=read, advance=advance)
