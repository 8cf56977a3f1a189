"""Train on several devices.

The model stays as it is: the training step takes a mesh, and the name of each axis says what the axis shards. "data"
shards the batch, "fsdp" also the params, and "time" the steps of each sequence (with `TimeSharded` as method).

**The line that costs people an hour.** `jax.make_mesh` now makes axes of type `AxisType.Explicit`; older versions of
JAX made axes of type `AxisType.Auto`. With explicit axes the sharding is a part of an array's type. A program that
works on one device, or that was written for older versions, can then stop with an error about shardings. State the
types:

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

`make_train_step` and `init_train_state` accept both types.

Without several devices, try this on a CPU: `XLA_FLAGS=--xla_force_host_platform_device_count=8 python sharding.py`. In
a program, `jax.config.update("jax_num_cpu_devices", 8)` before anything is computed does the same.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from seqjax.training import init_train_state, make_train_step


def main(steps: int = 20) -> float:
    """Train on all devices and on one, and return by how much the losses differ."""
    devices = jax.device_count()
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(32, 2 * devices, 3)).astype(np.float32)  # [T, B, D]
    batch = sj.Batch(xs, np.cumsum(xs, 0).sum(-1, keepdims=True) / 10)
    model = sj.serial(sj.recurrent(sj.lru(16)), sj.pointwise(nn.Dense(1)))
    optimizer = optax.adam(1e-2)

    losses = []
    types = (jax.sharding.AxisType.Auto,)
    for mesh in (None, jax.make_mesh((devices,), ("data",), axis_types=types)):
        step = make_train_step(model, optax.squared_error, optimizer, mesh=mesh)
        state = init_train_state(model, optimizer, jax.random.key(0), xs[0], mesh=mesh)
        for _ in range(steps):
            state, metrics = step(state, batch)
        losses.append(float(metrics.loss))
        where = "1 device" if mesh is None else f"{devices} devices"
        print(f"{where}: loss {losses[-1]:.6f} after {steps} steps")
    return float(jnp.abs(losses[0] - losses[1]))


if __name__ == "__main__":
    main()
