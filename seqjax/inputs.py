"""The inputs of a layer: the record of flags, time steps, keys and shapes. `seqjax.calls` has the checks of a call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Flags(NamedTuple):
    """The flags of a sequence ``[T, *B, ...]``, or of one step without T. Any entry may be None.

    Attributes:
        reset: ``[T, *B]`` bool; where True the carry restarts before the step.
        mask: ``[T, *B]`` bool; where False the step does not happen.
        key: one key per step, ``[T]``; for one step, one key.
        tap: dummies ``[T, *B]``, one per leaf of the carry; see `seqjax.ops.tap`.
        initial: the carry that a reset restarts from, ``[*B, ...]``; the only entry without a time axis.
            `seqjax.recurrent` sets it for the methods; layers receive None.
    """

    reset: Any = None
    mask: Any = None
    key: Any = None
    tap: Any = None
    initial: Any = None

    def over_time(self) -> "Flags":
        """Return the entries that have a time axis, which can be scanned or cut into pieces."""
        return self._replace(initial=None)

    def part(self, number: int) -> "Flags":
        """Return the flags of part `number` of a composition whose carry is a tuple, with its own key and tap."""
        return self.part_key(number).of(lambda tap: tap[number])

    def part_key(self, number: Any) -> "Flags":
        """Return the flags with the key of part `number`."""
        return self._replace(key=fold_in(self.key, number))

    def of(self, pick: Callable) -> "Flags":
        """Return the flags for a part of the carry; ``pick`` selects the tap of that part."""
        return self if self.tap is None else self._replace(tap=pick(self.tap))


# ---------------------------------------------------------------- time steps and keys


def num_steps(xs: Any) -> int:
    """Return T of a tree of arrays ``[T, ...]``."""
    return jax.tree.leaves(xs)[0].shape[0]


def first_step(xs: Any) -> Any:
    """Return the first step of a tree of arrays ``[T, ...]``; zeros where T is 0."""
    return jax.tree.map(lambda a: a[0] if a.shape[0] else jnp.zeros(a.shape[1:], a.dtype), xs)


def step_keys(key: jax.Array | None, length: int) -> jax.Array | None:
    """Return one key per step, ``fold_in(key, t)``; an array of T keys is returned unchanged."""
    if key is None:
        return None
    key = as_key("key", key)
    if key.shape not in ((), (length,)):
        raise ValueError(f"key: expected one key, or one per step, [{length}], got {list(key.shape)}.")
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(length))


def as_key(what: str, key: Any) -> jax.Array:
    """Return a typed key, or an array of keys, also for the raw uint32 data that `jax.random.PRNGKey` returns.

    Args:
        what: name of the argument in errors.
        key: typed keys, or uint32 data of keys of the default implementation.

    Raises:
        TypeError: for anything else, such as a seed.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype == jnp.uint32:
        try:
            return jax.random.wrap_key_data(jnp.asarray(key))
        except (TypeError, ValueError):
            pass  # of another shape than the data of a key
    found = repr(key) if dtype is None else f"{dtype} {list(key.shape)}"
    seed = key if isinstance(key, int) and not isinstance(key, bool) else 0
    raise TypeError(
        f"{what}: expected a typed key such as jax.random.key(0), got {found}. Pass jax.random.key({seed})."
    )


def checked_init(init: Callable, key: Any, x: Any) -> Any:
    """`Layer.init` with its arguments in the form that the layer takes."""
    return init(as_key("init(key)", key), as_example(x))


def checked_initial_carry(initial_carry: Callable, params: Any, x: Any) -> Any:
    """`Layer.initial_carry` with its arguments in the form that the layer takes."""
    return initial_carry(params, as_example(x))


def as_example(x: Any) -> Any:
    """Return one time step, arrays or shapes, in dtypes that JAX has: without 64 bits float64 becomes float32."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray | np.generic):
            return jnp.asarray(leaf)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            return leaf if dtype == leaf.dtype else leaf.update(dtype=dtype)
        return leaf

    return jax.tree.map(convert, x)


def fold_in(key: jax.Array | None, number: Any) -> jax.Array | None:
    """Return a key, or an array of keys, for part `number` of a composition."""
    if key is None:
        return None
    return (
        jax.vmap(jax.random.fold_in, (0, None))(key, number) if key.ndim else jax.random.fold_in(key, number)
    )


def as_array(leaf: Any) -> jax.Array:
    """Return a leaf as an array; lists, numbers and NumPy arrays are converted."""
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def swap_axes(tree: Any, name: str = "xs") -> Any:
    """Swap the first two axes of each array: ``[B, T, ...]`` to ``[T, B, ...]``, and back."""

    def swap(a: Any) -> jax.Array:
        array = as_array(a)
        if array.ndim < 2:
            own = ", ..." if name == "xs" else ""
            raise ValueError(
                f"batch_major(...).unroll: expected {name} [B, T{own}], got {list(array.shape)}."
            )
        return jnp.swapaxes(array, 0, 1)

    return jax.tree.map(swap, tree, is_leaf=lambda node: isinstance(node, list))


# ---------------------------------------------------------------- shapes of what a layer returns


_SHAPES: dict[Any, Any] = {}
MOST_SHAPES = 1000


def cached_shape(kind: str, layer: Any, fn: Callable, *args: Any) -> Any:
    """``jax.eval_shape(fn, *args)`` for a function that depends on its kind and a layer alone, computed once.

    Without the cache, each level of nested layers would trace all its parts twice, once for its carry and once for its
    output, and n levels would trace the innermost layer 2^n times.
    """
    leaves, treedef = jax.tree.flatten(args)
    types = tuple(leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf) for leaf in leaves)
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    key = (kind, layer, treedef, types, x64, jax.sharding.get_abstract_mesh())
    try:
        found = _SHAPES.get(key)
    except TypeError:  # a layer written by hand that has no hash
        return jax.eval_shape(fn, *args)
    if found is None:  # outside the except clause, so that errors are not chained
        found = jax.eval_shape(fn, *args)
        if len(_SHAPES) >= MOST_SHAPES:
            _SHAPES.clear()
        _SHAPES[key] = found
    return found


class Text(str):
    """A string that prints without quotes."""

    def __repr__(self) -> str:
        return str(self)


def form(tree: Any) -> str:
    """Return a tree as text, its arrays as dtype and shape."""
    described = jax.tree.map(lambda a: Text(f"{a.dtype}{list(a.shape)}") if hasattr(a, "shape") else a, tree)
    return repr(described)
