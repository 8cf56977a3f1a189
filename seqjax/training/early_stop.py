"""Early stopping: which evaluation is the best, and when training ends before its last step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from seqjax.checks import check_at_least, check_one_of, check_whole_or_none
from seqjax.training.checkpoint_policy import Progress


@dataclass(frozen=True)
class EarlyStop:
    """Which evaluation is the best, and when to stop before the last step.

    Attributes:
        metric: the name of a metric that the evaluation returns.
        mode: whether a smaller ("min") or a larger ("max") value is better.
        patience: stop after this many evaluations in a row without a better one; None never stops.
        min_change: the smallest improvement on the best value that counts as better.
        target: stop when the best value reaches this one; None never stops.

    Raises:
        ValueError: for another mode, a patience below 1 or a negative change.
    """

    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    min_change: float = 0.0
    target: float | None = None

    def __post_init__(self) -> None:
        check_one_of("EarlyStop(mode)", self.mode, ("min", "max"))
        check_whole_or_none("EarlyStop(patience)", self.patience)
        check_at_least("EarlyStop(min_change)", self.min_change, 0)

    def better(self, value: float, best: float | None) -> bool:
        """Return whether a value is better than the best so far; a value that is not finite never is."""
        sign = 1 if self.mode == "min" else -1
        return math.isfinite(value) and (best is None or sign * value < sign * best - self.min_change)

    def reason(self, progress: Progress) -> str | None:
        """Return why training stops now, or None when it continues."""
        best = progress.best_value
        sign = 1 if self.mode == "min" else -1
        if best is not None and self.target is not None and sign * best <= sign * self.target:
            return f"{self.metric} reached {best:.6g} (target {self.target:g})"
        if self.patience is not None and progress.waited >= self.patience:
            return f"no better {self.metric} in {progress.waited} evaluations"
        return None

    def judge(self, found: Mapping[str, float], progress: Progress, step: int) -> Progress:
        """Return the progress after an evaluation at a step.

        Raises:
            ValueError: when the evaluation lacks the metric.
        """
        if self.metric not in found:
            names = ", ".join(map(repr, found)) or "nothing"
            raise ValueError(
                f"fit: expected evaluate to return {self.metric!r}, by which the best is known, got {names}. "
                "Name another metric with early_stop=EarlyStop(metric=...)."
            )
        value = float(found[self.metric])
        if self.better(value, progress.best_value):
            return progress._replace(best_step=step, best_value=value, waited=0)
        return progress._replace(waited=progress.waited + 1)
