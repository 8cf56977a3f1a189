r"""The gradient by lag: what travels :math:`\tau` steps, and what a truncation at K steps leaves out.

Params enter every step and the loss reads every output. With :math:`\theta_s` the params' copy at step s and
:math:`\ell_t` the part of the loss that reads output t,

.. math::
    g = \sum_\tau g_\tau, \qquad g_\tau = \sum_t \partial \ell_t / \partial \theta_{t - \tau}, \qquad
    G_K = \sum_{\tau < K} g_\tau

:math:`G_K` is the gradient that is truncated after K steps for each term of the loss: K = 1 sees one step alone. Lags
count steps that happened; masked ones take no time. The carry at the start is a constant.

Cost: with the steps linearised once, every lag is one backward pass over all steps *side by side*; so L lags take the
arithmetic of L backward passes, and the memory of one. All K come from the same passes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.checks import check_whole
from seqjax.gradients.objective import Loss, loss_and_gradient
from seqjax.ops.select import expand, keep, select, wide
from seqjax.ops.tap import norm
from seqjax.ops.vectors import Floating, as_vector
from seqjax.probes.checks import check_loss
from seqjax.probes.scaled import Scaled, align, logarithm, scale, unscaled, without_float0
from seqjax.probes.system import Bound, prepare
from seqjax.probes.vectors import cosine


class LagDecomposition(NamedTuple):
    r"""What `lag_decomposition` measures.

    Attributes:
        log_norm: natural logarithm of the norm of :math:`g_\tau`, ``[L]`` by lag from 0; -inf for zero.
        cosine: of the angle between :math:`g_\tau` and the full gradient, ``[L]``; NaN for zero.
        loss: the loss.
        gradients: the full gradient, a tree like the step (for a bound layer, its params in ``.params``).
    """

    log_norm: jax.Array
    cosine: jax.Array
    loss: jax.Array
    gradients: Any


class TruncationBias(NamedTuple):
    """What `truncation_bias` measures.

    Attributes:
        windows: K = 1, 2, ..., ``[L]``.
        bias: the norm of :math:`G_K - g` over that of g, ``[L]``.
        cosine: of the angle between the two, ``[L]``.
        window_10: the least K from which on the bias is at most 10%; infinite where none of the windows is.
        window_1: the same for 1%.
    """

    windows: jax.Array
    bias: jax.Array
    cosine: jax.Array
    window_10: jax.Array
    window_1: jax.Array


def lag_decomposition(
    step: Callable,
    carry: Any,
    xs: Any,
    loss: Loss,
    targets: Any,
    *,
    max_lag: int | None = None,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
    initial: Any = None,
) -> LagDecomposition:
    r"""The norm of the part of the params' gradient that travels :math:`\tau` steps, for every lag.

    Args:
        step: `probes.bind` of a layer; or ``jax.tree_util.Partial(fn, params)`` of one's own
            ``fn: (params, carry, x) -> (carry, y)`` without batch axes: the params are the leaves of the step.
        carry: entering the first step; for a bound layer None is its initial carry.
        xs: inputs ``[T, ...]`` (``[T, B, ...]`` for a bound layer), or T alone for steps whose x is None.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`; for plain functions without batch axes.
        targets: what the loss compares the outputs with.
        max_lag: the largest lag; T - 1 by default, for which the cost is quadratic in T.
        reset: ``[T]`` (``[T, B]``).
        mask: the same.
        initial: what a reset restarts from; by default the carry given, or the layer's, whose gradient counts.

    Raises:
        TypeError: for a step with another contract, or without params.
        ValueError: for data that do not fit.

    Example:
        A sum of inputs that decays by lambda = 1/2; :math:`g_\tau = \lambda^\tau h_{T-1-\tau}`:

        >>> import jax, jax.numpy as jnp
        >>> step = jax.tree_util.Partial(lambda decay, h, x: (decay * h + x,) * 2, jnp.asarray(0.5))
        >>> found = lag_decomposition(step, jnp.zeros(()), jnp.ones(4), lambda ys, _: ys[-1], None)
        >>> jnp.exp(found.log_norm)
        Array([1.75, 0.75, 0.25, 0.  ], dtype=float32)
    """
    return _by_lag("lag_decomposition", step, carry, xs, loss, targets, max_lag, reset, mask, initial)[0]


def truncation_bias(
    step: Callable,
    carry: Any,
    xs: Any,
    loss: Loss,
    targets: Any,
    *,
    max_window: int | None = None,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
    initial: Any = None,
) -> TruncationBias:
    """How far the gradient truncated after K steps is from the full one, for every K at once.

    Args:
        step: as in `lag_decomposition`.
        carry: the same.
        xs: the same.
        loss: the same.
        targets: the same.
        max_window: the largest K; T by default, for which the cost is quadratic in T.
        reset: ``[T]`` (``[T, B]``).
        mask: the same.
        initial: the same.

    Raises:
        TypeError: for a step with another contract, or without params.
        ValueError: for data that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> step = jax.tree_util.Partial(lambda decay, h, x: (decay * h + x,) * 2, jnp.asarray(0.5))
        >>> found = truncation_bias(step, jnp.zeros(()), jnp.ones(4), lambda ys, _: ys[-1], None)
        >>> found.bias                                                       # of 2.75: 1.00, 0.25, 0, 0 are missing
        Array([0.36363637, 0.09090909, 0.        , 0.        ], dtype=float32)
        >>> found.window_10, found.window_1
        (Array(2., dtype=float32), Array(3., dtype=float32))

    References:
        Tallec and Ollivier 2017, "Unbiasing truncated backpropagation through time", arXiv:1705.08209.
    """
    lag = max_window
    if lag is not None:
        check_whole("truncation_bias(max_window)", lag, 1)
        lag -= 1
    return _by_lag("truncation_bias", step, carry, xs, loss, targets, lag, reset, mask, initial)[1]


def _by_lag(
    who: str,
    step: Any,
    carry: Any,
    xs: Any,
    loss: Loss,
    targets: Any,
    max_lag: int | None,
    reset: Any,
    mask: Any,
    initial: Any,
) -> tuple[LagDecomposition, TruncationBias]:
    def system_of(step: Any) -> Any:
        return prepare(who, step, carry, xs, reset=reset, mask=mask, initial=initial)

    check_loss(who, loss)
    own = Floating(step)
    system = system_of(step)
    if not own.leaves:
        raise TypeError(
            f"{who}(step): expected a step that holds its params, bind(layer, params) or "
            f"jax.tree_util.Partial(fn, params) with fn(params, carry, x) -> (carry, y), got {step!r}."
        )
    if max_lag is not None:
        check_whole(f"{who}(max_lag)", max_lag, 0)
    num_lags = system.num_steps if max_lag is None else min(max_lag + 1, system.num_steps)

    # The full gradient, by plain backpropagation, and that by the outputs.
    def outputs(params: list[jax.Array]) -> tuple[Any, Any]:
        _, entering, ys = system_of(_with_params(step, params)).trajectory()
        return ys, entering

    params = [leaf.astype(wide(leaf.dtype)) for leaf in own.leaves]
    ys, pull_outputs, entering = jax.vjp(outputs, params, has_aux=True)
    value, d_ys = loss_and_gradient(
        loss, system.squeeze(ys, 1), targets, system.squeeze(system.inputs.mask, 1)
    )
    if not system.batched:
        d_ys = jax.tree.map(lambda a: a[:, None], d_ys)
    (full,) = pull_outputs(d_ys)

    x, reset_now, happened = system.inputs
    cut = jnp.zeros((system.num_steps, system.batch), bool) if reset_now is None else reset_now
    x, entering, d_ys = _gather(happened, (x, entering, keep(happened, without_float0(d_ys))))
    if happened is not None:
        cut, happened = _after_gaps(happened, cut), _gather(happened, happened)
    fresh = cut[0]
    if carry is None:  # then the first step begins from the layer's own carry, as a reset does
        cut = cut.at[0].set(True)

    def steps(params: list[jax.Array], carries: list[jax.Array]) -> Any:
        """All steps side by side, and the carry that each would have begun with."""
        system = system_of(_with_params(step, params))
        after, ys = jax.vmap(jax.vmap(system.step))(Floating(entering).with_leaves(carries), x)
        begins = [
            jnp.broadcast_to(initial, (len(cut), *initial.shape)).at[0].set(select(fresh, initial, first))
            for initial, first in zip(
                Floating(system.initial).leaves, Floating(system.carry).leaves, strict=True
            )
        ]
        return Floating(after).leaves, Floating(ys).leaves, begins

    (after, outs, _), pull = jax.vjp(steps, params, Floating(entering).leaves)
    no_after, no_outs = [jnp.zeros_like(a) for a in after], [jnp.zeros_like(y) for y in outs]
    g = as_vector(full)

    def at_lag(d_after: list[Scaled], left: list[jax.Array], d_outs: list[jax.Array]) -> Any:
        """The gradients by the carries entering the steps, and this lag's part of that by the params."""
        mantissas, exponent = [s.mantissa for s in d_after], d_after[0].exponent
        _, pulled = pull((mantissas, d_outs, no_after))
        entering = [Scaled(p, exponent) for p in keep(happened, pulled)]
        # The sum over steps and examples needs one exponent for all.
        some = jnp.any(
            jnp.stack([jnp.any(m != 0, tuple(range(2, m.ndim))) for m in [*mantissas, *pulled]]), 0
        )
        lowest = jnp.iinfo(jnp.int32).min // 2
        top = jnp.max(jnp.where(some, exponent, lowest))
        top = jnp.where(top == lowest, 0, top)
        shift = jnp.minimum(exponent - top, 0)
        at_reset = [scale(keep(cut, e.mantissa), shift) for e in entering]
        part, _ = pull(([scale(m, shift) for m in mantissas], d_outs, at_reset))
        size = norm(as_vector(part), 0)
        absolute = [scale(p, top) for p in part]
        left = [a - b for a, b in zip(left, absolute, strict=True)]
        missing = as_vector(left)
        bias = norm(missing, 0) / norm(g, 0)
        seen = (logarithm(size, top), cosine(as_vector(part), g), bias, cosine(g - missing, g))
        before = [Scaled(keep(~cut, e.mantissa), e.exponent) for e in entering]
        shifted = [
            Scaled(*(jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]) for a in scaled)) for scaled in before
        ]
        brought, exponent = align(shifted, 2)
        return [Scaled(b, exponent) for b in brought], left, seen

    nothing = [unscaled(a, 2) for a in no_after]
    d_after, left, first = at_lag(nothing, full, Floating(d_ys).leaves)

    def body(state: Any, _: Any) -> Any:
        d_after, left = state
        d_after, left, seen = at_lag(d_after, left, no_outs)
        return (d_after, left), seen

    _, others = jax.lax.scan(body, (d_after, left), length=num_lags - 1)
    log_norms, cosines, bias, bias_cosine = (
        jnp.concatenate([a[None], b]) for a, b in zip(first, others, strict=True)
    )
    windows = jnp.arange(1, num_lags + 1)
    gradients = own.with_leaves([a.astype(leaf.dtype) for a, leaf in zip(full, own.leaves, strict=True)])
    return (
        LagDecomposition(log_norms, cosines, value, gradients),
        TruncationBias(windows, bias, bias_cosine, _least(bias, 0.1), _least(bias, 0.01)),
    )


def _with_params(step: Any, params: list[jax.Array]) -> Any:
    """The step with wider params, narrowed inside of it, so that what steps add to the gradient adds up in the wide."""
    own = Floating(step)

    def narrowed(params: list[jax.Array]) -> Any:
        return own.with_leaves([a.astype(leaf.dtype) for a, leaf in zip(params, own.leaves, strict=True)])

    if not isinstance(step, Bound):
        return jax.tree_util.Partial(lambda params, carry, x: narrowed(params)(carry, x), params)
    layer = dataclasses.replace(
        step.layer,
        step_fn=lambda params, carry, x, flags: narrowed(params)(carry, x),
        initial_carry=lambda params, x: narrowed(params).initial_carry(x),
    )
    return Bound(layer, params)


def _least(bias: jax.Array, limit: float) -> jax.Array:
    """The least window from which on the bias is within the limit."""
    beyond = ~(bias <= limit)
    last = jnp.max(jnp.where(beyond, jnp.arange(1, len(bias) + 1), 0))
    return jnp.where(last == len(bias), jnp.inf, last + 1).astype(bias.dtype)


def _gather(mask: Any, tree: Any) -> Any:
    """The steps ``[T, B]`` that happened, moved to the front of each row in their order; the others come last."""
    if mask is None:
        return tree
    order = jnp.argsort(~mask, axis=0, stable=True)
    return jax.tree.map(lambda a: jnp.take_along_axis(a, expand(order, a.ndim), 0), tree)


def _after_gaps(mask: jax.Array, reset: jax.Array) -> jax.Array:
    """The resets of the steps that happened, in the order of `_gather`: one in a gap falls on the step after it."""
    so_far = _gather(mask, jnp.cumsum(reset, 0))
    return so_far > jnp.concatenate([jnp.zeros_like(so_far[:1]), so_far[:-1]])
