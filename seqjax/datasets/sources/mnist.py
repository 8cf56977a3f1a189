"""10,000 handwritten digits of MNIST."""

import json
from typing import NamedTuple

import numpy as np

from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.parts import Parts


class Digits(NamedTuple):
    """Images ``[N, 28, 28]`` uint8 and their classes ``[N]`` int32."""

    images: np.ndarray
    labels: np.ndarray


def mnist() -> Parts:
    """Return "MNIST-10k": parts of `Digits`, seven tenths for training, one tenth for validation, two for the test.

    The package has about 1,000 images of each digit. In the order of each digit, every tenth image is for validation,
    and the two after it are for the test. Pixels are from 0 to 255.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch mnist``.
    """
    (folder,) = folders("mnist")
    parts: list[tuple[list, list]] = [([], []) for _ in range(3)]
    for digit in range(10):
        values = json.loads(next(folder.rglob(f"{digit}.json")).read_text(encoding="utf-8"))["data"]
        images = np.round(np.array(values, np.float32).reshape(-1, 28, 28) * 255).astype(np.uint8)
        places = np.arange(len(images)) % 10
        for (found, labels), mask in zip(
            parts, (places > 2, places == 0, (places == 1) | (places == 2)), strict=True
        ):
            found.append(images[mask])
            labels.append(np.full(mask.sum(), digit, np.int32))
    return Parts(*(Digits(np.concatenate(images), np.concatenate(labels)) for images, labels in parts))
