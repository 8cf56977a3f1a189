"""Checkpoints that are whole or not there, that are checked when they are read, and that refuse to be misread.

Orbax writes them, in the background, each into a folder of its own that gets its name at the end. It restores a flipped
byte without a word, and casts to whatever dtype is asked for; so every leaf goes with its SHA-256, dtype and shape,
and a checkpoint that does not agree with them counts as damaged.
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

# Orbax narrates every save, and prints the errors that it then raises, several times.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint could not be read back as it was written; an older one is used."""


class Checkpoints:
    """The checkpoints of one run in one folder, newest last.

    Args:
        folder: made where it is not there.
        keep: how many of the newest are kept.
        config: of the run, as JSON goes; written beside the checkpoints. A folder with another one is refused.

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
        """Write the state of a step, in the background unless told to wait.

        The state is copied before this returns, so that its memory may be reused. An error in the background, such as a
        full disk, is raised by the next call of `save`, `wait` or `close`; checkpoints before it stay as they are.

        Args:
            step: its number.
            state: a pytree of arrays, random keys and numbers.
            notes: what else is to be known of it, as JSON goes; read with `notes`.
            wait: return when it is written.
        """
        leaves = _plain(state)
        if (
            jax.default_backend() == "cpu"
        ):  # elsewhere orbax's copy to the host is one; here it may be the same memory
            leaves = {name: leaf.copy() for name, leaf in leaves.items()}
        digests = {name: _described(leaf) | {"sha256": _digest(leaf)} for name, leaf in leaves.items()}
        held = {
            name: leaf for name, leaf in leaves.items() if leaf.size
        }  # orbax refuses arrays without entries
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
        """Return when everything is written; raise what went wrong."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception:
            self._reopen()
            raise

    def steps(self) -> list[int]:
        """The steps there are, in order."""
        return sorted(self._manager.all_steps())

    def notes(self, step: int) -> dict[str, Any]:
        """What was noted with the state of a step.

        Raises:
            ValueError: when the checkpoint is damaged.
        """
        try:
            return self._about(step)[1]
        except Exception as error:  # whatever a damaged file makes the reader say
            raise ValueError(
                f"Checkpoints: the notes of {self.folder / str(step)} are damaged: {error}"
            ) from None

    def drop_from(self, step: int) -> None:
        """Remove the checkpoints from a step on: those of a run that is about to be gone through again."""
        for later in self.steps():
            if later >= step:
                self._manager.delete(later)

    def restore(
        self, like: Any, step: int | None = None, *, where: Callable[[dict[str, Any]], bool] | None = None
    ) -> tuple[int, Any]:
        """``(step, state)`` of the newest good checkpoint, or of one step.

        Damaged checkpoints are passed over with a `DamagedCheckpointWarning`.

        Args:
            like: a state of the same structure, shapes and dtypes, with the shardings wanted.
            step: this one and no other.
            where: of their notes: only those of which it holds.

        Raises:
            FileNotFoundError: when there is no such checkpoint.
            ValueError: when every checkpoint is damaged, or one is whole and of another structure, shape or dtype.
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
            except Exception as error:  # whatever a damaged file makes the readers below say
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
        """Return when everything is written."""
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
        """A manager with an error behind it refuses to go on."""
        try:
            self._manager.close()
        except Exception:  # the error that is being raised already, once more
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
                raise ValueError(f"{name} has another SHA-256 than it was written with")
        return _like({**wanted, **leaves}, like)

    def _about(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Shape, dtype and SHA-256 of each leaf, and the notes."""
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        if about is None:
            raise ValueError("it says nothing of its leaves")
        if hashlib.sha256(about["notes"].encode()).hexdigest() != about["sha256"]:
            raise ValueError("its notes have another SHA-256 than they were written with")
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
                    "Use the same, or choose another folder."
                )
        elif jax.process_index() == 0:
            try:
                put_text(path, json.dumps(config, indent=2) + "\n")
            except OSError as error:
                raise ValueError(
                    f"Checkpoints: {path} cannot be written ({why(error)}). Make room, or choose another folder."
                ) from None


class _MismatchError(ValueError):
    """A whole checkpoint of something else."""


def difference(before: Any, after: Any, name: str = "") -> list[str]:
    """What differs between two configurations, ``name before -> after`` each.

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
    """The leaves by their paths; random keys as their numbers, Python's numbers as arrays."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key_data(leaf)
        return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): plain(leaf) for path, leaf in leaves}


def _like(leaves: Mapping[str, Any], like: Any) -> Any:
    """The state from its leaves by path."""

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
    """SHA-256 of a whole array, also of one that several processes hold together."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return hashlib.sha256(np.ascontiguousarray(np.asarray(leaf)).tobytes()).hexdigest()


def _compare(about: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise where a checkpoint holds something else than is wanted."""

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
