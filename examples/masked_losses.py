"""Write losses for padded sequences.

A loss is `(ys, targets) -> losses`. A loss per step needs no mask: training leaves out the losses of masked steps and
divides by the number of steps that happened. A loss that reduces over time must take the mask, as a third argument
named `mask`. Write `where` and never multiply by the mask: 0 times NaN is NaN.

This program fills the padding with NaN and shows that neither the loss nor a gradient changes.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from seqjax.gradients import objective


def per_step(ys: jax.Array, targets: jax.Array) -> jax.Array:
    """Return one loss per step ``[T, B]``; the library applies the mask."""
    return optax.squared_error(ys, targets).mean(-1)


def per_sequence(ys: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Return one loss per sequence ``[B]``: the error of the mean over the steps that happened."""
    return optax.squared_error(sj.mean_pool(ys, mask), targets[0]).mean(-1)


def main() -> dict[str, float]:
    """Print both losses for clean and for poisoned padding, and return the largest change of a gradient."""
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(12, 4, 3)).astype("f"), np.ones((12, 4, 2), "f")
    mask = np.asarray(sj.lengths_to_mask(np.array([12, 9, 5, 1]), 12))  # [T, B]
    poisoned = np.where(mask[..., None], xs, np.nan)
    model = sj.serial(sj.recurrent(sj.lstm(8)), sj.pointwise(nn.Dense(2)))
    params = jax.jit(model.init)(jax.random.key(0), xs[0])
    changes = {}
    for loss in (per_step, per_sequence):
        evaluate = objective(model, loss)  # (params, carry, batch) -> (total, (count, carry))

        def mean(params: object, batch: sj.Batch, evaluate: Callable = evaluate) -> jax.Array:
            total, (count, _) = evaluate(params, model.initial_carry(params, batch.xs[0]), batch)
            return total / count

        run = jax.jit(jax.value_and_grad(mean))
        (clean, one), (dirty, other) = (run(params, sj.Batch(x, targets, mask=mask)) for x in (xs, poisoned))
        change = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)
        changes[loss.__name__] = max(jax.tree.leaves(change))
        print(f"{loss.__name__}: {float(clean):.4f} and {float(dirty):.4f} with NaN in the padding")
    return changes


if __name__ == "__main__":
    main()
