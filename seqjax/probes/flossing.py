r"""Gradient flossing: a loss that pulls Lyapunov exponents to zero, so that gradients neither vanish nor explode.

.. math::
    L = \sum_{i=1}^k \lambda_i^2
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.checks import check_whole
from seqjax.probes.checks import check_rank, check_warm_up
from seqjax.probes.system import prepare
from seqjax.probes.tangents import count_steps, log_growth, sum_parts


def flossing_loss(
    step: Callable,
    carry: Any,
    xs_or_num_steps: Any,
    *,
    k: int,
    qr_every: int = 1,
    warm_up: int = 0,
    key: jax.Array | None = None,
    reset: Any = None,
    mask: Any = None,
    initial: Any = None,
) -> jax.Array:
    r"""The sum of the squares of the first k finite-time Lyapunov exponents, a mean over the batch; differentiable.

    Exponents are those of `seqjax.probes.lyapunov_spectrum`, with the same masks and resets; the gradient goes through
    the trajectory, the Jacobians and the QR of every step. Memory: the carry and k tangents per step, the rest is
    computed again; time: about three times that of the exponents. Used as a term of the loss, or alone for some steps
    before training and now and then in between. The Jacobians must have rank k along the way: where one tangent is lost
    for good, the loss is infinite and its gradient NaN.

    Args:
        step: ``(carry, x) -> (carry, y)`` without batch axes, or what `seqjax.probes.bind` returns, made of the params
            by which to differentiate.
        carry: entering the first step; None for a bound layer's initial carry.
        xs_or_num_steps: ``[T, ...]``, for bound layers ``[T, B, ...]``; a number of steps where x is None.
        k: how many exponents, from the largest.
        qr_every: steps from one QR to the next.
        warm_up: how many steps, from the start and from each reset, do not count.
        key: for random first tangents; vary it from step to step of training.
        reset: bool ``[T]`` or ``[T, B]``.
        mask: bool ``[T]`` or ``[T, B]``.
        initial: what resets restart from.

    Returns:
        A scalar; examples without a step that counts take no part in it.

    Raises:
        TypeError: for a step with another contract, or one that changes its carry's form or dtype.
        ValueError: for data that is not finite, no more steps than the warm-up, or k larger than the state.

    Example:
        A linear map with two rates of decay; the gradient of :math:`(\log w)^2` is :math:`2 \log(w) / w`:

        >>> import jax, jax.numpy as jnp
        >>> from seqjax.probes import flossing_loss
        >>> def loss(w):
        ...     return flossing_loss(lambda h, x: (w * h, None), jnp.ones(2), 20, k=2)
        >>> w = jnp.array([0.5, 0.9])
        >>> jnp.allclose(jax.grad(loss)(w), 2 * jnp.log(w) / w, rtol=1e-4)
        Array(True, dtype=bool)

    References:
        Engelken 2023, "Gradient flossing: improving gradient descent through dynamic control of Jacobians",
        arXiv:2312.17306.
    """
    who = "flossing_loss"
    system = prepare(who, step, carry, xs_or_num_steps, reset=reset, mask=mask, initial=initial)
    k = check_rank(who, k, system.size)
    check_warm_up(who, warm_up, system.num_steps)
    check_whole(f"{who}(qr_every)", qr_every, 1)
    counting = count_steps(system, warm_up, 1)
    growth = log_growth(system, counting, k, qr_every=qr_every, key=key)
    known = counting.steps > 0
    exponents = jnp.sum(sum_parts(counting, growth), 1) / jnp.maximum(counting.steps, 1)[:, None]
    squares = jnp.sum(jnp.square(exponents), 1)
    return jnp.sum(jnp.where(known, squares, 0)) / jnp.maximum(jnp.sum(known), 1)
