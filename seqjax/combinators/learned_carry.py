"""A learned initial carry, for any cell."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from seqjax.base import Attention, Cell, Dense, Gated, Step, X
from seqjax.ops.vectors import Floating
from seqjax.values import definition


class LearnedCarryParams(NamedTuple):
    """The cell's params; the floating leaves of the initial carry of one example, in their order.

    A complex leaf ``[...]`` is held as ``[2, ...]``, its real and its imaginary part.
    """

    cell: Any
    carry: tuple


@definition
def learned_carry(cell: Cell, *, param_dtype: Any = jnp.float32) -> Cell:
    """A cell whose initial carry is a part of its params.

    All rows of a batch, and all sequences after a reset, start from the same learned carry. It begins as the cell's own
    initial carry, mostly zero. Integer leaves (counters) stay as they are. The recurrence keeps its kind, so every
    method that runs the cell runs this one as well.

    Shapes: those of the cell; params `LearnedCarryParams`, the leaves of the carry without the batch axes.

    Gradients: the gradient by the learned carry is the sum over rows and resets of the gradients by the carries that
    they start from. It crosses no reset, and vanishes or explodes with the distance to the loss as that of any carry.

    Args:
        cell: any cell but attention, whose empty carry has no entries to learn.
        param_dtype: dtype of the learned leaves.

    Raises:
        TypeError: for an attention cell.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.learned_carry(sj.lstm(8)))
        >>> params = layer.init(jax.random.key(0), jnp.ones((4, 3)))
        >>> [leaf.shape for leaf in params.carry]
        [(8,), (8,)]
        >>> params = params._replace(carry=(jnp.ones(8), jnp.zeros(8)))
        >>> layer.initial_carry(params, jnp.ones((4, 3))).c.sum()
        Array(32., dtype=float32)
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"learned_carry(cell): expected a Cell such as lstm(256), got {cell!r}.")
    if isinstance(cell.recurrence, Attention):
        raise TypeError(
            f"learned_carry(cell): expected a cell whose carry has a state, got {cell!r}, which starts without entries."
        )

    def batch_ndim(x: X) -> int:
        return len(jax.tree.leaves(x)[0].shape) - cell.event_ndim

    def init(key: jax.Array, x: X) -> LearnedCarryParams:
        params = cell.init(key, x)
        lead = batch_ndim(x)
        one = jax.tree.map(lambda a: jnp.zeros((1,) * lead + tuple(a.shape[lead:]), a.dtype), x)
        leaves = [leaf[(0,) * lead] for leaf in Floating(cell.initial_carry(params, one)).leaves]
        return LearnedCarryParams(params, tuple(_as_real(leaf).astype(param_dtype) for leaf in leaves))

    def initial_carry(params: LearnedCarryParams, x: X) -> Any:
        floating, lead = Floating(cell.initial_carry(params.cell, x)), batch_ndim(x)

        def start(leaf: jax.Array, learned: jax.Array) -> jax.Array:
            value = _as_dtype(learned, leaf.dtype)
            # The zeros have the sharding of x.
            return jnp.zeros_like(leaf) + value.reshape((1,) * lead + value.shape)

        return floating.with_leaves(list(map(start, floating.leaves, params.carry)))

    def inner(function: Callable) -> Callable:
        return lambda params, *args, **options: function(params.cell, *args, **options)

    recurrence = cell.recurrence
    if isinstance(recurrence, Step):
        recurrence = Step(inner(recurrence.fn))
    elif isinstance(recurrence, Gated):
        recurrence = dataclasses.replace(recurrence, weights=inner(recurrence.weights))
    project = cell.project
    return Cell(
        init=init,
        initial_carry=initial_carry,
        recurrence=recurrence,
        project=Dense(inner(project.weights)) if isinstance(project, Dense) else inner(project),
        readout=inner(cell.readout),
        event_ndim=cell.event_ndim,
        inverse=None if cell.inverse is None else inner(cell.inverse),
    )


def _as_real(leaf: Inexact[Array, "..."]) -> Float[Array, "..."]:
    """A complex array ``[...]`` as ``[2, ...]``; a real one as it is."""
    return jnp.stack([leaf.real, leaf.imag]) if jnp.iscomplexobj(leaf) else leaf


def _as_dtype(array: Float[Array, "..."], dtype: Any) -> Inexact[Array, "..."]:
    """The inverse of `_as_real`, in a real or complex dtype."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return array.astype(dtype)
    part = jnp.finfo(dtype).dtype
    return jax.lax.complex(array[0].astype(part), array[1].astype(part))
