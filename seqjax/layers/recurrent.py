"""Recurrent layers: a cell bound to a method."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Attention, Carry, Cell, Dense, Flags, Layer, Method, Params, Step, X, Xs, Y, Ys
from seqjax.checks import is_addressable, is_traced
from seqjax.compat import vary_like
from seqjax.inputs import first_step, form, num_steps
from seqjax.methods import Auto, TimeSharded, at_step, check_method
from seqjax.ops.select import keep
from seqjax.ops.step import step_of
from seqjax.values import definition


@definition
def recurrent(cell: Cell, method: Method = Auto()) -> Layer:  # noqa: B008 (a frozen value)
    """Run a cell over time by a method.

    Args:
        cell: the computation of one time step.
        method: how the cell runs over time; see `seqjax.methods`.

    Raises:
        TypeError: when the method cannot run the cell's kind of recurrence.
        ValueError: from `unroll` and `step`, before anything runs, for inputs of the wrong shape or dtype.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.lstm(8))
        >>> xs = jnp.ones((10, 4, 3))                                   # [T, B, D]
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        >>> ys.shape, carry.c.shape
        ((10, 4, 8), (4, 8))
    """
    if not isinstance(cell, Cell):
        remedy = " It is a layer already." if isinstance(cell, Layer) else ""
        if callable(cell):
            remedy = " Call the factory: recurrent(lstm(256))."
        raise TypeError(f"recurrent(cell): expected a Cell such as lstm(256), got {cell!r}.{remedy}")
    check_method(method, cell)

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        _check_inputs(f"{cell!r}.step", cell, params, x, flags, time=())
        x = keep(flags.mask, x)
        initial = cell.initial_carry(params, x)
        carry = _in_dtypes_of(initial, carry)
        _check_positions(f"{cell!r}.step", cell, carry, 1, flags.reset, flags.mask)
        before = carry
        try:
            carry, y = at_step(cell, params, carry, x, flags._replace(initial=initial))
        except (TypeError, ValueError):
            _check_step(f"{cell!r}.step", cell, params, before, x, flags.key)
            raise
        if isinstance(cell.recurrence, Step):
            _check_carry(f"{cell!r}.step", before, carry)
        return carry, keep(flags.mask, y)

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        _check_inputs(f"{cell!r}.unroll", cell, params, xs, flags, time=(num_steps(xs),))
        _check_length(f"{cell!r}.unroll", cell, xs)
        xs = keep(flags.mask, xs)
        initial = cell.initial_carry(params, first_step(xs))
        carry = _in_dtypes_of(initial, carry)
        _check_positions(f"{cell!r}.unroll", cell, carry, num_steps(xs), flags.reset, flags.mask)
        carry, initial = vary_like((carry, initial), xs, params)
        before = carry
        try:
            carry, ys = method.unroll(cell, params, carry, xs, flags._replace(initial=initial))
        except (TypeError, ValueError):
            key = None if flags.key is None else flags.key[0]
            _check_step(f"{cell!r}.unroll", cell, params, before, first_step(xs), key)
            raise
        return carry, keep(flags.mask, ys)

    def init(key: jax.Array, x: X) -> Any:
        _check_floating(f"{cell!r}.init", cell, None, x)
        return cell.init(key, x)

    def initial_carry(params: Params, x: X) -> Any:
        _check_floating(f"{cell!r}.initial_carry", cell, params, x)
        return cell.initial_carry(params, x)

    return Layer(
        init=init,
        initial_carry=initial_carry,
        step_fn=step,
        unroll_fn=unroll,
        time_shardable=isinstance(method, TimeSharded) and method.axis == "time",
        event_ndim=cell.event_ndim,
        max_length=_max_length(cell),
    )


def _in_dtypes_of(initial: Any, carry: Carry) -> Any:
    """Return the carry in the dtypes of the initial carry."""
    return jax.tree.map(lambda like, leaf: jnp.asarray(leaf).astype(like.dtype), initial, carry)


def _max_length(cell: Cell) -> int | None:
    return cell.recurrence.max_length if isinstance(cell.recurrence, Attention) else None


def _check_length(who: str, cell: Cell, xs: Xs) -> None:
    """Raise a ValueError for more steps than attention without a window has slots, under any method."""
    longest = _max_length(cell)
    if longest is None:
        return
    length = num_steps(xs)
    try:
        too_long = bool(length > longest)
    except Exception:  # a symbolic length of `jax.export` without a bound; its error type is not public
        raise ValueError(
            f"{who}: expected at most max_length={longest} steps, got the symbolic length {length}, which may be "
            f'longer. Bound it: jax.export.symbolic_shape("{length}, ...", constraints=["{length} <= {longest}"]).'
        ) from None
    if too_long:
        raise ValueError(
            f"{who}: expected at most max_length={longest} steps, got xs {list(jax.tree.leaves(xs)[0].shape)}. "
            "Use a larger max_length, or a window."
        )


def _check_positions(who: str, cell: Cell, carry: Carry, length: int, reset: Any, mask: Any) -> None:
    """Raise a ValueError where steps from a carry exceed max_length of attention.

    The positions are known outside `jax.jit` only.
    """
    longest = _max_length(cell)
    if longest is None or is_traced((carry.position, reset, mask)) or not is_addressable(carry.position):
        return
    position = np.asarray(carry.position)
    if position.max(initial=0) + length <= longest:
        return
    resets, masks = (None if f is None else np.asarray(f).reshape(length, -1) for f in (reset, mask))
    now, most = position.reshape(-1), 0
    for t in range(length):
        now = now if resets is None else np.where(resets[t], 0, now)
        now = now + (1 if masks is None else masks[t])
        most = max(most, int(now.max(initial=0)))
    if most > longest:
        raise ValueError(
            f"{who}: expected at most max_length={longest} steps since a reset, got {most}, of which "
            f"{int(position.max())} came before this call. Give a larger max_length, or a window."
        )


def _check_floating(who: str, cell: Cell, params: Params, x: X) -> None:
    """Raise a ValueError for integers x where the cell's carry takes the dtype of x."""
    leaf = jax.tree.leaves(x)[0]
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return

    def example(dtype: Any) -> Any:
        def shape(a: Any) -> Any:
            floating = jnp.issubdtype(a.dtype, jnp.inexact)
            return jax.ShapeDtypeStruct(a.shape, a.dtype if floating else dtype or a.dtype)

        return jax.tree.map(shape, x)

    def carry(dtype: Any) -> Any:
        x = example(dtype)
        p = jax.eval_shape(cell.init, jax.random.key(0), x) if params is None else params
        return jax.eval_shape(cell.initial_carry, p, x)

    try:
        floats = carry(jnp.float32)
    except Exception:
        return  # a cell of integers alone
    try:
        same = jax.tree.map(lambda a, b: a.dtype == b.dtype, carry(None), floats)
    except Exception:
        same = False
    if not all(jax.tree.leaves(same)):
        letters = "[..., D]" if cell.event_ndim == 1 else "[...]"
        raise ValueError(
            f"{who}: expected floating xs {letters}, got {leaf.dtype} {list(leaf.shape)}. {_VECTORS_FIRST}"
        )


_VECTORS_FIRST = (
    "Turn tokens into vectors first, for example with serial(pointwise(flax.linen.Embed(256, 64)), ...)."
)


def _check_step(who: str, cell: Cell, params: Params, carry: Carry, x: X, key: Any) -> None:
    """Raise a TypeError where the cell's own step returns something else than the carry as it was, and an output."""
    if not isinstance(cell.recurrence, Step):
        return
    dtype = jax.tree.leaves(x)[0].dtype

    def run(params: Params, carry: Carry, x: X) -> Any:
        u = cell.project(params, x) if key is None else cell.project(params, x, key)
        return step_of(cell.recurrence, params, dtype)(carry, u)

    try:
        found = jax.eval_shape(run, params, carry, x)
    except Exception:
        return  # an error of the step itself, which is the one to report
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{who}: expected a step that returns (carry, h), got {form(found)}.") from None
    _check_carry(who, carry, found[0])


def _check_carry(who: str, before: Any, after: Any) -> None:
    """Raise a TypeError unless the carry after a step has the structure, shapes and dtypes of the carry before it."""
    structure: Any = jax.tree.structure
    if structure(before) != structure(after):
        raise TypeError(
            f"{who}: expected a step that returns the carry in the structure in which it came, {form(before)}, got "
            f"{form(after)}. Return a carry of the form that initial_carry has."
        ) from None
    old = jax.tree_util.tree_leaves_with_path(before)
    for (path, was), is_ in zip(old, jax.tree.leaves(after), strict=True):
        if was.shape != is_.shape or was.dtype != is_.dtype:
            where = f"carry{jax.tree_util.keystr(path)}"
            castable = was.shape == is_.shape
            remedy = f"Cast it to {was.dtype}" if castable else "Make initial_carry and step agree"
            raise TypeError(
                f"{who}: expected a step that returns {where} as it came, {form(was)}, got {form(is_)}. {remedy}."
            ) from None


def _check_inputs(
    who: str, cell: Cell, params: Params, xs: Xs, flags: Flags, *, time: tuple[int, ...]
) -> None:
    """Raise a ValueError for inputs of the wrong shape or dtype, from static information alone."""
    own = ["D"] if cell.event_ndim == 1 else [f"D{i + 1}" for i in range(cell.event_ndim)]
    letters = f"[{', '.join([*('T' for _ in time), '...', *own])}]"
    leaf, *others = jax.tree.leaves(xs)
    if leaf.ndim < len(time) + cell.event_ndim or leaf.shape[: len(time)] != time:
        raise ValueError(f"{who}: expected xs {letters}, got {list(leaf.shape)}.")
    batch = leaf.shape[: leaf.ndim - cell.event_ndim]
    for other in others:
        if other.shape[: len(batch)] != batch:
            raise ValueError(
                f"{who}: expected every array in xs to begin with {list(batch)}, as the first, {list(leaf.shape)}, "
                f"does, got {list(other.shape)}."
            )
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[len(time) :], a.dtype), xs)
    if isinstance(cell.project, Dense):
        w, _ = cell.project.weights(params)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{who}: expected floating xs {letters}, got {leaf.dtype}. {_VECTORS_FIRST}")
        if leaf.shape[-1] != w.shape[0]:
            wanted = letters.replace("D", str(w.shape[0]))
            raise ValueError(
                f"{who}: expected xs {wanted} (the input weights are {list(w.shape)}), got {list(leaf.shape)}."
            )
    else:
        try:
            jax.eval_shape(cell.project, params, x)
        except (TypeError, ValueError) as error:
            if "expected" not in str(error):  # no message of ours
                _check_floating(who, cell, params, x)
            raise ValueError(f"{who}: {error}") from error
    _check_floating(who, cell, params, x)
    for name, flag in (("reset", flags.reset), ("mask", flags.mask)):
        if flag is not None and flag.shape != batch:
            raise ValueError(
                f"{who}: expected {name} {list(batch)}, as xs {list(leaf.shape)}, got {list(flag.shape)}."
            )
