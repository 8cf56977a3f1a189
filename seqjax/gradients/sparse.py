r"""Influences with a sparsity pattern: M ``[n, P]`` in blocks, one per set of rows.

Params that reach the same rows K of the carry share a block. The update of a block needs :math:`J_{KK}` alone:

.. math:: M_{K} \leftarrow J_{KK} M_{K} + D_{K}, \qquad J = \partial f/\partial s, \quad D = \partial f/\partial\theta

J and D are computed by pullbacks of the step. Rows whose derivatives have no column in common share one pullback of
their sum. An elementwise recurrence needs one pullback, a dense recurrence n.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.compat import vary_like
from seqjax.gradients.online import Model, Rule
from seqjax.gradients.reach import step_pattern
from seqjax.ops.vectors import Coordinates


class Pattern(NamedTuple):
    """Sparsity patterns (bool): ``kept`` and ``by_theta [n, P]``, ``by_s [n, n]``."""

    kept: np.ndarray
    by_theta: np.ndarray
    by_s: np.ndarray


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


def partners(carry: Coordinates) -> np.ndarray:
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

    rows: np.ndarray
    columns: np.ndarray


def blocks_of(kept: np.ndarray) -> list[Block]:
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


def colours(pattern: np.ndarray) -> np.ndarray:
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
    colours_theta, colours_s = colours(pattern.by_theta), colours(pattern.by_s)
    # At entries outside the pattern, the sum over the rows of a color contains values of other rows.
    by_theta_or_none = np.concatenate([pattern.by_theta, np.zeros((n, 1), bool)], 1)

    def rows_of(pull: Callable, colour: np.ndarray, of: Any) -> jax.Array:
        sums = jnp.asarray(np.arange(colour.max(initial=0) + 1)[:, None] == colour, of.dtype)
        return jax.vmap(pull)(vary_like(sums, of))

    def advance(step: Any, theta: jax.Array, s: jax.Array, influence: list, key: Any) -> list:
        after, pull = jax.vjp(step, theta, s)
        by_theta = rows_of(lambda ct: pull(ct)[0], colours_theta, after)
        by_s = rows_of(lambda ct: pull(ct)[1], colours_s, after)
        found = []
        for (rows, columns), held in zip(blocks, influence, strict=True):
            into, out_of, column = rows[:, :, None], rows[:, None, :], columns[:, None, :]
            jacobian = jnp.where(pattern.by_s[into, out_of], by_s[colours_s[into], out_of], 0)
            direct = by_theta.at[colours_theta[into], column].get(mode="fill", fill_value=0)
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
