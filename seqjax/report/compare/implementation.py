"""What is compared: a layer or a user's function, in a dtype, on a device; made to run on the same numbers."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Layer
from seqjax.layers import recurrent

CONTRACT = (
    "build() -> (params, step) or (params, step, carry), with step(params, carry, x) -> (carry, y) "
    "for one example at one time step; or build() -> a seqjax.Layer"
)
DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Implementation:
    """One way to compute a sequence.

    Attributes:
        make: a `seqjax.Layer` (a cell under a method, or a whole model), a `seqjax.Cell` (under `Auto`), or a function
            ``build`` of one's own.
        dtype: of params, carry and inputs: bfloat16, float16, float32 or float64. None: that of the params which
            ``build`` returns; float32 for layers.
        device: where it runs; None for the default device.
        name: what to call it; None for what it prints as.

    A ``build`` returns ``(params, step)`` or ``(params, step, carry)``:

    * ``step(params, carry, x) -> (carry, y)`` is one time step of *one example*: x is ``[D]``; it is mapped over the
      batch and scanned over time.
    * ``carry`` is the first carry of one example: a pytree, or a function ``(params, x) -> pytree``. Without it the
      initial carry of the other side is taken, which must be a layer then.
    * ``params`` is any pytree. A ``build`` with a required argument is called ``build(params)`` with the params of the
      other side, in order to convert them to a layout of its own. Without, it makes its own; where these have the
      paths and shapes of the other side's, the other side is run on them.

    For a fused kernel over whole sequences return a `seqjax.Layer` with that kernel as its ``unroll``.
    """

    make: Any
    dtype: Any = None
    device: Any = None
    name: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.make, Cell):
            object.__setattr__(self, "make", recurrent(self.make))
        if not callable(self.make) and not isinstance(self.make, Layer):
            raise TypeError(
                f"Implementation(make): expected a Layer, a Cell or {CONTRACT}; got {self.make!r}."
            )
        if self.dtype is not None:
            name = jnp.dtype(self.dtype).name
            if name not in DTYPES:
                raise ValueError(
                    f"Implementation(dtype): expected one of {', '.join(DTYPES)}, got {self.dtype!r}."
                )
            object.__setattr__(self, "dtype", name)

    def __str__(self) -> str:
        shown = self.name or (repr(self.make) if isinstance(self.make, Layer) else self.make.__name__)
        return shown + "".join(f", {part}" for part in (self.dtype, self.device) if part is not None)


class System(NamedTuple):
    """An implementation made ready: params in float64 (or complex128), functions over batches ``[B, ...]``."""

    name: str
    is_layer: bool
    params: Any
    initial: Callable | None
    step: Callable
    unroll: Callable
    dtype: str
    device: Any


def prepare(a: Implementation, b: Implementation, xs: Any, seed: int) -> tuple[System, System, list[str]]:
    """Both sides with the same numbers, rounded to the coarser of the two dtypes, and remarks for the reader.

    Args:
        a: one side.
        b: the other.
        xs: inputs ``[T, B, ...]``, NumPy.
        seed: of the initial params of layers.
    """
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    first = _make(a, x, seed, None)
    second = _make(b, x, seed, first.params if first else None)
    first = first or _make(a, x, seed, second.params if second else None)
    if first is None or second is None:
        raise ValueError(
            f"compare: {a} and {b} both want the params of the other side; one build() must make them."
        )
    coarse = coarser(first.dtype, second.dtype)
    first, second = (each._replace(params=rounded(each.params, coarse)) for each in (first, second))
    remarks = []
    if first.is_layer and second.is_layer:
        if shapes(first.params) != shapes(second.params):
            raise ValueError(
                f"compare: expected two implementations of one function, got params {shapes(first.params)} of {a} "
                f"and {shapes(second.params)} of {b}. Compare methods, dtypes or devices of one cell."
            )
        second = second._replace(params=first.params)
    elif _takes_params(a) or _takes_params(b):
        remarks.append(
            "The params of one side were made from those of the other by its build(params)."
        )
    elif shapes(first.params) == shapes(second.params):
        if first.is_layer or second.is_layer:
            own, given = (second, first) if first.is_layer else (first, second)
            given = given._replace(params=transplant(given.params, own.params))
            first, second = (given, own) if first.is_layer else (own, given)
        elif not same(first.params, second.params):
            remarks.append(
                "Each side has made params of its own, and their values differ: the functions differ with them."
            )
    else:
        remarks.append(
            "The params of the two sides differ in structure or shape, so each side keeps its own: they are the same "
            "function only if its build made them so. build(params) is given the params of the other side to convert."
        )
    return first, second, remarks


def with_carries(a: System, b: System) -> tuple[System, System]:
    """Both sides with an initial carry: a side without one takes that of the other."""
    if a.initial is None and b.initial is None:
        raise ValueError(
            f"compare: neither {a.name} nor {b.name} says what its first carry is. Return (params, step, carry) "
            "from build()."
        )
    return _with_carry(a, b), _with_carry(b, a)


def _with_carry(system: System, other: System) -> System:
    if system.initial is not None:
        return system

    def initial(params: Any, x: Any) -> Any:
        assert other.initial is not None
        dtype = jax.tree.leaves(x)[0].dtype
        return cast(other.initial(cast(other.params, dtype), x), dtype)

    return system._replace(initial=initial)


def check_step(system: System, carry: Any, xs: Any) -> None:
    """Raise a ValueError or TypeError where a user's step does not have `lax.scan`'s contract on these inputs."""
    if system.is_layer:
        return
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    given = f"carry {shown(carry, 1)} and x {shown(x, 1)}"
    try:
        found = jax.eval_shape(system.step, cast(system.params, system.dtype), carry, x)
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{system.name}: step(params, carry, x) failed on {given}: {type(error).__name__}: {first_line} "
            f"Expected {CONTRACT}."
        ) from error
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{system.name}: expected {CONTRACT}; step returned {type(found).__name__}.")
    if shown(found[0], 1) != shown(carry, 1):
        raise ValueError(
            f"{system.name}: expected step to return a carry like the one it is given, {shown(carry, 1)}, "
            f"got {shown(found[0], 1)}. Cast inside step, or give another dtype."
        )


def _make(implementation: Implementation, x: Any, seed: int, other: Any) -> System | None:
    """The system of one side; None where its build wants params that are not known yet."""
    made, name = implementation.make, str(implementation)
    if not isinstance(made, Layer):
        wants = _takes_params(implementation)
        if wants and other is None:
            return None
        made = made(jax.tree.map(jnp.asarray, other)) if wants else made()
    if isinstance(made, Layer):
        if not made.causal:
            raise TypeError(f"{name}: expected a causal layer, which has a step to check it by.")
        dtype = implementation.dtype or "float32"
        with jax.enable_x64(False):
            params = made.init(jax.random.key(seed), cast(x, "float32"))
        return System(
            name, True, doubled(params), made.initial_carry, made.step, made.unroll, dtype, implementation.device
        )
    return _user(implementation, made)


def _user(implementation: Implementation, made: Any) -> System:
    name = str(implementation)
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not callable(made[1]):
        got = f"({', '.join(type(part).__name__ for part in made)})" if isinstance(made, tuple) else type(made).__name__
        raise TypeError(f"{name}: expected {CONTRACT}; build() returned {got}.")
    params, step = made[:2]
    dtypes = {
        name: leaf.dtype.name for name, leaf in named(params).items() if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    if implementation.dtype is None and len(set(dtypes.values())) > 1:
        listed = ", ".join(f"{leaf} {dtype}" for leaf, dtype in dtypes.items())
        raise ValueError(
            f"{name}: expected params of one dtype, got mixed dtypes: {listed}. Say which one to run in (dtype=...)."
        )
    dtype = implementation.dtype or next(iter(dtypes.values()), "float32")
    batched = jax.vmap(step, (None, 0, 0))

    def unroll(params: Any, carry: Any, xs: Any) -> Any:
        return jax.lax.scan(lambda carry, x: batched(params, carry, x), carry, xs)

    def initial(params: Any, x: Any) -> Any:
        batch = jax.tree.leaves(x)[0].shape[0]
        one = made[2](params, jax.tree.map(lambda leaf: leaf[0], x)) if callable(made[2]) else made[2]
        one = cast(one, jax.tree.leaves(x)[0].dtype)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *jnp.shape(leaf))), one)

    return System(
        name,
        False,
        doubled(params),
        initial if len(made) == 3 else None,
        batched,
        unroll,
        dtype,
        implementation.device,
    )


def _takes_params(implementation: Implementation) -> bool:
    if isinstance(implementation.make, Layer):
        return False
    parameters = inspect.signature(implementation.make).parameters.values()
    wanted = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(wanted) > 1:
        raise TypeError(
            f"{implementation}: expected {CONTRACT} (or build(params)); it wants {len(wanted)} arguments: "
            f"{', '.join(p.name for p in wanted)}."
        )
    return bool(wanted)


# ---------------------------------------------------------------- trees of numbers


def coarser(a: str, b: str) -> str:
    """The dtype with the larger unit roundoff."""
    return max(a, b, key=lambda name: float(jnp.finfo(name).eps))


def cast(tree: Any, dtype: Any) -> Any:
    """Inexact arrays in this dtype, complex ones in complex64 or complex128; all else as it is."""
    wide = "complex128" if jnp.dtype(dtype).itemsize == 8 else "complex64"

    def one(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return leaf.astype(wide)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def doubled(tree: Any) -> Any:
    """NumPy arrays in float64 or complex128; integers as they are."""

    def one(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            return array.astype(np.complex128)
        return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(one, tree)


def rounded(tree: Any, dtype: str) -> Any:
    """Float64 arrays whose values this dtype can hold."""

    def one(leaf: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(leaf):
            return leaf.astype(np.complex64 if jnp.finfo(dtype).bits < 64 else leaf.dtype).astype(leaf.dtype)
        return leaf.astype(jnp.dtype(dtype)).astype(leaf.dtype) if leaf.dtype == np.float64 else leaf

    return jax.tree.map(one, tree)


def named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their path, ``w_x`` or ``layers.0.w``; a single array is named ""."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): jnp.asarray(leaf) if np.isscalar(leaf) else leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by path."""
    return {name: tuple(np.shape(leaf)) for name, leaf in named(tree).items()}


def shown(tree: Any, batch_ndim: int) -> str:
    """Shapes and dtypes by path, without the batch axes."""
    parts = [
        f"{name} {list(leaf.shape[batch_ndim:])} {leaf.dtype}".strip() for name, leaf in named(tree).items()
    ]
    return ", ".join(parts) or "()"


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same numbers under the same paths."""
    left, right = named(a), named(b)
    return all(np.array_equal(left[name], right[name]) for name in left)


def transplant(into: Any, values: Any) -> Any:
    """The tree `into` with the values found under its paths."""
    found = named(values)
    return jax.tree.unflatten(jax.tree.structure(into), [found[name] for name in named(into)])
