"""Use data that has the batch first.

seqjax is time-major, `[T, B, D]`, as `lax.scan` is. Most data sets are `[B, T, D]`. Three ways, from the simplest:

1. Swap the axes where the data enter: `xs.swapaxes(0, 1)`, free for NumPy arrays.
2. Let `sj.datasets.examples`, `padded` and `windows` make the batches: these take the batch first and return time-major
   batches.
3. Wrap the model: `batch_major(model)` takes and returns `[B, T, ...]`, masks and resets included.
"""

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj


def main() -> float:
    """Run a model on batch-major data in both ways and return by how much the outputs differ."""
    xs = np.random.default_rng(0).normal(size=(4, 10, 3)).astype(np.float32)  # [B, T, D]
    mask = np.arange(10) < np.array([10, 7, 7, 3])[:, None]  # [B, T]
    model = sj.bidirectional(sj.recurrent(sj.gru(8)))
    params = jax.jit(model.init)(jax.random.key(0), xs[:, 0])

    _, swapped = model.unroll(params, None, xs.swapaxes(0, 1), mask=mask.T)
    _, wrapped = sj.batch_major(model).unroll(params, None, xs, mask=mask)
    print(f"time-major {swapped.shape}, batch-major {wrapped.shape}")
    return float(jnp.abs(swapped.swapaxes(0, 1) - wrapped).max())


if __name__ == "__main__":
    main()
