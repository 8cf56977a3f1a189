"""Test that a training killed at random moments gives the same bits as an uninterrupted one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CACHED = {
    "JAX_COMPILATION_CACHE_DIR": str(HERE.parent / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": str(HERE.parent),
}


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (1, 0),
        pytest.param(3, 0, marks=pytest.mark.slow),
        pytest.param(20, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_killed_training_comes_to_the_same_bits(tmp_path, kills, seed):
    """By kill -9 again and again, then SIGTERM, then Ctrl-C; on its way it rolls back once.

    A disk that is full for a while changes them neither.
    """
    ran = subprocess.run(
        [sys.executable, HERE / "helpers" / "killed_run.py", tmp_path, str(kills), str(seed)],
        capture_output=True,
        text=True,
        env={**os.environ, **CACHED},
    )
    assert ran.returncode == 0, ran.stderr
    *ends, whole, run, full = map(json.loads, ran.stdout.splitlines())
    assert [each["code"] for each in ends] == [-9] * kills + [143, 130, 0, 0], ran.stderr
    assert {**run, "name": "whole"} == whole
    assert whole["fitted"][0] == "reached 160 steps" and whole["fitted"][1] <= 80 and whole["fitted"][3] == 3
    assert [n["event"] for n in whole["log"] if "event" in n] == ["skipped"] * 3 + ["rolled back"]
    steps = [json.loads(row)["value"] for row in whole["rows"] if '"quantity": "step"' in row]
    assert steps == [*range(0, 160, 7), 160]
    assert (
        "SIGTERM: stopped after step" in ran.stderr and ran.stderr.count("continues from step") == kills + 2
    )
    # On a disk that was full for a while only what was to be written then is missing, and the best state was later.
    assert full["state"] == whole["state"] and full["log"][-60:] == whole["log"][-60:]
    assert "the state of step 70 could not be saved" in ran.stderr and "metrics are lost" in ran.stderr
