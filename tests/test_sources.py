"""Test the data of the examples: the counts and splits that the documents state. Data that are absent are skipped."""

import numpy as np
import pytest

from seqjax.datasets import sources


def load(function, *arguments, **keywords):
    try:
        return function(*arguments, **keywords)
    except sources.MissingDataError as error:
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
