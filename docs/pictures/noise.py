"""How noisy is the gradient? Signal to noise ratios of params and of carries, and the noise scale."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from pictures.base import Curve, Picture
from seqjax.calibration.exact import gaussian
from seqjax.calibration.influence import leaky

EXAMPLES = 2000


def intervals(ratio: Any, error: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of 95% intervals from standard errors."""
    ratio, error = np.asarray(ratio), np.asarray(error)
    return ratio - 1.96 * error, ratio + 1.96 * error


def signal_to_noise() -> list[Curve]:
    """Measure the ratio of a stationary linear model by its decay."""
    decays = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    layer, xs = sj.recurrent(leaky(0.0)), gaussian(0, 40, EXAMPLES, 1)

    def half_square(ys: jax.Array, targets: Any) -> jax.Array:
        return 0.5 * ys[-1, :, 0] ** 2

    @jax.jit
    def measure(decay: jax.Array) -> Any:
        gradients = sj.probes.per_example_gradients(sj.probes.bind(layer, decay), half_square, xs)
        return sj.probes.signal_to_noise(gradients)

    found = [measure(jnp.full(1, decay)) for decay in decays]
    ratio, error = np.array(found).T
    label, formula = f"signal_to_noise, {EXAMPLES:,} examples", "λ² / (1 + 2 λ²)"
    return [Curve(label, decays, ratio, lambda a: a**2 / (1 + 2 * a**2), formula, *intervals(ratio, error))]


LOW, HIGH, STEPS = 0.5, 1.3, 16


def adjoint_signal_to_noise() -> list[Curve]:
    """Measure the ratio by lag where the inputs are the decays: independent, uniform from 0.5 to 1.3."""
    cell = sj.Cell(
        init=lambda key, x: (),
        initial_carry=lambda params, x: jnp.ones_like(x),
        recurrence=sj.Step(lambda params, h, x: (x * h, x * h)),
    )
    bound = sj.probes.bind(sj.recurrent(cell), ())
    xs = np.random.default_rng(0).uniform(LOW, HIGH, (STEPS, EXAMPLES, 1))

    @jax.jit
    def measure(xs: jax.Array) -> Any:
        return sj.probes.adjoint_signal_to_noise(bound, lambda ys, _: ys[-1, :, 0], xs)

    found = measure(xs)
    lags = np.arange(1, STEPS + 1)
    ratio, error = np.asarray(found.ratio)[::-1], np.asarray(found.standard_error)[::-1]
    growth = 1 + (HIGH - LOW) ** 2 / 12 / ((HIGH + LOW) / 2) ** 2
    label, formula = "adjoint_signal_to_noise", "1 / ((1 + σ²/μ²)^lag − 1)"
    return [Curve(label, lags, ratio, lambda lag: 1 / (growth**lag - 1), formula, *intervals(ratio, error))]


def gradient_noise_scale() -> list[Curve]:
    """Measure the noise scale of the mean of numbers of unit variance, at distances from the optimum."""
    distances, xs = np.array([0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]), gaussian(1, EXAMPLES, 1)
    measure = jax.jit(sj.probes.gradient_noise_scale)
    found = [measure(distance - xs) for distance in distances]
    scale = np.array([each.noise_scale for each in found])
    low, high = intervals(1 / scale, [each.ratio_error for each in found])
    label, formula = f"gradient_noise_scale, {EXAMPLES:,} examples", "1 / distance²"
    return [Curve(label, distances, scale, lambda d: 1 / d**2, formula, 1 / high, 1 / low)]


PICTURES = (
    Picture("signal_to_noise", ("signal_to_noise", "per_example_gradients"), "λ", "ratio", signal_to_noise),
    Picture(
        "adjoint_signal_to_noise",
        ("adjoint_signal_to_noise",),
        "lag (steps before the end)",
        "ratio",
        adjoint_signal_to_noise,
        "y",
    ),
    Picture(
        "gradient_noise_scale",
        ("gradient_noise_scale",),
        "distance from the optimum (standard deviations)",
        "noise scale (examples)",
        gradient_noise_scale,
        "xy",
    ),
)
