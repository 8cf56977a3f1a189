"""A layer whose outputs attend to a memory, such as an encoder's outputs."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Key, Layer, Params, X, Xs, Ys
from seqjax.checks import check_whole
from seqjax.combinators.common import (
    STEP,
    View,
    check_layers,
    composed,
    constant_part,
    length_of,
    output_of,
)
from seqjax.combinators.context import MemoryCarry
from seqjax.ops.select import keep, select
from seqjax.ops.tap import tap as tap_carry
from seqjax.values import definition


class MemoryParams(NamedTuple):
    """The params of the layer and of the attention."""

    layer: Any
    attention: Any


@definition
def with_memory(layer: Layer, attention: Any, *, memory_size: int, feed: bool = False) -> Layer:
    r"""A layer whose outputs attend to a memory, such as an encoder's outputs, and are joined with the result.

    .. math::
        h_t = \mathrm{layer}(x_t), \qquad s_t = \mathrm{attention}(\mathrm{memory}, h_t), \qquad y_t = [h_t, s_t]

    Since the query is the present output, a sequence runs by the layer's own method, then all queries run at once.

    With ``feed=True`` the layer also reads what the step before found,

    .. math::
        h_t = \mathrm{layer}([x_t, s_{t-1}]), \qquad s_0 = 0,

    so that it knows which entries were read. The steps then run one after another, whatever the layer's method. This is
    the recurrence of Bahdanau et al., whose :math:`c_t = \mathrm{attention}(\mathrm{memory}, h_{t-1})` is
    :math:`s_{t-1}` here, but for two differences: their first :math:`c_1` is read with :math:`h_0`, and their outputs
    are made from :math:`c_t` rather than :math:`s_t`. Luong et al. feed
    :math:`\tanh(W [s_{t-1}, h_{t-1}])` instead of :math:`s_{t-1}`.

    The attention is `additive_attention`, `multiplicative_attention`, `scaled_dot_attention`, or any value with
    these two methods: ``init(key, memory [*B, S, M], query [*B, H]) -> params``, and ``__call__(params, memory
    [*B, S, M], memory_mask [*B, S], query [*B, H]) -> (context [*B, V], weights [*B, S])``, where entries with a mask
    of False do not count. A frozen dataclass can also be compared and pickled. With a memory of no entries the
    context is zero and the attention is not called.

    Shapes: x ``[*B, D]`` -> y ``[*B, H + V]``; carry ``MemoryCarry(carry, memory, memory_mask, read)``, the memory
    is ``[*B, 0, M]`` until `set_memory`, read is ``[*B, M]`` with ``feed=True``; params
    ``MemoryParams(layer, attention)``. `attention_weights` returns the weights ``[T, *B, S]``.

    Gradients: by the memory, :math:`\alpha_{ts}` per step and entry and the part through the scores. With ``feed=True``
    they also pass from step to step through :math:`s_t`.

    Args:
        layer: any layer with outputs ``[*B, H]``; a causal one with ``feed=True``.
        attention: see above; with ``feed=True`` its context has the width of the memory, V = M.
        memory_size: M.
        feed: whether the layer reads what the step before found, besides x.

    Raises:
        TypeError: for an attention without these methods, or ``feed=True`` and a layer that is not causal.

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
        arXiv:1508.04025, section 3.1 (the query is the present state); eq. 5 is a `pointwise` layer after this one;
        section 3.3 (feeding what was read into the next step).
        Bahdanau, Cho, Bengio 2015, "Neural machine translation by jointly learning to align and translate",
        arXiv:1409.0473, eq. 4 to 6 (feeding).
    """
    return _with_memory(layer, attention, memory_size, feed, record=False)


@definition
def recording_memory(layer: Layer, attention: Any, *, memory_size: int, feed: bool = False) -> Layer:
    """`with_memory`, with the attention weights of the last step in its carry; see `seqjax.attention_weights`."""
    return _with_memory(layer, attention, memory_size, feed, record=True)


def _with_memory(layer: Layer, attention: Any, memory_size: int, feed: bool, record: bool) -> Layer:
    check_layers("with_memory", (layer,), causal=feed)
    check_whole("with_memory(memory_size)", memory_size)
    _check_attention(attention)

    def joined(x: X) -> X:
        return _joined(x, memory_size) if feed else x

    def init(key: Key, x: X) -> MemoryParams:
        params = layer.init(jax.random.fold_in(key, 0), joined(x))
        query = output_of(layer, params, joined(x))
        memory = jax.ShapeDtypeStruct((*query.shape[:-1], 1, memory_size), query.dtype)
        return MemoryParams(params, attention.init(jax.random.fold_in(key, 1), memory, query))

    def initial_carry(params: MemoryParams, x: X) -> MemoryCarry:
        x = joined(x)
        query, leaf = output_of(layer, params.layer, x), jax.tree.leaves(x)[0]
        batch = query.shape[:-1]

        def zeros(*shape: int) -> jax.Array:
            return jnp.zeros_like(leaf, shape=(*batch, *shape), dtype=query.dtype)

        return MemoryCarry(
            layer.initial_carry(params.layer, x),
            zeros(0, memory_size),
            jnp.zeros((*batch, 0), bool),
            zeros(memory_size) if feed else None,
            zeros(0) if record else None,
        )

    def reading(view: View, params: MemoryParams, carry: MemoryCarry, xs: Xs, flags: Flags) -> Any:
        """Return the carry, the layer's outputs, and what they read."""
        after, hs = view.run(layer, params.layer, carry.carry, xs, flags.of(lambda tap: tap.carry))
        tap = None if flags.tap is None else flags.tap.memory
        memory, memories = carry.memory, carry.memory
        over_time = tap is not None
        if over_time:
            memory, memories = constant_part(view, carry.memory, length_of(view, xs), tap)
        fn = partial(_attend, attention)
        if length_of(view, xs) is not None:
            fn = jax.vmap(fn, (None, 0 if over_time else None, None, 0))
        found, weights = fn(params.attention, memories, carry.memory_mask, hs)
        found, weights = keep(flags.mask, (found, weights))
        carry = carry._replace(carry=after, memory=memory)
        if record:
            weights = weights if length_of(view, xs) is None else weights[-1]
            carry = carry._replace(weights=weights.astype(carry.weights.dtype))
        return carry, hs, found.astype(hs.dtype)

    def apply(view: View, params: MemoryParams, carry: MemoryCarry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        carry, hs, found = reading(view, params, carry, xs, flags)
        return carry, jnp.concatenate([hs, found], -1)

    def feeding(
        view: View, params: MemoryParams, carry: MemoryCarry, xs: Xs, flags: Flags
    ) -> tuple[Carry, Ys]:
        def step(carry: MemoryCarry, inputs: Any) -> tuple[MemoryCarry, jax.Array]:
            x, now = inputs
            read = carry.read if now.reset is None else keep(~now.reset, carry.read)
            if now.tap is not None:
                memory, read = tap_carry((carry.memory, read), (now.tap.memory, now.tap.read))
                carry = carry._replace(memory=memory)
            x = jnp.concatenate([keep(now.mask, x), read.astype(x.dtype)], -1)
            after, h, found = reading(STEP, params, carry, x, now)
            _check_width(attention, memory_size, found)
            after_read = found.astype(read.dtype)
            after = after._replace(
                read=after_read if now.mask is None else select(now.mask, after_read, read)
            )
            return after, jnp.concatenate([h, found], -1)

        return view.scan(step, carry, (xs, flags))

    return composed(
        feeding if feed else apply,
        parts=(layer,),
        init=init,
        initial_carry=initial_carry,
        time_shardable=not feed,
    )


def _attend(attention: Any, params: Params, memory: jax.Array, mask: jax.Array, query: jax.Array) -> Any:
    """Return ``(context, weights)``; zeros where the memory ``[*B, S, M]`` has no entry."""
    memory = memory.astype(query.dtype)
    if memory.shape[-2]:
        return attention(params, memory, mask, query)
    one = jax.ShapeDtypeStruct((*memory.shape[:-2], 1, memory.shape[-1]), memory.dtype)
    one_mask = jax.ShapeDtypeStruct(one.shape[:-1], mask.dtype)
    out, weights = jax.eval_shape(attention, params, one, one_mask, query)
    none = jnp.zeros_like(query)[..., :1].astype(out.dtype)
    return jnp.broadcast_to(none, out.shape), none[..., :0].astype(weights.dtype)


def _check_attention(attention: Any) -> None:
    if not callable(attention) or not callable(getattr(attention, "init", None)):
        raise TypeError(
            "with_memory(attention): expected an attention such as additive_attention(64), with init(key, memory, "
            f"query) and __call__(params, memory, memory_mask, query) -> (context, weights), got {attention!r}."
        )


def _joined(x: X, memory_size: int) -> X:
    """Return zeros in the shape of an input x ``[*B, D]`` joined with what was read: ``[*B, D + M]``."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"with_memory(feed=True): expected floating x [*B, D], got {x.dtype} {list(x.shape)}. "
            "Turn tokens into vectors first."
        )
    return jnp.broadcast_to(jnp.zeros_like(x)[..., :1], (*x.shape[:-1], x.shape[-1] + memory_size))


def _check_width(attention: Any, memory_size: int, found: jax.Array) -> None:
    if found.shape[-1] != memory_size:
        raise ValueError(
            "with_memory(feed=True): expected an attention whose context is as wide as the memory, "
            f"{memory_size}, got {found.shape[-1]} from {attention!r}."
        )
