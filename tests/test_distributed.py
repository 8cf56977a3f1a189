"""Test that two processes train as one does, and stop at the same step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.ports import reserved_port
from helpers.refusals import refusals
from helpers.worker import NUM_STEPS, parts

from seqjax.cli.common import UsageError
from seqjax.cli.train import _join
from seqjax.datasets import streams
from seqjax.training import Checkpoints, distributed

HERE = Path(__file__).parent


def run_all(commands):
    """What Python said to each of the commands, run at the same time; all must succeed."""
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parent),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(HERE.parent / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    workers = [subprocess.Popen([sys.executable, *command], **options) for command in commands]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(worker.returncode == 0 for worker in workers), "\n".join(said)
    return said


def two_processes(folder, axis, stop_at=0):
    """What each of two workers found."""
    with reserved_port() as port:
        worker = HERE / "helpers" / "worker.py"
        run_all([[worker, str(port), str(p), axis, str(folder), str(stop_at)] for p in range(2)])
    return [json.loads((folder / f"{process}.json").read_text()) for process in range(2)]


@pytest.mark.parametrize(
    "axis",
    [
        "fsdp",
        pytest.param("data", marks=pytest.mark.slow),
        pytest.param("data and time", marks=pytest.mark.slow),
    ],
)
def test_two_processes_have_the_losses_of_one(axis, tmp_path):
    found = two_processes(tmp_path, axis)
    step, state, batches = parts(None)
    losses = []
    for number in range(NUM_STEPS):
        state, metrics = step(state, batches(number))
        losses.append(float(metrics.loss))
    for of_process in found:
        np.testing.assert_allclose(of_process["losses"], losses, rtol=1e-10)
        assert of_process["rows"] == 2  # of four: it makes those of its own devices alone
    with Checkpoints(tmp_path / "run") as checkpoints:
        saved, restored = checkpoints.restore(parts(None)[1])
    assert saved == NUM_STEPS
    for a, b in zip(jax.tree.leaves(restored.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.slow  # test_fit_processes.py has the agreement without processes
def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    found = two_processes(tmp_path, "data", stop_at=5)
    steps = {len(of_process["losses"]) for of_process in found}
    assert len(steps) == 1 and 5 <= min(steps) < 100_000
    assert {of_process["status"] for of_process in found} == {143}
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps()[-1] == min(steps)


@pytest.mark.slow
def test_the_command_line_trains_with_two_processes(tmp_path):
    options = "train parity --length 6 --batch-size 8 --hidden-size 3 --steps 4 --eval-every 2 --eval-batches 1".split()
    with reserved_port() as port:
        together = [
            [*options, "--out", str(tmp_path / "two"), "--distributed", "--coordinator", f"127.0.0.1:{port}"]
            + ["--processes", "2", "--process", str(process)]
            for process in range(2)
        ]
        said = run_all(
            [
                ["-c", "from seqjax.cli import main; main()", *args]
                for args in [*together, [*options, "--out", str(tmp_path / "one")]]
            ]
        )
    assert "reached 4 steps" in said[0] and "reached 4 steps" not in said[1]

    def losses(name):
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return [line[key] for line in lines for key in ("loss", "evaluation/loss") if key in line]

    assert len(losses("two")) > 0
    np.testing.assert_allclose(losses("two"), losses("one"), rtol=1e-5)


def test_batches_over_a_mesh_are_those_of_the_loader():
    loader = streams(np.arange(400), batch_size=8, length=6)
    for axes in ({"data": 4}, {"fsdp": 2, "time": 3}, {"time": 2}):
        mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
        batch = distributed.batches_of(loader, mesh)(2)
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(loader(2)), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.sharding.mesh.shape == mesh.shape and not a.is_fully_replicated


REFUSED = {
    "--process without --distributed": (
        lambda: _join(False, "127.0.0.1:1", None, None), UsageError, "--process go with --distributed"),
    "--distributed without numbers": (
        lambda: _join(True, "127.0.0.1:1", None, None), UsageError,
        "--distributed: .* got no num_processes and no process_id"),
    "start: an address alone": (
        lambda: distributed.start("127.0.0.1:1"), ValueError,
        "or none of them, got no num_processes and no process_id"),
    "start: a process beyond the number": (
        lambda: distributed.start("127.0.0.1:1", 2, 2), ValueError, "expected a process_id from 0 to 1, got 2"),
    "batches_of: a batch that does not divide": (
        lambda: distributed.batches_of(
            streams(np.arange(400), batch_size=6, length=6), jax.make_mesh((4,), ("data",))), ValueError,
        "divides among 4 devices, got B = 6"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
