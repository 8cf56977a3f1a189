"""Readers of real data. Everything is time-major: ``xs [T, B]``, ``targets [T, B]``."""

from seqjax.datasets.text import (
    held_out_windows,
    moby_dick,
    read_bytes,
    sample_windows,
    split,
    unigram_entropy,
)

__all__ = [
    "held_out_windows",
    "moby_dick",
    "read_bytes",
    "sample_windows",
    "split",
    "unigram_entropy",
]
