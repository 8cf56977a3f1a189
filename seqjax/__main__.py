"""The command ``seqjax``, which is ``python -m seqjax`` as well."""

import os
import signal
import sys
import threading
import time
from typing import Any

from seqjax.install import install_command
from seqjax.interrupts import INTERRUPTED, MESSAGE, ending_at_once


def main() -> None:
    """Run the command line; where its packages are not installed, say which and how to get them."""
    sys.unraisablehook = hear
    try:
        with ending_at_once():
            from seqjax import cli
    except ModuleNotFoundError as error:
        if str(error.name).startswith("seqjax"):
            raise
        print(
            f"seqjax: the command line needs the package {error.name}: {install_command('report')}.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(MESSAGE)
        sys.exit(INTERRUPTED)
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _leave()
        else:
            _finish()
        raise


def hear(lost: Any) -> None:
    """A Ctrl-C amid a callback of the garbage collector, of which JAX has one, would be dropped: it comes again."""
    if lost.exc_type is KeyboardInterrupt:
        returned = threading.Event()
        threading.Thread(target=_send_again, args=(returned,), daemon=True).start()
        returned.set()
    else:
        sys.__unraisablehook__(lost)


def _send_again(returned: threading.Event) -> None:
    """Send Ctrl-C again as a signal, which also ends a wait, once `hear` has returned: within `hear` it is lost."""
    returned.wait()
    time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def _finish() -> None:
    """Ignore Ctrl-C from now on: the work is done, and Python would end with the status of a process that was killed.

    Several processes may wait for each other at their end, which Ctrl-C still interrupts.
    """
    if threading.current_thread() is threading.main_thread() and not _waits():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave() -> None:
    """End at once. JAX compiles in threads, which the end of Python would leave without a device: a segmentation fault.

    Several processes take leave of each other first, in the way that Python ends.
    """
    if not _waits():
        os._exit(INTERRUPTED)  # `cli.main` has flushed the output


def _waits() -> bool:
    """Return whether this is one of several processes; a command that has not imported JAX is not."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


if __name__ == "__main__":
    main()
