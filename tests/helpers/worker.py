"""One of two processes that train together: ``worker.py PORT PROCESS AXIS FOLDER STOP_AT``; see test_distributed.py."""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import optax

import seqjax as sj
from seqjax.datasets import streams
from seqjax.training import Checkpoints, distributed, fit, init_train_state, make_train_step
from seqjax.training.sharding import axes_of

NUM_STEPS, BATCH, LENGTH = 8, 4, 8


def squares(ys, targets):
    return (ys[..., 0] - targets) ** 2


def parts(mesh):
    """Model, step, state and batches over a mesh, or on one device."""
    model = sj.serial(
        sj.pointwise(to_numbers), sj.recurrent(sj.lru(8, param_dtype=np.float64), sj.TimeSharded())
    )
    optimizer = optax.adam(1e-2)
    loader = streams(np.arange(400) * 7 % 11, batch_size=BATCH, length=LENGTH)
    x = jax.ShapeDtypeStruct((BATCH,), np.int32)
    step = make_train_step(model, squares, optimizer, mesh=mesh)
    state = init_train_state(model, optimizer, jax.random.key(0), x, mesh=mesh)
    return step, state, loader if mesh is None else distributed.batches_of(loader, mesh)


def to_numbers(x):
    return jax.numpy.asarray(x, np.float64)[..., None] / 11


def main(port, process, axis, folder, stop_at):
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    distributed.start(f"127.0.0.1:{port}", 2, process, timeout=60)
    axes = {"data and time": {"data": 2, "time": 2}}.get(axis, {axis: 4})
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
    made, state, batches = parts(mesh)
    losses = []

    def step(state, batch):
        state, metrics = made(state, batch)
        losses.append(float(metrics.loss))
        if len(losses) == stop_at and process == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return state, metrics

    step.mesh = mesh
    status, rows = 0, batches(0).xs.addressable_shards
    try:
        with Checkpoints(Path(folder) / "run") as checkpoints:
            fit(
                step,
                state,
                batches,
                num_steps=NUM_STEPS if stop_at == 0 else 100_000,
                checkpoints=checkpoints,
                checkpoint_every=100_000,
                progress=False,
            )
    except SystemExit as stop:
        status = stop.code
    found = {
        "losses": losses,
        "status": status,
        "rows": sum(shard.data.shape[1] for shard in rows if shard.index[0].indices(LENGTH)[0] == 0),
        "batch_axes": list(axes_of(mesh).batch),
    }
    Path(folder, f"{process}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5]))
