"""One of two processes that train together: ``python preempted_run.py PORT INDEX FOLDER STEPS``.

Prints how training ended, at which step, and the SHA-256 of the params.
"""

import hashlib
import json
import sys

import jax

port, index, folder, steps = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)

import numpy as np  # noqa: E402
import optax  # noqa: E402

import seqjax as sj  # noqa: E402
from seqjax.training import Checkpoints, MetricsLog, fit, init_train_state, make_train_step  # noqa: E402


def batches(step):
    xs, targets = np.random.default_rng(step).normal(size=(2, 4, 6, 3)).astype(np.float32)
    return sj.Batch(xs, targets)


mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
model, optimizer = sj.recurrent(sj.gru(3)), optax.adam(1e-2)
step = make_train_step(model, lambda ys, targets: ((ys - targets) ** 2).sum(-1), optimizer, mesh=mesh)
first = jax.jit(
    lambda: init_train_state(model, optimizer, jax.random.key(0), batches(0).xs[0])._replace(key=None),
    out_shardings=jax.NamedSharding(mesh, jax.P()),
)
with Checkpoints(folder) as checkpoints:
    ended, state = "finished", first()
    try:
        log = MetricsLog(folder, plots=False)
        state = fit(
            step,
            state,
            batches,
            num_steps=steps,
            checkpoints=checkpoints,
            checkpoint_every=10**6,
            log=log,
            log_every=1,
        ).state
    except (SystemExit, KeyboardInterrupt) as stop:
        ended = getattr(stop, "code", 130)
    at = checkpoints.steps()[-1]
    _, state = checkpoints.restore(state if ended == "finished" else first())
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    print(json.dumps([ended, at, hashlib.sha256(b"".join(leaves)).hexdigest()]), flush=True)
