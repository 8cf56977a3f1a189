"""Japanese vowels: utterances of nine speakers, with the official split."""

from typing import NamedTuple

from seqjax.datasets.sources.cache import folders
from seqjax.datasets.ts_files import LabelledSeries, read_ts


class Vowels(NamedTuple):
    """The official training part (270 utterances) and test part (370)."""

    train: LabelledSeries
    test: LabelledSeries


def vowels() -> Vowels:
    """Return utterances ``[T_i, 12]`` float32, 7 to 29 frames long, with their speakers: nine classes.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch vowels``.
    """
    (folder,) = folders("vowels")
    return Vowels(*(read_ts(next(folder.rglob(f"*_{part}.ts"))) for part in ("TRAIN", "TEST")))
