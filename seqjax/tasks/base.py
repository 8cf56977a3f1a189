"""Definition of a task: batches, a loss per time step, the memoryless baseline, and the criterion of success."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from seqjax.base import Batch
from seqjax.checks import check_whole
from seqjax.layers.pooling import last
from seqjax.values import Definition

NOT_SCORED = -1
"""Target class of steps without a target."""


class Success(NamedTuple):
    """Criterion of success: an accuracy of at least, or a loss of at most, the threshold."""

    metric: Literal["accuracy", "loss"]
    threshold: float


class Score(NamedTuple):
    """Means over a batch: the loss that the baseline refers to, accuracy (NaN for numbers), and success."""

    loss: jax.Array
    accuracy: jax.Array
    solved: jax.Array


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Task(Definition):
    """A source of batches with a loss, a baseline and a criterion of success. A value, as cells and layers are.

    Attributes:
        name: short name for tables.
        length: time steps T of every sequence.
        sample: ``(key, batch) -> (xs [T, B] or [T, B, D], targets [T, B])``, jittable with a static batch. Classes are
            integers, `NOT_SCORED` where a step has no target. Targets of several numbers per step are
            ``[T, B, num_outputs]``.
        num_inputs: size of the input vocabulary; None where the inputs are real-valued ``[T, B, D]``.
        num_outputs: width of the outputs ``ys [T, B, num_outputs]``.
        loss: ``(ys, targets) -> losses [T, B]``, one loss per time step, zero at steps that are not scored.
        baseline: the expected loss of the best prediction without memory.
        baseline_at: the steps that the baseline refers to: the "mean" over all, the "last" step, or the "scored" steps.
        success: when the task counts as solved.
        reference: source of the task and its baseline.
    """

    name: str
    length: int
    sample: Callable[[PRNGKeyArray, int], tuple[Array, Array]]
    num_inputs: int | None
    num_outputs: int
    loss: Callable[[Array, Array], Array]
    baseline: float
    baseline_at: Literal["mean", "last", "scored"]
    success: Success
    reference: str

    def objective(self, ys: Array, targets: Array, mask: Any = None) -> Array:
        """Return the training objective, to which the baseline refers: losses per step ``[T, B]`` or sequence ``[B]``.

        Losses per sequence count the steps that happened, by the mask ``[T, B]``.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from seqjax.tasks import delayed_recall
            >>> task = delayed_recall(5)
            >>> xs, targets = task.sample(jax.random.key(0), 2)
            >>> task.objective(jnp.zeros((5, 2, task.num_outputs)), targets)  # ln 8
            Array([2.0794415, 2.0794415], dtype=float32)
        """
        losses = self.loss(ys, targets)
        match self.baseline_at:
            case "mean":
                return losses
            case "last":
                return last(losses, mask)
        scored = targets != NOT_SCORED if mask is None else (targets != NOT_SCORED) & mask
        count = jnp.maximum(jnp.sum(scored, 0), 1).astype(losses.dtype)
        return jnp.sum(jnp.where(scored, losses, 0), 0) / count

    def batches(self, batch_size: int, *, seed: int = 0) -> Callable[[int], Batch]:
        """Return batches as a pure function of the step, the form that training expects; the seed selects the batches.

        Example:
            >>> from seqjax.tasks import parity
            >>> batches, held_out = parity(6).batches(4), parity(6).batches(4, seed=1)
            >>> batches(7).xs.shape, bool((batches(7).xs == batches(7).xs).all())
            ((6, 4), True)
            >>> bool((batches(7).xs == held_out(7).xs).all())
            False
        """
        # A number apart from those of splits and steps, so that params drawn from the same seed use other
        # keys.
        key = jax.random.fold_in(jax.random.key(seed), 2**30)
        sample = jax.jit(lambda step: Batch(*self.sample(jax.random.fold_in(key, step), batch_size)))
        return lambda step: sample(step)

    def score(self, ys: Array, targets: Array) -> Score:
        """Evaluate outputs over a batch.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from seqjax.tasks import parity
            >>> task = parity(6)
            >>> xs, targets = task.sample(jax.random.key(0), 3)
            >>> score = task.score(jax.nn.one_hot(targets, 2) * 20, targets)
            >>> float(score.accuracy), bool(score.solved)
            (1.0, True)
        """
        loss = jnp.mean(self.objective(ys, targets))
        accuracy = jnp.full((), jnp.nan, loss.dtype)
        if jnp.issubdtype(targets.dtype, jnp.integer):
            scored = targets != NOT_SCORED
            if self.baseline_at == "last":
                scored = scored.at[:-1].set(False)
            right = (jnp.argmax(ys, -1) == targets) & scored
            accuracy = jnp.sum(right).astype(loss.dtype) / jnp.maximum(jnp.sum(scored), 1).astype(loss.dtype)
        if self.success.metric == "accuracy":
            return Score(loss, accuracy, accuracy >= self.success.threshold)
        return Score(loss, accuracy, loss <= self.success.threshold)


def cross_entropy(ys: Float[Array, "..."], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    r"""Negative log-likelihood of integer targets under softmax, :math:`-\ln \mathrm{softmax}(y)_{target}`.

    Zero where the target is `NOT_SCORED`.

    Shapes: ys ``[T, B, num_outputs]``, targets ``[T, B]`` -> losses ``[T, B]``, in nats.

    Raises:
        ValueError: when the shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.tasks import cross_entropy
        >>> cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[0, -1]]))  # ln 4
        Array([[1.3862944, 0.       ]], dtype=float32)
    """
    _check_outputs("cross_entropy", "num_outputs", ys, targets)
    scored: Bool[Array, ...] = targets != NOT_SCORED
    losses = optax.softmax_cross_entropy_with_integer_labels(ys, jnp.where(scored, targets, 0))
    return jnp.where(scored, losses, 0)


def squared_error(ys: Float[Array, "..."], targets: Float[Array, "..."]) -> Float[Array, "..."]:
    """Squared difference of output and target; the mean over several outputs.

    Shapes: ys ``[T, B, 1]``, targets ``[T, B]`` -> losses ``[T, B]``; or both ``[T, B, num_outputs]``.

    Raises:
        ValueError: when the shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.tasks import squared_error
        >>> squared_error(jnp.ones((1, 2, 1)), jnp.array([[0.5, 3.0]]))
        Array([[0.25, 4.  ]], dtype=float32)
    """
    if ys.shape == targets.shape and ys.ndim == 3:
        return jnp.mean((ys - targets) ** 2, -1)
    _check_outputs("squared_error", "1", ys, targets)
    if ys.shape[-1] != 1:
        raise ValueError(
            f"squared_error: expected ys [T, B, 1], got {list(ys.shape)}. Use a model with one output."
        )
    return (ys[..., 0] - targets) ** 2


def check_length(who: str, length: int, minimum: int, why: str) -> None:
    """Raise a ValueError for sequences that are too short for a task."""
    if length < minimum:
        raise ValueError(
            f"{who}: expected a length of at least {minimum} ({why}), got {length}. Use a longer sequence."
        )


def classification(
    name: str,
    length: int,
    sample: Callable,
    sizes: tuple[int | None, int],
    baseline_at: Literal["mean", "last", "scored"],
    reference: str,
    *,
    baseline: float | None = None,
    success: Success = Success("accuracy", 0.99),  # noqa: B008 (a NamedTuple)
) -> Task:
    """Return a task whose targets are classes. `sizes` has its `num_inputs` and `num_outputs`.

    Without `baseline`, all classes are equally likely at each step that the baseline refers to.
    """
    baseline = math.log(sizes[1]) if baseline is None else baseline
    return Task(
        name=name,
        length=length,
        sample=_checked(name, sample),
        num_inputs=sizes[0],
        num_outputs=sizes[1],
        loss=cross_entropy,
        baseline=baseline,
        baseline_at=baseline_at,
        success=success,
        reference=reference,
    )


def regression(
    name: str,
    length: int,
    sample: Callable,
    baseline: float,
    reference: str,
    *,
    baseline_at: Literal["mean", "last", "scored"] = "mean",
    success: float,
) -> Task:
    """Return a task whose targets are numbers, solved at a loss of at most `success`."""
    return Task(
        name=name,
        length=length,
        sample=_checked(name, sample),
        num_inputs=None,
        num_outputs=1,
        loss=squared_error,
        baseline=baseline,
        baseline_at=baseline_at,
        success=Success("loss", success),
        reference=reference,
    )


def _checked(name: str, sample: Callable) -> Callable:
    """Refuse empty batches."""

    def checked(key: PRNGKeyArray, batch_size: int) -> tuple[Array, Array]:
        check_whole(f"{name}.sample(batch_size)", batch_size)
        return sample(key, batch_size)

    return checked


def _check_outputs(who: str, last: str, ys: jax.Array, targets: jax.Array) -> None:
    if ys.ndim != targets.ndim + 1 or ys.shape[:-1] != targets.shape:
        raise ValueError(
            f"{who}: expected ys [T, B, {last}] for targets [T, B] = {list(targets.shape)}, got {list(ys.shape)}."
        )
