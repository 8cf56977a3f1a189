"""The conformance suite: checks of the guarantees of every layer and cell, also for your own.

`check_layer(layer, x)` and `check_cell(cell, x)` raise an AssertionError that names check, layer and numbers. They
compute in float64, which they switch on for themselves. The name of each check is a sentence. A test runner can run
the checks in `CHECKS` one by one.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Diagonal, Gated, Layer, Method, Step
from seqjax.layers.recurrent import recurrent
from seqjax.methods import METHODS, Chunked, Fused, Newton, Scan, TimeSharded
from seqjax.testing.checks import CHECKS, low_precision_is_close, params_do_not_depend_on_method

SMALL: dict[type, Any] = {Chunked: partial(Chunked, 4), Fused: partial(Fused, interpret=True)}
"""How the checks make a method that does not run small sequences on any device by default."""


def check_layer(layer: Layer, x: Any) -> None:
    """Run every check on a layer.

    Args:
        layer: any layer, up to a whole model.
        x: one time step ``[B, ...]`` as an example, with B of at least 2.

    Raises:
        AssertionError: for the first check that fails.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> from seqjax.testing import check_layer
        >>> check_layer(sj.dropout(0.5), jnp.ones((2, 3)))
    """
    _check(CHECKS, layer, x)


def check_cell(cell: Cell, x: Any, *, strict: bool = False) -> None:
    """Run every check on a cell under every method that runs its recurrence.

    Args:
        cell: any cell.
        x: one time step ``[B, ...]`` as an example, B of at least 2.
        strict: whether to refuse implicit promotion of dtypes and ranks, and to require bfloat16 outputs for bfloat16
            inputs, as the cells of this package do.

    Raises:
        AssertionError: for the first check that fails.
    """
    for method in methods_for(cell, x):
        check_method(method, cell, x, strict=strict)


def check_method(method: Method, cell: Cell, x: Any, *, strict: bool = False) -> None:
    """Run every check on one cell under one method; see `check_cell`."""
    with jax.enable_x64(True):
        params_do_not_depend_on_method(method, cell, x)
    with strict_promotion() if strict else contextlib.nullcontext():
        checks = [check for check in CHECKS if strict or check is not low_precision_is_close]
        _check(checks, recurrent(cell, method), x)


def _check(checks: Any, layer: Layer, x: Any) -> None:
    with jax.enable_x64(True):
        for check in checks:
            check(layer, x)


def methods_for(cell: Cell, x: Any) -> list[Method]:
    """Return all methods that can run a cell, with small chunks, and `Scan` in every mode for its kind of recurrence.

    `Fused` runs in the interpreter, which knows float64. The list includes `TimeSharded` under ``jax.set_mesh`` of a
    mesh with an axis "time"; elsewhere `TimeSharded` equals its inner method. It excludes Newton's iteration, over
    devices or not, for carries with integer counters, since the iteration needs derivatives.

    Args:
        cell: any cell.
        x: one time step ``[B, ...]`` as an example, an array or a ShapeDtypeStruct.
    """
    modes: list[Any] = [SMALL.get(method, method)() for method in METHODS]
    if "time" not in jax.sharding.get_abstract_mesh().axis_names:
        modes.remove(TimeSharded())
    modes += [Scan(chunk=4)]
    if isinstance(cell.recurrence, Gated | Diagonal):
        modes += [Scan(gradient="autodiff"), Scan(chunk=5, gradient="autodiff")]
    if isinstance(cell.recurrence, Gated):
        modes += [Scan(chunk=4, keep_gates=True)]
    if isinstance(cell.recurrence, Step) and not _is_continuous(cell, x):
        modes = [method for method in modes if not isinstance(method, Newton | TimeSharded)]
    return [method for method in modes if isinstance(cell.recurrence, method.kinds)]


def _is_continuous(cell: Cell, x: Any) -> bool:
    """Return whether all leaves of a cell's carry are real or complex numbers."""
    carry = jax.eval_shape(lambda x: cell.initial_carry(cell.init(jax.random.key(0), x), x), x)
    return all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(carry))


@contextlib.contextmanager
def strict_promotion() -> Iterator[None]:
    """Make implicit promotion of dtypes and ranks an error."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        try:
            yield
        except ValueError as error:
            if "jax_numpy_rank_promotion" in str(error):
                error.add_note("The checks refuse silent broadcasts. Write jnp.broadcast_to(b, u.shape).")
            raise


__all__ = [
    "CHECKS", "check_cell", "check_layer", "check_method", "low_precision_is_close",
    "methods_for", "params_do_not_depend_on_method", "strict_promotion",
]  # fmt: skip
