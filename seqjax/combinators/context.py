"""The carry of layers that read a context: a vector, or the memory of an encoder.

Resets leave the context unchanged, and a beam search reorders it with the rest of the carry. `initial_carry` returns an
empty one (zeros, or a memory of no entries). `set_context` and `set_memory` set it, anywhere in the carry of a model.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seqjax.base import Carry


class ConditionedCarry(NamedTuple):
    """The layer's carry; the context ``[*B, S]``."""

    carry: Carry
    context: Float[Array, "*B S"]


class MemoryCarry(NamedTuple):
    """The layer's carry; the memory ``[*B, S, M]`` to attend to, and memory_mask ``[*B, S]`` bool."""

    carry: Carry
    memory: Float[Array, "*B S M"]
    memory_mask: Bool[Array, "*B S"]


def set_context(carry: Carry, context: Float[Array | np.ndarray, "*B S"]) -> Any:
    """Replace the context ``[*B, S]`` of every `conditioned` layer in a model's carry.

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
        if context.shape != node.context.shape:
            raise ValueError(
                f"set_context: expected a context {list(node.context.shape)}, got {list(context.shape)}."
            )
        return node._replace(context=context.astype(node.context.dtype))

    return _replaced("set_context", ConditionedCarry, put, carry)


def set_memory(
    carry: Carry,
    memory: Float[Array | np.ndarray, "*B S M"],
    memory_mask: Bool[Array | np.ndarray, "*B S"] | None = None,
) -> Any:
    """Replace the memory of every `with_memory` layer in a model's carry.

    Args:
        carry: of a model.
        memory: ``[*B, S, M]``, with the batch before time: for an encoder's outputs pass ``jnp.moveaxis(ys, 0, -2)``.
        memory_mask: ``[*B, S]`` bool; all True by default.

    Raises:
        ValueError: where the carry has no memory, or the shapes do not fit.
    """
    memory = jnp.asarray(memory)
    shape = memory.shape[:-1]
    mask = jnp.ones(shape, bool) if memory_mask is None else jnp.asarray(memory_mask)

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


def _replaced(who: str, kind: type, put: Any, carry: Carry) -> Any:
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
        raise ValueError(f"{who}: expected the carry of a model with a {layer}(...) layer, got one without.")
    return carry
