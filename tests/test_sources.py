"""Test the data of the examples: the counts and splits that the documents state. Data that are absent are skipped."""

import warnings

import numpy as np
import pytest

from seqjax.datasets import sources
from seqjax.datasets.sources.voices import base_voice


def load(function, *arguments, **keywords):
    try:
        return function(*arguments, **keywords)
    except sources.MissingDataError as error:
        warnings.warn(f"skipped: {error}", stacklevel=2)  # shown at the end of the tests
        pytest.skip(str(error))


def test_shakespeare_is_held_out_by_play():
    parts = load(sources.shakespeare)
    assert [sum(map(len, part.values())) for part in parts] == [4_133_221, 424_278, 431_290]
    assert list(parts.test) == ["twelfth-night", "king-john", "the-tempest", "macbeth"]
    assert len(parts.train) == 31 and not parts.train.keys() & {*parts.validation, *parts.test}
    assert len(set("".join("".join(part.values()) for part in parts))) == 82
    assert "\n\nFirst Witch:\nWhen shall we three meet again\n" in parts.test["macbeth"]


def test_movie_sentences_are_split_by_their_hash():
    parts = load(sources.movies)
    assert [len(part.texts) for part in parts] == [7348, 1075, 2132]
    texts = [set(part.texts) for part in parts]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    ratings = np.concatenate([part.ratings for part in parts])
    assert ratings.dtype == np.float32 and abs(ratings).min() > 0.05 and abs(ratings).max() <= 4
    assert abs((ratings > 0).mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("domain", "all_of_them", "rated"),
    [
        ("movies", 10_605, 10_555),
        ("products", 3708, 3479),
        ("editorials", 5190, 4615),
        ("tweets", 4200, 4092),
    ],
)
def test_other_domains_test_transfer(domain, all_of_them, rated):
    assert len(load(sources.ratings_of, domain, neutral=True).texts) == all_of_them
    assert len(sources.ratings_of(domain).texts) == rated


def test_verses_are_split_by_the_hash_of_the_english_one():
    load(sources.bible)
    for words, counts in ((None, None), (20, [11_281, 607, 649]), (15, [5523, 302, 299])):
        parts = sources.bible(words)
        found = [len(part.sources) for part in parts]
        assert found == counts if counts else sum(found) == 31_045
        assert [len(part.targets) for part in parts] == found
        assert not {*parts.train.sources} & {*parts.validation.sources, *parts.test.sources}
    train = sources.bible(None).train
    first = train.sources.index("In the beginning, God created the heavens and the earth.")
    assert train.targets[first] == "EN el principio crió Dios los cielos y la tierra."
    assert not any("<" in text for text in train.sources + train.targets)


def test_unknown_domains_are_refused():
    with pytest.raises(ValueError, match=r"ratings_of\(domain\): expected one of movies, .*, got 'books'"):
        sources.ratings_of("books")


def test_unknown_periods_are_refused():
    with pytest.raises(ValueError, match=r"m3\(period\): expected one of YEARLY, .*, got 'monthly'"):
        sources.m3("monthly")


def test_vowels_have_the_official_split():
    train, test = load(sources.vowels)
    assert (len(train.xs), len(test.xs), len(train.names)) == (270, 370, 9)
    lengths = [len(x) for x in train.xs + test.xs]
    assert min(lengths) == 7 and max(lengths) == 29 and {x.shape[1] for x in train.xs} == {12}
    assert np.bincount(train.labels).tolist() == [30] * 9
    assert np.bincount(test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    np.testing.assert_array_equal(train.xs[0][0, :2], np.float32([1.860936, -0.207383]))


def test_the_laser_has_three_successive_parts():
    parts = load(sources.laser)
    assert [len(part) for part in parts] == [7000, 1000, 2093] and parts.train.dtype == np.float32
    assert parts.train[:5].tolist() == [86, 141, 95, 41, 22]


def test_empty_hours_of_traffic_are_filled():
    data = load(sources.traffic)
    assert data.vehicles.shape == (17_520,) and data.weather.shape == (17_520, 4) and data.filled.sum() == 104
    assert set(np.diff(data.hours).astype(int)) == {1} and str(data.hours[0]) == "2016-10-01T00"
    assert len(data.hours) - data.test == 90 * 24 and data.test - data.validation == 60 * 24
    gap = np.flatnonzero(data.filled)[0]
    assert data.vehicles[gap] == (data.vehicles[gap - 1] + data.vehicles[gap + 1]) / 2
    assert np.isfinite(data.vehicles).all() and np.isfinite(data.weather).all()
    # The known baseline, the mean of the last four same weekdays, has an error of 222 vehicles.
    days = range(data.test, len(data.hours), 24)
    actual = np.array([data.vehicles[day : day + 24] for day in days])
    weeks = [np.array([data.vehicles[d - 168 * k : d - 168 * k + 24] for d in days]) for k in range(1, 5)]
    assert round(float(abs(actual - np.mean(weeks, 0)).mean())) == 222


@pytest.mark.parametrize(
    ("period", "count", "horizon", "shortest"),
    [("YEARLY", 645, 6, 14), ("QUARTERLY", 756, 8, 16), ("MONTHLY", 1428, 18, 48), ("OTHER", 174, 8, 63)],
)
def test_m3_has_its_published_counts(period, count, horizon, shortest):
    data = load(sources.m3, period)
    assert len(data.past) == len(data.names) == len(data.types) == count
    assert data.future.shape == (count, horizon) and min(map(len, data.past)) == shortest


def test_the_seasonal_naive_forecast_of_m3_has_its_known_error():
    data = load(sources.m3)
    naive = np.array([np.concatenate([past[-12:], past[-12:-6]]) for past in data.past])
    error = 200 * abs(data.future - naive) / (abs(data.future) + abs(naive))
    assert round(float(error.mean()), 2) == 17.23


def test_mnist_has_all_digits_in_all_parts():
    parts = load(sources.mnist)
    assert [len(part.labels) for part in parts] == [6990, 1005, 2005]
    for part in parts:
        assert part.images.shape[1:] == (28, 28) and part.images.dtype == np.uint8
        assert set(part.labels.tolist()) == set(range(10))
    assert parts.train.images.max() == 255 and 0.1 < parts.train.images.mean() / 255 < 0.2


def test_held_out_voices_are_of_other_base_voices():
    voices = {part: load(sources.voices_of, part) for part in ("train", "validation", "test")}
    assert [len(names) for names in voices.values()] == [72, 9, 23]
    bases = [{base_voice(voice) for voice in names} for names in voices.values()]
    assert not bases[0] & bases[1] and not bases[0] & bases[2] and not bases[1] & bases[2]


def test_spoken_digits_say_what_their_labels_say():
    parts = load(sources.spoken_digits, train=6, validation=3, test=5, languages=("en-us", "ru"), seed=1)
    assert [len(part.recordings) for part in parts] == [6, 3, 5]
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        assert set(part.voices) <= set(sources.voices_of(name)) and part.languages[:2] == ["en-us", "ru"]
        for wave, digits in zip(part.recordings, part.digits, strict=True):
            assert wave.dtype == np.float32 and abs(wave).max() < 1.1 and 1 <= len(digits) <= 6
            assert 0.1 < len(wave) / 8000 / len(digits) < 1.2  # seconds per digit


def test_other_languages_are_refused():
    with pytest.raises(
        ValueError, match=r"spoken_digits\(languages\): expected some of en-us, .*, got \['de'\]"
    ):
        sources.spoken_digits(languages=("de",))


def test_real_digits_are_fifty():
    spoken = load(sources.real_digits)
    assert len(spoken.recordings) == 50 and len(set(spoken.voices)) == 5 and len(set(spoken.languages)) == 5
    assert [int(d[0]) for d in spoken.digits] == [*range(10)] * 5
    strings = sources.strings_of(spoken, "it", count=3, length=4)
    longest = max(map(len, spoken.recordings))
    assert len(strings.recordings) == 3 and all(
        len(wave) <= 4 * (longest + 800) for wave in strings.recordings
    )
    first = spoken.recordings[30 + int(strings.digits[0][0])]
    np.testing.assert_array_equal(strings.recordings[0][: len(first)], first)


def test_emoji_hold_out_combinations_of_known_words():
    tone, pair = load(sources.emoji, "tone"), sources.emoji("pair")
    assert [len(part.captions) for part in tone] == [3505, 77, 206]
    assert [len(part.captions) for part in pair] == [3493, 55, 240]
    for parts in (tone, pair):
        captions = sum((part.captions for part in parts), [])
        assert len(set(captions)) == 3788 and sum("skin tone" in caption for caption in captions) == 1890
        known = {word for caption in parts.train.captions for word in caption.split()}
        assert all(word in known for caption in captions for word in caption.split())
        assert (
            parts.test.images.shape == (len(parts.test.captions), 32, 32, 3)
            and parts.test.images.dtype == np.uint8
        )
        assert parts.test.images.max() == 255 and 50 < parts.train.images.std() < 120
    pairs = [{sources.kind_of(caption)[:2] for caption in part.captions} for part in pair]
    assert len(pairs[2]) == 40 and len(pairs[1]) == 10 and not pairs[2] & (pairs[0] | pairs[1])
    kinds = [{sources.kind_of(caption) for caption in part.captions} for part in tone]
    assert not kinds[2] & (kinds[0] | kinds[1])
    seen = {kind[:2] for kind in kinds[0]}
    assert sum(kind[:2] in seen for kind in kinds[2]) / len(kinds[2]) > 0.95


def test_other_splits_are_refused():
    with pytest.raises(ValueError, match=r"emoji\(split\): expected 'tone' or 'pair', got 'random'"):
        sources.emoji("random")
