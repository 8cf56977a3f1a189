"""What translation and captions share: texts that a decoder writes about a source, and their scores."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Batch, Layer
from seqjax.combinators import Source
from seqjax.datasets import END, START, Vocabulary, Words
from seqjax.datasets.vocabulary import split_words
from seqjax.decode import beam_search
from seqjax.training.applications.batches import token_accuracy
from seqjax.training.applications.common import Trained
from seqjax.training.evaluation import evaluation
from seqjax.training.losses import cross_entropy


class Sources(NamedTuple):
    """A batch of sources: the rows that are asked for, the sources ``[B, ...]``, and the longest text in tokens.

    The first sources are those of the rows; others fill up the batch.
    """

    rows: Iterable[int]
    source: Source
    max_length: int


def written(
    trained: Trained, vocabulary: Vocabulary, batches: Iterable[Sources], count: int, beam_size: int
) -> list[str]:
    """Return the most probable text about each of the sources, by beam search."""
    result = [""] * count
    for rows, source, max_length in batches:
        start = jnp.full((1, len(source.values)), START, jnp.int32)
        carry = _condition(trained.model)(trained.params, start[0], source)
        beams = beam_search(
            trained.model,
            trained.params,
            carry,
            start,
            beam_size=beam_size,
            max_length=max_length,
            end_token=END,
        )
        best = np.asarray(beams.tokens)[:, :, 0]
        for place, row in enumerate(rows):
            result[row] = vocabulary.decode(np.maximum(best[:, place], 0)).replace("\n", " ")
    return result


@functools.lru_cache(maxsize=8)
def _condition(model: Layer) -> Callable:
    def conditioned(params: Any, first: jax.Array, source: Source) -> Any:
        assert model.condition is not None
        return model.condition(params, model.initial_carry(params, first), source)

    return jax.jit(conditioned)


def teacher_forced_metrics(trained: Trained, batches: Sequence[Batch]) -> dict[str, float]:
    """Return loss and token accuracy over batches, given the tokens before each token."""
    evaluate = evaluation(
        trained.model,
        cross_entropy,
        lambda number: batches[number],
        len(batches),
        corpus_metrics=token_accuracy(),
    )
    return evaluate(trained)


def text_metrics(
    vocabulary: Vocabulary, made: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the share of texts that are one of their references; BLEU and chrF by sacrebleu, if that is installed.

    References are compared as the vocabulary writes them: words in lower case, with spaces around marks.

    Example:
        >>> from seqjax.datasets import Words
        >>> from seqjax.training.applications.decoding import text_metrics
        >>> text_metrics(Words(()), ["a cat .", "a cow"], [["A cat.", "One cat."], ["a dog"]])["exact"]
        0.5
    """
    known = [[_as_written(vocabulary, text) for text in texts] for texts in references]
    exact = [text.strip() in texts for text, texts in zip(made, known, strict=True)]
    found = {"exact": float(np.mean(exact))}
    try:
        import sacrebleu
    except ImportError:
        return found
    streams: Any = [
        [texts[i] if i < len(texts) else None for texts in known] for i in range(max(map(len, known)))
    ]
    found["bleu"] = sacrebleu.corpus_bleu(list(made), streams).score
    found["chrf"] = sacrebleu.corpus_chrf(list(made), streams).score
    return found


def _as_written(vocabulary: Vocabulary, text: str) -> str:
    if isinstance(vocabulary, Words):
        return " ".join(split_words(text, lower=vocabulary.lower))
    return text.strip().replace("\n", " ")
