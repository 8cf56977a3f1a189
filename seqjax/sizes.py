"""The largest model that may be built: XLA ends the process where the number of bytes overflows 64 bits."""

import math
from typing import Any

import jax

MOST_BYTES = 2**42
"""Largest size of all params, and of the carry: 4 TB, more than one machine has."""


def check_size(who: str, layer: Any, x: Any) -> None:
    """Check the sizes of params and carry; no array is made.

    Args:
        who: the name in the error.
        layer: a `seqjax.Layer`.
        x: one time step of the input, arrays or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: when the params or the carry have more than `MOST_BYTES`.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> from seqjax.sizes import check_size
        >>> x = jax.ShapeDtypeStruct((1, 8), jnp.float32)
        >>> check_size("f", sj.recurrent(sj.lstm(8)), x)
        >>> try:
        ...     check_size("f", sj.recurrent(sj.lstm(2**30)), x)
        ... except ValueError as error:
        ...     print(error)
        f: expected params of at most 4398046511104 bytes, got 18446744228328374272 bytes. Choose smaller sizes.
    """

    def made(key: jax.Array, x: Any) -> dict[str, Any]:
        params = layer.init(key, x)
        return {"params": params, "a carry": layer.initial_carry(params, x)}

    for name, tree in jax.eval_shape(made, jax.random.key(0), x).items():
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        if size > MOST_BYTES:
            raise ValueError(
                f"{who}: expected {name} of at most {MOST_BYTES} bytes, got {size} bytes. Choose smaller sizes."
            )
