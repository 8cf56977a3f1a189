"""A step that is not finite makes no update."""

from typing import Any

import jax
import jax.numpy as jnp


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
