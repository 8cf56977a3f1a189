"""Synthetic speech: strings of digits in many voices and five languages."""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqjax.checks import check_whole
from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.parts import Parts, place

WORDS = {
    "en-us": "zero one two three four five six seven eight nine",
    "es-419": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "ru": "ноль один два три четыре пять шесть семь восемь девять",
}
"""The digits in five languages, by the synthesizer's name of the language."""
RATE = 8000
SPEEDS, PITCHES = (130, 230), (20, 80)
"""Ranges of words per minute and of pitch (0 to 100) that digits are spoken with."""
ALIKE = {"anxiousandy": "andy", "anikarobot": "anika", "whisperf": "whisper"}
"""Voices that are variants of another one, besides those whose names differ by a number."""


class Spoken(NamedTuple):
    """N utterances.

    Attributes:
        recordings: N arrays ``[T_i]`` float32, 8,000 samples per second.
        digits: N arrays ``[L_i]`` int32, the digits that are spoken.
        voices: the voice of each.
        languages: the language of each, a name of `WORDS`.
    """

    recordings: list[np.ndarray]
    digits: list[np.ndarray]
    voices: list[str]
    languages: list[str]


def spoken_digits(
    *,
    train: int = 3000,
    validation: int = 200,
    test: int = 400,
    languages: Sequence[str] = ("en-us",),
    longest: int = 6,
    seed: int = 0,
) -> Parts:
    """Synthesize strings of digits: parts of `Spoken` whose voices are of different base voices.

    A base voice is a voice with its variants, such as "iven" and "iven2". Its sha256 modulo 10 decides: 0 and 1 are for
    the test, 2 for validation. The number of digits, the digits, the speed and the pitch are drawn uniformly; voices
    and languages take turns. The level is drawn from -20 to 0 decibels, and white noise of 0.0003 to 0.01 is added. The
    first call in a process gives the same samples in every run; see `synthesizer`.

    Args:
        train: number of utterances for training.
        validation: number of utterances for validation.
        test: number of utterances for the test.
        languages: names of `WORDS`.
        longest: largest number of digits in a string.
        seed: seed of everything that is drawn.

    Raises:
        ValueError: for other languages and sizes.
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch voices``.
    """
    unknown = [language for language in languages if language not in WORDS]
    if unknown or not languages:
        raise ValueError(
            f"spoken_digits(languages): expected some of {', '.join(WORDS)}, got {list(languages)}."
        )
    check_whole("spoken_digits(longest)", longest)
    counts = {"train": train, "validation": validation, "test": test}
    for name, count in counts.items():
        check_whole(f"spoken_digits({name})", count, 0)
    speak = synthesizer()
    return Parts(
        *(
            _utterances(
                speak, voices_of(name), count, tuple(languages), longest, np.random.default_rng([seed, part])
            )
            for part, (name, count) in enumerate(counts.items())
        )
    )


def voices_of(part: str) -> list[str]:
    """Return the voices of a part: "train", "validation" or "test"."""
    names = {0: "test", 1: "test", 2: "validation"}
    return [voice for voice in all_voices() if names.get(place(base_voice(voice), 10), "train") == part]


def all_voices() -> list[str]:
    """Return the names of the synthesizer's 104 voices."""
    return sorted(path.name for path in (_data() / "voices" / "!v").iterdir())


def base_voice(voice: str) -> str:
    """Return the voice that a voice is a variant of.

    Example:
        >>> base_voice("iven4"), base_voice("AnxiousAndy"), base_voice("m3")
        ('iven', 'andy', 'm3')
    """
    name = voice.lower()
    base = name if len(name) == 2 else name.rstrip("0123456789")  # m1 to m8 and f1 to f5 are persons
    return ALIKE.get(base, base)


@cache
def synthesizer() -> Callable[[str, str, str, int, int], np.ndarray]:
    """Start the synthesizer in this process.

    The synthesizer keeps a state from utterance to utterance. So the same calls give the same samples when they are the
    first ones of a process.

    Returns:
        ``(text, language, voice, speed, pitch) -> [T]`` float32 with 8,000 samples per second. The voice is a name of
        `all_voices`, or "" for the language's own; the speed is in words per minute, the pitch from 0 to 100.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch voices``.
        OSError: when the library does not run here.
    """
    from scipy.signal import resample_poly  # its import takes a while

    (library,) = [*_data().parent.glob("libespeak-ng.so"), *_data().parent.glob("*espeak-ng.d*")][:1]
    espeak = ctypes.CDLL(str(library))
    rate = espeak.espeak_Initialize(
        2, 0, os.fsencode(_data().parent), 0
    )  # 2: synchronous, samples to the callback
    if rate <= 0:
        raise OSError(
            f"synthesizer: expected espeak-ng to start, got error {rate}. Fetch the data 'voices' again."
        )
    if hasattr(espeak, "espeak_ng_SetRandSeed"):  # of breath and flutter
        espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count, events):  # type: ignore[no-untyped-def]
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    espeak.espeak_SetSynthCallback(collect)

    def speak(text: str, language: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        chunks.clear()
        name = f"{language}+{voice}" if voice else language
        if espeak.espeak_SetVoiceByName(name.encode()):
            raise ValueError(f"synthesizer: expected a voice of espeak-ng, got {name!r}. See all_voices().")
        espeak.espeak_SetParameter(1, speed, 0)
        espeak.espeak_SetParameter(3, pitch, 0)
        data = text.encode()
        espeak.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, 1, None, None)  # 1: UTF-8
        espeak.espeak_Synchronize()
        wave = np.concatenate(chunks) / 32768 if chunks else np.zeros(1)
        return resample_poly(wave, RATE, rate).astype(np.float32)

    speak.collect = collect  # type: ignore[attr-defined]  # the library keeps a pointer to it
    return speak


def _data() -> Path:
    (folder,) = folders("voices")
    return folder / "espeakng_loader" / "espeak-ng-data"


def _utterances(
    speak: Callable,
    voices: list[str],
    count: int,
    languages: tuple[str, ...],
    longest: int,
    rng: np.random.Generator,
) -> Spoken:
    spoken = Spoken([], [], [], [])
    for number in range(count):
        voice, language = voices[number // len(languages) % len(voices)], languages[number % len(languages)]
        digits = rng.integers(0, 10, rng.integers(1, longest + 1)).astype(np.int32)
        words = WORDS[language].split()
        speed, pitch = int(rng.integers(*SPEEDS)), int(rng.integers(*PITCHES))
        wave = speak(" ".join(words[digit] for digit in digits), language, voice, speed, pitch)
        level, noise = 10 ** rng.uniform(-1, 0), 10 ** rng.uniform(-3.5, -2)
        spoken.recordings.append((wave * level + noise * rng.normal(size=len(wave))).astype(np.float32))
        spoken.digits.append(digits)
        spoken.voices.append(voice)
        spoken.languages.append(language)
    return spoken
