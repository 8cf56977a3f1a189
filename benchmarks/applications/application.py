"""What an application is: its data, its trained models, and the bars that they should reach."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from seqjax.datasets.sources import SOURCES
from seqjax.datasets.sources.cache import is_cached
from seqjax.names import known_name

PARTS = ("VARIANTS", "BARS", "TUNING", "train", "baselines")


class Application(NamedTuple):
    """The title of an application, and the names of its data in ``seqjax data list``."""

    title: str
    data: tuple[str, ...]


APPLICATIONS = {
    "text": Application("Text generation: Shakespeare by character", ("shakespeare",)),
    "sentiment": Application("Sentiment of movie sentences", ("movies",)),
    "translation": Application("Translation from English to Spanish", ("bible",)),
    "speech": Application("Speech: strings of digits, and speakers", ("voices", "digits", "vowels")),
    "forecasting": Application("Forecasts of a laser, of traffic and of M3", ("laser", "traffic", "m3")),
    "captioning": Application("Captions of pictures", ("emoji",)),
    "digits": Application("Digits, pixel by pixel and permuted", ("mnist",)),
    "state_tracking": Application("State tracking: parity and permutations", ()),
}


@dataclass(frozen=True)
class Bar:
    """A number that a variant should reach on the test part: the mean over its seeds.

    Attributes:
        metric: a metric of the test part.
        variant: the name of a variant; None for the one that is best by the same metric on the validation part.
        at_least: the smallest value that reaches the bar, for metrics that should be high.
        at_most: the largest value that reaches the bar, for metrics that should be low. With both, a range.
        over: another variant or a baseline; the bar is then about the difference to its value.
    """

    metric: str
    variant: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    over: str | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"Bar({self.metric!r}): expected at_least or at_most, got neither.")


@dataclass(frozen=True)
class Trained:
    """A trained model and what it reached.

    Attributes:
        model: the model.
        params: its params, the best by the validation part.
        metrics: ``{"validation": {metric: number}, "test": {metric: number}}``.
        minutes: duration of the training.
        parameters: the number of params.
        losses: ``{"training": [(step, loss), ...], "validation": [(step, loss), ...]}``.
        extra: other values for the result file, as JSON holds them, such as errors by voice or by step ahead.
    """

    model: Any
    params: Any
    metrics: Mapping[str, Mapping[str, float]]
    minutes: float
    parameters: int
    losses: Mapping[str, list[tuple[int, float]]]
    extra: Mapping[str, Any] = field(default_factory=dict)


def load(name: str) -> ModuleType:
    """Return the module of an application; raise a ValueError for an unknown name, a TypeError for missing parts."""
    module = importlib.import_module(f"benchmarks.applications.{known_name(name, APPLICATIONS)}")
    absent = [part for part in PARTS if not hasattr(module, part)]
    if absent:
        raise TypeError(
            f"applications: expected {', '.join(PARTS)} in {module.__name__}, {', '.join(absent)} missing."
        )
    return module


def missing_data(name: str) -> list[str]:
    """Return the data of an application that are not in the cache; none for other names."""
    data = APPLICATIONS[name].data if name in APPLICATIONS else ()
    return [each for each in data if not all(map(is_cached, SOURCES[each].packages))]
