"""The folder of a study: settings, one file per finished run, and their union. Every file is put in place whole."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

SCHEMA: dict[str, Any] = {
    "cell": pl.String,
    "length": pl.Int32,
    "seed": pl.Int32,
    "training_step": pl.Int32,
    "loss": pl.String,
    "quantity": pl.String,
    "leaf": pl.String,
    "t": pl.Int32,
    "value": pl.Float64,
}
"""The columns of ``results.parquet``, one row per number measured; null where a column does not apply."""

Run = tuple[str, int, int]  # cell, length, seed


class Store:
    """Reads and writes one folder: ``summary.json``, ``parts/*.parquet`` while unfinished, ``results.parquet``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` holds; None without one."""
        try:
            return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{self.folder / 'summary.json'} cannot be read ({error}). Choose another folder."
            ) from None

    def open(self, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready for a study with these settings; nothing is lost unless `overwrite` says so.

        Raises:
            ValueError: when the folder holds something else, results already, or results of other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--out: expected a folder, got the file {self.folder}. Choose another name.")
        before = self.summary
        if before is None:
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise ValueError(
                    f"--out: {self.folder} is not empty and holds no report. Choose another folder."
                )
        elif overwrite:
            for name in ("index.html", "results.parquet", "summary.json"):
                (self.folder / name).unlink(missing_ok=True)
            for name in ("parts", "figures"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        elif not resume:
            raise ValueError(
                f"--out: {self.folder} holds a report already. Add --resume to continue it, --overwrite to replace it, "
                "or choose another folder."
            )
        elif before["settings"] != settings:
            changed = [
                f"{name} {before['settings'].get(name)} -> {value}"
                for name, value in settings.items()
                if before["settings"].get(name) != value
            ]
            raise ValueError(
                f"--resume: the settings differ from those of {self.folder}: {'; '.join(changed)}. "
                "Use the same, or choose another folder."
            )
        try:
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"--out: {self.folder} cannot be written ({error.strerror}). Choose another folder."
            ) from None

    def finished(self) -> set[Run]:
        """The runs that are measured."""
        runs = self._read().select("cell", "length", "seed").unique()
        return {(cell, length, seed) for cell, length, seed in runs.iter_rows()}

    def add(self, run: Run, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of one finished run."""
        cell, length, seed = run
        frame = pl.DataFrame(rows, schema=SCHEMA)
        self._write(self.folder / "parts" / f"{cell}-{length}-{seed}.parquet", frame.write_parquet)

    def merge(self) -> pl.DataFrame:
        """Unite the parts in ``results.parquet``."""
        frame = self._read().sort("length", "cell", "seed", maintain_order=True)
        self._write(self.folder / "results.parquet", frame.write_parquet)
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        (self.folder / "parts").mkdir()
        return frame

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json``; a complete study needs no parts any more."""
        text = json.dumps(summary, indent=2) + "\n"
        self._write(self.folder / "summary.json", lambda path: path.write_text(text, encoding="utf-8"))
        if summary["complete"]:
            shutil.rmtree(self.folder / "parts", ignore_errors=True)

    def _read(self) -> pl.DataFrame:
        paths = [self.folder / "results.parquet", *sorted((self.folder / "parts").glob("*.parquet"))]
        frames = [pl.read_parquet(path) for path in paths if path.exists()]
        # A run may stand in both, if the last merge was cut short.
        return pl.concat(frames).unique(maintain_order=True) if frames else pl.DataFrame(schema=SCHEMA)

    def _write(self, path: Path, write: Any) -> None:
        temporary = path.with_name(f".{path.name}.part")
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
