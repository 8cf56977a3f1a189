"""Kernels for NVIDIA GPUs, written with Pallas and compiled by Triton: the only module that uses either.

Triton comes inside jaxlib, so a kernel needs no compiler on the user's machine. JAX deprecates Pallas' lowering to
Triton from 0.11 on, without a date of removal. Where it is missing, `kernels_available` is False, and callers run their
loops instead.

Triton limits what a kernel may do: the sizes of values are powers of two, and values are neither sliced nor
concatenated. References to arrays may have any size.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax

from seqjax.compat import shape_like


@cache
def import_triton() -> Any:
    """Import Pallas' part for Triton when it is first needed: it takes half as long as JAX.

    Return None where a later version of JAX has removed it.
    """
    try:
        from jax.experimental.pallas import triton
    except ImportError:
        return None
    return triton


def kernels_available() -> bool:
    """Return whether this version of JAX can compile kernels with Triton."""
    return import_triton() is not None


def run_programs(
    kernel: Callable[[Any, Any], None],
    grid: tuple[int, ...],
    operands: Any,
    results: Any,
    blocks: tuple[Any, Any],
    *,
    warps: int,
    interpret: bool,
    name: str,
) -> Any:
    """Run a kernel as one program per point of a grid and return its results.

    Args:
        kernel: ``(references to operands, references to results) -> None``; references in the structures of both.
        grid: the number of programs along each axis.
        operands: a pytree of arrays.
        results: a pytree of ShapeDtypeStructs.
        blocks: the ``pallas.BlockSpec`` of each operand and of each result.
        warps: warps of 32 threads per program.
        interpret: run the kernel by Pallas' interpreter, on any device. It is slow, and meant for tests.
        name: of the kernel, in profiles.
    """
    from jax.experimental import pallas

    results = jax.tree.map(lambda a: shape_like(a, operands), results)
    options: dict[str, Any] = {"interpret": True}
    if not interpret:
        options = {"compiler_params": import_triton().CompilerParams(num_warps=warps, num_stages=1)}
    run = pallas.pallas_call(
        kernel,
        grid=grid,
        in_specs=(blocks[0],),
        out_specs=(blocks[1],),
        out_shape=(results,),
        name=name,
        **options,
    )
    return run(operands)[0]


def on_gpu(kernel: Callable, plain: Callable, *args: Any) -> Any:
    """Run a kernel where the program is compiled for an NVIDIA GPU, and an equal plain function elsewhere."""
    return jax.lax.platform_dependent(*args, cuda=kernel, default=plain)


def differentiated_as(plain: Callable, fast: Callable) -> Callable:
    """Return a function that computes `fast` and is differentiated, to any order, as the equal function `plain`."""

    @jax.custom_vjp
    def run(args: tuple) -> Any:
        return fast(*args)

    def forward(args: tuple) -> tuple[Any, tuple]:
        return fast(*args), args

    def backward(args: tuple, cotangents: Any) -> tuple:
        return jax.vjp(lambda args: plain(*args), args)[1](cotangents)

    run.defvjp(forward, backward)
    return lambda *args: run(args)


def block(shape: tuple[int, ...], *, one: dict[int, int], row: int | None = None) -> Any:
    """Return the part of an array that one program sees: the whole array, but for one index along some axes.

    Args:
        shape: of the array.
        one: ``{axis of the array: axis of the grid}``. The reference does not have these axes.
        row: an axis along which the reference has one entry, chosen by the first axis of the grid; or None.
    """
    from jax.experimental import pallas

    places = dict(one) if row is None else {**one, row: 0}
    sizes = tuple(None if axis in one else 1 if axis == row else size for axis, size in enumerate(shape))
    return pallas.BlockSpec(sizes, partial(_index, len(shape), tuple(places.items())))


def _index(ndim: int, places: tuple[tuple[int, int], ...], *program: Any) -> tuple:
    index: list[Any] = [0] * ndim
    for axis, place in places:
        index[axis] = program[place]
    return tuple(index)
