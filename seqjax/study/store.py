"""The folder of a study: its summary, one file per finished part, and the merged results."""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from seqjax.files import put, put_text

SCHEMA: dict[str, Any] = {
    "part": pl.String,
    "section": pl.String,
    "cell": pl.String,
    "length": pl.Int32,
    "seed": pl.Int32,
    "training_step": pl.Int32,
    "loss": pl.String,
    "quantity": pl.String,
    "leaf": pl.String,
    "group": pl.String,
    "note": pl.String,
    "t": pl.Int32,
    "x": pl.Float64,
    "value": pl.Float64,
}
"""The columns of ``results.parquet``, one row per number measured; null where a column does not apply.

``t`` counts time steps, lags or places in a list; ``x`` is any other abscissa; ``group`` distinguishes rows of one
quantity (a method, a dtype, an algorithm, a task); ``note`` gives the reason why something was not measured.
"""


Row = dict[str, Any]
"""One row of results by column."""


class Part(NamedTuple):
    """A unit of measurement and storage: the rows of a section for one cell, length and seed, as far as these apply."""

    section: str
    cell: str | None = None
    length: int | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        """The part as one word, such as ``training/lstm/64/0``."""
        return "/".join("" if value is None else str(value) for value in self).rstrip("/")

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"seed {self.seed}"
        length = "" if self.length is None else f"T = {self.length}"
        return ", ".join(filter(None, (self.section.replace("_", " "), self.cell, length, seed)))

    def tags(self) -> dict[str, Any]:
        """Return the columns that all rows of the part have in common."""
        return self._asdict()


def row(quantity: str, value: Any, **columns: Any) -> Row:
    """Return one row of results: the columns of `SCHEMA` that apply, without those of the part."""
    return columns | {"quantity": quantity, "value": float(value)}


def read_results(path: Path) -> pl.DataFrame:
    """Return the rows of a Parquet file that `Store` wrote.

    Raises:
        ValueError: for a file that lacks a column of `SCHEMA`.
    """
    absent = set(SCHEMA) - set(pl.read_parquet_schema(path))
    if absent:
        raise ValueError(
            f"{path} has no column {', '.join(sorted(absent))}: another version of seqjax wrote it. Measure again with "
            "'seqjax gradients --overwrite'."
        )
    return pl.read_parquet(path, glob=False, columns=list(SCHEMA)).cast(pl.Schema(SCHEMA))


class Store:
    """A folder with ``summary.json`` and ``results.parquet``; ``parts/`` and ``weights/`` while it is unfinished.

    Every file is written as a whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def summary(self) -> dict[str, Any] | None:
        """The content of ``summary.json``; None without that file."""
        try:
            return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{self.folder / 'summary.json'} cannot be read ({error}). Choose another folder."
            ) from None

    def open(self, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Prepare the folder for a study with these settings; only `overwrite` deletes results.

        Raises:
            ValueError: for a folder with other files, with results already, or with results of other settings or of
                another version of seqjax.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--out: expected a folder, got the file {self.folder}. Choose another name.")
        before = self.summary
        if before is None:
            # An interruption in the first second leaves folders without files.
            if any(not path.is_dir() for path in self.folder.rglob("*")):
                raise ValueError(
                    f"--out: {self.folder} is not empty and holds no report. Choose another folder."
                )
        elif overwrite:
            for name in ("index.html", "results.parquet", "summary.json"):
                (self.folder / name).unlink(missing_ok=True)
            for name in ("parts", "weights", "figures"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        elif not resume:
            raise ValueError(
                f"--out: {self.folder} holds a report already. Add --resume to continue it, --overwrite to replace it, "
                "or choose another folder."
            )
        elif before["settings"] != settings:
            names = dict.fromkeys([*settings, *before["settings"]])
            changed = [
                f"{name} {before['settings'].get(name)} -> {settings.get(name)}"
                for name in names
                if before["settings"].get(name) != settings.get(name)
            ]
            raise ValueError(
                f"--resume: the settings differ from those of {self.folder}: {'; '.join(changed)}. "
                "Use the same settings, or choose another folder."
            )
        else:
            self._read()  # raises where another version of seqjax wrote the results
        try:
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            (self.folder / "weights").mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"--out: {self.folder} cannot be written ({error.strerror}). Choose another folder."
            ) from None

    def finished(self) -> set[str]:
        """Return the names of the parts that are measured."""
        return set(self._read()["part"].unique())

    def add(self, part: Part, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows of one finished part; a row without its own tags gets those of the part."""
        tags = dict.fromkeys(SCHEMA) | {"part": part.name} | part.tags()
        frame = pl.DataFrame([tags | dict(row) for row in rows], schema=SCHEMA)
        digest = hashlib.sha256(part.name.encode()).hexdigest()[:8]  # names of models may hold any letter
        file = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', part.name)[:80]}.{digest}.parquet"
        (self.folder / "parts").mkdir(exist_ok=True)
        _put_table(self.folder / "parts" / file, frame)

    def merge(self) -> pl.DataFrame:
        """Merge the parts into ``results.parquet``."""
        frame = self._read().sort("section", "length", "cell", "seed", maintain_order=True)
        _put_table(self.folder / "results.parquet", frame)
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        return frame

    def save_weights(self, name: str, leaves: Iterable[Any]) -> None:
        """Write trained params for later sections; they are deleted when the study is complete."""
        arrays = [np.asarray(leaf) for leaf in leaves]

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, *arrays)

        (self.folder / "weights").mkdir(exist_ok=True)
        put(self.folder / "weights" / f"{name}.npz", write)

    def load_weights(self, name: str) -> list[np.ndarray] | None:
        """Read the arrays that `save_weights` wrote under that name; None without them."""
        path = self.folder / "weights" / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            return [file[key] for key in file.files]

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json``; delete parts and weights when the study is complete."""
        text = json.dumps(summary, indent=2) + "\n"
        put_text(self.folder / "summary.json", text)
        if summary["complete"]:
            for name in ("parts", "weights"):
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _read(self) -> pl.DataFrame:
        paths = [self.folder / "results.parquet", *sorted((self.folder / "parts").glob("*.parquet"))]
        frames = [read_results(path) for path in paths if path.exists()]
        # A part may be in both after a merge that was interrupted.
        return pl.concat(frames).unique(maintain_order=True) if frames else pl.DataFrame(schema=SCHEMA)


def _put_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a table as a whole. Errors of polars, such as on a full disk, are raised as OSError."""
    try:
        put(path, frame.write_parquet)
    except pl.exceptions.PolarsError as error:
        raise OSError(str(error)) from None
