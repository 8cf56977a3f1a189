"""Test the data, baselines and metrics of the applications on recordings and pictures, without their data."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from benchmarks.applications import captioning, recordings, speech, warping
from seqjax.datasets import PAD, START, Words
from seqjax.training.applications.edits import edits

# ---------------------------------------------------------------- speech


def least_path(costs):
    """The smallest sum over monotone paths from corner to corner, by recursion over the last step."""

    @cache
    def total(i, j):
        if i == j == 0:
            return costs[0, 0]
        before = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
        return costs[i, j] + min(total(*place) for place in before if min(place) >= 0)

    return total(len(costs) - 1, len(costs[0]) - 1)


@pytest.mark.parametrize("squared", [False, True])
def test_warping_is_the_best_monotone_path(squared):
    rng = np.random.default_rng(0)
    series, templates = rng.normal(size=(6, 2)), [rng.normal(size=(n, 2)) for n in (1, 4, 7)]
    found = warping.distances(series, templates, squared=squared)
    for distance, template in zip(found, templates, strict=True):
        costs = ((series[:, None] - template) ** 2).sum(-1)
        expected = (
            least_path(costs) if squared else least_path(np.sqrt(costs)) / (len(series) + len(template))
        )
        np.testing.assert_allclose(distance, expected, rtol=1e-6)


def all_strings(longest):
    return [s for n in range(longest + 1) for s in itertools.product((1, 2), repeat=n)]


def test_edits_are_the_shortest_path_between_strings():
    """Breadth-first search over single insertions, deletions and replacements."""
    strings = all_strings(3)
    neighbors = {
        a: [b for b in all_strings(4) if abs(len(a) - len(b)) <= 1 and one_edit(a, b)] for a in all_strings(4)
    }
    for start in strings:
        distance, front = {start: 0}, [start]
        for a in front:
            for b in neighbors[a]:
                if b not in distance:
                    distance[b] = distance[a] + 1
                    front.append(b)
        for end in strings:
            assert edits(start, end) == distance[end]


def one_edit(a, b):
    """Whether one replacement, insertion or deletion makes b of a."""
    if len(a) == len(b):
        return sum(x != y for x, y in zip(a, b, strict=True)) == 1
    short, long = sorted((a, b), key=len)
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def said(words, voices, lengths=None, languages=None):
    rng = np.random.default_rng(0)
    frames = [rng.normal(size=(n, 32)).astype(np.float32) for n in lengths or [12] * len(words)]
    return speech.Utterances(
        frames, [np.array(w, np.int32) for w in words], voices, languages or ["en-us"] * len(words)
    )


def test_errors_are_shared_over_words_and_sorted_by_base_voice():
    part = said([[1, 2, 3], [4], [5, 5]], ["iven", "iven2", "f1"])
    heard = [[1, 2], [4], [5, 6, 5]]
    assert speech.word_error_rate(heard, part.words) == 2 / 6
    assert list(speech.by_voice(heard, part).items()) == [("iven", 1 / 4), ("f1", 1 / 2)]


def test_copies_of_recordings_keep_their_words_and_differ():
    part = said([[1, 2], [3]], ["f1", "f1"], lengths=[31, 20])
    batch = speech.batches(part, copies=3)(0)
    assert batch.xs.shape[1:] == (8, 64) and batch.targets.shape == (8, 2)
    assert sorted(row[row > 0].tolist() for row in batch.targets) == [[1, 2]] * 4 + [[3]] * 4
    lengths = batch.mask.sum(0)
    assert len(set(lengths.tolist())) > 2 and lengths.max() <= (round(31 / 0.8) + 30) // 2
    for column, length in zip(np.moveaxis(batch.xs, 1, 0), lengths, strict=True):
        values = column[:length].reshape(-1, 32)
        assert np.abs(values.mean(0)).max() < 0.2  # an odd last frame is left out


def test_a_recording_without_changes_is_not_warped(monkeypatch):
    frames = np.random.default_rng(0).normal(size=(9, 32)).astype(np.float32)

    class Neutral:
        uniform = staticmethod(lambda low, high: 1.0 if low > 0 else low if low == -12 else 0.0)
        integers = staticmethod(lambda low, high, size: np.zeros(size, int))
        normal = staticmethod(lambda mean, deviation, shape: np.zeros(shape))

    np.testing.assert_allclose(speech.warped(frames, Neutral), frames, atol=1e-3)


def test_cepstra_leave_out_pauses_and_the_level():
    rng = np.random.default_rng(0)
    spoken = rng.normal(size=(9, 32))
    quiet = np.full((4, 32), -20.0)
    found = recordings.cepstra(np.concatenate([quiet, spoken, quiet]))
    assert found.shape == (9, 13)
    np.testing.assert_allclose(found, recordings.cepstra(np.concatenate([spoken + 3, quiet])), atol=1e-12)
    # The cosine transform by its definition.
    k, m = np.arange(13)[:, None], np.arange(32)
    basis = np.sqrt(np.where(k == 0, 1, 2) / 32) * np.cos(np.pi * k * (2 * m + 1) / 64)
    expected = spoken @ basis.T
    np.testing.assert_allclose(found, expected - expected.mean(0), atol=1e-12)


def test_words_heard_are_those_of_each_utterance_alone_and_of_its_language():
    languages = ("en-us", "fr")
    part = said([[1], [12]], ["f1"] * 2, lengths=[41, 22], languages=["en-us", "fr"])
    model = sj.models.ctc_recognizer(21, sj.gru, hidden_size=8, num_layers=1)
    xs = speech.steps_of(part.frames)
    params = model.init(jax.random.key(0), xs[0][:1])
    params = jax.tree.map(lambda leaf: 3 * leaf, params)  # so that more than blanks are heard
    hear = speech.listener(model, languages=languages)
    free, single = hear(params, part), hear(params, part, single=True)
    assert sum(map(len, free)) > 2
    for x, own, words, word in zip(xs, (range(1, 11), range(11, 21)), free, single):
        logits = model.unroll(params, model.initial_carry(params, x[:1]), jnp.asarray(x)[:, None])[1][:, 0]
        kept = np.full(logits.shape, -1e9)
        kept[:, [0, *own]] = logits[:, np.array([0, *own])]
        path = [k for k, _ in itertools.groupby(kept.argmax(-1)) if k]
        assert words.tolist() == path and set(path) <= set(own)
        scores = [forward(jax.nn.log_softmax(jnp.asarray(kept)), k) for k in own]
        assert word.tolist() == [own[int(np.argmax(scores))]]


def forward(log_probabilities, word):
    """The log probability of one word under CTC: blanks, the word at the steps a to b, blanks."""
    p, steps = np.asarray(log_probabilities, np.float64), len(log_probabilities)
    spans = [
        p[:a, 0].sum() + p[a:b, word].sum() + p[b:, 0].sum()
        for a in range(steps)
        for b in range(a + 1, steps + 1)
    ]
    return np.logaddexp.reduce(spans)


# ---------------------------------------------------------------- captions

CAPTIONS = ["woman_s", "man pilot medium_dark skin tone", "woman pilot", "red heart"]


def pictures(captions=CAPTIONS):
    images = np.random.default_rng(0).integers(0, 256, (len(captions), 8, 8, 3)).astype(np.uint8)
    return captioning.Pictures(images, list(captions))


def test_captions_and_images_stay_together():
    part, words = pictures(), Words.train(CAPTIONS)
    batch = captioning.batches(part, words, batch_size=4)(0)
    for row in range(4):
        caption = words.decode(batch.targets[:, row])
        np.testing.assert_array_equal(batch.context[row], part.images[CAPTIONS.index(caption)])
    assert (batch.xs[0] == START).all() and (batch.xs[1:][~batch.mask[1:]] == PAD).all()


def test_shifts_are_a_function_of_the_step_and_move_all_pixels_alike():
    part = pictures()
    loader = captioning.batches(part, Words.train(CAPTIONS), batch_size=4)
    moved = captioning.shifted(loader, seed=0)
    np.testing.assert_array_equal(moved(3).context, moved(3).context)
    assert len({moved(step).context.tobytes() for step in range(4)}) > 1
    shifts = range(-captioning.SHIFT, captioning.SHIFT + 1)
    original = loader(3).context
    assert any((np.roll(original, (i, j), (1, 2)) == moved(3).context).all() for i in shifts for j in shifts)


def test_the_nearest_picture_is_that_with_the_smallest_difference():
    part, rng = pictures(), np.random.default_rng(1)
    noisy = (part.images[[2, 0]] // 2 + rng.integers(0, 99, (2, 8, 8, 3)) // 2).astype(np.uint8)
    differences = [
        [((a / 255.0 - b / 255.0) ** 2).sum() for b in part.images.astype(float)] for a in noisy.astype(float)
    ]
    np.testing.assert_array_equal(captioning.nearest(part, noisy), np.argmin(differences, 1))


def test_scores_of_captions():
    pytest.importorskip("sacrebleu")
    said = ["man pilot dark skin tone", "woman pilot", "red heart"]
    found = captioning.scores(said, CAPTIONS[1:])
    assert found["exact match"] == 2 / 3 and found["exact without tone"] == 1
    assert {name: found[name] for name in ("profession", "gender", "tone")} == {
        "profession": 1.0,
        "gender": 1.0,
        "tone": 2 / 3,
    }
    # Words 8 of 9, pairs 4 of 6; no triple of 3 counts as a half, no quadruple of 2 as a quarter.
    assert found["BLEU"] == pytest.approx(100 * (8 / 9 * 4 / 6 * 1 / 6 * 1 / 8) ** 0.25)


@pytest.mark.slow
def test_captions_are_those_of_each_image_alone():
    part = pictures()
    found = captioning.Data(part, part, part, Words.train(CAPTIONS))
    options = {"image_shape": (8, 8, 3), "hidden_size": 8, "attention": sj.additive_attention(8)}
    model = captioning.captioner(found, **options)
    params = model.init(jax.random.key(1), jnp.full(1, START))
    texts = captioning.writer(model, found)(params, part.images)
    assert len(texts) == 4
    condition, step = jax.jit(model.condition), jax.jit(model.step)
    for image, text in zip(part.images[:2], texts):
        token, tokens = jnp.full(1, START), []
        carry = condition(params, model.initial_carry(params, token), sj.Source(image[None]))
        for _ in range(captioning.LONGEST):
            carry, logits = step(params, carry, token)
            token = logits.argmax(-1)
            tokens.append(int(token[0]))
        assert text == found.words.decode(np.array(tokens))


def test_the_reach_starts_at_the_last_word_of_each_caption():
    """A decoder that halves its state: the gradient of the last step falls by a factor of two from step to step."""
    layer = sj.recurrent(sj.elman(3, activation="identity"))
    mask = np.arange(6)[:, None] < np.array([6, 4])
    xs = np.ones((6, 2, 3), np.float32)
    params = layer.init(jax.random.key(0), xs[0])._replace(w_h=jnp.eye(3) / 2)
    found = captioning.reach(layer, params, sj.Batch(xs, np.zeros((6, 2), np.int32), mask=mask))
    assert len(found) == 5
    np.testing.assert_allclose(np.diff(found), -np.log(2), rtol=1e-4)
