"""Layers one after the other."""

import jax

from seqjax.base import Carry, Flags, Key, Layer, X, Xs, Ys
from seqjax.combinators.common import View, check_layers, composed, output_of
from seqjax.values import definition


@definition
def serial(*layers: Layer) -> Layer:
    """Layers one after the other: each reads the outputs of the layer before it.

    Params and carry are tuples, one entry per layer.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> model = sj.serial(sj.pointwise(nn.Embed(256, 8)), sj.recurrent(sj.gru(16)), sj.pointwise(nn.Dense(256)))
        >>> tokens = jnp.zeros((10, 4), int)
        >>> params = model.init(jax.random.key(0), tokens[0])
        >>> carry, logits = model.unroll(params, model.initial_carry(params, tokens[0]), tokens)
        >>> logits.shape
        (10, 4, 256)
    """
    check_layers("serial", layers)

    def init(key: Key, x: X) -> tuple:
        params = []
        for number, layer in enumerate(layers):
            params.append(layer.init(jax.random.fold_in(key, number), x))
            x = output_of(layer, params[-1], x)
        return tuple(params)

    def initial_carry(params: tuple, x: X) -> tuple:
        carries = []
        for layer, p in zip(layers, params, strict=True):
            carries.append(layer.initial_carry(p, x))
            x = output_of(layer, p, x)
        return tuple(carries)

    def apply(view: View, params: tuple, carry: tuple, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        after = []
        for number, layer in enumerate(layers):
            c, xs = view.run(layer, params[number], carry[number], xs, flags.part(number))
            after.append(c)
        return tuple(after), xs

    return composed(apply, parts=layers, init=init, initial_carry=initial_carry, readers=layers[:1])
