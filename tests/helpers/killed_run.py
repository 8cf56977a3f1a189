"""Run a training that is killed many times: ``python killed_run.py FOLDER KILLS SEED``, used by test_fit_killed.py.

Then run a training that is not killed, on a disk that is full for a while. Print one line of JSON per process, which
says how the process ended, and at the end one line with the result of each training. Processes are forks of this one,
which has imported all modules and computed nothing, so they start at once.
"""

import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax

import seqjax as sj
from seqjax.gradients import truncated_bptt
from seqjax.training import Checkpoints, MetricsLog, evaluation, fit, init_train_state, make_train_step

STEPS, T, B, D = 160, 5, 4, 2
LATEST = 120  # step at which a signal is sent
HELD = 150  # from this step on a training waits for its signal, so that it does not come when all is done
BAD = (57, 58, 59)  # not finite: skipped, and the last one is one too many


def batches(step, seed=0):
    rng = np.random.default_rng([seed, step])
    xs = rng.normal(size=(T, B, D)).astype(np.float32)
    targets = np.cumsum(xs, 0)[..., :1].astype(np.float32)
    if seed == 0 and step in BAD:
        xs[:] = np.nan
    return sj.Batch(xs, targets, rng.random((T, B)) < 0.1)


def squares(ys, targets):
    return ((ys - targets) ** 2)[..., 0]


def held(folder):
    """The batches, asked for once signals are handled; late ones come as soon as nothing holds them up."""

    def made(step):
        (folder / "begun").touch()
        while step >= HELD and (folder / "hold").exists():
            time.sleep(0.003)
        return batches(step)

    return made


def worse_later(evaluate):
    """The best state is not the last one, so that it must be remembered which it was."""
    return lambda state: {name: v + 9 * (int(state.step) > 80) for name, v in evaluate(state).items()}


def full_disk(evaluate):
    """From step 64 to 80 no file may grow beyond 2000 bytes: writing fails as it does on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def evaluated(state):
        limit = 2000 if 64 <= int(state.step) < 80 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return evaluate(state)

    return evaluated


def train(folder, around=lambda evaluate: evaluate):
    """Dropout, streams, an optimizer with a state, the best state: everything that must be found again."""
    model = sj.serial(sj.recurrent(sj.lstm(4)), sj.dropout(0.2), sj.pointwise(nn.Dense(1)))
    optimizer, estimator = optax.adam(1e-2), truncated_bptt(T)
    step = make_train_step(model, squares, optimizer, estimator=estimator)
    first = jax.jit(lambda key, x: init_train_state(model, optimizer, key, x, estimator=estimator))
    state = first(jax.random.key(0), batches(0).xs[0])

    with Checkpoints(folder, config={"seed": 0}) as checkpoints:
        fitted = fit(
            step,
            state,
            held(folder),
            num_steps=STEPS,
            evaluate=around(worse_later(evaluation(model, squares, lambda number: batches(number, 1)))),
            eval_every=16,
            checkpoints=checkpoints,
            checkpoint_every=10,
            max_skipped=len(BAD),
            log=MetricsLog(folder, plots=False),
            log_every=1,
            instruments={"state": lambda state: {"bias": state.params[2]["bias"], "step": state.step}},
            instrument_every=7,
        )
        best = Checkpoints(folder / "best").restore(fitted.state)
        assert best[0] == fitted.best_step
        (folder / "result.json").write_text(
            json.dumps({"state": digest(fitted.state), "best": digest(best[1]), "fitted": fitted[1:]})
        )


def digest(state):
    leaves = jax.tree.leaves(jax.device_get(state._replace(key=jax.random.key_data(state.key))))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


def begin(folder, **options):
    """Train in a process of its own."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        train(folder, **options)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as stop:
        code = stop.code
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(process):
    """Whether it has ended; what it ended with is still to be asked."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end(process):
    """How it ended: its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def logged(folder):
    """The lines of the log that tell of training."""
    path = folder / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # killed while it was written
            continue
    return [{k: v for k, v in n.items() if k != "seconds"} for n in found if n.get("event") != "resumed"]


def main(folder, kills, seed):
    chance = random.Random(seed)
    end(begin(folder / "whole"))
    run = folder / "run"
    run.mkdir()
    stops = [signal.SIGKILL] * kills + [signal.SIGTERM, signal.SIGINT]
    for number, stop in enumerate(stops):
        at = chance.randrange(number * LATEST // len(stops), (number + 1) * LATEST // len(stops))
        (run / "begun").unlink(missing_ok=True)
        (run / "hold").touch()
        process = begin(run)

        def due():
            return (run / "begun").exists() and any(line["step"] >= at for line in logged(run)[-1:])  # noqa: B023

        while not ended(process) and not due():
            time.sleep(0.003)
        time.sleep(chance.random() * 0.03)  # any place within a step, a save or an evaluation
        os.kill(process, stop)
        (run / "hold").unlink()
        print(json.dumps({"signal": stop.name, "at": at, "code": end(process)}))
    print(json.dumps({"signal": None, "code": end(begin(run))}))
    print(json.dumps({"signal": None, "code": end(begin(folder / "full", around=full_disk))}))
    for name in ("whole", "run", "full"):
        result = json.loads((folder / name / "result.json").read_text())
        rows = (folder / name / "instruments.jsonl").read_text().splitlines()
        print(json.dumps({"name": name, **result, "log": logged(folder / name), "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
