"""Sentences on movies, rated by people: is the mean rating above zero? Data, models and baselines."""

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
from seqjax.base import Batch
from seqjax.datasets import UNKNOWN, Words, bucketed, pad, sources
from seqjax.training import evaluation, last_step

BATCH = 64


@dataclass(frozen=True)
class Setting:
    """A model and its training."""

    cell: Any
    bidirectional: bool = True
    hidden_size: int = 128
    embed_size: int = 64
    dropout: float = 0.5
    rate: float = 2e-3
    weight_decay: float = 0.3
    unknown_words: float = 0.3
    num_steps: int = 1200


VARIANTS = {
    "lstm": Setting(sj.lstm),
    "gru": Setting(sj.gru),
    "lru": Setting(sj.lru),
    "lstm, one direction": Setting(sj.lstm, bidirectional=False),
}
DOMAINS = ("products", "editorials", "tweets")
WORDS = "TF-IDF of words, logistic regression"
BARS = (Bar("accuracy", at_least=0, over=WORDS), Bar("lead, 2.5% quantile", "lstm", at_least=0))
TUNING = (
    "Models: three settings of the LSTM (steps, weight decay, word dropout), compared on the validation part. "
    "Baselines: four strengths of regularization, compared on the validation part."
)


class Data(NamedTuple):
    """The parts of rated sentences, the sentences of other domains, and the words of the training part."""

    train: sources.Rated
    validation: sources.Rated
    test: sources.Rated
    others: dict[str, sources.Rated]
    words: Words


@functools.cache
def data(toy: bool = False) -> Data:
    """Return all sentences; at toy size 512 for training and 128 for each test."""
    sizes = (512, 128, 128) if toy else (None, None, None)
    parts = [_some(part, size) for part, size in zip(sources.movies(), sizes, strict=True)]
    others = {domain: _some(sources.ratings_of(domain), 128 if toy else None) for domain in DOMAINS}
    return Data(*parts, others, Words.train(parts[0].texts, min_count=2))


def _some(rated: sources.Rated, size: int | None) -> sources.Rated:
    """Return so many sentences, evenly spaced: the files are sorted."""
    every = 1 if size is None else len(rated.texts) // size
    return sources.Rated(rated.texts[::every][:size], rated.ratings[::every][:size])


def batches(found: Data, rated: sources.Rated, *, seed: int = 0, num_buckets: int = 4) -> Callable:
    """Return a `Loader` of words ``[T, B]`` and ratings ``[B, 1]``."""
    tokens = [found.words.encode(text) for text in rated.texts]
    return bucketed(tokens, rated.ratings[:, None], batch_size=BATCH, num_buckets=num_buckets, seed=seed)


def with_unknown_words(loader: Callable[[int], Batch], share: float, seed: int = 0) -> Callable:
    """Return batches where a share of the words is unknown, other words at every step.

    References:
        Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods for text classification", section 4
        (word dropout).
    """

    def of_step(step: int) -> Batch:
        batch = loader(step)
        chosen = np.random.default_rng([seed, step]).random(batch.xs.shape) < share
        return batch._replace(xs=np.where(chosen & batch.mask, np.int32(UNKNOWN), batch.xs))

    return of_step


def squared_error(outputs: jax.Array, ratings: jax.Array) -> jax.Array:
    """Return the squared error of the mean rating ``[B]``."""
    return jnp.mean(jnp.square(outputs - ratings), -1)


LOSS = last_step(squared_error)


def model_of(found: Data, setting: Setting) -> sj.Layer:
    """Return a model with a single output, the expected rating."""
    return sj.models.sequence_classifier(
        1,
        setting.cell,
        vocabulary_size=found.words.size,
        hidden_size=setting.hidden_size,
        embed_size=setting.embed_size,
        bidirectional=setting.bidirectional,
        dropout=setting.dropout,
    )


def predictor(model: sj.Layer, found: Data) -> Callable[[Any, Sequence[str]], np.ndarray]:
    """Return ``(params, texts) -> ratings [N]``; sentences of similar lengths run together."""

    @jax.jit
    def run(params: Any, xs: jax.Array, mask: jax.Array) -> jax.Array:
        ys = model.unroll(params, model.initial_carry(params, xs[0]), xs, mask=mask)[1]
        return sj.last(ys, mask)[:, 0]

    def predict(params: Any, texts: Sequence[str]) -> np.ndarray:
        tokens = [found.words.encode(text) for text in texts]
        tokens = [t if len(t) else np.array([UNKNOWN], np.int32) for t in tokens]
        order, ratings = np.argsort([len(t) for t in tokens], kind="stable"), np.zeros(len(texts))
        for first in range(0, len(order), 256):
            rows = order[first : first + 256]
            longest = -(-len(tokens[rows[-1]]) // 32) * 32  # few lengths, so that few programs are compiled
            xs, mask = pad([tokens[i] for i in np.resize(rows, 256)], longest)
            ratings[rows] = np.asarray(run(params, xs.T, mask.T))[: len(rows)]
        return ratings

    return predict


def scores(ratings: np.ndarray, rated: sources.Rated) -> dict[str, float]:
    """Return accuracy and F1 of the sign, and the correlation with the mean rating of people."""
    positive, wanted = ratings > 0, rated.ratings > 0
    both = float(np.sum(positive & wanted))
    f1 = 2 * both / max(float(positive.sum() + wanted.sum()), 1.0)
    correlation = float(np.corrcoef(ratings, rated.ratings)[0, 1]) if np.ptp(ratings) else 0.0
    return {"accuracy": float(np.mean(positive == wanted)), "F1": f1, "r": correlation}


def all_scores(predict: Callable[[Sequence[str]], np.ndarray], found: Data) -> dict[str, float]:
    """Return the scores on the test part, and the accuracies of other domains."""
    others = {
        f"accuracy, {domain}": scores(predict(rated.texts), rated)["accuracy"]
        for domain, rated in found.others.items()
    }
    return scores(predict(found.test.texts), found.test) | others


def lead(ratings: np.ndarray, others: np.ndarray, rated: sources.Rated, *, seed: int = 0) -> np.ndarray:
    """Return 10,000 bootstrap samples of the difference of two accuracies, paired by sentence.

    References:
        Koehn 2004, "Statistical significance tests for machine translation evaluation", section 3.
    """
    wanted = rated.ratings > 0
    difference = ((ratings > 0) == wanted).astype(int) - ((others > 0) == wanted)
    counts = [int(np.sum(difference == value)) for value in (1, 0, -1)]
    drawn = np.random.default_rng(seed).multinomial(sum(counts), np.array(counts) / sum(counts), 10_000)
    return (drawn[:, 0] - drawn[:, 2]) / sum(counts)


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train one variant on ratings, and classify the test part and the other domains."""
    setting, found = VARIANTS[variant], data(toy)
    num_steps = 40 if toy else setting.num_steps
    model, held_out = model_of(found, setting), batches(found, found.validation, num_buckets=1)
    loader = batches(found, found.train, seed=seed, num_buckets=1 if toy else 4)
    rates = optax.cosine_decay_schedule(setting.rate, num_steps)
    best = fit_best(
        model,
        LOSS,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates, weight_decay=setting.weight_decay)),
        with_unknown_words(loader, setting.unknown_words, seed=seed),
        evaluation(model, LOSS, held_out, held_out.steps_per_epoch),
        num_steps=num_steps,
        eval_every=num_steps // 10,
        seed=seed,
    )
    predict = partial(predictor(model, found), best.params)
    samples = lead(predict(found.test.texts), of_words(toy)(found.test.texts), found.test)
    of_test = all_scores(predict, found) | {"lead, 2.5% quantile": float(np.quantile(samples, 0.025))}
    metrics = {"validation": scores(predict(found.validation.texts), found.validation), "test": of_test}
    return Trained(model, metrics=metrics, **best._asdict())


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return the scores of bags of words and characters, of rules for English, and of a constant answer.

    The correlations of the bags of words are those of a ridge regression of the ratings.
    """
    found = data(toy)

    def bag(characters: bool) -> dict[str, float]:
        ratings = of_ridge(toy, characters)(found.test.texts)
        return all_scores(of_words(toy, characters), found) | {"r": scores(ratings, found.test)["r"]}

    return {
        WORDS: bag(characters=False),
        "TF-IDF of words and characters": bag(characters=True),
        "rules (VADER)": all_scores(of_rules, found),
        "always positive": all_scores(lambda texts: np.ones(len(texts)), found),
    }


def of_rules(texts: Sequence[str]) -> np.ndarray:
    """Return the compound scores of VADER, from -1 to 1; 0, where no rule applies, counts as negative.

    References:
        Hutto & Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment analysis of social media text".
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def tfidf(characters: bool) -> Any:
    """Return features of a text: TF-IDF of words; or of words, pairs of words, and 2 to 5 characters inside words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    if not characters:
        return TfidfVectorizer(sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
    return make_union(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), letters)


@functools.cache
def of_words(toy: bool = False, characters: bool = False) -> Callable[[Sequence[str]], np.ndarray]:
    """Return the log odds of a logistic regression, trained on the training and the validation part.

    Its strength of regularization is chosen on the validation part.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    found, texts, ratings = _known(toy)
    count = len(found.train.texts)

    def fitted(strength: float, number: int) -> Any:
        pipeline = make_pipeline(tfidf(characters), LogisticRegression(C=strength, max_iter=300))
        return pipeline.fit(texts[:number], ratings[:number] > 0)

    held_out = {c: fitted(c, count).score(texts[count:], ratings[count:] > 0) for c in (1, 2, 4, 8)}
    return fitted(max(held_out, key=lambda c: held_out[c]), len(texts)).decision_function


@functools.cache
def of_ridge(toy: bool = False, characters: bool = False) -> Callable[[Sequence[str]], np.ndarray]:
    """Return the ratings of a ridge regression, trained on the training and the validation part."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    _, texts, ratings = _known(toy)
    return make_pipeline(tfidf(characters), Ridge(1.0)).fit(texts, ratings).predict


def _known(toy: bool) -> tuple[Data, list[str], np.ndarray]:
    found = data(toy)
    parts = (found.train, found.validation)
    return found, [t for part in parts for t in part.texts], np.concatenate([part.ratings for part in parts])
