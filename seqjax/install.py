"""How to install an optional package: from the checkout that is being used, or by the name of the release."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The folder of the checkout, or the folder of all installed packages."""


def install_command(extra: str) -> str:
    """Return the command that installs seqjax with an extra, such as "report".

    With the package of a checkout, or inside a checkout, it installs the checkout, since an index of packages may have
    another version or none.

    Example:
        >>> from seqjax.install import install_command
        >>> install_command("report").endswith("[report]'")
        True
    """
    if _is_checkout(ROOT):
        where = "." if Path.cwd() == ROOT else os.fspath(ROOT)
    else:
        where = "." if _is_checkout(Path()) else "seqjax"
    return f"pip install '{where}[{extra}]'"


def missing(who: str, package: str, extra: str, otherwise: str = "") -> ImportError:
    """Return the error of a function whose optional package is not installed.

    Args:
        who: the function that needs the package.
        package: the package.
        extra: the extra of seqjax that brings the package.
        otherwise: another way, such as ", or convert the file to WAV".

    Example:
        >>> from seqjax.install import missing
        >>> print(missing("from_onnx", "onnx", "interop"))
        from_onnx: expected the package onnx, got none. Run "pip install '...[interop]'".
    """
    return ImportError(
        f'{who}: expected the package {package}, got none. Run "{install_command(extra)}"{otherwise}.'
    )


def _is_checkout(folder: Path) -> bool:
    """Return whether the folder holds the source of seqjax: a checkout, or an unpacked source distribution."""
    try:
        return 'name = "seqjax"' in (folder / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
