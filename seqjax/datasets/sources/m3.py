"""The series of the M3 competition."""

import json
from typing import NamedTuple

import numpy as np

from seqjax.datasets.sources.cache import folders

PERIODS = ("YEARLY", "QUARTERLY", "MONTHLY", "OTHER")


class Forecast(NamedTuple):
    """N series to continue.

    Attributes:
        names: N names.
        past: N arrays ``[T_i]`` float64.
        future: the values of the horizon ``[N, H]`` float64, the test part.
        types: N types, such as "MICRO" or "INDUSTRY".
    """

    names: tuple[str, ...]
    past: list[np.ndarray]
    future: np.ndarray
    types: tuple[str, ...]


def m3(period: str = "MONTHLY") -> Forecast:
    """Return the series of one period: 645 yearly, 756 quarterly, 1,428 monthly and 174 other ones.

    The horizons H are 6, 8, 18 and 8 steps. The shortest monthly series has 48 steps before its horizon. Validation
    takes the last H steps of `past`.

    Args:
        period: "YEARLY", "QUARTERLY", "MONTHLY" or "OTHER".

    Raises:
        ValueError: for another period.
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch m3``.
    """
    if period not in PERIODS:
        raise ValueError(f"m3(period): expected one of {', '.join(PERIODS)}, got {period!r}.")
    (folder,) = folders("m3")
    found = json.loads(next(folder.rglob("m3_data.json")).read_text(encoding="utf-8"))
    series = [each for each in found.values() if each["period"] == [period]]
    return Forecast(
        tuple(each["sn"][0] for each in series),
        [np.array(each["x"], np.float64) for each in series],
        np.array([each["xx"] for each in series], np.float64),
        tuple(each["type"][0] for each in series),
    )
