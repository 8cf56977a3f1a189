"""The vocabulary: the types that everything else is made of.

Axes, everywhere: ``T`` time, ``*B`` batch (any number of axes), ``D`` input, ``H`` hidden, ``G`` gates, ``N`` heads,
``K`` key, ``V`` value, ``L`` memory slots, ``C`` a chunk of time. Sequences are time-major: ``xs [T, *B, D]``; one step
is ``x [*B, D]``; carry leaves are ``[*B, ...]``.
Arguments and results come in the order of ``jax.lax.scan``: ``(params, carry, x) -> (carry, y)``.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax

from seqjax.affine import affine
from seqjax.inputs import Flags, run_step, run_unroll
from seqjax.values import Definition

# ---------------------------------------------------------------- recurrences: which structure may be exploited


@dataclass(frozen=True)
class Step:
    """Any recurrence: ``fn: (params, carry, u) -> (carry, h)`` over any pytree of carries."""

    fn: Callable


class Activation(enum.Enum):
    """The activation of one gate of a `Gated` recurrence; a closed set, so that a driver can evaluate them together."""

    SIGMOID = "sigmoid"
    TANH = "tanh"
    RELU = "relu"
    IDENTITY = "identity"


class GatedWeights(NamedTuple):
    """What a `Gated` recurrence reads from the params, once per unroll.

    ``w_h``: dense ``[H, G*H]``, block-diagonal by heads ``[N, d, G, d]`` with ``N*d = H``, or diagonal ``[G, H]``.
    ``b_h``: ``[G*H]`` or None. ``w``: any pytree of elementwise weights ``[H]`` (peepholes), handed to update and emit.
    """

    w_h: Any
    b_h: Any = None
    w: Any = ()


@dataclass(frozen=True)
class Gated:
    r"""A recurrence of gates, elementwise in H but for one product with the previous output.

    .. math::
        r_t &= h_{t-1} W_h + b_h \\
        a_g &= \phi_g(u_{t,g} + r_{t,g}) \quad\text{for each gate } g \\
        s_t &= \mathrm{update}(w, s_{t-1}, a_1, \dots, a_k), \qquad h_t = \mathrm{emit}(w, s_t, a_{k+1}, \dots, a_G)

    The carry is any NamedTuple or tuple with the leaves ``(*state, h)``; with ``emit=None`` the last state is h
    itself, and the carry is the state alone.

    Attributes:
        activations: one `Activation` per gate, in the order of the columns of u.
        num_update: how many gates, from the first, go to `update`; the others go to `emit`.
        update: ``(w, state, *gates) -> state``, a tuple of arrays to a tuple of arrays, elementwise.
        emit: ``(w, state, *gates) -> h``, elementwise; None where h is the last state.
        weights: ``params -> GatedWeights``.
        split: the gates (by position, among the first num_update) that reach `update` as their two summands ``u, r``
            without activation, as GRU's candidate needs.
    """

    activations: tuple[Activation, ...]
    num_update: int
    update: Callable
    emit: Callable | None
    weights: Callable
    split: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", tuple(sorted(self.split)))


class DiagonalInputs(NamedTuple):
    """Inputs of a `Diagonal` recurrence. ``a`` is ``[T, *B, H]``, or ``[H]`` where it does not depend on the input."""

    a: Any
    b: Any


@dataclass(frozen=True)
class Diagonal:
    r"""The linear recurrence :math:`h_t = a_t \odot h_{t-1} + b_t`, real or complex; it emits h.

    Computed in float32 (complex64) at least.
    """


class MatrixInputs(NamedTuple):
    """Inputs of a `Matrix` recurrence, per head.

    ``q, k [T, *B, N, K]``; ``v [T, *B, N, V]``; ``log_decay`` ``[T, *B, N]`` (one per head) or ``[T, *B, N, K]`` (one
    per key), None for no decay; ``erase``: a pair ``(a, b)`` of ``[T, *B, N, K]``, or None; ``log_input [T, *B, N]``:
    the logarithm of an input gate, or None, which goes with a decay per head.
    """

    q: Any
    k: Any
    v: Any
    log_decay: Any = None
    erase: Any = None
    log_input: Any = None


class MatrixCarry(NamedTuple):
    """The carry of a `Matrix` recurrence with ``log_input``: the true state is ``s * exp(m)``.

    ``s [*B, N, K, V]``, ``m [*B, N]``. Without ``log_input`` the carry is ``s`` itself.
    """

    s: Any
    m: Any


class MatrixOutputs(NamedTuple):
    """What a `Matrix` recurrence emits: ``o [*B, N, V]``, and with ``log_input`` the scale ``m [*B, N]``, else None."""

    o: Any
    m: Any = None


@dataclass(frozen=True)
class Matrix:
    r"""A linear recurrence of matrices, one per head, written to and read from by keys and queries.

    .. math::
        S_t &= \mathrm{diag}(e^{g_t}) S_{t-1} + a_t (b_t^\top S_{t-1}) + e^{l_t} k_t v_t^\top \\
        o_t &= S_t^\top q_t

    with g the log decay, (a, b) the erasure and l the log input gate, each optional. With l the state is kept as
    :math:`S_t e^{-m_t}` with :math:`m_t = \max(g_t + m_{t-1}, l_t)`, so that no gate can overflow; o has the same
    scale. A normalizer is one more column of v, of ones. Computed in float32 at least.
    """


class AttentionInputs(NamedTuple):
    """Inputs of an `Attention` recurrence.

    ``q [T, *B, N, K]``, ``k [T, *B, G, K]``, ``v [T, *B, G, V]``, N a multiple of G.
    """

    q: Any
    k: Any
    v: Any


class AttentionCarry(NamedTuple):
    """A ring of keys ``[*B, L, G, K]`` and values ``[*B, L, G, V]``, and the steps since the reset, ``[*B]`` int32.

    Step p since the reset lies in slot ``p mod L``.
    """

    k: Any
    v: Any
    position: Any


@dataclass(frozen=True)
class Attention:
    r"""Causal softmax attention over the last L steps, the present one included.

    .. math::
        h_t = \sum_{s \le t} \mathrm{softmax}_s(q_t^\top k_s / \sqrt{K})\, v_s

    Each group of N/G query heads shares one head of keys and values. Positions count the steps that happened since
    the reset. It emits h ``[*B, N, V]``; the softmax is computed in float32 at least.

    Attributes:
        window: L, for a sliding window.
        max_length: L, for sequences of at most L steps: `unroll` refuses longer ones, `step` forgets the oldest. Give
            one of the two.
        rotary_base: of rotary positions, where pair i turns by ``rotary_base ** (-2 i / K)`` per step; None for none.
    """

    window: int | None = None
    max_length: int | None = None
    rotary_base: float | None = None

    def __post_init__(self) -> None:
        if (self.window is None) == (self.max_length is None):
            raise ValueError(
                f"Attention: expected either window or max_length, got {self.window!r} and {self.max_length!r}."
            )

    @property
    def capacity(self) -> int:
        """L."""
        return self.window or self.max_length or 0


Recurrence = Step | Gated | Diagonal | Matrix | Attention


# ---------------------------------------------------------------- cells and layers


@dataclass(frozen=True)
class Dense:
    """A projection that is one affine map, ``xs @ w + b``, declared so that methods may fuse or split it.

    ``weights: params -> (w [D, K], b [K] or None)``.
    """

    weights: Callable

    def __call__(self, params: Any, xs: jax.Array, key: Any = None) -> jax.Array:
        return affine(xs, *self.weights(params))


def _inputs_as_they_are(params: Any, xs: Any, key: Any = None) -> Any:
    return xs


def _emitted_as_it_is(params: Any, hs: Any, xs: Any) -> Any:
    return hs


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Cell(Definition):
    """What is computed at one time step, and which structure its recurrence has.

    Attributes:
        init: ``(key, x) -> params``; x is an array or ShapeDtypeStruct of one time step.
        initial_carry: ``(params, x) -> carry``; uses only x's shape, dtype and sharding, never its values.
        recurrence: a `Step`, `Gated`, `Diagonal`, `Matrix` or `Attention`.
        project: ``(params, xs, key=None) -> us``, pointwise in time, with any leading axes.
        readout: ``(params, hs, xs) -> ys``, pointwise in time, with any leading axes.
        event_ndim: how many axes of x, of its first leaf where it has several, are its own, after the batch axes: one
            for vectors, three for images with channels. The other leaves begin with the same batch axes.
        inverse: ``(params, carry, u) -> carry``, the carry before a step from the one after it, where that is possible;
            see `seqjax.gradients.reversible`. `Diagonal` recurrences need none.

    Example:
        A cell of one's own is a value of this class; a leaky integrator:

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

    init: Callable
    initial_carry: Callable
    recurrence: Recurrence
    project: Callable = _inputs_as_they_are
    readout: Callable = _emitted_as_it_is
    event_ndim: int = 1
    inverse: Callable | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Layer(Definition):
    """A cell bound to a method, or any composition of layers, up to a whole model. Two equal views of one function.

    ``step`` and ``unroll`` check what they are given and call the two functions that a layer is made of.

    Attributes:
        init: ``(key, x) -> params`` from one time step.
        initial_carry: ``(params, x) -> carry``.
        step_fn: ``(params, carry, x, flags) -> (carry, y)``: one time step, with `seqjax.Flags`; checked inputs.
        unroll_fn: ``(params, carry, xs, flags) -> (carry, ys)``: a sequence of at least one step.
        causal: False where y_t depends on later inputs; such a layer has no step.
        time_shardable: whether ``unroll`` also runs inside ``jax.shard_map`` over a mesh axis "time", where each device
            holds a part of the steps: layers that act on each step by itself, `seqjax.TimeSharded`, and compositions of
            both.
        batch_major: whether ``unroll`` takes and returns ``[B, T, ...]``; `seqjax.batch_major` sets it.
        event_ndim: as in `Cell`, where that is known: flags must then have all the batch axes.
    """

    init: Callable
    initial_carry: Callable
    step_fn: Callable
    unroll_fn: Callable
    causal: bool = True
    time_shardable: bool = False
    batch_major: bool = False
    event_ndim: int | None = None

    def __post_init__(self) -> None:
        # A bound method is a new object whenever it is looked up; jax.jit knows the same one again.
        for view in ("step", "unroll"):
            object.__setattr__(self, view, getattr(self, view))

    def step(
        self, params: Any, carry: Any, x: Any, *, reset: Any = None, mask: Any = None, key: Any = None
    ) -> tuple[Any, Any]:
        """One time step: ``(carry, y)``. The flags are those of `unroll` without T; the key is one key."""
        return run_step(self, params, carry, x, Flags(reset, mask, key))

    def unroll(
        self,
        params: Any,
        carry: Any,
        xs: Any,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        tap: Any = None,
    ) -> tuple[Any, Any]:
        """A sequence ``xs [T, *B, ...]``: ``(carry, ys)``; a carry of None is ``initial_carry(params, xs[0])``.

        ``reset [T, *B]`` bool: the carry restarts before this step. ``mask [T, *B]`` bool: where False the step does
        not happen: the carry passes through and the output is zero. ``key``: None is deterministic; otherwise step t
        draws from ``fold_in(key, t)``; a key array ``[T]`` has one key per step. ``tap``: see `seqjax.ops.tap`; a
        pytree like the carry whose gradient is the norm of the carry's gradient, step by step.
        """
        return run_unroll(self, params, carry, xs, Flags(reset, mask, key, tap))


@runtime_checkable
class Method(Protocol):
    """How a cell runs over time; a frozen dataclass. `kinds` are the recurrences that it runs."""

    kinds: ClassVar[tuple[type, ...]]

    def unroll(self, cell: Cell, params: Any, carry: Any, xs: Any, flags: Flags) -> tuple[Any, Any]:
        """``(carry, ys)``. Inputs are checked and safe; ``flags.initial`` is set, and there is one key per step."""
        ...


# ---------------------------------------------------------------- gradients


class Estimate(NamedTuple):
    """What an `Estimator` finds: sums over what counts, so that they add up over chunks and devices.

    Attributes:
        total: of the losses; the mean loss is ``total / max(count, 1)``.
        count: how many losses count.
        gradients: of the total by the params, as `jax.grad` gives them (complex ones conjugated).
    """

    total: Any
    count: Any
    gradients: Any


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Estimator(Definition):
    """How gradients flow through time. Bound to a layer and a loss it is two pure functions, as an optax optimizer is.

    Attributes:
        bind: ``(layer, loss) -> (init, update)``; the loss is ``(ys, targets) -> losses``, see
            `seqjax.gradients.objective`.

            ``init(params, carry, x) -> state``: before the first chunk, entered with a carry that no params have
            touched; x is one time step ``[*B, ...]`` as an example. Leaves of the state begin with ``[*B]``.

            ``update(params, carry, state, batch, *, key=None) -> (Estimate, carry, state)``: one chunk ``[T, *B]``,
            from the carry entering it. Carry and state that come out go into the next chunk of the same streams. A
            carry of None begins with ``layer.initial_carry``, as a reset at the first step does; a gradient by way of
            a learned initial carry counts, as it does at resets. Inside ``jax.shard_map`` the estimate is that of a
            device's own part of the batch, params that all share or not: add it up by ``jax.lax.psum``.
        streaming: whether training hands carry and state on from batch to batch. If not, each batch begins anew.
    """

    bind: Callable
    streaming: bool = True


class Batch(NamedTuple):
    """What a training step takes: time-major inputs, targets, and which steps restart or do not happen."""

    xs: Any
    targets: Any
    reset: Any = None
    mask: Any = None
