"""The vocabulary: the types that everything else is made of.

Axes, everywhere: ``T`` time, ``*B`` batch (any number of axes), ``D`` input, ``H`` hidden, ``G`` gates, ``N`` heads,
``K`` key, ``V`` value, ``L`` memory slots, ``C`` a chunk of time. Sequences are time-major: ``xs [T, *B, D]``; one step
is ``x [*B, D]``; carry leaves are ``[*B, ...]``.
Arguments and results come in the order of ``jax.lax.scan``: ``(params, carry, x) -> (carry, y)``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax

from seqjax.affine import affine
from seqjax.calls import run_step, run_unroll
from seqjax.inputs import Flags, checked_init, checked_initial_carry
from seqjax.recurrences import (
    Activation,
    Attention,
    AttentionCarry,
    AttentionInputs,
    Diagonal,
    DiagonalInputs,
    Gated,
    GatedWeights,
    Matrix,
    MatrixCarry,
    MatrixInputs,
    MatrixOutputs,
    Recurrence,
    Step,
)
from seqjax.values import Definition

__all__ = [
    "Activation",
    "Attention",
    "AttentionCarry",
    "AttentionInputs",
    "Batch",
    "Carry",
    "Cell",
    "Dense",
    "Diagonal",
    "DiagonalInputs",
    "Estimate",
    "Estimator",
    "Flags",
    "Gated",
    "GatedWeights",
    "Hs",
    "Key",
    "Layer",
    "Matrix",
    "MatrixCarry",
    "MatrixInputs",
    "MatrixOutputs",
    "Method",
    "Params",
    "Recurrence",
    "Step",
    "StepFunction",
    "UnrollFunction",
    "Us",
    "X",
    "Xs",
    "Y",
    "Ys",
]

# ---------------------------------------------------------------- pytrees of arrays, by their part

Params = Any
"""What `init` returns and training updates: a pytree of arrays."""

Carry = Any
"""The state that one step hands to the next: a pytree of arrays ``[*B, ...]``."""

X = Any
"""The inputs of one time step: an array ``[*B, D]``, or a pytree of arrays ``[*B, ...]``."""

Xs = Any
"""The inputs of a sequence: those of one step with a time axis in front, ``[T, *B, ...]``."""

Y = Any
"""The outputs of one time step: a pytree of arrays ``[*B, ...]``."""

Ys = Any
"""The outputs of a sequence: a pytree of arrays ``[T, *B, ...]``."""

Us = Any
"""The projected inputs that a recurrence reads: a pytree of arrays ``[T, *B, ...]``, without T for one step."""

Hs = Any
"""What a recurrence emits, before the readout: a pytree of arrays ``[T, *B, ...]``, without T for one step."""

Key = jax.Array
"""A typed random key, as ``jax.random.key`` makes it."""


# ---------------------------------------------------------------- cells and layers


@dataclass(frozen=True)
class Dense:
    """A projection that is one affine map, ``xs @ w + b``, declared so that methods may fuse or split it.

    ``weights: params -> (w [D, K], b [K] or None)``.
    """

    weights: Callable[[Params], tuple]

    def __call__(self, params: Params, xs: jax.Array, key: Key | None = None) -> jax.Array:
        return affine(xs, *self.weights(params))


def _inputs_as_they_are(params: Params, xs: Xs, key: Key | None = None) -> Us:
    return xs


def _emitted_as_it_is(params: Params, hs: Hs, xs: Xs) -> Ys:
    return hs


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Cell(Definition):
    """The computation of one time step, and the structure of its recurrence.

    Attributes:
        init: ``(key, x) -> params``; x is an array or ShapeDtypeStruct of one time step.
        initial_carry: ``(params, x) -> carry``; reads only the shape, dtype and sharding of x, never its values.
        recurrence: a `Step`, `Gated`, `Diagonal`, `Matrix` or `Attention`.
        project: ``(params, xs, key=None) -> us``, pointwise in time, with any leading axes.
        readout: ``(params, hs, xs) -> ys``, pointwise in time, with any leading axes.
        event_ndim: how many axes of x follow the batch axes: one for vectors, three for images with channels. Where x
            has several leaves, the number is that of the first leaf; the others begin with the same batch axes.
        inverse: ``(params, carry, u) -> carry``, the carry before a step from the carry after the step, where that is
            possible; see `seqjax.gradients.reversible`. `Diagonal` recurrences need none.

    Example:
        To write a cell, make a value of this class. A leaky integrator:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> def leak(params, h, x):
        ...     h = params * h + (1 - params) * x
        ...     return h, h
        >>> cell = sj.Cell(
        ...     init=lambda key, x: jnp.full(x.shape[-1:], 0.5),
        ...     initial_carry=lambda params, x: jnp.zeros_like(x),
        ...     recurrence=sj.Step(leak),
        ... )
        >>> layer = sj.recurrent(cell)
        >>> xs = jnp.ones((3, 1, 2))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        >>> ys[:, 0, 0]
        Array([0.5  , 0.75 , 0.875], dtype=float32)
    """

    init: Callable[[Key, X], Params]
    initial_carry: Callable[[Params, X], Carry]
    recurrence: Recurrence
    project: Callable[..., Us] = _inputs_as_they_are
    readout: Callable[[Params, Hs, Xs], Ys] = _emitted_as_it_is
    event_ndim: int = 1
    inverse: Callable[[Params, Carry, Us], Carry] | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Layer(Definition):
    """A cell bound to a method, or any composition of layers, up to a whole model.

    ``step`` and ``unroll`` are two equal views of one function. They check their arguments, then call ``step_fn`` and
    ``unroll_fn``.

    Attributes:
        init: ``(key, x) -> params`` from one time step.
        initial_carry: ``(params, x) -> carry``.
        step_fn: ``(params, carry, x, flags) -> (carry, y)``: one time step, with `seqjax.Flags`; inputs are checked.
        unroll_fn: ``(params, carry, xs, flags) -> (carry, ys)``: a sequence of at least one step.
        causal: False where y_t depends on later inputs; then the layer has no step.
        time_shardable: whether ``unroll`` also runs inside ``jax.shard_map`` over a mesh axis "time", where each device
            holds a part of the steps. True for layers that act on each step by itself or borrow the last steps of the
            neighbors (`seqjax.causal_conv`, `seqjax.token_shift`), for `seqjax.TimeSharded`, and for compositions of
            these.
        batch_major: whether ``unroll`` takes and returns ``[B, T, ...]``; `seqjax.batch_major` sets it.
        event_ndim: as in `Cell`, where that is known: flags must then have all the batch axes.
        max_length: the largest number of steps since a reset, where attention without a window limits it.
        condition: ``(params, carry, context, *, key=None) -> carry``, for the layer at the top of a model: how
            ``Batch.context``, with leaves ``[*B, ...]``, enters the initial carry. None for layers without a context.
            See `seqjax.encoder_decoder`, `seqjax.set_context` and `seqjax.set_memory`.
    """

    init: Callable[[Key, X], Params]
    initial_carry: Callable[[Params, X], Carry]
    step_fn: Callable[[Params, Carry, X, Flags], tuple[Carry, Y]]
    unroll_fn: Callable[[Params, Carry, Xs, Flags], tuple[Carry, Ys]]
    causal: bool = True
    time_shardable: bool = False
    batch_major: bool = False
    event_ndim: int | None = None
    max_length: int | None = None
    condition: Callable[..., Carry] | None = None

    def __post_init__(self) -> None:
        for name, entry in (("init", checked_init), ("initial_carry", checked_initial_carry)):
            function = getattr(self, name)
            if getattr(function, "func", None) is not entry:  # as after dataclasses.replace
                object.__setattr__(self, name, functools.partial(entry, function))
        # Python makes a new bound method at each look-up; one object each keeps jax.jit from tracing again.
        for view in ("step", "unroll"):
            object.__setattr__(self, view, getattr(self, view))

    def step(
        self,
        params: Params,
        carry: Carry,
        x: X,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Key | None = None,
    ) -> tuple[Carry, Y]:
        """Run one time step: ``(carry, y)``. The flags are those of `unroll` without T; the key is one key."""
        return run_step(self, params, carry, x, Flags(reset, mask, key))

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: Xs,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Key | None = None,
        tap: Any = None,
    ) -> tuple[Carry, Ys]:
        """Run a sequence ``xs [T, *B, ...]``: ``(carry, ys)``; a carry of None is ``initial_carry(params, xs[0])``.

        ``reset [T, *B]`` bool: where True the carry restarts before the step. ``mask [T, *B]`` bool: where False the
        step does not happen, the carry passes through and the output is zero. ``key``: None is deterministic;
        otherwise step t draws from ``fold_in(key, t)``; a key array ``[T]`` has one key per step. ``tap``: see
        `seqjax.ops.tap`; a pytree like the carry whose gradient is the norm of the carry's gradient, step by step.
        """
        return run_unroll(self, params, carry, xs, Flags(reset, mask, key, tap))


class StepFunction(Protocol):
    """The type of `Layer.step`: ``(params, carry, x, *, reset, mask, key) -> (carry, y)``."""

    def __call__(
        self,
        params: Params,
        carry: Carry,
        x: X,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Key | None = None,
    ) -> tuple[Carry, Y]:
        """Run one time step."""
        ...


class UnrollFunction(Protocol):
    """The type of `Layer.unroll`: ``(params, carry, xs, *, reset, mask, key, tap) -> (carry, ys)``."""

    def __call__(
        self,
        params: Params,
        carry: Carry,
        xs: Xs,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Key | None = None,
        tap: Any = None,
    ) -> tuple[Carry, Ys]:
        """Run a sequence."""
        ...


@runtime_checkable
class Method(Protocol):
    """How a cell runs over time; a frozen dataclass. `kinds` are the recurrences that the method runs."""

    kinds: ClassVar[tuple[type, ...]]

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """Return ``(carry, ys)``. Inputs are checked, ``flags.initial`` is set, and there is one key per step."""
        ...


# ---------------------------------------------------------------- gradients


class Estimate(NamedTuple):
    """The results of an `Estimator`: sums over the losses that count, which add up over chunks and devices.

    Attributes:
        total: the sum of the losses; the mean loss is ``total / max(count, 1)``.
        count: how many losses count.
        gradients: of the total by the params, as `jax.grad` gives them (complex ones conjugated).
    """

    total: Any
    count: Any
    gradients: Params


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Estimator(Definition):
    """How gradients flow through time. Bound to a layer and a loss it is two pure functions, as an optax optimizer is.

    Attributes:
        bind: ``(layer, loss) -> (init, update)``; the loss is ``(ys, targets) -> losses``, see
            `seqjax.gradients.objective`.

            ``init(params, carry, x) -> state``: the state before the first chunk. The carry must not depend on the
            params; x is one time step ``[*B, ...]`` as an example. Leaves of the state begin with ``[*B]``.

            ``update(params, carry, state, batch, *, key=None) -> (Estimate, carry, state)``: one chunk ``[T, *B]``,
            from the carry that enters the chunk. Pass the returned carry and state to the next chunk of the same
            streams. A carry of None begins with ``layer.initial_carry``, as a reset at the first step does; the
            gradient through a learned initial carry counts, as it does at resets. Inside ``jax.shard_map`` the
            estimate is that of a device's own part of the batch, whether or not all devices share the params: add
            the estimates up with ``jax.lax.psum``.
        streaming: whether training passes carry and state from one batch to the next. If not, each batch starts from
            the initial carry.
    """

    bind: Callable[[Layer, Callable], tuple[Callable, Callable]]
    streaming: bool = True


class Batch(NamedTuple):
    """The data of one training step.

    Attributes:
        xs: time-major inputs ``[T, *B, ...]``.
        targets: whatever the loss takes.
        reset: ``[T, *B]`` bool, the steps that restart; or None.
        mask: ``[T, *B]`` bool, the steps that happen; or None.
        context: what the sequences are conditioned on, such as source sentences or images, leaves ``[*B, ...]`` without
            the time axis of xs; or None. `Layer.condition` reads it.
    """

    xs: Xs
    targets: Any
    reset: Any = None
    mask: Any = None
    context: Any = None
