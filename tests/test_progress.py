"""Test progress without a terminal: a line per finished part, and one each minute."""

import io
import re
import threading
import time

import pytest
from helpers.command_line import SMALL, run
from rich.console import Console
from rich.progress import Progress

from seqjax import heartbeat
from seqjax.cli.progress import Lines, progress_of
from seqjax.training import bar
from seqjax.training.bar import Bar


def test_a_terminal_has_a_bar_and_a_file_has_lines():
    assert isinstance(progress_of(Console(file=io.StringIO())), Lines)
    assert isinstance(progress_of(Console(file=io.StringIO(), force_terminal=True)), Progress)


def test_a_part_is_told_when_its_thread_begins_the_next(capsys):
    with Lines() as lines:
        job = lines.add_task("starting", total=4)
        lines.update(job, description="one")
        lines.advance(job, 1)

        def other():
            lines.update(job, description="two")
            lines.advance(job, 2)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        lines.update(job, description="three")
        lines.advance(job, 1)
    assert capsys.readouterr() == ("", " 75% 0:00 one\n100% 0:00 two\n100% 0:00 three\n")


def test_after_an_error_no_part_counts_as_finished(capsys):
    with pytest.raises(KeyError), Lines() as lines:
        lines.update(lines.add_task("starting"), description="one")
        raise KeyError
    assert capsys.readouterr() == ("", "")


def test_a_minute_of_silence_is_broken(capsys, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.02)
    told = threading.Event()
    with Lines() as lines:
        lines.update(lines.add_task("starting"), description="a long part")
        echo = lines._say
        monkeypatch.setattr(lines, "_say", lambda text: (echo(text), told.set()))
        assert told.wait(20)
    assert "  0% 0:00 still a long part\n" in capsys.readouterr().err


def test_a_heartbeat_waits_again_after_a_beat():
    told = []
    with heartbeat.Heartbeat(lambda: told.append(1), every=30) as alive:
        for _ in range(3):
            alive.beat()
            time.sleep(0.01)
    assert not told and threading.active_count() == len(threading.enumerate())


def test_training_tells_step_loss_and_speed(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    shown = Bar(100, 10, "lines")
    shown.update(40, 2.5)
    now[0] = 60.0
    shown._say()
    now[0] = 120.0
    shown._say()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 40 of 100, loss 2.5, 0.5 steps/s, 2 min left", "step 40 of 100, loss 2.5"]


def test_another_kind_of_progress_is_refused():
    with pytest.raises(
        ValueError, match=r"fit\(progress\): expected True, False, None or 'lines', got 'line'"
    ):
        Bar(1, 0, "line")


def test_check_compare_and_train_tell_their_parts(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "check", "--only", "C1") == 0
    said = capsys.readouterr()
    assert re.search(r"^100% \d+:\d\d C1 ", said.err, re.MULTILINE) and "Calibration" in said.out
    sides = ["elman,method=scan", "elman,method=scan", "--hidden-size", 2, "--data", "random", "--length", 4]
    assert run(monkeypatch, "compare", *sides, "--out", tmp_path / "comparison") == 0
    told = [line.split(maxsplit=2)[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["preparing both sides", "measuring both sides", "measuring the reference"]
    small = "--hidden-size 2 --batch-size 2 --length 4 --steps 2 --eval-every 1 --eval-batches 1".split()
    assert run(monkeypatch, "train", "parity", "--model", "elman", *small, "--out", tmp_path / "run") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "held-out" in line]
    assert [line.partition(":")[0] for line in told] == ["step 1 of 2", "step 2 of 2"] and "loss" in told[0]


@pytest.mark.slow  # check, compare and train tell theirs
def test_a_study_tells_each_finished_part(monkeypatch, tmp_path, capsys):
    tiny = [*SMALL, *"--cells elman --seeds 2 --training-steps 1 --lengths 6 --workers 1".split()]
    assert run(monkeypatch, "gradients", *tiny, "--out", tmp_path / "report") == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and told[-1].startswith("100%")
