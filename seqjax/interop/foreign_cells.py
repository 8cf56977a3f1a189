"""Recurrent cells of Flax, Haiku and Equinox as cells of seqjax, run as they are."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqjax.base import Cell, Step
from seqjax.layers.nnx_modules import as_dict, as_state
from seqjax.values import definition


@definition
def flax_cell(module: Any) -> Cell:
    """Return a cell of flax.linen or flax.nnx as a cell of seqjax, with all that seqjax does with cells.

    The recurrence is a `Step`, since a module does not say more. `seqjax.interop.from_flax` copies the weights into
    cells that have faster methods. The module must be deterministic.

    Shapes: those of the module: x ``[*B, D]`` -> y ``[*B, H]``; params and carry are the module's. The params of an nnx
    module are nested dicts; `init` returns those that the module has.

    Args:
        module: an instance of flax.linen.RNNCellBase or flax.nnx.RNNCellBase.

    Raises:
        TypeError: for other modules, and for nnx modules with state other than params and random streams.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> layer = sj.recurrent(sj.interop.flax_cell(nn.MGUCell(4)))
        >>> xs = jnp.ones((5, 2, 3))
        >>> layer.unroll(layer.init(jax.random.key(0), xs[0]), None, xs)[1].shape
        (5, 2, 4)
    """
    if isinstance(module, nn.RNNCellBase):
        return _linen_cell(module)
    from flax import nnx

    if not isinstance(module, nnx.RNNCellBase):
        raise TypeError(
            f"flax_cell(module): expected an RNNCellBase of flax.linen or flax.nnx, got {type(module).__name__}."
        )
    return _nnx_cell(module)


def _linen_cell(module: Any) -> Cell:
    def init(key: jax.Array, x: Any) -> Any:
        x = jnp.zeros(x.shape, x.dtype)
        variables = module.init(key, start(None, x), x)
        other = sorted(set(variables) - {"params"})
        if other:
            raise TypeError(
                f"flax_cell({module!r}): expected a module with params alone, got also {', '.join(other)}."
            )
        return variables["params"]

    def start(params: Any, x: Any) -> Any:
        carry = module.initialize_carry(jax.random.key(0), x.shape)
        return _from(x, carry)

    def step(params: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        after, y = module.apply({"params": params}, carry, x)
        return _in_dtypes(carry, after), y.astype(x.dtype)

    return Cell(init=init, initial_carry=start, recurrence=Step(step), event_ndim=module.num_feature_axes)


def _nnx_cell(module: Any) -> Cell:
    from flax import nnx

    everything: Any = nnx.split(module, nnx.Param, nnx.RngState, ...)
    graph, params, rngs, other = everything
    kinds = sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(other)})
    if kinds:
        raise TypeError(
            f"flax_cell({type(module).__name__}): expected a module with params alone, got also {', '.join(kinds)}."
        )
    own = as_dict(params)

    def step(values: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        after, y = nnx.merge(graph, as_state(params, values), rngs)(carry, x)
        return _in_dtypes(carry, after), y.astype(x.dtype)

    def start(values: Any, x: Any) -> Any:
        return _from(x, module.initialize_carry(tuple(x.shape), nnx.Rngs(0)))

    return Cell(
        init=lambda key, x: jax.tree.map(jnp.array, own),  # copies, which a training step may donate
        initial_carry=start,
        recurrence=Step(step),
        event_ndim=module.num_feature_axes,
    )


@definition
def haiku_cell(make: Callable) -> Cell:
    """Return a core of Haiku as a cell of seqjax.

    Shapes: those of the core; params are Haiku's, ``{module: {name: array}}``.

    Args:
        make: a function without arguments that makes the core, such as ``lambda: hk.LSTM(8)``. A function at the top
            level of a module makes the cell a value that can be pickled.

    Raises:
        TypeError: for anything else than a function, and from `init` where the core has state or draws numbers.

    Example:
        >>> import haiku as hk, jax, jax.numpy as jnp, seqjax as sj                   # doctest: +SKIP
        >>> layer = sj.recurrent(sj.interop.haiku_cell(lambda: hk.GRU(4)))            # doctest: +SKIP
    """
    import haiku as hk

    if not callable(make) or isinstance(make, hk.RNNCore):
        raise TypeError(
            f"haiku_cell(make): expected a function that makes a core, got {type(make).__name__}. Write "
            "haiku_cell(lambda: hk.LSTM(8)), since Haiku makes modules inside hk.transform."
        )
    run: Any = hk.without_apply_rng(hk.transform(lambda x, carry: make()(x, carry)))
    begin: Any = hk.without_apply_rng(hk.transform(lambda size: make().initial_state(size)))

    def start(params: Any, x: Any) -> Any:
        carry = begin.apply({} if params is None else params, None)
        return jax.tree.map(lambda a: _broadcast(x, a), carry)

    def init(key: jax.Array, x: Any) -> Any:
        x = jnp.zeros(x.shape[-1:], x.dtype)
        return run.init(key, x, start(None, x))

    def step(params: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        y, after = _over_batch(lambda c, one: run.apply(params, one, c), x.ndim - 1)(carry, x)
        return _in_dtypes(carry, after), y.astype(x.dtype)

    return Cell(init=init, initial_carry=start, recurrence=Step(step))


def equinox_cell(module: Callable) -> Cell:
    """Return a recurrent cell of Equinox, such as equinox.nn.GRUCell, as a cell of seqjax.

    Equinox' cells take one example, ``module(x [D], carry) -> carry``, and emit their carry: h, or the h of (h, c).

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; the carry is the module's with batch axes; params are the module's floating
    arrays, as a module. `init` returns those that the module has, whatever the key. A cell that holds arrays is no
    value: it equals only itself and cannot be pickled.

    Args:
        module: equinox.nn.LSTMCell, equinox.nn.GRUCell, or a module with ``hidden_size`` that is called as these.

    Raises:
        TypeError: for other modules.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, seqjax as sj                        # doctest: +SKIP
        >>> cell = sj.interop.equinox_cell(eqx.nn.GRUCell(3, 4, key=jax.random.key(0)))       # doctest: +SKIP
    """
    import equinox as eqx

    if not isinstance(module, eqx.Module) or not hasattr(module, "hidden_size"):
        raise TypeError(
            f"equinox_cell(module): expected a cell such as equinox.nn.GRUCell, got {type(module).__name__}."
        )
    params, static = eqx.partition(module, eqx.is_inexact_array)
    size, pair = module.hidden_size, isinstance(module, eqx.nn.LSTMCell)

    def start(values: Any, x: Any) -> Any:
        zeros = _broadcast(x, jnp.zeros(size, x.dtype))
        return (zeros, zeros) if pair else zeros

    def step(values: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        cell = eqx.combine(values, static)
        after = _over_batch(lambda c, one: cell(one, c), x.ndim - 1)(carry, x)
        after = _in_dtypes(carry, after)
        return after, after[0] if pair else after

    return Cell(
        init=lambda key, x: jax.tree.map(jnp.array, params), initial_carry=start, recurrence=Step(step)
    )


# ---------------------------------------------------------------- what the cells share


def _over_batch(function: Callable, axes: int) -> Callable:
    """Map a function of one example over the batch axes."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def _broadcast(x: Any, leaf: jax.Array) -> jax.Array:
    """Return a carry of one example for all rows of x ``[*B, D]``, in the dtype of x."""
    return jnp.broadcast_to(leaf.astype(x.dtype), (*x.shape[:-1], *leaf.shape))


def _from(x: Any, carry: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(x.dtype), carry)


def _in_dtypes(before: Any, after: Any) -> Any:
    return jax.tree.map(lambda old, new: new.astype(old.dtype), before, after)
