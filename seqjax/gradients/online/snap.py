"""SnAp, the sparse n-step approximation of real-time recurrent learning."""

from seqjax.base import Estimator
from seqjax.checks import check_whole
from seqjax.gradients.online.common import online
from seqjax.gradients.online.sparsity import reach, sparse
from seqjax.values import definition


@definition
def snap(steps: int) -> Estimator:
    r"""SnAp-n: `rtrl` with an influence that is zero where params do not reach the carry within n steps.

    .. math:: M_t = \Pi_n \odot (J_t M_{t-1} + D_t), \qquad \Pi_1 = [D \ne 0], \quad
        \Pi_{n} = [D \ne 0] \lor [J \ne 0]\, \Pi_{n-1}

    The sparsity pattern :math:`\Pi` depends on the structure of the step, and not on params, carry and inputs; it is
    derived from the jaxpr of the step's derivative, with all coefficients in general position. A complex number of the
    carry counts as reached if either part is.

    Gradients: exact where no param reaches new units after n steps: for a diagonal recurrence with any n, and for a
    dense recurrence once n is large enough that each param reaches all units. Otherwise biased. Step t is
    differentiated exactly for the loss of step t, as in all online algorithms of this library; the paper applies the
    pattern to it as well.

    Memory is the size of the pattern: P r for r rows per param, 1 or 2 in SnAp-1 of common cells. Time per step is P
    r^2, plus the pullbacks of the step by the carry for J: one for a diagonal recurrence, n for a dense one.

    Args:
        steps: n.

    Raises:
        ValueError: unless n is a whole number of at least 1; from `update`, for losses that are not per step.
        TypeError: from `bind`, for a layer without a step.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, x = sj.recurrent(sj.gru(8)), jnp.ones((1, 3))
        >>> params = layer.init(jax.random.key(0), x)
        >>> carry = layer.initial_carry(params, x)
        >>> init, _ = sj.snap(1).bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> [leaf.shape for leaf in init(params, carry, x)]   # 8 units, 1 number each, 3 (3 + 8) weights and 6 biases
        [(1, 8, 1, 39)]

    References:
        Menick et al. 2020, "A practical sparse approximation for real time recurrent learning", arXiv:2006.07232.
    """
    check_whole("snap(steps)", steps)
    return online(f"snap({steps})", lambda model: sparse(model, reach(model, steps)))
