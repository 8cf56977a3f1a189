"""A step that is not finite makes no update.

Next to nothing is paid for it: that a gradient is finite is read off its norm, which is computed anyway, and a branch
leaves the optimizer to work in the memory of its old state, where a select would hold old and new at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqjax.ops.select import wide


def norm(tree: Any) -> jax.Array:
    """The 2-norm of all numbers in a tree, in float32 at least; infinite where their squares are.

    Example:
        >>> import jax.numpy as jnp
        >>> float(norm({"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0, jnp.float16)}))
        5.0
    """
    squares = [jnp.sum(jnp.square(jnp.abs(leaf.astype(wide(leaf.dtype))))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.float32(0)))


def guarded_update(
    optimizer: optax.GradientTransformation,
    whole: jax.Array,
    gradients: Any,
    opt_state: Any,
    params: Any,
) -> tuple[Any, Any, Any, jax.Array]:
    """``(params, opt_state, updates, finite)``: what the optimizer makes of gradients where they are whole.

    Elsewhere all stays as it was and the updates are zero. An update that is not finite though the gradients are is not
    added either; the optimizer, whose doing it is, keeps the state that it came to.
    """

    def update(params: Any, opt_state: Any) -> Any:
        updates, new = optimizer.update(gradients, opt_state, params)
        # A loop of steps wants a state of one type.
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


def all_finite(*trees: Any) -> jax.Array:
    """Whether every number in the trees is finite; integers and the like are.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(all_finite(jnp.ones(3), {"a": jnp.arange(2)})), bool(all_finite(jnp.log(jnp.zeros(2))))
        (True, False)
    """
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.array(True)


def choose(finite: jax.Array, new: Any, old: Any) -> Any:
    """The new tree where the flag, a scalar, holds, else the old one; a select, so that no NaN passes."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
