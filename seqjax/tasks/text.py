"""A text as a task: predict the next byte."""

from typing import Any

from seqjax import datasets
from seqjax.tasks.base import Success, Task, cross_entropy


def text_task(train: Any, held_out: Any, length: int) -> Task:
    """Predict the next byte of a text from all bytes so far.

    Args:
        train: bytes ``[N]`` that batches are drawn from.
        held_out: other bytes of the text; the baseline is the entropy of their frequencies, in nats.
        length: time steps T.
    """
    entropy = datasets.unigram_entropy(held_out)
    return Task(
        name="text",
        length=length,
        sample=lambda key, batch: datasets.sample_windows(train, key, 0, batch, length),
        num_inputs=256,
        num_outputs=256,
        loss=cross_entropy,
        baseline=entropy,
        baseline_at="mean",
        success=Success("loss", entropy),
        reference="next-byte prediction",
    )
