"""The definition of an application in the folder of its run: what the training data add to the recipe."""

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

from seqjax.files import put_text, read_json, why

DEFINITION = "application.json"
"""The file with the vocabularies and the names of the classes of a run."""


def definition_digest(definition: dict[str, Any]) -> str:
    """Return the SHA-256 of a definition, which every checkpoint of its run has."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def read_definition(folder: str | PathLike[str]) -> dict[str, Any] | None:
    """Return the definition in the folder of a run; None where the folder has none.

    Raises:
        ValueError: when the file cannot be read.
    """
    path = Path(folder) / DEFINITION
    try:
        found = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Restore it, or train again.") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"expected an object in {path}, got {type(found).__name__}. Restore it, or train again."
        )
    return found


def write_definition(folder: str | PathLike[str], definition: dict[str, Any]) -> None:
    """Write a definition; the file appears as a whole.

    Raises:
        ValueError: when the file cannot be written.
    """
    path = Path(folder) / DEFINITION
    try:
        put_text(path, json.dumps(definition, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({why(error)}). Make room, or choose another folder."
        ) from None
