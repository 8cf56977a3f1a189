"""Ctrl-C and SIGTERM end training after a step, once its state is saved."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignals:
    """While entered, SIGTERM and SIGINT only ask for a stop; the second SIGINT interrupts at once.

    Handlers are those from before once it is left. Outside of the main thread, where Python allows no handlers,
    and for signals that were ignored (as under nohup), nothing is changed. With several processes a signal to
    one of them stops all at the same step: `jax.distributed` listens to SIGTERM, and SIGINT is turned into it.

    Example:
        >>> import signal
        >>> from seqjax.training.signals import StopSignals
        >>> with StopSignals() as signals:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     signals.asked(), signals.name
        (True, 'SIGTERM')
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._asked = False
        self._calls = 0
        self._several = jax.process_count() > 1
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """Of the signal that asks for the stop; other processes than the one that got it see SIGTERM."""
        return signal.Signals(self._received or signal.SIGTERM).name

    def asked(self) -> bool:
        """Whether to stop now; called once after every step, by every process."""
        if self._several and not self._asked:
            self._calls += 1
            self._asked = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt("Interrupted twice: stopped at once, without saving.")
        self._received = number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._asked = True
