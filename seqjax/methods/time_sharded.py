"""A sequence cut into as many parts as a mesh axis has devices."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from seqjax.base import Cell, Diagonal, DiagonalInputs, Flags, Gated, Matrix, Method, Recurrence, Step
from seqjax.compat import varying_axes
from seqjax.methods.auto import Auto
from seqjax.methods.common import project_inputs
from seqjax.methods.newton import Newton
from seqjax.ops.time_sharded.linear import Operands, form_of, time_shardable
from seqjax.ops.time_sharded.shards import Shards
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class TimeSharded(Value):
    """A sequence cut into as many parts as a mesh axis has devices, which run at the same time.

    ================== ==================================================== ================================
    recurrence         how the parts go together                            communication
    ================== ==================================================== ================================
    `Diagonal`         an affine map per part (`seqjax.ops.time_sharded.linear`)    one gather forward, one backward
    `Matrix`           the same                                             the same
    `Step`, `Gated`    the linear solutions inside `Newton` are split       three messages per iteration
    ================== ==================================================== ================================

    No loop over time communicates; two other loops do. Newton's iterations must: each begins with the trajectory that
    the one before found over the whole sequence, so in its ``while`` loop it gathers the maps of all parts, fetches the
    state that the part before ends in, and asks all devices whether any needs another iteration (one that stopped alone
    would leave the others waiting). It pays where iterations are few, however long the parts. And in
    `seqjax.repeat`, a loop over layers, each layer makes its own gathers, as many as in `seqjax.serial`.

    The axis is looked up where the layer runs: in a training step on a mesh that has it (`seqjax.training`), inside
    ``jax.shard_map``, or under ``jax.set_mesh(mesh)``, with other axes of the mesh free for the batch. Where there is
    no such axis, `inner` runs the whole sequence on one device: one model serves a laptop and a pod. Values and
    gradients are those of `Scan`. Any length will do, except inside ``jax.shard_map``, which cuts equal parts;
    what is lacking to a multiple of the devices is filled with masked steps.

    Under ``jax.set_mesh`` the axis has to be of type Auto. Inside ``jax.shard_map`` each device gives its own part of
    xs and flags, and the carry before the whole sequence; it gets its part of the outputs, and the carry after the
    whole. Iterations of `Newton` are as many as the slowest example of all devices needs, as on one.

    Attributes:
        axis: the mesh axis.
        inner: how each device runs its part; for `Step` and `Gated` a `Newton`. None: `Auto`, or ``Newton()``.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.recurrent(sj.lru(8), sj.TimeSharded()), jnp.ones((16, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> mesh = jax.make_mesh((jax.device_count(),), ("time",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> with jax.set_mesh(mesh):
        ...     carry, ys = jax.jit(layer.unroll)(params, layer.initial_carry(params, xs[0]), xs)
        >>> ys.shape
        (16, 4, 8)
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal, Matrix)
    axis: str = "time"
    inner: Method | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner is not None and (
            not isinstance(self.inner, Method) or isinstance(self.inner, TimeSharded)
        ):
            raise TypeError(
                f"TimeSharded(inner): expected a method such as AssociativeScan(), got {self.inner!r}."
            )

    def select(self, recurrence: Recurrence) -> Method:
        """The inner method for a recurrence.

        Raises:
            TypeError: for `Step` and `Gated` with anything but `Newton`, which alone has linear solutions to split.
        """
        linear = isinstance(recurrence, Diagonal | Matrix)
        inner = (Auto() if linear else Newton()) if self.inner is None else self.inner
        if not isinstance(recurrence, inner.kinds) or not (linear or isinstance(inner, Newton)):
            can = "Auto, Scan, AssociativeScan (Diagonal) or Chunked" if linear else "Newton"
            raise TypeError(
                f"{self!r} cannot run a {type(recurrence).__name__} recurrence: expected inner to be {can}, "
                f"got {inner!r}."
            )
        return inner

    def unroll(self, cell: Cell, params: Any, carry: Any, xs: Any, flags: Flags) -> tuple[Any, Any]:
        """See `seqjax.Method`."""
        inner = self.select(cell.recurrence)
        mesh = jax.sharding.get_abstract_mesh()
        size = mesh.shape.get(self.axis, 1)
        if size == 1 or (self.axis in mesh.manual_axes and not _is_part(xs, self.axis)):
            return inner.unroll(cell, params, carry, xs, flags)
        run = partial(self._part, cell, inner, Shards(self.axis, size))
        if self.axis in mesh.explicit_axes:
            raise ValueError(
                f"{self!r}: expected mesh axis '{self.axis}' of type Auto, got Explicit. Write "
                "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * n)."
            )
        if self.axis in mesh.manual_axes:
            return run(params, carry, flags.initial, (xs, flags.over_time()))

        length = jax.tree.leaves(xs)[0].shape[0]
        over_time = (xs, flags.over_time())
        if length % size:
            over_time = _filled(cell, *over_time, -length % size)
        whole, parts = PartitionSpec(), PartitionSpec(self.axis)
        shared = jax.shard_map(
            run,
            axis_names={self.axis},
            in_specs=(whole, whole, whole, parts),
            out_specs=(whole, parts),
        )
        carry, ys = shared(params, carry, flags.initial, over_time)
        return carry, jax.tree.map(lambda y: y[:length], ys)

    def _part(
        self, cell: Cell, inner: Any, shards: Shards, params: Any, carry: Any, initial: Any, over_time: Any
    ) -> tuple[Any, Any]:
        """``(carry after the whole sequence, ys of this part)``."""
        xs, flags = over_time
        params, carry, initial = shards.varying((params, carry, initial))
        flags = flags._replace(initial=initial)
        if isinstance(inner, Newton):
            carry, ys = inner.unroll_part(cell, params, carry, xs, flags, shards)
            return shards.of_last(carry), ys
        us = project_inputs(cell, params, xs, flags.key)
        operands = shards.varying(Operands(us, carry, flags._replace(key=None)))
        carry, hs = time_shardable(partial(_run, inner, cell.recurrence), form_of(us), shards, operands)
        return shards.of_last(carry), cell.readout(params, hs, xs)


def _run(inner: Method, recurrence: Recurrence, us: Any, carry: Any, flags: Flags) -> tuple[Any, Any]:
    """A recurrence by itself, by a method: ``(carry, hs)``."""
    constant = isinstance(us, DiagonalInputs) and us.a.ndim < us.b.ndim
    cell = Cell(init=_no_params, initial_carry=lambda params, x: flags.initial, recurrence=recurrence)
    cell = dataclasses.replace(cell, project=_with_decays) if constant else cell
    params, xs = (us.a, us.b) if constant else ((), us)
    return inner.unroll(cell, params, carry, xs, flags)


def _no_params(key: Any, x: Any) -> tuple:
    return ()


def _with_decays(a: Any, b: Any, key: Any = None) -> DiagonalInputs:
    return DiagonalInputs(a, b)


def _is_part(xs: Any, axis: str) -> bool:
    """Whether devices along a manual axis hold inputs of their own, or whether nobody keeps account of it."""
    return any(axis in varying_axes(a) for a in jax.tree.leaves(xs)) or axis not in varying_axes(
        jax.lax.axis_index(axis)
    )


def _filled(cell: Cell, xs: Any, flags: Flags, number: int) -> tuple[Any, Flags]:
    """The inputs with so many masked steps at the end."""
    first = jax.tree.leaves(xs)[0]

    def zeros(a: jax.Array) -> jax.Array:
        return jnp.concatenate([a, jnp.zeros_like(a, shape=(number, *a.shape[1:]))])

    if flags.mask is None:
        batch = first.shape[: first.ndim - cell.event_ndim]
        flags = flags._replace(mask=jnp.ones_like(first, shape=batch, dtype=bool))
    key = None if flags.key is None else jnp.concatenate([flags.key, jnp.repeat(flags.key[-1:], number)])
    xs, filled = jax.tree.map(zeros, (xs, flags._replace(key=None)))
    return xs, filled._replace(key=key)
