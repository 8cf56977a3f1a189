"""English verses of the Bible and their Spanish translations: data, models with and without attention, baselines.

Texts are lower case; words and marks of punctuation are separated by spaces. BLEU and chrF compare these texts.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.applications.application import Bar, Trained
from benchmarks.applications.training import fit_best
from seqjax.datasets import END, START, Loader, Subwords, bucketed, pad, sources, teacher_forced
from seqjax.datasets.vocabulary import WORD
from seqjax.training import cross_entropy, evaluation

BATCH, BEAM, SUBWORDS = 64, 5, 1000


@dataclass(frozen=True)
class Setting:
    """A model and its training."""

    attention: Any
    cell: Any = sj.gru
    hidden_size: int = 128
    dropout: float = 0.1
    label_smoothing: float = 0.1
    rate: float = 3e-3
    num_steps: int = 1500


VARIANTS = {
    "dot product": Setting(sj.scaled_dot_attention(1)),
    "additive": Setting(sj.additive_attention(128)),
    "no attention": Setting(None),
    "dot product, lstm": Setting(sj.scaled_dot_attention(1), sj.lstm),
}
BARS = (
    Bar("BLEU", at_least=18),
    Bar("BLEU", "dot product", at_least=5, over="no attention"),
    Bar("BLEU", "additive", at_least=5, over="no attention"),
    Bar("BLEU", at_least=0, over="nearest verse"),
)
TUNING = "Models: one setting, of an earlier trial with dot products, for all variants. Baselines: none."


class Pairs(NamedTuple):
    """N English texts and their Spanish translations, as texts and as subwords."""

    english: list[str]
    spanish: list[str]
    english_tokens: list[np.ndarray]
    spanish_tokens: list[np.ndarray]


class Data(NamedTuple):
    """The three parts, and the subwords of both languages, trained on the first part."""

    train: Pairs
    validation: Pairs
    test: Pairs
    english: Subwords
    spanish: Subwords


def spaced(text: str) -> str:
    """Return a text in lower case, with spaces around words and marks of punctuation.

    Example:
        >>> from benchmarks.applications.translation import spaced
        >>> spaced("Jesus wept.")
        'jesus wept .'
    """
    return " ".join(WORD.findall(text.lower()))


@functools.cache
def data(toy: bool = False) -> Data:
    """Return the verses of at most 20 words; at toy size 640 for training and 32 for each test.

    Subwords see a space before each text, so that the first word of a text is encoded like any other word.
    """
    sizes = (640, 32, 32) if toy else (None, None, None)
    texts = [
        ([spaced(a) for a in part.sources[:size]], [spaced(b) for b in part.targets[:size]])
        for part, size in zip(sources.bible(), sizes, strict=True)
    ]
    vocabularies = [
        Subwords.train((" " + text for text in side), size=300 if toy else SUBWORDS) for side in texts[0]
    ]
    parts = [
        Pairs(*part, *([v.encode(" " + t) for t in side] for v, side in zip(vocabularies, part, strict=True)))
        for part in texts
    ]
    return Data(*parts, *vocabularies)


def batches(pairs: Pairs, *, seed: int = 0, num_buckets: int = 3, share: float = 1.0) -> Loader:
    """Return batches of START and the translation, its targets, and the English subwords as the context.

    Args:
        pairs: a part.
        seed: of the order.
        num_buckets: see `seqjax.datasets.bucketed`.
        share: the share of the pairs that is kept, shorter ones first: the longest few would make all batches of the
            last bucket longer.
    """
    lengths = np.array([max(len(a), len(b)) for a, b in zip(*pairs[2:], strict=True)])
    kept = np.flatnonzero(lengths <= np.quantile(lengths, share))
    english, spanish = ([side[i] for i in kept] for side in pairs[2:])
    inputs, targets = teacher_forced(spanish)
    return bucketed(inputs, targets, context=english, batch_size=BATCH, num_buckets=num_buckets, seed=seed)


def decoder(
    model: sj.Layer, found: Data, *, beam_size: int = BEAM, max_length: int = 64
) -> Callable[..., list[str]]:
    """Return ``(params, pairs) -> translations``: the best of a beam, ranked by the score per token (alpha = 1)."""

    @jax.jit
    def search(params: Any, source: sj.Source) -> jax.Array:
        start = jnp.full((1, BATCH), START)
        carry = model.condition(params, model.initial_carry(params, start[0]), source)
        beams = sj.beam_search(
            model,
            params,
            carry,
            start,
            beam_size=beam_size,
            max_length=max_length,
            end_token=END,
            length_penalty=1.0,
        )
        return beams.tokens[..., 0]

    def translate(params: Any, pairs: Pairs) -> list[str]:
        tokens, longest = pairs.english_tokens, max(map(len, pairs.english_tokens))
        texts: list[str] = []
        for first in range(0, len(tokens), BATCH):
            rows = [tokens[i % len(tokens)] for i in range(first, first + BATCH)]
            columns = np.asarray(search(params, sj.Source(*pad(rows, longest)))).T
            texts += [found.spanish.decode(column).strip() for column in columns]
        return texts[: len(tokens)]

    return translate


def scores(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU (words of the texts as they are) and chrF, from 0 to 100, by sacrebleu.

    References:
        Papineni et al. 2002; Popović 2015; Post 2018, "A call for clarity in reporting BLEU scores", arXiv:1804.08771.
    """
    import sacrebleu

    bleu = sacrebleu.corpus_bleu(list(translations), [list(references)], tokenize="none", force=True)
    return {"BLEU": bleu.score, "chrF": sacrebleu.corpus_chrf(list(translations), [list(references)]).score}


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train one variant, and translate the validation and the test part."""
    setting, found = VARIANTS[variant], data(toy)
    num_steps = 40 if toy else setting.num_steps
    model = sj.models.translator(
        found.english.size,
        found.spanish.size,
        setting.cell,
        attention=setting.attention,
        hidden_size=setting.hidden_size,
        dropout=setting.dropout,
    )
    held_out = batches(found.validation, num_buckets=1)
    rates = optax.cosine_decay_schedule(setting.rate, num_steps, 0.02)
    best = fit_best(
        model,
        partial(cross_entropy, label_smoothing=setting.label_smoothing),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates, weight_decay=1e-4)),
        batches(found.train, seed=seed, num_buckets=1 if toy else 3, share=0.97),
        evaluation(model, cross_entropy, held_out, held_out.steps_per_epoch),
        num_steps=num_steps,
        eval_every=num_steps // 10,
        seed=seed,
    )
    translate = decoder(model, found)
    metrics = {
        name: scores(translate(best.params, pairs), pairs.spanish)
        for name, pairs in (("validation", found.validation), ("test", found.test))
    }
    return Trained(model, metrics=metrics, **best._asdict())


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return BLEU and chrF on the test part of three translations without a network."""
    found = data(toy)
    ways = {
        "copy": lambda train, english: english,
        "word by word": word_by_word,
        "nearest verse": nearest_verse,
    }
    return {
        name: scores(way(found.train, found.test.english), found.test.spanish) for name, way in ways.items()
    }


def nearest_verse(train: Pairs, english: Sequence[str]) -> list[str]:
    """Return the translation of the most similar English verse: the cosine of TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    known = vectorizer.fit_transform(train.english)
    similar = (vectorizer.transform(english) @ known.T).toarray().argmax(1)
    return [train.spanish[i] for i in similar]


def word_by_word(train: Pairs, english: Sequence[str], num_rounds: int = 8) -> list[str]:
    r"""Replace each word by its most probable translation under IBM Model 1; unknown words are kept.

    The expectation maximization of

    .. math::
        p(s \mid e) = \prod_j \frac{1}{I + 1} \sum_{i=0}^{I} t(s_j \mid e_i)

    where :math:`e_0` is the empty word.

    References:
        Brown et al. 1993, "The mathematics of statistical machine translation", section 4.
    """
    pairs = [(["", *a.split()], b.split()) for a, b in zip(train.english, train.spanish, strict=True)]
    sources, targets = (_numbers(texts) for texts in zip(*pairs, strict=True))
    links = [(i, j, number) for number, (i, j) in enumerate(_links(pairs, sources, targets))]
    e, s, word = (
        np.concatenate(column) for column in zip(*((i, j, np.full(len(i), n)) for i, j, n in links))
    )
    keys, link = np.unique(e * len(targets) + s, return_inverse=True)
    english_of, probability = keys // len(targets), np.ones(len(keys))
    for _ in range(num_rounds):
        shares = probability[link]
        shares /= np.bincount(word, shares)[word]
        counts = np.bincount(link, shares)
        probability = counts / np.bincount(english_of, counts)[english_of]
    best = dict(zip(english_of[np.argsort(probability)], keys[np.argsort(probability)] % len(targets)))
    names = list(targets)
    lexicon = {name: names[best[number]] for name, number in sources.items()}
    return [" ".join(lexicon.get(name, name) for name in text.split()) for text in english]


def _numbers(texts: Sequence[Sequence[str]]) -> dict[str, int]:
    return {
        name: number for number, name in enumerate(dict.fromkeys(word for text in texts for word in text))
    }


def _links(pairs: Any, sources: dict[str, int], targets: dict[str, int]) -> Any:
    """Yield for each Spanish word the numbers of all English words of its verse, and its own as often."""
    for english, spanish in pairs:
        numbers = np.array([sources[name] for name in english])
        for name in spanish:
            yield numbers, np.full(len(numbers), targets[name])
