"""Read the folder of a study, verified. Nothing is written, and another process may be measuring."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from seqjax.study.record import DamagedError, unsealed
from seqjax.study.rows import REMEDY, SCHEMA, in_order, read_rows
from seqjax.study.sealed_files import read_sealed

SUMMARY, RESULTS, PARTS = "summary.json", "results.parquet", "parts"
_ATTEMPTS = 10


def read_study(folder: str | Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Return the summary of a study and the rows of all its finished parts.

    Raises:
        ValueError: when the folder holds no study, or a file differs from what was written.
    """
    folder = Path(folder)
    for attempt in range(1, _ATTEMPTS + 1):
        summary = read_summary(folder)
        if summary is None:
            raise ValueError(
                f"{folder}: expected a report, got a folder without summary.json. Make a report with 'seqjax "
                "gradients'."
            )
        if not isinstance(summary.get("settings"), dict):
            raise ValueError(f"{folder / SUMMARY}: expected the settings of a study, got none. {REMEDY}")
        try:
            rows = in_order(_rows(folder, summary))
        except (ValueError, FileNotFoundError) as error:
            # Another process may have replaced a part, or may have completed the study and deleted its parts.
            moved = isinstance(error, FileNotFoundError) or read_summary(folder) != summary
            if moved and attempt < _ATTEMPTS:
                continue
            raise ValueError(str(error)) from None
        if read_summary(folder) == summary:
            return summary, rows
    raise ValueError(f"{folder} changed while it was read. Try again.")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``summary.json``; None without that file.

    Raises:
        DamagedError: when the file differs from what was written.
        ValueError: when it cannot be read.
    """
    path = folder / SUMMARY
    try:
        return unsealed(path.read_bytes())
    except FileNotFoundError:
        return None
    except DamagedError as error:
        raise DamagedError(f"{path} {error}. {REMEDY}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}). Choose another folder.") from None


def read_merged(folder: Path, summary: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``results.parquet`` of a complete study.

    Raises:
        DamagedError: when the file is missing or differs from what was written.
    """
    path = folder / RESULTS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing. {REMEDY}") from None
    if hashlib.sha256(content).hexdigest() != summary.get("results_sha256"):
        raise DamagedError(f"{path} has another SHA-256 than when it was written: it is damaged. {REMEDY}")
    return content


def read_parts(folder: Path, keys: Iterable[str]) -> pl.DataFrame:
    """Return the rows of all parts of an unfinished study.

    Args:
        folder: the folder of the study.
        keys: the digests of the records with which the parts were written.

    Raises:
        DamagedError: when a part differs from what was written.
    """
    frames = [pl.DataFrame(schema=SCHEMA)]
    for path in sorted((folder / PARTS).glob("*.parquet")):
        try:
            frames.append(read_rows(read_sealed(path, keys), path))
        except DamagedError as error:
            raise DamagedError(f"{error}. {REMEDY}") from None
    return pl.concat(frames)


def digests_of(summary: Mapping[str, Any]) -> list[str]:
    """Return the digest of the record of a study, and those before the versions changed."""
    every = [summary, *(summary.get("changes") or ())]
    return [each["digest"] for each in every if each.get("digest")]


def _rows(folder: Path, summary: Mapping[str, Any]) -> pl.DataFrame:
    if summary.get("complete"):
        return read_rows(read_merged(folder, summary), folder / RESULTS)
    return read_parts(folder, digests_of(summary))
