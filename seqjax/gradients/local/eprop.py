"""E-prop: eligibility propagation."""

from seqjax.base import Cell, Estimator
from seqjax.gradients.online.layerwise import Trace, layerwise
from seqjax.gradients.online.trace_dense import same_unit, whole_trace
from seqjax.gradients.online.trace_gated import gated_trace, is_gated
from seqjax.values import definition


@definition
def eprop() -> Estimator:
    r"""E-prop: eligibility traces of the dynamics inside each unit, times the step's learning signal; biased, local.

    For the states s of unit j, and its input z from other units, which is held constant,

    .. math::
        \epsilon_t = \frac{\partial s_t}{\partial s_{t-1}} \epsilon_{t-1} + \frac{\partial s_t}{\partial w}, \qquad
        e_t = \frac{\partial h_t}{\partial s_t} \epsilon_t + \frac{\partial h_t}{\partial w}, \qquad
        g = \sum_t \frac{\partial \ell_t}{\partial h_t} e_t

    where :math:`\partial \ell_t / \partial h_t` is the derivative of step t alone. E-prop keeps the dynamics inside a
    unit and drops the path from h to any gate, the explicit recurrence. In general:

    * `Gated` cells with a `Dense` projection: e-prop keeps the derivative of the states of a unit with respect to all
      states of the unit, with the recurrent product constant; it drops the product. For an LSTM the kept part is the
      forget gate, so e-prop and `rflo` agree; they differ for cells with several states, such as `slstm`. A diagonal
      product, ``w_h [G, H]``, stays inside the unit and is kept. Memory per example: n copies of the weights for n
      states.
    * Every other cell: e-prop keeps the entries of the Jacobian between numbers at the same index of leaves of the same
      shape (z and y of a unit of `cornn`), including recurrent weights from a unit to itself. Memory per example: one
      copy of the params per number of the carry. The step of a loss is differentiated exactly; the approximation
      concerns only the influence across steps.

    Exact where nothing is dropped: one layer of `indrnn`, `para_gru`, `para_lstm`, `lru` or another `Diagonal` cell.
    In a stack each recurrent layer keeps its own traces. Learning signals pass between layers within a step only, where
    feed-forward layers are exact. A learned initial carry receives the gradient of the step after it.

    Shapes: state leaves ``[B, ...]``; one batch axis; a loss per step ``[T, B]``.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, batch = sj.recurrent(sj.lstm(2)), sj.Batch(jnp.ones((6, 1, 3)), jnp.zeros((6, 1, 2)))
        >>> params = layer.init(jax.random.key(0), batch.xs[0])
        >>> init, update = sj.eprop().bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> carry = layer.initial_carry(params, batch.xs[0])
        >>> estimate, carry, state = update(params, carry, init(params, carry, batch.xs[0]), batch)
        >>> estimate.gradients.w_h.shape
        (2, 8)

    References:
        Bellec, Scherr, Subramoney, Hajek, Salaj, Legenstein, Maass 2020, "A solution to the learning dilemma for
        recurrent networks of spiking neurons", Nature Communications 11:3625.
    """
    return layerwise("eprop()", _trace)


def _trace(cell: Cell) -> Trace:
    return gated_trace(cell, cross=True) if is_gated(cell) else whole_trace(cell, same_unit)
