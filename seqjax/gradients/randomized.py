"""Unbiased truncated backpropagation through time with random cuts."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from seqjax.base import Batch, Carry, Estimator, Layer, Params
from seqjax.checks import check_whole, check_within
from seqjax.combinators.common import check_layers
from seqjax.gradients.bptt import no_state, over_windows
from seqjax.gradients.objective import Loss
from seqjax.gradients.windows import check_batch, check_key, own_params
from seqjax.inputs import num_steps, step_keys
from seqjax.ops.select import expand
from seqjax.values import definition


@definition
def randomized_truncated_bptt(window: int, *, cut: float = 0.5) -> Estimator:
    r"""Truncated backpropagation with random cuts between windows, reweighted to be unbiased (ARTBP).

    At each border between windows the gradient by the carry is cut with probability c, drawn per example. Otherwise it
    is divided by 1 - c:

    .. math::
        \delta_t \leftarrow \frac{X_t}{1-c}\, \delta_t, \qquad X_t \sim \mathrm{Bernoulli}(1 - c)

    Gradients: unbiased; the expectation over the draws is the gradient of `full_bptt`, since the factors are
    independent with mean one. The part that crosses k borders has a variance that grows as :math:`(1-c)^{-k}`, so
    choose a small c where long-range gradients matter. A gradient covers K/c steps on average. As in `full_bptt`,
    gradients end at the start of the chunk, and in training each batch begins with the initial carry.

    Memory: the carries at all borders, and one window, which the backward pass recomputes. `seqjax.checkpointed` needs
    the same memory and is exact; this estimator serves the study of truncation.

    Args:
        window: K; 1 gives a border at every step, as in the paper.
        cut: c, 0 <= c < 1.

    Raises:
        ValueError: for a window below 1 or a c outside [0, 1); from `update`, without a key.

    Example:
        >>> import seqjax as sj
        >>> sj.randomized_truncated_bptt(16, cut=0.25)
        randomized_truncated_bptt(window=16, cut=0.25)

    References:
        Tallec, Ollivier 2017, "Unbiasing truncated backpropagation through time", arXiv:1705.08209 (ARTBP, with a
        constant probability of truncation).
    """
    check_whole("randomized_truncated_bptt(window)", window)
    check_within("randomized_truncated_bptt(cut)", cut)

    def bind(layer: Layer, loss: Loss) -> Any:
        check_layers("randomized_truncated_bptt", (layer,), causal=True)

        def update(params: Params, carry: Carry, state: Any, batch: Batch, *, key: Any = None) -> Any:
            who = "randomized_truncated_bptt(...).update"
            batch = check_batch(who, batch)
            check_key(who, key)
            keys = step_keys(key, num_steps(batch.xs))
            # Steps fold in small numbers.
            own = jax.random.fold_in(key if key.ndim == 0 else key[0], 0x7FFFFFFF)

            def border(carry: Carry, t: jax.Array) -> Any:
                at = jax.random.fold_in(own, t)
                return jax.tree.map(lambda leaf: _weigh(leaf, _draw(at, leaf, cut)), carry)

            params = own_params(params, batch)
            return *over_windows(layer, loss, window, border, params, carry, batch, keys), state

        return no_state, update

    return Estimator(bind=bind, streaming=False)


def _draw(key: jax.Array, leaf: Inexact[Array, "B ..."], cut: float) -> Float[Array, "B ..."]:
    """Return a factor per example, equal for all leaves ``[B, ...]``."""
    kept = jax.random.bernoulli(key, 1 - cut, leaf.shape[:1])
    return jnp.where(kept, 1 / (1 - cut), 0.0)


def _weigh(leaf: Inexact[Array, "B ..."], factor: Float[Array, "B ..."]) -> Inexact[Array, "B ..."]:
    """Return the leaf with its gradient multiplied by a factor; a factor of zero also blocks NaN."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf

    @jax.custom_vjp
    def weigh(leaf: jax.Array, factor: jax.Array) -> jax.Array:
        return leaf

    def backward(factor: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = expand(factor, gradient.ndim)
        passed = jnp.where(wide == 0, 0, gradient * wide).astype(gradient.dtype)
        return passed, jnp.zeros_like(factor)

    weigh.defvjp(lambda leaf, factor: (leaf, factor), backward)
    return weigh(leaf, factor)
