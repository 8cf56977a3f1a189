"""Evaluate the loss and other metrics on held-out data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from seqjax.base import Batch, Layer
from seqjax.checks import check_whole
from seqjax.gradients.conditioning import conditioned_on
from seqjax.gradients.objective import Loss, call_loss, leads_of, sum_of
from seqjax.inputs import first_step
from seqjax.training.tokens import check_batches

EVALUATION = "evaluation/"
"""The log names metrics of an evaluation ``evaluation/loss``, so that they stand beside those of training."""


def _outputs(params: Any, ys: Any, batch: Batch) -> Any:
    """Return what `CorpusMetrics` collects by default."""
    return ys, batch.targets, batch.mask


@dataclass(frozen=True)
class CorpusMetrics:
    """Metrics of all held-out data together, such as BLEU, word error rate or a correlation, which are no means.

    Attributes:
        compute: ``parts -> {name: number}``. A part is what was collected of one batch, as NumPy arrays; parts may have
            different shapes.
        collect: ``(params, ys, batch) -> tree``, compiled with the model: what the metrics need of one batch. By
            default ``(ys, targets, mask)``; for logits return their argmax instead, which is smaller. With the params
            and ``batch.context`` the function may also decode.

    Example:
        >>> import numpy as np
        >>> def correlation(parts):
        ...     ys, targets = (np.concatenate([part[i] for part in parts], None) for i in (0, 1))
        ...     return {"correlation": round(float(np.corrcoef(ys, targets)[0, 1]), 6)}
        >>> metrics = CorpusMetrics(correlation)
        >>> metrics.compute([(np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]]), None)])
        {'correlation': 1.0}
    """

    compute: Callable[[list[Any]], Mapping[str, Any]]
    collect: Callable[[Any, Any, Batch], Any] = _outputs


def evaluation(
    model: Layer,
    loss: Loss,
    batches: Callable[[int], Batch],
    num_batches: int = 1,
    *,
    metrics: Callable[..., Any] | None = None,
    corpus_metrics: CorpusMetrics | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Return ``state -> {"loss": ..., ...}``: means over the batches 0 to num_batches - 1, each from the initial carry.

    Args:
        model: the model; it runs without a key and therefore without noise.
        loss: the loss of training. Its mean is over all losses that count in all batches together.
        batches: number -> batch, with another seed or other data than in training.
        num_batches: the number of batches.
        metrics: ``(ys, targets) -> scalars``, a NamedTuple or a mapping of means over a batch, such as
            ``task.score``. The result has the mean of each over the batches under the same name, "loss" excepted.
            A third argument named ``mask`` gets the mask of the batch, as in losses. With sequences of different
            lengths ``ys[-1]`` is zero where a sequence has ended: write ``sj.last(ys, mask)``.
        corpus_metrics: metrics of all batches together, beside the means. With several processes each process computes
            them from the whole held-out data: arrays that are sharded over processes are gathered first.

    Raises:
        TypeError: for corpus metrics of another kind.
        ValueError: when there is no batch, or a corpus metric has the name of another metric.

    Example:
        >>> import jax, seqjax as sj, flax.linen as nn
        >>> from seqjax.tasks import parity
        >>> from seqjax.training import evaluation
        >>> task = parity(6)
        >>> model = sj.serial(sj.pointwise(nn.Embed(2, 4)), sj.recurrent(sj.gru(4)), sj.pointwise(nn.Dense(2)))
        >>> evaluate = evaluation(model, task.objective, task.batches(8, seed=1), metrics=task.score)
        >>> class State: params = model.init(jax.random.key(0), task.batches(8)(0).xs[0])
        >>> sorted(evaluate(State))
        ['accuracy', 'loss', 'solved']
    """
    check_whole("evaluation(num_batches)", num_batches)
    check_batches("evaluation", batches)
    if not (corpus_metrics is None or isinstance(corpus_metrics, CorpusMetrics)):
        raise TypeError(
            f"evaluation(corpus_metrics): expected CorpusMetrics(compute), got {corpus_metrics!r}. Import it from "
            "seqjax.training."
        )

    @jax.jit
    def of_batch(params: Any, whole: Batch) -> Any:
        layer, batch = conditioned_on("evaluation", model, whole)
        carry = layer.initial_carry(params, first_step(batch.xs))
        _, ys = layer.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)
        found = {} if metrics is None else call_loss(metrics, ys, batch.targets, batch.mask)
        named = found._asdict() if hasattr(found, "_asdict") else dict(found)
        named = {name: jnp.asarray(value, jnp.float32) for name, value in named.items() if name != "loss"}
        collected = None if corpus_metrics is None else corpus_metrics.collect(params, ys, whole)
        return *sum_of(loss, ys, batch.targets, batch.mask, leads_of(layer, batch)), named, collected

    def evaluate(state: Any) -> dict[str, float]:
        parts, collected = [], []
        for number in range(num_batches):
            *part, of_part = of_batch(state.params, batches(number))
            parts.append(part)
            collected.append(
                jax.tree.map(on_host, of_part)
            )  # at once: outputs of all batches may fill a device
        totals, counts, named = zip(*jax.device_get(parts), strict=True)
        means = {name: float(sum(each[name] for each in named)) / num_batches for name in named[0]}
        found = {"loss": float(sum(totals)) / max(float(sum(counts)), 1.0), **means}
        if corpus_metrics is None:
            return found
        of_all = {name: float(value) for name, value in corpus_metrics.compute(collected).items()}
        twice = sorted(set(found) & set(of_all))
        if twice:
            raise ValueError(
                f"evaluation(corpus_metrics): expected names other than {', '.join(found)}, got {', '.join(twice)}. "
                "Rename it in compute."
            )
        return found | of_all

    return evaluate


def on_host(array: jax.Array) -> Any:
    """Return an array as NumPy's; gather an array that is sharded over processes."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return jax.device_get(array)
    return multihost_utils.process_allgather(array, tiled=True)
