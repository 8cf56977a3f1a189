"""Where things go on a mesh of devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from seqjax.base import Batch


def data_axis(mesh: Mesh) -> str:
    """The mesh axis over which batches are split: "data", or the only one.

    Raises:
        ValueError: for several axes none of which is "data".

    Example:
        >>> import jax
        >>> data_axis(jax.make_mesh((1,), ("batch",)))
        'batch'
    """
    if "data" in mesh.axis_names:
        return "data"
    if len(mesh.axis_names) == 1:
        return mesh.axis_names[0]
    raise ValueError(
        f"make_train_step(mesh): expected a mesh with an axis 'data', or with one axis only, got axes "
        f"{', '.join(map(repr, mesh.axis_names))}. Name the axis that batches are split over 'data'."
    )


def batch_specs(batch: Batch, axis: str, size: int) -> Batch:
    """How each leaf of a batch is split over a mesh axis of so many devices.

    Raises:
        ValueError: where a leaf has no such axis as B, or B is not a multiple of size.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> batch = sj.Batch(xs=jnp.zeros((10, 4, 3)), targets=jnp.zeros(4))
        >>> batch_specs(batch, "data", 2) == sj.Batch(jax.P(None, "data"), jax.P("data"))
        True
    """
    first = np.shape(jax.tree.leaves(batch.xs)[0])
    lead = first[:2]
    if len(lead) < 2:
        raise ValueError(f"train step: expected xs [T, B, ...], to be split on B, got {list(first)}.")
    if lead[1] % size:
        raise ValueError(
            f"train step: expected a batch that divides among the {size} devices of mesh axis '{axis}', got B = "
            f"{lead[1]} (xs {list(first)}). Use a multiple of {size}, or a smaller mesh."
        )

    def spec_of(path: Any, leaf: Any) -> PartitionSpec:
        shape, is_target = np.shape(leaf), path[0].name == "targets"
        if shape[:2] == lead:
            return PartitionSpec(None, axis)
        if is_target and shape[:1] == lead[1:]:
            return PartitionSpec(axis)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        steps, sequences = (str([*axes, ...]).replace("Ellipsis", "...") for axes in (lead, lead[1:]))
        raise ValueError(
            f"train step: expected {name} {steps}{f' or {sequences}' if is_target else ''}, as xs {list(first)}, "
            f"got {list(shape)}."
        )

    return jax.tree.map_with_path(spec_of, batch)


def check_micro_batches(batch: Batch, number: int, devices: int) -> None:
    """Raise a ValueError unless the part of a batch on each of so many devices divides into so many micro-batches.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> check_micro_batches(sj.Batch(xs=jnp.zeros((10, 8, 3)), targets=None), 2, 4)
    """
    if number == 1:
        return
    first = np.shape(jax.tree.leaves(batch.xs)[0])
    if len(first) < 2:
        raise ValueError(f"train step: expected xs [T, B, ...], to be split on B, got {list(first)}.")
    if first[1] % (number * devices):
        of_device = f" on each of {devices} devices" if devices > 1 else ""
        raise ValueError(
            f"train step: expected a batch that divides into {number} micro-batches{of_device} (accumulate={number}), "
            f"got B = {first[1]} (xs {list(first)}). Use a multiple of {number * devices}."
        )
