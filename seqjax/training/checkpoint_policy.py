"""What `fit` keeps on disk: the state now and then, the best one, and what it needs to go on from either."""

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.training.checkpoints import Checkpoints

logger = logging.getLogger(__name__)


class Progress(NamedTuple):
    """What `fit` remembers beside the state; saved with it.

    Attributes:
        best_step: the step of the best evaluation so far.
        best_value: its value.
        waited: evaluations since then.
        rollbacks: since the last good checkpoint.
    """

    best_step: int | None = None
    best_value: float | None = None
    waited: int = 0
    rollbacks: int = 0


class CheckpointPolicy:
    """Saves for `fit`: an error is said and training goes on, for the checkpoints before it are as good as they were.

    Args:
        checkpoints: of the run; None to keep nothing.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self.checkpoints = checkpoints
        self._best: Checkpoints | None = None
        self._last: int | None = None

    def start(self, state: Any) -> tuple[Any, Progress, bool]:
        """Return the newest good state, what was noted with it, and whether it is from a checkpoint.

        Without any the given state is saved, so that a rollback has a place to go back to, and so that a folder that
        cannot be written is noticed at once.
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
        """Whether it was saved; in the background only, whether the one before was."""
        if self.checkpoints is None:
            return False
        if self._best is not None:
            self._tried(self._best.wait, "the best state")  # before anything refers to it
        self.wait()
        if self._last == step:  # is there
            return True
        notes = {"progress": progress._asdict(), "good": good, "scheduled": scheduled}
        checkpoints = self.checkpoints
        if self._tried(
            lambda: checkpoints.save(step, state, notes=notes, wait=wait), f"the state of step {step}"
        ):
            self._last = step
        return self._last == step

    def save_best(self, step: int, state: Any) -> None:
        """The state whose evaluation was the best so far, in a folder ``best`` of its own."""
        if self.checkpoints is None:
            return
        folder = self.checkpoints.folder / "best"

        def save() -> None:
            if self._best is None:
                self._best = Checkpoints(folder, keep=1)
            self._best.drop_from(step)  # of a run that was killed after it
            self._best.save(step, state)

        if self._best is not None:
            self._tried(self._best.wait, "the best state")
        self._tried(save, f"the best state, of step {step},")

    def roll_back(self, like: Any, **fields: int) -> tuple[int, Any]:
        """``(checkpoint's step, state)``: the last good state, with some of its counts set anew.

        Those of scheduled saves come first, because they do not depend on when a run was interrupted.

        Raises:
            FileNotFoundError: when there is none.
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
        """Until the state is written that is being written; say so if it cannot be."""
        if self.checkpoints is not None and not self._tried(
            self.checkpoints.wait, f"the state of step {self._last}"
        ):
            self._last = None

    def close(self) -> None:
        """Until all is written."""
        self.wait()
        if self._best is not None:
            self._tried(self._best.close, "the best state")

    def last(self) -> int | None:
        """The step of the newest checkpoint."""
        steps = self.checkpoints.steps() if self.checkpoints is not None else []
        return steps[-1] if steps else None

    def _miss_best(self, step: int | None) -> None:
        """Say so if the best state is gone; one of a later step is that of a run that was killed after it."""
        if step is None or self.checkpoints is None or jax.process_index():
            return
        folder = self.checkpoints.folder / "best"
        there = [int(path.name) for path in folder.glob("steps/*") if path.name.isdecimal()]
        if max(there, default=-1) < step:
            logger.warning("fit: the best state, of step %d, is no longer in %s.", step, folder)

    def _tried(self, action: Any, what: str) -> bool:
        try:
            action()
        except Exception as error:  # whatever orbax makes of a disk that is full, or gone
            if jax.process_index() == 0:
                text = str(error).splitlines()[0] if str(error) else type(error).__name__
                last = self.last()
                kept = (
                    "there is none before it" if last is None else f"the last good one is that of step {last}"
                )
                logger.warning("fit: %s could not be saved: %s. Training goes on; %s.", what, text, kept)
            return False
        return True


def _like(leaf: Any, value: int) -> Any:
    """A number in the place and with the dtype of another."""
    number = np.asarray(value, leaf.dtype)
    return jax.device_put(number, leaf.sharding) if isinstance(leaf, jax.Array) else jnp.asarray(number)
