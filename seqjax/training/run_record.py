"""The record of a run: its configuration, what else it depends on, and what was changed since it began."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax

from seqjax.files import put_text, read_json, why
from seqjax.training.checkpoint_contents import MismatchError, as_json, difference
from seqjax.version import __version__

CHANGES = "changes"
"""The key of ``config.json`` that lists the changes since the run began."""


def versions() -> dict[str, str]:
    """Return the versions that the bits of a run depend on, and the kind of device.

    Example:
        >>> from seqjax.training.run_record import versions
        >>> list(versions())
        ['seqjax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'device']
    """
    modules = {"jax": jax, "jaxlib": jaxlib, "flax": flax, "optax": optax, "numpy": np}
    found = {name: module.__version__ for name, module in modules.items()}
    return {"seqjax": __version__, **found, "device": jax.devices()[0].device_kind}


def read_config(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the configuration in a ``config.json``, and the changes that are listed there.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it holds no configuration.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError("it holds no object")
    changes = config.pop(CHANGES, [])
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        raise ValueError(f"expected a list of changes under {CHANGES!r}")
    return config, changes


class RunRecord:
    """The configuration and the inputs of the run in a folder.

    Args:
        folder: the folder of ``config.json``.
        config: the configuration; None compares and writes none.
        inputs: what else the run depends on; None compares none.
        may_change: names in the configuration whose change is logged and allowed.
        paths: names in the configuration that hold a path.
        last: returns the step of the newest checkpoint.

    Raises:
        ValueError: when the folder has another configuration.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping | None,
        inputs: Mapping | None,
        may_change: Collection[str],
        paths: Collection[str],
        last: Callable[[], int | None],
    ) -> None:
        self._path = folder / "config.json"
        self.config = None if config is None else as_json(dict(config), "Checkpoints(config)")
        self._inputs = None if inputs is None else as_json(dict(inputs), "Checkpoints(inputs)")
        self.changes: list[dict[str, Any]] = []
        self.is_new, self._paths = False, paths
        if self.config is None:
            return
        if CHANGES in self.config:
            raise ValueError(
                f"Checkpoints(config): expected no entry {CHANGES!r}, which logs changes. Rename it."
            )
        if self._path.exists():
            self._compare(self.config, may_change, last)
        else:
            self.is_new = True

    def _compare(
        self, config: dict[str, Any], may_change: Collection[str], last: Callable[[], int | None]
    ) -> None:
        try:
            before, self.changes = read_config(self._path)
        except ValueError:
            raise ValueError(
                f"Checkpoints: {self._path} is damaged. Remove it, or choose another folder."
            ) from None
        names = [name for name in {**before, **config} if before.get(name) != config.get(name)]
        refused = [name for name in names if name not in may_change]
        if refused:
            lines = [
                line for name in refused for line in difference(before.get(name), config.get(name), name)
            ]
            raise ValueError(
                f"Checkpoints: {self._path.parent} belongs to a run with another configuration: {'; '.join(lines)}. "
                "Use the same configuration, or choose another folder."
            )
        if names:
            values = {name: [before.get(name), config.get(name)] for name in names}
            self.changes = [*self.changes, {"after_step": last() or 0, **values}]
            self.is_new = True

    def write(self) -> None:
        """Write ``config.json``, if it is new or has changed.

        Raises:
            ValueError: when the file cannot be written.
        """
        if not self.is_new:
            return
        config = self.config or {}
        if not self.changes and self._path.exists():  # another run was here since this object was made
            self._compare(config, (), lambda: None)
        content = config if not self.changes else {**config, CHANGES: self.changes}
        try:
            put_text(self._path, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise ValueError(
                f"Checkpoints: {self._path} cannot be written ({why(error)}). Make room, or choose another folder."
            ) from None
        self.is_new = False

    def without_file(self) -> "RunRecord":
        """Return the same record for a folder inside, which has no ``config.json`` of its own."""
        inner = RunRecord(self._path.parent, None, None, (), self._paths, lambda: None)
        inner.config, inner._inputs, inner.changes = self.config, self._inputs, self.changes
        return inner

    def to_json(self) -> dict[str, Any]:
        """Return what every checkpoint holds of the run."""
        return {
            "config": self.config,
            CHANGES: self.changes,
            "inputs": self._inputs,
            "versions": versions(),
        }

    def check_same_run(self, there: Mapping[str, Any]) -> None:
        """Check that a checkpoint belongs to this run, as it was before the changes since then.

        Args:
            there: what `to_json` has returned for the checkpoint.

        Raises:
            MismatchError: for another configuration, or other inputs.
        """
        lines = []
        if self.config is not None and there["config"] is not None:
            before = {**there["config"], CHANGES: there[CHANGES]}
            lines += difference(self._named(before), self._named(self._before(len(there[CHANGES]))))
        if self._inputs is not None and there["inputs"] is not None:
            lines += difference(there["inputs"], self._inputs)
        if lines:
            raise MismatchError(
                f"belongs to a run with another configuration or other inputs: {'; '.join(lines)}. Restore them, or "
                "begin a run in another folder."
            )

    def _named(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a configuration with the last part of each path."""
        short = {
            name: config[name].replace("\\", "/").rpartition("/")[2]
            for name in self._paths
            if isinstance(config.get(name), str)
        }
        return {**config, **short}

    def _before(self, number: int) -> dict[str, Any]:
        """Return the configuration as it was after the first changes of that number."""
        config = dict(self.config or {})
        for change in self.changes[number:][::-1]:
            for name, values in change.items():
                if name != "after_step" and isinstance(values, list) and len(values) == 2:
                    before, after = values
                    if config.get(name) == after:
                        config[name] = before
        return {**config, CHANGES: self.changes[:number]}
