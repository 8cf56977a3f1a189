"""Reversible backpropagation through time: the backward pass reconstructs carries by inverting steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqjax.base import Batch, Carry, Estimate, Estimator, Layer, Params, X
from seqjax.checks import check_above, check_whole
from seqjax.combinators.common import check_layers
from seqjax.compat import vary_like
from seqjax.gradients.inverses import inverse_of
from seqjax.gradients.objective import Loss, losses_of, sum_of
from seqjax.gradients.online.common import check_carry, check_online
from seqjax.gradients.windows import check_batch, enter, own_params, zeros
from seqjax.inputs import first_step, num_steps, step_keys
from seqjax.ops.select import select, wide
from seqjax.ops.vectors import Coordinates
from seqjax.values import definition


class Reconstruction(NamedTuple):
    """Reconstruction error of the carries in the last chunk: the largest error per example, ``[B]``.

    The error is relative to the largest entry of the carries before and after the step, leaf by leaf.
    """

    error: Float[Array, " B"]


@definition
def reversible(
    inverse: Callable | None = None, *, tolerance: float | None = None, max_resets: int = 0
) -> Estimator:
    r"""Full backpropagation through time by inverting steps, in memory that does not grow with T.

    The forward pass stores the last carry alone. The backward pass inverts step after step,
    :math:`s_{t-1} = f_t^{-1}(s_t)`, and differentiates each step at the reconstructed carry:

    .. math::
        \delta_{t-1} = J_t^\top \delta_t + \partial \ell_t / \partial s_{t-1}, \qquad
        g = \sum_t D_t^\top \delta_t + \partial \ell_t / \partial \theta

    The gradient is that of `full_bptt`, with the accuracy of the reconstructed carries. Inverting a step that forgets
    amplifies rounding errors: a decay a loses :math:`\log_{10} 1/a` digits per step. Long sequences therefore need
    steps that forget little, such as `orthogonal_rnn`, `lru` with moduli near 1, or `cornn` without damping.

    The estimator measures two errors. At every step it compares the carry with a forward step from the reconstructed
    carry. At the start of the chunk, and after every reset, it compares the reconstructed carry with the true carry.
    Together the two errors detect wrong inverses as well as ill-conditioned ones. **If either error exceeds the
    tolerance, all gradients are NaN**, so no gradient is silently wrong. `Reconstruction`, the state of the estimator,
    contains the error.

    `Diagonal` cells, `orthogonal_rnn`, `cornn` and `antisymmetric_rnn` have inverses (the last two by fixed-point
    iteration, for small steps), and so do `serial` and `residual` layers of these cells and of layers without carry.

    Args:
        inverse: ``(params, carry_after, x) -> carry_before`` of the whole layer, for all other layers.
        tolerance: bound of the relative error; by default :math:`\epsilon^{2/3}` of the carry's dtype, 4e-11 in float64
            and 2e-5 in float32.
        max_resets: the largest number of resets per example in a chunk. A carry that a reset overwrites cannot be
            reconstructed, so the estimator stores this number of carries. More resets give gradients of NaN.

    Raises:
        TypeError: from `update`, for layers without an inverse.
        ValueError: from `update`, for a batch with resets if max_resets is 0, or losses that are not per step.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.orthogonal_rnn(2))
        >>> batch = sj.Batch(jnp.ones((6, 1, 3)), jnp.zeros((6, 1, 2)))
        >>> params = layer.init(jax.random.key(0), batch.xs[0])
        >>> init, update = sj.reversible().bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> carry = layer.initial_carry(params, batch.xs[0])
        >>> estimate, carry, state = update(params, carry, init(params, carry, batch.xs[0]), batch)
        >>> bool(state.error[0] < 1e-5), estimate.gradients.w_x.shape
        (True, (3, 2))

    References:
        Maclaurin, Duvenaud, Adams 2015, "Gradient-based hyperparameter optimization through reversible learning",
        arXiv:1502.03492 (reversing dynamics that lose digits). MacKay, Vicol, Ba, Grosse 2018, "Reversible recurrent
        neural networks", arXiv:1810.10999.
    """
    check_whole("reversible(max_resets)", max_resets, 0)
    if tolerance is not None:
        check_above("reversible(tolerance)", tolerance, note=", or None")

    def bind(layer: Layer, loss: Loss) -> Any:
        check_layers("reversible", (layer,), causal=True)
        undo = (lambda params, after, x, key: inverse(params, after, x)) if inverse else inverse_of(layer)

        def init(params: Params, carry: Carry, x: X) -> Reconstruction:
            carry = jax.eval_shape(layer.initial_carry, params, x) if carry is None else carry
            check_carry("reversible().init", layer, carry)
            return Reconstruction(jnp.zeros(jax.tree.leaves(x)[0].shape[0], Coordinates(carry).dtype))

        def update(params: Params, carry: Carry, state: Any, batch: Batch, *, key: Any = None) -> Any:
            batch = check_batch("reversible().update", batch)
            if batch.reset is not None and max_resets == 0:
                raise ValueError(
                    "reversible().update: expected a batch without resets, since a carry that a reset overwrites "
                    "cannot be reconstructed; got resets. Pass `reversible(max_resets=...)`, a number per example."
                )
            params = own_params(params, batch)
            entering, to_params = jax.vjp(lambda params: enter(layer, params, carry, batch), params)
            check_online("reversible().update", layer, loss, params, entering, batch)
            for path, leaf in jax.tree_util.tree_leaves_with_path(entering):
                if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                    raise TypeError(
                        f"reversible().update: expected a carry of floats, got carry{jax.tree_util.keystr(path)} of "
                        f"{leaf.dtype}."
                    )
            inputs = jax.tree.map(jnp.asarray, (batch, step_keys(key, num_steps(batch.xs))))
            chunk = _Chunk(layer, loss, undo, params, max_resets)
            after, kept = chunk.forward(entering, inputs)
            estimate, by_entering, error = chunk.backward(entering, after, kept, inputs)
            bound = jnp.finfo(error.dtype).eps ** (2 / 3) if tolerance is None else tolerance
            found = jnp.all(error <= bound)  # False for NaN
            (by_initial,) = to_params(by_entering)

            def total(g: jax.Array, i: jax.Array, p: jax.Array) -> jax.Array:
                return jnp.where(found, (g + i).astype(p.dtype), jnp.nan)

            gradients = jax.tree.map(total, estimate.gradients, by_initial, params)
            return estimate._replace(gradients=gradients), after, Reconstruction(error)

        return init, update

    return Estimator(bind=bind, streaming=False)


class _Kept(NamedTuple):
    """The carries that resets overwrote, leaves ``[max_resets, B, ...]``, and their number per example."""

    carries: Any
    number: Int[Array, " B"]


class _Chunk(NamedTuple):
    layer: Layer
    loss: Loss
    undo: Callable
    params: Params
    max_resets: int

    def forward(self, carry: Carry, inputs: Any) -> tuple[Any, Any]:
        """Return the last carry, and the carries that resets overwrote."""
        rows = jnp.arange(jax.tree.leaves(inputs[0].xs)[0].shape[1])

        def body(state: Any, inputs: Any) -> tuple[Any, None]:
            carry, kept = state
            now, key = inputs
            if now.reset is not None:
                # A write beyond the end has no effect.
                place = jnp.where(now.reset, kept.number, self.max_resets)
                carries = jax.tree.map(
                    lambda s, c: s.at[place, rows].set(c, mode="drop"), kept.carries, carry
                )
                kept = _Kept(carries, kept.number + now.reset)
            after, _ = self.layer.step(self.params, carry, now.xs, reset=now.reset, mask=now.mask, key=key)
            return (after, kept), None

        slots = jax.tree.map(lambda c: jnp.zeros((self.max_resets, *c.shape), c.dtype), carry)
        start = None
        if inputs[0].reset is not None:
            start = vary_like(_Kept(slots, jnp.zeros_like(rows)), inputs[0].xs)
        return jax.lax.scan(body, (carry, start), inputs)[0]

    def backward(
        self, entering: Any, after: Any, kept: Any, inputs: Any
    ) -> tuple[Estimate, Any, Float[Array, " B"]]:
        """Return the estimate, the gradient by the entering carry, and the errors ``[B]``."""
        example = first_step(inputs[0].xs)
        initial = self.layer.initial_carry(self.params, example)
        rows = jnp.arange(jax.tree.leaves(example)[0].shape[0])

        def body(state: Any, inputs: Any) -> tuple[Any, None]:
            sums, after, beside, delta, error, kept = state
            now, key = inputs
            # Reference sizes of the errors: the initial carry may be zero, and a masked step leaves it zero.
            beside = after if now.mask is None else select(now.mask, after, beside)
            before = self.undo(self.params, after, now.xs, key)
            before = before if now.mask is None else select(now.mask, before, after)
            if now.reset is not None:
                # At a reset the step starts from the initial carry; the overwritten carry was stored.
                error = jnp.where(now.reset, jnp.maximum(error, _error(before, initial, beside)), error)
                number = kept.number - now.reset
                overwritten = jax.tree.map(
                    lambda s: s[jnp.minimum(number, self.max_resets - 1), rows], kept.carries
                )
                before, kept = select(now.reset, overwritten, before), kept._replace(number=number)

            def step(params: Params, carry: Carry) -> Any:
                again, y = self.layer.step(params, carry, now.xs, reset=now.reset, mask=now.mask, key=key)
                y, targets, mask = jax.tree.map(lambda a: a[None], (y, now.targets, now.mask))
                total, count = sum_of(self.loss, y, targets, mask, ((1, len(rows)),))
                return (again, total), count

            (again, total), pull, count = jax.vjp(step, self.params, before, has_aux=True)
            error = jnp.maximum(error, _error(again, after, beside))
            by_params, delta = pull((delta, jnp.ones_like(total)))
            sums = jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, Estimate(total, count, by_params))
            return (sums, before, beside, delta, error, kept), None

        error = vary_like(jnp.zeros(len(rows), Coordinates(after).dtype), example)
        if kept is not None:
            error = jnp.where(kept.number > self.max_resets, jnp.inf, error)
        one_step, leads = self._one_step(entering, inputs), ((1, len(rows)),)
        dtype = jax.eval_shape(lambda y, t: losses_of(self.loss, y, t, None, leads), *one_step).dtype
        number = jax.ShapeDtypeStruct((), dtype)
        of_params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, wide(p.dtype)), self.params)
        sums = zeros(Estimate(number, number, of_params), example)
        state = (sums, after, after, jax.tree.map(jnp.zeros_like, after), error, kept)
        (sums, found, beside, delta, error, _), _ = jax.lax.scan(body, state, inputs, reverse=True)
        return sums, delta, jnp.maximum(error, _error(found, entering, beside))

    def _one_step(self, carry: Carry, inputs: Any) -> tuple[Any, Any]:
        """Return the shapes of outputs and targets of one step, with a time axis."""
        now = first_step(inputs[0])
        y = jax.eval_shape(lambda p, c, x: self.layer.step(p, c, x)[1], self.params, carry, now.xs)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), (y, now.targets))


def _error(found: Any, true: Any, beside: Any) -> Float[Array, " B"]:
    """Return the largest difference per example ``[B]``, relative per leaf to the true or a neighboring carry."""

    def largest(a: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(a), tuple(range(1, a.ndim)), initial=0)

    def relative(found: jax.Array, true: jax.Array, beside: jax.Array) -> jax.Array:
        difference, scale = largest(found - true), jnp.maximum(largest(true), largest(beside))
        exact = difference == 0
        return jnp.where(exact, 0, difference / jnp.where(exact, 1, scale))

    errors = jax.tree.leaves(jax.tree.map(relative, found, true, beside))
    dtype = jnp.result_type(*errors)
    return jnp.max(jnp.stack([error.astype(dtype) for error in errors]), 0)
