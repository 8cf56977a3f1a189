"""Random-feedback local online learning (RFLO), with the exact feedback of backpropagation."""

from seqjax.base import Cell, Estimator
from seqjax.gradients.online.layerwise import Trace, layerwise
from seqjax.gradients.online.trace_dense import same_entry, whole_trace
from seqjax.gradients.online.trace_gated import gated_trace, is_gated
from seqjax.values import definition


@definition
def rflo() -> Estimator:
    r"""RFLO: each weight keeps an eligibility trace that decays with the leak of its unit; biased, local.

    For a leaky network, :math:`h_t = (1 - \alpha) h_{t-1} + \alpha\, \phi(z_t)` with :math:`z_t = \hat h_t W`,
    :math:`\hat h_t = (x_t, h_{t-1}, 1)`,

    .. math::
        p_{t,ij} = (1 - \alpha)\, p_{t-1,ij} + \alpha\, \phi'(z_{t,j})\, \hat h_{t,i}, \qquad
        g = \sum_t \sum_j \frac{\partial \ell_t}{\partial h_{t,j}}\, p_{t,ij}

    RFLO keeps the leak in the Jacobian :math:`\partial h_t / \partial h_{t-1}` and drops the recurrent product. In
    general:

    * `Gated` cells with a `Dense` projection: RFLO keeps the derivative of each state with respect to itself with the
      recurrent product constant (1 - alpha above, f of an LSTM, z of a GRU). It drops the product and the effect of one
      state of a unit on another state. A diagonal product, ``w_h [G, H]``, stays inside the unit and is kept. Memory
      per example: n copies of the weights for n states.
    * Every other cell: RFLO keeps the diagonal of the Jacobian, including recurrent weights from a unit to itself (a
      complex entry counts as one). Memory per example: one copy of the params per number of the carry. The step of a
      loss is differentiated exactly; the approximation concerns only the influence across steps.

    Exact where nothing is dropped: one layer of `indrnn`, `lru` or another `Diagonal` cell with a fixed or
    input-driven decay. In a stack each recurrent layer keeps its own traces. Gradients pass between layers within a
    step only, where feed-forward layers are exact. A learned initial carry receives the gradient of the step after it.

    The paper replaces :math:`\partial \ell / \partial h` by fixed random feedback; this estimator uses the true
    derivative.

    Shapes: state leaves ``[B, ...]``; one batch axis; a loss per step ``[T, B]``.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, batch = sj.recurrent(sj.elman(2)), sj.Batch(jnp.ones((6, 1, 3)), jnp.zeros((6, 1, 2)))
        >>> params = layer.init(jax.random.key(0), batch.xs[0])
        >>> init, update = sj.rflo().bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> carry = layer.initial_carry(params, batch.xs[0])
        >>> estimate, carry, state = update(params, carry, init(params, carry, batch.xs[0]), batch)
        >>> estimate.gradients.w_h.shape
        (2, 2)

    References:
        Murray 2019, "Local online learning in recurrent networks with random feedback", eLife 8:e43299.
    """
    return layerwise("rflo()", _trace)


def _trace(cell: Cell) -> Trace:
    return gated_trace(cell, cross=False) if is_gated(cell) else whole_trace(cell, same_entry)
