"""Data from packages of registries: a catalog, a cache, and one file per source that reads it."""

from seqjax.datasets.sources.bible import bible
from seqjax.datasets.sources.cache import MissingDataError, cache_folder, fetch
from seqjax.datasets.sources.catalog import SOURCES, Source
from seqjax.datasets.sources.clients import FetchError
from seqjax.datasets.sources.digits import real_digits, strings_of
from seqjax.datasets.sources.emoji import Pictures, emoji, kind_of
from seqjax.datasets.sources.laser import laser
from seqjax.datasets.sources.m3 import Forecast, m3
from seqjax.datasets.sources.mnist import Digits, mnist
from seqjax.datasets.sources.movies import Rated, movies, ratings_of
from seqjax.datasets.sources.parts import Parts
from seqjax.datasets.sources.shakespeare import shakespeare
from seqjax.datasets.sources.traffic import Traffic, traffic
from seqjax.datasets.sources.voices import Spoken, spoken_digits, synthesizer, voices_of
from seqjax.datasets.sources.vowels import Vowels, vowels

__all__ = [
    "SOURCES",
    "Digits",
    "FetchError",
    "Forecast",
    "MissingDataError",
    "Parts",
    "Pictures",
    "Rated",
    "Source",
    "Spoken",
    "Traffic",
    "Vowels",
    "bible",
    "cache_folder",
    "emoji",
    "fetch",
    "kind_of",
    "laser",
    "m3",
    "mnist",
    "movies",
    "ratings_of",
    "real_digits",
    "shakespeare",
    "spoken_digits",
    "strings_of",
    "synthesizer",
    "traffic",
    "voices_of",
    "vowels",
]
