"""Export a trained model to one file that runs without seqjax.

`jax.export` writes a compiled function with its weights. A symbolic shape leaves the batch size and the length open.
Export two functions: the whole sequence for batches, and one step for streams. The exported step takes the leaves of
the carry as a list. A carry as it is, such as `LSTMCarry`, can be exported too, but then `import seqjax` must come
before the file is loaded, because the file names its class.

Whoever loads these files needs JAX alone:

    run = jax.export.deserialize(Path("whole.bin").read_bytes()).call
"""

import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import seqjax as sj


def main() -> float:
    """Export, load, and return by how much the loaded stream differs from the model."""
    model = sj.serial(sj.recurrent(sj.lstm(8)), sj.pointwise(nn.Dense(2)))
    xs = np.random.default_rng(0).normal(size=(20, 3, 4)).astype(np.float32)  # [T, B, D]
    params = jax.jit(model.init)(jax.random.key(0), xs[0])  # trained params, in practice

    def whole(xs: jax.Array) -> jax.Array:
        return model.unroll(params, None, xs)[1]

    carry, structure = jax.tree.flatten(model.initial_carry(params, xs[0]))  # two arrays: c and h

    def step(leaves: list[jax.Array], x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        carry, y = model.step(params, jax.tree.unflatten(structure, leaves), x)
        return jax.tree.leaves(carry), y

    t, b = export.symbolic_shape("t, b")
    shapes = [jax.ShapeDtypeStruct((b, *a.shape[1:]), a.dtype) for a in carry]
    exported = {
        "whole": export.export(jax.jit(whole))(jax.ShapeDtypeStruct((t, b, 4), jnp.float32)),
        "step": export.export(jax.jit(step))(shapes, jax.ShapeDtypeStruct((b, 4), jnp.float32)),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, each in exported.items():
            size = (Path(folder) / f"{name}.bin").write_bytes(each.serialize())
            print(f"{name}.bin: {size / 1000:.0f} kB")
        run, one = (export.deserialize((Path(folder) / f"{name}.bin").read_bytes()).call for name in exported)
        outputs = []
        for x in xs:
            carry, y = one(carry, x)
            outputs.append(y)
        difference = max(
            float(np.abs(np.stack(outputs) - whole(xs)).max()), float(np.abs(run(xs) - whole(xs)).max())
        )
    print(f"the loaded functions differ from the model by {difference:.0e}")
    return difference


if __name__ == "__main__":
    main()
