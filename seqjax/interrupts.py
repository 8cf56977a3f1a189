"""Ctrl-C while modules are imported."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

INTERRUPTED = 130
"""The exit status after Ctrl-C, which shells give as 128 plus the number of the signal."""
MESSAGE = "seqjax: interrupted.\n"


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside the ``with`` block Ctrl-C ends the process: modules turn a KeyboardInterrupt into errors of their own."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        os.write(2, MESSAGE.encode())
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
