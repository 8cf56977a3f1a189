"""A layer of seqjax as a module of flax.linen."""

from typing import Any

import flax.linen as nn
import jax

from seqjax.base import Cell, Layer


class LinenLayer(nn.Module):
    """A layer of seqjax inside flax.linen: its params are the module's param "layer".

    Without the random stream "dropout" the layer is deterministic.

    Attributes:
        layer: any `seqjax.Layer`; put `seqjax.batch_major` around it for inputs ``[B, T, ...]``.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> class Tagger(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, xs):
        ...         _, ys = sj.interop.LinenLayer(sj.batch_major(sj.recurrent(sj.lstm(8))))(xs)
        ...         return nn.Dense(2)(ys)
        >>> variables = Tagger().init(jax.random.key(0), jnp.ones((4, 10, 3)))
        >>> Tagger().apply(variables, jnp.ones((4, 10, 3))).shape
        (4, 10, 2)
    """

    layer: Layer

    @nn.compact
    def __call__(self, xs: Any, carry: Any = None, *, reset: Any = None, mask: Any = None) -> tuple[Any, Any]:
        """Return ``(carry, ys)`` of `Layer.unroll`."""
        check_layer("LinenLayer", self.layer)
        params = self.param("layer", lambda key: self.layer.init(key, first_of(self.layer, xs)))
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        return self.layer.unroll(params, carry, xs, reset=reset, mask=mask, key=key)


def check_layer(who: str, layer: Any) -> None:
    """Raise a TypeError unless this is a layer."""
    if not isinstance(layer, Layer):
        hint = "Bind a cell with recurrent(cell)." if isinstance(layer, Cell) else "Pass a layer of seqjax."
        raise TypeError(f"{who}: expected a layer, got {layer!r}. {hint}")


def first_of(layer: Layer, xs: Any) -> Any:
    """Return one time step of the inputs of a layer."""
    return jax.tree.map(lambda a: a[:, 0] if layer.batch_major else a[0], xs)
