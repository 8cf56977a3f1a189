"""Real-time recurrent learning."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Estimator
from seqjax.checks import check_one_of
from seqjax.compat import vary_like
from seqjax.gradients.online.common import online
from seqjax.gradients.online.rule import Model, Rule
from seqjax.gradients.online.sparsity import is_elementwise, reach, sparse
from seqjax.values import definition

STRUCTURES = ("auto", "dense", "diagonal")


@definition
def rtrl(structure: str = "auto") -> Estimator:
    r"""Real-time recurrent learning: the exact gradient of all losses, in memory that does not grow with T.

    .. math::
        M_t = J_t M_{t-1} + D_t, \qquad J_t = \frac{\partial s_t}{\partial s_{t-1}}, \quad
        D_t = \frac{\partial s_t}{\partial \theta}\Big|_{s_{t-1}}

    for each example, where s has the n numbers of the carry of all layers (a complex number counts twice), and
    :math:`\theta` the P params that reach the carry. The params of a head or a readout do not reach the carry and add
    no cost.

    Gradients: exact, also across chunks, where those of `full_bptt` end. The influence passes from chunk to chunk with
    the carry, so the gradients of the chunks add up to the gradient of the whole stream. When params change from chunk
    to chunk, the influence still contains derivatives at the earlier params.

    Losses and targets must be per step, with one batch axis.

    Args:
        structure: the storage of the influence; the choice does not change the result.

            * "dense": a matrix ``[n, P]`` per example. Time :math:`n^2 P` per step: :math:`N^4` for a dense network.
            * "diagonal": for layers with a diagonal recurrent Jacobian (`lru`, `rg_lru`, `indrnn`). Each param reaches
              one unit, and the influence has the size of the params.
            * "auto": params that can reach the same units share a block, which is derived from the sparsity pattern of
              the step. This equals "diagonal" for a diagonal Jacobian, and "dense" where all params reach all units. In
              a stack no param reaches the layers below; stacks of diagonal layers gain the most.

    Raises:
        ValueError: for another structure; from `init` and `update`, with "diagonal" for another layer, and for losses
            that are not per step.
        TypeError: from `bind`, for a layer without a step.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, batch = sj.recurrent(sj.lru(4)), sj.Batch(jnp.ones((6, 1, 3)), jnp.zeros((6, 1, 4)))
        >>> params = layer.init(jax.random.key(0), batch.xs[0])
        >>> carry = layer.initial_carry(params, batch.xs[0])
        >>> init, update = sj.rtrl().bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> estimate, carry, state = update(params, carry, init(params, carry, batch.xs[0]), batch)
        >>> [leaf.shape for leaf in state]                # 4 units, 2 numbers each, 9 params that reach them
        [(1, 4, 2, 9)]

    References:
        Williams, Zipser 1989, "A learning algorithm for continually running fully recurrent neural networks", Neural
        Computation 1(2). Zucchet et al. 2023, "Online learning of long-range dependencies", arXiv:2305.15947
        (diagonal recurrences).
    """
    check_one_of("rtrl(structure)", structure, STRUCTURES)
    who = f"rtrl(structure={structure!r})"

    def rule_of(model: Model) -> Rule:
        if structure == "dense":
            return dense(model)
        pattern = reach(model, None)
        if structure == "diagonal" and not is_elementwise(model, pattern):
            raise ValueError(
                f"{who}: expected a layer with a diagonal recurrent Jacobian, such as recurrent(lru(8)), got "
                f"{model.layer!r}. Pass `structure='auto'`."
            )
        return dense(model) if pattern.kept.all() else sparse(model, pattern)

    return online(who, rule_of)


def dense(model: Model) -> Rule:
    """Return the rule of the dense influence, one matrix ``[n, P]`` per example."""
    shape = (model.carry.size, model.params.size)

    def advance(step: Any, theta: jax.Array, s: jax.Array, influence: jax.Array, key: Any) -> jax.Array:
        after, pull = jax.vjp(step, theta, s)
        by_theta, by_s = jax.vmap(pull)(vary_like(jnp.eye(s.size, dtype=after.dtype), after))
        return by_s @ influence + by_theta

    return Rule(
        zero=lambda: jnp.zeros(shape, jnp.promote_types(model.params.dtype, model.carry.dtype)),
        read=lambda influence, delta: delta @ influence,
        advance=advance,
    )
