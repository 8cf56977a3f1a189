"""The folder of a run of ``seqjax train``: its files, and when it may be written."""

import shutil
from pathlib import Path

from seqjax.cli.common import UsageError, usage_errors
from seqjax.cli.output import check_folder
from seqjax.training.definition import DEFINITION
from seqjax.training.folder_lock import NAME as LOCK
from seqjax.training.folder_lock import FolderLock

REPORT = "warm_start.json"
"""The report of a warm start in the folder of the run."""

PAGE = ("instruments.jsonl", "index.html", "figures")
"""The rows of instruments, and what ``seqjax render`` writes."""

WRITTEN = (
    "config.json",
    "steps",
    "best",
    "metrics.jsonl",
    "tensorboard",
    "curves.svg",
    REPORT,
    DEFINITION,
    *PAGE,
)
"""The files and folders that a run leaves in its folder."""


def claim(lock: FolderLock, resume: bool, overwrite: bool) -> None:
    """Lock the folder for the run, and remove the run that it replaces."""
    check_run_folder(lock.folder, resume, overwrite)
    with usage_errors("--out: "):
        lock.acquire()
    try:
        check_run_folder(lock.folder, resume, overwrite)  # another process may have begun a run in between
        for name in WRITTEN if overwrite else ():
            path = lock.folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    except BaseException:
        lock.release()
        raise


def check_run_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raise a `UsageError` unless the run may be written to the folder. Nothing is written."""
    if resume and overwrite:
        raise UsageError("--resume continues a run, --overwrite replaces it: expected one of them, got both.")
    check_folder(folder)
    there = sorted(path.name for path in folder.iterdir() if path.name != LOCK) if folder.exists() else []
    if resume:
        if "config.json" not in there:
            raise UsageError(f"--resume: expected a run in {folder}, got none: it has no config.json.")
    elif "config.json" in there and not overwrite:
        raise UsageError(
            f"--out: {folder} holds a run already. --resume continues it, --overwrite replaces it, --out DIR keeps "
            "both."
        )
    elif there and "config.json" not in there:
        raise UsageError(f"--out: {folder} is not empty and holds no run. Choose another folder.")
