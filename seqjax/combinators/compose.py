"""Layers side by side and on top of each other."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Flags, Layer
from seqjax.checks import check_one_of, check_whole
from seqjax.combinators.common import (
    View,
    batch_shape,
    check_layers,
    composed,
    example_of,
    output_of,
    wrapped,
)
from seqjax.ops.select import keep
from seqjax.ops.tap import norm
from seqjax.values import definition


@definition
def serial(*layers: Layer) -> Layer:
    """Layers one after the other. Params and carry are tuples, one entry per layer.

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

    def init(key: jax.Array, x: Any) -> tuple:
        params = []
        for number, layer in enumerate(layers):
            params.append(layer.init(jax.random.fold_in(key, number), x))
            x = output_of(layer, params[-1], x)
        return tuple(params)

    def initial_carry(params: tuple, x: Any) -> tuple:
        carries = []
        for layer, p in zip(layers, params, strict=True):
            carries.append(layer.initial_carry(p, x))
            x = output_of(layer, p, x)
        return tuple(carries)

    def apply(view: View, params: tuple, carry: tuple, xs: Any, flags: Flags) -> Any:
        after = []
        for number, layer in enumerate(layers):
            c, xs = view.run(layer, params[number], carry[number], xs, flags.part(number))
            after.append(c)
        return tuple(after), xs

    return composed(apply, parts=layers, init=init, initial_carry=initial_carry)


@definition
def residual(layer: Layer) -> Layer:
    """The layer's output plus its input: ``y = x + layer(x)``.

    Raises:
        ValueError: when the two have different shapes.

    Example:
        >>> import seqjax as sj
        >>> sj.residual(sj.recurrent(sj.lstm(8)))
        residual(layer=recurrent(cell=lstm(hidden_size=8)))
    """
    check_layers("residual", (layer,))

    def apply(view: View, params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        xs = keep(flags.mask, xs)
        carry, ys = view.run(layer, params, carry, xs, flags)
        if xs.shape != ys.shape:
            raise ValueError(
                f"residual({layer!r}): expected an output of the input's shape {list(xs.shape)}, got {list(ys.shape)}."
            )
        return carry, xs + ys.astype(xs.dtype)

    return wrapped(layer, apply)


class ParallelParams(NamedTuple):
    """Of ``parallel(..., merge="gate")``: branches, a tuple; w_gate ``[D, n]``, b_gate ``[n]`` for n branches."""

    branches: tuple
    w_gate: jax.Array
    b_gate: jax.Array


@definition
def parallel(
    *layers: Layer,
    merge: Literal["concatenate", "sum", "gate", "tuple"] = "concatenate",
    param_dtype: Any = jnp.float32,
) -> Layer:
    r"""Layers side by side on the same input.

    With ``merge="gate"`` the outputs, of one width, are weighted by a softmax over the n branches, which the input
    sets step by step:

    .. math::
        g_t = \mathrm{softmax}(x_t W_g + b_g), \qquad y_t = \sum_{i=1}^n g_{t,i}\, y_{t,i}

    W_g and b_g start at zero, so that all branches start with the same share 1/n.

    Shapes: x ``[*B, D]`` -> y ``[*B, H_1 + ... + H_n]`` ("concatenate"), the n outputs ("tuple"), or ``[*B, H]``. The
    carry is a tuple, one entry per layer; so are the params, or `ParallelParams` for "gate".

    Args:
        layers: one or more, of any kind.
        merge: "concatenate" on the last axis, "sum", "gate", or "tuple": the outputs as they are, of any shapes, for a
            cell whose inputs have several parts, or a function lifted by `pointwise`.
        param_dtype: of the params of the gate.

    Raises:
        ValueError: for outputs of different shapes where they are added.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.parallel(sj.recurrent(sj.lstm(8)), sj.recurrent(sj.lru(8)), merge="gate")
        >>> xs = jnp.ones((10, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> params.w_gate.shape, layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        ((3, 2), (10, 4, 8))

    References:
        Shazeer et al. 2017, "Outrageously large neural networks", arXiv:1701.06538, eq. 1-2 (a dense softmax gate over
        branches) and appendix A (gates start at zero).
    """
    check_one_of("parallel(merge)", merge, ("concatenate", "sum", "gate", "tuple"))
    if not layers:
        raise ValueError("parallel: expected one layer or more, got none.")
    check_layers("parallel", layers)
    gated = merge == "gate"

    def init(key: jax.Array, x: Any) -> Any:
        branches = tuple(h.init(jax.random.fold_in(key, i), x) for i, h in enumerate(layers))
        if not gated:
            return branches
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"parallel(merge='gate'): expected floating x [*B, D], from which the gate is computed, got {x!r}. "
                "Turn tokens into vectors first."
            )
        n = len(layers)
        return ParallelParams(branches, jnp.zeros((x.shape[-1], n), param_dtype), jnp.zeros(n, param_dtype))

    def initial_carry(params: Any, x: Any) -> tuple:
        branches = params.branches if gated else params
        return tuple(h.initial_carry(p, x) for h, p in zip(layers, branches, strict=True))

    def apply(view: View, params: Any, carry: tuple, xs: Any, flags: Flags) -> Any:
        branches = params.branches if gated else params
        pairs = [view.run(h, branches[i], carry[i], xs, flags.part(i)) for i, h in enumerate(layers)]
        after, outs = zip(*pairs, strict=True)
        if merge == "tuple":
            return after, outs
        if merge == "concatenate":
            return after, jnp.concatenate(outs, -1)
        if len({y.shape for y in outs}) > 1:
            shapes = ", ".join(str(list(y.shape)) for y in outs)
            raise ValueError(f"parallel(merge={merge!r}): expected outputs of one shape, got {shapes}.")
        if merge == "sum":
            return after, sum(outs[1:], outs[0])
        safe = keep(flags.mask, xs)
        shares = jax.nn.softmax(affine(safe, params.w_gate, params.b_gate), -1).astype(outs[0].dtype)
        weighted = [shares[..., i : i + 1] * y for i, y in enumerate(outs)]
        return after, sum(weighted[1:], weighted[0])

    return composed(apply, parts=layers, init=init, initial_carry=initial_carry)


@definition
def repeat(layer: Layer, depth: int, *, remat: bool = False, event_ndim: int | None = None) -> Layer:
    """A layer `depth` times on top of itself, each time with params of its own, as one loop over depth.

    Equals ``serial(layer, ..., layer)`` with the same key, but the program holds the layer once. Params are the
    layer's with a leading axis ``[depth, ...]``; carry leaves are ``[*B, depth, ...]``.

    Args:
        layer: gives outputs of the shape and dtype of its inputs.
        depth: how many times.
        remat: compute each layer again in the backward pass instead of keeping what it needs: memory for one layer's
            residuals and for the inputs of each.
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

    def check(x: Any, y: Any) -> None:
        before, after = (
            jax.tree.map(lambda a: (tuple(a.shape), jnp.dtype(a.dtype).name), tree) for tree in (x, y)
        )
        if before != after:
            raise ValueError(
                f"repeat({layer!r}): expected an output of the input's shape and dtype {before}, got {after}."
            )

    def init(key: jax.Array, x: Any) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(depth, dtype=jnp.uint32))
        params = jax.vmap(lambda k: layer.init(k, x), axis_size=depth)(keys)
        check(x, output_of(layer, jax.tree.map(lambda p: p[0], params), x))
        return params

    def initial_carry(params: Any, x: Any) -> Any:
        axis = len(batch_shape("repeat", x, event_ndim))
        return jax.vmap(lambda p: layer.initial_carry(p, x), out_axes=axis, axis_size=depth)(params)

    def apply(view: View, params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        axis = len(batch_shape("repeat", example_of(view, xs), event_ndim))

        def one(xs: Any, inputs: Any) -> Any:
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
    """A tap's dummy for each layer; the norm of a stacked leaf is the norm of the norms, not their sum."""

    @jax.custom_vjp
    def spread(dummy: jax.Array) -> jax.Array:
        return jnp.broadcast_to(dummy[None], (depth, *dummy.shape))

    spread.defvjp(
        lambda dummy: (spread(dummy), None),
        lambda _, norms: (norm(jnp.moveaxis(norms, 0, -1), norms.ndim - 1).astype(norms.dtype),),
    )
    return spread(dummy)
