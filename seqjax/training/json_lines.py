"""Append lines of JSON to a file of a run. An interrupted run may have left lines of steps after its last state."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from seqjax.files import put_text, why

logger = logging.getLogger(__name__)


class JsonLines:
    r"""A file with one JSON object per line, each of which belongs to a training step.

    Args:
        path: the file.
        key: the name of the step in an object.

    Example:
        >>> import pathlib, tempfile
        >>> from seqjax.training.json_lines import JsonLines
        >>> lines = JsonLines(pathlib.Path(tempfile.mkdtemp(), "x.jsonl"), "step")
        >>> lines.begin(lambda line: True)
        >>> lines.append(['{"step": 1}', '{"step": 2}'])
        >>> lines.begin(lambda line: line["step"] < 2)
        >>> lines.path.read_text()
        '{"step": 1}\n'
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        self._file: Any = None
        self._good = 0

    @property
    def is_open(self) -> bool:
        """Whether lines can be appended."""
        return self._file is not None

    def begin(self, kept: Callable[[Mapping[str, Any]], bool], *, new: bool = False) -> None:
        """Remove damaged lines and those that are not kept, and open the file.

        Args:
            kept: returns whether the line of an object is kept.
            new: refuse a file that has lines.

        Raises:
            ValueError: when the file cannot be read or written, or has lines and must be new.
        """
        there = self._read()
        if there and new:
            raise ValueError(
                f"MetricsLog: {self.path} holds the log of a run already, up to step {there[-1][1][self._key]}. "
                "Continue it from its checkpoints, or choose another folder."
            )
        self.end()
        try:
            put_text(self.path, "".join(text for text, line in there if kept(line)))
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise ValueError(
                f"MetricsLog: {self.path} cannot be written ({why(error)}). Choose another folder."
            ) from None
        self._good = self._file.seek(0, os.SEEK_END)

    def append(self, lines: Iterable[str]) -> None:
        """Write lines at once; where that fails, none of them is left in the file.

        Raises:
            OSError: when the file cannot be written.
        """
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(self._good)  # removes the part that was written
            self._file.seek(self._good)
            raise
        self._good = self._file.tell()

    def end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the complete lines with their objects; a crash may have cut the last line short."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ValueError(f"MetricsLog: {self.path} cannot be read ({why(error)}). Remove it.") from None
        found, damaged = [], 0
        for line in text.split("\n")[:-1]:
            try:
                value = json.loads(line)
                found.append((f"{line}\n", {**value, self._key: int(value[self._key])}))
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged += 1
        if damaged:
            logger.warning("%s: %d damaged lines were removed.", self.path, damaged)
        return found
