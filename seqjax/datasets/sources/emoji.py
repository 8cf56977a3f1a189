"""Pictures of emoji with their names."""

import functools
import io
import json
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqjax.datasets.captions import colors, pillow
from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.parts import Parts
from seqjax.install import missing

TONE = re.compile(r"[:,]? *\b(medium-light|medium-dark|light|medium|dark) skin tone\b")
GENDER = re.compile(r"^(man|woman|person)\b")
NUM_TEST_PAIRS, NUM_VALIDATION_PAIRS = 40, 10
FULLY_QUALIFIED = 2
"""The status of an emoji in its full spelling; other spellings have the same picture."""


class Pictures(NamedTuple):
    """Images ``[N, H, W, 3]`` uint8 and their captions."""

    images: np.ndarray
    captions: list[str]


class Kind(NamedTuple):
    """What a caption says of a person: "firefighter", "woman", "dark"; "" where it says nothing."""

    profession: str
    gender: str
    tone: str


def emoji(split: str = "tone", size: int = 32) -> Parts:
    """Return parts of `Pictures` by one of two splits; their captions are 3,788 different ones.

    * "tone": the test part has persons whose profession and gender are in the training part with another skin tone, a
      fifth of the combinations of gender and tone of each profession: 206 pictures.
    * "pair": the test part has 40 whole pairs of profession and gender, with all skin tones, whose words are all in the
      training part.

    The validation part has other combinations of the same kind.

    Args:
        split: "tone" or "pair".
        size: height and width in pixels.

    Raises:
        ValueError: for another split.
        ImportError: without Pillow or fontTools (the extra ``data`` of seqjax).
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch emoji``.
    """
    splits = {"tone": _by_tone, "pair": _by_pair}
    if split not in splits:
        raise ValueError(f"emoji(split): expected 'tone' or 'pair', got {split!r}.")
    images, captions = all_emoji(size)
    validation, test = splits[split](captions)
    train = sorted(set(range(len(captions))) - {*validation, *test})
    return Parts(*(Pictures(images[part], [captions[i] for i in part]) for part in (train, validation, test)))


@functools.lru_cache(maxsize=2)
def all_emoji(size: int = 32) -> Pictures:
    """Return all pictures, in the order of the names' file; see `emoji` for the errors."""
    font, names = folders("emoji")
    found = json.loads(next(names.rglob("emoji.json")).read_text(encoding="utf-8"))
    glyph_of, strikes = _font(next(font.rglob("NotoColorEmoji.ttf")))
    image_module, images, captions = pillow(), [], []
    for character, entry in found.items():
        glyph = glyph_of(character) if entry.get("status") == FULLY_QUALIFIED else None
        if glyph in strikes:
            with image_module.open(io.BytesIO(strikes[glyph].imageData)) as opened:
                images.append(colors(opened, (size, size)))
            captions.append(entry["en"].strip(":").replace("_", " "))
    return Pictures(np.stack(images), captions)


def kind_of(caption: str) -> Kind:
    """Return what a caption says of a person.

    Example:
        >>> kind_of("woman firefighter: medium-dark skin tone")
        Kind(profession='firefighter', gender='woman', tone='medium-dark')
    """
    tone = TONE.search(caption)
    rest = TONE.sub("", caption).strip()
    gender = GENDER.match(rest)
    profession = re.sub(r"^(man|woman|person|men|women|people)\b", "", rest).strip()
    return Kind(profession, gender[1] if gender else "", tone[1] if tone else "")


def _font(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return ``character -> name of its glyph or None``, and the bitmaps of the glyphs."""
    try:
        from fontTools.ttLib import TTFont
    except ImportError:
        raise missing("emoji", "fontTools", "data") from None
    font = TTFont(path)
    single = font.getBestCmap()
    ligatures = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, each in (getattr(table, "ligatures", None) or {}).items():
                ligatures.update({(first, *ligature.Component): ligature.LigGlyph for ligature in each})

    def glyph_of(character: str) -> str | None:
        parts = tuple(single.get(ord(c)) for c in character if c != "\ufe0f")  # a mark that asks for colors
        return parts[0] if len(parts) == 1 else ligatures.get(parts)

    return glyph_of, font["CBDT"].strikeData[0]


def _persons(captions: list[str]) -> dict[str, list[int]]:
    """Return the pictures of each profession of which there are two genders or more."""
    groups: dict[str, list[int]] = {}
    for number, caption in enumerate(captions):
        kind = kind_of(caption)
        if kind.gender:
            groups.setdefault(kind.profession, []).append(number)
    return {
        profession: group
        for profession, group in sorted(groups.items())
        if len({kind_of(captions[i]).gender for i in group}) > 1
    }


def _by_tone(captions: list[str]) -> tuple[list[int], list[int]]:
    """Hold out a fifth of the combinations of gender and tone of each profession, and one more for validation."""
    draw, draw_validation = random.Random(0), random.Random(1)
    validation, test = [], []
    for group in _persons(captions).values():
        kinds = {i: kind_of(captions[i])[1:] for i in group}
        combinations = sorted(set(kinds.values()))
        chosen = draw.sample(combinations, max(1, len(combinations) // 5))
        rest = [each for each in combinations if each not in chosen]
        other = draw_validation.sample(rest, 1) if len(rest) > 3 else []
        test += [i for i in group if kinds[i] in chosen]
        validation += [i for i in group if kinds[i] in other]
    return sorted(validation), sorted(test)


def _by_pair(captions: list[str]) -> tuple[list[int], list[int]]:
    """Hold out whole pairs of profession and gender, one of a profession, as long as training has their words."""
    groups = _persons(captions)
    pairs: dict[tuple[str, str], list[int]] = {}
    for profession, group in groups.items():
        for i in group:
            pairs.setdefault((profession, kind_of(captions[i]).gender), []).append(i)
    order = random.Random(0).sample(sorted(pairs), len(pairs))
    counts: dict[str, int] = {}
    for caption in captions:
        for word in set(caption.split()):
            counts[word] = counts.get(word, 0) + 1
    held: list[list[int]] = []
    professions: set[str] = set()
    for pair in order:
        taken: dict[str, int] = {}
        for i in pairs[pair]:
            for word in set(captions[i].split()):
                taken[word] = taken.get(word, 0) + 1
        if pair[0] not in professions and all(counts[word] > number for word, number in taken.items()):
            counts.update({word: counts[word] - number for word, number in taken.items()})
            professions.add(pair[0])
            held.append(pairs[pair])
    test = sum(held[:NUM_TEST_PAIRS], [])
    validation = sum(held[NUM_TEST_PAIRS : NUM_TEST_PAIRS + NUM_VALIDATION_PAIRS], [])
    return sorted(validation), sorted(test)
