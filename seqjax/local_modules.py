"""The source files that a Python file imports from its own folder, found without running any code."""

import ast
from collections.abc import Iterator
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")
"""Names of folders with installed packages. A module in one imports nothing but its own package from there."""


def local_files(path: Path, dots: int = 0) -> dict[str, Path]:
    """Return a source file and the files that it imports from its own folder, directly or by way of others.

    The files are those of all import statements, also of those inside functions. Modules that are imported by other
    means, such as `importlib`, are not found. seqjax and other installed packages are left out.

    Args:
        path: the file.
        dots: the number of packages that hold the module of the file. Modules are looked for in the folder of the
            outermost one.

    Returns:
        The files by their paths relative to that folder, in the order of their names.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "net.py").write_text("import math, sizes"), (folder / "sizes.py").write_text("WIDTH = 3")
        (18, 9)
        >>> list(local_files(folder / "net.py"))
        ['net.py', 'sizes.py']
    """
    path = path.absolute()
    root = path.parents[min(dots, len(path.parents) - 1)]
    inside = root
    if root.name in INSTALLED:
        inside = root / path.relative_to(root).parts[0]
    packages = [
        parent / "__init__.py" for parent in path.parents if parent != root and root in parent.parents
    ]
    found, left = set(), [path, *(file for file in packages if file.is_file())]
    while left:
        file = left.pop()
        if file not in found and (file == inside or inside in file.parents):
            found.add(file)
            left += _imported(file, root)
    return {file.relative_to(root).as_posix(): file for file in sorted(found)}


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """Yield the files of all modules that the import statements of a file name."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # importing the file will fail as well
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(root, alias.name)
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[min(node.level, len(file.parents)) - 1] if node.level else root
            for alias in node.names:  # a name may be that of a module
                yield from _files(folder, ".".join(filter(None, (node.module, alias.name))))


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files that importing a module runs, as far as they are below the folder."""
    if name.partition(".")[0] == "seqjax":
        return
    for part in name.split("."):
        for file in (folder / f"{part}.py", folder / part / "__init__.py"):
            if file.is_file():
                yield file
        folder /= part
