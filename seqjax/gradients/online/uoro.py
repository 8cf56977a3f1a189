"""Unbiased online recurrent optimization (UORO)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Estimator
from seqjax.checks import check_above
from seqjax.compat import vary_like
from seqjax.gradients.online.common import online
from seqjax.gradients.online.rule import Model, Rule
from seqjax.values import definition


class RankOne(NamedTuple):
    """The influence: for each example the outer product of s ``[n]`` and theta ``[P]``."""

    s: Float[Array, "*B n"]
    theta: Float[Array, "*B P"]


@definition
def uoro(*, epsilon: float = 1e-7) -> Estimator:
    r"""UORO: the influence of the params on the carry, approximated by one outer product; unbiased, high variance.

    With independent random signs :math:`\nu_t` in the n coordinates of the carry for every step and every example,

    .. math::
        M_t &\approx \tilde s_t \tilde\theta_t^\top, \qquad
        \tilde s_t = \rho_0 J_t \tilde s_{t-1} + \rho_1 \nu_t, \qquad
        \tilde\theta_t = \tilde\theta_{t-1} / \rho_0 + D_t^\top \nu_t / \rho_1 \\
        \rho_0 &= \sqrt{\lVert \tilde\theta_{t-1} \rVert / (\lVert J_t \tilde s_{t-1} \rVert + \epsilon)} + \epsilon,
        \qquad \rho_1 = \sqrt{\lVert D_t^\top \nu_t \rVert / (\lVert \nu_t \rVert + \epsilon)} + \epsilon

    where :math:`J_t = \partial s_t / \partial s_{t-1}` and :math:`D_t = \partial s_t / \partial \theta`. Since
    :math:`E[\nu \nu^\top] = I`, the expectation of the outer product is the influence for any two scales; these scales
    minimize the variance. The gradient of step t,
    :math:`\partial \ell_t / \partial \theta + (\partial \ell_t / \partial s_{t-1}) M_{t-1}`, is exact except for M.

    Each step needs one forward and one backward derivative, and n + P numbers per example. UORO supports any layer or
    stack, including complex carries and params (a complex number is two coordinates). The variance grows with n and
    with the lifetime of influences; average over examples, or use a small learning rate. Params that do not reach the
    carry (a head) have exact gradients.

    Each chunk needs a fresh key, or one key per step, and so does each device inside ``jax.shard_map``; otherwise the
    signs would be correlated.

    Args:
        epsilon: keeps the scales from zero and infinity.

    Raises:
        ValueError: for an epsilon that is not positive; from `update`, without a key.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, batch = sj.recurrent(sj.gru(2)), sj.Batch(jnp.ones((6, 1, 3)), jnp.zeros((6, 1, 2)))
        >>> params = layer.init(jax.random.key(0), batch.xs[0])
        >>> init, update = sj.uoro().bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> carry = layer.initial_carry(params, batch.xs[0])
        >>> state = init(params, carry, batch.xs[0])
        >>> estimate, carry, state = update(params, carry, state, batch, key=jax.random.key(1))
        >>> state.s.shape                             # per example, as many as the carry has numbers
        (1, 2)

    References:
        Tallec, Ollivier 2018, "Unbiased online recurrent optimization", arXiv:1702.05043.
    """
    check_above("uoro(epsilon)", epsilon)

    def rule_of(model: Model) -> Rule:
        dtype = jnp.result_type(model.carry.dtype, model.params.dtype)

        def zero() -> RankOne:
            return RankOne(jnp.zeros(model.carry.size, dtype), jnp.zeros(model.params.size, dtype))

        def read(influence: RankOne, delta: Float[Array, " n"]) -> Float[Array, " P"]:
            return (delta.astype(dtype) @ influence.s) * influence.theta

        def advance(
            step: Any, theta: Float[Array, " P"], s: Float[Array, " n"], influence: RankOne, key: Any
        ) -> RankOne:
            tangent = influence.s.astype(s.dtype)
            after, through = jax.jvp(lambda s: step(theta, s), (s,), (tangent,))
            signs = vary_like(jax.random.rademacher(key, s.shape, s.dtype), after)
            _, pull = jax.vjp(lambda theta: step(theta, s), theta)
            (entering,) = pull(signs.astype(after.dtype))
            through, signs, entering = (a.astype(dtype) for a in (through, signs, entering))
            scale_0 = jnp.sqrt(_norm(influence.theta) / (_norm(through) + epsilon)) + epsilon
            scale_1 = jnp.sqrt(_norm(entering) / (_norm(signs) + epsilon)) + epsilon
            theta = influence.theta / scale_0 + entering / scale_1
            return RankOne(scale_0 * through + scale_1 * signs, theta)

        return Rule(zero, read, advance, draws=True)

    return online("uoro()", rule_of)


def _norm(a: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(jnp.square(a)))
