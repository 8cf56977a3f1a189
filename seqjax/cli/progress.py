"""The progress of a command: a bar on a terminal, otherwise one line per finished part, and one each minute."""

import threading
import time

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from seqjax.heartbeat import Heartbeat


class Lines:
    """The progress of a command without a terminal, with the functions of `rich.progress.Progress` that commands call.

    A part is finished when its thread begins the next one. Lines go to stderr, so that stdout has the results alone.
    """

    def __init__(self) -> None:
        self._total, self._completed = 0.0, 0.0
        self._parts: dict[int, str] = {}
        self._lock = threading.Lock()
        self._heartbeat = Heartbeat(self._still)

    def __enter__(self) -> "Lines":
        self._begun = time.monotonic()
        self._heartbeat.__enter__()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._heartbeat.__exit__()
        for part in self._parts.values() if error is None else ():
            self._say(part)

    def add_task(self, description: str, total: float = 100.0) -> TaskID:
        """Begin the only task; its number is 0."""
        self._total = total
        return TaskID(0)

    def update(
        self,
        job: TaskID,
        *,
        description: str | None = None,
        completed: float | None = None,
        total: float | None = None,
    ) -> None:
        """Begin another part, whose predecessor in this thread is finished then."""
        with self._lock:
            self._total = self._total if total is None else total
            self._completed = self._completed if completed is None else completed
            if description is None:
                return
            before = self._parts.pop(threading.get_ident(), None)
            if before is not None:
                self._say(before)
            if total is None or completed is None or completed < total:
                self._parts[threading.get_ident()] = description

    def advance(self, job: TaskID, work: float) -> None:
        """Add finished work."""
        with self._lock:
            self._completed += work

    def _still(self) -> None:
        with self._lock:
            self._say(f"still {', '.join(self._parts.values()) or 'starting'}")

    def _say(self, text: str) -> None:
        share = 100 * min(self._completed / self._total, 1.0) if self._total else 0.0
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        typer.echo(f"{share:3.0f}% {minutes}:{seconds:02} {text}", err=True)
        self._heartbeat.beat()


def progress_of(console: Console) -> Progress | Lines:
    """Return a bar with the fraction done, the time elapsed and the time left, or lines without a terminal."""
    if not console.is_terminal:
        return Lines()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)
