"""Compile a program for an NVIDIA H200 on a machine without a GPU, and count what the GPU would be asked to do.

XLA's compiler for GPUs runs on a CPU with the packages jax-cuda12-plugin and jax-cuda12-pjrt. It needs neither a driver
nor a GPU, only a description of one. Kernels are compiled too: one that does not fit the GPU fails here as it would
there. Without a GPU there is no autotuning, so the tiles of matrix products differ from those on a GPU. The operations
that a program starts do not.
"""

import collections
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib
from jax.experimental import topologies

# Without a version of the driver XLA leaves command buffers (CUDA graphs) off.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4814000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150754820096 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
  driver_version: "13.0.0" runtime_version: "12.9.1" compile_time_toolkit_version: "12.9.1"
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 2 }
runtime_version { major: 12 minor: 9 patch: 1 } device_description_str: "NVIDIA H200"
"""
DUMP = Path(tempfile.gettempdir()) / f"seqjax_gpu_program_{os.getpid()}"
# Entries of XLA's list that start no kernel or copy. They group other operations or, from jax 0.11 on, order copies.
NOT_OPERATIONS = ("kCommandBuffer", "kDynamicSliceFusion", "kWhile", "kAsyncStart", "kAsyncDone")


class Loop(NamedTuple):
    """How many operations (kernels and copies) one iteration of a loop starts; depth 0 is the program outside loops."""

    depth: int
    operations: int


class Kernel(NamedTuple):
    """A kernel written with Pallas: registers per thread, and bytes that do not fit and are spilled to memory."""

    name: str
    registers: int
    spilled: int


class Program(NamedTuple):
    """A compiled program: its loops in order, bytes of temporaries, and its Pallas kernels if ptxas is installed."""

    loops: list[Loop]
    temp_bytes: int
    kernels: list[Kernel]


class Unavailable(Exception):
    """The compiler for GPUs is not installed; the message says what to do."""


def prepare() -> None:
    """Let JAX find the compiler for GPUs. Call this before JAX makes its first array.

    Raises:
        Unavailable: if the plugin is missing.
    """
    version = jaxlib.__version__
    missing = [name for name in ("jax_cuda12_plugin", "jax_plugins.xla_cuda12") if not _is_installed(name)]
    if missing:
        raise Unavailable(
            f"gpu_program: expected the packages jax-cuda12-plugin and jax-cuda12-pjrt, got no module "
            f"{missing[0]}. Run pip install --no-deps --target DIR jax-cuda12-plugin=={version} "
            f"jax-cuda12-pjrt=={version}, and set PYTHONPATH=DIR:."
        )
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    flags = f"--xla_dump_to={DUMP} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    jax.config.update("jax_platforms", "cuda,cpu")


def compile_for_gpu(function: Callable, *avals: Any) -> Program:
    """Compile a function of pytrees of ShapeDtypeStructs."""
    topology = topologies.get_topology_desc(
        topology_name="h200", platform="cuda", target_config=H200, topology="1x1x1"
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    avals = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), avals)
    shutil.rmtree(DUMP, ignore_errors=True)
    try:
        with abstract_gpu():
            lowered = jax.jit(function).trace(*avals).lower(lowering_platforms=("cuda",))
        memory = lowered.compile().memory_analysis()
        assert memory is not None
        return Program(_loops(), memory.temp_size_in_bytes, list(_kernels()))
    finally:
        shutil.rmtree(DUMP, ignore_errors=True)


def abstract_mesh(gpus: int, axis: str, kind: jax.sharding.AxisType) -> jax.sharding.AbstractMesh:
    """Return a mesh of GPUs that need not be present. From JAX 0.11 on Pallas asks a mesh for its GPU."""
    if jax.__version_info__ < (0, 11):
        return jax.sharding.AbstractMesh((gpus,), (axis,), (kind,))
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda")
    return jax.sharding.AbstractMesh((gpus,), (axis,), (kind,), abstract_device=device)  # type: ignore[call-arg]


@contextlib.contextmanager
def abstract_gpu() -> Iterator[None]:
    """State the GPU for which programs without a mesh are lowered, where JAX asks for one."""
    if jax.__version_info__ < (0, 11):
        yield
        return
    with jax.sharding.use_abstract_mesh(abstract_mesh(1, "x", jax.sharding.AxisType.Explicit)):
        yield


def _loops() -> list[Loop]:
    """Read the list of operations that XLA dumped: a loop's body is indented below the line ``body:``."""
    paths = list(DUMP.glob("*thunk_sequence_after_thunk_passes*")) or list(DUMP.glob("*thunk_sequence*"))
    text = max(paths, key=lambda path: path.stat().st_size).read_text()
    return count_operations(text)


def count_operations(text: str) -> list[Loop]:
    """Count the operations in a list of XLA, one per line as ``number: kind``, for the program and for each loop.

    Conditions are left out: a loop whose number of iterations is known does not run them.
    """
    counts: collections.Counter[int] = collections.Counter()
    depths, inside = [0], [(-1, 0)]  # (indent, number of the loop), the innermost last
    in_condition = False
    for line in filter(str.strip, text.splitlines()):
        if line.strip() in ("condition:", "body:"):
            in_condition = line.strip() == "condition:"  # at the margin, whatever the depth of its loop
        if in_condition:
            continue
        indent = len(line) - len(line.lstrip())
        while len(inside) > 1 and indent <= inside[-1][0]:
            inside.pop()
        if line.strip() == "body:":
            inside.append((indent, len(depths)))
            depths.append(len(inside) - 1)
        elif (found := re.match(r"\s*\d+: (k\w+)", line)) and found[1] not in NOT_OPERATIONS:
            counts[inside[-1][1]] += 1
    return [Loop(depth, counts[number]) for number, depth in enumerate(depths)]


def _kernels() -> Iterator[Kernel]:
    """Assemble the dumped kernels of Pallas; nothing where ptxas is missing or XLA dumps no PTX."""
    ptxas = shutil.which("ptxas")
    for path in sorted(DUMP.glob("*.ptx")) if ptxas else []:
        if not (found := re.search(r"\.entry (gated_\w+)", path.read_text())):
            continue
        command = [str(ptxas), "-arch=sm_90a", "-v", str(path), "-o", os.devnull]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        registers, spilled = (
            int(re.findall(pattern, log)[-1])
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
        )
        yield Kernel(found[1], registers, spilled)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
