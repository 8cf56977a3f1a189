"""What the results of a study depend on, and the summary that is kept under a SHA-256."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqjax.study.settings import Settings
from seqjax.training.checkpoint_contents import difference
from seqjax.training.run_record import versions as versions_now
from seqjax.user_model import is_own, source_digests

SEAL = "sha256"
"""The key of the summary that holds the digest of everything else in it."""


class DamagedError(ValueError):
    """A file differs from what was written, or is missing."""


class Record(NamedTuple):
    """Everything that the results of a study depend on, as JSON values.

    Attributes:
        settings: the settings of the study.
        inputs: the SHA-256 of the text, and those of the source files of each model of the user.
        versions: the versions of the packages, and the device.
    """

    settings: dict[str, Any]
    inputs: dict[str, Any]
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """One SHA-256 of everything."""
        return digest_of(self._asdict())


def record_of(settings: Settings, data: np.ndarray | None) -> Record:
    """Return the record of a study with these settings and this text, as its inputs are now."""
    inputs: dict[str, Any] = {}
    if data is not None:
        inputs["text"] = hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()
    own = {name: source_digests(name) for name in settings.cells if is_own(name)}
    return Record(settings.to_json(), inputs | ({"models": own} if own else {}), versions_now())


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value.

    Example:
        >>> from seqjax.study.record import digest_of
        >>> digest_of({"a": 1, "b": (2, 3)}) == digest_of({"b": [2, 3], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the differences between two parts of a record, with the beginnings of digests.

    Example:
        >>> from seqjax.study.record import changes
        >>> changes({"text": 64 * "a", "seeds": 2}, {"text": 64 * "b", "seeds": 3})
        ['text aaaaaaaa -> bbbbbbbb', 'seeds 2 -> 3']
    """

    def short(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: short(each) for name, each in value.items()}
        is_digest = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
        return value[:8] if is_digest else value

    return difference(short(before), short(after))


def check_same(before: Mapping[str, Any], record: Record, folder: Path, other_versions: bool) -> None:
    """Check that a study is continued with the record that it began with.

    Args:
        before: the summary of the study.
        record: the record now.
        folder: the folder of the study, for the error.
        other_versions: allow other versions and another device.

    Raises:
        ValueError: names what differs.
    """
    for name in ("settings", "inputs"):
        if lines := changes(before.get(name) or {}, getattr(record, name)):
            raise ValueError(
                f"--resume: the {name} differ from those of {folder}: {'; '.join(lines)}. Use the same {name}, or "
                "choose another folder."
            )
    lines = changes(before.get("versions") or {}, record.versions)
    if lines and not other_versions:
        raise ValueError(
            f"--resume: the versions or the device differ from those of {folder}: {'; '.join(lines)}. Use the same, or "
            "add --other-versions: the report then has results of both, and summary.json lists the change."
        )


def changes_until(before: Mapping[str, Any], record: Record) -> list[dict[str, Any]]:
    """Return the changes of versions since a study began, each with the digest of the record before the change.

    Args:
        before: the summary of the study.
        record: the record now.

    Example:
        >>> from seqjax.study.record import Record, changes_until
        >>> changes_until({"versions": {"jax": "0.10.2"}, "digest": "ab"}, Record({}, {}, {"jax": "0.11.0"}))
        [{'digest': 'ab', 'jax': ['0.10.2', '0.11.0']}]
    """
    there = before.get("versions") or {}
    names = dict.fromkeys([*there, *record.versions])
    changed = {
        name: [there.get(name), record.versions.get(name)]
        for name in names
        if there.get(name) != record.versions.get(name)
    }
    log = list(before.get("changes") or [])
    return [*log, {"digest": before.get("digest"), **changed}] if changed else log


def sealed(summary: Mapping[str, Any]) -> str:
    """Return the text of ``summary.json``: the summary and its SHA-256."""
    content = {name: value for name, value in summary.items() if name != SEAL}
    return json.dumps({**content, SEAL: digest_of(content)}, indent=2) + "\n"


def unsealed(text: bytes) -> dict[str, Any]:
    """Return the summary that `sealed` has written.

    Raises:
        DamagedError: when the text differs from what was written.
    """
    try:
        summary = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"cannot be read ({error})") from None
    if not isinstance(summary, dict) or SEAL not in summary:
        raise DamagedError("has no SHA-256. It is damaged, or another version of seqjax wrote it")
    seal = summary.pop(SEAL)
    if seal != digest_of(summary):
        raise DamagedError("has another SHA-256 than when it was written: it is damaged, or was edited")
    return summary
