"""Test that `fit` equals a plain loop of steps, with and without interruptions."""

import errno
import json
import signal
import struct
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

from seqjax.training import Checkpoints, EarlyStop, MetricsLog, fit
from seqjax.training.curves import draw_curves, thinned

fit_module: types.ModuleType = __import__("sys").modules["seqjax.training.fit"]


class State(NamedTuple):
    params: Any
    step: Any
    skipped: Any
    consecutive: Any


class Metrics(NamedTuple):
    loss: Any
    finite: Any


START = State(*(np.asarray(v) for v in (1.0, np.int32(0), np.int32(0), np.int32(0))))


@jax.jit
def step(state, batch):
    """Chaotic, so that no two histories agree by accident; a batch that is not finite is skipped."""
    fine = jnp.isfinite(batch)
    params = jnp.where(fine, jnp.cos(3 * state.params + batch), state.params)
    skipped, consecutive = state.skipped + ~fine, jnp.where(fine, 0, state.consecutive + 1)
    return State(params, state.step + 1, skipped, consecutive), Metrics(state.params + batch, fine)


def batches(number, bad=()):
    return np.float64(np.nan if number in bad else np.sin(number))


def loop(state, first, last, bad=()):
    """A plain loop over the batches from first to before last, and its losses by step."""
    losses = {}
    for number in range(first, last):
        state, metrics = step(state, batches(number, bad))
        losses[number + 1] = float(metrics.loss)
    return state, losses


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def quiet(folder):
    return MetricsLog(folder, plots=False)


def same(a, b):
    assert [np.asarray(x).tobytes() for x in a] == [np.asarray(x).tobytes() for x in b]


# ---------------------------------------------------------------- the plain loop


def test_fit_is_a_loop_of_steps_and_logs_what_they_return(tmp_path):
    seen = {}

    def evaluate(state):
        seen[int(state.step)] = float(state.params)
        return {"loss": float(state.params)}

    fitted = fit(
        step,
        START,
        batches,
        num_steps=23,
        evaluate=evaluate,
        eval_every=10,
        log=quiet(tmp_path),
        log_every=5,
    )
    final, losses = loop(START, 0, 23)
    same(fitted.state, final)
    assert fitted.reason == "reached 23 steps" and fitted.skipped == 0
    assert seen == {n: float(loop(START, 0, n)[0].params) for n in (10, 20, 23)}
    assert fitted.best_step == min(seen, key=seen.get) and fitted.best_value == min(seen.values())
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [5, 10, 10, 15, 20, 20, 23]
    assert {n["step"]: n["loss"] for n in found if "loss" in n} == {n: losses[n] for n in (5, 10, 15, 20)}
    assert {n["step"]: n["evaluation/loss"] for n in found if "evaluation/loss" in n} == seen


def test_metrics_are_read_behind_the_steps_that_are_dispatched():
    """When the metrics of a step are first asked for, later steps are on their way."""
    dispatched, read = [], []

    class Late:
        def __init__(self, number):
            self.number = number

        def __float__(self):
            read.append((self.number, len(dispatched)))
            return 0.0

    def lazy(state, batch):
        dispatched.append(batch)
        return state._replace(step=state.step + 1), types.SimpleNamespace(loss=Late(len(dispatched)))

    fit(lazy, START, lambda number: np.float64(number), num_steps=20)
    assert [number for number, _ in read] == list(range(1, 21))
    assert all(count - number == fit_module.BEHIND for number, count in read[:-5])


@pytest.mark.parametrize(
    ("early_stop", "values", "expected"),
    [
        (EarlyStop(patience=2), [3, 2, 2, 5, 1], (4, 2, "no better loss in 2 evaluations")),
        (EarlyStop(patience=2), [3, np.nan, 2, np.nan, 1], (5, 5, "reached 5 steps")),
        (EarlyStop(mode="max", patience=1), [1, 2, 1.5, 9], (3, 2, "no better loss in 1 evaluations")),
        (EarlyStop(patience=2, min_change=0.5), [3, 2.9, 2.6, 1], (3, 1, "no better loss")),
        (EarlyStop(target=1.0), [3, 1, 0.5], (2, 2, r"loss reached 1 (target 1)")),
        (EarlyStop(mode="max", target=2.0), [1, 3, 0.5], (2, 2, "loss reached 3")),
        (EarlyStop(), [1, 2, 3, 4, 5], (5, 1, "reached 5 steps")),
    ],
)
def test_when_it_stops_and_which_is_best(early_stop, values, expected):
    fitted = fit(
        step,
        START,
        batches,
        num_steps=5,
        eval_every=1,
        early_stop=early_stop,
        evaluate=lambda state: {"loss": values[int(state.step) - 1]},
    )
    end, best, reason = expected
    assert (int(fitted.state.step), fitted.best_step) == (end, best) and reason in fitted.reason


REFUSED = {
    "eval_every": (
        lambda: fit(step, START, batches, num_steps=1, eval_every=0), ValueError,
        r"fit\(eval_every\): expected a whole number of at least 1, got 0"),
    "evaluate without the loss": (
        lambda: fit(step, START, batches, num_steps=1, evaluate=lambda state: {"accuracy": 1.0}), ValueError,
        r"expected evaluate to return 'loss', .* got 'accuracy'. Name another"),
    "early_stop without evaluate": (
        lambda: fit(step, START, batches, num_steps=1, early_stop=EarlyStop(patience=1)), ValueError,
        "expected evaluate with early_stop, got none"),
    "mode": (
        lambda: EarlyStop(mode="Min"), ValueError, r"EarlyStop\(mode\): expected one of 'min', 'max', got 'Min'"),
    "patience": (
        lambda: EarlyStop(patience=0), ValueError,
        r"EarlyStop\(patience\): expected a whole number of at least 1, or None, got 0"),
    "min_change": (
        lambda: EarlyStop(min_change=-1.0), ValueError,
        r"EarlyStop\(min_change\): expected a number of at least 0, got -1"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- going on


def test_a_second_call_goes_on_to_the_same_bits_and_the_same_log(tmp_path):
    values = lambda state: {"loss": float(state.params)}  # noqa: E731
    options = {"evaluate": values, "eval_every": 4, "checkpoint_every": 5, "log_every": 1}
    whole = fit(step, START, batches, num_steps=20, log=quiet(tmp_path / "whole"), **options)
    with Checkpoints(tmp_path / "run") as checkpoints:
        fit(
            step,
            START,
            batches,
            num_steps=12,
            checkpoints=checkpoints,
            log=quiet(tmp_path / "run"),
            **options,
        )
        # As if it had been killed at step 12, after its log and its best state had been written.
        checkpoints.drop_from(11)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "loss": 1')
    with Checkpoints(tmp_path / "run") as checkpoints:
        again = fit(
            step,
            START,
            batches,
            num_steps=20,
            checkpoints=checkpoints,
            log=quiet(tmp_path / "run"),
            **options,
        )
        same(again.state, whole.state)
        assert again[1:] == whole[1:]
        best = Checkpoints(tmp_path / "run" / "best").restore(START)
        assert best[0] == whole.best_step and float(best[1].params) == whole.best_value
        finished = fit(step, START, batches, num_steps=20, checkpoints=checkpoints, **options)
        same(finished.state, whole.state)

    def without_time(folder):
        return [
            {k: v for k, v in n.items() if k != "seconds"}
            for n in lines(folder)
            if n.get("event") != "resumed"
        ]

    assert without_time(tmp_path / "run") == without_time(tmp_path / "whole")


def test_a_run_that_was_killed_before_its_second_checkpoint_begins_again(tmp_path):
    for log in (quiet(tmp_path), quiet(tmp_path)):
        with Checkpoints(tmp_path) as checkpoints:
            fitted = fit(step, START, batches, num_steps=4, checkpoints=checkpoints, log=log, log_every=1)
            checkpoints.drop_from(1)
    same(fitted.state, loop(START, 0, 4)[0])
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]


def test_an_early_stop_is_remembered(tmp_path):
    options = {
        "num_steps": 9,
        "eval_every": 1,
        "early_stop": EarlyStop(patience=2),
        "evaluate": lambda s: {"loss": 1.0},
    }
    for _ in range(2):
        with Checkpoints(tmp_path) as checkpoints:
            fitted = fit(step, START, batches, checkpoints=checkpoints, **options)
        assert int(fitted.state.step) == 3 and fitted.reason == "no better loss in 2 evaluations"


def test_a_log_of_another_run_is_not_written_over(tmp_path):
    fit(step, START, batches, num_steps=3, log=quiet(tmp_path), log_every=1)
    with pytest.raises(ValueError, match=r"holds the log of a run already, up to step 3. Continue it"):
        fit(step, START, batches, num_steps=3, log=quiet(tmp_path))
    assert len(lines(tmp_path)) == 3


# ---------------------------------------------------------------- steps that are not finite


@pytest.mark.parametrize("behind", [0, 1, 9])
@pytest.mark.fast_cases(1)
def test_after_too_many_skipped_steps_the_last_good_params_go_on_with_later_batches(
    tmp_path, monkeypatch, caplog, behind
):
    """Steps 4 and 13 to 15 are skipped; the last three take the params of step 10 to step 15."""
    monkeypatch.setattr(fit_module, "BEHIND", behind)
    bad = (3, 12, 13, 14)
    with Checkpoints(tmp_path) as checkpoints:
        fitted = fit(
            step,
            START,
            lambda number: batches(number, bad),
            num_steps=25,
            checkpoints=checkpoints,
            checkpoint_every=5,
            max_skipped=3,
            log=quiet(tmp_path),
        )
    at_10, _ = loop(START, 0, 10, bad)
    final, _ = loop(at_10._replace(step=jnp.int32(15), skipped=jnp.int32(4)), 15, 25)
    same(fitted.state, final)
    assert fitted.skipped == 4
    events = [(n["step"], n["event"], n["reason"]) for n in lines(tmp_path) if "event" in n]
    assert events == [
        *((n, "skipped", "loss nan") for n in (4, 13, 14, 15)),
        (
            15,
            "rolled back",
            "3 steps in a row, up to step 15, were not finite: back to the params of step 10",
        ),
    ]
    assert "step 4 is skipped: loss nan" in caplog.text and "rollback 1 of at most 3" in caplog.text


def test_a_checkpoint_amid_skipped_steps_is_not_gone_back_to(tmp_path):
    bad = (8, 9, 10)
    with Checkpoints(tmp_path) as checkpoints:
        fitted = fit(
            step,
            START,
            lambda number: batches(number, bad),
            num_steps=12,
            checkpoints=checkpoints,
            checkpoint_every=5,
            max_skipped=3,
        )
    at_5, _ = loop(START, 0, 5)
    same(fitted.state, loop(at_5._replace(step=jnp.int32(11), skipped=jnp.int32(3)), 11, 12)[0])


def test_saves_amid_skipped_steps_do_not_push_out_what_is_gone_back_to(tmp_path):
    bad = range(8, 13)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        fitted = fit(
            step,
            START,
            lambda number: batches(number, bad),
            num_steps=16,
            checkpoints=checkpoints,
            checkpoint_every=1,
        )
        assert checkpoints.steps() == [16]
    at_8, _ = loop(START, 0, 8)
    same(fitted.state, loop(at_8._replace(step=jnp.int32(13), skipped=jnp.int32(5)), 13, 16)[0])


def test_a_rollback_at_the_last_step_is_evaluated_and_saved(tmp_path):
    evaluated = []
    with Checkpoints(tmp_path) as checkpoints:
        fitted = fit(
            step,
            START,
            lambda number: batches(number, (7, 8)),
            num_steps=9,
            evaluate=lambda state: evaluated.append(int(state.step)) or {"loss": 1.0},
            eval_every=4,
            checkpoints=checkpoints,
            checkpoint_every=4,
            max_skipped=2,
        )
        assert evaluated == [4, 8, 9] and checkpoints.steps() == [0, 4, 9]
        found, state = checkpoints.restore(START)
    same(state, fitted.state)
    at_4, _ = loop(START, 0, 4)
    same(fitted.state, at_4._replace(step=jnp.int32(9), skipped=jnp.int32(2)))


def test_it_gives_up_after_several_rollbacks_or_where_there_is_nothing_to_go_back_to(tmp_path):
    nothing = lambda number: batches(number, range(7, 99))  # noqa: E731
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            FloatingPointError, match=r"2 steps in a row, up to step 13, .* after 2 rollbacks"
        ):
            fit(
                step,
                START,
                nothing,
                num_steps=50,
                checkpoints=checkpoints,
                checkpoint_every=5,
                max_skipped=2,
                max_rollbacks=2,
            )
        assert checkpoints.restore(START, where=lambda notes: notes["good"])[0] == 5
    with pytest.raises(
        FloatingPointError, match=r"up to step 9, were not finite, and no checkpoints were given"
    ):
        fit(step, START, nothing, num_steps=50, max_skipped=2)


# ---------------------------------------------------------------- signals


def signalling(number, at):
    """The step, with a signal sent while the one of that number is made."""

    def signalled(state, batch):
        if int(state.step) == at - 1:
            signal.raise_signal(number)
        return step(state, batch)

    return signalled


@pytest.mark.parametrize(
    ("number", "stop"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_saves_and_stops_and_the_next_call_goes_on(tmp_path, number, stop, caplog):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(stop) as stopped:
            fit(signalling(number, 7), START, batches, num_steps=15, checkpoints=checkpoints)
        said = caplog.text + str(stopped.value)
        assert (
            f"{number.name}: stopped after step 7, which is saved in {tmp_path}. To resume, run the same"
            in said
        )
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
        assert stop is not SystemExit or stopped.value.code == 143
        assert checkpoints.steps()[-1] == 7
        fitted = fit(step, START, batches, num_steps=15, checkpoints=checkpoints)
    same(fitted.state, loop(START, 0, 15)[0])
    with pytest.raises(stop):
        fit(signalling(number, 7), START, batches, num_steps=15)


def test_a_second_interrupt_stops_at_once(tmp_path):
    def twice(state, batch):
        if int(state.step) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(state, batch)

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(KeyboardInterrupt, match="stopped at once, without saving"):
            fit(twice, START, batches, num_steps=9, checkpoints=checkpoints)
        assert checkpoints.steps() == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert fit(signalling(signal.SIGINT, 2), START, batches, num_steps=4).reason == "reached 4 steps"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- disks


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_what_cannot_be_saved_is_said_and_training_goes_on(tmp_path, monkeypatch, caplog, code):
    with Checkpoints(tmp_path) as checkpoints:
        save = checkpoints.save

        def failing(number, *args, **options):
            if 4 <= number <= 8:
                raise OSError(code, "cannot write")
            save(number, *args, **options)

        monkeypatch.setattr(checkpoints, "save", failing)
        fitted = fit(step, START, batches, num_steps=11, checkpoints=checkpoints, checkpoint_every=2)
        assert checkpoints.steps() == [2, 10, 11]
    same(fitted.state, loop(START, 0, 11)[0])
    for number in (4, 6, 8):
        assert f"the state of step {number} could not be saved: [Errno {code}] cannot write" in caplog.text
    assert "Training continues; the last good one is that of step 2." in caplog.text


def test_a_best_state_that_cannot_be_saved_or_is_gone_is_said(tmp_path, caplog):
    (tmp_path / "best").write_text("a file")
    options = {"evaluate": lambda s: {"loss": -float(s.step)}, "eval_every": 2, "checkpoint_every": 2}
    for num_steps in (2, 4):
        with Checkpoints(tmp_path) as checkpoints:
            fitted = fit(step, START, batches, num_steps=num_steps, checkpoints=checkpoints, **options)
    same(fitted.state, loop(START, 0, 4)[0])
    assert "the best state, of step 2, could not be saved: Checkpoints: " in caplog.text
    assert f"the best state, of step 2, is no longer in {tmp_path / 'best'}." in caplog.text


def test_a_stop_that_cannot_be_saved_says_from_where_one_can_resume(tmp_path, monkeypatch, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        save = checkpoints.save

        def failing(number, *args, **options):
            if number == 7:
                raise OSError(errno.ENOSPC, "No space left on device")
            save(number, *args, **options)

        monkeypatch.setattr(checkpoints, "save", failing)
        with pytest.raises(SystemExit):
            fit(
                signalling(signal.SIGTERM, 7),
                START,
                batches,
                num_steps=9,
                checkpoints=checkpoints,
                checkpoint_every=5,
            )
        assert checkpoints.restore(START)[0] == 5
    assert (
        "step 7, which could not be saved. To resume from step 5, run the same program again" in caplog.text
    )


class Full:
    """A file on a disk that is full for a while: a part of a line fits."""

    def __init__(self, file):
        self.file, self.full = file, False

    def write(self, data):
        if self.full and len(data) < 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data[:-5] if self.full else data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_log_on_a_full_disk_loses_lines_and_nothing_else(tmp_path, caplog):
    log = quiet(tmp_path)
    log.begin(0)
    log._metrics._file = disk = Full(log._metrics._file)
    for number in range(1, 6):
        disk.full = number in (2, 3)
        log.write(number, {"loss": 1.0})
    log.end()
    assert [line["step"] for line in lines(tmp_path)] == [1, 4, 5]
    assert caplog.text.count("No space left on device") == 1


# ---------------------------------------------------------------- what is shown


def test_a_bar_where_it_is_asked_for(capsys):
    fit(step, START, batches, num_steps=3)
    assert capsys.readouterr() == ("", "")
    fit(step, START, batches, num_steps=3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "3/3" in shown.err and "loss" in shown.err and "left" in shown.err


def test_tensorboard_reads_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    log = MetricsLog(tmp_path, tensorboard=True, plots=False)
    fit(
        step,
        START,
        batches,
        num_steps=4,
        log=log,
        log_every=2,
        evaluate=lambda s: {"accuracy": 0.5, "loss": 2.0},
    )
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, found = file.read_bytes(), {}
    while data:  # records of length, checksum, event, checksum
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        data = data[16 + size :]
    losses = loop(START, 0, 4)[1]
    for number in (2, 4):
        assert found[number, "loss"] == np.float32(losses[number])
    assert found[4, "evaluation/accuracy"] == 0.5


@pytest.mark.draws_curves
def test_curves_show_every_metric(tmp_path):
    fit(step, START, batches, num_steps=6, log=tmp_path, log_every=1, evaluate=lambda state: {"loss": 1.0})
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")
    (tmp_path / "empty.jsonl").touch()
    assert draw_curves(tmp_path / "empty.jsonl", tmp_path / "empty.png").read_bytes()[1:4] == b"PNG"


def test_overflows_that_a_smaller_loss_scale_cures_are_skipped_but_do_not_count():
    def overflowing(state, batch):
        state, metrics = step(state, batch)
        return state, types.SimpleNamespace(loss=1.0, finite=metrics.finite, consecutive=np.int32(0))

    fitted = fit(overflowing, START, lambda n: batches(n, range(1, 9)), num_steps=12, max_skipped=2)
    assert fitted.skipped == 8 and fitted.reason == "reached 12 steps"


def test_the_result_is_printed_without_the_state():
    fitted = fit(step, START, batches, num_steps=3, progress=False)
    assert repr(fitted) == (
        "Fitted(state=<State>, reason='reached 3 steps', best_step=None, best_value=None, skipped=0, unsaved=None)"
    )
    assert str(fitted) == repr(fitted)


def test_damaged_lines_of_a_log_are_removed_and_counted(tmp_path, caplog):
    log = MetricsLog(tmp_path, plots=False)
    good = ['{"step": 1, "loss": 2.0}', '{"step": 3, "loss": 1.0}']
    log.path.write_text("\n".join([good[0], '{"step": 2, "lo', "[" * 100_000, good[1], '{"step": 4, "l']))
    log.begin(9, resumed=True)
    log.end()
    assert log.path.read_text().splitlines() == good
    assert [record.getMessage() for record in caplog.records] == [
        f"{log.path}: 2 damaged lines were removed."
    ]
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(ValueError, match="metrics.jsonl cannot be read .*Remove it"):
        log.begin(9, resumed=True)


def test_a_long_curve_keeps_its_extremes():
    points = [(n, float(np.sin(1.3 * n))) for n in range(10_007)] + [(10_007, 50.0)]
    found = thinned(points)
    assert len(found) <= 2000 and found == sorted(found) and set(found) <= set(points)
    values = [value for _, value in points]
    assert {min(values), max(values)} <= {value for _, value in found}
    assert thinned(points[:2000]) == points[:2000]
