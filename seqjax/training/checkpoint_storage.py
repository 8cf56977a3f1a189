"""The storage of checkpoints: leaves and their description, written by orbax and verified when they are read.

Orbax writes each checkpoint in the background, into a folder that gets its final name at the end. Orbax does not detect
a flipped byte, and casts silently to the dtype that is asked for. Every leaf is therefore saved with its SHA-256, dtype
and shape, this description has a SHA-256 of its own, and a checkpoint that does not agree with them counts as damaged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from seqjax.training.checkpoint_contents import described, digest, sealed, unsealed
from seqjax.training.orbax_folder import StoragePath, first_line, open_manager


class Storage:
    """The checkpoints in the folder ``steps`` of a run, by step.

    Orbax' manager of the folder is opened when it is needed. It refuses further calls after an error: `close` it then.

    Args:
        folder: the absolute path of the folder of the run.
        keep: how many of the newest checkpoints to keep.

    Attributes:
        writing: whether the manager is opened for writing; set it while the manager is closed.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._path, self._keep = StoragePath(folder), keep
        self._manager: ocp.CheckpointManager | None = None
        self.writing = False

    def open(self) -> ocp.CheckpointManager:
        """Return the manager, which all processes open together."""
        if self._manager is None:
            self._manager = open_manager(self._path.path / "steps", self._keep, writing=self.writing)
        return self._manager

    def close(self) -> None:
        """Close the manager, after everything is written."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            manager.close()

    def wait(self) -> None:
        """Wait until everything is written, and raise the error of what could not be."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        if not self.writing:
            if not (self._path.folder / "steps").is_dir():
                return []
            self.open().reload()  # another process may write
        return sorted(self.open().all_steps())

    def delete(self, step: int) -> None:
        """Remove the checkpoint of a step."""
        self.open().delete(step)

    def write(self, step: int, leaves: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write leaves by path in the background, with a description of them and what else it holds."""
        if jax.default_backend() == "cpu":  # on a CPU orbax may write from the memory of the state itself
            leaves = {name: leaf.copy() for name, leaf in leaves.items()}
        description = {
            # The place of a leaf is its name in storage, where a name may be no path.
            "leaves": {
                name: described(leaf) | {"sha256": digest(leaf), "stored": str(number)}
                for number, (name, leaf) in enumerate(leaves.items())
            },
            **about,
        }
        # Orbax refuses arrays without entries.
        held = {str(number): leaf for number, leaf in enumerate(leaves.values()) if leaf.size}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(held), about=ocp.args.JsonSave(sealed(description))
        )
        self.open().save(step, args=items, force=True)

    def description(self, step: int) -> dict[str, Any]:
        """Return the description of a checkpoint: its leaves, and what else `write` was given."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return unsealed(self.open().restore(step, args=args)["about"])

    def read(self, step: int, about: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the leaves of a checkpoint by path, placed as the wanted ones, after a check of their SHA-256."""
        targets = {
            about[name]["stored"]: leaf
            if isinstance(leaf, np.ndarray)
            else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
            for name, leaf in wanted.items()
            if leaf.size
        }
        args = ocp.args.Composite(state=ocp.args.StandardRestore(targets))
        stored = self.open().restore(step, args=args)["state"]
        leaves = {name: stored[about[name]["stored"]] for name, leaf in wanted.items() if leaf.size}
        for name, leaf in leaves.items():
            if described(leaf) != described(wanted[name]) or digest(leaf) != about[name]["sha256"]:
                raise ValueError(f"{name} has another SHA-256 than when it was written")
        return leaves

    def line(self, error: Exception) -> str:
        """Return the beginning of an error's text in one line, with the folder as the user has written it."""
        return first_line(ValueError(self._path.spelled(str(error)) or type(error).__name__))
