"""Modules of flax.nnx in `seqjax.pointwise`: split into a graph, which is static, and params.

flax.nnx is imported only where a module of it is given.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Key, Params, X
from seqjax.layers.modules import call_arguments


class Parts(NamedTuple):
    """What `pointwise` needs of a module.

    Attributes:
        init: ``(key, example) -> params``.
        call: ``(params, x, key) -> y`` for one example at one step; a key of None is deterministic.
        dtype: the dtype in which the module computes, or None for that of the inputs.
    """

    init: Callable[[Key, X], Params]
    call: Callable[[Params, X, Key | None], Any]
    dtype: Any


def is_nnx(value: Any) -> bool:
    """Return whether a value is a module of flax.nnx, or a `functools.partial` of the class of one."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and (isinstance(value, nnx.Module) or _is_factory(value))


def _is_factory(value: Any) -> bool:
    nnx = sys.modules["flax.nnx"]
    function = value.func if isinstance(value, functools.partial) else None
    return isinstance(function, type) and issubclass(function, nnx.Module)


def nnx_parts(who: str, module: Any) -> Parts:
    """Return the parts of an nnx module, or of a partial of its class, which `init` calls with ``rngs=``.

    Raises:
        TypeError: for a cell, and for a module with state other than params and rngs.
    """
    from flax import nnx

    factory = _is_factory(module)
    made: Any = nnx.eval_shape(lambda: module(rngs=nnx.Rngs(0))) if factory else module
    name = type(made).__name__
    if isinstance(made, nnx.RNNCellBase):
        raise TypeError(
            f"{who}, got the cell {name}, which has a carry. Use a cell of seqjax, such as recurrent(lstm(8)), or "
            "seqjax.interop.flax_cell."
        )
    everything: Any = nnx.split(made, nnx.Param, nnx.RngState, ...)
    other = everything[3]
    kinds = sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(other)})
    if kinds:
        raise TypeError(
            f"{who}, got the nnx module {name}, which also has state of the kinds {', '.join(kinds)}. State over time "
            "belongs in the carry of a cell; for normalization use LayerNorm or RMSNorm."
        )
    graphs: dict[bool, Any] = {}
    for deterministic in (True, False):
        copy = nnx.clone(made)
        copy.set_attributes(deterministic=deterministic, raise_if_not_found=False)
        split: Any = nnx.split(copy, nnx.Param, nnx.RngState)
        graphs[deterministic], params, rngs = split
    own = None if factory else jax.tree.map(jnp.asarray, as_dict(params))

    def init(key: Key, example: X) -> Params:
        if not factory:
            return jax.tree.map(jnp.array, own)  # copies, which a training step may donate
        return as_dict(nnx.state(module(rngs=nnx.Rngs(key)), nnx.Param))

    def call(values: Params, x: X, key: Key | None) -> Any:
        state = as_state(params, values)
        merged = nnx.merge(
            graphs[key is None], state, _seeded(rngs, jax.random.key(0) if key is None else key)
        )
        return merged(x, **call_arguments(merged, key))

    return Parts(init, call, getattr(made, "dtype", None))


def _paths(state: Any) -> list[tuple[str, ...]]:
    """Return the names of the leaves of an nnx state, in the order of its leaves."""
    found = jax.tree_util.tree_flatten_with_path(state)[0]
    return [tuple(str(part.key) for part in path if hasattr(part, "key")) for path, _ in found]


def as_dict(state: Any) -> dict:
    """Return the params of an nnx state as nested dicts of arrays, with the names of its attributes."""
    tree: dict = {}
    for path, leaf in zip(_paths(state), jax.tree.leaves(state), strict=True):
        *parents, last = path
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree


def as_state(like: Any, tree: dict) -> Any:
    """Return the nnx state that `as_dict` turned into a tree."""
    leaves = [functools.reduce(lambda part, name: part[name], path, tree) for path in _paths(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _seeded(rngs: Any, key: Key) -> Any:
    """Return the state of random streams that start from a key."""
    leaves, treedef = jax.tree.flatten(rngs)
    form: Any = treedef
    fresh = [
        jax.random.fold_in(key, number)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for number, leaf in enumerate(leaves)
    ]
    return form.unflatten(fresh)
