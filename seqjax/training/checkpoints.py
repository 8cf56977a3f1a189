"""Checkpoints of a run: one process writes them, damaged ones are skipped, and those of another run are refused.

`seqjax.training.checkpoint_storage` writes each one as a whole, and verifies it when it is read.
"""

import os
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from seqjax.checks import check_whole
from seqjax.training.checkpoint_contents import (
    MismatchError,
    as_json,
    check_fits,
    described,
    difference,
    empty_leaves,
    leaves_by_path,
    state_like,
)
from seqjax.training.checkpoint_storage import Storage
from seqjax.training.folder_lock import FolderLock
from seqjax.training.orbax_folder import first_line, remove_unfinished
from seqjax.training.run_record import RunRecord, versions


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint is damaged; an older one is used."""


class Checkpoints:
    """The checkpoints of one run in one folder, newest last.

    Reading needs no right to write, and writes nothing. The first `save` takes a lock on the folder, which `close` or
    the end of the process releases; another process that saves there raises an error. The first checkpoint is read back
    and compared before `save` returns.

    Args:
        folder: the folder of the run; the first save creates it if it does not exist.
        keep: how many of the newest checkpoints to keep.
        config: the configuration of the run, as JSON holds it. It is written to ``config.json`` and into every
            checkpoint; a folder or a checkpoint with another configuration raises an error.
        may_change: names in the configuration whose values may differ from those in the folder. Their change is logged
            under "changes" in ``config.json``, with the step of the newest checkpoint.
        paths: names in the configuration that hold a path. A checkpoint is compared by the last part of the path,
            because a run may be read on another machine.
        inputs: what else the run depends on, such as the SHA-256 of its data. It is kept in every checkpoint, and a
            checkpoint with other inputs raises an error.
        lock: the lock on the folder, if the caller holds it already.

    Raises:
        ValueError: when the folder belongs to a run with another configuration, or when the configuration cannot be
            written.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from seqjax.training import Checkpoints
        >>> with Checkpoints(tempfile.mkdtemp(), config={"cell": "lstm"}) as checkpoints:
        ...     checkpoints.save(10, {"w": jnp.arange(3.0)})
        ...     step, state = checkpoints.restore({"w": jnp.zeros(3)})
        >>> step, state["w"]
        (10, Array([0., 1., 2.], dtype=float32))
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 3,
        config: Mapping | None = None,
        may_change: Collection[str] = (),
        paths: Collection[str] = (),
        inputs: Mapping | None = None,
        lock: FolderLock | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        check_whole("Checkpoints(keep)", keep)
        self._storage = Storage(self.folder, keep)
        self._lock = FolderLock(self.folder) if lock is None else lock
        self._lock_is_own = lock is None
        self._verified = False
        self.record = RunRecord(self.folder, config, inputs, may_change, paths, self.last)
        if self.record.is_new:
            self.claim()

    def claim(self) -> None:
        """Take the lock on the folder and open it for writing. `save` does this itself.

        Raises:
            ValueError: when another process writes to the folder, or it cannot be written.
        """
        if self.claimed:
            return
        error: ValueError | None = None
        if jax.process_index() == 0:
            try:
                self._lock.acquire()
                self.record.write()
            except ValueError as caught:
                error = caught
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(error is not None)):
            error = error or ValueError(f"Checkpoints: process 0 cannot write to {self.folder}.")
        if error is not None:
            self._release_lock()
            raise error
        self._storage.close()
        self._storage.writing, self._verified = True, False
        self._tidy()
        try:
            self._storage.open()
        except OSError as failed:
            self.release()
            raise ValueError(
                f"Checkpoints: {self.folder} cannot be written ({first_line(failed)}). Choose another folder."
            ) from None

    def release(self) -> None:
        """Wait until every checkpoint is written, and release the lock. The next `save` takes the lock again."""
        try:
            if self.claimed:
                self.wait()
        finally:
            self._storage.close()
            self._tidy()
            self._storage.writing = False
            self._release_lock()

    @property
    def claimed(self) -> bool:
        """Return whether this object has the folder open for writing."""
        return self._storage.writing

    def save(self, step: int, state: Any, *, notes: Mapping | None = None, wait: bool = False) -> None:
        """Write the state of a step in the background.

        `save` copies the state before it returns, so the memory of the state may be reused. The next call of `save`,
        `wait` or `close` raises an error of the background, such as a full disk; earlier checkpoints remain valid.

        Args:
            step: the number of the step.
            state: a pytree of arrays, random keys and numbers.
            notes: other facts about the state, as JSON holds them; `notes` reads them.
            wait: return after the state is written.

        Raises:
            ValueError: when the step is saved already, when the folder cannot be written, or when the first checkpoint
                cannot be read back.
            FileNotFoundError: when the folder was removed since the last save.
        """
        self.claim()
        if jax.process_count() == 1:
            self._lock.check()
        if step in self.steps():
            raise ValueError(
                f"Checkpoints.save: step {step} is saved already in {self.folder}. Remove it by drop_from({step}), or "
                "choose another folder."
            )
        leaves = leaves_by_path(state)
        about = {
            "notes": as_json(dict(notes or {}), "Checkpoints.save(notes)"),
            "run": self.record.to_json(),
        }
        try:
            self._storage.write(step, leaves, about)
        except Exception:
            self._reopen()
            raise
        if wait or not self._verified:
            self.wait()
        if not self._verified:
            self._read_back(step, leaves)

    def wait(self) -> None:
        """Wait until every checkpoint is written, and raise the error of one that could not be."""
        try:
            self._storage.wait()
        except Exception:
            self._reopen()
            raise

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return self._storage.steps()

    def last(self) -> int | None:
        """Return the step of the newest checkpoint, or None without a checkpoint."""
        return max(self.steps(), default=None)

    def notes(self, step: int) -> dict[str, Any]:
        """Return the notes that were saved with the state of a step; raise a ValueError for a damaged checkpoint."""
        try:
            return self._storage.description(step)["notes"]
        except Exception as error:  # a damaged file makes its reader raise any kind of error
            raise ValueError(
                f"Checkpoints: the notes of {self.folder / str(step)} are damaged: {self._storage.line(error)}"
            ) from None

    def changed_versions(self, step: int) -> list[str]:
        """Return the versions that differ from those of a checkpoint, such as ``jax 0.10.1 -> 0.10.2``."""
        return difference(self._storage.description(step)["run"]["versions"], versions())

    def check_run(self) -> None:
        """Check that the newest valid checkpoint belongs to this run, without reading its state.

        Raises:
            ValueError: when it belongs to a run with another configuration or other inputs.
        """
        for step in self.steps()[::-1]:
            try:
                there = self._storage.description(step)["run"]
            except Exception:  # damaged; `restore` reports this
                continue
            try:
                self.record.check_same_run(there)
            except MismatchError as error:
                raise ValueError(f"Checkpoints: {self.folder / str(step)} {error}") from None
            return

    def drop_from(self, step: int) -> None:
        """Remove the checkpoints from a step on, because training is about to make these steps again."""
        for later in self.steps():
            if later >= step:
                self.claim()
                self._storage.delete(later)

    def restore(
        self, like: Any, step: int | None = None, *, where: Callable[[dict[str, Any]], bool] | None = None
    ) -> tuple[int, Any]:
        """Return ``(step, state)`` of the newest valid checkpoint, or of a given step.

        Damaged checkpoints are skipped with a `DamagedCheckpointWarning`.

        Args:
            like: a state of the same structure, shapes and dtypes, with the shardings of the result; None for NumPy
                arrays by path.
            step: restore the checkpoint of this step and no other.
            where: a function of the notes; only checkpoints for which it returns True are restored.

        Raises:
            FileNotFoundError: when there is no such checkpoint.
            ValueError: when every checkpoint is damaged, or a valid one has another structure, shape or dtype, or
                belongs to a run with another configuration or other inputs.
        """
        found = [step] if step is not None else self.steps()[::-1]
        reasons = []
        for candidate in found:
            try:
                if where is not None and not where(self.notes(candidate)):
                    continue
                state = self._read(candidate, like)
            except MismatchError as error:
                raise ValueError(f"Checkpoints: {self.folder / str(candidate)} {error}") from None
            except Exception as error:  # a damaged file makes its reader raise any kind of error
                reasons.append(f"{candidate}: {self._storage.line(error)}")
                continue
            if reasons:
                warnings.warn(
                    f"Damaged checkpoints in {self.folder}: {'; '.join(reasons)}. Using that of step {candidate}.",
                    DamagedCheckpointWarning,
                    stacklevel=2,
                )
            return candidate, state
        if reasons:
            raise ValueError(f"Checkpoints: all in {self.folder} are damaged: {'; '.join(reasons)}.")
        raise FileNotFoundError(f"Checkpoints: expected a checkpoint in {self.folder}, got none.")

    def inside(self, name: str, *, keep: int) -> "Checkpoints":
        """Return the checkpoints in a folder inside this one, which belong to the same run."""
        inner = Checkpoints(self.folder / name, keep=keep)
        inner.record = self.record.without_file()
        return inner

    def close(self) -> None:
        """Wait until every checkpoint is written, and release the folder."""
        self.release()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reopen(self) -> None:
        """Replace the manager, because a manager refuses further calls after an error."""
        try:
            self._storage.close()
        except Exception:  # the same error again, which the caller raises
            pass
        self._tidy()
        if self.claimed and jax.process_count() > 1:
            self._storage.open()  # all processes open a manager together

    def _tidy(self) -> None:
        """Remove unfinished checkpoints, unless the folder is no longer the one that was locked."""
        if self.claimed and self._lock.intact:
            remove_unfinished(self.folder / "steps")

    def _release_lock(self) -> None:
        if self._lock_is_own:
            self._lock.release()

    def _read(self, step: int, like: Any) -> Any:
        description = self._storage.description(step)
        self.record.check_same_run(description["run"])
        wanted = empty_leaves(description["leaves"]) if like is None else leaves_by_path(like)
        check_fits(description["leaves"], {name: described(leaf) for name, leaf in wanted.items()})
        found = {**wanted, **self._storage.read(step, description["leaves"], wanted)}
        return found if like is None else state_like(found, like)

    def _read_back(self, step: int, leaves: Mapping[str, Any]) -> None:
        """Check that the storage returns what was saved, and remove the checkpoint otherwise."""
        try:
            whole = {
                name: np.empty(leaf.shape, leaf.dtype)
                if getattr(leaf, "is_fully_addressable", True)
                else leaf
                for name, leaf in leaves.items()
            }
            self._storage.read(step, self._storage.description(step)["leaves"], whole)
        except Exception as error:
            self._reopen()
            try:
                self._storage.delete(step)
            except Exception:  # the checkpoint stays, and is skipped as damaged
                pass
            raise ValueError(
                f"Checkpoints: what was saved in {self.folder} cannot be read back ({self._storage.line(error)}). "
                "Choose another folder."
            ) from None
        self._verified = True
