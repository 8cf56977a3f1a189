"""Subwords: byte pair encoding by SentencePiece."""

import base64
import functools
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from seqjax.checks import check_whole
from seqjax.datasets.vocabulary import END, NUM_SPECIAL, PAD, START, UNKNOWN, Vocabulary, each_text
from seqjax.install import missing


@dataclass(frozen=True, repr=False)
class Subwords(Vocabulary):
    """Byte pair encoding by SentencePiece, which the extra ``data`` of seqjax installs.

    Decoding gives the text again, with its spaces and line ends. Exceptions are characters that are not in the training
    texts, and U+2581, SentencePiece's mark of a space.

    Attributes:
        model: SentencePiece's model in base 64.

    References:
        Sennrich, Haddow & Birch 2016, "Neural machine translation of rare words with subword units", arXiv:1508.07909;
        Kudo & Richardson 2018, "SentencePiece", arXiv:1808.06226.
    """

    model: str
    kind: ClassVar[str] = "subwords"

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 1000) -> "Subwords":
        """Return subwords of the texts: all their characters, and the most frequent pairs up to the size.

        Raises:
            ImportError: without SentencePiece.
            ValueError: when the texts have more characters, or fewer subwords, than the size.
        """
        check_whole("Subwords.train(size)", size, NUM_SPECIAL + 1)
        library, out = _sentencepiece(), io.BytesIO()
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=iter(_lines(texts)),
                model_writer=out,
                model_type="bpe",
                vocab_size=size,
                pad_id=PAD,
                bos_id=START,
                eos_id=END,
                unk_id=UNKNOWN,
                user_defined_symbols=["\n"],
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                character_coverage=1.0,
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            text = str(error).rpartition("]")[2].strip() or " ".join(str(error).split())
            raise ValueError(
                f"Subwords.train: expected texts for {size} subwords, got SentencePiece's {text!r}. "
                "Pass another `size=`."
            ) from None
        return cls(base64.b64encode(out.getvalue()).decode())

    @functools.cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=base64.b64decode(self.model))

    @property
    def size(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._processor.encode(text), np.int32)

    def _text(self, tokens: list[int]) -> str:
        pieces = ("\ufffd" if t == UNKNOWN else self._processor.id_to_piece(t) for t in tokens)
        return "".join(pieces).replace("▁", " ")


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of texts: SentencePiece takes sentences."""
    return (line for text in each_text(texts) for line in text.split("\n") if line)


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise missing("Subwords", "sentencepiece", "data") from None
    return sentencepiece
