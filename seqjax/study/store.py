"""The folder of a study while it is measured: its summary, one file per finished part, and the merged results."""

import hashlib
import io
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from seqjax.files import put, put_text
from seqjax.study.reading import (
    PARTS,
    RESULTS,
    SUMMARY,
    digests_of,
    read_merged,
    read_parts,
    read_summary,
)
from seqjax.study.record import DamagedError, Record, changes_until, check_same, sealed
from seqjax.study.rows import REMEDY, SCHEMA, Part, in_order, write_rows
from seqjax.study.sealed_files import is_sealed, put_sealed, read_sealed, stem_of
from seqjax.training.folder_lock import NAME as LOCK
from seqjax.training.folder_lock import FolderLock

WEIGHTS = "weights"


class DamagedResultsWarning(UserWarning):
    """A file of a study is damaged; what it held is measured again."""


class Store:
    """The folder of a study. One process at a time writes to it, and any number of processes read from it.

    ``summary.json`` holds the record of the study and is under a SHA-256. The truth about an unfinished study is in
    ``parts/``, one file per part with its SHA-256 in its name; ``weights/`` holds trained params. A complete study has
    its rows in ``results.parquet`` instead, with its SHA-256 in the summary. Every file is written as a whole.

    Args:
        folder: the folder.
        warn: called with one line for every damaged file; by default it issues a `DamagedResultsWarning`.

    Attributes:
        record: what the results depend on, as `open` received it.
        changes: the changes of versions since the study began, each with the digest of the record before it.
        started: when the study that is continued began; None for a new one.
    """

    def __init__(self, folder: str | Path, warn: Callable[[str], None] | None = None) -> None:
        self.folder = Path(folder)
        self.record = Record({}, {}, {})
        self.changes: list[dict[str, Any]] = []
        self.started: str | None = None
        self._lock, self._turn = FolderLock(self.folder, "--out"), threading.Lock()
        self._warn = warn or (lambda text: warnings.warn(text, DamagedResultsWarning, stacklevel=3))

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write to the folder."""
        self._lock.release()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The content of ``summary.json``, see `read_summary`."""
        return read_summary(self.folder)

    def finished(self) -> set[str]:
        """Return the names of the parts that are measured."""
        return set(self._rows()["part"].unique())

    # ---------------------------------------------------------------- opening

    def open(self, record: Record, *, resume: bool, overwrite: bool, other_versions: bool = False) -> None:
        """Lock the folder for a study, and check what it holds; only `overwrite` deletes results.

        Damaged files are deleted, each with a warning; `finished` does not have their parts.

        Args:
            record: what the results depend on.
            resume: continue the study in the folder.
            overwrite: replace the study in the folder.
            other_versions: log other versions and another device in the summary, instead of refusing them.

        Raises:
            ValueError: for a folder with other files, with results already, or with results of another record; when
                another process writes to the folder.
        """
        self._check(record, resume, overwrite, other_versions)
        self._lock.acquire()
        try:
            # Another process may have begun a study in between.
            before = self._check(record, resume, overwrite, other_versions)
            if overwrite:
                self._clear(SUMMARY, "index.html", RESULTS, PARTS, WEIGHTS, "figures")
            self._prepare()
            if before is None and resume and self._begun():
                self._warn(
                    f"{self.folder / SUMMARY} is damaged or missing. Parts are kept that were measured with these "
                    "settings, inputs and versions; others are measured again."
                )
            self.record, self.changes = record, [] if before is None else changes_until(before, record)
            self.started = None if before is None else before.get("started")
            if before is not None and before.get("complete"):
                self._reopen(before)
            self._drop_damaged()
            self.finished()  # raises an error where another version of seqjax wrote the results
        except BaseException:
            self.close()
            raise

    def _check(
        self, record: Record, resume: bool, overwrite: bool, other_versions: bool
    ) -> dict[str, Any] | None:
        """Return the summary of the study that is continued; None where there is none, or it is damaged."""
        if resume and overwrite:
            raise ValueError(
                "--resume continues a report, --overwrite replaces it: expected one of them, got both."
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--out: expected a folder, got the file {self.folder}. Choose another name.")
        if not self._begun():
            # An interruption in the first second leaves folders without files.
            if any(not (path.is_dir() or _is_temporary(path)) for path in self.folder.rglob("*")):
                raise ValueError(
                    f"--out: {self.folder} is not empty and holds no report. Choose another folder."
                )
            return None
        if overwrite:
            return None
        if not resume:
            raise ValueError(
                f"--out: {self.folder} holds a report already. Add --resume to continue it, --overwrite to replace it, "
                "or choose another folder."
            )
        try:
            before = self.summary
        except DamagedError:
            return None
        if before is not None:
            check_same(before, record, self.folder, other_versions)
        return before

    def _begun(self) -> bool:
        """Return whether there is a study in the folder."""
        return (self.folder / SUMMARY).exists() or any(
            map(is_sealed, (self.folder / PARTS).glob("*.parquet"))
        )

    def _prepare(self) -> None:
        """Make the folders, and remove what a killed process left behind."""
        try:
            for name in (PARTS, WEIGHTS):
                (self.folder / name).mkdir(exist_ok=True)
            for place in (self.folder, *(self.folder / name for name in (PARTS, WEIGHTS, "figures"))):
                for path in place.glob(".*.part"):
                    path.unlink(missing_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"--out: {self.folder} cannot be written ({error.strerror}). Choose another folder."
            ) from None

    def _reopen(self, before: Mapping[str, Any]) -> None:
        """Make the rows of a complete study a part of its continuation."""
        self._clear(PARTS)
        (self.folder / PARTS).mkdir()
        try:
            put_sealed(
                self.folder / PARTS, "all", ".parquet", read_merged(self.folder, before), self.record.digest
            )
        except DamagedError as error:
            self._warn(f"{str(error).removesuffix(' ' + REMEDY)} All parts are measured again.")

    def _drop_damaged(self) -> None:
        """Delete every part and every weights file that is damaged, with a warning."""
        for folder, again in ((PARTS, "Its part is measured again"), (WEIGHTS, "Its model is trained again")):
            for path in sorted((self.folder / folder).iterdir()):
                try:
                    read_sealed(path, self._keys())
                except (DamagedError, OSError) as error:
                    self._warn(f"{error}. {again}.")
                    _remove(path)

    def _clear(self, *names: str) -> None:
        for name in names:
            _remove(self.folder / name)

    def _keys(self) -> list[str]:
        return digests_of({"digest": self.record.digest, "changes": self.changes})

    def _rows(self) -> pl.DataFrame:
        return read_parts(self.folder, self._keys())

    # ---------------------------------------------------------------- writing

    def add(self, part: Part, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows of one finished part; a row without its own tags gets those of the part."""
        tags = dict.fromkeys(SCHEMA) | {"part": part.name} | part.tags()
        self.add_rows(part.name, pl.DataFrame([tags | dict(row) for row in rows], schema=SCHEMA))

    def add_rows(self, name: str, rows: pl.DataFrame) -> None:
        """Write rows under a name of any letters, in place of the rows that were written under that name."""
        self._put(PARTS, name, ".parquet", write_rows(rows))

    def merge(self) -> pl.DataFrame:
        """Write the rows of all parts to ``results.parquet``, and return them. The parts stay as they are."""
        self._own()
        rows = in_order(self._rows())
        self._write(write_rows(rows))
        return rows

    def save_weights(self, name: str, leaves: Iterable[Any]) -> None:
        """Write trained params for later sections; they are deleted when the study is complete."""
        buffer = io.BytesIO()
        np.savez(buffer, *(np.asarray(leaf) for leaf in leaves))
        self._put(WEIGHTS, name, ".npz", buffer.getvalue())

    def load_weights(self, name: str) -> list[np.ndarray] | None:
        """Read the arrays that `save_weights` wrote under that name; None where they are missing or damaged."""
        for path in (self.folder / WEIGHTS).glob(f"{stem_of(name)}.*.npz"):
            try:
                content = read_sealed(path, self._keys())
            except (DamagedError, OSError) as error:
                self._warn(f"{error}. Its model is trained again.")
                continue
            with np.load(io.BytesIO(content)) as file:
                return [file[key] for key in file.files]
        return None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace ``summary.json``. When the study is complete, merge and delete the parts, and delete the weights.

        Args:
            summary: the content, with "complete". The record of the study and the digests are added.
        """
        content = {**summary, "settings": self.record.settings, "inputs": self.record.inputs}
        content |= {"versions": self.record.versions, "changes": self.changes, "digest": self.record.digest}
        if content["complete"]:
            table = write_rows(in_order(self._rows()))
            content["results_sha256"] = hashlib.sha256(table).hexdigest()
            # Until the summary below says that the study is complete, the parts are what is read.
            self._write(table)
        self._own()
        put_text(self.folder / SUMMARY, sealed(content))
        if content["complete"]:
            self._clear(PARTS, WEIGHTS)

    def _put(self, folder: str, name: str, suffix: str, content: bytes) -> None:
        self._own()
        (self.folder / folder).mkdir(exist_ok=True)
        put_sealed(self.folder / folder, name, suffix, content, self.record.digest)

    def _write(self, table: bytes) -> None:
        self._own()
        put(self.folder / RESULTS, lambda place: place.write_bytes(table))

    def _own(self) -> None:
        """Make sure that this process alone writes to the folder."""
        with self._turn:
            self._lock.acquire()
            self._lock.check()


def _is_temporary(path: Path) -> bool:
    """Return whether this is a file that a killed process leaves behind."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(".part"))


def _remove(path: Path) -> None:
    """Delete a file, or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
