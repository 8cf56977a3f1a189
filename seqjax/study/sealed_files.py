"""Files whose names hold the SHA-256 of their content, so that a damaged file is noticed when it is read."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from seqjax.files import put
from seqjax.study.record import DamagedError


def stem_of(name: str) -> str:
    """Return a short file name for a name of any letters, such as that of a model; different names stay different.

    Example:
        >>> from seqjax.study.sealed_files import stem_of
        >>> stem_of("training/../my model.py:build/64/0")
        'training-my-model-py-build-64-0.783c87da'
    """
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:80]}.{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_sealed(path: Path) -> bool:
    """Return whether this is the name of a file that `put_sealed` writes."""
    return re.fullmatch(r".*\.[0-9a-f]{8}\.[0-9a-f]{64}", path.stem) is not None


def put_sealed(folder: Path, name: str, suffix: str, content: bytes, key: str) -> None:
    """Write a file with its SHA-256 in its name, in place of an older one of the same name.

    Args:
        folder: an existing folder.
        name: a name of any letters.
        suffix: the end of the file name, such as ``.npz``.
        content: the bytes of the file.
        key: goes into the digest, such as the digest of what the content was made from.
    """
    stem = stem_of(name)
    path = folder / f"{stem}.{_digest(key, stem, content)}{suffix}"
    put(path, lambda place: place.write_bytes(content))
    for older in folder.glob(f"{stem}.*{suffix}"):
        if older != path:
            older.unlink(missing_ok=True)


def read_sealed(path: Path, keys: Iterable[str]) -> bytes:
    """Return the content of a file that `put_sealed` has written with one of the keys.

    Raises:
        DamagedError: when name and content disagree, or the file was written with another key.
        OSError: when the file cannot be read.
    """
    stem, _, digest = path.stem.rpartition(".")
    content = path.read_bytes()
    if digest not in {_digest(key, stem, content) for key in keys}:
        raise DamagedError(
            f"{path} has another SHA-256 than when it was written: it is damaged, or of other settings"
        )
    return content


def _digest(key: str, stem: str, content: bytes) -> str:
    return hashlib.sha256(f"{key}\0{stem}\0".encode() + content).hexdigest()
