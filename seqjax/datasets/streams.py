"""Continuous text for truncated backpropagation, with restarts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.base import Batch
from seqjax.checks import check_within
from seqjax.datasets.loader import Loader
from seqjax.datasets.sequences import check_sizes, check_tokens, masked


def streams(
    tokens: Any | Sequence[Any], *, batch_size: int, length: int, restart: float = 0.0, seed: int = 0
) -> Loader:
    r"""Continuous text for truncated backpropagation: row b continues at step k + 1 where it ended at step k.

    The loader cuts the tokens into B contiguous parts of :math:`S = \lfloor (N - 1) / B \rfloor` predictions; step k
    contains the predictions from :math:`k T` on. At its end a row starts again, with a reset (a batch may contain both
    the end and the start).

    Without other resets a row begins anew once per epoch, so a model sees its initial carry a few times only. Its
    evaluation from the initial carry may then be far worse than its training loss. There are two remedies. With
    ``restart=p`` a row restarts at the beginning of each batch with probability p. With a list of documents instead of
    one array, it restarts at the beginning of each document, and the last token of a document, whose successor belongs
    to the next one, is masked.

    Shapes: tokens ``[N]``, or documents of ``[N_i]`` -> xs, targets, reset ``[T, B]``, mask ``[T, B]`` for documents;
    targets are the inputs one step later.

    Args:
        tokens: integers in order; or a list of documents, each an array of integers.
        batch_size: B, the batch size.
        length: T, the sequence length.
        restart: p, the share of rows that restart with a batch, at least 0 and below 1.
        seed: the seed of these restarts.

    Raises:
        ValueError: when there are fewer than ``batch_size + 1`` tokens, a size is not positive, or a restart is out of
            range.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import streams
        >>> loader = streams(np.arange(21), batch_size=2, length=4)
        >>> loader(1).xs[:, 0], loader(2).xs[:, 0], loader(2).reset[:, 0]
        (array([4, 5, 6, 7], dtype=int32), array([8, 9, 0, 1], dtype=int32), array([False, False,  True, False]))
        >>> documents = streams([np.arange(3), 10 + np.arange(4)], batch_size=1, length=6)(0)
        >>> documents.xs[:, 0], documents.reset[:, 0].astype(int), documents.mask[:, 0].astype(int)
        (array([ 0,  1,  0, 10, 11, 12], dtype=int32), array([1, 0, 0, 1, 0, 0]), array([1, 1, 0, 1, 1, 1]))
    """
    check_within("streams(restart)", restart)
    begins = None
    if isinstance(tokens, list | tuple) and any(np.ndim(document) for document in tokens):
        documents = [check_tokens("streams", document) for document in tokens]
        ends = np.cumsum([len(document) for document in documents])
        tokens = np.concatenate(documents)
        begins = np.zeros(len(tokens) + 1, bool)
        begins[[0, *ends]] = True
    tokens = check_tokens("streams", tokens)
    seed, batch_size, length = check_sizes("streams", seed=seed, batch_size=batch_size, length=length)
    size = (len(tokens) - 1) // batch_size
    if size < 1:
        raise ValueError(
            f"streams: expected at least batch_size + 1 = {batch_size + 1} tokens, got {len(tokens)}. Pass a smaller "
            "batch_size."
        )

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        place = (step * length + np.arange(length)) % size
        index = place[:, None] + rows[None] * size
        reset = np.broadcast_to((place == 0)[:, None], index.shape)
        if restart:
            # Of all rows, so that the parts of several processes make the whole.
            chosen = np.random.default_rng([seed, step]).random(batch_size) < restart
            reset = reset | (chosen[rows] & (np.arange(length) == 0)[:, None])
        if begins is None:
            return Batch(tokens[index], tokens[index + 1], reset)
        mask = ~begins[index + 1]
        return Batch(
            masked(tokens[index], mask), masked(tokens[index + 1], mask), reset | begins[index], mask
        )

    return Loader(of_rows, batch_size, -(-size // length))
