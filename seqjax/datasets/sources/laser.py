"""The intensity of a chaotic laser: data set A of the Santa Fe competition, continued."""

import numpy as np

from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.parts import Parts

TRAIN, VALIDATION = 7000, 1000


def laser() -> Parts:
    """Return three successive parts of the series: 7,000 steps, 1,000 and 2,093, ``[T]`` float32.

    The values are whole numbers from 0 to 255. The first two parts together are the 8,000 steps before the test part.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch laser``.
    """
    (folder,) = folders("laser")
    series = np.load(next(folder.rglob("santafe_laser.npy")), allow_pickle=False).ravel().astype(np.float32)
    return Parts(*np.split(series, [TRAIN, TRAIN + VALIDATION]))
