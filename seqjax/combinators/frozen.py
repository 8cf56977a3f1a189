"""A layer whose params have no gradient."""

import jax

from seqjax.base import Carry, Flags, Layer, Params, X, Xs, Ys
from seqjax.combinators.common import View, check_layers, composed
from seqjax.values import definition


@definition
def frozen(layer: Layer) -> Layer:
    """A layer whose params have no gradient; gradients by carry and inputs pass through it.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, x = sj.frozen(sj.recurrent(sj.elman(2))), jnp.ones((1, 3))
        >>> params = layer.init(jax.random.key(0), x)
        >>> jax.grad(lambda p: layer.step(p, layer.initial_carry(p, x), x)[1].sum())(params).b
        Array([0., 0.], dtype=float32)
    """
    check_layers("frozen", (layer,))

    def apply(view: View, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        return view.run(layer, jax.lax.stop_gradient(params), carry, xs, flags)

    def initial_carry(params: Params, x: X) -> Carry:
        return layer.initial_carry(jax.lax.stop_gradient(params), x)

    return composed(apply, parts=(layer,), initial_carry=initial_carry)
