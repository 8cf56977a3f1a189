r"""Gate statistics: how far gates are open, and the time constants of the states behind them.

A gate is a sigmoid of a `Gated` recurrence. A decay f is the factor of a state from step to step:
:math:`|\partial s_t / \partial s_{t-1}|` along the elementwise path at fixed gates. The definition covers cells that
keep their state by f, by z or by 1 - i. In the linear kinds the decay is :math:`|a_t|`, or :math:`e^{g_t}` before any
erasure. The time constant is :math:`-1 / \ln f` steps, after which 1/e of the state is left.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqjax.base import Activation, Carry, Cell, Diagonal, Gated, GatedWeights, Matrix, Params, Xs
from seqjax.inputs import first_step, num_steps
from seqjax.layers.recurrent import recurrent
from seqjax.methods.common import project_inputs
from seqjax.ops.elementwise import elementwise_jacobian
from seqjax.ops.gated.step import arguments_of, elementwise_weights, gates_of
from seqjax.ops.gated.step import recurrent as recurrent_term
from seqjax.ops.select import cast, expand, keep, select, wide
from seqjax.probes.bound import Bound, bound_cell, conditioned, first_carry
from seqjax.probes.internals.checks import check_step
from seqjax.probes.internals.system import check_data

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Openness(NamedTuple):
    """The distribution of one gate, or of one state's decay, over steps, examples and units.

    Attributes:
        share_open: the share of values above .99.
        share_shut: the share of values below .01.
        quantiles: the quantiles at the requested levels ``[Q]``; NaN if any value is NaN.
        time_constants: -1/ln of the quantiles in steps ``[Q]``: infinite at 1 and above, 0 at 0. They have a meaning
            for a gate only if the gate is a decay.
    """

    share_open: Float[Array, ""]
    share_shut: Float[Array, ""]
    quantiles: Float[Array, " Q"]
    time_constants: Float[Array, " Q"]


class GateStatistics(NamedTuple):
    """Result of `gate_statistics`.

    Attributes:
        gates: one `Openness` per gate of a `Gated` recurrence, in the order of its columns. It is None for a gate
            without a declared sigmoid; the coupled LSTM applies the sigmoid inside its update, so read its decay. Empty
            for the linear kinds.
        decays: one `Openness` per state; None for a state without an elementwise path (that of an Elman network).
    """

    gates: tuple[Openness | None, ...]
    decays: tuple[Openness | None, ...]


def gate_statistics(
    bound: Bound, batch: Any, *, carry: Carry = None, quantiles: tuple[float, ...] = QUANTILES
) -> GateStatistics:
    """Measure the gates and decays of a cell along its trajectory.

    For a cell inside a composition, bind the cell to its own params and pass the inputs that reach the cell.

    Args:
        bound: ``bind(recurrent(cell), params)``, of a cell with a `Gated`, `Diagonal` or `Matrix` recurrence.
        batch: a `seqjax.Batch` with leaves ``[T, *B, ...]``; its targets are ignored, and masked steps do not count.
            Arrays stand for its xs.
        carry: the carry entering the first step, leaves ``[*B, ...]``; by default the initial carry.
        quantiles: levels in [0, 1].

    Raises:
        TypeError: for a layer that is not ``recurrent(cell)``, or a recurrence without declared gates (`Step`,
            `Attention`).
        ValueError: for an empty sequence, inputs that are not finite, or levels outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.lstm(4, forget_bias=3.0)
        >>> params = cell.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> params = jax.tree.map(lambda p: 0 * p if p.ndim == 2 else p, params)
        >>> bound = sj.probes.bind(sj.recurrent(cell), params)
        >>> found = gate_statistics(bound, jnp.ones((10, 2, 3)), quantiles=(0.5,))
        >>> round(float(found.gates[1].quantiles[0]), 4), round(float(found.decays[0].time_constants[0]), 2)
        (0.9526, 20.58)
    """
    who = "gate_statistics"
    cell, params = bound_cell(who, bound), bound.params
    if not isinstance(cell.recurrence, Gated | Diagonal | Matrix):
        raise TypeError(
            f"{who}(bound): expected a cell with a Gated, Diagonal or Matrix recurrence, "
            f"got {cell!r} ({type(cell.recurrence).__name__})."
        )
    carry, batch = check_data(who, bound, batch, carry)
    bound, batch = conditioned(who, bound, batch, carry)
    xs, mask = batch.xs, batch.mask
    if num_steps(xs) == 0:
        raise ValueError(f"{who}: expected xs [T, ...] with T of at least 1, got an empty sequence.")
    if np.ndim(quantiles) != 1 or not all(0 <= level <= 1 for level in quantiles):
        raise ValueError(f"{who}(quantiles): expected levels in [0, 1] such as (0.5,), got {quantiles}.")
    carry = first_carry(bound, carry, xs)
    check_step(who, bound, carry, first_step(xs))
    xs = keep(mask, xs)
    us = project_inputs(cell, params, xs, None)
    dtype = jax.tree.leaves(xs)[0].dtype
    levels = jnp.asarray(quantiles, wide(dtype))
    gates: list[jax.Array | None] = []
    decays: list[jax.Array | None] = []
    match cell.recurrence:
        case Gated() as gated:
            entering = _entering(cell, params, carry, xs, batch.reset, mask)
            weights = GatedWeights(*cast(tuple(gated.weights(params)), dtype))
            gates, decays = _of_gated(gated, weights, entering, us)
        case Diagonal():
            decays = [jnp.abs(jnp.broadcast_to(us.a, jnp.shape(us.b)))]
        case Matrix():
            log_decay = us.log_decay
            decays = [jnp.ones(us.q.shape[:-1], wide(dtype)) if log_decay is None else jnp.exp(log_decay)]

    def describe(values: jax.Array | None) -> Openness | None:
        return None if values is None else _openness(values, mask, levels)

    return GateStatistics(tuple(map(describe, gates)), tuple(map(describe, decays)))


def _entering(cell: Cell, params: Params, carry: Carry, xs: Xs, reset: Any, mask: Any) -> Any:
    """Return the carry entering each step ``[T, ...]``, after its reset."""
    layer = recurrent(cell)
    initial = layer.initial_carry(params, first_step(xs))

    def body(carry: Carry, inputs: Any) -> tuple[Any, Any]:
        x, reset, mask = inputs
        carry = select(reset, initial, carry)
        return layer.step(params, carry, x, mask=mask)[0], carry

    return jax.lax.scan(body, carry, (xs, reset, mask))[1]


def _of_gated(cell: Gated, weights: GatedWeights, entering: Any, us: jax.Array) -> tuple[list, list]:
    leaves = jax.tree.leaves(entering)
    block = gates_of(cell, us, recurrent_term(cell, weights, leaves[-1]))
    update_gates, emit_gates = arguments_of(cell, block)
    arguments = iter([*update_gates, *emit_gates])
    gates: list[jax.Array | None] = []
    for g, activation in enumerate(cell.activations):
        value = next(arguments)
        if g in cell.split:
            next(arguments)
        gates.append(value if activation is Activation.SIGMOID and g not in cell.split else None)
    states = tuple(leaves if cell.emit is None else leaves[:-1])
    w = elementwise_weights(weights, block.ndim)
    jacobian = elementwise_jacobian(
        lambda *args: tuple(cell.update(w, args[: len(states)], *args[len(states) :])),
        (*states, *update_gates),
    )
    own = [jacobian[i][i] for i in range(len(states))]
    decays = [None if d is None else jnp.abs(d) for d in own]
    return gates, decays


def _openness(values: Float[Array, "..."], mask: Any, levels: Float[Array, " Q"]) -> Openness:
    values = values.astype(wide(values.dtype))
    counts = jnp.ones(values.shape, bool)
    if mask is not None:
        counts = jnp.broadcast_to(expand(mask, values.ndim), values.shape)
    number = jnp.sum(counts, dtype=values.dtype)
    quantiles = jnp.nanquantile(jnp.where(counts, values, jnp.nan), levels.astype(values.dtype))
    quantiles = jnp.where(jnp.any(counts & jnp.isnan(values)), jnp.nan, quantiles)
    logs = jnp.log(quantiles)
    # A decay of 1 or more has an infinite time constant.
    infinite = jnp.where(jnp.isnan(logs), jnp.nan, jnp.inf)
    constants = jnp.where(logs < 0, -1 / jnp.where(logs < 0, logs, -1), infinite)
    share_open = jnp.sum(counts & (values > 0.99), dtype=values.dtype) / number
    share_shut = jnp.sum(counts & (values < 0.01), dtype=values.dtype) / number
    return Openness(share_open, share_shut, quantiles, constants)
