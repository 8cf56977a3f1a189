"""Count non-finite steps, and roll back to the last good checkpoint after several in a row."""

import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from seqjax.training.bar import Bar
from seqjax.training.checkpoint_policy import CheckpointPolicy
from seqjax.training.metrics_log import flat
from seqjax.training.reporting import Reporter

logger = logging.getLogger(__name__)


class NonfiniteSteps:
    """Read the metrics of every step, and count the steps that were not finite.

    Args:
        state: the state at which training begins.
        most: how many non-finite steps in a row cause a rollback.
        explain: step -> what in the batch of this step explains that it is not finite, or None.
    """

    def __init__(
        self, state: Any, most: int, explain: Callable[[int], str | None] = lambda step: None
    ) -> None:
        self._explain = explain
        self.cause: str | None = None
        self.skipped = int(getattr(state, "skipped", 0))
        self.in_a_row = int(getattr(state, "consecutive", 0))
        self._most = most

    def too_many(self, step: int, metrics: Any, reporter: Reporter, bar: Bar) -> int | None:
        """Report the metrics of a step; return the step when it completes too many non-finite ones in a row."""
        finite, in_a_row = (getattr(metrics, name, None) for name in ("finite", "consecutive"))
        loss = getattr(metrics, "loss", None)
        # Fetching a number takes time, so only the numbers that are needed are fetched.
        fine = bool(finite) if finite is not None else loss is None or math.isfinite(float(loss))
        if reporter.due(step):
            reporter.metrics(step, metrics)
        bar.update(step, loss)
        if fine:
            self.in_a_row = 0
            return None
        self.skipped += 1
        # A step that has a loss scale does not count overflows that a smaller scale will prevent.
        self.in_a_row = self.in_a_row + 1 if in_a_row is None else int(in_a_row)
        reason = _not_finite(metrics)
        if self.in_a_row == 1:
            self.cause = self._explain(step)
        reason += f"; {self.cause}" if self.cause else ""
        reporter.event(step, "skipped", reason)
        if jax.process_index() == 0:
            logger.warning("fit: step %d is skipped: %s.", step, reason)
        return step if self.in_a_row >= self._most else None


def roll_back(
    policy: CheckpointPolicy,
    nonfinite: NonfiniteSteps,
    reporter: Reporter,
    state: Any,
    *,
    step: int,
    number: int,
    most: int,
) -> Any:
    """Return the state of the last good checkpoint, with the counters of this step.

    Args:
        policy: has the checkpoints.
        nonfinite: has counted the steps; its count in a row starts again.
        reporter: logs the rollback.
        state: the state at the step, for its structure.
        step: the last of the non-finite steps.
        number: rollbacks since the last good checkpoint, this one included.
        most: rollbacks that are allowed.

    Raises:
        FloatingPointError: after too many rollbacks, or without a good checkpoint.
    """
    advice = "Lower the learning rate, clip gradients, or look at the data of these steps."
    if nonfinite.cause:
        advice = f"At the first of them {nonfinite.cause}. Make the vocabulary larger, or mend the tokens."
    row = f"{nonfinite.in_a_row} steps in a row, up to step {step}, were not finite"
    if number > most:
        raise FloatingPointError(
            f"fit: {row}, after {most} rollbacks since the last good checkpoint. {advice}"
        )
    try:
        found, state = policy.roll_back(state, step=step, skipped=nonfinite.skipped)
    except FileNotFoundError:
        why = "no checkpoints were given" if policy.checkpoints is None else "there is no good checkpoint"
        raise FloatingPointError(f"fit: {row}, and {why}, to go back to one. {advice}") from None
    reason = f"{row}: back to the params of step {found}"
    reporter.event(step, "rolled back", reason)
    if jax.process_index() == 0:
        logger.warning("fit: %s (rollback %d of at most %d).", reason, number, most)
    nonfinite.in_a_row = 0
    return state


def _not_finite(metrics: Any) -> str:
    """Return which of the metrics are not finite, with their values."""
    wrong = []
    for name, leaf in flat(metrics).items():
        value = np.asarray(leaf)
        if np.issubdtype(value.dtype, np.inexact) and not np.isfinite(value).all():
            wrong.append(f"{name} {value[~np.isfinite(value)].flat[0]}")
    return ", ".join(wrong) or "a gradient or a param is not finite"
