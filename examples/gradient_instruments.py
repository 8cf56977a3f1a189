"""Ask how gradients travel through a trained model.

`bind` joins a model and its params, and every probe takes the result. Four questions, with an instrument for each: does
the gradient reach, does training become chaotic, what does bfloat16 cost, and what does truncation lose?
"""

import jax
import jax.numpy as jnp

import seqjax as sj


def main(length: int = 48, hidden_size: int = 8) -> dict[str, float]:
    """Measure a GRU at random inputs and return one number per question."""
    layer = sj.recurrent(sj.gru(hidden_size))
    xs = jax.random.normal(jax.random.key(0), (length, 2, 3), jnp.float32)  # [T, B, D]
    bound = sj.probes.bind(layer, jax.jit(layer.init)(jax.random.key(1), xs[0]))
    batch = sj.Batch(xs, jnp.zeros((length, 2, hidden_size), jnp.float32))

    def loss(ys: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.sum((ys - targets) ** 2, -1)

    at_the_end = sj.gradients.last_step(loss)
    profile = sj.probes.gradient_profile(bound, at_the_end, batch)
    decay = sj.probes.fit_decay(profile.log_norm.h[::-1, 0])  # by lag: the last step first
    spectrum = sj.probes.lyapunov_spectrum(bound, batch, k=2)
    with jax.enable_x64(True):  # the reference is in float64
        bfloat16, _ = sj.probes.precision_error(bound, loss, batch)
    bias = sj.probes.truncation_bias(bound, at_the_end, batch)
    found = {
        "steps that hold 90% of the gradient": float(decay.lag_90),
        "largest Lyapunov exponent, negative for stable dynamics": float(spectrum.exponents[:, 0].max()),
        "relative error of the gradient in bfloat16": float(bfloat16.error),
        "smallest window with a bias of at most 10%": float(bias.window_10),
    }
    for what, value in found.items():
        print(f"{what}: {value:.3g}")
    return found


if __name__ == "__main__":
    main()
