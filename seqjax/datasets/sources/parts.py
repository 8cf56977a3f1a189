"""Training, validation and test parts, and splits by a hash of the text."""

import hashlib
from typing import Any, NamedTuple


class Parts(NamedTuple):
    """Three parts of some data. Choose by the validation part, and look at the test part once."""

    train: Any
    validation: Any
    test: Any


def place(text: str, count: int) -> int:
    """Return the sha256 of a text (UTF-8), as a whole number, modulo `count`.

    Equal texts have equal places, so that a split by place never has a text in two parts.

    Example:
        >>> place("a", 10), place("b", 10)
        (9, 5)
    """
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % count
