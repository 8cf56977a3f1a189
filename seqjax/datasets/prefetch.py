"""Prefetching: batches are loaded and moved to the device while earlier steps compute."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

import jax

from seqjax.base import Batch
from seqjax.checks import check_whole
from seqjax.datasets.loader import Loader


def prefetch(
    loader: Loader | Callable[[int], Batch],
    start: int = 0,
    stop: int | None = None,
    *,
    depth: int = 2,
    place: Callable[[Any], Any] = jax.device_put,
) -> Generator[Batch, None, None]:
    """Iterate over the batches of steps start to stop - 1; a thread loads and places them ahead of their use.

    Args:
        loader: function from step to batch.
        start: the first step.
        stop: the step after the last; None for an endless iterator.
        depth: largest number of batches to load ahead.
        place: function that moves a batch to one or several devices.

    Raises:
        Exception: any exception of the loader, at the step where the loader raises it.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import prefetch, windows
        >>> [batch.xs.shape for batch in prefetch(windows(np.arange(50), batch_size=3, length=4), 5, 7)]
        [(4, 3), (4, 3)]
    """
    check_whole("prefetch(depth)", depth)
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[Any, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        step = start
        try:
            while (stop is None or step < stop) and put((place(loader(step)), None)):
                step += 1
            put((None, None))
        except BaseException as error:  # re-raised to the caller at this step
            put((None, error))

    def batches() -> Generator[Batch, None, None]:
        thread = threading.Thread(target=work, name="prefetch", daemon=True)
        thread.start()
        try:
            while True:
                batch, error = ready.get()
                if error is not None:
                    raise error
                if batch is None:
                    return
                yield batch
        finally:
            stopped.set()
            thread.join()

    return batches()
