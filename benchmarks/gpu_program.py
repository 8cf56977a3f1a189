"""What a GPU is asked to do for the gradient of a cell, from programs compiled for an H200 on a CPU.

A loop on a GPU takes as long as the operations that it starts, about two microseconds each
(``benchmarks/results/h200/levers.md``). Their number depends on no machine, but on the version of JAX: a run adds the
rows of its version to the tables.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import seqjax as sj
from benchmarks.gpu_compiler import Program, compile_for_gpu
from benchmarks.results import Group, Table, header
from seqjax.methods.scan import ON_GPU

TITLE = "What a GPU is asked to do"
ABOUT = """Programs of value and gradient, compiled for an NVIDIA H200 on a CPU. Nothing ran and nothing was timed.
A run writes the rows of the version of JAX that it finds, and keeps those of other versions. The list below describes
the last run; the table "Runs" has them all.

* Operations are kernels and copies that a program starts, "outside" those outside loops. The loops over chunks start
  "per chunk" operations for each chunk, the loops inside them "per iteration", where there are such loops. Two numbers
  are those of the forward and of the backward loop. "per step" is everything divided by T. An iteration with
  `unroll_factor=8` runs eight steps.
* `Matrix` and `Attention` cells run in chunks of 128 steps, matrix memories in groups of at most 16 chunks at once. A
  sequence of one group needs no loop. Where there are loops, "per group" are the operations of one iteration of each
  loop over groups (attention: over blocks of queries), and "inside" those of the loops inside them.
* "registers" are those of a thread of the forward and of the adjoint kernel, of 255 at most. "spilled" are the bytes of
  both kernels that do not fit into registers. Both are unknown without ptxas, and from jax 0.11 on, whose XLA writes no
  PTX of these kernels.
* The compiler does no autotuning without a GPU, so the tiles of matrix products may differ from those on a GPU. At
  H = 128 the compiler splits the product of the LSTM's backward step, [32, 512] by [512, 128], into 16 parts along the
  512. The sum of the parts is one more kernel per step. The unrolled loop starts 46 operations per eight steps there,
  with all versions of JAX, and misses its bar of 5.2 per step."""

SHAPES = ((8, 2048, 64, 64), (32, 512, 128, 128))
METHODS: tuple[Any, ...] = (sj.Scan(chunk=ON_GPU.chunk), ON_GPU, sj.Fused(), sj.Fused(chunk=512))
CHUNKED = sj.Chunked(128)
MOST_CHUNKED = {"gla": 250, "mlstm": 250, "gated_delta_net": 400}
"""Most operations of matrix memories for 1,024 steps."""
CHUNKED_CELLS = {
    (8, 1024, 64, 64): (*MOST_CHUNKED, "rwkv7", "sliding_window_attention"),
    (8, 4096, 64, 64): ("gla", "gated_delta_net"),
}
MOST_PER_STEP = 5.2
"""Most operations per step of the unrolled loops: 40 in eight steps, and those of a chunk."""
MOST_FUSED = 25
"""Most operations of a program with kernels of one chunk, or of a chunk, forward or backward, of several."""


def run(gated: list[str], say: Callable[[str], None]) -> tuple[list[Group], list[str]]:
    """Return the tables and a line for every bar that is missed.

    Args:
        gated: names of the gated cells whose kernels are compiled.
        say: receives a line per program.
    """
    missed: list[str] = []
    columns = ["cell", "method", "jax", "outside", "per chunk", "per iteration", "per step", "temporaries MB"]
    loops = [
        Table(
            "B = {}, T = {}, D = {}, H = {}, float32".format(*shape),
            columns,
            [
                _methods_row(cell, method, shape, missed, say)
                for cell in ("lstm", "gru")
                for method in METHODS
            ],
        )
        for shape in SHAPES
    ]
    columns = ["cell", "jax", "outside", "per group", "inside", "temporaries MB"]
    chunks = [
        Table(
            "B = {}, T = {}, D = {}, H = {}, float32, `Chunked(128)`".format(*shape),
            columns,
            [_chunked_row(cell, shape, missed, say) for cell in cells],
        )
        for shape, cells in CHUNKED_CELLS.items()
    ]
    kernels = Table(
        "B = {}, T = {}, D = {}, H = {}, float32, with resets and a mask".format(*SHAPES[0]),
        ["cell", "jax", "operations", "registers", "spilled", "temporaries MB"],
        [_kernel_row(cell, missed, say) for cell in gated],
    )
    columns = ["jax", "jaxlib", "python", "commit", "date"]
    about = header()
    runs = Table("Versions, commits and dates", columns, [[about[column] for column in columns]])
    return [
        Group("Runs", "jax", [], [runs]),
        Group("Operations of gated cells", "cell", [], loops),
        Group("Operations of matrix memories and attention", "cell", [], chunks),
        Group("Kernels of gated cells", "cell", [], [kernels]),
    ], missed


def gated_cells() -> list[str]:
    """Return the names of the registered gated cells."""
    return [name for name, entry in sj.REGISTRY.items() if isinstance(entry.make(16).recurrence, sj.Gated)]


def _methods_row(
    cell: str, method: Any, shape: tuple[int, ...], missed: list[str], say: Callable[[str], None]
) -> list[str]:
    program = gradient_program(cell, method, shape, flags=False)
    outside, chunks, iterations = (
        [loop.operations for loop in program.loops if loop.depth == depth] for depth in range(3)
    )
    length = shape[1]
    per_step = sum(outside) / length + sum(chunks) / (method.chunk or length)
    per_step += sum(iterations) / getattr(method, "unroll_factor", 1)
    label = f"{cell} {method!r} {shape}"
    if method == ON_GPU and per_step > MOST_PER_STEP:
        missed.append(f"{label}: expected at most {MOST_PER_STEP} operations per step, got {per_step:.2f}.")
    if isinstance(method, sj.Fused) and max(outside + chunks) > MOST_FUSED:
        missed.append(
            f"{label}: expected at most {MOST_FUSED} operations per chunk, got {outside} and {chunks}."
        )
    say(f"{label}: {per_step:.3f} operations per step")
    counts = [" + ".join(map(str, numbers)) for numbers in (outside, chunks, iterations)]
    return [
        cell,
        f"`{method!r}`",
        jax.__version__,
        *counts,
        f"{per_step:.2f}",
        f"{program.temp_bytes / 1e6:.0f}",
    ]


def _chunked_row(
    cell: str, shape: tuple[int, ...], missed: list[str], say: Callable[[str], None]
) -> list[str]:
    program = gradient_program(cell, CHUNKED, shape, flags=False)
    numbers = [[loop.operations for loop in program.loops if loop.depth == depth] for depth in range(3)]
    label = f"{cell} {CHUNKED!r} {shape}"
    most = MOST_CHUNKED.get(cell)
    if most and shape[1] == 1024 and (len(program.loops) > 1 or sum(numbers[0]) > most):
        missed.append(f"{label}: expected at most {most} operations, none in loops, got {numbers}.")
    say(f"{label}: {numbers}")
    counts = [" + ".join(map(str, some)) for some in numbers]
    return [cell, jax.__version__, *counts, f"{program.temp_bytes / 1e6:.0f}"]


def _kernel_row(cell: str, missed: list[str], say: Callable[[str], None]) -> list[str]:
    program = gradient_program(cell, sj.Fused(), SHAPES[0], flags=True)
    spilled = sum(kernel.spilled for kernel in program.kernels)
    if spilled:
        missed.append(f"{cell}: expected kernels without spilled registers, got {spilled} bytes.")
    say(f"{cell}: {program.kernels or 'registers unknown'}")
    registers = [
        str(kernel.registers)
        for name in ("gated_forward", "gated_adjoint")
        for kernel in program.kernels
        if kernel.name == name
    ]
    return [
        cell,
        jax.__version__,
        str(program.loops[0].operations),
        ", ".join(registers) or "unknown",
        str(spilled) if program.kernels else "unknown",
        f"{program.temp_bytes / 1e6:.0f}",
    ]


def gradient_program(cell: str, method: Any, shape: tuple[int, ...], *, flags: bool) -> Program:
    """Compile value and gradient of a cell's layer for a shape (B, T, D, H), with or without resets and a mask."""
    batch, length, inputs, units = shape
    layer = sj.recurrent(sj.REGISTRY[cell].make(units), method)
    x = jax.ShapeDtypeStruct((batch, inputs), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def loss(params: Any, xs: Any, reset: Any, mask: Any) -> jax.Array:
        return jnp.mean(jnp.square(layer.unroll(params, None, xs, reset=reset, mask=mask)[1]))

    flag = jax.ShapeDtypeStruct((length, batch), bool) if flags else None
    xs = jax.ShapeDtypeStruct((length, *x.shape), x.dtype)
    return compile_for_gpu(jax.value_and_grad(loss), params, xs, flag, flag)
