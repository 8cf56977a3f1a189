"""A layer that reads a context vector at every step."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Key, Layer, Params, X, Xs, Ys
from seqjax.checks import check_one_of, check_whole
from seqjax.combinators.common import View, check_layers, composed, constant_part, length_of
from seqjax.combinators.context import ConditionedCarry
from seqjax.values import definition


class ConditionedParams(NamedTuple):
    """Params of ``conditioned(..., merge="add")``: those of the layer; w ``[S, D]``."""

    layer: Any
    w: jax.Array


@definition
def conditioned(
    layer: Layer,
    context_size: int,
    *,
    merge: Literal["concatenate", "add"] = "concatenate",
    param_dtype: Any = jnp.float32,
) -> Layer:
    r"""A layer that reads a context vector s (of a speaker, a class, an image) at every step.

    .. math::
        x'_t = [x_t, s] \quad\text{("concatenate")}, \qquad x'_t = x_t + s W \quad\text{("add")}

    Shapes: x ``[*B, D]``; carry ``ConditionedCarry(carry, context [*B, S])``, the context is zero until `set_context`;
    params are those of the layer (for inputs ``D + S``), or ``ConditionedParams(layer, w [S, D])``.

    Args:
        layer: any layer.
        context_size: S.
        merge: how the context joins the input. W starts with variance 1/S.
        param_dtype: of W.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, x = sj.conditioned(sj.recurrent(sj.lstm(8)), 2), jnp.ones((4, 3))
        >>> params = layer.init(jax.random.key(0), x)
        >>> carry = sj.set_context(layer.initial_carry(params, x), jnp.ones((4, 2)))
        >>> params.w_x.shape, layer.step(params, carry, x)[1].shape
        ((5, 32), (4, 8))
    """
    check_layers("conditioned", (layer,))
    check_whole("conditioned(context_size)", context_size)
    check_one_of("conditioned(merge)", merge, ("concatenate", "add"))
    adds = merge == "add"

    def joined(x: X) -> Any:
        """Return zeros in the shape of the layer's input."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"conditioned(...): expected floating x [*B, D], got {x.dtype} {list(x.shape)}. "
                "Turn tokens into vectors first."
            )
        width = x.shape[-1] + (0 if adds else context_size)
        return jnp.broadcast_to(jnp.zeros_like(x)[..., :1], (*x.shape[:-1], width))

    def init(key: Key, x: X) -> Params:
        params = layer.init(jax.random.fold_in(key, 0), joined(x))
        if not adds:
            return params
        w = jax.random.normal(jax.random.fold_in(key, 1), (context_size, x.shape[-1]), param_dtype)
        return ConditionedParams(params, w / context_size**0.5)

    def initial_carry(params: Params, x: X) -> ConditionedCarry:
        inner = layer.initial_carry(params.layer if adds else params, joined(x))
        context = jnp.broadcast_to(jnp.zeros_like(x)[..., :1], (*x.shape[:-1], context_size))
        return ConditionedCarry(inner, context)

    def apply(view: View, params: Params, carry: ConditionedCarry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        tap = None if flags.tap is None else flags.tap.context
        context, s = constant_part(view, carry.context, length_of(view, xs), tap)
        s = s.astype(xs.dtype)
        if adds:
            xs = xs + s @ params.w.astype(xs.dtype)
        else:
            xs = jnp.concatenate([xs, s], -1)
        inner = params.layer if adds else params
        after, ys = view.run(layer, inner, carry.carry, xs, flags.of(lambda tap: tap.carry))
        return ConditionedCarry(after, context), ys

    return composed(apply, parts=(layer,), init=init, initial_carry=initial_carry)
