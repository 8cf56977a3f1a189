"""Test the data, baselines and metrics of the applications on texts, without their data."""

import jax
import numpy as np
import pytest

import seqjax as sj
from benchmarks.applications import sentiment, translation
from seqjax.base import Batch
from seqjax.datasets import UNKNOWN, Words, sources

PAIRS = {"the house": "la casa", "the book": "el libro", "a book": "un libro", "a house": "una casa"}


def pairs(texts):
    """Texts without subwords."""
    return translation.Pairs(list(texts), list(texts.values()), [], [])


def test_word_alignment_finds_the_classical_example():
    """Knight 1999, "A statistical MT tutorial workbook": words that occur with two others are told apart."""
    assert translation.word_by_word(pairs(PAIRS), ["book house", "my house"]) == ["libro casa", "my casa"]


def test_word_alignment_climbs_to_the_probabilities_of_a_plain_loop():
    """The expectation maximization of Brown et al. 1993, with dictionaries and loops."""
    corpus = [(["", *a.split()], b.split()) for a, b in PAIRS.items()]
    t = {(e, s): 1.0 for english, spanish in corpus for e in english for s in spanish}
    for _ in range(5):
        counts = dict.fromkeys(t, 0.0)
        for english, spanish in corpus:
            for s in spanish:
                total = sum(t[e, s] for e in english)
                for e in english:
                    counts[e, s] += t[e, s] / total
        sums = {e: sum(c for (other, _), c in counts.items() if other == e) for e, _ in t}
        t = {(e, s): c / sums[e] for (e, s), c in counts.items()}
    best = {e: max((p, s) for (other, s), p in t.items() if other == e)[1] for e in ("book", "house")}
    assert translation.word_by_word(pairs(PAIRS), ["book", "house"], num_rounds=5) == list(best.values())


def test_the_nearest_verse_is_a_verse_of_the_training_part():
    pytest.importorskip("sklearn")
    assert translation.nearest_verse(pairs(PAIRS), ["the old house", "a book"]) == ["la casa", "un libro"]


def test_scores_of_translations():
    pytest.importorskip("sacrebleu")
    same = translation.scores(["la casa es de el ."], ["la casa es de el ."])
    assert same == {"BLEU": pytest.approx(100), "chrF": pytest.approx(100)}
    # Three of four words, two of three pairs, one of two triples, none of one quadruple, which counts as a half.
    found = translation.scores(["a b c x"], ["a b c d"])["BLEU"]
    assert found == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_batches_leave_out_the_longest_pairs_only():
    tokens = [np.full(n, 5, np.int32) for n in (2, 3, 4, 9)]
    found = translation.Pairs([], [], tokens, tokens[::-1])
    whole, most = (translation.batches(found, num_buckets=1, share=share)(0) for share in (1.0, 0.6))
    assert whole.context[0].shape[1] == 9 and whole.xs.shape[0] == 10
    assert most.context[0].shape[1] == 4 and most.xs.shape[0] == 5


RATED = sources.Rated(
    ["good movie", "bad movie", "a long and good good story"], np.array([2.0, -1.0, 3.0], np.float32)
)


def test_scores_of_ratings_equal_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    ratings, people = rng.normal(size=(2, 50)).astype(np.float32)
    found = sentiment.scores(ratings, sources.Rated([""] * 50, people))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(people > 0, ratings > 0))
    assert found["F1"] == pytest.approx(metrics.f1_score(people > 0, ratings > 0))
    assert found["r"] == pytest.approx(np.corrcoef(people, ratings)[0, 1])
    assert sentiment.scores(np.ones(50), sources.Rated([""] * 50, people))["r"] == 0


def test_the_paired_bootstrap_has_the_mean_and_the_error_of_a_mean():
    rng = np.random.default_rng(0)
    people, first, second = rng.normal(size=(3, 400))
    samples = sentiment.lead(first, second, sources.Rated([], people))
    difference = ((first > 0) == (people > 0)).astype(float) - ((second > 0) == (people > 0))
    error = difference.std() / 20
    assert abs(samples.mean() - difference.mean()) < 5 * error / 100  # of 10,000 samples
    np.testing.assert_allclose(samples.std(), error, rtol=0.05)


def test_unknown_words_are_a_function_of_the_step_and_leave_padding_alone():
    mask = np.arange(400)[:, None] < np.array([400, 300])
    loader = sentiment.with_unknown_words(
        lambda step: Batch(np.full((400, 2), 9, np.int32) * mask, None, None, mask), 0.1
    )
    first, again, other = loader(0).xs, loader(0).xs, loader(1).xs
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(first[mask]) == {9, UNKNOWN} and not first[~mask].any()
    assert abs(np.mean(first[mask] == UNKNOWN) - 0.1) < 5 * (0.09 / 700) ** 0.5


def test_predictions_are_those_of_each_text_alone():
    words = Words.train(RATED.texts)
    data = sentiment.Data(RATED, RATED, RATED, {}, words)
    model = sentiment.model_of(data, sentiment.Setting(sj.gru, hidden_size=4, embed_size=3))
    params = model.init(jax.random.key(0), words.encode("a good")[:1])
    found = sentiment.predictor(model, data)(params, RATED.texts)
    for text, rating in zip(RATED.texts, found):
        ys = model.unroll(params, None, words.encode(text)[:, None])[1]
        np.testing.assert_allclose(rating, ys[-1, 0, 0], rtol=1e-5)
