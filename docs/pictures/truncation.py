"""What does truncation lose? The gradient by lag, and the bias by window."""

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from pictures.base import Curve, Picture
from pictures.reach import last
from seqjax.calibration.estimators import bias_by_lag

DECAY, STEPS = 0.9, 40


def lag_decomposition() -> list[Curve]:
    """Measure the gradient by lambda of a leaky sum of ones, by the number of steps that it passes."""

    @jax.jit
    def measure(decay: jax.Array) -> jax.Array:
        step = jax.tree_util.Partial(lambda decay, h, x: (decay * h + x,) * 2, decay)
        return sj.probes.lag_decomposition(step, last, jnp.ones(STEPS), carry=jnp.zeros(())).log_norm

    lags = np.arange(0, STEPS - 1, 2)

    def exact(lag: np.ndarray) -> np.ndarray:
        return DECAY**lag * (1 - DECAY ** (STEPS - 1 - lag)) / (1 - DECAY)

    norms = np.exp(measure(jnp.asarray(DECAY)))[lags]
    return [Curve("lag_decomposition of h' = λ h + 1", lags, norms, exact, "λ^τ h at step T−1−τ, λ = 0.9")]


def truncation_bias() -> list[Curve]:
    """Measure the bias of all windows up to 40 in a stationary linear model."""
    exact, measured = bias_by_lag(jnp.float64)
    return [Curve("truncation_bias", np.arange(1, 41)[::2], measured[::2], exact[::2], "λ^(2K), λ = 0.9")]


PICTURES = (
    Picture(
        "lag_decomposition",
        ("lag_decomposition",),
        "lag τ (steps)",
        "norm of the part",
        lag_decomposition,
        "y",
    ),
    Picture(
        "truncation_bias", ("truncation_bias",), "window K (steps)", "relative bias", truncation_bias, "y"
    ),
)
