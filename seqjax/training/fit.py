"""The training loop: steps, evaluations, checkpoints and a log, to be interrupted at any time and gone on with exactly.

All that a run depends on is its state and its batches, which are a function of the step. What is saved is the state
and the few numbers of `Progress`; a run that was killed goes on from its newest checkpoint to the very bits that it
would have reached.

The loop never waits for the step that it has just dispatched: metrics are read a few steps late. So what they say of a
step (that it was not finite, say) is known late; the steps made since are then thrown away, so that the outcome does
not depend on how late it was.
"""

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from seqjax.base import Batch
from seqjax.checks import check_at_least, check_one_of, check_whole_numbers, check_whole_or_none
from seqjax.datasets.prefetch import prefetch
from seqjax.training.bar import Bar
from seqjax.training.checkpoint_policy import CheckpointPolicy, Progress
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.evaluation import EVALUATION
from seqjax.training.metrics_log import MetricsLog, flat
from seqjax.training.signals import StopSignals

logger = logging.getLogger(__name__)

BEHIND = 4
"""Steps on their way to the device while the metrics of the one before them are read."""


@dataclass(frozen=True)
class EarlyStop:
    """Which evaluation is the best, and when to stop before the last step.

    Attributes:
        metric: of the evaluation.
        mode: whether small or large values of it are good.
        patience: stop after so many evaluations in a row without a better one; None for never.
        min_change: by how much an evaluation must be better than the best to count as better.
        target: stop at a value as good as this; None for never.

    Raises:
        ValueError: for another mode, a patience below 1 or a negative change.
    """

    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    min_change: float = 0.0
    target: float | None = None

    def __post_init__(self) -> None:
        check_one_of("EarlyStop(mode)", self.mode, ("min", "max"))
        check_whole_or_none("EarlyStop(patience)", self.patience)
        check_at_least("EarlyStop(min_change)", self.min_change, 0)

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far; one that is not finite never is."""
        sign = 1 if self.mode == "min" else -1
        return math.isfinite(value) and (best is None or sign * value < sign * best - self.min_change)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, None to go on."""
        best = progress.best_value
        sign = 1 if self.mode == "min" else -1
        if best is not None and self.target is not None and sign * best <= sign * self.target:
            return f"{self.metric} reached {best:.6g} (target {self.target:g})"
        if self.patience is not None and progress.waited >= self.patience:
            return f"no better {self.metric} in {progress.waited} evaluations"
        return None


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        state: after the last step.
        reason: why it ended.
        best_step: the step of the best evaluation; None without any.
        best_value: its value.
        skipped: how many steps were not finite and made no update.
    """

    state: Any
    reason: str
    best_step: int | None
    best_value: float | None
    skipped: int


def fit(
    step: Callable[[Any, Batch], tuple[Any, Any]],
    state: Any,
    batches: Callable[[int], Batch],
    *,
    num_steps: int,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    eval_every: int = 500,
    early_stop: EarlyStop = EarlyStop(),  # noqa: B008 (a frozen value)
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 500,
    log: MetricsLog | str | PathLike | None = None,
    log_every: int = 10,
    max_skipped: int = 5,
    max_rollbacks: int = 3,
    progress: bool | None = None,
    place: Callable[[Any], Any] | None = None,
    how_to_resume: str = "run the same program again",
) -> Fitted:
    """Train until a number of steps is reached; from the newest of the checkpoints, where there is one.

    SIGTERM and Ctrl-C end it after the step that is being made, with the state saved; the same call then goes on to the
    same bits. Ctrl-C twice ends it at once. With several processes all stop at the same step.

    Where a step is not finite, its reason is logged. After `max_skipped` of them in a row training goes back to the
    params of the last good checkpoint and on from there with the batches that come next. Errors in saving are said,
    and training goes on.

    Args:
        step: ``(state, batch) -> (state, metrics)``, as `make_train_step` returns.
        state: the first; its ``step`` says which batch is next. It is donated where the step does so.
        batches: step -> batch, a pure function: a `seqjax.datasets.Loader`, or ``task.batches(32)``. They are made
            ahead of their use, in a thread.
        num_steps: the step at which training ends, counted from the beginning of the run.
        evaluate: ``state -> {"loss": ..., ...}``, such as `evaluation` returns; it leaves the state alone.
        eval_every: steps between evaluations; the last step is evaluated, too.
        early_stop: which evaluation is the best, and when to stop early.
        checkpoints: where states are saved; the best in its folder ``best``. They are not closed here.
        checkpoint_every: steps between states that are saved, but for those amid skipped steps; the first and the last
            are, too.
        log: a `MetricsLog`, or the folder for one.
        log_every: steps between lines of the log.
        max_skipped: how many steps in a row may be not finite.
        max_rollbacks: how many times to go back without having reached another good checkpoint.
        progress: show a bar; None for where a terminal is.
        place: puts a batch on the device, or on several; None for what fits the step.
        how_to_resume: what to do, as the message at a signal has it.

    Returns:
        The state and why training ended.

    Raises:
        ValueError: for a count below 1, or early_stop without evaluate; where the log is that of another run; where the
            evaluation has no such metric.
        FloatingPointError: after `max_rollbacks` in a row, or where there is nothing to go back to.
        KeyboardInterrupt: at Ctrl-C, with the state saved.
        SystemExit: at SIGTERM (status 143), with the state saved.

    Example:
        >>> import jax, optax, seqjax as sj, flax.linen as nn
        >>> from seqjax.tasks import parity
        >>> from seqjax.training import evaluation, fit, init_train_state, make_train_step
        >>> task, optimizer = parity(5), optax.adam(1e-2)
        >>> model = sj.serial(sj.pointwise(nn.Embed(2, 8)), sj.recurrent(sj.lstm(8)), sj.pointwise(nn.Dense(2)))
        >>> step, batches = make_train_step(model, task.objective, optimizer), task.batches(16)
        >>> state = init_train_state(model, optimizer, jax.random.key(0), batches(0).xs[0])
        >>> evaluate = evaluation(model, task.objective, task.batches(64, seed=1), metrics=task.score)
        >>> fitted = fit(step, state, batches, num_steps=300, evaluate=evaluate, eval_every=100)
        >>> int(fitted.state.step), fitted.reason, bool(fitted.best_value < task.baseline)
        (300, 'reached 300 steps', True)
    """
    check_whole_numbers("fit", num_steps=num_steps, eval_every=eval_every, checkpoint_every=checkpoint_every)
    check_whole_numbers("fit", log_every=log_every, max_skipped=max_skipped)
    if evaluate is None and early_stop != EarlyStop():
        raise ValueError("fit: expected evaluate with early_stop, got none. Make one with evaluation(...).")
    if place is None:  # a step over a mesh places batches itself
        place = jax.device_put if getattr(step, "mesh", None) is None else lambda batch: batch

    first = jax.process_index() == 0
    policy = CheckpointPolicy(checkpoints)
    state, noted, restored = policy.start(state)
    at = int(state.step)
    if log is not None and not isinstance(log, MetricsLog):
        log = MetricsLog(log)
    report = _Report(log if first else None, log_every, at, restored)
    guard = _Guard(state, max_skipped)
    if restored and first:
        logger.warning("fit: goes on from step %d of %s.", at, checkpoints.folder)  # type: ignore[union-attr]

    with contextlib.ExitStack() as stack:
        stack.callback(report.end)
        stack.callback(policy.close)
        signals = stack.enter_context(StopSignals())
        bar = stack.enter_context(Bar(num_steps, at, progress if first else False))
        reason = early_stop.reason(noted)
        while at < num_steps and reason is None:
            waiting: deque[tuple[int, Any]] = deque()
            stream = stack.enter_context(contextlib.closing(prefetch(batches, at, num_steps, place=place)))
            for batch in stream:
                state, metrics = step(state, batch)
                at += 1
                waiting.append((at, _on_the_way(metrics)))
                stopping = signals.asked()
                evaluating = evaluate is not None and (at % eval_every == 0 or at == num_steps)
                scheduled = at % checkpoint_every == 0 or at == num_steps
                bad = None
                while bad is None and len(waiting) > (0 if evaluating or scheduled or stopping else BEHIND):
                    bad = guard.too_many(*waiting.popleft(), report, bar)
                if bad is not None:
                    noted = noted._replace(rollbacks=noted.rollbacks + 1)
                    state, at = (
                        _roll_back(policy, guard, report, state, bad, noted.rollbacks, max_rollbacks),
                        bad,
                    )
                    if at < num_steps:
                        break
                if evaluating:
                    found = dict(evaluate(state))  # type: ignore[misc]
                    report.evaluation(at, found)
                    noted = _judge(early_stop, found, noted, at)
                    if noted.best_step == at:
                        policy.save_best(at, state)
                    reason = early_stop.reason(noted)
                good = guard.in_a_row == 0
                # Amid skipped steps a save would push out the states to go back to.
                if (scheduled and (good or at == num_steps)) or stopping or reason is not None:
                    if good and scheduled:
                        noted = noted._replace(rollbacks=0)
                    saved = policy.save(
                        at, state, noted, good=good, scheduled=scheduled, wait=stopping or reason is not None
                    )
                    if stopping and at < num_steps and reason is None:
                        _stop(signals.name, at, checkpoints, saved, policy.last(), how_to_resume)
                if reason is not None:
                    break
            stream.close()
    if reason is None:
        reason = f"reached {at} steps"
    return Fitted(state, reason, noted.best_step, noted.best_value, guard.skipped)


class _Report:
    """The log, in the process that writes one."""

    def __init__(self, log: MetricsLog | None, every: int, at: int, restored: bool) -> None:
        self._log, self._every, self._begun = log, every, time.monotonic()
        if log is not None:
            log.begin(at, resumed=restored)
            if restored:
                log.write(at, {"event": "resumed"})

    def due(self, step: int) -> bool:
        return self._log is not None and step % self._every == 0

    def metrics(self, step: int, metrics: Any) -> None:
        if self._log is not None:
            self._log.write(step, {**flat(metrics), "seconds": round(time.monotonic() - self._begun, 3)})

    def evaluation(self, step: int, found: Mapping[str, float]) -> None:
        if self._log is not None:
            self._log.write(step, {EVALUATION + name: value for name, value in found.items()})

    def event(self, step: int, event: str, reason: str) -> None:
        if self._log is not None:
            self._log.write(step, {"event": event, "reason": reason})

    def end(self) -> None:
        if self._log is not None:
            self._log.end()


class _Guard:
    """Reads the metrics of every step, and counts those that were not finite."""

    def __init__(self, state: Any, most: int) -> None:
        self.skipped = int(getattr(state, "skipped", 0))
        self.in_a_row = int(getattr(state, "consecutive", 0))
        self._most = most

    def too_many(self, step: int, metrics: Any, report: _Report, bar: Bar) -> int | None:
        """Say and log what there is to say; the step, if too many in a row were not finite."""
        finite, in_a_row = (getattr(metrics, name, None) for name in ("finite", "consecutive"))
        loss = getattr(metrics, "loss", None)
        # Each number takes a while to fetch, so only those are that somebody wants.
        fine = bool(finite) if finite is not None else loss is None or math.isfinite(float(loss))
        if report.due(step):
            report.metrics(step, metrics)
        bar.update(step, loss)
        if fine:
            self.in_a_row = 0
            return None
        self.skipped += 1
        # A step that knows its loss scale does not count overflows that a smaller scale will cure.
        self.in_a_row = self.in_a_row + 1 if in_a_row is None else int(in_a_row)
        reason = _not_finite(metrics)
        report.event(step, "skipped", reason)
        if jax.process_index() == 0:
            logger.warning("fit: step %d is skipped: %s.", step, reason)
        return step if self.in_a_row >= self._most else None


def _not_finite(metrics: Any) -> str:
    """Which of the metrics are not finite."""
    wrong = []
    for name, leaf in flat(metrics).items():
        value = np.asarray(leaf)
        if np.issubdtype(value.dtype, np.inexact) and not np.isfinite(value).all():
            wrong.append(f"{name} {value[~np.isfinite(value)].flat[0]}")
    return ", ".join(wrong) or "a gradient or a param is not finite"


def _roll_back(
    policy: CheckpointPolicy, guard: _Guard, report: _Report, state: Any, step: int, number: int, most: int
) -> Any:
    """The params of the last good checkpoint at this step."""
    advice = "Lower the learning rate, clip gradients, or look at the data of these steps."
    row = f"{guard.in_a_row} steps in a row, up to step {step}, were not finite"
    if number > most:
        raise FloatingPointError(
            f"fit: {row}, after {most} rollbacks since the last good checkpoint. {advice}"
        )
    try:
        found, state = policy.roll_back(state, step=step, skipped=guard.skipped)
    except FileNotFoundError:
        why = "no checkpoints were given" if policy.checkpoints is None else "there is no good checkpoint"
        raise FloatingPointError(f"fit: {row}, and {why}, to go back to one. {advice}") from None
    reason = f"{row}: back to the params of step {found}"
    report.event(step, "rolled back", reason)
    if jax.process_index() == 0:
        logger.warning("fit: %s (rollback %d of at most %d).", reason, number, most)
    guard.in_a_row = 0
    return state


def _judge(early_stop: EarlyStop, found: Mapping[str, float], noted: Progress, step: int) -> Progress:
    """Whether an evaluation is the best one."""
    if early_stop.metric not in found:
        names = ", ".join(map(repr, found)) or "nothing"
        raise ValueError(
            f"fit: expected evaluate to return {early_stop.metric!r}, by which the best is known, got {names}. "
            "Name another with early_stop=EarlyStop(metric=...)."
        )
    value = float(found[early_stop.metric])
    if early_stop.better(value, noted.best_value):
        return noted._replace(best_step=step, best_value=value, waited=0)
    return noted._replace(waited=noted.waited + 1)


def _stop(
    name: str, step: int, checkpoints: Checkpoints | None, saved: bool, last: int | None, how: str
) -> None:
    """End at a signal, with what is needed to go on."""
    if checkpoints is None:
        text = f"{name}: stopped after step {step}. Nothing was saved, for fit has no checkpoints."
    elif saved:
        text = (
            f"{name}: stopped after step {step}, which is saved in {checkpoints.folder}. "
            f"To resume, {how}: it goes on from there, to the same result."
        )
    else:
        text = (
            f"{name}: stopped after step {step}, which could not be saved. To resume from step {last}, {how}, "
            f"once {checkpoints.folder} can be written."
        )
    if name == "SIGINT":
        raise KeyboardInterrupt(text)
    if jax.process_index() == 0:
        logger.warning("fit: %s", text)
    raise SystemExit(128 + 15)


def _on_the_way(metrics: Any) -> Any:
    """The same metrics, being copied to the host as soon as they are there; on a CPU they are."""
    for leaf in jax.tree.leaves(metrics) if jax.default_backend() != "cpu" else ():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return metrics
