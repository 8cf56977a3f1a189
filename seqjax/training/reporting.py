"""Report the progress of `fit` to its log."""

import time
from collections.abc import Mapping
from typing import Any

from seqjax.training.evaluation import EVALUATION
from seqjax.training.metrics_log import MetricsLog, flat


class Reporter:
    """Write metrics, evaluations and events of a run to its log, if there is one.

    Args:
        log: the log; None in a process that writes none.
        every: steps between lines of metrics.
        at: the step at which training begins.
        restored: whether the state of that step comes from a checkpoint.
    """

    def __init__(self, log: MetricsLog | None, every: int, at: int, restored: bool) -> None:
        self._log, self._every, self._begun = log, every, time.monotonic()
        if log is not None:
            log.begin(at, resumed=restored)
            if restored:
                log.write(at, {"event": "resumed"})

    def due(self, step: int) -> bool:
        """Return whether the metrics of a step are logged."""
        return self._log is not None and step % self._every == 0

    def metrics(self, step: int, metrics: Any) -> None:
        """Log the metrics of a step, and the seconds since training began."""
        if self._log is not None:
            self._log.write(step, {**flat(metrics), "seconds": round(time.monotonic() - self._begun, 3)})

    def evaluation(self, step: int, found: Mapping[str, float]) -> None:
        """Log the metrics of an evaluation."""
        if self._log is not None:
            self._log.write(step, {EVALUATION + name: value for name, value in found.items()})

    def event(self, step: int, event: str, reason: str) -> None:
        """Log an event, such as a skipped step."""
        if self._log is not None:
            self._log.write(step, {"event": event, "reason": reason})

    def end(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.end()
