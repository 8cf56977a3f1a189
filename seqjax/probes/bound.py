"""Bound layers: a layer with its params, the first argument of every probe."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Carry, Cell, Layer, Params, X, Xs, Y
from seqjax.gradients.conditioning import conditioned_on
from seqjax.gradients.objective import Loss, objective
from seqjax.gradients.recurrent_layers import cell_of
from seqjax.inputs import first_step


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["layer"])
@dataclass(frozen=True)
class Bound:
    """A layer with its params: a deterministic step ``(carry, x) -> (carry, y)`` with a batch axis; a pytree."""

    layer: Layer
    params: Params

    def __call__(self, carry: Carry, x: X) -> tuple[Carry, Y]:
        return self.layer.step(self.params, carry, x)

    def initial_carry(self, x: X) -> Any:
        """Return the carry of the layer before its first step."""
        return self.layer.initial_carry(self.params, x)


def bind(layer: Layer, params: Params) -> Bound:
    """Bind a layer to its params. Every probe takes the result as its first argument.

    A causal layer becomes a step ``(carry, x) -> (carry, y)`` whose carry and inputs have one batch axis. The step is
    deterministic: dropout is off. The result is a pytree whose leaves are the params, so it passes through ``jax.jit``
    and can be differentiated.

    Args:
        layer: the layer. Most probes need a causal layer; `gradient_profile` and `per_example_gradients` take any.
        params: the params of the layer.

    Raises:
        TypeError: if `layer` is not a `seqjax.Layer`.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> from seqjax.probes import bind
        >>> layer = sj.recurrent(sj.elman(4))
        >>> step = bind(layer, layer.init(jax.random.key(0), jnp.ones((2, 3))))
        >>> carry, y = step(step.initial_carry(jnp.ones((2, 3))), jnp.ones((2, 3)))
        >>> y.shape
        (2, 4)
    """
    if not isinstance(layer, Layer):
        hint = " Bind the cell to a method first: recurrent(cell)." if isinstance(layer, Cell) else ""
        raise TypeError(f"bind(layer): expected a Layer, got {layer!r}.{hint}")
    return Bound(layer, params)


def as_batch(batch: Any) -> Batch:
    """Return the data of a probe as a `seqjax.Batch`. Arrays, and a number of steps, stand for ``Batch(xs, None)``."""
    return batch if isinstance(batch, Batch) else Batch(batch, None)


def conditioned(who: str, bound: Bound, batch: Batch, carry: Any) -> tuple[Bound, Batch]:
    """Return the bound layer conditioned on the context of a batch, and the batch without a context.

    A given carry needs no context: it is the carry that enters the first step.
    """
    if batch.context is None and carry is not None:
        return bound, batch
    layer, batch = conditioned_on(who, bound.layer, batch)
    return Bound(layer, bound.params), batch


def check_bound(who: str, bound: Any, what: str = "bind(layer, params)", plain: str = "") -> Bound:
    """Return a bound layer; raise a TypeError for anything else, with the remedy `plain` for a plain function."""
    if isinstance(bound, Bound):
        return bound
    hint = f" {plain}" if plain and callable(bound) else ""
    hint = " Write bind(recurrent(cell), params)." if isinstance(bound, Cell) else hint
    hint = " Write bind(layer, params)." if isinstance(bound, Layer) else hint
    raise TypeError(f"{who}(bound): expected a bound layer, {what}, got {bound!r}.{hint}")


def bound_cell(who: str, bound: Any) -> Cell:
    """Return the cell of a bound ``recurrent(cell)``; raise a TypeError for anything else."""
    wanted = "bind(recurrent(cell), params)"
    cell = cell_of(check_bound(who, bound, wanted).layer)
    if cell is None:
        raise TypeError(f"{who}(bound): expected {wanted}, got the layer {bound.layer!r}.")
    return cell


def mean_loss(who: str, layer: Layer, loss: Loss) -> Callable:
    """Return ``(params, carry, batch, *, key=None, tap=None) -> mean loss``; a carry of None is the layer's own.

    A context of the batch conditions the layer.
    """

    def mean(params: Params, carry: Carry, batch: Batch, **options: Any) -> jax.Array:
        bound, batch = conditioned(who, bind(layer, params), batch, carry)
        start = first_carry(bound, carry, batch.xs)
        total, (count, _) = objective(bound.layer, loss)(params, start, batch, **options)
        return total / jnp.maximum(count, 1)

    return mean


def first_carry(bound: Bound, carry: Carry, xs: Xs) -> Any:
    """Return the carry entering the first step: the one given, or the initial carry of the layer."""
    return bound.initial_carry(first_step(xs)) if carry is None else carry
