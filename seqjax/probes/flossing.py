r"""Gradient flossing: a loss that pulls Lyapunov exponents to zero, so that gradients neither vanish nor explode.

.. math::
    L = \sum_{i=1}^k \lambda_i^2
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Carry
from seqjax.checks import check_whole
from seqjax.probes.internals.checks import check_rank, check_warm_up
from seqjax.probes.internals.system import prepare
from seqjax.probes.internals.tangents import count_steps, log_growth, sum_parts


def flossing_loss(
    bound: Callable,
    batch: Any,
    *,
    k: int,
    carry: Carry = None,
    qr_every: int = 1,
    warm_up: int = 0,
    key: jax.Array | None = None,
    initial: Any = None,
) -> Float[Array, ""]:
    r"""Return the sum of the squares of the k largest finite-time Lyapunov exponents, averaged over the batch.

    The exponents are those of `seqjax.probes.lyapunov_spectrum`, with the same masks and resets. The loss is
    differentiable: its gradient passes through the trajectory, the Jacobians and the QR of every step. The backward
    pass stores the carry and k tangents per step and recomputes the rest. The gradient takes about three times as long
    as the exponents. Add the loss to the training loss, or minimize the loss alone for some steps before and during
    training. The Jacobians must have rank k along the trajectory: if a tangent becomes zero, the loss is infinite and
    its gradient NaN.

    Args:
        bound: the result of `bind`, or a plain function ``(carry, x) -> (carry, y)`` without batch axes. Build it from
            the params to differentiate by.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function); its targets are
            ignored. Arrays stand for its xs, as does the number of steps of a function whose x is None.
        k: the number of exponents, counted from the largest.
        carry: the carry entering the first step; a plain function has no default.
        qr_every: the number of steps from one QR to the next.
        warm_up: the number of steps, from the start and from each reset, that do not count.
        key: draws the first tangents at random. Use another key at each training step.
        initial: the carry that a reset restarts from.

    Returns:
        A scalar. Examples without a step that counts do not contribute.

    Raises:
        TypeError: for a step with another contract, or a step that changes the form or dtype of its carry.
        ValueError: for data that is not finite, no more steps than the warm-up, or k larger than the state.

    Example:
        A linear map with two rates of decay; the gradient of :math:`(\log w)^2` is :math:`2 \log(w) / w`:

        >>> import jax, jax.numpy as jnp
        >>> from seqjax.probes import flossing_loss
        >>> def loss(w):
        ...     return flossing_loss(lambda h, x: (w * h, None), 20, k=2, carry=jnp.ones(2))
        >>> w = jnp.array([0.5, 0.9])
        >>> jnp.allclose(jax.grad(loss)(w), 2 * jnp.log(w) / w, rtol=1e-4)
        Array(True, dtype=bool)

    References:
        Engelken 2023, "Gradient flossing: improving gradient descent through dynamic control of Jacobians",
        arXiv:2312.17306.
    """
    who = "flossing_loss"
    system = prepare(who, bound, batch, carry=carry, initial=initial)
    k = check_rank(who, k, system.size)
    check_warm_up(who, warm_up, system.num_steps)
    check_whole(f"{who}(qr_every)", qr_every, 1)
    counting = count_steps(system, warm_up, 1)
    growth = log_growth(system, counting, k, qr_every=qr_every, key=key)
    known = counting.steps > 0
    exponents = jnp.sum(sum_parts(counting, growth), 1) / jnp.maximum(counting.steps, 1)[:, None]
    squares = jnp.sum(jnp.square(exponents), 1)
    return jnp.sum(jnp.where(known, squares, 0)) / jnp.maximum(jnp.sum(known), 1)
