"""A folder of checkpoints in orbax's format: which paths orbax can use, and which of its messages matter."""

import logging
import os
import re
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

MISREAD = re.compile(r"[*?\[\]\\]")
"""Characters of a path that the storage libraries misread.

Orbax merges the files of its processes by a glob on the whole path, and tensorstore takes a backslash for a slash.
"""


def _of_storage(record: logging.LogRecord) -> bool:
    """Return whether asyncio reports an error of orbax or tensorstore. Orbax raises the same error in the caller."""
    text = record.getMessage()
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        frames, trace = [], error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_filename)
            trace = trace.tb_next
        text += " ".join(frames)
        error = error.__context__
    return "orbax" in text or "tensorstore" in text


# Orbax logs every save, and prints each error several times before it raises the error.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
logging.getLogger("asyncio").addFilter(lambda record: not _of_storage(record))


def _silence_late_errors() -> None:
    """Silence "Event loop is closed", which tensorstore reports when a read outlasts the failure of another one.

    Orbax raises the failure itself. The messages come at any later time, from threads, as errors that nobody can catch.
    """
    before = sys.unraisablehook

    def hear(lost: Any) -> None:
        if not (isinstance(lost.exc_value, RuntimeError) and str(lost.exc_value) == "Event loop is closed"):
            before(lost)

    if not getattr(before, "of_seqjax", False):
        hear.of_seqjax = True  # type: ignore[attr-defined]
        sys.unraisablehook = hear


UNFINISHED = ".orbax-checkpoint-tmp"
"""Is in the name of a checkpoint that is not complete."""


class StoragePath:
    """A path to a folder that orbax and tensorstore read correctly: the folder itself, or a symbolic link to it.

    Args:
        folder: the absolute path of the folder.

    Raises:
        ValueError: when the path needs a link, and several processes write to the folder.

    Example:
        >>> from pathlib import Path
        >>> from seqjax.training.orbax_folder import StoragePath
        >>> StoragePath(Path("/tmp/run")).path == Path("/tmp/run")
        True
        >>> StoragePath(Path("/tmp/run[lr=0.1]")).path == Path("/tmp/run[lr=0.1]")
        False
    """

    def __init__(self, folder: Path) -> None:
        self.folder = self.path = folder
        if not MISREAD.search(str(folder)):
            return
        place = tempfile.gettempdir()
        if jax.process_count() > 1 or MISREAD.search(place):
            raise ValueError(
                f"Checkpoints: expected a path without any of * ? [ ] \\, got {folder}. The storage library misreads "
                "them. Choose another folder."
            )
        link = Path(tempfile.mkdtemp(prefix="seqjax-", dir=place))
        self._remove = weakref.finalize(self, shutil.rmtree, link, ignore_errors=True)
        self.path = link / "run"
        os.symlink(folder, self.path, target_is_directory=True)

    def spelled(self, text: str) -> str:
        """Return an error's text with the folder in place of the link."""
        return text.replace(str(self.path), str(self.folder))


def open_manager(path: Path, keep: int, *, writing: bool) -> ocp.CheckpointManager:
    """Open the checkpoints in a folder. A manager for reading writes nothing."""
    _silence_late_errors()
    handlers: Any = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
    if writing:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    else:
        options = ocp.CheckpointManagerOptions(
            read_only=True, create=False, save_interval_steps=0, enable_async_checkpointing=False
        )
    return ocp.CheckpointManager(path, options=options, item_handlers=handlers)


def remove_unfinished(path: Path) -> None:
    """Remove what saves that failed or were killed have left, which would fill a disk. Only a writer may do this."""
    if jax.process_index() == 0:
        for each in path.glob(f"*{UNFINISHED}*"):
            shutil.rmtree(each, ignore_errors=True)


def first_line(error: BaseException, most: int = 160) -> str:
    """Return the beginning of an error's text, in one short line.

    Example:
        >>> from seqjax.training.orbax_folder import first_line
        >>> first_line(ValueError("a" * 200), most=8), first_line(KeyError())
        ('aaaaa...', 'KeyError')
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 3] + "..."
