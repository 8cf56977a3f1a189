"""The Bible in English and Spanish, verse by verse."""

import ast
import functools
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqjax.datasets.parallel import ParallelText
from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.parts import Parts, place

Verse = tuple[str, int, int]
NOTES = re.compile(r"<note\b.*?</note>|<title\b.*?</title>|<rdg\b.*?</rdg>", re.DOTALL)
TAGS = re.compile(r"<[^>]+>")
RATIO = (0.4, 2.5)
"""Pairs whose lengths in characters have another ratio are left out: their verses are numbered differently."""


def bible(max_words: int | None = 20) -> Parts:
    """Return English verses with their Spanish translations: parts of `ParallelText`.

    The sha256 of the English verse modulo 20 decides: 0 is the test part, 1 the validation part. So equal English
    verses are in one part.

    Args:
        max_words: pairs with more words, separated by spaces, in one of the languages are left out; None keeps all
            31,045. With 20 the parts have 11,281, 607 and 649 pairs, with 15 5,523, 302 and 299.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch bible``.
    """
    parts: tuple[ParallelText, ...] = tuple(ParallelText([], []) for _ in range(3))
    for english, spanish in zip(*verses(), strict=True):
        if max_words is None or max(len(english.split()), len(spanish.split())) <= max_words:
            part = parts[{0: 2, 1: 1}.get(place(english, 20), 0)]
            part.sources.append(english)
            part.targets.append(spanish)
    return Parts(*parts)


@functools.cache
def verses() -> ParallelText:
    """Return all 31,045 pairs of verses, in the order of the Spanish Bible."""
    web, sparv, tables = folders("bible")
    (canons,) = tables.rglob("canons.py")
    canon = _canons(canons.read_text(encoding="utf-8"))
    english = _translation(next(web.rglob("ot.bzs")).parent, canon["nrsva"])
    spanish = _translation(next(sparv.rglob("ot.bzs")).parent, canon["kjv"])
    pairs = [(english[verse], spanish[verse]) for verse in spanish if english.get(verse) and spanish[verse]]
    pairs = [(a, b) for a, b in pairs if RATIO[0] < len(a) / len(b) < RATIO[1]]
    return ParallelText([a for a, _ in pairs], [b for _, b in pairs])


def clean(verse: str) -> str:
    """Return the text of a verse without notes, titles and tags.

    Example:
        >>> clean("<w>In the</w> beginning<note>Or: start</note> , God <title>x</title>created")
        'In the beginning, God created'
    """
    text = re.sub(r"\s+", " ", TAGS.sub("", NOTES.sub(" ", verse)).replace("\xb6", ""))
    return re.sub(r"\s+([,.;:?!’”])", r"\1", text).strip()


def _canons(source: str) -> dict[str, Any]:
    """Return the tables of books and verses, literals of a module that is read and not run."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "canons":
            return ast.literal_eval(node.value)
    raise ValueError("bible: expected a table 'canons' in pysword/canons.py, got none.")


def _translation(folder: Path, canon: dict[str, Any]) -> dict[Verse, str]:
    return {
        verse: clean(text)
        for testament in ("ot", "nt")
        for verse, text in zip(_slots(canon[testament]), _texts(folder, testament), strict=False)
        if verse and text
    }


def _slots(books: list) -> Iterator[Verse | None]:
    """Yield the verse of each slot of a testament: None for its two headings, and for those of books and chapters."""
    yield from (None, None)
    for _, book, _, chapters in books:
        yield None
        for chapter, size in enumerate(chapters, 1):
            yield None
            yield from ((book, chapter, verse) for verse in range(1, size + 1))


def _texts(folder: Path, testament: str) -> Iterator[str]:
    """Yield the text of each slot of a testament, "" where there is none.

    In a SWORD module with compressed text, ``bzz`` has blocks (zlib), ``bzs`` their offsets and sizes (12 bytes each),
    and ``bzv`` the block, offset and length of every slot (10 bytes each).
    """
    sizes, slots, blocks = ((folder / f"{testament}.{each}").read_bytes() for each in ("bzs", "bzv", "bzz"))
    texts = [
        zlib.decompress(blocks[start : start + size]) if size else b""
        for start, size, _ in struct.iter_unpack("<III", sizes)
    ]
    for block, start, size in struct.iter_unpack("<IIH", slots):
        yield texts[block][start : start + size].decode("utf-8", errors="replace") if size else ""
