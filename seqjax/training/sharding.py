"""How batches, params and states are sharded over a mesh of devices.

The name of a mesh axis says what the axis splits:

========== ================================================================= ========================================
axis       splits                                                            communication of a step
========== ================================================================= ========================================
"data"     the batch                                                         one sum of gradients
"fsdp"     the batch; params and optimizer state, leaf by leaf               one all-gather of params, one
                                                                             reduce-scatter of gradients
"time"     the steps of each sequence, and with them the work of each layer  one sum of gradients; in each
                                                                             `seqjax.TimeSharded` two gathers, or
                                                                             three messages per Newton iteration; two
                                                                             to a neighbor per convolution or window
========== ================================================================= ========================================

A single axis of another name splits the batch. Axes of other names beside these hold copies.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax.base import Batch
from seqjax.values import origin

# Sharding a leaf with fewer numbers would save less than 4 kB in float32 on each device.
SMALLEST_SHARED = 1024


class Axes(NamedTuple):
    """The axes of a mesh that split the batch B, the params and the time T, with their sizes."""

    batch: dict[str, int]
    fsdp: dict[str, int]
    time: dict[str, int]

    @property
    def sizes(self) -> dict[str, int]:
        """Return all axes with their sizes."""
        return self.batch | self.time

    @property
    def num_batch(self) -> int:
        """Return the number of parts of a batch."""
        return math.prod(self.batch.values())

    @property
    def num_time(self) -> int:
        """Return the number of parts of a sequence."""
        return math.prod(self.time.values())


def axes_of(mesh: Mesh) -> Axes:
    """Return the axes of a mesh by what they split.

    Raises:
        TypeError: for anything but a mesh.
        ValueError: for several axes of which none is "data", "fsdp" or "time".

    Example:
        >>> import jax
        >>> axes_of(jax.make_mesh((1, 1), ("data", "time")))
        Axes(batch={'data': 1}, fsdp={}, time={'time': 1})
        >>> axes_of(jax.make_mesh((1,), ("rows",))).batch
        {'rows': 1}
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"make_train_step(mesh): expected a jax.sharding.Mesh, got {type(mesh).__name__}. "
            'Write jax.make_mesh((jax.device_count(),), ("data",)).'
        )
    sizes: dict[str, int] = dict(mesh.shape)
    known = [name for name in ("data", "fsdp", "time") if name in sizes]
    if not known and len(sizes) == 1:
        return Axes(sizes, {}, {})
    if not known:
        raise ValueError(
            f"make_train_step(mesh): expected a mesh with an axis 'data', 'fsdp' or 'time', or with one axis only, got "
            f"axes {', '.join(map(repr, sizes))}. Name the axis that batches are split over 'data'."
        )

    def named(*names: str) -> dict[str, int]:
        return {name: sizes[name] for name in names if name in sizes}

    return Axes(named("data", "fsdp"), named("fsdp"), named("time"))


def with_auto_axes(mesh: Mesh) -> Mesh:
    """Return the mesh with automatic axes, over which XLA chooses the shardings of arrays."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _over(names: Any) -> Any:
    """Return an entry of a PartitionSpec: None, one name, or several names."""
    names = tuple(names)
    return None if not names else names[0] if len(names) == 1 else names


def places(mesh: Mesh, specs: Any) -> Any:
    """Return the shardings of a tree of PartitionSpecs."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def put(tree: Any, shardings: Any) -> Any:
    """Return the tree with these shardings; every process passes the same tree."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        # device_put would compare the values between processes at every step.
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree, shardings)


def batch_specs(batch: Batch, batch_axes: dict[str, int], time_axes: dict[str, int] | None = None) -> Batch:
    """Return how each leaf of a batch is sharded over axes of a mesh, given with their sizes.

    Raises:
        ValueError: when a leaf has no axis B, or when B or T is not a multiple of the number of devices.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> batch = sj.Batch(xs=jnp.zeros((10, 4, 3)), targets=jnp.zeros(4))
        >>> batch_specs(batch, {"data": 2}) == sj.Batch(jax.P(None, "data"), jax.P("data"))
        True
    """
    first = np.shape(jax.tree.leaves(batch.xs)[0])
    lead = first[:2]
    if len(lead) < 2:
        raise ValueError(f"train step: expected xs [T, B, ...], to be split on B, got {list(first)}.")
    split = (("a batch", "B", lead[1], batch_axes), ("a sequence", "T", lead[0], time_axes or {}))
    for what, letter, length, axes in split:
        size = math.prod(axes.values())
        if length % size:
            names = " and ".join(f"'{name}'" for name in axes)
            raise ValueError(
                f"train step: expected {what} that divides among the {size} devices of mesh axis {names}, got {letter} "
                f"= {length} (xs {list(first)}). Use a multiple of {size}, or a smaller mesh."
            )
    over_batch, over_time = _over(batch_axes), _over(time_axes or {})

    def spec_of(path: Any, leaf: Any) -> PartitionSpec:
        shape, field = np.shape(leaf), path[0].name
        is_target, is_context = (
            field == "targets",
            field == "context",
        )  # a context has no axis T, even where B = T
        if shape[:2] == lead and not is_context:
            return PartitionSpec(over_time, over_batch)
        if (is_target or is_context) and shape[:1] == lead[1:]:
            return PartitionSpec(over_batch)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        steps, sequences = (str([*axes, ...]).replace("Ellipsis", "...") for axes in (lead, lead[1:]))
        wanted = sequences if is_context else f"{steps} or {sequences}" if is_target else steps
        raise ValueError(f"train step: expected {name} {wanted}, as xs {list(first)}, got {list(shape)}.")

    return jax.tree.map_with_path(spec_of, batch)


def stream_spec(axes: Axes) -> PartitionSpec:
    """Return how arrays ``[B, ...]`` of streams are sharded."""
    return PartitionSpec(_over(axes.batch))


def share_specs(tree: Any, axes: Axes) -> Any:
    """Return how params and optimizer state are sharded over the axis "fsdp", leaf by leaf.

    The largest axis that divides among the devices is sharded, the first of equal ones. A leaf of fewer than 1024
    numbers, or without such an axis, is replicated. Arrays of one shape are sharded alike, so that the optimizer needs
    no communication.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> axes = Axes({"fsdp": 4}, {"fsdp": 4}, {})
        >>> share_specs(jnp.zeros((64, 256)), axes) == jax.P(None, "fsdp"), share_specs(jnp.zeros(256), axes) == jax.P()
        (True, True)
    """

    def spec_of(leaf: Any) -> PartitionSpec:
        shape = np.shape(leaf)
        for name, size in axes.fsdp.items():
            split = [i for i, n in enumerate(shape) if n % size == 0]
            if split and math.prod(shape) >= SMALLEST_SHARED:
                largest = max(split, key=lambda i: shape[i])
                return PartitionSpec(*(name if i == largest else None for i in range(largest + 1)))
        return PartitionSpec()

    return jax.tree.map(spec_of, tree)


def check_in_parts(model: Any) -> None:
    """Raise a TypeError, naming the layer, unless a model can be run in parts of a sequence on different devices."""
    if model.time_shardable:
        return
    culprit = model
    while True:
        arguments = (origin(culprit) or (None, {}))[1].values()
        inside = [part for value in arguments for part in (value if isinstance(value, tuple) else (value,))]
        inside = [part for part in inside if hasattr(part, "time_shardable") and not part.time_shardable]
        if not inside:
            break
        culprit = inside[0]
    raise TypeError(
        f"make_train_step(mesh): expected with a mesh axis 'time' a model whose layers run in parts of a sequence, got "
        f"{culprit!r}, which needs all steps on one device. Give recurrent layers the method TimeSharded(), or leave "
        "the axis out."
    )


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
