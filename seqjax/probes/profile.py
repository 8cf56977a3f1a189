r"""The gradient profile: how much of the loss's gradient reaches each time step.

``profile[t]`` is :math:`\lVert \partial L / \partial s_t \rVert`, where s_t is a leaf of the carry *entering* step t,
after its reset; per example, recurrent layer and leaf. ``profile[0]`` belongs to the initial carry.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Layer
from seqjax.gradients.objective import Loss, loss_sum, objective
from seqjax.layers import first_step, num_steps, step_keys
from seqjax.ops.select import expand, keep, select
from seqjax.ops.tap import dummies, norm


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
    if num_steps(xs) == 0:
        raise ValueError(
            "gradient_profile: expected xs [T, ...] with T of at least 1, got an empty sequence."
        )
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


def total_log_norm(log_norm: Any) -> jax.Array:
    """The log norm ``[T, *B]`` of the whole carry, from those of its leaves."""
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

    def mean(ys: Any) -> jax.Array:
        total, count = loss_sum(loss(ys, targets), mask)
        return total / jnp.maximum(count, 1)

    ys, pull_params = jax.vjp(outputs, params)
    value, d_ys = jax.value_and_grad(mean)(ys)
    (gradients,) = pull_params(d_ys)

    initial = layer.initial_carry(params, first_step(xs))

    def forward(carry: Any, inputs: Any) -> tuple[Any, Any]:
        x, reset, mask, key = inputs
        carry = select(reset, initial, carry)
        return layer.step(params, carry, x, mask=mask, key=key)[0], carry

    _, entering = jax.lax.scan(forward, carry, (xs, reset, mask, keys))
    leaves, treedef = jax.tree.flatten(carry)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def backward(scaled: list["Scaled"], inputs: Any) -> tuple[list["Scaled"], list[jax.Array]]:
        (x, reset, mask, key), entering, d_y = inputs
        all_leaves = jax.tree.leaves(entering)

        def step(some: list[jax.Array]) -> tuple[list[jax.Array], Any]:
            merged = list(all_leaves)
            for i, leaf in zip(floating, some, strict=True):
                merged[i] = leaf
            after, y = layer.step(params, jax.tree.unflatten(treedef, merged), x, mask=mask, key=key)
            after = jax.tree.leaves(after)
            return [after[i] for i in floating], y

        _, pull = jax.vjp(step, [all_leaves[i] for i in floating])
        # One pull per source, for each source has an exponent of its own: the leaves of the carry, and the output.
        sources = []
        for i, source in enumerate(scaled):
            zeros: list[Any] = [jnp.zeros_like(s.mantissa) for s in scaled]
            zeros[i] = source.mantissa
            (pulled,) = pull((zeros, jax.tree.map(jnp.zeros_like, d_y)))
            sources.append([Scaled(p, source.exponent) for p in pulled])
        (pulled,) = pull(([jnp.zeros_like(s.mantissa) for s in scaled], d_y))
        sources.append([Scaled(p, jnp.zeros_like(s.exponent)) for p, s in zip(pulled, scaled, strict=True)])
        arriving = [_add(terms, batch_ndim) for terms in zip(*sources, strict=True)]
        norms = [_log_norm(s, batch_ndim) for s in arriving]
        if reset is not None:
            arriving = [Scaled(keep(~reset, s.mantissa), s.exponent) for s in arriving]
        return arriving, norms

    start = [
        Scaled(jnp.zeros_like(leaves[i]), jnp.zeros(leaves[i].shape[:batch_ndim], jnp.int32))
        for i in floating
    ]
    _, norms = jax.lax.scan(backward, start, ((xs, reset, mask, keys), entering, d_ys), reverse=True)
    log_norm: list[Any] = [None] * len(leaves)
    for i, n in zip(floating, norms, strict=True):
        log_norm[i] = n
    return GradientProfile(jax.tree.unflatten(treedef, log_norm), value, gradients)


class Scaled(NamedTuple):
    """The array ``mantissa * 2**exponent``, one exponent per example; the largest entry of mantissa is near one."""

    mantissa: jax.Array
    exponent: jax.Array


def _scale(array: jax.Array, exponent: jax.Array) -> jax.Array:
    """``array * 2**exponent``, exactly; exponents [*B] below any float's range give zero."""
    real = jnp.finfo(array.dtype).dtype
    half = jnp.clip(exponent, -2000, 2000) // 2
    for part in (half, jnp.clip(exponent, -2000, 2000) - half):  # twice: 2**exponent itself may overflow
        array = array * expand(jnp.ldexp(jnp.ones((), real), part), array.ndim)
    return array


def _normalise(scaled: Scaled, batch_ndim: int) -> Scaled:
    size = jnp.max(jnp.abs(scaled.mantissa), tuple(range(batch_ndim, scaled.mantissa.ndim)), initial=0)
    ordinary = jnp.isfinite(size) & (size > 0)
    _, power = jnp.frexp(jnp.where(ordinary, size, 1))
    power = jnp.where(ordinary, power, 0).astype(jnp.int32)
    return Scaled(_scale(scaled.mantissa, -power), scaled.exponent + power)


def _add(terms: tuple[Scaled, ...], batch_ndim: int) -> Scaled:
    """The sum of scaled arrays, each brought to the largest exponent among those that are not zero."""
    lowest = jnp.iinfo(jnp.int32).min // 2
    terms = tuple(_normalise(term, batch_ndim) for term in terms)

    def rank(term: Scaled) -> jax.Array:
        axes = tuple(range(batch_ndim, term.mantissa.ndim))
        return jnp.where(jnp.any(term.mantissa != 0, axes), term.exponent, lowest)

    top = jnp.max(jnp.stack([rank(term) for term in terms]), 0)
    top = jnp.where(top == lowest, 0, top)
    # Only a term of zeros lies above the top; there the minimum keeps 0 * inf away.
    brought = [_scale(term.mantissa, jnp.minimum(term.exponent - top, 0)) for term in terms]
    return Scaled(sum(brought[1:], brought[0]), top)


def _log_norm(scaled: Scaled, batch_ndim: int) -> jax.Array:
    size = norm(scaled.mantissa, batch_ndim)
    return jnp.log(size) + scaled.exponent.astype(size.dtype) * jnp.log(jnp.asarray(2, size.dtype))
