"""The training loop: steps, evaluations, checkpoints and a log. It can be interrupted at any time and resumed exactly.

A run depends on its state and on its batches, and a batch is a function of the step. Checkpoints hold the state and the
few numbers of `Progress`, so a run that was killed resumes from its newest checkpoint and reaches the same bits.

The loop never waits for the step that it has just dispatched: it reads metrics a few steps late. When the metrics show
that a step failed, the loop discards the steps taken since. The result therefore does not depend on the delay.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import jax

from seqjax.base import Batch
from seqjax.checks import check_whole_numbers
from seqjax.datasets.prefetch import prefetch
from seqjax.training.bar import Bar, Shown
from seqjax.training.checkpoint_policy import CheckpointPolicy, Progress
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.early_stop import EarlyStop
from seqjax.training.hyperparams import Choice
from seqjax.training.instruments import Instrument, Instruments
from seqjax.training.metrics_log import MetricsLog
from seqjax.training.reporting import LogFunction, Reporter, logs_of
from seqjax.training.rollback import NonfiniteSteps, roll_back
from seqjax.training.signals import StopSignals, stop
from seqjax.training.tokens import check_batches, wrong_tokens

logger = logging.getLogger(__name__)

BEHIND = 4
"""How many steps are dispatched before the metrics of the step ahead of them are read."""

OneLog = MetricsLog | LogFunction | str | PathLike


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
        state: the state after the last step.
        reason: why training ended.
        best_step: the step of the best evaluation; None without evaluations.
        best_value: the value of the best evaluation.
        skipped: the number of steps that were not finite and made no update.
        unsaved: which of the last and the best state could not be saved, as a phrase; None when both are saved, and
            without checkpoints.
    """

    state: Any
    reason: str
    best_step: int | None
    best_value: float | None
    skipped: int
    unsaved: str | None = None

    def __repr__(self) -> str:
        """Return the result without the arrays of the state."""
        shown = [f"{name}={value!r}" for name, value in self._asdict().items() if name != "state"]
        return f"Fitted(state=<{type(self.state).__name__}>, {', '.join(shown)})"


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
    log: OneLog | Sequence[OneLog] | None = None,
    log_every: int = 10,
    instruments: Mapping[str, Instrument] | None = None,
    instrument_every: int = 500,
    max_skipped: int = 5,
    max_rollbacks: int = 3,
    progress: Shown = None,
    place: Callable[[Any], Any] | None = None,
    how_to_resume: str = "run the same program again",
    hyperparams: Choice = None,
) -> Fitted:
    """Train for a number of steps, and resume from the newest checkpoint if there is one.

    SIGTERM and Ctrl-C end training after the current step and save the state; the same call then resumes and reaches
    the same bits. A second Ctrl-C ends training at once. With several processes all of them stop at the same step.

    `fit` logs the reason of every non-finite step. After `max_skipped` of them in a row training rolls back: it
    continues with the params of the last good checkpoint and the next batches. A failed save is logged and training
    continues; earlier checkpoints remain valid.

    Args:
        step: ``(state, batch) -> (state, metrics)``, as `make_train_step` returns it.
        state: the first state; its ``step`` says which batch is next. The state is donated if the step donates it.
        batches: step -> batch, a pure function: a `seqjax.datasets.Loader`, or ``task.batches(32)``. A thread makes
            batches ahead of their use.
        num_steps: the step at which training ends, counted from the beginning of the run.
        evaluate: ``state -> {"loss": ..., ...}``, such as `evaluation` returns; it must not change the state.
        eval_every: steps between evaluations; the last step is evaluated, too.
        early_stop: which evaluation is the best, and when to stop early.
        checkpoints: save states here, and the best state in the folder ``best`` inside. `fit` does not close them.
        checkpoint_every: steps between checkpoints. The first and the last state are saved, too; no state is saved
            amid non-finite steps.
        log: a `MetricsLog`, the folder for one, a function ``(step, metrics)``, or a list of these. A function gets the
            numbers of a line by name. When it raises an error, the metrics of that call are lost, one warning is
            logged, and training continues.
        log_every: steps between lines of the log.
        instruments: functions ``state -> value`` by name, such as probes on a fixed batch. The log keeps the values as
            rows of the gradient report in ``instruments.jsonl``, and ``seqjax render`` draws them. A value is a result
            of a probe, a number, an array of one or two axes, or a tree of these. The functions are compiled.
        instrument_every: steps between measurements; the first and the last state are measured, too.
        max_skipped: the number of non-finite steps in a row that causes a rollback.
        max_rollbacks: the largest number of rollbacks without another good checkpoint in between.
        progress: show a progress bar; None shows it on a terminal, and "lines" prints a line each minute instead.
        place: puts a batch on one device or on several; None chooses what fits the step.
        how_to_resume: how to resume, for the message at a signal.
        hyperparams: which hyperparams a resumed run uses where the optimizer keeps them in its state, as
            `optax.inject_hyperparams` does: "checkpoint" for those of the checkpoint, "new" for those of `state`. None
            uses those of the checkpoint, and raises an error when the run was given others.

    Returns:
        The last state, and why training ended.

    Raises:
        TypeError: for logs or instruments of another kind.
        ValueError: for a count below 1, early_stop without evaluate, or instruments without a log; for the log of
            another run; when the evaluation lacks the metric of early_stop; when the first state cannot be saved or
            read back, or another process writes to the folder; when the hyperparams of the optimizer have changed and
            `hyperparams` is None.
        FloatingPointError: after `max_rollbacks` rollbacks, or without a good checkpoint to roll back to.
        KeyboardInterrupt: at Ctrl-C, after the state is saved.
        SystemExit: at SIGTERM (status 143), after the state is saved.

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
    check_whole_numbers(
        "fit", log_every=log_every, max_skipped=max_skipped, instrument_every=instrument_every
    )
    if evaluate is None and early_stop != EarlyStop():
        raise ValueError("fit: expected evaluate with early_stop, got none. Make one with evaluation(...).")
    if place is None:  # a step over a mesh places batches itself
        place = jax.device_put if getattr(step, "mesh", None) is None else lambda batch: batch

    check_batches("fit", batches)
    measuring = Instruments(instruments, instrument_every, num_steps)
    first = jax.process_index() == 0
    if measuring.names and log is None and first:
        raise ValueError("fit(instruments): expected log=, which keeps their rows, got none. Pass a folder.")
    logs = logs_of(log)
    policy = CheckpointPolicy(checkpoints, hyperparams)
    try:
        state, noted, restored = policy.start(state)
    except BaseException:
        policy.close()
        raise
    at = int(state.step)
    again = measuring.names if measuring.due(at) else ()
    reporter = Reporter(logs if first else (), log_every, at, restored, again)
    if restored and first:
        logger.warning("fit: continues from step %d of %s.", at, checkpoints.folder)  # type: ignore[union-attr]

    with contextlib.ExitStack() as stack:
        stack.callback(reporter.end)
        stack.callback(policy.close)
        loop = _Loop(
            step=step,
            batches=lambda at: prefetch(batches, at, num_steps, place=place),
            num_steps=num_steps,
            evaluate=evaluate,
            eval_every=eval_every,
            early_stop=early_stop,
            checkpoint_every=checkpoint_every,
            max_rollbacks=max_rollbacks,
            how_to_resume=how_to_resume,
            policy=policy,
            reporter=reporter,
            instruments=measuring,
            nonfinite=NonfiniteSteps(state, max_skipped, lambda at: loop.explain(batches, at)),
            signals=stack.enter_context(StopSignals()),
            bar=stack.enter_context(Bar(num_steps, at, progress if first else False)),
            state=state,
            at=at,
            noted=noted,
        )
        if not restored or again:
            measuring.measure(at, state, reporter)
        reason = loop.run()
    noted = loop.noted
    unsaved = policy.unsaved(loop.at, noted.best_step)
    return Fitted(loop.state, reason, noted.best_step, noted.best_value, loop.nonfinite.skipped, unsaved)


@dataclass(kw_only=True)
class _Loop:
    """The arguments of `fit`, the helpers that it made of them, and what changes from step to step."""

    step: Callable[[Any, Batch], tuple[Any, Any]]
    batches: Callable[[int], Any]
    num_steps: int
    evaluate: Callable[[Any], Mapping[str, float]] | None
    eval_every: int
    early_stop: EarlyStop
    checkpoint_every: int
    max_rollbacks: int
    how_to_resume: str
    policy: CheckpointPolicy
    reporter: Reporter
    instruments: Instruments
    nonfinite: NonfiniteSteps
    signals: StopSignals
    bar: Bar
    state: Any
    at: int
    noted: Progress

    def explain(self, batches: Callable[[int], Batch], at: int) -> str | None:
        """Return what in the batch of a step explains that it is not finite, or None."""
        try:  # loads the batch again, which is a function of its step; an explanation must not end training
            shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self.state.params)
            return wrong_tokens(batches(at - 1), shapes, getattr(self.step, "model", None))
        except Exception:
            return None

    def run(self) -> str:
        """Train until the end, and return why it came."""
        reason = self.early_stop.reason(self.noted)
        while self.at < self.num_steps and reason is None:
            with contextlib.closing(self.batches(self.at)) as stream:
                reason = self._run_on(stream)
        return reason or f"reached {self.at} steps"

    def _run_on(self, stream: Iterable[Batch]) -> str | None:
        """Train on a stream of batches; return why training stops early, or None at its end and after a rollback."""
        waiting: deque[tuple[int, Any]] = deque()
        for batch in stream:
            self.state, metrics = self.step(self.state, batch)
            self.at += 1
            waiting.append((self.at, _on_the_way(metrics)))
            stopping = self.signals.asked()
            evaluating = self.evaluate is not None and self._due(self.eval_every)
            scheduled, measuring = self._due(self.checkpoint_every), self.instruments.due(self.at)
            bad, behind = None, 0 if evaluating or scheduled or measuring or stopping else BEHIND
            while bad is None and len(waiting) > behind:
                bad = self.nonfinite.too_many(*waiting.popleft(), self.reporter, self.bar)
            if bad is not None:
                self._roll_back(bad)
                if self.at < self.num_steps:
                    return None
            reason = self._judge() if evaluating else None
            if measuring or reason is not None:
                self.instruments.measure(self.at, self.state, self.reporter)
            self._save(scheduled, stopping, reason)
            if reason is not None:
                return reason
        return None

    def _due(self, every: int) -> bool:
        return self.at % every == 0 or self.at == self.num_steps

    def _roll_back(self, step: int) -> None:
        self.noted = self.noted._replace(rollbacks=self.noted.rollbacks + 1)
        self.state = roll_back(
            self.policy,
            self.nonfinite,
            self.reporter,
            self.state,
            step=step,
            number=self.noted.rollbacks,
            most=self.max_rollbacks,
        )
        self.at = step

    def _judge(self) -> str | None:
        """Evaluate, save the state if it is the best, and return why to stop."""
        found = dict(self.evaluate(self.state))  # type: ignore[misc]
        self.reporter.evaluation(self.at, found)
        self.noted = self.early_stop.judge(found, self.noted, self.at)
        if self.noted.best_step == self.at:
            self.policy.save_best(self.at, self.state)
        return self.early_stop.reason(self.noted)

    def _save(self, scheduled: bool, stopping: bool, reason: str | None) -> None:
        """Save the state if it is due, and end the program if a signal asks for it."""
        good, last = self.nonfinite.in_a_row == 0, self.at == self.num_steps
        ending = stopping or reason is not None
        # Amid skipped steps a checkpoint would replace those that training can roll back to.
        if not ((scheduled and (good or last)) or ending):
            return
        if good and scheduled:
            self.noted = self.noted._replace(rollbacks=0)
        saved = self.policy.save(self.at, self.state, self.noted, good=good, scheduled=scheduled, wait=ending)
        if stopping and not last and reason is None:
            folder = None if self.policy.checkpoints is None else self.policy.checkpoints.folder
            stop(self.signals.name, self.at, folder, saved, self.policy.last(), self.how_to_resume)


def _on_the_way(metrics: Any) -> Any:
    """Return the metrics, and start their copy to the host; on a CPU no copy is needed."""
    for leaf in jax.tree.leaves(metrics) if jax.default_backend() != "cpu" else ():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return metrics
