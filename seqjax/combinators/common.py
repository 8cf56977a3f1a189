"""How a combinator is written: one function for both views of a layer.

A combinator's `step` and `unroll` differ only in which view of its parts they call and in whether its own small
recurrences (a counter, a held output) run once or over time. So it is written once, as
``apply(view, params, carry, xs, flags) -> (carry, ys)``, and `composed` makes a `Layer` of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.compat import vary_like
from seqjax.layers import first_step, fold_in, num_steps, step_keys
from seqjax.ops.tap import tap as tap_carry


class Flags(NamedTuple):
    """What goes with the inputs of one step or of a sequence; any of them may be None."""

    reset: Any = None
    mask: Any = None
    key: Any = None
    tap: Any = None

    def part(self, number: int) -> "Flags":
        """The flags of part `number` of a composition whose carry is a tuple: its own key, its own tap."""
        return self.part_key(number).of(lambda tap: tap[number])

    def part_key(self, number: Any) -> "Flags":
        """The flags with the key of part `number`."""
        return self._replace(key=fold_in(self.key, number))

    def of(self, pick: Callable) -> "Flags":
        """The flags for a part of the carry, whose tap ``pick`` takes out of the whole tap."""
        return self if self.tap is None else self._replace(tap=pick(self.tap))


class View(NamedTuple):
    """One of the two views of a layer.

    ``run(layer, params, carry, xs, flags)``: the layer's `step` or `unroll`. ``scan(fn, carry, inputs)``: ``fn``
    itself for one step, or ``lax.scan`` of it over time.
    """

    run: Callable
    scan: Callable


def _run_step(layer: Layer, params: Any, carry: Any, x: Any, flags: Flags) -> Any:
    if flags.tap is None:
        return layer.step(params, carry, x, reset=flags.reset, mask=flags.mask, key=flags.key)
    # Only unroll knows where the layer's carry is tapped: after the reset, before the step.
    xs, flags = jax.tree.map(lambda a: a[None], (x, flags))
    carry, ys = _run_unroll(layer, params, carry, xs, flags)
    return carry, first_step(ys)


def _run_unroll(layer: Layer, params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
    return layer.unroll(params, carry, xs, **flags._asdict())


def _scan(fn: Callable, carry: Any, inputs: Any) -> Any:
    return jax.lax.scan(fn, vary_like(carry, inputs), inputs)


STEP = View(_run_step, lambda fn, carry, inputs: fn(carry, inputs))
UNROLL = View(_run_unroll, _scan)


def composed(
    apply: Callable, *, init: Callable, initial_carry: Callable, causal: bool = True, in_parts: bool = False
) -> Layer:
    """A layer whose two views are one function of the views of its parts.

    Args:
        apply: ``(view, params, carry, xs, flags) -> (carry, ys)``; in the unrolled view flags.key holds one key per
            step.
        init: as in `Layer`.
        initial_carry: as in `Layer`.
        causal: as in `Layer`.
        in_parts: as in `Layer`.
    """

    def step(params: Any, carry: Any, x: Any, *, reset: Any = None, mask: Any = None, key: Any = None) -> Any:
        return apply(STEP, params, carry, x, Flags(reset, mask, key))

    def unroll(
        params: Any,
        carry: Any,
        xs: Any,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        tap: Any = None,
    ) -> Any:
        return apply(UNROLL, params, carry, xs, Flags(reset, mask, step_keys(key, num_steps(xs)), tap))

    return Layer(
        init=init, initial_carry=initial_carry, step=step, unroll=unroll, causal=causal, in_parts=in_parts
    )


def wrapped(layer: Layer, apply: Callable) -> Layer:
    """`composed` for one layer whose params and carry stay as they are, and an apply that has no memory of its own."""
    return composed(
        apply,
        init=layer.init,
        initial_carry=layer.initial_carry,
        causal=layer.causal,
        in_parts=layer.in_parts,
    )


def no_step(who: str) -> Callable:
    """The step of a layer that has none."""

    def step(*args: Any, **options: Any) -> Any:
        raise TypeError(
            f"{who}(...) has no step: it reads the whole sequence. Use unroll, or a causal layer for decoding."
        )

    return step


def held(view: View, array: jax.Array, length: int | None, tap: Any) -> tuple[jax.Array, jax.Array]:
    """A part of the carry that stays as it is, after the steps and at each of them: ``(array, arrays)``.

    Args:
        view: of one step, or of a sequence.
        array: ``[*B, ...]``.
        length: T in the view of a sequence.
        tap: its dummies, or None.
    """
    if tap is None or length is None:
        return array, array if length is None else jnp.broadcast_to(array[None], (length, *array.shape))

    def body(array: jax.Array, tap: Any) -> tuple[jax.Array, jax.Array]:
        array = tap_carry(array, tap)
        return array, array

    return view.scan(body, array, tap)


def length_of(view: View, xs: Any) -> int | None:
    """T in the view of a sequence, None in that of one step."""
    return num_steps(xs) if view is UNROLL else None


def example_of(view: View, xs: Any) -> Any:
    """The shapes of one time step."""
    skip = 1 if view is UNROLL else 0
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[skip:], a.dtype), xs)


def flip(tree: Any) -> Any:
    """A tree of arrays ``[T, ...]`` in reversed time."""
    return jax.tree.map(lambda a: a[::-1], tree)


_OUTPUTS: dict[Any, Any] = {}
MOST_OUTPUTS = 1000


def output_of(layer: Layer, params: Any, x: Any) -> Any:
    """What a layer makes of one time step, as a shape.

    Remembered: otherwise each level of a nest of layers would trace all that is in it twice, for its carry and for its
    output, and a nest of n levels 2^n times.
    """

    def run(params: Any, x: Any) -> Any:
        ys = layer.unroll(params, layer.initial_carry(params, x), jax.tree.map(lambda a: a[None], x))[1]
        return first_step(ys)

    leaves, treedef = jax.tree.flatten((params, x))
    types = tuple(leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf) for leaf in leaves)
    key = (layer, treedef, types, jax.config.jax_enable_x64, jax.sharding.get_abstract_mesh())  # type: ignore[attr-defined]
    try:
        found = _OUTPUTS.get(key)
    except TypeError:  # a layer of one's own that has no hash
        return jax.eval_shape(run, params, x)
    if found is None:  # computed here, so that an error in it has no other before it
        found = jax.eval_shape(run, params, x)
        if len(_OUTPUTS) >= MOST_OUTPUTS:
            _OUTPUTS.clear()
        _OUTPUTS[key] = found
    return found


def batch_shape(who: str, x: Any, event_ndim: int | None) -> tuple[int, ...]:
    """``*B`` of one time step: all axes but the example's own, by default none for integers and one for floats."""
    leaf = jax.tree.leaves(x)[0]
    own = (1 if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0) if event_ndim is None else event_ndim
    if leaf.ndim < own:
        raise ValueError(f"{who}: expected [*B, ...] with {own} axes per example, got {list(leaf.shape)}.")
    return leaf.shape[: leaf.ndim - own]


def zero_counts(x: Any, batch: tuple[int, ...]) -> jax.Array:
    """Counters ``[*B]`` at zero, with the sharding of x; its values are not read."""
    zeros = jnp.zeros_like(jax.tree.leaves(x)[0], dtype=jnp.int32)
    return zeros[(..., *(0,) * (zeros.ndim - len(batch)))]


def check_layers(who: str, layers: tuple[Any, ...], *, causal: bool = False) -> None:
    """Raise a TypeError unless all are layers, and causal where that is asked for."""
    for layer in layers:
        if not isinstance(layer, Layer):
            hint = " Bind a cell with recurrent(cell)." if type(layer).__name__ == "Cell" else ""
            hint = hint or (" Lift a module or function with pointwise(...)." if callable(layer) else "")
            raise TypeError(f"{who}: expected layers, got {layer!r}.{hint}")
        if causal and not layer.causal:
            raise TypeError(
                f"{who}: expected a causal layer, got {layer!r}, which reads the whole sequence and has no step."
            )
