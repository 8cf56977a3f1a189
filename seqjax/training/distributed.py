"""Train one model with several processes: one process per machine or per GPU, each with some of the devices.

All processes run the same program and compute the same results; each makes only its own rows of a batch. The program
needs one more call at its beginning. Only the first process writes logs; `fit` takes care of that:

    from seqjax.training import distributed, fit, init_train_state, make_train_step

    distributed.start()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    step = make_train_step(model, loss, optimizer, mesh=mesh)
    state = init_train_state(model, optimizer, key, x, mesh=mesh)
    fit(step, state, distributed.batches_of(loader, mesh), num_steps=10_000)
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from seqjax.base import Batch
from seqjax.datasets.loader import Loader
from seqjax.training.sharding import axes_of, batch_specs, stream_spec


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Join the other processes. Each process calls this before it computes anything.

    Under SLURM, Kubernetes, Open MPI or mpirun, and on TPU pods, JAX finds the cluster by itself. Elsewhere pass all
    three arguments. Processes on CPUs communicate by gloo.

    Args:
        coordinator: address and port of the first process, ``"10.0.0.1:1234"``, which all processes can reach.
        num_processes: the number of processes.
        process_id: the number of this process, from 0.
        timeout: seconds to wait for the other processes.

    Raises:
        ValueError: when some but not all of the three are given, or none is given and JAX finds no cluster.
        RuntimeError: when a process does not join in time, or this process has computed something before.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise ValueError(
            f"distributed.start: expected coordinator, num_processes and process_id, or none of them, got no "
            f"{' and no '.join(missing)}."
        )
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(
            f"distributed.start: expected a process_id from 0 to {num_processes - 1}, got {process_id}."
        )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
    except ValueError as error:
        if not missing:
            raise
        raise ValueError(
            f"distributed.start: JAX found no cluster ({error}). Give coordinator, num_processes and process_id."
        ) from error


def batches_of(loader: Loader, mesh: Mesh) -> Callable[[int], Batch]:
    """Return ``step -> batch`` with arrays over a mesh; each process makes the rows that its devices hold.

    Args:
        loader: a loader of whole batches, the same in all processes; see `seqjax.datasets`.
        mesh: the mesh of the training step.

    Raises:
        ValueError: for a batch that does not divide among the devices.

    Example:
        >>> import jax, numpy as np
        >>> from seqjax.datasets import streams
        >>> batches = batches_of(streams(np.arange(100), batch_size=4, length=5), jax.make_mesh((1,), ("data",)))
        >>> batches(3).xs.shape
        (5, 4)
    """
    axes, size = axes_of(mesh), loader.batch_size
    if size % axes.num_batch:
        raise ValueError(
            f"batches_of: expected a batch that divides among {axes.num_batch} devices, got B = {size}. Choose another "
            "batch size."
        )
    held: Any = NamedSharding(mesh, stream_spec(axes)).addressable_devices_indices_map((size,))
    spans = [index[0].indices(size)[:2] for index in held.values()]
    first, end = min(s for s, _ in spans), max(e for _, e in spans)

    def batch(step: int) -> Batch:
        part = loader.rows(int(step), np.arange(first, end))
        # The axis of the rows in each leaf; the part need not divide among the devices.
        of_part = batch_specs(part, dict.fromkeys(axes.batch or ("",), 1), dict.fromkeys(axes.time, 1))
        row_axes = jax.tree.map(lambda spec: len(spec) - 1, of_part)

        def whole(leaf: Any, axis: int) -> jax.ShapeDtypeStruct:
            leaf = np.asarray(leaf)
            return jax.ShapeDtypeStruct((*leaf.shape[:axis], size, *leaf.shape[axis + 1 :]), leaf.dtype)

        shapes = jax.tree.map(whole, part, row_axes)
        specs = batch_specs(shapes, axes.batch, axes.time)

        def over_mesh(leaf: Any, axis: int, like: Any, spec: Any) -> jax.Array:
            leaf = np.asarray(leaf)

            def of_device(index: Any) -> Any:
                rows = slice(*(n - first for n in index[axis].indices(size)[:2]))
                return leaf[(*index[:axis], rows, *index[axis + 1 :])]

            return jax.make_array_from_callback(like.shape, NamedSharding(mesh, spec), of_device)

        return jax.tree.map(over_mesh, part, row_axes, shapes, specs)

    return batch
