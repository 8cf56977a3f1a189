"""An implementation to compare: a layer or a user's function, in a dtype, on a device."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from seqjax.base import Cell, Layer
from seqjax.checks import check_one_of
from seqjax.layers.recurrent import recurrent

CONTRACT = (
    "build() -> (params, step) or (params, step, carry), with step(params, carry, x) -> (carry, y) for one example at "
    "one time step; or build() -> a seqjax.Layer"
)
DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Implementation:
    """One way to compute a sequence.

    Attributes:
        make: a `seqjax.Layer` (a cell under a method, or a whole model), a `seqjax.Cell` (under `Auto`), or a function
            ``build`` of the user.
        dtype: dtype of params, carry and inputs: bfloat16, float16, float32 or float64. None for the dtype of the
            params that ``build`` returns; float32 for layers.
        device: device that computes; None for the default device.
        name: name in tables and messages; None for the repr of a layer and the name of a function.

    A ``build`` returns ``(params, step)`` or ``(params, step, carry)``:

    * ``step(params, carry, x) -> (carry, y)`` computes one time step of *one example*, with x of shape ``[D]``. The
      comparison maps the step over the batch and scans it over time.
    * ``carry`` is the first carry of one example: a pytree, or a function ``(params, x) -> pytree``. Without
      ``carry``, the comparison uses the initial carry of the other side, which must be a layer.
    * ``params`` is any pytree. Where its paths and shapes equal those of the other side, both sides run on it.
    * A ``build`` with a required argument is called ``build(params)`` with the params of the other side, which it
      converts to its layout. Gradients are then with respect to the other side's params, through the conversion, so
      the conversion must be written in `jax.numpy`.

    ``build`` runs with 64-bit numbers only where dtype is float64. To compare a fused kernel over whole sequences,
    return a `seqjax.Layer` whose ``unroll`` is the kernel.
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
            check_one_of("Implementation(dtype)", name, DTYPES)
            object.__setattr__(self, "dtype", name)

    def __str__(self) -> str:
        shown = self.name or (repr(self.make) if isinstance(self.make, Layer) else self.make.__name__)
        device = None if self.device is None else f"{self.device.platform}:{self.device.id}"
        return shown + "".join(f", {part}" for part in (self.dtype, device) if part is not None)


class System(NamedTuple):
    """A prepared implementation: params in float64 (or complex128), functions over batches ``[B, ...]``."""

    name: str
    is_layer: bool
    params: Any
    initial: Callable | None
    step: Callable
    unroll: Callable
    dtype: str
    device: Any


def takes_params(implementation: Implementation) -> bool:
    """Return whether ``build`` has a required argument: the params of the other side."""
    if isinstance(implementation.make, Layer):
        return False
    parameters = inspect.signature(implementation.make).parameters.values()
    wanted = [
        p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(wanted) > 1:
        raise TypeError(
            f"{implementation}: expected {CONTRACT} (or build(params)), got a function with {len(wanted)} required "
            f"arguments: {', '.join(p.name for p in wanted)}."
        )
    return bool(wanted)
