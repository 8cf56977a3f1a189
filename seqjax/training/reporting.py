"""Report the progress of `fit` to its logs."""

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from seqjax.rows import Row, scalars
from seqjax.training.evaluation import EVALUATION
from seqjax.training.metrics_log import MetricsLog, flat

logger = logging.getLogger(__name__)

LogFunction = Callable[[int, dict[str, Any]], Any]
"""``(step, metrics)``: a function of the user that logs metrics by name."""


class Log(Protocol):
    """What `Reporter` needs of a log; `MetricsLog` says what each function does."""

    def begin(self, step: int, *, resumed: bool = False, again: Collection[str] = ()) -> None: ...

    def write(self, step: int, values: Mapping[str, Any]) -> None: ...

    def measured(self, step: int, name: str, rows: Sequence[Row]) -> None: ...

    def end(self) -> None: ...


class Called:
    """A log that is a function of the user. It gets numbers and arrays, without texts such as the reason of an event.

    A function that raises an error loses the metrics of that call. One warning is logged until a call succeeds again,
    and training continues.

    Example:
        >>> from seqjax.training.reporting import Called
        >>> log = Called(lambda step, metrics: print(step, metrics))
        >>> log.write(10, {"loss": np.float32(0.5), "finite": np.bool_(True)})
        10 {'loss': 0.5, 'finite': True}
        >>> log.write(11, {"event": "skipped", "reason": "loss nan"})
    """

    def __init__(self, function: LogFunction) -> None:
        self._function, self._failing = function, False

    def begin(self, step: int, *, resumed: bool = False, again: Collection[str] = ()) -> None:
        """Do nothing."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Call the function with the numbers among the values as Python's, and with arrays as NumPy's."""
        arrays = {name: np.asarray(value) for name, value in values.items() if not isinstance(value, str)}
        metrics = {name: array.item() if array.ndim == 0 else array for name, array in arrays.items()}
        if not metrics:
            return
        try:
            self._function(step, metrics)
            self._failing = False
        except Exception as error:
            if not self._failing:
                logger.warning(
                    "fit: log raised %s at step %d: %s. Its metrics are lost; training continues.",
                    type(error).__name__,
                    step,
                    " ".join(str(error).split()).rstrip("."),
                )
            self._failing = True

    def measured(self, step: int, name: str, rows: Sequence[Row]) -> None:
        """Call the function with the numbers without an axis, such as ``profile/lag_90/carry``."""
        self.write(step, {f"{name}/{quantity}": value for quantity, value in scalars(rows).items()})

    def end(self) -> None:
        """Do nothing."""


def logs_of(log: Any) -> list[Log]:
    """Return the logs that the argument of `fit` stands for.

    Raises:
        TypeError: for anything but a `MetricsLog`, a folder, a function, or a list of these.
    """
    if log is None:
        return []
    if isinstance(log, list | tuple):
        return [each for one in log for each in logs_of(one)]
    if isinstance(log, MetricsLog):
        return [log]
    if isinstance(log, str | os.PathLike):
        return [MetricsLog(log)]
    if callable(log):
        return [Called(log)]
    raise TypeError(
        f"fit(log): expected a MetricsLog, a folder, a function (step, metrics), or a list of these, got {log!r}."
    )


class Reporter:
    """Write metrics, evaluations, measurements and events of a run to its logs.

    Args:
        logs: the logs; none in a process that writes none.
        every: steps between lines of metrics.
        at: the step at which training begins.
        restored: whether the state of that step comes from a checkpoint.
        again: instruments that measure the state of that step.
    """

    def __init__(
        self, logs: Sequence[Log], every: int, at: int, restored: bool, again: Collection[str] = ()
    ) -> None:
        self._logs, self._every, self._begun = logs, every, time.monotonic()
        for log in logs:
            log.begin(at, resumed=restored, again=again)
        if restored:
            self._write(at, {"event": "resumed"})

    def due(self, step: int) -> bool:
        """Return whether the metrics of a step are logged."""
        return bool(self._logs) and step % self._every == 0

    def metrics(self, step: int, metrics: Any) -> None:
        """Log the metrics of a step, and the seconds since training began."""
        self._write(step, {**flat(metrics), "seconds": round(time.monotonic() - self._begun, 3)})

    def evaluation(self, step: int, found: Mapping[str, float]) -> None:
        """Log the metrics of an evaluation."""
        self._write(step, {EVALUATION + name: value for name, value in found.items()})

    def measured(self, step: int, name: str, rows: Sequence[Row]) -> None:
        """Log the rows of an instrument."""
        for log in self._logs:
            log.measured(step, name, rows)

    def event(self, step: int, event: str, reason: str) -> None:
        """Log an event, such as a skipped step."""
        self._write(step, {"event": event, "reason": reason})

    def end(self) -> None:
        """Close the logs."""
        for log in self._logs:
            log.end()

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        for log in self._logs:
            log.write(step, values)
