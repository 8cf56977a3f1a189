"""A layer of seqjax as a module of flax.nnx."""

from typing import Any

import jax
from flax import nnx

from seqjax.base import Layer
from seqjax.interop.linen_layer import check_layer


class NnxLayer(nnx.Module):
    """A layer of seqjax inside flax.nnx: each array of its params is a ``nnx.Param``.

    After ``module.eval()`` the layer is deterministic; after ``module.train()`` it draws from the stream "dropout".

    Args:
        layer: any `seqjax.Layer`; put `seqjax.batch_major` around it for inputs ``[B, T, ...]``.
        x: one time step of the inputs, ``[*B, ...]``, or its shape and dtype.
        rngs: random streams, "params" for the initial params.
        params: params to take instead of new ones, for example from `seqjax.interop.from_torch`.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> from flax import nnx
        >>> module = sj.interop.NnxLayer(sj.recurrent(sj.lstm(8)), jnp.ones((4, 3)), rngs=nnx.Rngs(0))
        >>> carry, ys = module(jnp.ones((10, 4, 3)))
        >>> ys.shape
        (10, 4, 8)
    """

    def __init__(self, layer: Layer, x: Any, *, rngs: nnx.Rngs, params: Any = None):
        check_layer("NnxLayer", layer)
        self.layer = nnx.static(layer)
        values = layer.init(rngs.params(), x) if params is None else params
        leaves, form = jax.tree.flatten(values)
        self.form = nnx.static(form)
        self.weights = nnx.List([nnx.Param(leaf) for leaf in leaves])
        self.rngs = rngs.dropout.fork() if hasattr(rngs, "dropout") else None
        self.deterministic = False

    @property
    def params(self) -> Any:
        """The params as the layer has them, a pytree of arrays."""
        return jax.tree.unflatten(self.form, [leaf[...] for leaf in self.weights])

    def __call__(self, xs: Any, carry: Any = None, *, reset: Any = None, mask: Any = None) -> tuple[Any, Any]:
        """Return ``(carry, ys)`` of `Layer.unroll`."""
        key = None if self.deterministic or self.rngs is None else self.rngs()
        return self.layer.unroll(self.params, carry, xs, reset=reset, mask=mask, key=key)
