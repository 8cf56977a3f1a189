"""Put a model of your own into the gradient report.

`build` returns a `Cell`, a `Layer`, or params with a step function `(params, carry, x) -> (carry, y)` for one example.
The report then treats the model like the cells of the library:

    seqjax gradients examples/report_on_own_model.py:build --cells lstm,lru --preset smoke --out report

A function gets `hidden_size`, `seed`, `vocabulary_size` and `num_outputs` where it has such arguments. `of_tokens`
takes the size of the vocabulary, so it reads tokens through an embedding of its own. Several models share a study:

    FILE=examples/report_on_own_model.py
    seqjax gradients $FILE:build $FILE:of_tokens --preset smoke --out report

The same instruments work in Python: `bind` joins a layer and its params, and every probe takes the result.
"""

import jax
import jax.numpy as jnp

import seqjax as sj

WIDTH = 16


def build() -> tuple:
    """Return the params and one step of a network of 16 units, as `seqjax gradients` reads them."""
    w = 0.9 * jnp.linalg.qr(jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)))[0]

    def step(params: jax.Array, carry: jax.Array | None, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.zeros(WIDTH) if carry is None else carry
        h = jnp.tanh(params @ h + jnp.resize(x, (WIDTH,)))
        return h, h

    return w, step


def of_tokens(vocabulary_size: int, hidden_size: int, seed: int) -> tuple:
    """Return the params and one step of the same network with an embedding, drawn anew for every seed."""
    keys = jax.random.split(jax.random.key(seed))
    w = 0.9 * jnp.linalg.qr(jax.random.normal(keys[0], (hidden_size, hidden_size)))[0]
    embedding = 0.1 * jax.random.normal(keys[1], (vocabulary_size, hidden_size))

    def step(params: dict, h: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(params["w"] @ h + params["embedding"][token])
        return h, h

    return {"w": w, "embedding": embedding}, step, jnp.zeros(hidden_size)


def main(length: int = 200) -> float:
    """Measure how fast the gradient decays, beside an LSTM, and return the e-folding length of the network."""
    w, step = build()
    xs = 0.1 * jax.random.normal(jax.random.key(1), (length, WIDTH))
    batch = sj.Batch(xs, jnp.zeros((length, WIDTH)))
    own = sj.probes.adjoint_profile(
        lambda carry, x: step(w, carry, x),
        sj.gradients.last_step(lambda ys, targets: jnp.sum((ys - targets) ** 2, -1)),
        batch,
        carry=jnp.zeros(WIDTH),
    )
    decay = sj.probes.fit_decay(own.log_norm[::-1])
    print(f"the gradient falls by e every {float(decay.exponential_length):.1f} steps")
    return float(decay.exponential_length)


if __name__ == "__main__":
    main()
