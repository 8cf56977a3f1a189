"""Decide which states `fit` saves, resumes from and rolls back to."""

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.training.checkpoints import Checkpoints
from seqjax.training.hyperparams import Choice, chosen, hyperparams
from seqjax.training.orbax_folder import first_line

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
        choice: which hyperparams of the optimizer a resumed run uses, as `fit` takes it.
    """

    def __init__(self, checkpoints: Checkpoints | None, choice: Choice = None) -> None:
        self.checkpoints = checkpoints
        self._choice: Choice = choice
        self._given: dict[str, Any] = {}
        self._best: Checkpoints | None = None
        self._best_saved: int | None = None
        self._last: int | None = None
        self._claimed_here = False

    def start(self, state: Any) -> tuple[Any, Progress, bool]:
        """Return ``(state, progress, restored)``: the newest good state, or the given one without a checkpoint.

        Without a checkpoint the given state is saved and read back. A rollback can then return to it, and a folder that
        cannot be written, or not be read, is detected before training begins.

        Raises:
            ValueError: when the folder cannot be written, or another process writes to it; when the hyperparams of the
                optimizer differ from those that the run was given, and no choice was made.
        """
        if self.checkpoints is None:
            return state, Progress(), False
        self._claimed_here = not self.checkpoints.claimed
        self.checkpoints.claim()
        self._given = hyperparams(state)
        if self.checkpoints.steps():
            fresh, (step, state) = state, self.checkpoints.restore(state)
            notes = self.checkpoints.notes(step)
            state = chosen(state, fresh, notes.get("hyperparams"), self._choice)
            self.checkpoints.drop_from(step + 1)  # newer ones are damaged
            self._tell_versions(step)
            progress = Progress(**notes.get("progress", {}))
            self._last = step
            self._best_saved = progress.best_step
            self._miss_best(progress.best_step)
            return state, progress, True
        try:
            self._save(int(state.step), state, Progress(), good=True, scheduled=True, wait=True)
        except Exception as error:  # orbax raises many kinds of errors when a disk is full or gone
            raise ValueError(
                f"fit: the first state could not be saved in {self.checkpoints.folder}: {first_line(error)}. Make "
                "room, or choose another folder."
            ) from None
        self._last = int(state.step)
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
            self._wait_for_best()  # before this checkpoint refers to the best state
        self.wait()
        if self._last == step:  # is saved already
            return True
        if self._tried(
            lambda: self._save(step, state, progress, good=good, scheduled=scheduled, wait=wait),
            f"the state of step {step}",
        ):
            self._last = step
        return self._last == step

    def _save(
        self, step: int, state: Any, progress: Progress, *, good: bool, scheduled: bool, wait: bool
    ) -> None:
        notes = {"progress": progress._asdict(), "good": good, "scheduled": scheduled}
        if self._given:
            notes["hyperparams"] = self._given
        self.checkpoints.save(step, state, notes=notes, wait=wait)  # type: ignore[union-attr]

    def unsaved(self, step: int, best: int | None) -> str | None:
        """Return what could not be saved of the last and of the best state, or None when both are saved.

        Args:
            step: the last step.
            best: the step of the best evaluation.
        """
        if self.checkpoints is None:
            return None
        missing = [] if self._last == step else [f"the last state, of step {step}"]
        if best is not None and self._best_saved != best:
            missing.append(f"the best state, of step {best}")
        return " and ".join(missing) or None

    def save_best(self, step: int, state: Any) -> None:
        """Save the state of the best evaluation so far in the folder ``best``."""
        if self.checkpoints is None:
            return
        checkpoints = self.checkpoints

        def save() -> None:
            if self._best is None:
                self._best = checkpoints.inside("best", keep=1)
            self._best.drop_from(step)  # a killed run may have left later ones
            self._best.save(step, state)

        if self._best is not None:
            self._wait_for_best()
        self._best_saved = step if self._tried(save, f"the best state, of step {step},") else None

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
                like, where=lambda notes: bool(notes.get("good") and notes.get("scheduled"))
            )
        except FileNotFoundError:
            found, state = self.checkpoints.restore(like, where=lambda notes: bool(notes.get("good")))
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
            if not self._tried(self._best.close, "the best state"):
                self._best_saved = None
        if self.checkpoints is not None and self._claimed_here:
            self._tried(self.checkpoints.release, f"the state of step {self._last}")

    def last(self) -> int | None:
        """Return the step of the newest checkpoint."""
        return None if self.checkpoints is None else self.checkpoints.last()

    def _wait_for_best(self) -> None:
        if self._best is not None and not self._tried(self._best.wait, "the best state"):
            self._best_saved = None

    def _tell_versions(self, step: int) -> None:
        changed = self.checkpoints.changed_versions(step)  # type: ignore[union-attr]
        if changed and jax.process_index() == 0:
            logger.warning(
                "fit: the checkpoint comes from other versions: %s. Results may differ in their last bits.",
                "; ".join(changed),
            )

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
                text, last = first_line(error), self.last()
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
