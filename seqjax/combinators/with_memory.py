"""A layer whose outputs attend to a memory, such as an encoder's outputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Key, Layer, Params, X, Xs, Ys
from seqjax.checks import check_whole
from seqjax.combinators.common import (
    View,
    check_layers,
    composed,
    constant_part,
    length_of,
    output_of,
)
from seqjax.combinators.context import MemoryCarry
from seqjax.ops.select import keep
from seqjax.values import definition


class MemoryParams(NamedTuple):
    """The params of the layer and of the attention."""

    layer: Any
    attention: Any


@definition
def with_memory(layer: Layer, attention: Any, *, memory_size: int) -> Layer:
    r"""A layer whose outputs attend to a memory, such as an encoder's outputs, and are joined with the result.

    .. math::
        h_t = \mathrm{layer}(x_t), \qquad s_t = \mathrm{attention}(\mathrm{memory}, h_t), \qquad y_t = [h_t, s_t]

    Since the query is the present output, a sequence runs by the layer's own method, then all queries run at once.

    The attention is `additive_attention`, `multiplicative_attention`, `scaled_dot_attention`, or any value with
    these two methods: ``init(key, memory [*B, S, M], query [*B, H]) -> params``, and ``__call__(params, memory
    [*B, S, M], memory_mask [*B, S], query [*B, H]) -> (context [*B, V], weights [*B, S])``, where entries with a mask
    of False do not count. A frozen dataclass can also be compared and pickled. With a memory of no entries the
    context is zero and the attention is not called.

    Shapes: x ``[*B, D]`` -> y ``[*B, H + V]``; carry ``MemoryCarry(carry, memory, memory_mask)``, the memory
    is ``[*B, 0, M]`` until `set_memory`; params ``MemoryParams(layer, attention)``.

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

    def init(key: Key, x: X) -> MemoryParams:
        params = layer.init(jax.random.fold_in(key, 0), x)
        query = output_of(layer, params, x)
        memory = jax.ShapeDtypeStruct((*query.shape[:-1], 1, memory_size), query.dtype)
        return MemoryParams(params, attention.init(jax.random.fold_in(key, 1), memory, query))

    def initial_carry(params: MemoryParams, x: X) -> MemoryCarry:
        query = output_of(layer, params.layer, x)
        leaf = jax.tree.leaves(x)[0]
        batch = query.shape[:-1]
        zeros = jnp.zeros_like(leaf, shape=(*batch, 0, memory_size), dtype=query.dtype)
        return MemoryCarry(layer.initial_carry(params.layer, x), zeros, jnp.zeros((*batch, 0), bool))

    def attend(params: Params, memory: jax.Array, mask: jax.Array, query: jax.Array) -> jax.Array:
        memory = memory.astype(query.dtype)
        if memory.shape[-2]:
            return attention(params, memory, mask, query)[0]
        one = jax.ShapeDtypeStruct((*memory.shape[:-2], 1, memory_size), memory.dtype)
        one_mask = jax.ShapeDtypeStruct(one.shape[:-1], mask.dtype)
        out = jax.eval_shape(attention, params, one, one_mask, query)[0]
        return jnp.broadcast_to(jnp.zeros_like(query)[..., :1].astype(out.dtype), out.shape)

    def apply(view: View, params: MemoryParams, carry: MemoryCarry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        after, hs = view.run(layer, params.layer, carry.carry, xs, flags.of(lambda tap: tap.carry))
        tap = None if flags.tap is None else flags.tap.memory
        memory, memories = carry.memory, carry.memory
        over_time = tap is not None
        if over_time:
            memory, memories = constant_part(view, carry.memory, length_of(view, xs), tap)
        fn = attend
        if length_of(view, xs) is not None:
            fn = jax.vmap(attend, (None, 0 if over_time else None, None, 0))
        found = keep(flags.mask, fn(params.attention, memories, carry.memory_mask, hs))
        return MemoryCarry(after, memory, carry.memory_mask), jnp.concatenate(
            [hs, found.astype(hs.dtype)], -1
        )

    return composed(apply, parts=(layer,), init=init, initial_carry=initial_carry)
