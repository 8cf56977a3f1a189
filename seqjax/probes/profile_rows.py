"""The rows of a gradient profile, for the gradient report and for instruments inside a training."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqjax.probes.decay import fit_decay
from seqjax.rows import Row, row

WHOLE = "carry"
"""The leaf that stands for the whole carry."""


def mean_log_norm(log_norm: Float[Array, "T *B"]) -> Float[Array, " T"]:
    """Return the log of the geometric mean ``[T]`` of norms over the examples whose gradient is not zero.

    Masked steps are left out. The result is -inf where the gradients of all examples are zero, and NaN where no example
    has a norm.

    Example:
        >>> import jax.numpy as jnp
        >>> mean_log_norm(jnp.log(jnp.array([[1.0, 4.0], [9.0, 0.0], [jnp.nan, 3.0], [0.0, 0.0]])))
        Array([0.6931472, 2.1972246, 1.0986123,      -inf], dtype=float32)
    """
    flat = log_norm.reshape(log_norm.shape[0], -1)
    unknown = jnp.isnan(flat)
    some = ~unknown & (flat != -jnp.inf)
    total, count = jnp.sum(jnp.where(some, flat, 0), 1), jnp.sum(some, 1)
    nothing = jnp.where(jnp.all(unknown, 1), jnp.nan, -jnp.inf)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), nothing)


def profile_rows(
    log_norms: Mapping[str, Any],
    norms: Mapping[str, Any],
    zero_share: Any,
    *,
    decay: bool = True,
    **columns: Any,
) -> Iterator[Row]:
    """Yield the rows of a profile.

    Args:
        log_norms: the mean log norms ``[T]`` of the leaves of the carry by name, and of `WHOLE`.
        norms: the norm of the gradient with respect to each param by name.
        zero_share: the share of examples and steps whose gradient is exactly zero.
        decay: whether the profile is that of a loss at the last step, whose decay with the lag is fitted.
        columns: columns that all rows have.
    """
    for leaf, values in log_norms.items():
        for t, value in enumerate(np.asarray(values)):
            yield row("log_norm", value, **columns, leaf=leaf, t=t)
    yield row("zero_share", zero_share, **columns, leaf=WHOLE)
    for name, value in norms.items():
        yield row("parameter_gradient_norm", value, **columns, leaf=name)
    if decay:
        fitted = fit_decay(np.asarray(log_norms[WHOLE])[::-1])
        for quantity, value in fitted._asdict().items():
            if quantity != "better":
                yield row(quantity, value, **columns, leaf=WHOLE)


def named(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by path; a single array has the name "value"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=".") or "value": leaf for path, leaf in leaves}
