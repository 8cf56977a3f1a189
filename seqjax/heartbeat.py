"""Call a function once a minute while something else takes long."""

import threading
from collections.abc import Callable

EVERY = 60.0
"""Seconds between two calls."""


class Heartbeat:
    """Inside the ``with`` block a thread calls a function after each minute in which `beat` was not called.

    Args:
        tell: the function; an error of it ends the calls.
        every: seconds; `EVERY` by default.

    Example:
        >>> import threading
        >>> called = threading.Event()
        >>> with Heartbeat(called.set, every=0.01):
        ...     called.wait(10)
        True
    """

    def __init__(self, tell: Callable[[], object], every: float | None = None) -> None:
        self._tell, self._every = tell, EVERY if every is None else every
        self._again, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._again.set()
        self._thread.join()

    def beat(self) -> None:
        """Begin the minute again."""
        self._again.set()

    def _run(self) -> None:
        while not self._ended:
            if self._again.wait(self._every):
                self._again.clear()
            else:
                self._tell()
