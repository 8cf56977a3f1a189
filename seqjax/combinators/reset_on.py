"""A layer that restarts where its inputs mark a beginning."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Layer, Params, Xs, Ys
from seqjax.combinators.common import View, check_layers, composed
from seqjax.values import definition


@definition
def reset_on(layer: Layer, when: int | Callable) -> Layer:
    """A layer that restarts before each step whose input marks a beginning, such as a document separator.

    The layer also restarts where `reset` is True. Inputs of masked steps cause no restart.

    Args:
        layer: any layer.
        when: a token, for integer inputs ``[*B]``; or a function ``x [*B, ...] -> reset [*B]``, which acts on each
            example by itself. The function also receives sequences ``[T, *B, ...]``, so it may only reduce the
            last axes.

    Raises:
        TypeError: for a token where inputs are not integers.
        ValueError: where the function does not return bool.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer = sj.reset_on(sj.running_mean(), lambda x: x[..., 0] == 0)
        >>> xs = jnp.asarray([3.0, 5.0, 0.0, 4.0]).reshape(4, 1, 1)
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1].ravel()
        Array([3., 4., 0., 2.], dtype=float32)
    """
    check_layers("reset_on", (layer,))
    if isinstance(when, bool) or not (isinstance(when, int) or callable(when)):
        raise TypeError(f"reset_on(when): expected a token or a function x -> bool, got {when!r}.")

    def apply(view: View, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        if callable(when):
            found = when(xs)
            if getattr(found, "dtype", None) != jnp.bool_:
                raise ValueError(
                    f"reset_on(when={when!r}): expected a function x -> bool [*B], got one that returns {found!r}."
                )
        else:
            leaf = jax.tree.leaves(xs)[0]
            if not jnp.issubdtype(leaf.dtype, jnp.integer):
                raise TypeError(
                    f"reset_on(when={when}): expected tokens (integers), got {leaf.dtype} {list(leaf.shape)}. "
                    "Pass a function x -> bool."
                )
            found = leaf == when if _fits_dtype(when, leaf.dtype) else jnp.zeros(leaf.shape, bool)
        if flags.mask is not None:
            found = found & flags.mask
        flags = flags._replace(reset=found if flags.reset is None else found | flags.reset)
        return view.run(layer, params, carry, xs, flags)

    return composed(apply, parts=(layer,))


def _fits_dtype(token: int, dtype: jnp.dtype) -> bool:
    """Return whether an integer dtype can hold the token; a token out of range would wrap around to another one."""
    return bool(jnp.iinfo(dtype).min <= token <= jnp.iinfo(dtype).max)
