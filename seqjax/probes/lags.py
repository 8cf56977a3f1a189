r"""The gradient by lag: the part that passes :math:`\tau` steps, and the bias of a truncation after K steps.

Params enter every step and the loss reads every output. With :math:`\theta_s` the copy of the params at step s and
:math:`\ell_t` the part of the loss that reads output t,

.. math::
    g = \sum_\tau g_\tau, \qquad g_\tau = \sum_t \partial \ell_t / \partial \theta_{t - \tau}, \qquad
    G_K = \sum_{\tau < K} g_\tau

:math:`G_K` is the gradient truncated after K steps for each term of the loss; K = 1 covers a single step. Lags count
the steps that happen; masked steps do not count. The carry at the start is a constant.

Cost: the steps are linearized once, and each lag takes one backward pass over all steps *side by side*. L lags take the
arithmetic of L backward passes and the memory of one. All K come from the same passes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqjax.base import Carry
from seqjax.checks import check_whole
from seqjax.gradients.objective import Loss
from seqjax.ops.select import expand, keep, select, wide
from seqjax.ops.tap import norm
from seqjax.ops.vectors import Floating, as_vector
from seqjax.probes.bound import Bound, as_batch
from seqjax.probes.internals.checks import check_loss
from seqjax.probes.internals.scaled import Scaled, align, logarithm, scale, unscaled, without_float0
from seqjax.probes.internals.system import System, output_gradient, own_params, prepare
from seqjax.probes.internals.vectors import cosine


class LagDecomposition(NamedTuple):
    r"""Result of `lag_decomposition`.

    Attributes:
        log_norm: natural logarithm of the norm of :math:`g_\tau`, ``[L]`` by lag from 0; -inf for zero.
        cosine: cosine of the angle between :math:`g_\tau` and the full gradient, ``[L]``; NaN for zero.
        loss: the loss.
        gradients: the full gradient, a tree like `bound` (for a bound layer, that of the params is in ``.params``).
    """

    log_norm: Float[Array, " L"]
    cosine: Float[Array, " L"]
    loss: Float[Array, ""]
    gradients: Any


class TruncationBias(NamedTuple):
    """Result of `truncation_bias`.

    Attributes:
        windows: K = 1, 2, ..., ``[L]``.
        bias: the norm of :math:`G_K - g` over the norm of g, ``[L]``.
        cosine: cosine of the angle between :math:`G_K` and g, ``[L]``.
        window_10: the smallest K from which on the bias is at most 10%; infinite if no window reaches 10%.
        window_1: the smallest K from which on the bias is at most 1%; infinite if no window reaches 1%.
    """

    windows: Int[Array, " L"]
    bias: Float[Array, " L"]
    cosine: Float[Array, " L"]
    window_10: Float[Array, ""]
    window_1: Float[Array, ""]


def lag_decomposition(
    bound: Callable,
    loss: Loss,
    batch: Any,
    *,
    carry: Carry = None,
    max_lag: int | None = None,
    initial: Any = None,
) -> LagDecomposition:
    r"""Return the norm of the part of the params' gradient that passes :math:`\tau` steps, for each lag.

    Args:
        bound: the result of `bind`, or ``jax.tree_util.Partial(fn, params)`` of a plain function
            ``fn: (params, carry, x) -> (carry, y)`` without batch axes. The leaves of `bound` are the params.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`; without batch axes for a plain function.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function). Arrays stand for its
            xs, as does the number of steps of a function whose x is None.
        carry: the carry entering the first step. A bound layer has its initial carry as the default, and the gradient
            through it counts; a plain function has no default.
        max_lag: the largest lag. The default is T - 1, at a cost quadratic in T.
        initial: the carry that a reset restarts from. The default is the layer's initial carry, through which the
            gradient counts, or the `carry` of a plain function.

    Raises:
        TypeError: for a step with another contract, or a step without params.
        ValueError: for data that do not fit.

    Example:
        A sum of inputs that decays by lambda = 1/2; :math:`g_\tau = \lambda^\tau h_{T-1-\tau}`:

        >>> import jax, jax.numpy as jnp
        >>> step = jax.tree_util.Partial(lambda decay, h, x: (decay * h + x,) * 2, jnp.asarray(0.5))
        >>> found = lag_decomposition(step, lambda ys, _: ys[-1], jnp.ones(4), carry=jnp.zeros(()))
        >>> jnp.exp(found.log_norm)
        Array([1.75, 0.75, 0.25, 0.  ], dtype=float32)
    """
    return _by_lag("lag_decomposition", bound, loss, batch, carry, max_lag, initial)[0]


def truncation_bias(
    bound: Callable,
    loss: Loss,
    batch: Any,
    *,
    carry: Carry = None,
    max_window: int | None = None,
    initial: Any = None,
) -> TruncationBias:
    """Compare the gradient truncated after K steps with the full gradient, for all K at once.

    Args:
        bound: as in `lag_decomposition`.
        loss: as in `lag_decomposition`.
        batch: as in `lag_decomposition`.
        carry: as in `lag_decomposition`.
        max_window: the largest K. The default is T, at a cost quadratic in T.
        initial: as in `lag_decomposition`.

    Raises:
        TypeError: for a step with another contract, or a step without params.
        ValueError: for data that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> step = jax.tree_util.Partial(lambda decay, h, x: (decay * h + x,) * 2, jnp.asarray(0.5))
        >>> found = truncation_bias(step, lambda ys, _: ys[-1], jnp.ones(4), carry=jnp.zeros(()))
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
    return _by_lag("truncation_bias", bound, loss, batch, carry, lag, initial)[1]


class _Linearized(NamedTuple):
    """All steps linearized side by side, in the order in which they happened.

    Attributes:
        pull: ``(d_after, d_outs, d_begins) -> (d_params, d_entering)``: the pullback of all steps at once.
        after: zeros like the floating leaves of the carries after the steps ``[T, B, ...]``.
        outs: zeros like the floating leaves of the outputs.
        d_outs: the gradient of the loss with respect to the outputs.
        cut: ``[T, B]``: the steps before which a reset cuts the gradient.
        happened: ``[T, B]``, or None for all.
    """

    pull: Callable
    after: list[jax.Array]
    outs: list[jax.Array]
    d_outs: list[jax.Array]
    cut: Bool[Array, "T B"]
    happened: Bool[Array, "T B"] | None


def _by_lag(
    who: str, bound: Any, loss: Loss, batch: Any, carry: Carry, max_lag: int | None, initial: Any
) -> tuple[LagDecomposition, TruncationBias]:
    def with_params(params: list[jax.Array]) -> System:
        return prepare(who, _with_params(bound, params), batch, carry=carry, initial=initial)

    check_loss(who, loss)
    system = prepare(who, bound, batch, carry=carry, initial=initial)
    own = own_params(who, bound)
    if max_lag is not None:
        check_whole(f"{who}(max_lag)", max_lag, 0)
    num_lags = system.num_steps if max_lag is None else min(max_lag + 1, system.num_steps)

    # The full gradient by plain backpropagation, and the gradient with respect to the outputs.
    def outputs(params: list[jax.Array]) -> tuple[Any, Any]:
        _, entering, ys = with_params(params).trajectory()
        return ys, entering

    params = [leaf.astype(wide(leaf.dtype)) for leaf in own.leaves]
    ys, pull_outputs, entering = jax.vjp(outputs, params, has_aux=True)
    value, d_ys = output_gradient(system, loss, ys, as_batch(batch).targets)
    (full,) = pull_outputs(d_ys)

    steps = _linearize(system, with_params, params, entering, d_ys, own_start=carry is None)
    log_norms, cosines, bias, bias_cosine = _each_lag(steps, full, num_lags)
    windows = jnp.arange(1, num_lags + 1)
    gradients = own.with_leaves([a.astype(leaf.dtype) for a, leaf in zip(full, own.leaves, strict=True)])
    return (
        LagDecomposition(log_norms, cosines, value, gradients),
        TruncationBias(windows, bias, bias_cosine, _least(bias, 0.1), _least(bias, 0.01)),
    )


def _linearize(
    system: System,
    with_params: Callable[[list[jax.Array]], System],
    params: list[jax.Array],
    entering: Any,
    d_ys: Any,
    own_start: bool,
) -> _Linearized:
    """Linearize all steps at the carries entering them.

    Args:
        system: the system at its own params.
        with_params: ``params -> system``.
        params: the params, widened.
        entering: the carries ``[T, B, ...]`` before each step.
        d_ys: the gradient of the loss with respect to the outputs ``[T, B, ...]``.
        own_start: whether the first step starts from the layer's initial carry, as a reset does.
    """
    x, reset, happened = system.inputs
    cut = jnp.zeros((system.num_steps, system.batch), bool) if reset is None else reset
    x, entering, d_ys = _gather(happened, (x, entering, keep(happened, without_float0(d_ys))))
    if happened is not None:
        cut, happened = _after_gaps(happened, cut), _gather(happened, happened)
    fresh = cut[0]
    if own_start:
        cut = cut.at[0].set(True)

    def steps(params: list[jax.Array], carries: list[jax.Array]) -> Any:
        """Run all steps side by side; also return the carry that each step would restart from."""
        system = with_params(params)
        after, ys = jax.vmap(jax.vmap(system.step))(Floating(entering).with_leaves(carries), x)
        begins = [
            jnp.broadcast_to(initial, (len(cut), *initial.shape)).at[0].set(select(fresh, initial, first))
            for initial, first in zip(
                Floating(system.initial).leaves, Floating(system.carry).leaves, strict=True
            )
        ]
        return Floating(after).leaves, Floating(ys).leaves, begins

    (after, outs, _), pull = jax.vjp(steps, params, Floating(entering).leaves)
    zeros_after, zeros_outs = [jnp.zeros_like(a) for a in after], [jnp.zeros_like(y) for y in outs]
    return _Linearized(pull, zeros_after, zeros_outs, Floating(d_ys).leaves, cut, happened)


def _each_lag(steps: _Linearized, full: list[jax.Array], num_lags: int) -> list[jax.Array]:
    """Return log norm, cosine, bias and cosine of the truncated gradient, each ``[num_lags]``."""
    pull, cut, g = steps.pull, steps.cut, as_vector(full)

    def at_lag(d_after: list[Scaled], left: list[jax.Array], d_outs: list[jax.Array]) -> Any:
        """Return the gradients with respect to the entering carries, what this lag leaves, and its four numbers."""
        mantissas, exponent = [s.mantissa for s in d_after], d_after[0].exponent
        _, pulled = pull((mantissas, d_outs, steps.after))
        entering = [Scaled(p, exponent) for p in keep(steps.happened, pulled)]
        # The sum over steps and examples needs one common exponent.
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

    def body(state: Any, _: Any) -> Any:
        d_after, left = state
        d_after, left, seen = at_lag(d_after, left, steps.outs)
        return (d_after, left), seen

    # Only lag 0 reads the outputs directly.
    d_after, left, first = at_lag([unscaled(a, 2) for a in steps.after], full, steps.d_outs)
    _, others = jax.lax.scan(body, (d_after, left), length=num_lags - 1)
    return [jnp.concatenate([a[None], b]) for a, b in zip(first, others, strict=True)]


def _with_params(step: Any, params: list[jax.Array]) -> Any:
    """Return the step with wide params, cast to their own dtype inside, so that gradients add up in the wide dtype."""
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


def _least(bias: Float[Array, " L"], limit: float) -> Float[Array, ""]:
    """Return the smallest window from which on the bias is within the limit."""
    beyond = ~(bias <= limit)
    last = jnp.max(jnp.where(beyond, jnp.arange(1, len(bias) + 1), 0))
    return jnp.where(last == len(bias), jnp.inf, last + 1).astype(bias.dtype)


def _gather(mask: Bool[Array, "T B"] | None, tree: Any) -> Any:
    """Move the steps ``[T, B]`` that happened to the front of each row, in their order; the others come last."""
    if mask is None:
        return tree
    order = jnp.argsort(~mask, axis=0, stable=True)
    return jax.tree.map(lambda a: jnp.take_along_axis(a, expand(order, a.ndim), 0), tree)


def _after_gaps(mask: Bool[Array, "T B"], reset: Bool[Array, "T B"]) -> Bool[Array, "T B"]:
    """Return the resets in the order of `_gather`. A reset in a gap moves to the next step that happens."""
    so_far = _gather(mask, jnp.cumsum(reset, 0))
    return so_far > jnp.concatenate([jnp.zeros_like(so_far[:1]), so_far[:-1]])
