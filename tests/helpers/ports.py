"""Choose a free port for processes that connect to each other."""

import contextlib
import socket


@contextlib.contextmanager
def reserved_port():
    """A free port of this machine, which nobody else is given meanwhile; whoever is told of it may listen there.

    JAX's coordinator shares ports (SO_REUSEPORT), so it need not be let go before.
    """
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]
