"""Layers without a carry, made from a function of one time step."""

from collections.abc import Callable
from typing import Any

import jax

from seqjax.base import Flags, Layer
from seqjax.ops.select import keep


def stateless(init: Callable, apply: Callable) -> Layer:
    """A layer without a carry from ``apply: (params, xs, keys) -> ys``, which acts on each step by itself.

    ``apply`` is given one step ``x [*B, ...]`` and one key or None; it is mapped over time.
    """

    def step(params: Any, carry: Any, x: Any, flags: Flags) -> Any:
        return carry, keep(flags.mask, apply(params, keep(flags.mask, x), flags.key))

    def unroll(params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        axes = (None, 0, None if flags.key is None else 0)
        ys = jax.vmap(apply, axes)(params, keep(flags.mask, xs), flags.key)
        return carry, keep(flags.mask, ys)

    return Layer(
        init=init, initial_carry=lambda params, x: (), step_fn=step, unroll_fn=unroll, time_shardable=True
    )
