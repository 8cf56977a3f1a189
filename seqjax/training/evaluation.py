"""Evaluate the loss and other metrics on held-out data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Layer
from seqjax.checks import check_whole
from seqjax.gradients.conditioning import conditioned_on
from seqjax.gradients.objective import Loss, leads_of, sum_of
from seqjax.inputs import first_step
from seqjax.training.tokens import check_batches

EVALUATION = "evaluation/"
"""The log names metrics of an evaluation ``evaluation/loss``, so that they stand beside those of training."""


def evaluation(
    model: Layer,
    loss: Loss,
    batches: Callable[[int], Batch],
    num_batches: int = 1,
    *,
    metrics: Callable[[Any, Any], Any] | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Return ``state -> {"loss": ..., ...}``: means over the batches 0 to num_batches - 1, each from the initial carry.

    Args:
        model: the model; it runs without a key and therefore without noise.
        loss: the loss of training. Its mean is over all losses that count in all batches together.
        batches: number -> batch, with another seed or other data than in training.
        num_batches: the number of batches.
        metrics: ``(ys, targets) -> scalars``, a NamedTuple or a mapping of means over a batch, such as
            ``task.score``. The result has the mean of each over the batches under the same name, "loss" excepted.

    Raises:
        ValueError: when there is no batch.

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

    @jax.jit
    def of_batch(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        layer, batch = conditioned_on("evaluation", model, batch)
        carry = layer.initial_carry(params, first_step(batch.xs))
        _, ys = layer.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)
        found = {} if metrics is None else metrics(ys, batch.targets)
        named = found._asdict() if hasattr(found, "_asdict") else dict(found)
        named = {name: jnp.asarray(value, jnp.float32) for name, value in named.items() if name != "loss"}
        return *sum_of(loss, ys, batch.targets, batch.mask, leads_of(layer, batch)), named

    def evaluate(state: Any) -> dict[str, float]:
        found = jax.device_get([of_batch(state.params, batches(number)) for number in range(num_batches)])
        totals, counts, named = zip(*found, strict=True)
        means = {name: float(sum(each[name] for each in named)) / num_batches for name in named[0]}
        return {"loss": float(sum(totals)) / max(float(sum(counts)), 1.0), **means}

    return evaluate
