r"""The gradient profile: how much of the loss's gradient reaches each time step.

``profile[t]`` is :math:`\lVert \partial L / \partial s_t \rVert`, where s_t is a leaf of the carry *entering* step t,
after its reset; per example, recurrent layer and leaf. ``profile[0]`` belongs to the initial carry.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Layer
from seqjax.combinators.common import check_layers
from seqjax.gradients.objective import Loss, loss_and_gradient, objective
from seqjax.layers import first_step, num_steps, step_keys
from seqjax.ops.select import select
from seqjax.ops.tap import dummies
from seqjax.ops.vectors import Floating
from seqjax.probes.adjoint import adjoint
from seqjax.probes.checks import check_loss, check_sequence, check_step
from seqjax.probes.scaled import Scaled, log_norm, scale
from seqjax.probes.system import System, bind, prepare


class GradientProfile(NamedTuple):
    """What `gradient_profile` measures.

    Attributes:
        log_norm: a tree like the carry with leaves ``[T, *B]``: natural logarithms of the norms; -inf for a gradient of
            exactly zero, NaN at masked steps, None for leaves without gradients (integers).
        loss: the loss.
        gradients: its gradients by the params.
    """

    log_norm: Any
    loss: jax.Array
    gradients: Any


def gradient_profile(
    layer: Layer,
    loss: Loss,
    params: Any,
    carry: Any,
    xs: Any,
    targets: Any,
    *,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
    extended_range: bool = True,
    batch_ndim: int = 1,
) -> GradientProfile:
    r"""Measure the norm of the loss's gradient by the carry entering each time step.

    Two ways, equal wherever the norms are representable:

    * ``extended_range=True``: the adjoint :math:`\delta_{t-1} = J_t^\top \delta_t + \partial L/\partial y_t \cdot
      \partial y_t / \partial s_{t-1}`, step by step through ``layer.step``, each leaf scaled by its own power of two,
      whose exponents add up as integers. Right at any depth: a factor of .9 per step leaves the float32 range
      after 829 steps, and this does not notice.
    * ``extended_range=False``: one backward pass of ``layer.unroll`` with a tap on the carry (`seqjax.ops.tap`), at the
      price of a plain gradient. Norms below the smallest float of the dtype come out as zero, -inf here.

    To measure often, compile it once: ``jax.jit(gradient_profile, static_argnames=("layer", "loss"))``.

    Args:
        layer: the model.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`; of the last step alone by
            `seqjax.gradients.last_step`.
        params: the model's.
        carry: entering the first step, leaves ``[*B, ...]``.
        xs: inputs ``[T, *B, ...]``.
        targets: what the loss compares the outputs with.
        reset: ``[T, *B]``.
        mask: ``[T, *B]``.
        key: for layers that draw.
        extended_range: see above.
        batch_ndim: how many leading axes of the carry's leaves are batch.

    Raises:
        TypeError: for a layer that is not causal with ``extended_range=True``.
        ValueError: for an empty sequence.

    Example:
        A linear network that halves its state at every step:

        >>> import jax.numpy as jnp, seqjax as sj
        >>> from seqjax.cells import ElmanCarry, ElmanParams
        >>> layer = sj.recurrent(sj.elman(1, activation="identity"))
        >>> params = ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), 0.5), jnp.zeros(1))
        >>> carry = ElmanCarry(jnp.zeros((1, 1)))
        >>> profile = gradient_profile(
        ...     layer, lambda ys, _: ys[-1].sum(), params, carry, jnp.ones((4, 1, 1)), None)
        >>> jnp.exp(profile.log_norm.h).ravel()
        Array([0.0625, 0.125 , 0.25  , 0.5   ], dtype=float32)
    """
    who = "gradient_profile"
    check_layers(who, (layer,))
    check_loss(who, loss)
    carry, xs, reset, mask = check_sequence(who, carry, xs, reset, mask, batch_ndim)
    if num_steps(xs) == 0:
        raise ValueError(f"{who}: expected xs [T, ...] with T of at least 1, got an empty sequence.")
    if layer.causal:
        check_step(who, bind(layer, params), carry, first_step(xs))
    batch = Batch(xs, targets, reset, mask)
    if extended_range and not layer.causal:
        raise TypeError(
            f"gradient_profile: expected a causal layer for extended_range=True, got {layer!r}, which has no step. "
            "Use extended_range=False."
        )
    measure = _adjoint_profile if extended_range else _tapped_profile
    profile = measure(layer, loss, params, carry, batch, key, batch_ndim)
    if mask is None:
        return profile
    return profile._replace(log_norm=jax.tree.map(lambda n: jnp.where(mask, n, jnp.nan), profile.log_norm))


def adjoint_profile(
    step: Callable,
    carry: Any,
    xs: Any,
    loss: Loss,
    targets: Any,
    *,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
    initial: Any = None,
) -> GradientProfile:
    """The gradient profile of any system, at any depth: `gradient_profile` for a step function of one's own.

    Args:
        step: `probes.bind` of a layer, or a plain function ``(carry, x) -> (carry, y)`` without batch axes.
        carry: entering the first step; for a bound layer None is its initial carry.
        xs: inputs ``[T, ...]`` (``[T, B, ...]`` for a bound layer), or T alone for steps whose x is None.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`; for plain functions without batch axes.
        targets: what the loss compares the outputs with.
        reset: ``[T]`` (``[T, B]``).
        mask: the same.
        initial: what a reset restarts from; by default the carry given, or the layer's.

    Returns:
        A `GradientProfile` with norms ``[T]`` (``[T, B]``). Its gradients are those by the first carry, before any
        reset; of a plain function's params nothing is known.

    Raises:
        TypeError: for a step with another contract.
        ValueError: for an empty sequence, or data that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> profile = adjoint_profile(
        ...     lambda h, x: (h / 2 + x, h / 2 + x), jnp.zeros(()), jnp.ones(4), lambda ys, _: ys[-1], None)
        >>> jnp.exp(profile.log_norm)
        Array([0.0625, 0.125 , 0.25  , 0.5   ], dtype=float32)
    """
    check_loss("adjoint_profile", loss)
    system = prepare("adjoint_profile", step, carry, xs, reset=reset, mask=mask, initial=initial)
    value, first, log_norms = system_adjoint(system, loss, targets, _norms(1))
    entering = Floating(system.carry)
    gradients = [scale(s.mantissa, s.exponent) for s in first]
    log_norms = [jnp.where(system.happened, n, jnp.nan) for n in log_norms]
    return GradientProfile(
        system.squeeze(entering.tree_of(log_norms), 1), value, system.squeeze(entering.tree_of(gradients))
    )


def system_adjoint(
    system: System, loss: Loss, targets: Any, read: Callable
) -> tuple[jax.Array, list[Scaled], Any]:
    """The loss of a system's outputs, its gradient by the first carry, and what `read` makes of the adjoint."""
    _, entering, ys = system.trajectory()
    x, reset, mask = system.inputs
    value, d_ys = loss_and_gradient(loss, system.squeeze(ys, 1), targets, system.squeeze(mask, 1))
    if not system.batched:
        d_ys = jax.tree.map(lambda a: a[:, None], d_ys)
    step = jax.vmap(system.step)
    first, seen = adjoint(step, entering, x, d_ys, read, reset=reset, mask=mask, batch_ndim=1)
    return value, first, seen


def total_log_norm(log_norm: Any) -> jax.Array:
    """The log norm ``[T, *B]`` of the whole carry, from those of its leaves.

    Raises:
        ValueError: for a carry that has none.
    """
    if not jax.tree.leaves(log_norm):
        raise ValueError(
            f"total_log_norm: expected at least one array of log norms [T, *B], got {log_norm!r}."
        )
    return 0.5 * jax.nn.logsumexp(2 * jnp.stack(jax.tree.leaves(log_norm)), 0)


def _tapped_profile(
    layer: Layer, loss: Loss, params: Any, carry: Any, batch: Batch, key: Any, batch_ndim: int
) -> GradientProfile:
    evaluate = objective(layer, loss)

    def mean(params: Any, tap: Any) -> jax.Array:
        total, (count, _) = evaluate(params, carry, batch, key=key, tap=tap)
        return total / jnp.maximum(count, 1)

    tap = dummies(carry, num_steps(batch.xs), batch_ndim)
    value, (gradients, norms) = jax.value_and_grad(mean, (0, 1))(params, tap)
    return GradientProfile(jax.tree.map(jnp.log, norms), value, gradients)


def _adjoint_profile(
    layer: Layer, loss: Loss, params: Any, carry: Any, batch: Batch, key: Any, batch_ndim: int
) -> GradientProfile:
    xs, targets, reset, mask = batch
    keys = step_keys(key, num_steps(xs))

    def outputs(params: Any) -> Any:
        return layer.unroll(params, carry, xs, reset=reset, mask=mask, key=keys)[1]

    ys, pull_params = jax.vjp(outputs, params)
    value, d_ys = loss_and_gradient(loss, ys, targets, mask)
    (gradients,) = pull_params(d_ys)

    def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
        x, mask, key = inputs
        return layer.step(params, carry, x, mask=mask, key=key)

    inputs = (xs, mask, keys)  # the layer masks by itself: it keeps what is masked away from its parts, too
    initial = layer.initial_carry(params, first_step(xs))

    def forward(carry: Any, inputs: Any) -> tuple[Any, Any]:
        carry = select(inputs[1], initial, carry)
        return step(carry, inputs[0])[0], carry

    _, entering = jax.lax.scan(forward, carry, (inputs, reset))
    read = _norms(batch_ndim)
    _, log_norms = adjoint(step, entering, inputs, d_ys, read, reset=reset, batch_ndim=batch_ndim)
    return GradientProfile(Floating(carry).tree_of(log_norms), value, gradients)


def _norms(batch_ndim: int) -> Callable:
    return lambda carry, x: [log_norm(scaled, batch_ndim) for scaled in carry]
