"""The error of forward mode where a gradient exists in reverse mode alone."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def reverse_mode_alone(who: str) -> Iterator[None]:
    """Name the remedy where `jax.jvp` meets a backward pass of our own, as far as JAX raises its error inside."""
    try:
        yield
    except TypeError as error:
        if "forward-mode autodiff" not in str(error):
            raise
        raise TypeError(
            f"{who}: expected reverse mode (jax.grad, jax.vjp), got forward mode (jax.jvp, jax.jacfwd), which the "
            'backward pass of this method does not have. Use recurrent(cell, Scan(gradient="autodiff")).'
        ) from None
