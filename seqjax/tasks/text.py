"""A text as a task: predict the next byte."""

from typing import Any

from seqjax import datasets
from seqjax.tasks.base import Success, Task, cross_entropy


def text_task(train: Any, held_out: Any, length: int, size: int = 256) -> Task:
    """Predict the next token of a text, such as a byte, from all tokens so far.

    Args:
        train: tokens ``[N]`` that batches are drawn from.
        held_out: other tokens of the text; the baseline is the entropy of their frequencies, in nats.
        length: time steps T.
        size: the number of different tokens.
    """
    entropy = datasets.unigram_entropy(held_out)
    return Task(
        name="text",
        length=length,
        sample=lambda key, batch: datasets.sample_windows(train, key, 0, batch, length),
        num_inputs=size,
        num_outputs=size,
        loss=cross_entropy,
        baseline=entropy,
        baseline_at="mean",
        success=Success("loss", entropy),
        reference="next-token prediction",
    )
