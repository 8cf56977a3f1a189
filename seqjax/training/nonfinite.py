"""Skip the update of a training step that is not finite.

The check costs little. The norm of the gradient, which is computed anyway, shows whether the gradient is finite. A
branch lets the optimizer reuse the memory of its old state; a select would hold old and new state at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from seqjax.ops.select import wide
from seqjax.training.optimizers import optimizer_update


def norm(tree: Any) -> Float[Array, ""]:
    """Return the 2-norm of all numbers in a tree, in float32 at least; it is infinite when a square overflows.

    Example:
        >>> import jax.numpy as jnp
        >>> float(norm({"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0, jnp.float16)}))
        5.0
    """
    squares = [jnp.sum(jnp.square(jnp.abs(leaf.astype(wide(leaf.dtype))))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.float32(0)))


def guarded_update(
    optimizer: optax.GradientTransformation,
    whole: Bool[Array, ""],
    gradients: Any,
    opt_state: Any,
    params: Any,
    value: Any = 0.0,
) -> tuple[Any, Any, Any, Bool[Array, ""]]:
    """Return ``(params, opt_state, updates, finite)`` after an update by gradients that are finite.

    When ``whole`` is False, params and opt_state stay as they were and the updates are zero. When the gradients are
    finite and the update is not, the params stay, but the optimizer keeps its new state, since the optimizer caused it.

    Args:
        optimizer: an optax optimizer.
        whole: a boolean scalar; whether loss and gradients are finite.
        gradients: the gradients of the mean loss.
        opt_state: the state of the optimizer.
        params: the params.
        value: the mean loss, for optimizers that want it.

    Raises:
        TypeError: for updates of another structure or other shapes than the params.
    """

    def update(params: Any, opt_state: Any) -> Any:
        updates, new = optimizer_update("train step", optimizer, gradients, opt_state, params, value)
        # A loop over steps needs a state of constant dtypes.
        new = jax.tree.map(
            lambda a, like: a if a.dtype == like.dtype else a.astype(like.dtype), new, opt_state
        )
        return optax.apply_updates(params, updates), new, updates

    def keep(params: Any, opt_state: Any) -> Any:
        updates = jax.eval_shape(update, params, opt_state)[2]
        return params, opt_state, jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), updates)

    new, opt_state, updates = jax.lax.cond(whole, update, keep, params, opt_state)
    fine = all_finite(new)
    return choose(fine, new, params), opt_state, updates, whole & fine


def all_finite(*trees: Any) -> Bool[Array, ""]:
    """Return whether every number in the trees is finite; integers, booleans and keys always are.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(all_finite(jnp.ones(3), {"a": jnp.arange(2)})), bool(all_finite(jnp.log(jnp.zeros(2))))
        (True, False)
    """
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.array(True)


def choose(finite: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Return the new tree if the scalar flag is True, otherwise the old one; a select, so that no NaN passes."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
