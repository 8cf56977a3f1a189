"""A layer several times on top of itself, as one loop over depth."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Key, Layer, Params, X, Xs, Y, Ys
from seqjax.checks import check_whole
from seqjax.combinators.common import View, batch_shape, check_layers, composed, example_of, output_of
from seqjax.ops.tap import norm
from seqjax.values import definition


@definition
def repeat(layer: Layer, depth: int, *, remat: bool = False, event_ndim: int | None = None) -> Layer:
    """Stack a layer `depth` times, each time with its own params, as one loop over depth.

    Equals ``serial(layer, ..., layer)`` with the same key, but the compiled program contains the layer once. Params are
    the layer's with a leading axis ``[depth, ...]``; carry leaves are ``[*B, depth, ...]``.

    Args:
        layer: a layer whose outputs have the shape and dtype of its inputs.
        depth: how many times.
        remat: recompute each layer in the backward pass instead of storing its residuals. Memory is then needed for
            the inputs of every layer and the residuals of one.
        event_ndim: how many axes of x are the example's own: by default none for integers, one for floats.

    Raises:
        ValueError: when the output differs from the input in shape or dtype.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.repeat(sj.residual(sj.recurrent(sj.lstm(8))), 6)
        >>> params = layer.init(jax.random.key(0), jnp.ones((4, 8)))
        >>> params.w_h.shape, layer.initial_carry(params, jnp.ones((4, 8))).h.shape
        ((6, 8, 32), (4, 6, 8))
    """
    check_layers("repeat", (layer,))
    check_whole("repeat(depth)", depth)

    def check(x: X, y: Y) -> None:
        form = partial(jax.tree.map, lambda a: (tuple(a.shape), jnp.dtype(a.dtype).name))
        before, after = form(x), form(y)
        if before != after:
            raise ValueError(
                f"repeat({layer!r}): expected an output of the input's shape and dtype {before}, got {after}."
            )

    def init(key: Key, x: X) -> Params:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(depth, dtype=jnp.uint32))
        params = jax.vmap(lambda k: layer.init(k, x), axis_size=depth)(keys)
        check(x, output_of(layer, jax.tree.map(lambda p: p[0], params), x))
        return params

    def initial_carry(params: Params, x: X) -> Carry:
        axis = len(batch_shape("repeat", x, event_ndim))
        return jax.vmap(lambda p: layer.initial_carry(p, x), out_axes=axis, axis_size=depth)(params)

    def apply(view: View, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        axis = len(batch_shape("repeat", example_of(view, xs), event_ndim))

        def one(xs: Xs, inputs: Any) -> Any:
            number, p, c, tap = inputs
            c, ys = view.run(layer, p, c, xs, flags.part_key(number)._replace(tap=tap))
            check(xs, ys)
            return ys, c

        carry = jax.tree.map(lambda c: jnp.moveaxis(c, axis, 0), carry)
        taps = jax.tree.map(lambda d: _spread(d, depth), flags.tap)
        numbers = jnp.arange(depth, dtype=jnp.uint32)
        ys, carry = jax.lax.scan(jax.checkpoint(one) if remat else one, xs, (numbers, params, carry, taps))
        return jax.tree.map(lambda c: jnp.moveaxis(c, 0, axis), carry), ys

    return composed(apply, parts=(layer,), init=init, initial_carry=initial_carry)


def _spread(dummy: jax.Array, depth: int) -> jax.Array:
    """Copy the dummy of a tap for each layer; its gradient is the norm of the layers' norms, not their sum."""

    @jax.custom_vjp
    def spread(dummy: jax.Array) -> jax.Array:
        return jnp.broadcast_to(dummy[None], (depth, *dummy.shape))

    spread.defvjp(
        lambda dummy: (spread(dummy), None),
        lambda _, norms: (norm(jnp.moveaxis(norms, 0, -1), norms.ndim - 1).astype(norms.dtype),),
    )
    return spread(dummy)
