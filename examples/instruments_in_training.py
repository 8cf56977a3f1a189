"""Watch how gradients change while a model trains.

`fit(instruments=..., instrument_every=100)` calls functions of the state at the first step, at every hundredth one, and
at the last one. Any probe on a fixed batch is an instrument in one line. The log keeps the results as rows of the
gradient report beside the metrics, so an interruption loses none of them. The page comes from the command line:

    python examples/instruments_in_training.py
    seqjax render runs/recall

`seqjax train` has the same instruments: `--instruments profile,spectrum --instrument-every 100`.
"""

import json
from pathlib import Path

import flax.linen as nn
import jax
import optax

import seqjax as sj
from seqjax.gradients import last_step
from seqjax.probes import bind, gradient_profile, lyapunov_spectrum
from seqjax.training import MetricsLog, fit, init_train_state, make_train_step


def main(steps: int = 200, folder: str = "runs/recall") -> tuple[float, float]:
    """Train on delayed recall, and return how many steps back 90% of the gradient reach, before and after."""
    task = sj.tasks.delayed_recall(16)
    model = sj.serial(
        sj.pointwise(nn.Embed(task.num_inputs, 16)),
        sj.recurrent(sj.lstm(16)),
        sj.pointwise(nn.Dense(task.num_outputs)),
    )
    optimizer, batches, held_out = optax.adam(1e-2), task.batches(16), task.batches(8, seed=1)(0)
    state = init_train_state(model, optimizer, jax.random.key(0), batches(0).xs[0])
    loss = last_step(task.loss)
    instruments = {
        "profile": lambda state: gradient_profile(bind(model, state.params), loss, held_out),
        "spectrum": lambda state: lyapunov_spectrum(bind(model, state.params), held_out, k=4),
        "forget bias": lambda state: state.params[1].b.reshape(4, -1)[1],  # any array is one, too
    }
    fit(
        make_train_step(model, task.objective, optimizer),
        state,
        batches,
        num_steps=steps,
        log=[MetricsLog(folder, plots=False), lambda step, metrics: None],  # a function logs elsewhere
        instruments=instruments,
        instrument_every=max(steps // 4, 1),
    )
    rows = [json.loads(line) for line in Path(folder, "instruments.jsonl").read_text().splitlines()]
    reach = [row["value"] for row in rows if row["quantity"] == "lag_90"]
    print(
        f"90% of the gradient reach {reach[0]:.0f} steps back at first, and {reach[-1]:.0f} after {steps} steps"
    )
    return reach[0], reach[-1]


if __name__ == "__main__":
    main()
