"""Train a model with `seqjax.training.fit`, and keep the params of the best evaluation."""

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Layer
from seqjax.training import MetricsLog, fit, init_train_state, make_train_step


class Best(NamedTuple):
    """The params of the best evaluation, the curves, and the duration; the fields are those of `Trained`."""

    params: Any
    losses: dict[str, list[tuple[int, float]]]
    minutes: float
    parameters: int


def fit_best(
    model: Layer,
    loss: Callable,
    optimizer: Any,
    batches: Callable[[int], Batch],
    evaluate: Callable[[Any], Mapping[str, float]],
    *,
    num_steps: int,
    eval_every: int,
    seed: int,
    metric: str = "loss",
    lower: bool = True,
    **options: Any,
) -> Best:
    """Train for a number of steps; the best params by the validation part are kept in memory.

    Args:
        model: the model.
        loss: the loss.
        optimizer: the optimizer.
        batches: step -> batch.
        evaluate: ``state -> {"loss": ..., ...}`` on the validation part, such as `seqjax.training.evaluation` returns.
        num_steps: the number of steps.
        eval_every: steps between evaluations.
        seed: seed of the first params and of the noise.
        metric: the metric of the evaluation that says which params are the best.
        lower: whether the metric should be low.
        options: for `make_train_step`, such as ``estimator=``; `init_train_state` gets the estimator and the precision.
    """
    held: dict[str, Any] = {"value": math.inf, "params": None}
    validation = []

    def judged(state: Any) -> Mapping[str, float]:
        found = evaluate(state)
        value = found[metric] if lower else -found[metric]
        if held["params"] is None or value < held["value"]:
            held.update(value=value, params=jax.tree.map(jnp.copy, state.params))
        validation.append((int(state.step), float(found["loss"])))
        return found

    of_state = {name: options[name] for name in ("estimator", "precision") if name in options}
    state = init_train_state(model, optimizer, jax.random.key(seed), batches(0).xs[0], **of_state)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    step = make_train_step(model, loss, optimizer, **options)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(
            step,
            state,
            batches,
            num_steps=num_steps,
            evaluate=judged,
            eval_every=eval_every,
            log=MetricsLog(folder, plots=False),
            log_every=max(1, num_steps // 200),
            progress=False,
        )
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    minutes = (time.perf_counter() - start) / 60
    training = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    return Best(held["params"], {"training": training, "validation": validation}, minutes, parameters)
