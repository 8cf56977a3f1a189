"""Recordings of the ten digits in five languages: a test set for models trained on synthetic speech."""

import numpy as np

from seqjax.datasets.audio import read_audio
from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.voices import RATE, WORDS, Spoken


def real_digits() -> Spoken:
    """Return 50 recordings of single digits: English, Spanish, French, Italian and Russian, ten each.

    Each digit is recorded once per language; one speaker recorded English and Spanish. So these are no training data.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch digits``.
    """
    spoken = Spoken([], [], [], [])
    for language, folder in zip(WORDS, folders("digits"), strict=True):
        for digit in range(10):
            (path,) = folder.rglob(f"{digit}.wav")
            spoken.recordings.append(read_audio(path, rate=RATE).samples)
            spoken.digits.append(np.array([digit], np.int32))
            spoken.voices.append(path.parent.parent.name)
            spoken.languages.append(language)
    return spoken


def strings_of(spoken: Spoken, language: str, *, count: int = 100, length: int = 4, seed: int = 0) -> Spoken:
    """Return strings of digits made of single recordings of one language, with pauses of a tenth of a second.

    Args:
        spoken: single digits, as `real_digits` returns them.
        language: a name of `WORDS`.
        count: number of strings.
        length: digits in a string.
        seed: seed of the digits.
    """
    single = {
        int(digits[0]): wave
        for wave, digits, of in zip(spoken.recordings, spoken.digits, spoken.languages, strict=True)
        if of == language
    }
    pause = np.zeros(RATE // 10, np.float32)
    strings = np.random.default_rng(seed).integers(0, 10, (count, length)).astype(np.int32)
    recordings = [
        np.concatenate([part for d in each for part in (single[int(d)], pause)]) for each in strings
    ]
    voice = next(v for v, of in zip(spoken.voices, spoken.languages, strict=True) if of == language)
    return Spoken(recordings, list(strings), [voice] * count, [language] * count)
