r"""The singular fan: the singular values of the Jacobian of the first steps, by their number.

.. math::
    M_{t+\tau,t} = J_{t+\tau} \cdots J_{t+1} = \sum_i \sigma_i u_i v_i^\top
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqjax.base import Carry
from seqjax.checks import check_whole
from seqjax.ops.graded import Graded, identity, log_singular_values, multiply
from seqjax.ops.select import select
from seqjax.probes.internals.checks import check_rank
from seqjax.probes.internals.system import Inputs, prepare
from seqjax.rows import Row, row


class SingularFan(NamedTuple):
    r"""Result of `singular_values`. N is the number of lags, ``*B`` the batch axis of a bound layer.

    Attributes:
        taus: the lags ``[N]``.
        log_values: natural logarithms of the k largest singular values ``[N, *B, k]``, largest first; -inf for zero.
        log_condition: :math:`\log(\sigma_1 / \sigma_S)` ``[N, *B]``; inf if only the last value is zero, NaN if all
            values are zero.
        participation_ratio: :math:`(\sum \sigma_i^2)^2 / \sum \sigma_i^4` ``[N, *B]``, between 1 and S: the number of
            directions that carry the gradient; 0 if all values are zero.
        isometry: the share ``[N, *B]`` of all S singular values between 1/w and w, where w is the argument ``within``;
            1 is dynamical isometry.
    """

    taus: Int[Array, " N"]
    log_values: Float[Array, "N *B k"]
    log_condition: Float[Array, "N *B"]
    participation_ratio: Float[Array, "N *B"]
    isometry: Float[Array, "N *B"]

    def rows(self) -> Iterator[Row]:
        """Yield rows of the report: means over the examples of a batch; x is the lag, t the place of a value."""
        for i, tau in enumerate(np.asarray(self.taus)):
            at: dict[str, Any] = {"section": "singular", "x": float(tau)}
            values = np.asarray(self.log_values[i])
            for j, value in enumerate(values.reshape(-1, values.shape[-1]).mean(0)):
                yield row("log_singular_value", value, **at, t=j)
            for name in ("log_condition", "participation_ratio", "isometry"):
                yield row(name, np.mean(getattr(self, name)[i]), **at)


def singular_values(
    bound: Callable,
    batch: Any,
    *,
    carry: Carry = None,
    k: int | None = None,
    taus: Sequence[int] | None = None,
    within: float = 2.0,
    initial: Any = None,
) -> SingularFan:
    r"""Return the singular values of the Jacobian of the first tau steps, for several tau.

    The probe stores the product of Jacobians in graded form (`seqjax.ops.graded`). The smallest singular values have
    the same relative accuracy as the largest, even hundreds of decades apart. The work per step is S derivatives and a
    QR of [S, S] for any k. The result has no gradient, as the last part iterates until convergence. For a fan that
    begins later, pass the carry and the inputs from that step on.

    Masked steps do not happen, but count in tau. After a reset all singular values are zero.

    Args:
        bound: the result of `bind`, or a plain function ``(carry, x) -> (carry, y)`` without batch axes.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function); its targets are
            ignored. Arrays stand for its xs, as does the number of steps of a function whose x is None.
        carry: the carry entering the first step. A bound layer has its initial carry as the default; a plain function
            has no default.
        k: the number of singular values to return, by default all S. The other results cover all S.
        taus: the lags from 1 to T, rising; by default 1, 2, 4, ... and T.
        within: w, the factor from 1 that counts as isometry.
        initial: the carry that a reset restarts from.

    Raises:
        TypeError: for a step with another contract, or a step that changes the form or dtype of its carry.
        ValueError: for data that is not finite, k larger than the state, or lags that do not fit.

    Example:
        Two units that decay by .5 and .9 per step:

        >>> import jax.numpy as jnp
        >>> from seqjax.probes import singular_values
        >>> step = lambda h, x: (jnp.array([0.5, 0.9]) * h, None)
        >>> fan = singular_values(step, 1000, carry=jnp.ones(2), taus=(1, 1000))
        >>> fan.log_values[1]
        Array([-105.36054, -693.14716], dtype=float32)

    References:
        Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
        arXiv:1312.6120 (dynamical isometry).
    """
    who = "singular_values"
    system = prepare(who, bound, batch, carry=carry, initial=initial)
    k = check_rank(who, k, system.size)
    lags = _check_taus(who, taus, system.num_steps)
    if not within > 1:
        raise ValueError(f"{who}(within): expected a factor above 1, got {within!r}.")

    one = identity(system.size, system.dtype)
    start = jax.tree.map(lambda a: jnp.broadcast_to(a, (system.batch, *a.shape)), one)
    kept = jax.tree.map(lambda a: jnp.zeros((len(lags), *a.shape), a.dtype), start)
    # Each step writes to the place of the next lag; the last write remains.
    place = np.searchsorted(lags, np.arange(1, system.num_steps + 1))

    def push(carry: Carry, initial: Any, product: Graded, now: Inputs) -> Any:
        if now.reset is not None:
            gone = jnp.full_like(product.d, -jnp.inf)
            carry, product = select(now.reset, (initial, product._replace(d=gone)), (carry, product))
        flow = system.flow(carry, now.x)
        _, jacobian, (after, _) = jax.linearize(flow, system.vector(carry), has_aux=True)
        further = multiply(jax.vmap(jacobian, 1, 1)(product.q), product)
        if now.mask is None:
            return after, further
        return select(now.mask, (after, further), (carry, product))

    def body(state: Any, step: Any) -> tuple[Any, None]:
        carry, product, kept = state
        now, where = step
        carry, product = jax.vmap(push)(carry, system.initial, product, now)
        kept = jax.tree.map(lambda all_, new: all_.at[where].set(new), kept, product)
        return (carry, product, kept), None

    # Steps after the last lag are not needed.
    steps = jax.tree.map(lambda a: a[: lags[-1]], (system.inputs, jnp.asarray(place)))
    (_, _, kept), _ = jax.lax.scan(body, (system.carry, start, kept), steps)
    # One lag after the other: a loop over all lags at once would run until the slowest has converged.
    logs = jax.lax.map(jax.vmap(log_singular_values), kept)
    fan = _summary(jnp.asarray(lags), logs, k, within)
    return fan._replace(**system.squeeze({n: v for n, v in fan._asdict().items() if n != "taus"}, 1))


def _summary(lags: Int[Array, " N"], logs: Float[Array, "N B S"], k: int, within: float) -> SingularFan:
    first, last = logs[..., 0], logs[..., -1]
    relative = logs - jnp.where(jnp.isneginf(first), 0, first)[..., None]
    squares = jnp.exp(2 * relative)
    fourth = jnp.sum(jnp.square(squares), -1)
    ratio = jnp.square(jnp.sum(squares, -1)) / jnp.where(fourth > 0, fourth, 1)
    near = jnp.abs(logs) <= np.log(within)
    return SingularFan(lags, logs[..., :k], first - last, ratio, jnp.mean(near, -1, dtype=logs.dtype))


def _check_taus(who: str, taus: Sequence[int] | None, num_steps: int) -> Int[np.ndarray, " N"]:
    if taus is None:
        return np.unique([*(2 ** np.arange(num_steps.bit_length())), num_steps])
    for tau in taus:
        check_whole(f"{who}(taus)", tau, 1, num_steps)
    lags = np.asarray(taus, int)
    if lags.size == 0 or np.any(np.diff(lags) <= 0):
        raise ValueError(f"{who}(taus): expected rising lags, got {list(taus)}.")
    return lags
