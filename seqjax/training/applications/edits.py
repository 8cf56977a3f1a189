"""The edit distance of sequences, and the error rate of transcripts."""

from collections.abc import Sequence
from typing import Any


def edits(heard: Sequence[Any], said: Sequence[Any]) -> int:
    """Return the least number of words to insert, delete and replace: the Levenshtein distance.

    Example:
        >>> from seqjax.training.applications.edits import edits
        >>> edits([1, 2, 4], [1, 3, 3, 4]), edits("sitting", "kitten")
        (2, 3)
    """
    row = list(range(len(said) + 1))
    for number, word in enumerate(heard, 1):
        last, row = row, [number]
        for place, other in enumerate(said, 1):
            row.append(min(last[place - 1] + (word != other), last[place] + 1, row[-1] + 1))
    return row[-1]


def error_rate(heard: Sequence[Sequence[Any]], said: Sequence[Sequence[Any]]) -> float:
    """Return the number of edits over the number of words, of all transcripts together.

    Example:
        >>> from seqjax.training.applications.edits import error_rate
        >>> error_rate([["a", "cat"], ["no"]], [["a", "hat"], ["no", "no"]])
        0.5
    """
    return sum(map(edits, heard, said)) / max(sum(map(len, said)), 1)
