"""The progress bar of training: steps done, steps per second, time left, the latest loss."""

import importlib.util
import sys
import time
from typing import Any

from seqjax.install import missing


class Bar:
    """A progress bar that is shown inside a ``with`` block.

    It is drawn a few times a second at most, because drawing takes time from training.

    Args:
        num_steps: the number of steps in all.
        done: the number of steps made before.
        shown: whether to show the bar; None shows it on a terminal if rich is installed.
    """

    def __init__(self, num_steps: int, done: int, shown: bool | None) -> None:
        self._num_steps, self._done = num_steps, done
        if shown and importlib.util.find_spec("rich") is None:
            raise missing("fit(progress=True)", "rich", "report")
        self._shown = shown if shown is not None else sys.stderr.isatty() and _has_rich()
        self._next = 0.0
        self._progress: Any = None

    def __enter__(self) -> "Bar":
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("left  {task.description}"),
                console=Console(stderr=True),
                refresh_per_second=2,
                speed_estimate_period=20,
            )
            self._task = self._progress.add_task(
                "", total=self._num_steps, completed=self._done, rate="compiling"
            )
            self._progress.start()
        return self

    def update(self, step: int, loss: Any = None) -> None:
        """Show the step, and the loss if one is given."""
        if self._progress is None or time.monotonic() < self._next and step < self._num_steps:
            return
        self._next = time.monotonic() + 0.25
        fields: dict[str, Any] = {"completed": step}
        if loss is not None:
            fields["description"] = f"loss {float(loss):.4g}"
        self._progress.update(self._task, **fields)
        speed = self._progress.tasks[0].speed
        if speed:
            rate = f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"
            self._progress.update(self._task, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None
