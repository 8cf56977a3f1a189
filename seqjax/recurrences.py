"""The kinds of recurrence that a cell may have, and the inputs, carry and outputs of each.

The kind states which structure of the recurrence a method may exploit. Axes are those of `seqjax.base`.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


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
    """The weights that a `Gated` recurrence reads from the params, once per unroll.

    ``w_h``: dense ``[H, G*H]``, block-diagonal by heads ``[N, d, G, d]`` with ``N*d = H``, or diagonal ``[G, H]``.
    ``b_h``: ``[G*H]`` or None. ``w``: any pytree of elementwise weights ``[H]`` (peepholes), passed to update and emit.
    """

    w_h: Any
    b_h: Any = None
    w: Any = ()


@dataclass(frozen=True)
class Gated:
    r"""A recurrence of gates: elementwise in H, except for one product with the previous output.

    .. math::
        r_t &= h_{t-1} W_h + b_h \\
        a_g &= \phi_g(u_{t,g} + r_{t,g}) \quad\text{for each gate } g \\
        s_t &= \mathrm{update}(w, s_{t-1}, a_1, \dots, a_k), \qquad h_t = \mathrm{emit}(w, s_t, a_{k+1}, \dots, a_G)

    The carry is any NamedTuple or tuple with the leaves ``(*state, h)``; with ``emit=None`` the last state is h
    itself, and the carry is the state alone.

    Attributes:
        activations: one `Activation` per gate, in the order of the columns of u.
        num_update: how many gates, counted from the first, `update` receives; `emit` receives the others.
        update: ``(w, state, *gates) -> state``, a tuple of arrays to a tuple of arrays, elementwise.
        emit: ``(w, state, *gates) -> h``, elementwise; None where h is the last state.
        weights: ``params -> GatedWeights``; by default of a dense ``params.w_h`` alone.
        split: the gates (by position, among the first num_update) that `update` receives as their two summands
            ``u, r``, without activation, as GRU's candidate needs.
        names: one word per gate, such as "forget", for tables and figures; empty for gates without names.
    """

    activations: tuple[Activation, ...]
    num_update: int
    update: Callable
    emit: Callable | None = None
    weights: Callable = lambda params: GatedWeights(params.w_h)
    split: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.names and len(self.names) != len(self.activations):
            raise ValueError(
                f"Gated(names): expected one name per gate ({len(self.activations)}), got {self.names}."
            )
        object.__setattr__(self, "split", tuple(sorted(self.split)))


class DiagonalInputs(NamedTuple):
    """Inputs of a `Diagonal` recurrence. ``a`` is ``[T, *B, H]``, or ``[H]`` where it does not depend on the input."""

    a: Any
    b: Any


@dataclass(frozen=True)
class Diagonal:
    r"""The linear recurrence :math:`h_t = a_t \odot h_{t-1} + b_t`, real or complex, which emits h.

    Computed in float32 (complex64) at least.
    """


class MatrixInputs(NamedTuple):
    """Inputs of a `Matrix` recurrence, per head.

    ``q, k [T, *B, N, K]``; ``v [T, *B, N, V]``; ``log_decay`` ``[T, *B, N]`` (one per head) or ``[T, *B, N, K]`` (one
    per key), None for no decay; ``erase``: a pair ``(a, b)`` of ``[T, *B, N, K]``, or None; ``log_input [T, *B, N]``:
    the logarithm of an input gate, or None; it needs a decay per head.
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
    """The output of a `Matrix` recurrence: ``o [*B, N, V]``; with ``log_input`` the scale ``m [*B, N]``, else None."""

    o: Any
    m: Any = None


@dataclass(frozen=True)
class Matrix:
    r"""A linear recurrence of matrices, one per head; keys write to the matrix and queries read from it.

    .. math::
        S_t &= \mathrm{diag}(e^{g_t}) S_{t-1} + a_t (b_t^\top S_{t-1}) + e^{l_t} k_t v_t^\top \\
        o_t &= S_t^\top q_t

    with g the log decay, (a, b) the erasure and l the log input gate, each optional. With l the carry stores
    :math:`S_t e^{-m_t}` with :math:`m_t = \max(g_t + m_{t-1}, l_t)`, so that no gate can overflow; o has the same
    scale. To compute a normalizer, add a column of ones to v. Computed in float32 at least.
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

    Slot ``p mod L`` holds step p since the reset.
    """

    k: Any
    v: Any
    position: Any


@dataclass(frozen=True)
class Attention:
    r"""Causal softmax attention over the last L steps, including the present one.

    .. math::
        h_t = \sum_{s \le t} \mathrm{softmax}_s(q_t^\top k_s / \sqrt{K})\, v_s

    Each group of N/G query heads shares one head of keys and values. Positions count the steps that happened since
    the reset. The recurrence emits h ``[*B, N, V]``; the softmax is computed in float32 at least.

    Attributes:
        window: L, for a sliding window.
        max_length: L, for sequences of at most L steps: longer ones are refused where their length is known, otherwise
            `step` forgets the oldest step; see `seqjax.attention`. Pass either window or max_length.
        rotary_base: the base of rotary positions: pair i turns by ``rotary_base ** (-2 i / K)`` per step. None for no
            rotary positions.
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
"""The five kinds, of which each cell has one."""
