"""Sentences on movies, products, politics and tweets, rated by people."""

import tarfile
from typing import NamedTuple

import numpy as np

from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.parts import Parts, place

MEMBERS = {
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
    "tweets": "tweets",
}
NEUTRAL = 0.05
"""Sentences whose mean rating is at most this far from 0 are left out."""


class Rated(NamedTuple):
    """N texts with the means ``[N]`` float32 of twenty ratings from -4 (negative) to 4 (positive)."""

    texts: list[str]
    ratings: np.ndarray


def movies() -> Parts:
    """Return the sentences on movies: parts of `Rated`, 7,348 for training, 1,075 and 2,132.

    The sha256 of the text modulo 10 decides: 0 and 1 is the test part, 2 the validation part. Sentences with a mean
    rating of at most 0.05 in size are left out. The class of a sentence is the sign of its rating.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch movies``.
    """
    texts, ratings = ratings_of("movies")
    places = np.array([place(text, 10) for text in texts])
    chosen = (places > 2, places == 2, places < 2)
    return Parts(*(_select(texts, ratings, mask) for mask in chosen))


def ratings_of(domain: str, *, neutral: bool = False) -> Rated:
    """Return all sentences of a domain, for tests of transfer.

    There are 10,605 (10,555) sentences on movies, 3,708 (3,479) on products, 5,190 (4,615) of editorials and 4,200
    (4,092) tweets. The numbers in brackets are without neutral ones.

    Args:
        domain: "movies", "products", "editorials" or "tweets".
        neutral: whether to return the sentences with a mean rating of at most 0.05 in size, too.

    Raises:
        ValueError: for another domain.
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch movies``.
    """
    if domain not in MEMBERS:
        raise ValueError(f"ratings_of(domain): expected one of {', '.join(MEMBERS)}, got {domain!r}.")
    (folder,) = folders("movies")
    (archive,) = folder.rglob("*.tar.gz")
    name = f"hutto_ICWSM_2014/{MEMBERS[domain]}_GroundTruth.txt"
    with tarfile.open(archive) as opened:
        member = opened.extractfile(name)
        text = "" if member is None else member.read().decode("utf-8", errors="replace")
    rows = [line.split("\t") for line in text.replace("\r\n", "\n").split("\n") if line]
    texts, ratings = [row[2] for row in rows], np.array([row[1] for row in rows], np.float64)
    return _select(texts, ratings, np.full(len(texts), True) if neutral else abs(ratings) > NEUTRAL)


def _select(texts: list[str], ratings: np.ndarray, mask: np.ndarray) -> Rated:
    return Rated(
        [text for text, one in zip(texts, mask, strict=True) if one], ratings[mask].astype(np.float32)
    )
