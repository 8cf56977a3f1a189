"""How a combinator is written: one function for both views of a layer.

The `step` and `unroll` of a combinator differ in two things only: which view of the parts they call, and whether the
combinator's own small recurrences (a counter, a held output) run once or over time. So a combinator is one function
``apply(view, params, carry, xs, flags) -> (carry, ys)``, and `composed` makes a `Layer` from it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from seqjax.base import Carry, Cell, Flags, Layer, Params, X, Xs, Y, Ys
from seqjax.compat import vary_like
from seqjax.inputs import cached_shape, first_step, num_steps
from seqjax.layers.pooling import last, mean_pool
from seqjax.ops.tap import tap as tap_carry


class View(NamedTuple):
    """One of the two views of a layer.

    ``run(layer, params, carry, xs, flags)``: the layer's `step` or `unroll`. ``scan(fn, carry, inputs)``: ``fn``
    itself for one step, or ``lax.scan`` of it over time.
    """

    run: Callable
    scan: Callable


def _run_step(layer: Layer, params: Params, carry: Carry, x: X, flags: Flags) -> Any:
    if flags.tap is None:
        return layer.step_fn(params, carry, x, flags)
    # Only unroll taps the layer's carry: after the reset, before the step.
    xs, flags = jax.tree.map(lambda a: a[None], (x, flags))
    carry, ys = layer.unroll_fn(params, carry, xs, flags)
    return carry, first_step(ys)


def _run_unroll(layer: Layer, params: Params, carry: Carry, xs: Xs, flags: Flags) -> Any:
    return layer.unroll_fn(params, carry, xs, flags)


def _scan(fn: Callable, carry: Carry, inputs: Any) -> Any:
    return jax.lax.scan(fn, vary_like(carry, inputs), inputs)


STEP = View(_run_step, lambda fn, carry, inputs: fn(carry, inputs))
UNROLL = View(_run_unroll, _scan)


def composed(
    apply: Callable,
    *,
    parts: tuple[Layer, ...],
    init: Callable | None = None,
    initial_carry: Callable | None = None,
    causal: bool = True,
    time_shardable: bool = True,
    readers: tuple[Layer, ...] | None = None,
    stride: int = 1,
) -> Layer:
    """Return a layer whose two views are one function of the views of its parts.

    The layer is causal where all its parts are, and splits over the time axis of a mesh where all its parts do.

    Args:
        apply: ``(view, params, carry, xs, flags) -> (carry, ys)``; in the unrolled view flags.key holds one key per
            step.
        parts: the layers that `apply` runs.
        init: as in `Layer`; that of the first part by default.
        initial_carry: as in `Layer`; that of the first part by default.
        causal: False where the composition itself reads later steps.
        time_shardable: False where the composition itself carries state over time, or moves steps.
        readers: the parts whose input is x; all parts by default. They define `Layer.event_ndim`.
        stride: the number of steps of the composition for each step of its parts.
    """
    for part in parts:
        if part.condition is not None:
            raise TypeError(
                f"expected layers without a condition inside another layer, got {part!r}. Put it at the top of the "
                "model: encoder_decoder(encoder, serial(decoder, head))."
            )
    lengths = [part.max_length * stride for part in parts if part.max_length is not None]
    readers = parts if readers is None else readers
    known = [part.event_ndim for part in readers if part.event_ndim is not None]

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        return apply(STEP, params, carry, x, flags)

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        return apply(UNROLL, params, carry, xs, flags)

    return Layer(
        init=init or parts[0].init,
        initial_carry=initial_carry or parts[0].initial_carry,
        step_fn=step,
        unroll_fn=unroll,
        causal=causal and all(part.causal for part in parts),
        time_shardable=time_shardable and all(part.time_shardable for part in parts),
        event_ndim=known[0] if known else None,
        max_length=min(lengths, default=None),
    )


def constant_part(view: View, array: jax.Array, length: int | None, tap: Any) -> tuple[jax.Array, jax.Array]:
    """Return ``(array, arrays)``: a part of the carry that does not change, after the steps and at each of them.

    Args:
        view: `STEP` or `UNROLL`.
        array: ``[*B, ...]``.
        length: T for a sequence, None for one step.
        tap: its dummies, or None.
    """
    if tap is None or length is None:
        return array, array if length is None else jnp.broadcast_to(array[None], (length, *array.shape))

    def body(array: jax.Array, tap: Any) -> tuple[jax.Array, jax.Array]:
        array = tap_carry(array, tap)
        return array, array

    return view.scan(body, array, tap)


def length_of(view: View, xs: Xs) -> int | None:
    """Return T for a sequence, None for one step."""
    return num_steps(xs) if view is UNROLL else None


def example_of(view: View, xs: Xs) -> Any:
    """Return the shapes of one time step."""
    skip = 1 if view is UNROLL else 0
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[skip:], a.dtype), xs)


def flip(tree: Any) -> Any:
    """Reverse a tree of arrays ``[T, ...]`` in time."""
    return jax.tree.map(lambda a: a[::-1], tree)


def output_of(layer: Layer, params: Params, x: X) -> Any:
    """Return the shape of a layer's output for one time step; see `cached_shape`."""

    def run(params: Params, x: X) -> Any:
        xs = jax.tree.map(lambda a: a[None], x)
        return first_step(layer.unroll_fn(params, layer.initial_carry(params, x), xs, Flags())[1])

    return cached_shape("output", layer, run, params, x)


def batch_shape(who: str, x: X, event_ndim: int | None) -> tuple[int, ...]:
    """Return ``*B`` of one step: all axes before the example's own, by default none for integers, one for floats."""
    leaf = jax.tree.leaves(x)[0]
    own = (1 if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0) if event_ndim is None else event_ndim
    if leaf.ndim < own:
        raise ValueError(f"{who}: expected [*B, ...] with {own} axes per example, got {list(leaf.shape)}.")
    return leaf.shape[: leaf.ndim - own]


def zero_counts(x: X, batch: tuple[int, ...]) -> Int[Array, "*B"]:
    """Return counters ``[*B]`` at zero, with the sharding of x; the values of x are not read."""
    zeros = jnp.zeros_like(jax.tree.leaves(x)[0], dtype=jnp.int32)
    return zeros[(..., *(0,) * (zeros.ndim - len(batch)))]


def check_layers(who: str, layers: tuple[Any, ...], *, causal: bool = False) -> None:
    """Raise a TypeError unless all are layers, and causal layers with ``causal=True``."""
    for layer in layers:
        if not isinstance(layer, Layer):
            hint = " Wrap a module or function in pointwise(...)." if callable(layer) else ""
            if isinstance(layer, Cell):
                hint = " Bind a cell with recurrent(cell)."
            elif layer is last or layer is mean_pool:
                hint = " Its output has no time axis. Apply it to ys after unroll, or inside the loss."
            elif isinstance(layer, str):
                hint = f" Names stand for cells in seqjax.models alone. Write sj.recurrent(sj.{layer}(hidden_size))."
            elif isinstance(layer, tuple):
                hint = f" Pass the layers one by one: {who}(a, b), or {who}(*layers)."
            raise TypeError(f"{who}: expected layers, got {layer!r}.{hint}")
        if layer.batch_major:
            raise TypeError(
                f"{who}: expected a time-major layer, got {layer!r}. Put batch_major around the whole model."
            )
        if causal and not layer.causal:
            raise TypeError(
                f"{who}: expected a causal layer, got {layer!r}, which reads the whole sequence and has no step."
            )
