"""Checkpoints of a run: written as a whole, and verified when they are read.

Orbax writes each checkpoint in the background, into a folder that gets its final name at the end. Orbax does not detect
a flipped byte, and casts silently to the dtype that is asked for. Every leaf is therefore saved with its SHA-256, dtype
and shape, and a checkpoint that does not agree with them counts as damaged.
"""

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from seqjax.checks import check_whole
from seqjax.files import put_text, why

# Orbax logs every save, and prints each error several times before it raises the error.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint is damaged; an older one is used."""


class Checkpoints:
    """The checkpoints of one run in one folder, newest last.

    Args:
        folder: the folder of the run; it is created if it does not exist.
        keep: how many of the newest checkpoints to keep.
        config: the configuration of the run, as JSON holds it; written beside the checkpoints. A folder with another
            configuration raises an error.

    Raises:
        ValueError: when the folder cannot be written, or belongs to a run with another configuration.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from seqjax.training import Checkpoints
        >>> with Checkpoints(tempfile.mkdtemp(), config={"cell": "lstm"}) as checkpoints:
        ...     checkpoints.save(10, {"w": jnp.arange(3.0)})
        ...     step, state = checkpoints.restore({"w": jnp.zeros(3)})
        >>> step, state["w"]
        (10, Array([0., 1., 2.], dtype=float32))
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 3, config: Mapping | None = None) -> None:
        self.folder = Path(folder).absolute()
        check_whole("Checkpoints(keep)", keep)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"Checkpoints: {self.folder} cannot be written ({why(error)}). Choose another folder."
            ) from None
        if config is not None:
            self._check_config(json.loads(json.dumps(config)))
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = self._open()

    def save(self, step: int, state: Any, *, notes: Mapping | None = None, wait: bool = False) -> None:
        """Write the state of a step in the background.

        `save` copies the state before it returns, so the memory of the state may be reused. The next call of `save`,
        `wait` or `close` raises an error of the background, such as a full disk; earlier checkpoints remain valid.

        Args:
            step: the number of the step.
            state: a pytree of arrays, random keys and numbers.
            notes: other facts about the state, as JSON holds them; `notes` reads them.
            wait: return after the state is written.
        """
        leaves = _plain(state)
        if jax.default_backend() == "cpu":  # on a CPU orbax may write from the memory of the state itself
            leaves = {name: leaf.copy() for name, leaf in leaves.items()}
        digests = {name: _described(leaf) | {"sha256": _digest(leaf)} for name, leaf in leaves.items()}
        # Orbax refuses arrays without entries.
        held = {name: leaf for name, leaf in leaves.items() if leaf.size}
        text = json.dumps(dict(notes or {}))
        about = {"leaves": digests, "notes": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        items = ocp.args.Composite(state=ocp.args.StandardSave(held), about=ocp.args.JsonSave(about))
        try:
            self._manager.save(step, args=items, force=True)
        except Exception:
            self._reopen()
            raise
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until every checkpoint is written, and raise the error of one that could not be."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception:
            self._reopen()
            raise

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def notes(self, step: int) -> dict[str, Any]:
        """Return the notes that were saved with the state of a step.

        Raises:
            ValueError: when the checkpoint is damaged.
        """
        try:
            return self._about(step)[1]
        except Exception as error:  # a damaged file makes its reader raise any kind of error
            raise ValueError(
                f"Checkpoints: the notes of {self.folder / str(step)} are damaged: {error}"
            ) from None

    def drop_from(self, step: int) -> None:
        """Remove the checkpoints from a step on, because training is about to make these steps again."""
        for later in self.steps():
            if later >= step:
                self._manager.delete(later)

    def restore(
        self, like: Any, step: int | None = None, *, where: Callable[[dict[str, Any]], bool] | None = None
    ) -> tuple[int, Any]:
        """Return ``(step, state)`` of the newest valid checkpoint, or of a given step.

        Damaged checkpoints are skipped with a `DamagedCheckpointWarning`.

        Args:
            like: a state of the same structure, shapes and dtypes, with the shardings that the result gets.
            step: restore the checkpoint of this step and no other.
            where: a function of the notes; only checkpoints for which it returns True are restored.

        Raises:
            FileNotFoundError: when there is no such checkpoint.
            ValueError: when every checkpoint is damaged, or a valid one has another structure, shape or dtype.
        """
        found = [step] if step is not None else self.steps()[::-1]
        reasons = []
        for candidate in found:
            try:
                if where is not None and not where(self.notes(candidate)):
                    continue
                state = self._read(candidate, like)
            except _MismatchError as error:
                raise ValueError(f"Checkpoints: {self.folder / str(candidate)} {error}") from None
            except Exception as error:  # a damaged file makes its reader raise any kind of error
                reasons.append(
                    f"{candidate}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                )
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

    def close(self) -> None:
        """Wait until every checkpoint is written, and close the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        handlers = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.folder / "steps", options=self._options, item_handlers=handlers)

    def _reopen(self) -> None:
        """Replace the manager, because a manager refuses further calls after an error."""
        try:
            self._manager.close()
        except Exception:  # the same error again, which the caller raises
            pass
        self._manager = self._open()

    def _read(self, step: int, like: Any) -> Any:
        wanted = _plain(like)
        about, _ = self._about(step)
        _compare(about, {name: _described(leaf) for name, leaf in wanted.items()})
        targets = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
            for name, leaf in wanted.items()
            if leaf.size
        }
        args = ocp.args.Composite(state=ocp.args.StandardRestore(targets))
        leaves = self._manager.restore(step, args=args)["state"]
        for name, leaf in leaves.items():
            if _digest(leaf) != about[name]["sha256"]:
                raise ValueError(f"{name} has another SHA-256 than when it was written")
        return _like({**wanted, **leaves}, like)

    def _about(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return shape, dtype and SHA-256 of each leaf, and the notes."""
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        if about is None:
            raise ValueError("it does not describe its leaves")
        if hashlib.sha256(about["notes"].encode()).hexdigest() != about["sha256"]:
            raise ValueError("its notes have another SHA-256 than when they were written")
        return about["leaves"], json.loads(about["notes"])

    def _check_config(self, config: Any) -> None:
        path = self.folder / "config.json"
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise ValueError(
                    f"Checkpoints: {path} is damaged. Remove it, or choose another folder."
                ) from None
            changed = "; ".join(difference(before, config))
            if changed:
                raise ValueError(
                    f"Checkpoints: {self.folder} belongs to a run with another configuration: {changed}. "
                    "Use the same configuration, or choose another folder."
                )
        elif jax.process_index() == 0:
            try:
                put_text(path, json.dumps(config, indent=2) + "\n")
            except OSError as error:
                raise ValueError(
                    f"Checkpoints: {path} cannot be written ({why(error)}). Make room, or choose another folder."
                ) from None


class _MismatchError(ValueError):
    """A valid checkpoint of another structure, shape or dtype."""


def difference(before: Any, after: Any, name: str = "") -> list[str]:
    """Return the differences between two configurations, ``name before -> after`` each.

    Example:
        >>> from seqjax.training.checkpoints import difference
        >>> difference({"model": {"cell": "lstm"}, "seed": 0}, {"model": {"cell": "gru"}, "seed": 0})
        ['model.cell lstm -> gru']
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in keys
            for line in difference(before.get(key), after.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if before == after else [f"{name} {before} -> {after}"]


def _plain(state: Any) -> dict[str, Any]:
    """Return the leaves by path: random keys as integers, Python numbers as arrays."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key_data(leaf)
        return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): plain(leaf) for path, leaf in leaves}


def _like(leaves: Mapping[str, Any], like: Any) -> Any:
    """Return the state that has these leaves by path."""

    def typed(leaf: Any, want: Any) -> Any:
        if isinstance(want, jax.Array) and jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(want))
        return leaf

    wanted, treedef = jax.tree.flatten(like)
    return jax.tree.unflatten(
        treedef, [typed(leaves[n], w) for n, w in zip(_plain(like), wanted, strict=True)]
    )


def _described(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _digest(leaf: Any) -> str:
    """Return the SHA-256 of a whole array, also of an array that is split over several processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return hashlib.sha256(np.ascontiguousarray(np.asarray(leaf)).tobytes()).hexdigest()


def _compare(about: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise an error unless a checkpoint holds the leaves that are wanted."""

    def text(leaf: Mapping[str, Any] | None) -> str:
        return "nothing" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"

    names = [*wanted, *(name for name in about if name not in wanted)]
    wrong = [
        f"{name}: expected {text(wanted.get(name))}, got {text(about.get(name))}"
        for name in names
        if text(wanted.get(name)) != text(about.get(name))
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise _MismatchError(f"does not fit: {'; '.join(wrong[:5])}{more}. Build the model that was saved.")
