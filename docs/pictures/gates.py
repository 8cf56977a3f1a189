"""What do the gates do? Time constants of gates, and the curse of memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from pictures.base import Curve, Picture
from seqjax.calibration.exact import sigmoid
from seqjax.calibration.influence import correlated_inputs, leaky
from seqjax.calibration.transport import BIASES, gate_time_constants


def gate_statistics() -> list[Curve]:
    """Measure the time constants of the gates and decays of five LSTM units."""
    _, (gates, decays) = gate_time_constants(jnp.float64)

    def exact(bias: np.ndarray) -> np.ndarray:
        return -1 / np.log(sigmoid(bias))

    return [
        Curve("forget gate", BIASES, gates, exact, "−1 / ln σ(b)"),
        Curve("decay of c", BIASES[1::2], decays[1::2], exact, "−1 / ln σ(b)"),
    ]


STEPS = 600


def memory_sensitivity() -> list[Curve]:
    """Measure the sensitivity of a leaky sum to its decay, as a sum over unit inputs."""
    decays, layer = np.array([0.5, 0.7, 0.8, 0.9, 0.95, 0.97]), sj.recurrent(leaky(0.0))

    @jax.jit
    def measure(decay: jax.Array, xs: jax.Array) -> jax.Array:
        return sj.probes.memory_sensitivity(sj.probes.bind(layer, decay), xs, num_probes=None).log_square[-1]

    def curve(correlation: float) -> Curve:
        xs = jnp.asarray(correlated_inputs(STEPS, correlation)[..., None])
        measured = [STEPS * np.exp(measure(jnp.full(1, decay), xs)) for decay in decays]

        def exact(lengths: np.ndarray) -> Any:
            return np.array([sj.probes.curse_of_memory(1 - 1 / length, correlation) for length in lengths])

        return Curve(
            f"memory_sensitivity, ρ = {correlation:g}", 1 / (1 - decays), measured, exact, "curse_of_memory"
        )

    return [curve(0.0), curve(0.9)]


PICTURES = (
    Picture(
        "gate_statistics",
        ("gate_statistics",),
        "bias b of the gate",
        "time constant (steps)",
        gate_statistics,
        "y",
    ),
    Picture(
        "memory_sensitivity",
        ("memory_sensitivity", "curse_of_memory"),
        "memory 1 / (1 − λ) (steps)",
        "mean of (∂h/∂λ)²",
        memory_sensitivity,
        "xy",
    ),
)
