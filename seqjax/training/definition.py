"""The definition of an application in the folder of its run: what the training data add to the recipe."""

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

from seqjax.datasets.vocabulary import Vocabulary
from seqjax.datasets.vocabulary_files import vocabulary_from_json
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


def load_vocabulary(folder: str | PathLike[str], name: str = "vocabulary") -> Vocabulary:
    """Load a vocabulary of a run of ``seqjax train``: what the tokens of its model are.

    Args:
        folder: the folder of the run.
        name: "vocabulary", or "source" or "target" for a translation.

    Raises:
        ValueError: when the folder has no such vocabulary. A language of bytes has none: its tokens are
            ``list(text.encode())``, and ``bytes(tokens)`` is the text.

    Example:
        >>> import pathlib, tempfile
        >>> from seqjax.training import load_vocabulary
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "application.json").write_text(
        ...     '{"vocabulary": {"kind": "characters", "symbols": "abc"}}'
        ... )
        >>> vocabulary = load_vocabulary(folder)
        >>> vocabulary.decode(vocabulary.encode("cab"))
        'cab'
    """
    found = read_definition(folder)
    if found is None:
        raise ValueError(
            f"load_vocabulary: expected the folder of a run with a vocabulary, got {folder}: it has no {DEFINITION}. A "
            "language of bytes has no vocabulary: encode with list(text.encode()), and decode with bytes(tokens)."
        )
    there = [key for key in ("vocabulary", "source", "target") if key in found]
    if name not in there:
        what = f"one of {', '.join(there)}" if there else "a run on texts, which has a vocabulary"
        raise ValueError(f"load_vocabulary: expected {what} for the name in {folder}, got {name!r}.")
    try:
        return vocabulary_from_json(found[name])
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(
            f"load_vocabulary: expected a vocabulary in {Path(folder) / DEFINITION}, got another {name!r}. Restore the "
            "file, or train again."
        ) from None


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
