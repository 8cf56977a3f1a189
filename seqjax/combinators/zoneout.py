"""Zoneout: entries of a cell's carry keep their old value at random."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Cell, Key, Params, Us, X, Xs
from seqjax.checks import check_within
from seqjax.ops.select import keep
from seqjax.ops.step import expand_left, gated_step, step_of
from seqjax.ops.vectors import Floating
from seqjax.recurrences import Diagonal, DiagonalInputs, Gated, GatedWeights, Step
from seqjax.values import definition


class ZoneoutInputs(NamedTuple):
    """The cell's own inputs; and which entries stay: a tuple like the floating leaves of the carry, or None."""

    us: Us
    stays: Any


@definition
def zoneout(cell: Cell, rate: float | tuple[float, ...]) -> Cell:
    r"""Zoneout: random entries of the carry keep their old value instead of being updated.

    .. math::
        \tilde c_t &= \mathrm{cell}(c_{t-1}, x_t) \\
        c_t &= d_t \odot c_{t-1} + (1 - d_t) \odot \tilde c_t, \qquad d_t \sim \mathrm{Bernoulli}(p)

    for each leaf of the carry with its own d and p, independent at every step; without a key
    :math:`c_t = p\,c_{t-1} + (1-p)\,\tilde c_t`, the expectation. Each leaf is computed from the others before their
    zoneout, as in the paper (an LSTM's h from its full c). An output that is a leaf of the carry is that leaf after
    zoneout. Integer leaves (positions) are always updated. `project` draws the noise from the key of the step.

    Gradients: in a share p of the entries they pass through a step unchanged.

    Params are the cell's. A `Diagonal` recurrence stays `Diagonal` (:math:`a' = d + (1-d)a`, :math:`b' = (1-d)b`); all
    others become a `Step`.

    Args:
        cell: any cell.
        rate: p for all floating leaves, or one per leaf, in order: ``zoneout(lstm(8), (0.5, 0.05))`` for c and h.

    Raises:
        ValueError: for a rate outside [0, 1), or a number of rates that differs from the number of floating leaves.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> from seqjax.cells import ElmanParams
        >>> layer = sj.recurrent(sj.zoneout(sj.elman(1, activation="identity"), 0.25))
        >>> params = ElmanParams(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1))
        >>> layer.unroll(params, layer.initial_carry(params, jnp.ones((1, 1))), jnp.ones((2, 1, 1)))[1].ravel()
        Array([0.75  , 0.9375], dtype=float32)

    References:
        Krueger et al. 2017, "Zoneout: regularizing RNNs by randomly preserving hidden activations", arXiv:1606.01305:
        eq. 4 (the operator), eq. 6 (the LSTM).
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"zoneout(cell): expected a Cell such as lstm(256), got {cell!r}.")
    rates = rate if isinstance(rate, tuple) else (rate,)
    for p in rates:
        check_within("zoneout(rate)", p)

    def initial_carry(params: Params, x: X) -> Carry:
        carry = cell.initial_carry(params, x)
        _rates_for(cell, rate, carry)
        return carry

    def step(params: Params, before: Any, inputs: ZoneoutInputs) -> Any:
        after, h = _inner_step(cell, params)(before, inputs.us)
        carry = _mix(before, after, inputs.stays, _rates_for(cell, rate, after))
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(carry), strict=True)
        same = [new for old, new in pairs if old is h]
        return carry, same[-1] if same else h

    def draw(params: Params, x: X, key: Key) -> Any:
        carry = jax.eval_shape(initial_carry, params, x)
        pairs = zip(_rates_for(cell, rate, carry), Floating(carry).leaves, strict=True)
        keys = (jax.random.fold_in(key, n) for n in itertools.count(1))
        return tuple(jax.random.bernoulli(next(keys), p, leaf.shape) for p, leaf in pairs)

    def project(params: Params, xs: Xs, key: Key | None = None) -> Any:
        if key is None:
            us, stays = cell.project(params, xs), None
        else:  # one step
            us, stays = cell.project(params, xs, jax.random.fold_in(key, 0)), draw(params, xs, key)
        if not isinstance(cell.recurrence, Diagonal):
            return ZoneoutInputs(us, stays)
        a, b = us
        if stays is None:
            return DiagonalInputs(rates[0] + (1 - rates[0]) * a, (1 - rates[0]) * b)
        a = jnp.broadcast_to(expand_left(a, b.ndim), b.shape).astype(b.dtype)
        return DiagonalInputs(jnp.where(stays[0], jnp.ones_like(a), a), keep(~stays[0], b))

    recurrence = cell.recurrence if isinstance(cell.recurrence, Diagonal) else Step(step)
    readout = cell.readout
    return Cell(
        init=cell.init, initial_carry=initial_carry, recurrence=recurrence, project=project, readout=readout
    )


def _inner_step(cell: Cell, params: Params) -> Any:
    """Return the step of the cell itself; params have been cast already."""
    if isinstance(cell.recurrence, Step):
        fn = cell.recurrence.fn
        return lambda carry, u: fn(params, carry, u)
    if isinstance(cell.recurrence, Gated):
        weights = GatedWeights(*cell.recurrence.weights(params))
        return lambda carry, u: gated_step(cell.recurrence, weights, carry, u)
    return step_of(cell.recurrence, params, jnp.float32)


def _rates_for(cell: Cell, rate: float | tuple[float, ...], carry: Carry) -> list[float]:
    """Return one rate per floating leaf of the carry."""
    floating = Floating(carry).leaves
    if isinstance(rate, tuple) and len(rate) != len(floating):
        raise ValueError(
            f"zoneout({cell!r}): expected {len(floating)} rates, one per floating leaf of the carry, got {rate}."
        )
    return list(rate) if isinstance(rate, tuple) else [rate] * len(floating)


def _mix(before: Carry, after: Carry, stays: Any, rates: list[float]) -> Carry:
    """Return the carry after zoneout."""
    new, mixed = Floating(after), []
    for n, (p, a, b) in enumerate(zip(rates, new.leaves_of(before), new.leaves, strict=True)):
        b = b.astype(a.dtype)
        mixed.append(p * a + (1 - p) * b if stays is None else jnp.where(stays[n], a, b))
    return new.with_leaves(mixed)
