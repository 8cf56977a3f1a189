"""Params of which each device holds a share: gathered before a step's loops, their gradients added up after them.

All leaves of one dtype travel in one message. For code inside ``jax.shard_map``; a leaf's PartitionSpec says by which
of its axes it is shared, if at all.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Estimate


def gathered(params: Any, specs: Any) -> Any:
    """The whole params from every device's shares: one gather per dtype."""

    def gather(rows: jax.Array, axis: str) -> jax.Array:
        return jax.lax.all_gather(rows, axis, tiled=True)

    return _packed(params, specs, gather, whole=False)


def added_up(estimate: Estimate, specs: Any, names: tuple[str, ...]) -> Estimate:
    """The sum over the devices along the named axes; of the gradients of shared leaves each device keeps its share.

    One reduce-scatter per dtype, then one sum of all else, over the other axes the shares as well.
    """
    axes = _axes(specs)

    def share(rows: jax.Array, axis: str) -> jax.Array:
        return jax.lax.psum_scatter(rows, axis, scatter_dimension=0, tiled=True)

    shares = _packed(estimate.gradients, specs, share, whole=True)
    leaves, treedef = jax.tree.flatten(shares)
    kept = [i for i, axis in enumerate(axes) if axis is not None]
    rest = tuple(name for name in names if name not in {axes[i] for i in kept})
    whole = [None if i in kept else leaf for i, leaf in enumerate(leaves)]
    total, count, whole = jax.lax.psum((estimate.total, estimate.count, whole), names)
    if kept and rest:
        some = jax.lax.psum([leaves[i] for i in kept], rest)
        leaves = [some[kept.index(i)] if i in kept else leaf for i, leaf in enumerate(leaves)]
    leaves = [leaf if i in kept else whole[i] for i, leaf in enumerate(leaves)]
    return Estimate(total, count, jax.tree.unflatten(treedef, leaves))


def _axes(specs: Any) -> list[str | None]:
    """The mesh axis by which each leaf is shared."""
    return [next((e for e in spec if e is not None), None) for spec in jax.tree.leaves(specs)]


def _packed(tree: Any, specs: Any, talk: Callable, *, whole: bool) -> Any:
    """The tree with whole leaves made shares, or shares made whole; those that are not shared as they are.

    ``talk: (rows, axis) -> rows``: from a matrix ``[n, S]``, a row for each device, to the one row of this device, or
    the other way round. Its columns are the numbers of one share of all leaves of a dtype.
    """
    leaves, treedef = jax.tree.flatten(tree)
    groups: dict[Any, list[tuple[int, int, str]]] = {}
    for i, spec in enumerate(jax.tree.leaves(specs)):
        for dim, axis in enumerate(spec):
            if axis is not None:
                groups.setdefault((axis, leaves[i].dtype), []).append((i, dim, axis))
    for (axis, _), group in groups.items():
        size = jax.lax.axis_size(axis)
        before, after = (size, 1) if whole else (1, size)
        fronts = [jnp.moveaxis(leaves[i], dim, 0) for i, dim, _ in group]
        rows = talk(jnp.concatenate([front.reshape(before, -1) for front in fronts], 1), axis)
        ends = list(itertools.accumulate(front.size // before for front in fronts))
        columns = jnp.split(rows, ends[:-1], 1)
        for (i, dim, _), front, part in zip(group, fronts, columns, strict=True):
            shape = (front.shape[0] * after // before, *front.shape[1:])
            leaves[i] = jnp.moveaxis(part.reshape(shape), 0, dim)
    return jax.tree.unflatten(treedef, leaves)
