"""Two processes train as one does, and stop at the same step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from worker import NUM_STEPS, parts

from seqjax.datasets import streams
from seqjax.training import Checkpoints, distributed


def two_processes(folder, axis, stop_at=0):
    """What each of two workers found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": str(here.parent),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(here.parent / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, str(here / "worker.py"), str(port)]
    workers = [
        subprocess.Popen(
            [*command, str(process), axis, str(folder), str(stop_at)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(worker.returncode == 0 for worker in workers), "\n".join(said)
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


def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    found = two_processes(tmp_path, "data", stop_at=5)
    steps = {len(of_process["losses"]) for of_process in found}
    assert len(steps) == 1 and 5 <= min(steps) < 1000
    assert {of_process["status"] for of_process in found} == {143}
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps()[-1] == min(steps)


def test_batches_over_a_mesh_are_those_of_the_loader():
    loader = streams(np.arange(400), batch=8, length=6)
    for axes in ({"data": 4}, {"fsdp": 2, "time": 3}, {"time": 2}):
        mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
        batch = distributed.batches_of(loader, mesh)(2)
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(loader(2)), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.sharding.mesh.shape == mesh.shape and not a.is_fully_replicated


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="or none of them, got no num_processes and no process_id"):
        distributed.start("127.0.0.1:1")
    with pytest.raises(ValueError, match="expected a process_id from 0 to 1, got 2"):
        distributed.start("127.0.0.1:1", 2, 2)
    loader = streams(np.arange(400), batch=6, length=6)
    with pytest.raises(ValueError, match="divides among 4 devices, got B = 6"):
        distributed.batches_of(loader, jax.make_mesh((4,), ("data",)))
