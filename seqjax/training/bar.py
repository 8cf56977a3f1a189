"""The progress of training: steps done, steps per second, time left, the latest loss."""

import importlib.util
import sys
import time
from typing import Any, Literal

from seqjax.heartbeat import Heartbeat
from seqjax.install import missing

Shown = bool | Literal["lines"] | None
"""Whether progress is shown, as in `seqjax.training.fit`."""


def check_shown(value: Shown) -> None:
    """Raise an error for another value of ``fit(progress)``, or without the package that shows a bar."""
    if value not in (True, False, None, "lines"):
        raise ValueError(f"fit(progress): expected True, False, None or 'lines', got {value!r}.")
    if value is True and not _has_rich():
        raise missing("fit(progress=True)", "rich", "report")


class Bar:
    """The progress that is shown inside a ``with`` block: a bar, or a line each minute.

    A bar is drawn a few times a second at most, because drawing takes time from training.

    Args:
        num_steps: the number of steps in all.
        done: the number of steps made before.
        shown: whether to show the bar; None shows it on a terminal if rich is installed. "lines" prints a line each
            minute to stderr instead.
    """

    def __init__(self, num_steps: int, done: int, shown: Shown) -> None:
        check_shown(shown)
        self._num_steps, self._done = num_steps, done
        self._shown = shown if shown is not None else sys.stderr.isatty() and _has_rich()
        self._next = 0.0
        self._progress: Any = None
        self._heartbeat = Heartbeat(self._say) if shown == "lines" else None
        self._begun, self._step, self._loss = (time.monotonic(), done), done, None

    def __enter__(self) -> "Bar":
        if self._heartbeat is not None:
            self._heartbeat.__enter__()
        elif self._shown:
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
        self._step, self._loss = step, self._loss if loss is None else loss
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
        if self._heartbeat is not None:
            self._heartbeat.__exit__()

    def _say(self) -> None:
        """Print a line; the speed is that of the last minute."""
        step, loss, now = self._step, self._loss, time.monotonic()
        (then, before), self._begun = self._begun, (now, step)
        text = f"step {step} of {self._num_steps}" + ("" if loss is None else f", loss {float(loss):.4g}")
        if step > before:
            rate = (step - before) / (now - then)
            text += f", {rate:.3g} steps/s, {(self._num_steps - step) / rate / 60:.0f} min left"
        print(text, file=sys.stderr, flush=True)


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None
