"""Classify sequences of different lengths.

`examples` pads the sequences of a batch to the longest one and sets `mask [T, B]`: where the mask is False, the step
does not happen. `last` takes the output of the last step that happened, so padding never reaches the loss. A loss that
reduces over time takes the mask as its third argument, named `mask`.
"""

import flax.linen as nn
import jax
import numpy as np
import optax

import seqjax as sj
from seqjax.training import init_train_state, make_train_step


def make_data(seed: int = 0) -> tuple:
    """Return 256 random walks of 10 to 40 steps, with the sign of their drift as label."""
    rng = np.random.default_rng(seed)
    lengths, labels = rng.integers(10, 41, 256), rng.integers(0, 2, 256)
    steps = rng.normal(size=(256, 40, 3)) + 0.5 * (2 * labels - 1)[:, None, None]
    return np.cumsum(steps, 1).astype(np.float32), labels, lengths  # [N, T, D], [N], [N]


def loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Return one loss per sequence, of the logits at its last step."""
    return optax.softmax_cross_entropy_with_integer_labels(sj.last(logits, mask), labels)


def main(steps: int = 200) -> float:
    """Train, print the loss now and then, and return the accuracy on other sequences."""
    series, labels, lengths = make_data()
    batches = sj.datasets.examples(series, labels, lengths=lengths, batch_size=32)
    model = sj.serial(sj.recurrent(sj.gru(16)), sj.pointwise(nn.Dense(2)))
    optimizer = optax.adam(1e-2)
    step = make_train_step(model, loss, optimizer)
    state = init_train_state(model, optimizer, jax.random.key(0), batches(0).xs[0])
    for i in range(steps):
        state, metrics = step(state, batches(i))
        if i % 50 == 0:
            print(f"step {i:3}: loss {float(metrics.loss):.3f}")

    series, labels, lengths = make_data(seed=1)
    mask = sj.lengths_to_mask(lengths, 40)  # [T, B]
    _, logits = model.unroll(state.params, None, series.swapaxes(0, 1), mask=mask)
    accuracy = float((sj.last(logits, mask).argmax(-1) == labels).mean())
    print(f"accuracy {accuracy:.2f}")
    return accuracy


if __name__ == "__main__":
    main()
