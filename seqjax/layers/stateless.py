"""Layers without a carry, made from a function of one time step."""

from collections.abc import Callable

import jax

from seqjax.base import Carry, Flags, Layer, Params, X, Xs, Y, Ys
from seqjax.ops.select import keep


def stateless(init: Callable, apply: Callable, *, event_ndim: int | None = None) -> Layer:
    """Return a layer without a carry from ``apply: (params, x, key) -> y``, which acts on each step by itself.

    ``apply`` receives one step ``x [*B, ...]`` and one key or None; `unroll` maps it over time.
    """

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        return carry, keep(flags.mask, apply(params, keep(flags.mask, x), flags.key))

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        axes = (None, 0, None if flags.key is None else 0)
        ys = jax.vmap(apply, axes)(params, keep(flags.mask, xs), flags.key)
        return carry, keep(flags.mask, ys)

    return Layer(
        init=init,
        initial_carry=lambda params, x: (),
        step_fn=step,
        unroll_fn=unroll,
        time_shardable=True,
        event_ndim=event_ndim,
    )
