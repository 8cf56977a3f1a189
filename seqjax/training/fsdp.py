"""Fully sharded data parallelism: all-gather params before the loops of a step, reduce-scatter gradients after them.

All leaves of one dtype travel in one message. The functions run inside ``jax.shard_map``. The PartitionSpec of a leaf
says along which of its axes, if any, the leaf is sharded.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Estimate


def gathered(params: Any, specs: Any) -> Any:
    """Return the whole params from the shards of all devices, by one all-gather per dtype."""

    def gather(rows: jax.Array, axis: str) -> jax.Array:
        return jax.lax.all_gather(rows, axis, tiled=True)

    return _packed(params, specs, gather, whole=False)


def added_up(estimate: Estimate, specs: Any, names: tuple[str, ...]) -> Estimate:
    """Return the sum over the devices along the named axes; each device keeps its shard of sharded gradients.

    One reduce-scatter per dtype sums sharded gradients, and one all-reduce sums everything else. A further all-reduce
    sums the shards over the other axes.
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
    """Return the mesh axis along which each leaf is sharded."""
    return [next((e for e in spec if e is not None), None) for spec in jax.tree.leaves(specs)]


def _packed(tree: Any, specs: Any, collective: Callable, *, whole: bool) -> Any:
    """Return the tree with whole leaves turned into shards, or shards into whole leaves; other leaves stay.

    ``collective: (rows, axis) -> rows`` turns a matrix ``[n, S]``, with a row for each device, into the row of this
    device, or the row into the matrix. The columns are the numbers of one shard of all leaves of a dtype.
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
        rows = collective(jnp.concatenate([front.reshape(before, -1) for front in fronts], 1), axis)
        ends = list(itertools.accumulate(front.size // before for front in fronts))
        columns = jnp.split(rows, ends[:-1], 1)
        for (i, dim, _), front, part in zip(group, fronts, columns, strict=True):
            shape = (front.shape[0] * after // before, *front.shape[1:])
            leaves[i] = jnp.moveaxis(part.reshape(shape), 0, dim)
    return jax.tree.unflatten(treedef, leaves)
