"""Batches of applications for evaluation and use, and the outputs of a trained model."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from seqjax import datasets
from seqjax.base import Batch, Layer
from seqjax.datasets import Loader
from seqjax.training.applications.common import Trained
from seqjax.training.evaluation import CorpusMetrics
from seqjax.training.recipe import Recipe


def number_of_batches(recipe: Recipe, loader: Loader) -> int:
    """Return the number of batches of an evaluation: those of a recipe, or fewer where the data have fewer."""
    return min(recipe.eval_batches, loader.steps_per_epoch or recipe.eval_batches)


def in_batches(
    sequences: Sequence[np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows, and their sequences ``[B, T]`` with the mask, for a few shapes only.

    Sequences of about one length stand together. T is a power of two; a batch that is not full repeats its last row,
    which is not among the rows.
    """
    lengths = np.array([len(each) for each in sequences])
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(sequences), batch_size):
        rows = order[begin : begin + batch_size]
        filled = np.pad(rows, (0, batch_size - len(rows)), mode="edge")
        yield rows, *datasets.pad([sequences[row] for row in filled], power_of_two(lengths[rows].max()))


def power_of_two(length: int) -> int:
    """Return the smallest power of two that is not smaller.

    Example:
        >>> from seqjax.training.applications.batches import power_of_two
        >>> [power_of_two(length) for length in (1, 5, 8)]
        [1, 8, 8]
    """
    return 1 << (int(length) - 1).bit_length()


def outputs(trained: Trained, xs: Any, mask: Any) -> jax.Array:
    """Return the outputs ``[T, B, K]`` of a model for inputs ``[B, T]``."""
    return _unroll(trained.model)(trained.params, np.moveaxis(xs, 0, 1), np.moveaxis(mask, 0, 1))


@functools.lru_cache(maxsize=8)
def _unroll(model: Layer) -> Callable:
    return jax.jit(lambda params, xs, mask: model.unroll(params, None, xs, mask=mask)[1])


def token_accuracy(who: str = "token_accuracy") -> CorpusMetrics:
    """Return the share of tokens that a decoder predicts from the tokens before them."""

    def collect(params: Any, ys: Any, batch: Batch) -> Any:
        return (ys.argmax(-1) == batch.targets) & batch.mask, batch.mask

    def compute(found: list[Any]) -> dict[str, float]:
        right, count = (sum(int(part[i].sum()) for part in found) for i in (0, 1))
        return {who: right / max(count, 1)}

    return CorpusMetrics(compute, collect)
