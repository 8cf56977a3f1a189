"""The inputs of the last unmasked steps, which a causal convolution reads."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from seqjax.ops.select import expand, select


def lagged(
    xs: Shaped[Array, "T *B D"],
    carry: Shaped[Array, "*B L D"],
    reset: Bool[Array, "T *B"] | None,
    mask: Bool[Array, "T *B"] | None,
) -> tuple[Shaped[Array, "*B L D"], list[Shaped[Array, "T *B D"]]]:
    """Return ``(carry, [x of L steps ago, ..., x of 1 step ago, x])``, counting only unmasked steps since the reset.

    Without flags the lags are L + 1 shifts of one array. With a mask they are gathers, indexed by the rank of each step
    among the unmasked steps. A reset selects zero for earlier steps, which then affect neither value nor gradient.
    Neither case has a loop over time. At masked steps the lags are undefined.

    Args:
        xs: inputs, T of at least 1.
        carry: the last L inputs, oldest first; zero where there was no step.
        reset: where the lags restart before the step.
        mask: where False the step does not happen.

    Example:
        >>> import jax.numpy as jnp
        >>> xs = jnp.asarray([1.0, 2.0, 3.0]).reshape(3, 1)
        >>> carry, (before, now) = lagged(xs, jnp.zeros((1, 1)), None, jnp.asarray([True, False, True]))
        >>> before[2], carry
        (Array([1.], dtype=float32), Array([[3.]], dtype=float32))
    """
    length, size = xs.shape[0], carry.shape[-2]
    padded = jnp.concatenate([jnp.moveaxis(carry, -2, 0), xs])
    if reset is None and mask is None:
        after = padded[length:]
        return jnp.moveaxis(after, 0, -2), [padded[k : k + length] for k in range(size + 1)]

    batch = xs.shape[1:-1]
    happened = jnp.ones((length, *batch), bool) if mask is None else mask
    # Positions among the unmasked steps; the inputs in the carry have the positions 0 .. L-1.
    count = size + jnp.cumsum(happened, 0, dtype=jnp.int32)
    rank = count - 1
    first = jnp.zeros((length, *batch), jnp.int32)
    if reset is not None:
        entering = count - happened.astype(jnp.int32)
        first = jax.lax.cummax(jnp.where(reset, entering, jnp.zeros_like(entering)), axis=0)
    order = None
    if mask is not None:
        everything = jnp.concatenate([jnp.ones((size, *batch), bool), happened])
        order = jnp.argsort(~everything, axis=0, stable=True)

    def at(position: jax.Array, first: jax.Array) -> jax.Array:
        """Return the inputs at positions ``[S, *B]``, zero before `first`."""
        index = jnp.maximum(position, 0)
        if order is not None:
            index = jnp.take_along_axis(order, index, 0)
        found = jnp.take_along_axis(padded, expand(index, padded.ndim), 0)
        return select(position >= first, found, jnp.zeros_like(found))

    lags = [at(rank - k, first) for k in range(size, 0, -1)]
    last = jnp.arange(-size, 0, dtype=jnp.int32).reshape(size, *(1,) * len(batch)) + count[-1:]
    after = at(last, jnp.broadcast_to(first[-1:], last.shape))
    return jnp.moveaxis(after, 0, -2), [*lags, xs]
