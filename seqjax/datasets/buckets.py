"""Sequences of different lengths: padding, and batches of sequences of about one length."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.base import Batch
from seqjax.checks import check_whole
from seqjax.datasets.loader import Loader
from seqjax.datasets.sequences import check_sequences, check_sizes, padded_array
from seqjax.datasets.vocabulary import END, START


def pad(sequences: Sequence[Any], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences as one array, with zeros after their ends, and its mask.

    Shapes: N sequences ``[T_i, ...]`` -> array ``[N, T, ...]``, mask ``[N, T]``.

    Args:
        sequences: tokens ``[T_i]``, or vectors of floats ``[T_i, ...]``.
        length: T, at least the length of the longest sequence, which is the default.

    Raises:
        ValueError: when there is no sequence, sequences have different shapes or contain NaN, or the length is smaller.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import pad
        >>> pad([np.array([5, 6]), np.array([7])])
        (array([[5, 6],
               [7, 0]], dtype=int32), array([[ True,  True],
               [ True, False]]))
    """
    if not len(sequences):
        raise ValueError("pad: expected at least one sequence, got none.")
    arrays = check_sequences("pad", sequences)
    longest = max(map(len, arrays))
    length = longest if length is None else check_whole("pad(length)", length, longest)
    array = padded_array("pad", [*arrays, np.zeros((length, *arrays[0].shape[1:]), arrays[0].dtype)])[:-1]
    return array, np.arange(length) < np.array([len(a) for a in arrays])[:, None]


def teacher_forced(targets: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return inputs and targets of a decoder: the token before each token, and each token up to `END`.

    Shapes: N targets ``[L_i]`` -> N inputs and N targets ``[L_i + 1]`` int32.

    Args:
        targets: tokens without `START` and `END`.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import teacher_forced
        >>> teacher_forced([np.array([7, 8])])
        ([array([1, 7, 8], dtype=int32)], [array([7, 8, 2], dtype=int32)])
    """
    tokens = check_sequences("teacher_forced", targets)
    inputs = [np.concatenate([[START], t]).astype(np.int32) for t in tokens]
    return inputs, [np.concatenate([t, [END]]).astype(np.int32) for t in tokens]


def bucketed(
    xs: Sequence[Any],
    targets: Any,
    *,
    batch_size: int,
    context: Any = None,
    num_buckets: int = 4,
    seed: int = 0,
    per_step: bool | None = None,
) -> Loader:
    r"""Batches of sequences of about one length, so that little is padded and few programs are compiled.

    The examples are sorted by length, the larger one of those of xs and of context, and cut into buckets of about equal
    size. The arrays of a bucket have one shape. An epoch visits all batches of all buckets in a random order; the last
    batch of a bucket is filled up with other examples of the bucket.

    A list of sequences is padded with zeros to the longest sequence of the bucket. An array, or a list of numbers, has
    one entry per example.

    Shapes: N sequences ``[T_i, ...]`` ->

    * xs ``[T, B, ...]`` and mask ``[T, B]``;
    * targets: per step, ``[T, B, ...]``, from a list of sequences as long as those of xs; labels ``[B, L]`` with -1
      after their ends, as `seqjax.training.ctc_loss` takes them, from a list of tokens of other lengths, such as
      transcripts; ``[B, ...]`` from an array ``[N, ...]``, ``[B]`` from a list of N numbers, such as classes;
    * context, None without one: a pair ``(source [B, S, ...], mask [B, S])`` from a list of sequences; ``[B, ...]``
      from an array ``[N, ...]``, such as images.

    Args:
        xs: tokens ``[T_i]``, or vectors of floats ``[T_i, ...]``.
        targets: see above.
        batch_size: B, the batch size.
        context: see above.
        num_buckets: the largest number of buckets; equal lengths share a bucket.
        seed: seed of the random order.
        per_step: whether a list of targets is per step. With None, it is where all lengths are those of xs.

    Raises:
        ValueError: when there are no sequences, numbers of examples differ, or a size is not positive.

    Example:
        Sentences and their translations, for an encoder and a decoder:

        >>> import numpy as np
        >>> from seqjax.datasets import bucketed, teacher_forced
        >>> inputs, targets = teacher_forced([np.arange(4, 4 + n) for n in (1, 2, 5, 6)])
        >>> loader = bucketed(inputs, targets, batch_size=2, num_buckets=2)
        >>> sorted(loader(step).xs.shape for step in range(loader.steps_per_epoch))
        [(3, 2), (7, 2)]
    """
    seed, batch_size = check_sizes("bucketed", seed=seed, batch_size=batch_size)
    num_buckets = check_whole("bucketed(num_buckets)", num_buckets)
    xs = check_sequences("bucketed", xs)
    lengths = np.array([len(x) for x in xs])
    if not len(xs) or not lengths.min():
        raise ValueError("bucketed: expected sequences of at least one step, got none or an empty one.")
    targets, context = (
        _checked(name, value, len(xs)) for name, value in (("targets", targets), ("context", context))
    )
    if isinstance(targets, list) and per_step is not False:
        same = [len(t) for t in targets] == lengths.tolist()
        if per_step and not same:
            raise ValueError("bucketed: expected targets per step, as long as xs, got other lengths.")
        per_step = same
    if isinstance(targets, list) and not per_step and targets[0].dtype != np.int32:
        raise ValueError(
            "bucketed: expected tokens, or floats as long as xs, for targets, got floats of other lengths."
        )
    of_context = [len(c) for c in context] if isinstance(context, list) else 0
    buckets = _buckets(np.maximum(lengths, of_context), num_buckets)
    counts = [-(-len(bucket) // batch_size) for bucket in buckets]
    batches = [(bucket, number) for bucket, count in enumerate(counts) for number in range(count)]

    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(batches))
        return order, [
            np.resize(rng.permutation(b), count * batch_size)
            for b, count in zip(buckets, counts, strict=True)
        ]

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        epoch, step = divmod(step, len(batches))
        order, examples = plan(epoch)
        bucket, number = batches[order[step]]
        chosen = examples[bucket][number * batch_size + rows]

        def rows_of(values: Any) -> Any:
            if not isinstance(values, list):
                return None if values is None else values[chosen]
            return pad([values[i] for i in chosen], max(len(values[i]) for i in buckets[bucket]))

        inputs, mask = rows_of(xs)
        wanted = rows_of(targets)
        if isinstance(targets, list):
            wanted = (
                np.moveaxis(wanted[0], 0, 1) if per_step else np.where(wanted[1], wanted[0], np.int32(-1))
            )
        batch: Any = Batch(np.moveaxis(inputs, 0, 1), wanted, None, mask.T)
        return batch if context is None else batch._replace(context=rows_of(context))

    return Loader(of_rows, batch_size, len(batches))


def _checked(name: str, values: Any, count: int) -> Any:
    """Return a list of sequences or an array, one entry per example; None for None."""
    if values is None:
        return None
    if isinstance(values, list | tuple) and any(np.ndim(value) for value in values):
        values = check_sequences("bucketed", values)
    else:
        values = np.asarray(values)
        if values.dtype.kind not in "biufcV":  # V: narrow floats of ml_dtypes
            raise ValueError(
                f"bucketed: expected numbers for {name}, got {values.dtype}. Number classes, as read_labelled does."
            )
    if np.ndim(values[0] if isinstance(values, list) and values else values) == 0 or len(values) != count:
        found = len(values) if np.ndim(values) or isinstance(values, list) else "a number"
        raise ValueError(f"bucketed: expected {count} {name}, one for each sequence, got {found}.")
    return values


def _buckets(lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the examples of each bucket, whose edges are the quantiles of the lengths."""
    edges = np.unique(np.quantile(lengths, np.arange(1, count + 1) / count, method="lower"))
    which = np.searchsorted(edges, lengths)
    return [np.flatnonzero(which == bucket) for bucket in range(len(edges))]
