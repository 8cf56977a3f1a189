"""The calls of a layer: `Layer.step` and `Layer.unroll` check their arguments here, once, before a layer runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.inputs import (
    Flags,
    Text,
    as_array,
    as_key,
    cached_shape,
    first_step,
    num_steps,
    step_keys,
    swap_axes,
)


def run_step(layer: Any, params: Any, carry: Any, x: Any, flags: Flags) -> tuple[Any, Any]:
    """Check the arguments and run `Layer.step`."""
    if not layer.causal:
        raise TypeError(
            f"{layer!r} has no step: it reads the whole sequence. Use unroll, or a causal layer for decoding."
        )
    carry, x, flags = checked(layer, "step", params, carry, x, flags)
    return layer.step_fn(params, carry, x, flags)


def run_unroll(layer: Any, params: Any, carry: Any, xs: Any, flags: Flags) -> tuple[Any, Any]:
    """Check the arguments and run `Layer.unroll`."""
    if layer.batch_major:
        xs = swap_axes(xs)
        flags = flags._replace(reset=swap_axes(flags.reset, "reset"), mask=swap_axes(flags.mask, "mask"))
    carry, xs, flags = checked(layer, "unroll", params, carry, xs, flags)
    if num_steps(xs):
        carry, ys = layer.unroll_fn(params, carry, xs, flags)
    else:
        ys = empty_outputs(layer, params, carry, xs)
    return carry, swap_axes(ys) if layer.batch_major else ys


def empty_outputs(layer: Any, params: Any, carry: Any, xs: Any) -> Any:
    """Return the outputs ``[0, *B, ...]`` of a layer for a sequence without steps."""
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), xs)
    ys = jax.eval_shape(layer.unroll_fn, params, carry, one, Flags())[1]
    return jax.tree.map(lambda a: jnp.zeros((0, *a.shape[1:]), a.dtype), ys)


def checked(layer: Any, view: str, params: Any, carry: Any, xs: Any, flags: Flags) -> tuple[Any, Any, Flags]:
    """Return ``(carry, xs, flags)`` in the form that `Layer.step_fn` and `Layer.unroll_fn` take.

    Lists and NumPy arrays become arrays, one key becomes one key per step, and None becomes the initial carry.

    Args:
        layer: the layer that is called.
        view: "step" or "unroll".
        params: its params.
        carry: its carry, or None.
        xs: inputs of one step, or of a sequence.
        flags: the flags of the call.

    Raises:
        TypeError: for a key that is not a key, such as a seed.
        ValueError: for flags of the wrong dtype or shape, or the carry of another layer.
    """
    whole = view == "unroll"
    xs = jax.tree.map(as_array, xs)
    shapes = [leaf.shape for leaf in jax.tree.leaves(xs)]
    if whole and (not all(shapes) or len({shape[0] for shape in shapes}) != 1):
        found = ", ".join(str(list(shape)) for shape in shapes) or "no array"
        raise ValueError(
            f"{layer!r}.unroll: expected xs [T, *B, ...] with one number of steps T, got {found}. For one time step "
            "use step."
        )
    reset, mask = (
        _flag(layer, view, name, flag, xs, shapes)
        for name, flag in (("reset", flags.reset), ("mask", flags.mask))
    )
    if reset is not None and mask is not None and reset.shape != mask.shape:
        raise ValueError(
            f"{layer!r}.{view}: expected reset and mask of one shape, got {list(reset.shape)} and {list(mask.shape)}."
        )
    key = flags.key
    if whole:
        key = step_keys(key, shapes[0][0])
    elif key is not None:
        key = as_key("key", key)
        if key.shape:
            raise ValueError(f"key: expected one key, got {list(key.shape)}.")
    carry = _carry(layer, view, params, carry, xs)
    return carry, xs, flags._replace(reset=reset, mask=mask, key=key)


def _flag(layer: Any, view: str, name: str, flag: Any, xs: Any, shapes: list) -> jax.Array | None:
    if flag is None:
        return None
    flag = as_array(flag)
    if flag.dtype != jnp.bool_:
        raise ValueError(
            f"{layer!r}.{view}: expected {name} of dtype bool, got {flag.dtype} {list(flag.shape)}. "
            f"Convert with {name}.astype(bool)."
        )
    whole = view == "unroll"
    least, most = _flag_axes(layer, xs, whole)
    ndim = min(max(flag.ndim, least), most)
    wrong = [shape for shape in shapes if shape[:ndim] != flag.shape]
    if wrong:
        shape = wrong[0]
        swapped = whole and flag.ndim > 1 and shape[:2] == flag.shape[1::-1]
        raise ValueError(
            f"{layer!r}.{view}: expected {name} {list(shape[:ndim])}, as {'xs' if whole else 'x'} "
            f"{list(shape)}, got {list(flag.shape)}." + (_TIME_MAJOR if swapped else "")
        )
    return flag


def _flag_axes(layer: Any, xs: Any, whole: bool) -> tuple[int, int]:
    """The least and the largest number of axes of a flag.

    A flag has all batch axes. Where the layer does not define the number of its own axes, floats have at least one of
    them and integers may have none, and at least the first of the other axes is a batch axis.
    """
    first = jax.tree.leaves(xs)[0]
    if layer.event_ndim is not None:
        ndim = max(int(whole), first.ndim - layer.event_ndim)
        return ndim, ndim
    most = max(int(whole), first.ndim - int(jnp.issubdtype(first.dtype, jnp.inexact)))
    return min(most, 1 + int(whole)), most


_TIME_MAJOR = (
    " Sequences are time-major, [T, *B, ...]: swap the first two axes with jnp.swapaxes(xs, 0, 1), or wrap the model "
    "in batch_major(...)."
)


def _carry(layer: Any, view: str, params: Any, carry: Any, xs: Any) -> Any:
    """Return the carry as arrays; raise a ValueError for the carry of another layer, from shapes alone."""
    whole = view == "unroll"

    def initial_carry(params: Any, xs: Any) -> Any:
        return layer.initial_carry(params, first_step(xs) if whole else xs)

    if carry is None:
        return initial_carry(params, xs)
    carry = jax.tree.map(as_array, carry)

    def expected_for(params: Any) -> Any:
        return cached_shape(f"carry of {view}", layer, initial_carry, params, xs)

    form: Any = jax.tree.structure
    swapped = f" Params and carry are swapped: write layer.{view}(params, carry, {'xs' if whole else 'x'})."
    try:
        expected = expected_for(params)
    except Exception:
        if not _is_swapped(expected_for, params, carry):
            return carry  # the run itself raises a clearer error
        raise ValueError(
            f"{layer!r}.{view}: expected params, got its carry {_kind(params)}.{swapped}"
        ) from None
    if form(carry) != form(expected):
        if form(params) == form(expected):
            remedy = swapped
        else:
            remedy = " Use the carry of this layer: layer.initial_carry(params, x), or None."
        raise ValueError(f"{layer!r}.{view}: expected a carry {_kind(expected)}, got {_kind(carry)}.{remedy}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(expected), strict=True)
    wrong = [(path, leaf.shape, like.shape) for (path, leaf), like in pairs if not _fits(leaf, like)]
    if wrong:
        # If the inputs do not fit the params, this run raises an error about the inputs instead.
        run = layer.unroll_fn if whole else layer.step_fn
        jax.eval_shape(lambda params, xs: run(params, initial_carry(params, xs), xs, Flags()), params, xs)
        path, found, like = wrong[0]
        raise ValueError(
            f"{layer!r}.{view}: expected carry{jax.tree_util.keystr(path)} {list(like)}, got {list(found)}."
            + _remedy(view, jax.tree.leaves(xs)[0].shape, found, like)
        )
    return carry


def _fits(leaf: Any, like: Any) -> bool:
    """Return whether a leaf of a carry has the expected shape; axes of expected size 0 may have any size."""
    return leaf.ndim == len(like.shape) and all(
        b in (a, 0) for a, b in zip(leaf.shape, like.shape, strict=True)
    )


def _is_swapped(expected_for: Callable, params: Any, carry: Any) -> bool:
    form: Any = jax.tree.structure
    try:
        return form(expected_for(carry)) == form(params)
    except Exception:
        return False


def _remedy(view: str, xs: tuple[int, ...], found: tuple[int, ...], like: tuple[int, ...]) -> str:
    """Return what to write instead, from the shapes of xs and of a leaf of the carry."""
    if view == "unroll" and found[1:] == like:
        return " The carry was made from a whole sequence: pass one time step, layer.initial_carry(params, xs[0])."
    if view == "step" and like[1:] == found:
        return " step takes one time step, x [*B, ...]; for a sequence use unroll."
    if view == "unroll" and found and like and len(xs) > 1 and (found[0], like[0]) == xs[:2]:
        return f" The carry is for a batch of {found[0]}, and xs is {list(xs)}.{_TIME_MAJOR}"
    return f" {'xs' if view == 'unroll' else 'x'} is {list(xs)}."


def _kind(tree: Any) -> str:
    """Return the text of a tree, with a * for each array."""
    return repr(jax.tree.map(lambda _: Text("*"), tree))
