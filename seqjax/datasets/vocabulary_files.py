"""Vocabularies as JSON files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from seqjax.datasets.files import Name
from seqjax.datasets.strings import read_string
from seqjax.datasets.subwords import Subwords
from seqjax.datasets.vocabulary import Bytes, Characters, Vocabulary, Words
from seqjax.files import put_text

KINDS: dict[str, type] = {each.kind: each for each in (Bytes, Characters, Words, Subwords)}


def write_vocabulary(path: Name, vocabulary: Vocabulary) -> None:
    """Write a vocabulary as JSON, for example into the folder of a run. The file appears as a whole.

    Raises:
        OSError: when the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> from seqjax.datasets import Characters, read_vocabulary, write_vocabulary
        >>> path = pathlib.Path(tempfile.mkdtemp(), "vocabulary.json")
        >>> write_vocabulary(path, Characters("abc"))
        >>> read_vocabulary(path)
        Characters(symbols='abc')
    """
    put_text(Path(path), json.dumps(vocabulary_to_json(vocabulary), ensure_ascii=False) + "\n")


def read_vocabulary(path: Name) -> Vocabulary:
    """Read a vocabulary that `write_vocabulary` wrote.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file has no vocabulary.
    """
    text = read_string(path)
    try:
        return vocabulary_from_json(json.loads(text))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(
            f"read_vocabulary: expected a vocabulary written by write_vocabulary, got '{path}'. Train it again. For a "
            "run of 'seqjax train' use seqjax.training.load_vocabulary(folder)."
        ) from None


def vocabulary_to_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a vocabulary as JSON holds it."""
    fields = {field.name: getattr(vocabulary, field.name) for field in dataclasses.fields(vocabulary)}  # type: ignore[arg-type]
    return {"kind": vocabulary.kind, **fields}


def vocabulary_from_json(found: Any) -> Vocabulary:
    """Return the vocabulary that `vocabulary_to_json` returned as JSON; other values raise an error of any type."""
    kind = KINDS[found["kind"]]
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name != "kind"
    }
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    if {name: _shape(value) for name, value in fields.items()} != types:
        raise ValueError(f"expected the fields {', '.join(types)}, got {', '.join(fields)}")
    return kind(**fields)


def _shape(value: Any) -> Any:
    """Return the type of a field's value as an annotation."""
    return (
        tuple[str, ...]
        if isinstance(value, tuple) and all(isinstance(v, str) for v in value)
        else type(value)
    )
