"""Vocabularies of bytes, characters and words; each is a value, trained on texts. `Subwords` is another one.

Four tokens are the same in all of them: `PAD` 0, which fills up sequences (and is the blank of CTC), `START` 1, `END` 2
and `UNKNOWN` 3. The tokens of the texts follow.
"""

import collections
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from seqjax.checks import check_whole, check_whole_or_none
from seqjax.values import Value

PAD, START, END, UNKNOWN = range(4)
"""The ids of the special tokens, which are the first of every vocabulary."""

NUM_SPECIAL = 4
WORD = re.compile(r"\w+(?:['’]\w+)?|[^\w\s]")
"""A word, with an apostrophe inside, or one mark of punctuation."""


class Vocabulary(Value):
    """What all vocabularies have in common.

    Attributes:
        size: number of tokens, the special ones included.
    """

    kind: ClassVar[str]

    @property
    def size(self) -> int:
        raise NotImplementedError

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens ``[N]`` int32 of a text, without `START` and `END`."""
        raise NotImplementedError

    def decode(self, tokens: Any) -> str:
        """Return the text of tokens ``[N]``: up to the first `END`, without `PAD` and `START`.

        Raises:
            ValueError: for tokens that are no whole numbers from 0 to ``size - 1``.
        """
        array = np.asarray(tokens)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(
                f"{self.kind}.decode: expected integers [N], got {list(array.shape)} of {array.dtype}."
            )
        found = array.tolist()
        wrong = [token for token in found if not 0 <= token < self.size]
        if wrong:
            raise ValueError(
                f"{self.kind}.decode: expected tokens from 0 to {self.size - 1}, got {wrong[0]}."
            )
        found = found[: found.index(END)] if END in found else found
        return self._text([token for token in found if token not in (PAD, START)])

    def _text(self, tokens: list[int]) -> str:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Bytes(Vocabulary):
    """The 256 bytes of UTF-8, for any text.

    Example:
        >>> from seqjax.datasets import Bytes
        >>> Bytes().size, Bytes().encode("aé"), Bytes().decode([101, 199, 173])
        (260, array([101, 199, 173], dtype=int32), 'aé')
    """

    kind: ClassVar[str] = "bytes"

    @property
    def size(self) -> int:
        return NUM_SPECIAL + 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", errors="replace"), np.uint8).astype(np.int32) + NUM_SPECIAL

    def _text(self, tokens: list[int]) -> str:
        found = b"".join(b"\xef\xbf\xbd" if t == UNKNOWN else bytes([t - NUM_SPECIAL]) for t in tokens)
        return found.decode("utf-8", errors="replace")


@dataclass(frozen=True, repr=False)
class Characters(Vocabulary):
    """The characters of the training texts; others are `UNKNOWN`, which is decoded as U+FFFD.

    Attributes:
        symbols: the characters, in the order of their tokens.

    Example:
        >>> from seqjax.datasets import Characters
        >>> vocabulary = Characters.train(["abba", "cab"])
        >>> vocabulary, vocabulary.encode("bad")
        (Characters(symbols='abc'), array([5, 4, 3], dtype=int32))
    """

    symbols: str
    kind: ClassVar[str] = "characters"

    @classmethod
    def train(cls, texts: Iterable[str], *, min_count: int = 1) -> "Characters":
        """Return the characters that occur at least `min_count` times, in the order of their code points."""
        check_whole("Characters.train(min_count)", min_count)
        counts = collections.Counter(character for text in each_text(texts) for character in text)
        return cls("".join(sorted(_frequent("Characters", counts, min_count))))

    @property
    def size(self) -> int:
        return NUM_SPECIAL + len(self.symbols)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {symbol: place for place, symbol in enumerate(self.symbols, NUM_SPECIAL)}

    def encode(self, text: str) -> np.ndarray:
        return np.array([self._places.get(character, UNKNOWN) for character in text], np.int32)

    def _text(self, tokens: list[int]) -> str:
        return "".join("\ufffd" if t == UNKNOWN else self.symbols[t - NUM_SPECIAL] for t in tokens)


@dataclass(frozen=True, repr=False)
class Words(Vocabulary):
    r"""The words and marks of punctuation of the training texts; others are `UNKNOWN`.

    A word is ``\w+(?:['’]\w+)?``, a mark is any other character that is no space. Decoding joins words by spaces.

    Attributes:
        words: the words, in the order of their tokens: the most frequent first.
        lower: whether texts are changed to lower case.

    Example:
        >>> from seqjax.datasets import Words
        >>> vocabulary = Words.train(["The cat.", "the dog!"], min_count=2)
        >>> vocabulary, vocabulary.encode("The end"), vocabulary.decode([4, 3])
        (Words(words=('the',)), array([4, 3], dtype=int32), 'the <unknown>')
    """

    words: tuple[str, ...]
    lower: bool = True
    kind: ClassVar[str] = "words"

    @classmethod
    def train(
        cls, texts: Iterable[str], *, size: int | None = None, min_count: int = 1, lower: bool = True
    ) -> "Words":
        """Return the words that occur at least `min_count` times, of which the most frequent for a `size`."""
        check_whole("Words.train(min_count)", min_count)
        size = check_whole_or_none("Words.train(size)", size, NUM_SPECIAL + 1)
        counts = collections.Counter(
            word for text in each_text(texts) for word in split_words(text, lower=lower)
        )
        found = sorted(_frequent("Words", counts, min_count), key=lambda word: (-counts[word], word))
        return cls(tuple(found if size is None else found[: size - NUM_SPECIAL]), lower)

    @property
    def size(self) -> int:
        return NUM_SPECIAL + len(self.words)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words, NUM_SPECIAL)}

    def encode(self, text: str) -> np.ndarray:
        return np.array(
            [self._places.get(word, UNKNOWN) for word in split_words(text, lower=self.lower)], np.int32
        )

    def _text(self, tokens: list[int]) -> str:
        return " ".join("<unknown>" if t == UNKNOWN else self.words[t - NUM_SPECIAL] for t in tokens)


def split_words(text: str, *, lower: bool = True) -> list[str]:
    """Return the words and marks of punctuation of a text.

    Example:
        >>> split_words("Don't go, she said.")
        ["don't", 'go', ',', 'she', 'said', '.']
    """
    return WORD.findall(text.lower() if lower else text)


def each_text(texts: Iterable[str]) -> Iterable[str]:
    """Return texts, of which one may be given by itself."""
    return [texts] if isinstance(texts, str) else texts


def _frequent(who: str, counts: collections.Counter, min_count: int) -> list[str]:
    found = [each for each, count in counts.items() if count >= min_count]
    if not found:
        raise ValueError(
            f"{who}.train: expected texts in which something occurs {min_count} times, got none."
        )
    return found
