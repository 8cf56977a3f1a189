"""Train many seeds and learning rates in one compiled program.

A training step is a pure function `(state, batch) -> (state, metrics)`, so `jax.vmap` runs many trainings at once.
`optax.inject_hyperparams` keeps the learning rate in the state of the optimizer, where each training has its own.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import seqjax as sj
from seqjax.training import TrainState, init_train_state, make_train_step


def main(steps: int = 200, seeds: int = 4, rates: tuple[float, ...] = (1e-3, 1e-2, 3e-2)) -> jax.Array:
    """Train on the adding problem and return the last losses, by seed and rate."""
    task = sj.tasks.adding(20)
    batches = task.batches(32)
    model = sj.serial(sj.recurrent(sj.gru(16)), sj.pointwise(nn.Dense(task.num_outputs)))
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    step = make_train_step(model, task.loss, optimizer)

    def start(key: jax.Array, rate: jax.Array) -> TrainState:
        state = init_train_state(model, optimizer, key, batches(0).xs[0])
        hyperparams = state.opt_state.hyperparams | {"learning_rate": rate}
        return state._replace(opt_state=state.opt_state._replace(hyperparams=hyperparams))

    keys = jnp.repeat(jax.random.split(jax.random.key(0), seeds), len(rates))  # seed by seed
    states = jax.jit(jax.vmap(start))(keys, jnp.tile(jnp.asarray(rates), seeds))
    steps_of_all = jax.jit(jax.vmap(step, in_axes=(0, None)))  # the same batch for all
    for i in range(steps):
        states, metrics = steps_of_all(states, batches(i))
    losses = metrics.loss.reshape(seeds, len(rates))
    for rate, column in zip(rates, losses.T):
        print(f"rate {rate:g}: loss {float(column.mean()):.3f} +- {float(column.std()):.3f}")
    print(f"an answer without memory has a loss of {float(task.baseline):.3f}")
    return losses


if __name__ == "__main__":
    main()
