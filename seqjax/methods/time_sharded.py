"""The method that shards a sequence over time along a mesh axis."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from seqjax.base import (
    Attention,
    Carry,
    Cell,
    Diagonal,
    DiagonalInputs,
    Flags,
    Gated,
    Matrix,
    Method,
    Params,
    Recurrence,
    Step,
    Us,
    X,
    Xs,
    Ys,
)
from seqjax.inputs import num_steps
from seqjax.methods.auto import Auto
from seqjax.methods.common import project_inputs
from seqjax.methods.newton import Newton
from seqjax.ops.time_sharded.linear import Operands, form_of, run_sharded
from seqjax.ops.time_sharded.shards import Shards, shards_of
from seqjax.ops.time_sharded.windows import TAP_ON_ONE_DEVICE, run_window
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class TimeSharded(Value):
    """Shards a sequence over time along a mesh axis; the devices run their shards in parallel.

    ================== ============================================================ ================================
    recurrence         combination of the shards                                    communication
    ================== ============================================================ ================================
    `Diagonal`         one affine map per shard (`seqjax.ops.time_sharded.linear`)  one all-gather forward, one backward
    `Matrix`           one affine map per shard                                     one all-gather forward, one backward
    `Step`, `Gated`    the linear recurrence inside `Newton` is sharded             three collectives per iteration
    `Attention`        keys and values of the window                                one permutation forward, one back
    ================== ============================================================ ================================

    Loops over time contain no collectives, but two other loops do. Each Newton iteration updates the trajectory of the
    whole sequence, so Newton's ``while`` loop contains three collectives: it gathers the affine maps of all shards, it
    passes the last state of each shard to the next one, and all devices share one stopping test. `TimeSharded` with
    Newton's method is efficient if the number of iterations is small. The other loop is `seqjax.repeat`, a loop over
    layers: each layer has its own all-gathers, as in `seqjax.serial`.

    A window that is longer than a shard, and a mask, take ceil(log2 m) more permutations to reach m shards back, and
    resets and masks one all-gather of counts (`seqjax.ops.time_sharded.windows`). Attention over ``max_length`` steps
    runs as a window of that length: the devices share the work, and each of them holds all keys and values.

    The method looks up the axis where the layer runs: in a training step on a mesh with this axis (`seqjax.training`),
    inside ``jax.shard_map``, or under ``jax.set_mesh(mesh)``. Other axes of the mesh are free for the batch. Without
    such an axis, `inner` runs the whole sequence on one device, so one model runs on a laptop and on a cluster. Values
    and gradients equal those of `Scan`. The sequence length need not be a multiple of the number of devices: masked
    steps pad the sequence. Inside ``jax.shard_map`` all shards have the same length.

    Under ``jax.set_mesh`` the axis must have the type Auto. Inside ``jax.shard_map`` each device passes its own shard
    of xs and flags, and the carry before the whole sequence. It receives its shard of the outputs, and the carry after
    the whole sequence. `Newton` runs as many iterations as the slowest example of all devices needs.

    Attributes:
        axis: the mesh axis.
        inner: the method that runs each shard, which must be `Newton` for `Step` and `Gated`. None selects ``Newton()``
            for `Step` and `Gated`, and `Auto` otherwise.

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

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal, Matrix, Attention)
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
        """Return the inner method for a recurrence.

        Raises:
            TypeError: if `inner` does not run the recurrence, or is not `Newton` for `Step` and `Gated`.
        """
        nonlinear = isinstance(recurrence, Step | Gated)
        inner = (Newton() if nonlinear else Auto()) if self.inner is None else self.inner
        if not isinstance(recurrence, inner.kinds) or (nonlinear and not isinstance(inner, Newton)):
            can = "Newton" if nonlinear else "Auto, Scan, AssociativeScan (Diagonal) or Chunked"
            raise TypeError(
                f"{self!r} cannot run a recurrence of kind {type(recurrence).__name__}: expected inner to be {can}, "
                f"got {inner!r}."
            )
        return inner

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        inner = self.select(cell.recurrence)
        mesh = jax.sharding.get_abstract_mesh()
        size, shards = mesh.shape.get(self.axis, 1), shards_of(xs, self.axis)
        if shards is None and (size == 1 or self.axis in mesh.manual_axes):
            return inner.unroll(cell, params, carry, xs, flags)
        if isinstance(cell.recurrence, Attention) and flags.tap is not None:
            raise TypeError(
                f"{self!r} cannot tap the carry of {cell!r} on a mesh axis '{self.axis}'. {TAP_ON_ONE_DEVICE}"
            )
        run = partial(self._run_shard, cell, inner, Shards(self.axis, size))
        if self.axis in mesh.explicit_axes:
            raise ValueError(
                f"{self!r}: expected mesh axis '{self.axis}' of type Auto, got Explicit. Write "
                "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * n)."
            )
        if shards is not None:
            _check_length(cell, num_steps(xs), shards)
            return run(params, carry, flags.initial, (xs, flags.over_time()))

        length = jax.tree.leaves(xs)[0].shape[0]
        over_time = (xs, flags.over_time())
        if length % size:
            over_time = _padded(cell, *over_time, -length % size)
        replicated, sharded = PartitionSpec(), PartitionSpec(self.axis)
        run_all = jax.shard_map(
            run,
            axis_names={self.axis},
            in_specs=(replicated, replicated, replicated, sharded),
            out_specs=(replicated, sharded),
        )
        carry, ys = run_all(params, carry, flags.initial, over_time)
        return carry, jax.tree.map(lambda y: y[:length], ys)

    def _run_shard(
        self,
        cell: Cell,
        inner: Any,
        shards: Shards,
        params: Params,
        carry: Carry,
        initial: Any,
        over_time: Any,
    ) -> tuple[Any, Any]:
        """Return ``(carry after the whole sequence, ys of this shard)``."""
        xs, flags = over_time
        params, carry, initial = shards.varying((params, carry, initial))
        flags = flags._replace(initial=initial)
        if isinstance(inner, Newton):
            carry, ys = inner.unroll_shard(cell, params, carry, xs, flags, shards)
            return shards.broadcast_last(carry), ys
        us = project_inputs(cell, params, xs, flags.key)
        operands = shards.varying(Operands(us, carry, flags._replace(key=None)))
        run_one = partial(_run, inner, cell.recurrence)
        if isinstance(cell.recurrence, Attention):
            carry, hs = run_window(run_one, cell.recurrence, shards, operands)
        else:
            carry, hs = run_sharded(run_one, form_of(us), shards, operands)
        return shards.broadcast_last(carry), cell.readout(params, hs, xs)


def _run(inner: Method, recurrence: Recurrence, us: Us, carry: Carry, flags: Flags) -> tuple[Any, Any]:
    """Run a recurrence, without projection and readout, by a method; return ``(carry, hs)``."""
    constant = isinstance(us, DiagonalInputs) and us.a.ndim < us.b.ndim
    cell = Cell(init=_no_params, initial_carry=lambda params, x: flags.initial, recurrence=recurrence)
    cell = dataclasses.replace(cell, project=_with_decays) if constant else cell
    params, xs = (us.a, us.b) if constant else ((), us)
    return inner.unroll(cell, params, carry, xs, flags)


def _no_params(key: Any, x: X) -> tuple:
    return ()


def _with_decays(a: Any, b: Any, key: Any = None) -> DiagonalInputs:
    return DiagonalInputs(a, b)


def _check_length(cell: Cell, length: int, shards: Shards) -> None:
    """Raise a ValueError where the shards together have more steps than attention without a window has slots."""
    longest = cell.recurrence.max_length if isinstance(cell.recurrence, Attention) else None
    if longest is not None and length * shards.size > longest:
        raise ValueError(
            f"{cell!r}.unroll: expected at most max_length={longest} steps, got {shards.size} shards of {length} steps "
            f"on mesh axis '{shards.axis}'. Use a larger max_length, or a window."
        )


def _padded(cell: Cell, xs: Xs, flags: Flags, number: int) -> tuple[Any, Flags]:
    """Append `number` masked steps to the inputs and flags."""
    first = jax.tree.leaves(xs)[0]

    def append_zeros(a: jax.Array) -> jax.Array:
        return jnp.concatenate([a, jnp.zeros_like(a, shape=(number, *a.shape[1:]))])

    if flags.mask is None:
        batch = first.shape[: first.ndim - cell.event_ndim]
        flags = flags._replace(mask=jnp.ones_like(first, shape=batch, dtype=bool))
    key = None if flags.key is None else jnp.concatenate([flags.key, jnp.repeat(flags.key[-1:], number)])
    xs, padded = jax.tree.map(append_zeros, (xs, flags._replace(key=None)))
    return xs, padded._replace(key=key)
