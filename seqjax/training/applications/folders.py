"""What speech and captions share: a folder of files, with a table of what each file says or shows."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from seqjax.fields import SettingError
from seqjax.training.applications.common import Examples, parts
from seqjax.training.digests import file_digest
from seqjax.training.recipe import Recipe

TABLES = (".csv", ".tsv")


def folder_of(recipe: Recipe, suffixes: Sequence[str], what: str) -> Path:
    """Return the folder of a recipe, which has files with these ends of names.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: when the path is no folder, or has no such file. The text names `what` the files are.
    """
    folder = Path(recipe.data or "")
    if not folder.exists():
        raise FileNotFoundError(f"expected a folder of {what}, got '{folder}', which does not exist.")
    if not folder.is_dir():
        raise SettingError(
            "expected a folder of {what}, got the file '{given}'. Name the folder, and its table with {target}.",
            what=what,
            given=folder,
        )
    if not files_in(folder, suffixes):
        raise ValueError(f"expected {what} ({', '.join(suffixes)}) in '{folder}', got none.")
    return folder


def files_in(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Return the files of a folder, and of the folders in it, whose names have these ends."""
    return sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def table_of(recipe: Recipe, folder: Path) -> str:
    """Return the absolute path of the table of a recipe, by default the only one of its folder.

    Raises:
        SettingError: when the folder has several tables or none.
    """
    if recipe.target is not None:
        return os.path.abspath(recipe.target)
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES)
    if len(found) != 1:
        raise SettingError(
            "{target}: expected the name of a table, or a folder with one .csv or .tsv file, got {found} in "
            "'{folder}'. Name the table.",
            found=", ".join(path.name for path in found) or "none",
            folder=folder,
        )
    return os.path.abspath(found[0])


def split_by_name(recipe: Recipe, examples: Examples) -> tuple[Examples, Examples]:
    """Return the `parts` of examples, chosen by the names of their files in the folder of the recipe."""
    return parts(examples, name=functools.partial(os.path.relpath, start=recipe.data))


def digest_of_examples(recipe: Recipe, examples: Examples) -> str:
    """Return the SHA-256 of the names and contents of files in a folder, and of what they say or show."""
    files = {path: file_digest(path) for path in dict.fromkeys(examples.inputs)}
    rows = [
        [os.path.relpath(path, recipe.data), text, files[path]] for path, text in zip(*examples, strict=True)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
