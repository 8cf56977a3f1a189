r"""Batches as a pure function of the seed and the step: loaders have no state to save, and any step is accessible.

Every loader is a function ``loader(step) -> Batch``; the same step gives the same batch in every process and after
every restart. Each epoch visits the examples in a random order, a permutation drawn from (seed, epoch).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from seqjax.base import Batch
from seqjax.checks import check_lengths
from seqjax.datasets.sequences import (
    check_sequences,
    check_sizes,
    check_tokens,
    holds_arrays,
    is_ragged,
    masked,
    padded_array,
)


@dataclass(frozen=True)
class Loader:
    """A loader of batches, returned by the functions of this module.

    Attributes:
        rows: ``(step, rows) -> Batch``, selected rows ``[R]`` of a batch.
        batch_size: B, the number of rows in a batch.
        steps_per_epoch: number of batches in an epoch; None for loaders without epochs.
    """

    rows: Callable[[int, np.ndarray], Batch]
    batch_size: int
    steps_per_epoch: int | None

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        return self.rows(int(step), np.arange(self.batch_size))

    def part(self, step: int, index: int, count: int) -> Batch:
        """Return the loader of one of several processes: a contiguous block of rows, of equal size in all processes.

        Raises:
            ValueError: when the number of processes does not divide the batch size.

        Example:
            >>> import numpy as np
            >>> from seqjax.datasets import streams
            >>> loader = streams(np.arange(100), batch_size=4, length=5)
            >>> bool((loader.part(0, 1, 2).xs == loader(0).xs[:, 2:]).all())
            True
        """
        if self.batch_size % count or not 0 <= index < count:
            raise ValueError(
                f"Loader.part: expected a number of processes that divides the batch of {self.batch_size}, got process "
                f"{index} of {count}. Pass another batch size."
            )
        size = self.batch_size // count
        return self.rows(int(step), np.arange(index * size, (index + 1) * size))


def windows(tokens: Any, *, batch_size: int, length: int, seed: int = 0) -> Loader:
    """Random windows as drawn by `sample_windows`; windows of different steps are independent, without epochs.

    Shapes: tokens ``[N]`` -> xs, targets ``[T, B]``.

    Raises:
        ValueError: when there are fewer than ``length + 1`` tokens, or a size is not positive.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import windows
        >>> batch = windows(np.arange(50), batch_size=3, length=4)(7)
        >>> bool((batch.targets == batch.xs + 1).all())
        True
    """
    tokens = check_tokens("windows", tokens)
    seed, batch_size, length = check_sizes("windows", seed=seed, batch_size=batch_size, length=length)
    if len(tokens) < length + 1:
        raise ValueError(
            f"windows: expected at least length + 1 = {length + 1} tokens, got {len(tokens)}. Pass a shorter length."
        )

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        starts = np.random.default_rng([seed, step]).integers(0, len(tokens) - length, batch_size)[rows]
        index = np.arange(length)[:, None] + starts[None]
        return Batch(tokens[index], tokens[index + 1])

    return Loader(of_rows, batch_size, None)


def packed(documents: Sequence[Any], *, batch_size: int, length: int, seed: int = 0) -> Loader:
    r"""Documents of any length packed one after another, each beginning with a reset, without padding.

    The loader concatenates the documents in the order of the epoch and cuts them into rows of T predictions. A document
    of n tokens takes n - 1 steps; a document that does not fit continues in the next row, after a reset. Only the last
    rows of an epoch contain masked steps.

    Shapes: documents of ``[N_i]`` -> xs, targets, reset, mask ``[T, B]``; sequences of floats ``[N_i, ...]`` -> xs,
    targets ``[T, B, ...]``.

    Args:
        documents: integers, or vectors of floats, in order; documents of fewer than two steps have no targets and are
            skipped.
        batch_size: B, the batch size.
        length: T, the sequence length.
        seed: seed of the random order.

    Raises:
        ValueError: when no document has two tokens, or a size is not positive.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import packed
        >>> batch = packed([np.arange(3), 10 + np.arange(4)], batch_size=1, length=6)(0)
        >>> batch.xs[:, 0], batch.targets[:, 0]
        (array([ 0,  1, 10, 11, 12,  0], dtype=int32), array([ 1,  2, 11, 12, 13,  0], dtype=int32))
        >>> batch.reset[:, 0].astype(int), batch.mask[:, 0].astype(int)
        (array([1, 0, 1, 0, 0, 0]), array([1, 1, 1, 1, 1, 0]))
    """
    seed, batch_size, length = check_sizes("packed", seed=seed, batch_size=batch_size, length=length)
    documents = [d for d in check_sequences("packed", documents) if len(d) > 1]
    if not documents:
        raise ValueError("packed: expected a document of at least 2 tokens, got none. Check the input files.")
    joined = np.concatenate(documents)
    sizes = np.array([len(d) - 1 for d in documents])
    begins = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]])  # offsets in `joined`
    total = int(sizes.sum())
    steps_per_epoch = -(-total // (batch_size * length))

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.random.default_rng([seed, epoch]).permutation(len(documents))
        return chosen, np.cumsum(sizes[chosen])

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        epoch, step = divmod(step, steps_per_epoch)
        chosen, ends = order(epoch)
        place = (step * batch_size + rows)[None] * length + np.arange(length)[:, None]
        mask = place < total
        place = np.where(mask, place, 0)
        which = np.searchsorted(ends, place, side="right")
        inside = place - (ends[which] - sizes[chosen[which]])
        index = begins[chosen[which]] + inside
        reset = mask & ((inside == 0) | (np.arange(length) == 0)[:, None])
        return Batch(masked(joined[index], mask), masked(joined[index + 1], mask), reset, mask)

    return Loader(of_rows, batch_size, steps_per_epoch)


def padded(documents: Sequence[Any], *, batch_size: int, length: int, seed: int = 0) -> Loader:
    """One document per row, truncated to T predictions, masked after its end.

    Shapes: documents of ``[N_i]`` -> xs, targets, mask ``[T, B]``; sequences of floats ``[N_i, ...]`` -> xs, targets
    ``[T, B, ...]``.

    Args:
        documents: integers, or vectors of floats, in order.
        batch_size: B, the batch size. Where the documents of an epoch do not fill its last batch, rows are masked.
        length: T, the sequence length.
        seed: seed of the random order.

    Raises:
        ValueError: when there is no document, or a size is not positive.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import padded
        >>> batch = padded([np.arange(3), 10 + np.arange(9)], batch_size=2, length=4)(0)
        >>> batch.xs.T, batch.mask.sum(0)
        (array([[ 0,  1,  0,  0],
               [10, 11, 12, 13]], dtype=int32), array([2, 4]))
    """
    seed, batch_size, length = check_sizes("padded", seed=seed, batch_size=batch_size, length=length)
    documents = check_sequences("padded", documents)
    if not documents:
        raise ValueError("padded: expected at least one document, got none. Check the input files.")

    def of_row(place: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row = np.zeros((2, length, *documents[0].shape[1:]), documents[0].dtype)
        mask = np.zeros(length, bool)
        if place is not None:
            document = documents[place][: length + 1]
            size = max(len(document) - 1, 0)
            row[0, :size], row[1, :size], mask[:size] = document[:size], document[1 : size + 1], True
        return row[0], row[1], mask

    order = _epochs(len(documents), batch_size, seed)

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        xs, targets, mask = (
            np.stack(a, 1) for a in zip(*(of_row(place) for place in order(step, rows)), strict=True)
        )
        return Batch(xs, targets, None, mask)

    return Loader(of_rows, batch_size, -(-len(documents) // batch_size))


def examples(
    xs: Any,
    targets: Any,
    *,
    batch_size: int,
    seed: int = 0,
    lengths: Any = None,
    per_step: bool | None = None,
) -> Loader:
    """Time-major batches of batch-major arrays of examples.

    Shapes: xs ``[N, T, ...]``; targets ``[N, T, ...]`` for targets per step, else ``[N, ...]``; lengths ``[N]`` ->
    xs ``[T, B, ...]``, targets ``[T, B, ...]`` or ``[B, ...]``, mask ``[T, B]`` with lengths.

    Args:
        xs: inputs, or a list of sequences ``[T_i, ...]`` of different lengths: these are padded with zeros to the
            longest, which is T, and masked after their ends, as are lists of targets of these lengths.
        targets: per step, or per sequence; an array, a list of numbers, or a tree of arrays.
        batch_size: B; the last batch of an epoch is filled up with the first examples of the next epoch.
        seed: seed of the random order.
        lengths: number of steps of each example; later steps are masked.
        per_step: whether targets have a time axis. With None, targets whose second axis has length T do. Pass False
            where targets per sequence may have this size by chance, such as T classes.

    Raises:
        ValueError: when sizes differ or are not positive, or an unmasked step of xs contains NaN or infinity.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import examples
        >>> loader = examples(np.zeros((10, 7, 3)), np.arange(10), batch_size=4)
        >>> loader(0).xs.shape, len({int(t) for step in (0, 1) for t in loader(step).targets})
        ((7, 4, 3), 8)
    """
    seed, batch_size = check_sizes("examples", seed=seed, batch_size=batch_size)
    xs, targets = (list(a) if holds_arrays(a) else a for a in (xs, targets))
    if is_ragged(xs):
        if lengths is not None:
            raise ValueError("examples: expected sequences of different lengths or `lengths=`, got both.")
        lengths = np.array([len(x) for x in xs])
        xs = padded_array("examples", xs)
        # A list of arrays of the lengths of xs is one ragged array, not a tree.
        if isinstance(targets, list | tuple) and [np.shape(t)[:1] for t in targets] == [
            (n,) for n in lengths
        ]:
            targets = padded_array("examples", targets)
    xs = np.asarray(xs)
    if isinstance(targets, list | tuple) and not (
        is_ragged(targets) or any(map(np.ndim, jax.tree.leaves(targets)))
    ):
        targets = np.asarray(targets)  # a list of numbers is an array, not a tree
    targets = jax.tree.map(np.asarray, targets)
    lengths = None if lengths is None else np.asarray(lengths)
    if xs.ndim < 2 or 0 in xs.shape[:2]:
        raise ValueError(
            f"examples: expected xs [N, T, ...] with N and T of at least 1, got {list(xs.shape)}."
        )
    for leaf in jax.tree.leaves((xs, targets, lengths)):
        if leaf.dtype.kind not in "biufcV":  # V: narrow floats of ml_dtypes
            raise ValueError(f"examples: expected numbers, got an array of {leaf.dtype}.")
        if np.shape(leaf)[:1] != xs.shape[:1]:
            raise ValueError(
                f"examples: expected {len(xs)} targets and lengths, as xs {list(xs.shape)}, got {list(np.shape(leaf))}."
            )
    if lengths is not None:
        if lengths.ndim != 1:
            raise ValueError(f"examples: expected lengths [{len(xs)}], got {list(lengths.shape)}.")
        check_lengths("examples", lengths, xs.shape[1])
    mask = None if lengths is None else np.arange(xs.shape[1]) < lengths[:, None]
    if np.issubdtype(xs.dtype, np.inexact):
        fine = np.isfinite(xs).reshape(*xs.shape[:2], -1).all(-1)
        bad = np.argwhere(~fine if mask is None else ~fine & mask)
        if len(bad):
            raise ValueError(
                f"examples: expected finite xs, got NaN or infinity in {len(bad)} steps, the first in example "
                f"{bad[0][0]} at step {bad[0][1]}. Clean the data, or mask these steps with `lengths=`."
            )
    timed = jax.tree.map(lambda leaf: leaf.shape[:2] == xs.shape[:2] and per_step is not False, targets)
    if per_step and not all(jax.tree.leaves(timed)):
        found = [list(leaf.shape) for leaf in jax.tree.leaves(targets)]
        raise ValueError(
            f"examples: expected targets per step [{len(xs)}, {xs.shape[1]}, ...], got {', '.join(map(str, found))}."
        )

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        places = (step * batch_size + rows).tolist()
        chosen = np.array([permutation(p // len(xs))[p % len(xs)] for p in places])
        first = np.moveaxis(xs[chosen], 0, 1)
        picked = jax.tree.map(
            lambda t, per_step: np.moveaxis(t[chosen], 0, 1) if per_step else t[chosen], targets, timed
        )
        return Batch(first, picked, None, None if mask is None else mask[chosen].T)

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(xs))

    return Loader(of_rows, batch_size, -(-len(xs) // batch_size))


def _epochs(count: int, batch_size: int, seed: int) -> Callable[[int, np.ndarray], list[int | None]]:
    """Return ``(step, rows) -> examples``, None where the last batch of an epoch has no more examples."""
    steps = -(-count // batch_size)

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(count)

    def of_rows(step: int, rows: np.ndarray) -> list[int | None]:
        epoch, step = divmod(step, steps)
        places = (step * batch_size + rows).tolist()
        return [int(permutation(epoch)[p]) if p < count else None for p in places]

    return of_rows
