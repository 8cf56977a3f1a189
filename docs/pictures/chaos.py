"""Does training become chaotic? Lyapunov exponents, parallelizability, flossing and clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import chi2

import seqjax as sj
from pictures.base import Curve, Picture
from seqjax.calibration.exact import gaussian, orthogonal


def lyapunov_spectrum() -> list[Curve]:
    """Measure the exponents of the Henon map over more and more steps of one trajectory."""
    lengths = np.array([30, 100, 300, 1000, 3000])

    def henon(carry: Any, _: Any) -> Any:
        a, b = carry
        return (1 - 1.4 * a**2 + b, 0.3 * a), None

    @jax.jit
    def measure(length: jax.Array) -> Any:
        steps = jnp.arange(lengths[-1] + 100)
        batch = sj.Batch(jnp.zeros(len(steps)), None, mask=steps < length + 100)
        step = jax.tree_util.Partial(henon)
        return sj.probes.lyapunov_spectrum(step, batch, carry=(0.1, 0.1), warm_up=100)

    found = [measure(length) for length in lengths]
    exponents, low, high = (
        np.array([getattr(each, name) for each in found]) for name in ("exponents", "low", "high")
    )
    published, formula = (0.41922, -1.62319), "published: 0.41922, −1.62319"
    return [
        Curve(
            name,
            lengths,
            exponents[:, i],
            np.full(len(lengths), published[i]),
            formula,
            low[:, i],
            high[:, i],
        )
        for i, name in enumerate(("first exponent", "second exponent"))
    ]


def parallelizability() -> list[Curve]:
    """Count the Newton iterations of a linear, a contracting and a chaotic network of four units."""
    lengths = [4, 16, 64]
    xs = jnp.asarray(gaussian(0, lengths[-1], 1, 2))

    def count(activation: Any, scale: float) -> np.ndarray:
        cell = sj.elman(4, activation=activation, param_dtype=jnp.float64)
        params = cell.init(jax.random.key(0), xs[0])
        params = params._replace(w_h=jnp.asarray(scale * orthogonal(3, 4)))
        bound = sj.probes.bind(sj.recurrent(cell), params)
        return sj.probes.parallelizability(bound, xs, lengths=lengths).iterations

    return [
        Curve("chaotic (gain 6)", lengths, count("tanh", 6.0), lambda n: n, "at most T iterations"),
        Curve("contracting (gain 0.3)", lengths, count("tanh", 0.3)),
        Curve("linear", lengths, count("identity", 0.9), lambda n: np.ones(len(n)), "1 iteration"),
    ]


def flossing_loss() -> list[Curve]:
    """Measure the loss of a linear map with one decay."""

    @jax.jit
    def loss(w: jax.Array) -> jax.Array:
        step = jax.tree_util.Partial(lambda w, h, x: (w * h, None), w)
        return sj.probes.flossing_loss(step, 20, k=1, carry=jnp.ones(1))

    decays = np.array([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8])
    return [
        Curve(
            "flossing_loss of h' = w h",
            decays,
            [loss(w) for w in decays],
            lambda w: np.log(w) ** 2,
            "(ln w)²",
        )
    ]


def clipping_statistics() -> list[Curve]:
    """Measure the share of 4,000 Gaussian gradients in three dimensions that a threshold clips."""
    gradients, thresholds = gaussian(0, 4000, 3), np.linspace(0.25, 4, 16)

    @jax.jit
    def share(threshold: jax.Array) -> jax.Array:
        return sj.probes.clipping_statistics(gradients, optax.clip_by_global_norm(threshold)).share_clipped

    label, formula = "share_clipped of 4,000 gradients", "P(|g| > c), |g|² is χ² with 3 degrees"
    return [Curve(label, thresholds, [share(c) for c in thresholds], lambda c: chi2.sf(c**2, 3), formula)]


PICTURES = (
    Picture(
        "lyapunov_spectrum",
        ("lyapunov_spectrum",),
        "T (steps)",
        "exponent (nats per step)",
        lyapunov_spectrum,
        "x",
    ),
    Picture(
        "parallelizability", ("parallelizability",), "T (steps)", "Newton iterations", parallelizability, "xy"
    ),
    Picture("flossing_loss", ("flossing_loss",), "w (growth per step)", "loss (nats²)", flossing_loss),
    Picture(
        "clipping_statistics", ("clipping_statistics",), "threshold c", "share clipped", clipping_statistics
    ),
)
