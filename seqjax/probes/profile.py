r"""The gradient profile: the norm of the loss's gradient at each time step.

``profile[t]`` is :math:`\lVert \partial L / \partial s_t \rVert`, per example, recurrent layer and leaf. Here
:math:`s_t` is a leaf of the carry *entering* step t, after the reset of step t. ``profile[0]`` belongs to the initial
carry.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from seqjax.base import Batch, Carry, Params
from seqjax.gradients.objective import Loss, loss_and_gradient
from seqjax.inputs import first_step, num_steps, step_keys
from seqjax.ops.select import select
from seqjax.ops.tap import dummies
from seqjax.ops.vectors import Floating
from seqjax.probes.bound import Bound, as_batch, bind, check_bound, conditioned, first_carry, mean_loss
from seqjax.probes.internals.adjoint import adjoint
from seqjax.probes.internals.checks import check_loss, check_step
from seqjax.probes.internals.scaled import Scaled, log_norm, scale
from seqjax.probes.internals.system import System, check_data, output_gradient, prepare
from seqjax.probes.profile_rows import WHOLE, mean_log_norm, named, profile_rows
from seqjax.rows import Row, row


class GradientProfile(NamedTuple):
    """Result of `gradient_profile`.

    Attributes:
        log_norm: a tree like the carry with leaves ``[T, *B]``: natural logarithms of the norms. They are -inf for a
            gradient of exactly zero, NaN at masked steps, and None for leaves without gradients (integers).
        loss: the loss.
        gradients: the gradients of the loss with respect to the params.
    """

    log_norm: PyTree[Float[Array, "T *B"]]
    loss: Float[Array, ""]
    gradients: Any

    def rows(self) -> Iterator[Row]:
        """Yield rows of the report: means over the examples, of the whole carry (leaf "carry") and of its leaves.

        A fit of the decay takes the last step as lag 0, so it needs a loss of the last step.
        """
        of_leaves = jax.tree.map(jnp.asarray, self.log_norm)
        log_norm, leaves = total_log_norm(of_leaves), named(of_leaves)
        log_norms = {WHOLE: log_norm} | (leaves if len(leaves) > 1 else {})
        means = {name: mean_log_norm(each) for name, each in log_norms.items()}
        norms = {name: np.linalg.norm(np.ravel(g)) for name, g in named(self.gradients).items()}
        at: dict[str, Any] = {"section": "training", "length": len(log_norm)}
        yield from profile_rows(means, norms, jnp.mean(log_norm == -jnp.inf), **at)
        yield row("loss", self.loss, **at)


def gradient_profile(
    bound: Bound,
    loss: Loss,
    batch: Any,
    *,
    carry: Carry = None,
    key: jax.Array | None = None,
    extended_range: bool = True,
    batch_ndim: int = 1,
) -> GradientProfile:
    r"""Measure the norm of the loss's gradient with respect to the carry entering each time step.

    There are two ways to compute the profile. They agree wherever the norms are representable:

    * ``extended_range=True`` runs the adjoint :math:`\delta_{t-1} = J_t^\top \delta_t + \partial L/\partial y_t \cdot
      \partial y_t / \partial s_{t-1}` step by step through ``layer.step``. Each leaf has its own power of two, whose
      exponents add up as integers. The profile is accurate at any depth: a factor of .9 per step leaves the float32
      range after 829 steps, which does not affect the result.
    * ``extended_range=False`` runs one backward pass of ``layer.unroll`` with a tap on the carry (`seqjax.ops.tap`), at
      the cost of a plain gradient. Norms below the smallest float of the dtype become zero, -inf here.

    To measure often, compile once: ``jax.jit(gradient_profile, static_argnames="loss")``.

    Args:
        bound: a bound layer, ``bind(layer, params)``. For a plain step function use `adjoint_profile`.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`. `seqjax.gradients.last_step` makes a loss
            of the last step alone.
        batch: a `seqjax.Batch` with leaves ``[T, *B, ...]``. Arrays stand for its xs.
        carry: the carry entering the first step, leaves ``[*B, ...]``. The default is the layer's initial carry, and
            the gradient through it counts.
        key: the key of layers that draw random numbers, such as dropout.
        extended_range: see above.
        batch_ndim: the number of leading batch axes of the carry's leaves.

    Raises:
        TypeError: if `bound` is not a bound layer, or its layer is not causal and ``extended_range=True``.
        ValueError: for an empty sequence, or data that do not fit.

    Example:
        A linear network that halves its state at each step:

        >>> import jax.numpy as jnp, seqjax as sj
        >>> from seqjax.cells import ElmanCarry, ElmanParams
        >>> layer = sj.recurrent(sj.elman(1, activation="identity"))
        >>> params = ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), 0.5), jnp.zeros(1))
        >>> carry = ElmanCarry(jnp.zeros((1, 1)))
        >>> profile = gradient_profile(
        ...     sj.probes.bind(layer, params), lambda ys, _: ys[-1].sum(), jnp.ones((4, 1, 1)), carry=carry)
        >>> jnp.exp(profile.log_norm.h).ravel()
        Array([0.0625, 0.125 , 0.25  , 0.5   ], dtype=float32)
    """
    who = "gradient_profile"
    check_bound(who, bound, plain="Use adjoint_profile for a plain step function.")
    check_loss(who, loss)
    carry, batch = check_data(who, bound, batch, carry, batch_ndim)
    bound, batch = conditioned(who, bound, batch, carry)
    if num_steps(batch.xs) == 0:
        raise ValueError(f"{who}: expected xs [T, ...] with T of at least 1, got an empty sequence.")
    if bound.layer.causal:
        check_step(who, bound, first_carry(bound, carry, batch.xs), first_step(batch.xs))
    elif extended_range:
        raise TypeError(
            f"{who}: expected a causal layer for extended_range=True, got {bound.layer!r}, which has no step. "
            "Use extended_range=False."
        )
    measure = _adjoint_profile if extended_range else _tapped_profile
    profile = measure(bound, loss, carry, batch, key, batch_ndim)
    if batch.mask is None:
        return profile
    log_norm = jax.tree.map(lambda n: jnp.where(batch.mask, n, jnp.nan), profile.log_norm)
    return profile._replace(log_norm=log_norm)


def adjoint_profile(
    bound: Callable, loss: Loss, batch: Any, *, carry: Any = None, initial: Any = None
) -> GradientProfile:
    """Measure the gradient profile of any system at any depth, plain step functions included.

    Args:
        bound: the result of `bind`, or a plain function ``(carry, x) -> (carry, y)`` without batch axes.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`; without batch axes for a plain function.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function). Arrays stand for its
            xs, as does the number of steps of a function whose x is None.
        carry: the carry entering the first step. A bound layer has its initial carry as the default; a plain function
            has no default.
        initial: the carry that a reset restarts from. The default is the layer's initial carry, or the `carry` of a
            plain function.

    Returns:
        A `GradientProfile` with norms ``[T]`` (``[T, B]``). Its gradients are those with respect to the first carry,
        before any reset, since the params of a plain function are unknown.

    Raises:
        TypeError: for a step with another contract.
        ValueError: for an empty sequence, or data that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> profile = adjoint_profile(
        ...     lambda h, x: (h / 2 + x, h / 2 + x), lambda ys, _: ys[-1], jnp.ones(4), carry=jnp.zeros(()))
        >>> jnp.exp(profile.log_norm)
        Array([0.0625, 0.125 , 0.25  , 0.5   ], dtype=float32)
    """
    check_loss("adjoint_profile", loss)
    system = prepare("adjoint_profile", bound, batch, carry=carry, initial=initial)
    value, first, log_norms = system_adjoint(system, loss, as_batch(batch).targets, _norms(1))
    entering = Floating(system.carry)
    gradients = [scale(s.mantissa, s.exponent) for s in first]
    log_norms = [jnp.where(system.happened, n, jnp.nan) for n in log_norms]
    return GradientProfile(
        system.squeeze(entering.tree_of(log_norms), 1), value, system.squeeze(entering.tree_of(gradients))
    )


def system_adjoint(
    system: System, loss: Loss, targets: Any, read: Callable
) -> tuple[jax.Array, list[Scaled], Any]:
    """Return the loss of a system, its gradient with respect to the first carry, and the results of `read`."""
    _, entering, ys = system.trajectory()
    x, reset, mask = system.inputs
    value, d_ys = output_gradient(system, loss, ys, targets)
    step = jax.vmap(system.step)
    first, seen = adjoint(step, entering, x, d_ys, read, reset=reset, mask=mask, batch_ndim=1)
    return value, first, seen


def total_log_norm(log_norm: PyTree[Float[Array, "T *B"]]) -> Float[Array, "T *B"]:
    """Return the log norm ``[T, *B]`` of the whole carry from the log norms of its leaves.

    Raises:
        ValueError: for a tree without arrays.
    """
    if not jax.tree.leaves(log_norm):
        raise ValueError(
            f"total_log_norm: expected at least one array of log norms [T, *B], got {log_norm!r}."
        )
    return 0.5 * jax.nn.logsumexp(2 * jnp.stack(jax.tree.leaves(log_norm)), 0)


def _tapped_profile(
    bound: Bound, loss: Loss, carry: Carry, batch: Batch, key: Any, batch_ndim: int
) -> GradientProfile:
    mean = mean_loss("gradient_profile", bound.layer, loss)

    def tapped(params: Any, tap: Any) -> jax.Array:
        return mean(params, carry, batch, key=key, tap=tap)

    tap = dummies(first_carry(bound, carry, batch.xs), num_steps(batch.xs), batch_ndim)
    value, (gradients, norms) = jax.value_and_grad(tapped, (0, 1))(bound.params, tap)
    return GradientProfile(jax.tree.map(jnp.log, norms), value, gradients)


def _adjoint_profile(
    bound: Bound, loss: Loss, carry: Carry, batch: Batch, key: Any, batch_ndim: int
) -> GradientProfile:
    layer, params, xs = bound.layer, bound.params, batch.xs
    keys = step_keys(key, num_steps(xs))

    def outputs(params: Params) -> Any:
        start = first_carry(bind(layer, params), carry, xs)
        return layer.unroll(params, start, xs, reset=batch.reset, mask=batch.mask, key=keys)[1]

    ys, pull_params = jax.vjp(outputs, params)
    lead = jax.tree.leaves(xs)[0].shape[: 1 + batch_ndim]
    value, d_ys = loss_and_gradient(loss, ys, batch.targets, batch.mask, lead)
    (gradients,) = pull_params(d_ys)

    def step(carry: Carry, inputs: Any) -> tuple[Any, Any]:
        x, mask, key = inputs
        return layer.step(params, carry, x, mask=mask, key=key)

    # The layer applies the mask, so that masked inputs do not reach its parts.
    inputs = (xs, batch.mask, keys)
    initial = bound.initial_carry(first_step(xs))
    carry = first_carry(bound, carry, xs)

    def forward(carry: Carry, inputs: Any) -> tuple[Any, Any]:
        carry = select(inputs[1], initial, carry)
        return step(carry, inputs[0])[0], carry

    _, entering = jax.lax.scan(forward, carry, (inputs, batch.reset))
    read = _norms(batch_ndim)
    _, log_norms = adjoint(step, entering, inputs, d_ys, read, reset=batch.reset, batch_ndim=batch_ndim)
    return GradientProfile(Floating(carry).tree_of(log_norms), value, gradients)


def _norms(batch_ndim: int) -> Callable:
    return lambda carry, x: [log_norm(scaled, batch_ndim) for scaled in carry]
