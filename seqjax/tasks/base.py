"""What a task is: batches, a loss per time step, and the loss of who remembers nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqjax.definition import Definition


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Task(Definition):
    """A source of batches, the loss on them, and what that loss is worth. A value, as cells and layers are.

    Attributes:
        name: a short name for tables.
        length: time steps T of every sequence.
        sample: ``(key, batch) -> (xs [T, B] or [T, B, D], targets [T, B])``, jittable with a static batch.
        num_inputs: size of the input vocabulary; None where the inputs are real-valued ``[T, B, D]``.
        num_outputs: width of the outputs ``ys [T, B, num_outputs]``.
        loss: ``(ys, targets) -> losses [T, B]``, one loss per time step.
        baseline: the expected loss of the best guess that uses no memory.
        baseline_at: which steps the baseline is about: the "mean" over all, or the "last" one.
        reference: where the task and its baseline are from.
    """

    name: str
    length: int
    sample: Callable[[PRNGKeyArray, int], tuple[Array, Array]]
    num_inputs: int | None
    num_outputs: int
    loss: Callable[[Array, Array], Array]
    baseline: float
    baseline_at: Literal["mean", "last"]
    reference: str


def cross_entropy(ys: Float[Array, "..."], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    r"""Negative log-likelihood of integer targets under softmax, :math:`-\ln \mathrm{softmax}(y)_{target}`.

    Shapes: ys ``[T, B, num_outputs]``, targets ``[T, B]`` -> losses ``[T, B]``, in nats.

    Raises:
        ValueError: when the shapes do not belong together.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.tasks import cross_entropy
        >>> cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]]))  # ln 4
        Array([[1.3862944, 1.3862944]], dtype=float32)
    """
    _check_outputs("cross_entropy", "num_outputs", ys, targets)
    return optax.softmax_cross_entropy_with_integer_labels(ys, targets)


def squared_error(ys: Float[Array, "..."], targets: Float[Array, "..."]) -> Float[Array, "..."]:
    """Squared difference of the only output and the target.

    Shapes: ys ``[T, B, 1]``, targets ``[T, B]`` -> losses ``[T, B]``.

    Raises:
        ValueError: when the shapes do not belong together, or there is more than one output.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.tasks import squared_error
        >>> squared_error(jnp.ones((1, 2, 1)), jnp.array([[0.5, 3.0]]))
        Array([[0.25, 4.  ]], dtype=float32)
    """
    _check_outputs("squared_error", "1", ys, targets)
    if ys.shape[-1] != 1:
        raise ValueError(
            f"squared_error: expected ys [T, B, 1], got {list(ys.shape)}. Give the model one output, or select one."
        )
    return (ys[..., 0] - targets) ** 2


def check_length(who: str, length: int, minimum: int, why: str) -> None:
    """Refuse sequences that are too short for a task."""
    if length < minimum:
        raise ValueError(
            f"{who}: expected a length of at least {minimum} ({why}), got {length}. Use a longer one."
        )


def check_batch(who: str, batch: int) -> None:
    """Refuse empty batches."""
    if batch < 1:
        raise ValueError(f"{who}.sample: expected a batch of at least 1, got {batch}.")


def _check_outputs(who: str, last: str, ys: jax.Array, targets: jax.Array) -> None:
    if ys.ndim != targets.ndim + 1 or ys.shape[:-1] != targets.shape:
        raise ValueError(
            f"{who}: expected ys [T, B, {last}] for targets [T, B] = {list(targets.shape)}, got {list(ys.shape)}."
        )
