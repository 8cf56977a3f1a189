"""Does the gradient reach? Profiles, their decay, influence, saliency and singular values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from pictures.base import Curve, Picture
from seqjax.calibration.exact import orthogonal
from seqjax.calibration.networks import initialized, network
from seqjax.calibration.transport import lstm_gates


def last(ys: jax.Array, targets: Any) -> jax.Array:
    """Return the last output of a plain function as the loss."""
    return ys[-1]


# ---------------------------------------------------------------- profiles


def gradient_profile() -> list[Curve]:
    """Measure an LSTM whose gates depend on the inputs alone, by lag from the last step."""
    exact, measured = lstm_gates(jnp.float64)
    lags = np.arange(1, len(exact) + 1)
    return [
        Curve(
            "gradient_profile of c in an LSTM",
            lags,
            np.exp(measured),
            np.exp(exact),
            "product of forget gates",
        )
    ]


SHORT, LONG, WEIGHT, STEPS = 0.8, 0.98, 0.05, 41


def adjoint_profile() -> list[Curve]:
    """Measure a plain function with two states that decay at two rates; the loss weighs the slow one less."""

    def step(carry: Any, x: Any) -> Any:
        short, long = SHORT * carry[0], LONG * carry[1]
        return (short, long), short + WEIGHT * long

    def measure(carry: Any) -> Any:
        return sj.probes.adjoint_profile(jax.tree_util.Partial(step), last, STEPS, carry=carry).log_norm

    log_norm = jax.jit(measure)((1.0, 1.0))
    total = sj.probes.total_log_norm(log_norm)
    lags, chosen = np.arange(1, STEPS + 1), slice(0, STEPS, 4)

    def curve(label: str, log_norm: jax.Array, exact: Any) -> Curve:
        return Curve(
            label, lags[chosen], np.exp(log_norm)[::-1][chosen], exact, "0.8^lag, 0.05 · 0.98^lag, their norm"
        )

    def short(lag: np.ndarray) -> np.ndarray:
        return SHORT**lag

    def long(lag: np.ndarray) -> np.ndarray:
        return WEIGHT * LONG**lag

    return [
        curve("total_log_norm", total, lambda lag: np.hypot(short(lag), long(lag))),
        curve("adjoint_profile, a", log_norm[0], short),
        curve("adjoint_profile, b", log_norm[1], long),
    ]


# ---------------------------------------------------------------- decay


LENGTH = 20.0


def fit_decay() -> list[Curve]:
    """Fit profiles that are an exponential of 20 steps and the power -1, and draw the laws that the fits return."""
    lags = np.arange(1.0, 65.0)

    @jax.jit
    def profile(decays: jax.Array) -> jax.Array:
        step = jax.tree_util.Partial(lambda h, x: (x * h, x * h))
        return sj.probes.adjoint_profile(step, last, decays, carry=jnp.ones(())).log_norm

    def by_lag(decays: np.ndarray) -> np.ndarray:
        return np.asarray(profile(jnp.asarray(decays[::-1])))[::-1]

    exponential = sj.probes.fit_decay(by_lag(np.full(64, np.exp(-1 / LENGTH))))
    power = sj.probes.fit_decay(by_lag(np.append(1.0, lags[:-1] / lags[1:])))
    assert (exponential.better, power.better) == ("exponential", "power")
    chosen = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
    formula = "e^(−lag/20) and 1/lag"
    return [
        Curve(
            f"fit: exponential, {exponential.exponential_length:.1f} steps",
            chosen,
            np.exp(-chosen / exponential.exponential_length),
            lambda lag: np.exp(-lag / LENGTH),
            formula,
        ),
        Curve(
            f"fit: power {power.power_exponent:.2f}".replace("-", "−"),
            chosen,
            chosen**power.power_exponent,
            lambda lag: 1 / lag,
            formula,
        ),
    ]


def horizon() -> list[Curve]:
    """Measure the lags that hold given shares of exponential profiles."""
    shares = np.append(np.arange(0.05, 0.96, 0.05), 0.99)

    def lags(decay: float) -> Curve:
        log_norm = np.log(decay) * np.arange(1000)
        measured = [sj.probes.horizon(log_norm, share) for share in shares]
        exact = np.ceil(np.log(1 - shares) / np.log(decay) - 1)
        return Curve(
            f"horizon, λ = {decay:g}", shares, measured, exact, "ln(1 − share) / ln λ − 1, rounded up"
        )

    return [lags(0.95), lags(0.8)]


# ---------------------------------------------------------------- influence


R_MIN, R_MAX, UNITS, FAR = 0.5, 0.99, 64, 60


def influence() -> list[Curve]:
    """Measure an LRU with eigenvalues evenly over a ring: the mean over its units, and the slowest unit."""
    cell = sj.lru(1, state_size=UNITS, param_dtype=jnp.float64)
    bound, params, xs = initialized(cell, np.zeros((FAR, 1, 1)), jnp.float64)
    squares = R_MIN**2 + (R_MAX**2 - R_MIN**2) * (np.arange(UNITS) + 0.5) / UNITS
    params = params._replace(nu_log=np.log(-np.log(squares) / 2))
    lags = np.array([1, 3, 6, 10, 15, 20, 30, 40, 50, 60])

    @jax.jit
    def measure(params: Any) -> Any:
        ring, key = sj.probes.bind(bound.layer, params), jax.random.key(0)
        root = sj.probes.terminal_influence(ring, xs, num_probes=2, key=key).log_norm[FAR - lags, 0]
        largest = sj.probes.spectral_influence(ring, xs, times=(FAR - lags).tolist(), key=key)
        return jnp.exp(root) / np.sqrt(2 * UNITS), jnp.exp(largest.log_norm[:, 0])

    def mean(lag: np.ndarray) -> np.ndarray:
        above = R_MAX ** (2 * lag + 2) - R_MIN ** (2 * lag + 2)
        return np.sqrt(above / ((lag + 1) * (R_MAX**2 - R_MIN**2)))

    root, largest = measure(params)
    return [
        Curve(
            "spectral_influence",
            lags,
            largest,
            lambda lag: squares[-1] ** (lag / 2),
            "largest |λ| to the lag",
        ),
        Curve("terminal_influence, per unit", lags, root, mean, "root mean square over the ring"),
    ]


RESTART, DECAY, INPUTS = 12, 0.9, 40


def input_saliency() -> list[Curve]:
    """Measure a leaky sum of inputs that restarts at one step."""
    reset = jnp.arange(INPUTS) == RESTART
    step = jax.tree_util.Partial(lambda h, x: (DECAY * h + x,) * 2)
    batch = sj.Batch(jnp.ones(INPUTS), None, reset)
    measure = jax.jit(lambda batch: sj.probes.input_saliency(step, last, batch, carry=jnp.zeros(())))
    steps = np.arange(INPUTS)
    exact = np.where(steps < RESTART, 0.0, DECAY ** (INPUTS - 1 - steps))
    label, formula = "input_saliency, reset at step 12", "λ^(T−1−t) after the reset, λ = 0.9"
    return [Curve(label, steps, np.exp(measure(batch)), exact, formula)]


# ---------------------------------------------------------------- singular values


def singular_values() -> list[Curve]:
    """Measure the fan of a symmetric matrix, whose singular values are powers of its eigenvalues."""
    eigenvalues, taus = np.array([1.02, 1.0, 0.9, 0.7]), np.array([1, 8, 16, 24, 32, 40])
    rotation = orthogonal(1, 4)
    bound = network(rotation @ np.diag(eigenvalues) @ rotation.T, jnp.float64)
    xs = jnp.zeros((int(taus[-1]), 1, 1))
    fan = jax.jit(lambda bound: sj.probes.singular_values(bound, xs, taus=taus.tolist()))(bound)
    values = np.exp(fan.log_values[:, 0])
    return [
        Curve(f"w = {w:g}", taus, values[:, i], lambda tau, w=w: w**tau, "w^τ")
        for i, w in enumerate(eigenvalues)
    ]


PICTURES = (
    Picture(
        "gradient_profile",
        ("gradient_profile",),
        "lag (steps before the last)",
        "|∂L/∂c|, relative",
        gradient_profile,
        "y",
    ),
    Picture(
        "adjoint_profile",
        ("adjoint_profile", "total_log_norm"),
        "lag (steps before the end)",
        "norm of the gradient",
        adjoint_profile,
        "y",
    ),
    Picture("fit_decay", ("fit_decay",), "lag (steps)", "norm of the gradient", fit_decay, "xy"),
    Picture("horizon", ("horizon",), "share of the summed norm", "lag (steps)", horizon),
    Picture(
        "influence",
        ("terminal_influence", "spectral_influence"),
        "lag (steps)",
        "influence on h_T",
        influence,
        "y",
    ),
    Picture("input_saliency", ("input_saliency",), "step t of T = 40", "|∂L/∂x|", input_saliency),
    Picture("singular_values", ("singular_values",), "τ (steps)", "singular values", singular_values, "y"),
)
