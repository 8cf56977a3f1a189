"""Test the constraints of decoding against transcriptions: repetition, n-grams, lengths per row, stop sequences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj

V, T = 4, 5
TABLE = np.random.default_rng(0).normal(size=(V, V)) * 2


def following(token):
    return jnp.asarray(TABLE)[token]


LAYER = sj.pointwise(following)


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def logits_after(made, start, *, repetition_penalty=1.0):
    """The penalized logits after a list of tokens."""
    logits = TABLE[made[-1] if made else start].copy()
    for token in set(made):
        logits[token] *= 1 / repetition_penalty if logits[token] > 0 else repetition_penalty
    return logits


def may_be(made, token, *, no_repeat_ngram=0, end_token=None, min_length=0):
    """Whether a token may follow a list of tokens."""
    n = no_repeat_ngram
    whole = [*made, token]
    grams = [tuple(whole[i : i + n]) for i in range(len(whole) - n + 1)]
    return (not n or len(set(grams)) == len(grams)) and not (token == end_token and len(whole) < min_length)


def is_done(made, *, end_token=None, stop_sequences=(), min_length=0, max_length=T):
    stops = len(made) >= min_length and any(made[-len(stop) :] == list(stop) for stop in stop_sequences)
    return bool(made) and (made[-1] == end_token or stops), len(made) == max_length


def by_hand(start, options):
    """The tokens of greedy decoding."""
    made = []
    while not any(is_done(made, **pick(options, "end_token", "stop_sequences", "min_length", "max_length"))):
        logits = logits_after(made, start, **pick(options, "repetition_penalty"))
        fine = [
            may_be(made, v, **pick(options, "no_repeat_ngram", "end_token", "min_length")) for v in range(V)
        ]
        if not any(fine):
            return [*made, -1]
        made.append(int(np.argmax(np.where(fine, logits, -np.inf))))
    return made


def pick(options, *names):
    return {name: options[name] for name in names if name in options}


OPTIONS = {
    "penalty": {"repetition_penalty": 1.8},
    "favored": {"repetition_penalty": 0.3},
    "bigrams": {"no_repeat_ngram": 2},
    "trigrams": {"no_repeat_ngram": 3, "end_token": 3},
    "single tokens": {"no_repeat_ngram": 1},
    "all": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram": 2,
        "end_token": 3,
        "min_length": 3,
        "stop_sequences": [[0, 1], [2]],
    },
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.fast_cases(3)
def test_generation_equals_its_transcription(name):
    options = OPTIONS[name]
    prompt = jnp.arange(V)[None]
    made = sj.generate(LAYER, (), (), prompt, max_length=T, pad_token=9, **options)
    for start in range(V):
        expected = by_hand(start, options)
        assert made.tokens[: made.lengths[start], start].tolist() == expected
    steps = list(sj.stream(LAYER, (), (), prompt, max_length=T, pad_token=9, **options))
    np.testing.assert_array_equal(np.stack([step.token for step in steps]), made.tokens[: len(steps)])


def test_nothing_is_left_to_choose_when_every_token_was_made():
    made = sj.generate(LAYER, (), (), jnp.asarray([[0]]), max_length=V + 1, no_repeat_ngram=1)
    assert sorted(made.tokens[:V, 0].tolist()) == list(range(V)) and made.tokens[V, 0] == -1
    assert np.isnan(made.log_probabilities[V, 0]) and np.isfinite(made.log_probabilities[:V]).all()


def test_log_probabilities_of_generation_are_the_layers_own():
    made = sj.generate(LAYER, (), (), jnp.asarray([[0]]), max_length=T, repetition_penalty=3.0)
    tokens = [0, *made.tokens[:, 0].tolist()]
    expected = [log_softmax(TABLE[a])[b] for a, b in itertools.pairwise(tokens)]
    np.testing.assert_allclose(made.log_probabilities[:, 0], expected, 1e-6)


def test_each_row_has_limits_of_its_own():
    prompt, most, least = jnp.zeros((1, 4), int), np.array([1, 5, 3, 5]), np.array([0, 3, 0, 5])
    end = int(np.argmax(TABLE[0]))  # the first choice of every row
    made = sj.generate(
        LAYER, (), (), prompt, max_length=T, end_token=end, max_lengths=most, min_length=least, pad_token=9
    )
    for row in range(4):
        alone = sj.generate(
            LAYER, (), (), prompt[:, :1], max_length=int(most[row]), end_token=end, min_length=int(least[row])
        )
        assert made.lengths[row] == alone.lengths[0] >= least[row]
        assert (
            made.tokens[: most[row], row].tolist()[: alone.lengths[0]]
            == alone.tokens[:, 0].tolist()[: alone.lengths[0]]
        )
    assert made.lengths.tolist()[0] == 1 and len(set(made.lengths.tolist())) > 1
    beams = sj.beam_search(
        LAYER, (), (), prompt, beam_size=2, max_length=T, end_token=end, max_lengths=most, min_length=least
    )
    for row in range(4):
        alone = sj.beam_search(
            LAYER,
            (),
            (),
            prompt[:, :1],
            beam_size=2,
            max_length=int(most[row]),
            end_token=end,
            min_length=int(least[row]),
        )
        np.testing.assert_allclose(beams.scores[row], alone.scores[0], 1e-6)
        np.testing.assert_array_equal(beams.tokens[: most[row], row], alone.tokens[:, 0])
        np.testing.assert_array_equal(beams.finished[row], alone.finished[0])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.fast_cases(3)
def test_a_beam_of_all_continuations_is_the_best_of_all_that_are_allowed(name):
    options = {"end_token": None} | OPTIONS[name]
    length = 4
    found = {}

    def search(made, log_p):
        ends, cut = is_done(
            made, max_length=length, **pick(options, "end_token", "stop_sequences", "min_length")
        )
        if ends or cut:
            found[tuple(made)] = (log_p, ends)
            return
        steps = log_softmax(logits_after(made, 0, **pick(options, "repetition_penalty")))
        for v in range(V):
            if may_be(made, v, **pick(options, "no_repeat_ngram", "end_token", "min_length")):
                search([*made, v], log_p + steps[v])

    search([], 0.0)
    beams = sj.beam_search(
        LAYER, (), (), jnp.asarray([[0]]), beam_size=V**length, max_length=length, pad_token=9, **options
    )
    best = sorted(found, key=lambda made: -found[made][0])
    number = int(np.sum(np.isfinite(beams.scores[0])))
    assert number == len(best)
    np.testing.assert_allclose(beams.scores[0, :number], [found[made][0] for made in best], 1e-6)
    for k in range(10):
        made = best[k]
        assert beams.tokens[: beams.lengths[0, k], 0, k].tolist() == list(made)
        assert bool(beams.finished[0, k]) == found[made][1]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.fast_cases(2)
def test_a_beam_of_one_is_greedy(name):
    options = {"end_token": None} | OPTIONS[name]
    options["max_length"] = 4  # all tokens once at the most
    prompt = jnp.arange(V)[None]
    greedy = sj.generate(LAYER, (), (), prompt, **options)
    beam = sj.beam_search(LAYER, (), (), prompt, beam_size=1, **options)
    fine = (greedy.tokens >= 0).all(0)
    np.testing.assert_array_equal(beam.tokens[..., 0][:, fine], greedy.tokens[:, fine])


def test_other_limits_compile_nothing():
    prompt = jnp.zeros((1, 3), int)
    decode = jax.jit(lambda most: sj.generate(LAYER, (), (), prompt, max_length=T, max_lengths=most).lengths)
    for most in ([1, 2, 3], [3, 3, 1]):
        assert decode(jnp.asarray(most)).tolist() == most
    assert decode._cache_size() == 1


@pytest.mark.parametrize("decode", [sj.generate, sj.beam_search], ids=["generate", "beam_search"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 0.0}, r"\(repetition_penalty\): expected a finite number above 0, got 0.0"),
        ({"no_repeat_ngram": -1}, r"\(no_repeat_ngram\): expected a whole number of at least 0, got -1"),
        ({"max_lengths": [1, 2, 3]}, r"\(max_lengths\): .* one per row \[2\], got int64 \[3\]"),
        ({"max_lengths": [1, 9]}, r"\(max_lengths\): expected at most max_length=3, got 9"),
        ({"max_lengths": [0, 1]}, r"\(max_lengths\): expected numbers of at least 1, got 0"),
        (
            {"min_length": [1.0, 2.0]},
            r"\(min_length\): expected one whole number, or one per row \[2\], got float",
        ),
        ({"min_length": 4}, r"\(min_length\): expected at most max_length=3, got 4"),
        ({"stop_sequences": [[V]]}, rf"\(stop_sequences\): expected a token below V = {V}"),
        ({"stop_sequences": [[]]}, r"expected sequences of at least one token, got an empty one"),
    ],
)
def test_what_does_not_fit_is_refused(decode, options, message):
    own = {"beam_size": 2, "end_token": 1} if decode is sj.beam_search else {"end_token": 1}
    with pytest.raises(ValueError, match=message):
        decode(LAYER, (), (), jnp.zeros((1, 2), int), max_length=3, **own, **options)
