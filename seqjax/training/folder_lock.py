"""A lock on a folder: one process writes to the folder of a run, and any number of processes read from it."""

import errno
import os
import socket
import weakref
from pathlib import Path

from seqjax.files import why

try:
    import fcntl
except ImportError:  # there is no such lock on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
"""The name of the lock file inside the folder. It is removed when the lock is released."""

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""Errors of file systems without locks. A folder there is written without a lock."""


class FolderLock:
    """The right to write to a folder, which one holder has at a time.

    The operating system releases the lock when the process ends, however it ends. A lock file that a killed process
    left behind locks nothing.

    Args:
        folder: the folder; `acquire` creates it if it does not exist.
        who: what the errors begin with.

    Example:
        >>> import tempfile
        >>> from seqjax.training.folder_lock import FolderLock
        >>> first, second = (FolderLock(folder) for folder in [tempfile.mkdtemp()] * 2)
        >>> first.acquire()
        >>> try:
        ...     second.acquire()
        ... except ValueError as error:
        ...     print("is being written by process" in str(error))
        True
        >>> first.release()
        >>> second.acquire()
        >>> second.release()
    """

    def __init__(self, folder: str | os.PathLike, who: str = "Checkpoints") -> None:
        self.folder, self._who = Path(folder).absolute(), who
        self._file: int | None = None
        self._close: weakref.finalize | None = None

    @property
    def held(self) -> bool:
        """Return whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> None:
        """Take the lock; nothing happens when this object holds the lock already.

        Raises:
            ValueError: when another process or object holds the lock, or the folder cannot be written.
        """
        while self._file is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise ValueError(
                    f"{self._who}: {self.folder} cannot be written ({why(error)}). Choose another folder."
                ) from None
            if not _locked(file):
                holder = _holder(file)
                os.close(file)
                raise ValueError(f"{self._who}: {self.folder} {holder}")
            if not _is_at(file, self.folder / NAME):  # the holder before has removed the file meanwhile
                os.close(file)
                continue
            try:
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
            except OSError:  # on a full disk the lock holds, but has no name
                pass
            self._file = file
            self._close = weakref.finalize(self, _release, file, self.folder / NAME, os.getpid())

    @property
    def intact(self) -> bool:
        """Return whether the lock is held and its folder is still the one that was locked."""
        return self._file is not None and _is_at(self._file, self.folder / NAME)

    def check(self) -> None:
        """Check that the folder is still the one that was locked.

        Raises:
            FileNotFoundError: when the folder or the lock file was removed or replaced.
        """
        if self.held and not self.intact:
            raise FileNotFoundError(f"{self.folder} was removed or replaced while the run was writing to it")

    def close(self) -> None:
        """Release the lock, as `release` does."""
        self.release()

    def release(self) -> None:
        """Release the lock, if this object holds it."""
        if self._close is not None:
            self._close()
        self._file = self._close = None


def _locked(file: int) -> bool:
    """Return whether the lock was free and is now taken."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in UNSUPPORTED
    return True


def _holder(file: int) -> str:
    """Return a sentence about the process that holds the lock."""
    pid, _, host = os.pread(file, 300, 0).decode(errors="replace").partition(" ")
    if pid == str(os.getpid()) and host == socket.gethostname():
        return f"is being written by process {pid}, which is this one. Close what writes there first."
    who = f"process {pid} on {host}" if host else "another process"
    return f"is being written by {who}. Wait for its end, or choose another folder."


def _is_at(file: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except OSError:
        return False
    here = os.fstat(file)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _release(file: int, path: Path, owner: int) -> None:
    # A child of a fork shares the lock, and must not end the lock of its parent.
    if os.getpid() == owner and _is_at(file, path):
        try:
            path.unlink()
        except OSError:  # a lock file that nobody holds locks nothing
            pass
    os.close(file)
