"""End training at Ctrl-C or SIGTERM, after the current step is made and its state is saved."""

import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)


class StopSignals:
    """Inside a ``with`` block SIGTERM and SIGINT only ask for a stop; the second SIGINT interrupts at once.

    The earlier handlers are restored afterwards. Nothing changes outside the main thread, where Python allows no
    handlers, and for signals that were ignored before, as under nohup. With several processes a signal to one of them
    stops all of them at the same step: `jax.distributed` handles SIGTERM, and SIGINT is sent on as SIGTERM.

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
        """Return the name of the signal that asked for the stop; it is SIGTERM in the other processes."""
        return signal.Signals(self._received or signal.SIGTERM).name

    def asked(self) -> bool:
        """Return whether to stop now. Every process calls this once after every step."""
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


def stop(name: str, step: int, folder: Path | None, saved: bool, last: int | None, how: str) -> NoReturn:
    """End the program at a signal, with a message that says how to resume.

    Args:
        name: the name of the signal.
        step: the last step.
        folder: the folder of the checkpoints; None without any.
        saved: whether the state of the last step is saved.
        last: the step of the newest checkpoint.
        how: how to resume.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for SIGTERM, with status 143.
    """
    if folder is None:
        text = f"{name}: stopped after step {step}. Nothing was saved, because fit has no checkpoints."
    elif saved:
        text = (
            f"{name}: stopped after step {step}, which is saved in {folder}. "
            f"To resume, {how}: training continues from there, to the same result."
        )
    else:
        text = (
            f"{name}: stopped after step {step}, which could not be saved. To resume from step {last}, {how}, "
            f"once {folder} can be written."
        )
    if name == "SIGINT":
        raise KeyboardInterrupt(text)
    if jax.process_index() == 0:
        logger.warning("fit: %s", text)
    raise SystemExit(128 + signal.SIGTERM)
