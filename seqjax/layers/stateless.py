"""Layers without a carry, made from a function of one time step."""

from collections.abc import Callable
from typing import Any

import jax

from seqjax.base import Carry, Flags, Layer, Params, X, Xs, Y, Ys
from seqjax.ops.select import keep


def stateless(
    init: Callable, apply: Callable, *, over_time: Callable | None = None, event_ndim: int | None = None
) -> Layer:
    """Return a layer without a carry from ``apply: (params, x, key) -> y``, which acts on each step by itself.

    ``apply`` receives one step ``x [*B, ...]`` and one key or None. ``over_time`` does the same for all steps
    ``xs [T, *B, ...]`` and keys ``[T]`` or None; by default it maps ``apply`` over time.
    """
    if over_time is None:

        def over_time(params: Params, xs: Xs, keys: Any) -> Ys:
            return jax.vmap(apply, (None, 0, None if keys is None else 0))(params, xs, keys)

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        return carry, keep(flags.mask, apply(params, keep(flags.mask, x), flags.key))

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        return carry, keep(flags.mask, over_time(params, keep(flags.mask, xs), flags.key))

    return Layer(
        init=init,
        initial_carry=lambda params, x: (),
        step_fn=step,
        unroll_fn=unroll,
        time_shardable=True,
        event_ndim=event_ndim,
    )
