"""Test two processes that train together: a signal to one of them stops both after the same step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.ports import reserved_port

HERE = Path(__file__).parent


def start(port, folder, steps):
    command = [sys.executable, HERE / "helpers" / "preempted_run.py", str(port)]
    return [
        subprocess.Popen(
            [*command, str(index), folder, str(steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        for index in range(2)
    ]


def finish(processes):
    """What both printed."""
    try:
        found = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(out for out, _ in found), "\n".join(err for _, err in found)
    return [json.loads(out.splitlines()[-1]) for out, _ in found]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_stop_after_the_same_step_and_go_on_to_the_same_bits(tmp_path, number):
    run = tmp_path / "run"
    steps = 100_000
    with reserved_port() as port:
        processes = start(port, run, steps)
        while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < 30:
            assert all(process.poll() is None for process in processes), finish(processes)
            time.sleep(0.05)
        processes[1].send_signal(number)  # the one that does not write
        (ended, at, bits), other = finish(processes)
    assert ended == 143 and 30 <= at < steps
    assert other == [143 if number == signal.SIGTERM else 130, at, bits]

    def finished(folder):
        with reserved_port() as port:
            return finish(start(port, folder, at + 20))

    resumed, whole = finished(run), finished(tmp_path / "whole")
    assert resumed[0] == resumed[1] == whole[0] == whole[1] and whole[0][:2] == ["finished", at + 20]
