"""Layers conditioned on something beside their inputs: a vector, or the memory of an encoder, kept in the carry.

Resets leave it alone, and a beam search reorders it with the rest of the carry. `initial_carry` gives none of it
(zeros, or a memory of no entries); `set_context` and `set_memory` put it in, anywhere in the carry of a whole model.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Flags, Layer
from seqjax.checks import check_one_of, check_whole
from seqjax.combinators.common import (
    View,
    check_layers,
    composed,
    held,
    length_of,
    output_of,
)
from seqjax.ops.select import keep
from seqjax.values import definition


class ConditionedParams(NamedTuple):
    """Of ``conditioned(..., merge="add")``: the layer's; w ``[S, D]``."""

    layer: Any
    w: jax.Array


class ConditionedCarry(NamedTuple):
    """The layer's carry; the context ``[*B, S]``."""

    carry: Any
    context: jax.Array


@definition
def conditioned(
    layer: Layer,
    context_size: int,
    *,
    merge: Literal["concatenate", "add"] = "concatenate",
    param_dtype: Any = jnp.float32,
) -> Layer:
    r"""A layer that is given a context vector s (a speaker, a class, an image) at every step.

    .. math::
        x'_t = [x_t, s] \quad\text{("concatenate")}, \qquad x'_t = x_t + s W \quad\text{("add")}

    Shapes: x ``[*B, D]``; carry ``ConditionedCarry(carry, context [*B, S])``, the context zero until `set_context`;
    params: the layer's (for inputs ``D + S``), or ``ConditionedParams(layer, w [S, D])``.

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

    def joined(x: Any) -> Any:
        """The shape of the layer's input."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"conditioned(...): expected floating x [*B, D], got {x.dtype} {list(x.shape)}. "
                "Turn tokens into vectors first."
            )
        width = x.shape[-1] + (0 if adds else context_size)
        return jnp.broadcast_to(jnp.zeros_like(x)[..., :1], (*x.shape[:-1], width))

    def init(key: jax.Array, x: Any) -> Any:
        params = layer.init(jax.random.fold_in(key, 0), joined(x))
        if not adds:
            return params
        w = jax.random.normal(jax.random.fold_in(key, 1), (context_size, x.shape[-1]), param_dtype)
        return ConditionedParams(params, w / context_size**0.5)

    def initial_carry(params: Any, x: Any) -> ConditionedCarry:
        inner = layer.initial_carry(params.layer if adds else params, joined(x))
        context = jnp.broadcast_to(jnp.zeros_like(x)[..., :1], (*x.shape[:-1], context_size))
        return ConditionedCarry(inner, context)

    def apply(view: View, params: Any, carry: ConditionedCarry, xs: Any, flags: Flags) -> Any:
        tap = None if flags.tap is None else flags.tap.context
        context, s = held(view, carry.context, length_of(view, xs), tap)
        s = s.astype(xs.dtype)
        if adds:
            xs = xs + s @ params.w.astype(xs.dtype)
        else:
            xs = jnp.concatenate([xs, s], -1)
        inner = params.layer if adds else params
        after, ys = view.run(layer, inner, carry.carry, xs, flags.of(lambda tap: tap.carry))
        return ConditionedCarry(after, context), ys

    return composed(apply, parts=(layer,), init=init, initial_carry=initial_carry)


class MemoryParams(NamedTuple):
    """The layer's; the attention's."""

    layer: Any
    attention: Any


class MemoryCarry(NamedTuple):
    """The layer's carry; what it attends to: memory ``[*B, S, M]`` and memory_mask ``[*B, S]`` bool."""

    carry: Any
    memory: jax.Array
    memory_mask: jax.Array


@definition
def with_memory(layer: Layer, attention: Any, *, memory_size: int) -> Layer:
    r"""A layer whose outputs query a memory, such as an encoder's outputs, and are joined by what they find.

    .. math::
        h_t = \mathrm{layer}(x_t), \qquad s_t = \mathrm{attention}(\mathrm{memory}, h_t), \qquad y_t = [h_t, s_t]

    Since the query is the present output, a sequence runs by the layer's own method, and then all queries at once.

    The attention is `additive_attention`, `multiplicative_attention`, `scaled_dot_attention`, or any value with two
    methods as theirs: ``init(key, memory [*B, S, M], query [*B, H]) -> params``, and ``__call__(params, memory
    [*B, S, M], memory_mask [*B, S], query [*B, H]) -> (context [*B, V], weights [*B, S])``, where entries with a mask
    of False take no part. To compare and pickle, let it be a frozen dataclass. A memory of no entries gives zero,
    without a call.

    Shapes: x ``[*B, D]`` -> y ``[*B, H + V]``; carry ``MemoryCarry(carry, memory, memory_mask)``, the memory
    ``[*B, 0, M]`` until `set_memory`; params ``MemoryParams(layer, attention)``.

    Args:
        layer: any layer with outputs ``[*B, H]``.
        attention: see above.
        memory_size: M.

    Raises:
        TypeError: for an attention without these methods.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.with_memory(sj.recurrent(sj.gru(8)), sj.additive_attention(6), memory_size=5)
        >>> x, memory = jnp.ones((2, 3)), jnp.ones((2, 7, 5))
        >>> params = layer.init(jax.random.key(0), x)
        >>> carry = sj.set_memory(layer.initial_carry(params, x), memory)
        >>> layer.step(params, carry, x)[1].shape
        (2, 13)

    References:
        Luong, Pham, Manning 2015, "Effective approaches to attention-based neural machine translation",
        arXiv:1508.04025, section 3.1 (the query is the present state); eq. 5 is a `pointwise` layer after this one.
    """
    check_layers("with_memory", (layer,))
    check_whole("with_memory(memory_size)", memory_size)
    if not callable(attention) or not callable(getattr(attention, "init", None)):
        raise TypeError(
            "with_memory(attention): expected an attention such as additive_attention(64), with init(key, memory, "
            f"query) and __call__(params, memory, memory_mask, query) -> (context, weights), got {attention!r}."
        )

    def init(key: jax.Array, x: Any) -> MemoryParams:
        params = layer.init(jax.random.fold_in(key, 0), x)
        query = output_of(layer, params, x)
        memory = jax.ShapeDtypeStruct((*query.shape[:-1], 1, memory_size), query.dtype)
        return MemoryParams(params, attention.init(jax.random.fold_in(key, 1), memory, query))

    def initial_carry(params: MemoryParams, x: Any) -> MemoryCarry:
        query = output_of(layer, params.layer, x)
        leaf = jax.tree.leaves(x)[0]
        batch = query.shape[:-1]
        zeros = jnp.zeros_like(leaf, shape=(*batch, 0, memory_size), dtype=query.dtype)
        return MemoryCarry(layer.initial_carry(params.layer, x), zeros, jnp.zeros((*batch, 0), bool))

    def attend(params: Any, memory: jax.Array, mask: jax.Array, query: jax.Array) -> jax.Array:
        memory = memory.astype(query.dtype)
        if memory.shape[-2]:
            return attention(params, memory, mask, query)[0]
        one = jax.ShapeDtypeStruct((*memory.shape[:-2], 1, memory_size), memory.dtype)
        one_mask = jax.ShapeDtypeStruct(one.shape[:-1], mask.dtype)
        out = jax.eval_shape(attention, params, one, one_mask, query)[0]
        return jnp.broadcast_to(jnp.zeros_like(query)[..., :1].astype(out.dtype), out.shape)

    def apply(view: View, params: MemoryParams, carry: MemoryCarry, xs: Any, flags: Flags) -> Any:
        after, hs = view.run(layer, params.layer, carry.carry, xs, flags.of(lambda tap: tap.carry))
        tap = None if flags.tap is None else flags.tap.memory
        memory, memories = carry.memory, carry.memory
        over_time = tap is not None
        if over_time:
            memory, memories = held(view, carry.memory, length_of(view, xs), tap)
        fn = attend
        if length_of(view, xs) is not None:
            fn = jax.vmap(attend, (None, 0 if over_time else None, None, 0))
        found = keep(flags.mask, fn(params.attention, memories, carry.memory_mask, hs))
        return MemoryCarry(after, memory, carry.memory_mask), jnp.concatenate(
            [hs, found.astype(hs.dtype)], -1
        )

    return composed(apply, parts=(layer,), init=init, initial_carry=initial_carry)


def set_context(carry: Any, context: jax.Array) -> Any:
    """A model's carry with the context ``[*B, S]`` of every `conditioned` layer in it replaced.

    Raises:
        ValueError: where the carry has no context, or one of another shape.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer = sj.serial(sj.conditioned(sj.running_mean(), 2), sj.running_mean())
        >>> sj.set_context(layer.initial_carry(((), ()), jnp.ones((1, 3))), jnp.ones((1, 2)))[0].context
        Array([[1., 1.]], dtype=float32)
    """

    def put(node: ConditionedCarry) -> ConditionedCarry:
        if context.shape != node.context.shape:
            raise ValueError(
                f"set_context: expected a context {list(node.context.shape)}, got {list(context.shape)}."
            )
        return node._replace(context=context.astype(node.context.dtype))

    return _replaced("set_context", ConditionedCarry, put, carry)


def set_memory(carry: Any, memory: jax.Array, memory_mask: jax.Array | None = None) -> Any:
    """A model's carry with the memory of every `with_memory` layer in it replaced.

    Args:
        carry: of a model.
        memory: ``[*B, S, M]``; batch before time: an encoder's outputs are ``jnp.moveaxis(ys, 0, -2)``.
        memory_mask: ``[*B, S]`` bool; all True by default.

    Raises:
        ValueError: where the carry has no memory, or the shapes do not fit.
    """
    shape = memory.shape[:-1]
    mask = jnp.ones(shape, bool) if memory_mask is None else memory_mask

    def put(node: MemoryCarry) -> MemoryCarry:
        *batch, _, width = node.memory.shape
        if memory.ndim != node.memory.ndim or (*memory.shape[:-2], memory.shape[-1]) != (*batch, width):
            wanted = ", ".join(map(str, (*batch, "S", width)))
            raise ValueError(f"set_memory: expected a memory [{wanted}], got {list(memory.shape)}.")
        if mask.shape != shape or mask.dtype != jnp.bool_:
            raise ValueError(
                f"set_memory: expected a bool memory_mask {list(shape)}, got {mask.dtype} {list(mask.shape)}."
            )
        return node._replace(memory=memory.astype(node.memory.dtype), memory_mask=mask)

    return _replaced("set_memory", MemoryCarry, put, carry)


def _replaced(who: str, kind: type, put: Any, carry: Any) -> Any:
    found = []

    def visit(node: Any) -> Any:
        if not isinstance(node, ConditionedCarry | MemoryCarry):
            return node
        node = node._replace(carry=walk(node.carry))
        if isinstance(node, kind):
            found.append(node)
            node = put(node)
        return node

    def walk(tree: Any) -> Any:
        return jax.tree.map(visit, tree, is_leaf=lambda n: isinstance(n, ConditionedCarry | MemoryCarry))

    carry = walk(carry)
    if not found:
        layer = "conditioned" if kind is ConditionedCarry else "with_memory"
        raise ValueError(f"{who}: expected the carry of a model with a {layer}(...) layer, found none in it.")
    return carry
