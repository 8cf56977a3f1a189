"""Digests of the data files of a run."""

import hashlib
import os
from collections.abc import Sequence

from seqjax import datasets


def file_digest(path: str) -> str:
    """Return the SHA-256 of a data file.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file cannot be read, or not be read again by a resumed run: a pipe.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise ValueError(
            f"expected a file, which a resumed run reads again, got '{path}', which is a pipe or a device. Write its "
            "content to a file first."
        )
    return hashlib.sha256(bytes(datasets.read_bytes(path))).hexdigest()


def files_digest(paths: Sequence[str]) -> str:
    """Return the SHA-256 of a data file; of several files, that of the list of their digests."""
    found = [file_digest(path) for path in paths]
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()
