"""The carry of layers that read a context: a vector, or the memory of an encoder.

Resets leave the context unchanged, and a beam search reorders it with the rest of the carry. `initial_carry` returns an
empty one (zeros, or a memory of no entries). `set_context` and `set_memory` set it, anywhere in the carry of a model.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seqjax.base import Carry
from seqjax.checks import check_one_of


class ConditionedCarry(NamedTuple):
    """The layer's carry; the context ``[*B, S]``."""

    carry: Carry
    context: Float[Array, "*B S"]


class MemoryCarry(NamedTuple):
    """The layer's carry; the memory ``[*B, S, M]`` to attend to, and memory_mask ``[*B, S]`` bool.

    Attributes:
        carry: of the layer.
        memory: ``[*B, S, M]``.
        memory_mask: ``[*B, S]``.
        read: ``[*B, M]``, what the last step read, with ``with_memory(feed=True)``; otherwise None.
        weights: ``[*B, S]``, the weights of the last step, inside `seqjax.attention_weights`; otherwise None.
    """

    carry: Carry
    memory: Float[Array, "*B S M"]
    memory_mask: Bool[Array, "*B S"]
    read: Any = None
    weights: Any = None


def set_context(
    carry: Carry, context: Float[Array | np.ndarray, "*B S"], *, missing: Literal["error", "skip"] = "error"
) -> Any:
    """Replace the context ``[*B, S]`` of every `conditioned` layer in a model's carry.

    All layers share the context, those at each depth of a `repeat` included.

    Args:
        carry: of a model.
        context: ``[*B, S]``.
        missing: "skip" returns the carry of a model without a `conditioned` layer as it is.

    Raises:
        ValueError: where the carry has no context, or a context of another shape.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer = sj.serial(sj.conditioned(sj.running_mean(), 2), sj.running_mean())
        >>> sj.set_context(layer.initial_carry(((), ()), jnp.ones((1, 3))), jnp.ones((1, 2)))[0].context
        Array([[1., 1.]], dtype=float32)
    """
    context = jnp.asarray(context)

    def put(node: ConditionedCarry) -> ConditionedCarry:
        found = _shared(context, node.context.shape[:-1], 1)
        if found.shape != node.context.shape:
            raise ValueError(
                f"set_context: expected a context {list(node.context.shape)}, got {list(context.shape)}."
            )
        return node._replace(context=found.astype(node.context.dtype))

    return _replaced("set_context", ConditionedCarry, put, carry, missing)


def set_memory(
    carry: Carry,
    memory: Float[Array | np.ndarray, "*B S M"],
    memory_mask: Bool[Array | np.ndarray, "*B S"] | None = None,
    *,
    missing: Literal["error", "skip"] = "error",
) -> Any:
    """Replace the memory of every `with_memory` layer in a model's carry.

    All layers share the memory, those at each depth of a `repeat` included.

    Args:
        carry: of a model.
        memory: ``[*B, S, M]``, with the batch before time: for an encoder's outputs pass ``jnp.moveaxis(ys, 0, -2)``.
        memory_mask: ``[*B, S]`` bool; all True by default.
        missing: "skip" returns the carry of a model without a `with_memory` layer as it is.

    Raises:
        ValueError: where the carry has no memory, or the shapes do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.with_memory(sj.recurrent(sj.gru(8)), sj.additive_attention(6), memory_size=5)
        >>> params = layer.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> sj.set_memory(layer.initial_carry(params, jnp.ones((2, 3))), jnp.ones((2, 7, 5))).memory.shape
        (2, 7, 5)
    """
    memory = jnp.asarray(memory)
    shape = memory.shape[:-1]
    mask = jnp.ones(shape, bool) if memory_mask is None else jnp.asarray(memory_mask)

    def put(node: MemoryCarry) -> MemoryCarry:
        *batch, _, width = node.memory.shape
        found = _shared(memory, tuple(batch), 2)
        if (*found.shape[:-2], found.shape[-1]) != (*batch, width):
            wanted = ", ".join(map(str, (*batch, "S", width)))
            raise ValueError(f"set_memory: expected a memory [{wanted}], got {list(memory.shape)}.")
        if mask.shape != shape or mask.dtype != jnp.bool_:
            raise ValueError(
                f"set_memory: expected a bool memory_mask {list(shape)}, got {mask.dtype} {list(mask.shape)}."
            )
        return node._replace(
            memory=found.astype(node.memory.dtype), memory_mask=_shared(mask, tuple(batch), 1)
        )

    return _replaced("set_memory", MemoryCarry, put, carry, missing)


def without_contexts(carry: Carry) -> Any:
    """Return a model's carry without its contexts and memories: the part that a reset restarts."""

    def take(node: Any) -> Any:
        names = ("context",) if isinstance(node, ConditionedCarry) else ("memory", "memory_mask")
        return node._replace(**dict.fromkeys(names))

    return _mapped(take, carry)


def with_weights(carry: Carry) -> Any:
    """Return the carry with weights of zero in each `MemoryCarry`."""

    def put(node: Any) -> Any:
        if not isinstance(node, MemoryCarry):
            return node
        return node._replace(weights=jnp.zeros(node.memory_mask.shape, node.memory.dtype))

    return _mapped(put, carry)


def memories_of(carry: Carry) -> Iterator[MemoryCarry]:
    """Yield the carry of each `with_memory` layer in a model's carry, the outer ones first."""
    for node in jax.tree.leaves(carry, is_leaf=_is_context):
        if _is_context(node):
            if isinstance(node, MemoryCarry):
                yield node
            yield from memories_of(node.carry)


def reads_context(carry: Carry) -> bool:
    """Return whether a model's carry has a context or a memory."""
    return any(map(_is_context, jax.tree.leaves(carry, is_leaf=_is_context)))


def _shared(array: jax.Array, lead: tuple[int, ...], event_ndim: int) -> jax.Array:
    """Return ``[*B, ...]`` for a carry that has further axes after ``*B``, such as the depth of `repeat`."""
    batch_ndim = array.ndim - event_ndim
    if not 0 <= batch_ndim < len(lead) or array.shape[:batch_ndim] != lead[:batch_ndim]:
        return array
    own = array.shape[batch_ndim:]
    axes = (*array.shape[:batch_ndim], *(1,) * (len(lead) - batch_ndim), *own)
    return jnp.broadcast_to(array.reshape(axes), (*lead, *own))


def _is_context(node: Any) -> bool:
    return isinstance(node, ConditionedCarry | MemoryCarry)


def _mapped(fn: Callable, carry: Carry) -> Any:
    """Replace the carry of each `conditioned` and `with_memory` layer by ``fn`` of it, inner ones first."""

    def visit(node: Any) -> Any:
        return fn(node._replace(carry=_mapped(fn, node.carry))) if _is_context(node) else node

    return jax.tree.map(visit, carry, is_leaf=_is_context)


def _replaced(who: str, kind: type, put: Callable, carry: Carry, missing: str) -> Any:
    check_one_of(f"{who}(missing)", missing, ("error", "skip"))
    found = []

    def visit(node: Any) -> Any:
        if not isinstance(node, kind):
            return node
        found.append(node)
        return put(node)

    carry = _mapped(visit, carry)
    if not found and missing == "error":
        layer = "conditioned" if kind is ConditionedCarry else "with_memory"
        raise ValueError(
            f"{who}: expected the carry of a model with a {layer}(...) layer, got one without. Pass missing='skip' "
            "to leave such a carry as it is."
        )
    return carry
