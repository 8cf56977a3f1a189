"""Flax modules and plain functions, applied to every time step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqjax.base import Key, Layer, Params, X, Xs
from seqjax.layers.modules import EXPECTED, call_arguments, check_module, with_dropout
from seqjax.layers.nnx_modules import Parts, is_nnx, nnx_parts
from seqjax.layers.stateless import stateless
from seqjax.ops.select import cast, wide
from seqjax.products import merge, mergeable
from seqjax.values import definition


@definition
def pointwise(module: Callable, *, event_ndim: int | None = None) -> Layer:
    """Apply a module of flax (linen or nnx), or a plain function, to every time step of every example by itself.

    The module receives one example at one time step, so that a convolution, for example, cannot mix rows of the batch
    or time steps. Its params are cast to its own ``dtype``, or else to the dtype of the inputs. Its dropout draws from
    the layer's key. Without a key the module is deterministic: `pointwise` sets the field ``deterministic`` of the
    module and of all modules inside it, and passes ``train=``, ``training=``, ``is_training=`` or ``deterministic=``
    where ``__call__`` takes such an argument.

    A flax.nnx module is split into a graph and its params, which become nested dicts with the names of its attributes.
    The module itself never changes. `init` returns the params that the module has, whatever the key; a
    `functools.partial` of its class, such as ``partial(nnx.Linear, 3, 2)``, is called with ``rngs=`` of the key
    instead, and is also a value that can be compared, pickled and saved.

    Args:
        module: a module of flax.linen or flax.nnx without other state than params and random streams; a
            `functools.partial` of a class of flax.nnx; or a function ``x -> y``.
        event_ndim: how many axes of the input follow time and batch: by default none for integers (tokens), one for
            floats (features).

    Raises:
        TypeError: for modules of other libraries, cells, classes, and functions that hold arrays or modules, such as a
            partial over weights: the weights would never be trained; and for a module with state other than params and
            random streams, such as BatchNorm (from `init` for flax.linen).

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> head = sj.pointwise(nn.Dense(2))
        >>> head
        pointwise(module=Dense(features=2))
        >>> params = head.init(jax.random.key(0), jnp.ones((4, 3)))
        >>> head.unroll(params, (), jnp.ones((10, 4, 3)))[1].shape
        (10, 4, 2)
    """
    parts: Parts | None = None
    if is_nnx(module):
        parts = nnx_parts(EXPECTED, module)
    else:
        check_module(module)
        if isinstance(module, nn.Module):
            parts = _linen_parts(module)

    def one(params: Params, x: X, key: Key | None) -> Any:
        """Apply the module to one example at one time step."""
        if parts is None:
            return module(x)
        leaf = jax.tree.leaves(x)[0]
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            dtype = jnp.dtype(parts.dtype or leaf.dtype)
            params = cast(_spread_over_examples(params, leaf) if dtype.itemsize < 4 else params, dtype)
        return parts.call(params, x, key)

    def batch_shape(x: X) -> tuple[int, ...]:
        leaf = jax.tree.leaves(x)[0]
        floating = jnp.issubdtype(leaf.dtype, jnp.inexact)
        own = (1 if floating else 0) if event_ndim is None else event_ndim
        if leaf.ndim < own:
            raise ValueError(
                f"pointwise({module!r}): expected [*B, ...] with {own} axes per example, got {leaf.shape}."
            )
        return leaf.shape[: leaf.ndim - own]

    def init(key: Key, x: X) -> Params:
        if parts is None:
            return ()
        batch = len(batch_shape(x))
        return parts.init(key, jax.tree.map(lambda leaf: jnp.zeros_like(leaf, shape=leaf.shape[batch:]), x))

    def rows(params: Params, x: X, keys: Any) -> Any:
        """Apply the module to inputs and keys with the same leading axes, or to inputs and no keys."""
        shape = batch_shape(x)
        fn = one
        if merged := mergeable((x, keys), len(shape)):
            x, keys = merge((x, keys), len(shape))
        for _ in shape[:1] if merged else shape:
            fn = jax.vmap(fn, (None, 0, None if keys is None else 0))
        ys = fn(params, x, keys)
        return jax.tree.map(lambda y: y.reshape(*shape, *y.shape[1:]), ys) if merged else ys

    def apply(params: Params, x: X, key: Key | None) -> Any:
        return rows(params, x, None if key is None else jax.random.split(key, batch_shape(x)))

    def over_time(params: Params, xs: Xs, keys: Any) -> Any:
        split = jax.vmap(partial(jax.random.split, num=batch_shape(xs)[1:]))
        return rows(params, xs, None if keys is None else split(keys))

    return stateless(init, apply, over_time=over_time, event_ndim=event_ndim)


def _linen_parts(module: Any) -> Parts:
    """Return the parts of a flax.linen module."""

    def init(key: Key, example: X) -> Params:
        with with_dropout(deterministic=True):
            variables = module.init(key, example, **call_arguments(module, None))
        other = sorted(set(variables) - {"params"})
        if other:
            raise TypeError(
                f"pointwise({module!r}): expected a module with params alone, got a module that also has "
                f"{', '.join(other)}. State over time belongs in the carry of a cell; for normalization use "
                "LayerNorm or RMSNorm."
            )
        return variables.get("params", {})

    def call(params: Params, x: X, key: Key | None) -> Any:
        rngs = None if key is None else {"dropout": key}
        with with_dropout(deterministic=key is None):
            return module.apply({"params": params}, x, rngs=rngs, **call_arguments(module, key))

    return Parts(init, call, getattr(module, "dtype", None))


def _spread_over_examples(params: Params, x: jax.Array) -> Any:
    """Return the params that have one number per unit in float32, with a copy for each x under `jax.vmap`.

    After a cast to bfloat16, their gradients still add up over the copies, that is over steps and examples, in float32.
    A condition that reads x and is never True makes the copies.
    """
    never = jnp.any(x != x) & False

    def spread(p: jax.Array) -> jax.Array:
        if p.ndim > 1 or not jnp.issubdtype(p.dtype, jnp.floating):
            return p
        p = p.astype(wide(p.dtype))
        return jnp.where(never, jnp.zeros_like(p), p)

    return jax.tree.map(spread, params)
