"""Hourly traffic on a highway, with the weather."""

import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqjax.datasets.series import Series, read_series
from seqjax.datasets.sources.cache import folders

DAY = 24
TEST, VALIDATION = 90 * DAY, 60 * DAY
"""The last 90 days are the test part, the 60 days before them the validation part."""
COLUMNS = ("traffic_volume", "temp", "rain_1h", "snow_1h", "clouds_all")


class Traffic(NamedTuple):
    """17,520 hours from 2016-10-01 00:00 on, as one series: forecasts of a later part start from the earlier ones.

    Attributes:
        hours: ``[17520]`` datetime64, every hour.
        vehicles: ``[17520]`` float32, vehicles per hour.
        weather: ``[17520, 4]`` float32: temperature in kelvin, rain and snow in mm per hour, clouds in percent.
        filled: ``[17520]``, where the 104 empty hours were filled.
        validation: the first hour of the validation part.
        test: the first hour of the test part; both are at midnight.
    """

    hours: np.ndarray
    vehicles: np.ndarray
    weather: np.ndarray
    filled: np.ndarray
    validation: int
    test: int


def traffic() -> Traffic:
    """Return the traffic of two years.

    104 rows of the file, single hours, are empty in all columns; each is interpolated linearly between its neighbours.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch traffic``.
    """
    (folder,) = folders("traffic")
    with zipfile.ZipFile(next(folder.rglob("traffic_hourly.zip"))) as archive:
        data = archive.read(archive.namelist()[0])
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "traffic_hourly.csv")
        path.write_bytes(data)
        raw, series = (_read(path, missing) for missing in ("keep", "interpolate"))
    hours = np.array([each.replace(" ", "T") for each in series.times], "datetime64[h]")
    first, *weather = (values.astype(np.float32) for values in series.values)
    test = len(hours) - TEST
    return Traffic(hours, first, np.stack(weather, 1), np.isnan(raw.values[0]), test - VALIDATION, test)


def _read(path: Path, missing: str) -> Series:
    return read_series(path, time="datetime", columns=COLUMNS, missing=missing)
