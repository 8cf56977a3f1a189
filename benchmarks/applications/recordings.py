"""Recordings of digits: by a synthesizer in many voices, and of real speakers; their features and templates.

A recording becomes frames of 32 log-mel bands, two frames (40 ms) a step.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.fft import dct
from scipy.ndimage import map_coordinates

from benchmarks.applications.warping import distances
from seqjax.datasets import log_mel_features, per_utterance, sources
from seqjax.datasets.sources import Spoken
from seqjax.datasets.sources.voices import RATE, WORDS

ENGLISH, LANGUAGES = ("en-us",), tuple(WORDS)
COUNTS = {1: (3000, 192, 416), 5: (6000, 320, 640)}
"""Strings for training, validation and test by the number of languages: multiples of the batch size."""
TOY_COUNTS = (128, 32, 32)
STRINGS = 40
"""Strings of four digits for each language, made of the real digits."""
NOISE = 1e-3
SILENCE, LONGEST_PAUSE = -13.8, 16
"""The log-mel value of zeros, and the frames of a pause, at most, at either end of a warped copy."""


class Utterances(NamedTuple):
    """N recordings as log-mel frames ``[T_i, 32]``, and their words as classes from 1 on, ``[L_i]``."""

    frames: list[np.ndarray]
    words: list[np.ndarray]
    voices: list[str]
    languages: list[str]


class Data(NamedTuple):
    """Three parts with different base voices, the real digits, and strings made of real digits."""

    train: Utterances
    validation: Utterances
    test: Utterances
    real: Utterances
    real_strings: Utterances


def with_noise(recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return recordings with white noise of 0.001, as synthetic ones have: without noise, pauses are exactly zero.

    The logarithm of zero power is so far below all others that scaling by its deviation would flatten the words.
    """
    rng = np.random.default_rng(0)
    return [(wave + NOISE * rng.normal(size=len(wave))).astype(np.float32) for wave in recordings]


def log_mels(recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return 32 log-mel bands of frames of 25 ms, every 20 ms."""
    return log_mel_features(recordings, rate=RATE, num_mels=32, window=0.025, hop=0.02, low=60.0)


def utterances(spoken: Spoken, languages: Sequence[str]) -> Utterances:
    """Return frames, and classes ``1 + 10 * place of the language + digit``."""
    first = {language: 1 + 10 * place for place, language in enumerate(languages)}
    words = [d + first[of] for d, of in zip(spoken.digits, spoken.languages, strict=True)]
    return Utterances(log_mels(spoken.recordings), words, spoken.voices, spoken.languages)


@functools.cache
def data(languages: tuple[str, ...] = LANGUAGES, toy: bool = False) -> Data:
    """Synthesize strings of one to six digits in some languages, and read the real digits of these languages."""
    counts = TOY_COUNTS if toy else COUNTS[len(languages)]
    named = dict(zip(("train", "validation", "test"), counts, strict=True))
    parts = sources.spoken_digits(**named, languages=languages)
    real = sources.real_digits()
    single = joined([only(real, language) for language in languages])
    strings = joined([sources.strings_of(real, language, count=STRINGS) for language in languages])
    single, strings = (each._replace(recordings=with_noise(each.recordings)) for each in (single, strings))
    return Data(*(utterances(each, languages) for each in (*parts, single, strings)))


def only(spoken: Spoken, language: str) -> Spoken:
    """Return the utterances of one language."""
    rows = zip(*spoken, strict=True)
    return Spoken(*map(list, zip(*(row for row in rows if row[-1] == language), strict=True)))


def joined(parts: Sequence[Spoken]) -> Spoken:
    """Return the utterances of all parts."""
    return Spoken(*([each for part in column for each in part] for column in zip(*parts, strict=True)))


def warped(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return frames of another voice, speed and room: bands and time stretched, pauses at the ends, more noise.

    References:
        Jaitly, Hinton 2013, "Vocal tract length perturbation improves speech recognition".
    """
    pitch, speed, floor = rng.uniform(0.85, 1.18), rng.uniform(0.8, 1.25), rng.uniform(-12, 1)
    times = np.linspace(0, len(frames) - 1, max(round(len(frames) / speed), 2))
    bands = np.clip(np.arange(frames.shape[1]) * pitch, 0, frames.shape[1] - 1)
    moved = map_coordinates(frames, np.meshgrid(times, bands, indexing="ij"), order=1)
    before, after = (int(count) for count in rng.integers(0, LONGEST_PAUSE, 2))
    moved = np.pad(moved, ((before, after), (0, 0)), constant_values=SILENCE)
    slope = np.linspace(rng.uniform(-2, 2), rng.uniform(-2, 2), len(bands))
    return np.logaddexp(moved, floor + slope + rng.normal(0, 0.5, moved.shape)).astype(np.float32)


def steps_of(frames: Sequence[np.ndarray], *, normalize: bool = True) -> list[np.ndarray]:
    """Return two frames a step ``[T_i // 2, 64]``, with mean 0 and deviation 1 over each utterance if normalized."""
    values = per_utterance(frames) if normalize else [(f + 6) / 4 for f in frames]  # about 0 and 1 over all
    return [f[: len(f) // 2 * 2].reshape(len(f) // 2, -1) for f in values]


def warped_digits(languages: Sequence[str] = LANGUAGES, toy: bool = False) -> list[bool]:
    """Return whether the nearest of all synthetic digits of the language, one of each training voice, is the right one.

    The distance is that of `warping.distances` between `cepstra`.
    """
    speak, real = sources.synthesizer(), sources.real_digits()
    voices = sources.voices_of("train")[: 4 if toy else None]
    right = []
    for language in languages:
        words = WORDS[language].split()
        templates = [speak(word, language, voice, 170, 50) for voice in voices for word in words]
        mine = only(real, language)
        known, asked = (
            [cepstra(f) for f in log_mels(with_noise(each))] for each in (templates, mine.recordings)
        )
        found = [distances(frames, known).argmin() % 10 for frames in asked]
        right += [bool(a == b[0]) for a, b in zip(found, mine.digits, strict=True)]
    return right


def cepstra(frames: np.ndarray) -> np.ndarray:
    """Return 13 cepstral coefficients with mean 0, without the quiet frames at both ends, ``[T, 32]`` -> ``[S, 13]``.

    A frame is quiet where its mean is below 30% of the way from the quietest to the loudest frame.
    """
    loudness = frames.mean(1)
    heard = np.flatnonzero(loudness > loudness.min() + 0.3 * np.ptp(loudness))
    spoken = frames[heard[0] : heard[-1] + 1] if len(heard) else frames
    coefficients = dct(spoken, norm="ortho", axis=1)[:, :13]
    return coefficients - coefficients.mean(0)
