"""Measure the parts of a study, several cells at the same time."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from seqjax.study.experiment import Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.rows import Part, Row
from seqjax.study.settings import Settings
from seqjax.study.store import Store

Job = tuple[Measurement, Part]


class _Stopped(Exception):
    """A part is abandoned, because another one failed or Ctrl-C was pressed."""


class Measuring:
    """Measures parts and writes them to the store; parts that the store has are skipped.

    Attributes:
        done: the names of the parts that are measured.
    """

    def __init__(
        self,
        settings: Settings,
        data: np.ndarray | None,
        store: Store,
        advance: Callable[[float], None],
        describe: Callable[[str], None],
    ) -> None:
        self.done = store.finished()
        self._settings, self._data, self._store = settings, data, store
        self._advance, self._describe = advance, describe
        # Later sections of a cell reuse objects of earlier ones, so a cell has one experiment, in one thread at a time.
        self._experiments: dict[str | None, Experiment] = {}
        self._turns: dict[str | None, threading.Lock] = {}
        self._stop = threading.Event()

    def run(self, jobs: list[Job], workers: int | None = None) -> None:
        """Measure all parts, several cells in parallel threads; timed measurements run last and alone.

        Compilation takes most of the time, and uses one core per program.

        Args:
            jobs: jobs in the order in which they start.
            workers: number of threads; by default one per core and 8 at most.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the running computations have ended.
        """
        cells = {part.cell for _, part in jobs}
        self._experiments = {cell: self.experiment() for cell in cells}
        self._turns = {cell: threading.Lock() for cell in cells}
        groups: dict[tuple[Measurement, str | None], list[Part]] = {}
        for measurement, part in jobs:
            groups.setdefault((measurement, part.cell), []).append(part)
        alone = {key: parts for key, parts in groups.items() if key[0].timed}
        with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
            try:
                shared = [key for key in groups if key not in alone]
                for future in as_completed([pool.submit(self._group, key[0], groups[key]) for key in shared]):
                    future.result()
            except BaseException:
                self._stop.set()
                self._describe("stopping after the running computations")
                pool.shutdown(cancel_futures=True)
                raise
        for (measurement, _), parts in alone.items():
            self._group(measurement, parts)

    def experiment(self) -> Experiment:
        """Make a new experiment."""
        return Experiment(self._settings, self._data, self._store, self._advance)

    def _group(self, measurement: Measurement, parts: list[Part]) -> None:
        try:
            with self._turns[parts[0].cell]:
                for part in parts:
                    self._measure(measurement, part)
        except _Stopped:
            pass  # the thread that failed raises the error
        except BaseException:
            self._stop.set()  # at once: before the error is raised again, this thread may start its next group
            raise

    def _measure(self, measurement: Measurement, part: Part) -> None:
        told = 0.0

        def advance(work: float) -> None:
            nonlocal told
            told += work
            self._advance(work)

        def rows() -> Iterator[Row]:
            for row in measurement.measure(experiment, part):
                if self._stop.is_set():
                    raise _Stopped
                yield row

        if self._stop.is_set():
            raise _Stopped
        if part.name not in self.done:
            self._describe(str(part))
            experiment = self._experiments[part.cell]
            experiment.advance = advance
            self._store.add(part, rows())
            self.done.add(part.name)
        self._advance(measurement.work(self._settings, part) - told)
