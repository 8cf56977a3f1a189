"""Build deep stacks.

A model is a layer made of layers. `serial` runs layers one after the other and `residual` adds the input. `repeat`
runs n copies of a layer as one loop over depth, so the time to compile does not grow with n. Each part keeps a carry of
its own, so the whole stack streams step by step like a single cell.

Two prefabricated stacks for comparison: `griffin` mixes gated linear recurrences with local attention, `xlstm` mixes
matrix and scalar memories.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

import seqjax as sj


def main(width: int = 16, depth: int = 4) -> dict[str, float]:
    """Print the size of three stacks and return by how much streaming differs from the whole sequence."""
    branch = sj.serial(sj.pointwise(nn.RMSNorm()), sj.recurrent(sj.lru(width)), sj.pointwise(nn.gelu))
    tokens = jax.random.randint(jax.random.key(0), (8, 2), 0, 64)  # [T, B]
    bodies = {
        "repeat": sj.repeat(sj.residual(branch), depth),
        "griffin": sj.griffin(width, depth=3, num_heads=2),
        "mixed": sj.serial(sj.residual(branch), sj.residual(sj.recurrent(sj.lstm(width)))),
    }
    found = {}
    for name, body in bodies.items():
        model = sj.serial(sj.pointwise(nn.Embed(64, width)), body, sj.pointwise(nn.Dense(64)))
        params = jax.jit(model.init)(jax.random.key(1), tokens[0])
        _, whole = jax.jit(model.unroll)(params, None, tokens)

        carry, step, outputs = model.initial_carry(params, tokens[0]), jax.jit(model.step), []
        for token in tokens:
            carry, logits = step(params, carry, token)
            outputs.append(logits)
        found[name] = float(jnp.abs(jnp.stack(outputs) - whole).max())
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(f"{name:8} {size:6} params, streaming differs by {found[name]:.0e}")
    return found


if __name__ == "__main__":
    main()
