"""Decide which states `fit` saves, resumes from and rolls back to."""

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.training.checkpoints import Checkpoints

logger = logging.getLogger(__name__)


class Progress(NamedTuple):
    """The numbers that `fit` saves beside the state.

    Attributes:
        best_step: the step of the best evaluation so far.
        best_value: the value of that evaluation.
        waited: the number of evaluations since then.
        rollbacks: the number of rollbacks since the last good checkpoint.
    """

    best_step: int | None = None
    best_value: float | None = None
    waited: int = 0
    rollbacks: int = 0


class CheckpointPolicy:
    """Save and restore the states of a run of `fit`.

    A failed save is logged and training continues; earlier checkpoints remain valid.

    Args:
        checkpoints: the checkpoints of the run; None saves nothing.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self.checkpoints = checkpoints
        self._best: Checkpoints | None = None
        self._last: int | None = None

    def start(self, state: Any) -> tuple[Any, Progress, bool]:
        """Return ``(state, progress, restored)``: the newest good state, or the given one without a checkpoint.

        Without a checkpoint the given state is saved. A rollback can then return to it, and a folder that cannot be
        written is detected at once.
        """
        if self.checkpoints is None:
            return state, Progress(), False
        if self.checkpoints.steps():
            step, state = self.checkpoints.restore(state)
            self.checkpoints.drop_from(step + 1)  # newer ones are damaged
            progress = Progress(**self.checkpoints.notes(step).get("progress", {}))
            self._last = step
            self._miss_best(progress.best_step)
            return state, progress, True
        self.save(int(state.step), state, Progress(), good=True, scheduled=True, wait=True)
        return state, Progress(), False

    def save(
        self, step: int, state: Any, progress: Progress, *, good: bool, scheduled: bool, wait: bool = False
    ) -> bool:
        """Save a state in the background, and return whether the save started and all earlier ones succeeded.

        Args:
            step: the number of the step.
            state: the state after it.
            progress: is saved with the state.
            good: whether the step was finite, so that training may roll back to the state.
            scheduled: whether the step is a multiple of ``checkpoint_every``, or the last.
            wait: return after the state is written.
        """
        if self.checkpoints is None:
            return False
        if self._best is not None:
            self._tried(self._best.wait, "the best state")  # before this checkpoint refers to the best state
        self.wait()
        if self._last == step:  # is saved already
            return True
        notes = {"progress": progress._asdict(), "good": good, "scheduled": scheduled}
        checkpoints = self.checkpoints
        if self._tried(
            lambda: checkpoints.save(step, state, notes=notes, wait=wait), f"the state of step {step}"
        ):
            self._last = step
        return self._last == step

    def save_best(self, step: int, state: Any) -> None:
        """Save the state of the best evaluation so far in the folder ``best``."""
        if self.checkpoints is None:
            return
        folder = self.checkpoints.folder / "best"

        def save() -> None:
            if self._best is None:
                self._best = Checkpoints(folder, keep=1)
            self._best.drop_from(step)  # a killed run may have left later ones
            self._best.save(step, state)

        if self._best is not None:
            self._tried(self._best.wait, "the best state")
        self._tried(save, f"the best state, of step {step},")

    def roll_back(self, like: Any, **fields: int) -> tuple[int, Any]:
        """Return ``(step, state)`` of the last good checkpoint.

        Checkpoints of scheduled saves come first, because they do not depend on when a run was interrupted.

        Args:
            like: a state of the same structure.
            fields: counters of the state that get these values.

        Raises:
            FileNotFoundError: without a good checkpoint.
        """
        self.wait()
        if self.checkpoints is None:
            raise FileNotFoundError
        try:
            found, state = self.checkpoints.restore(
                like, where=lambda notes: notes["good"] and notes["scheduled"]
            )
        except FileNotFoundError:
            found, state = self.checkpoints.restore(like, where=lambda notes: notes["good"])
        counts = {name: _like(getattr(like, name), n) for name, n in fields.items() if hasattr(like, name)}
        return found, state._replace(**counts)

    def wait(self) -> None:
        """Wait until the current save has finished, and log its failure."""
        if self.checkpoints is not None and not self._tried(
            self.checkpoints.wait, f"the state of step {self._last}"
        ):
            self._last = None

    def close(self) -> None:
        """Wait until every save has finished."""
        self.wait()
        if self._best is not None:
            self._tried(self._best.close, "the best state")

    def last(self) -> int | None:
        """Return the step of the newest checkpoint."""
        steps = self.checkpoints.steps() if self.checkpoints is not None else []
        return steps[-1] if steps else None

    def _miss_best(self, step: int | None) -> None:
        """Log a warning if the best state is gone. A state of a later step is from a run that was killed after it."""
        if step is None or self.checkpoints is None or jax.process_index():
            return
        folder = self.checkpoints.folder / "best"
        there = [int(path.name) for path in folder.glob("steps/*") if path.name.isdecimal()]
        if max(there, default=-1) < step:
            logger.warning("fit: the best state, of step %d, is no longer in %s.", step, folder)

    def _tried(self, action: Any, what: str) -> bool:
        try:
            action()
        except Exception as error:  # orbax raises many kinds of errors when a disk is full or gone
            if jax.process_index() == 0:
                text = str(error).splitlines()[0] if str(error) else type(error).__name__
                last = self.last()
                kept = (
                    "there is no earlier one" if last is None else f"the last good one is that of step {last}"
                )
                logger.warning("fit: %s could not be saved: %s. Training continues; %s.", what, text, kept)
            return False
        return True


def _like(leaf: Any, value: int) -> Any:
    """Return a number with the dtype and on the devices of a leaf."""
    number = np.asarray(value, leaf.dtype)
    return jax.device_put(number, leaf.sharding) if isinstance(leaf, jax.Array) else jnp.asarray(number)
