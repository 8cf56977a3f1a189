"""Checks of gradients through gates and of the time constants of biases (C7, C8)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.calibration.base import Check, Values, relative
from seqjax.calibration.exact import gaussian, sigmoid
from seqjax.cells.chrono_lstm import chrono_lstm
from seqjax.cells.gru import GRUParams, gru
from seqjax.cells.lstm import LSTMCarry, LSTMParams, lstm
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Scan
from seqjax.probes.bound import bind
from seqjax.probes.decay import fit_decay
from seqjax.probes.gates import gate_statistics
from seqjax.probes.profile import gradient_profile

LAYER_LSTM, LAYER_GRU = (recurrent(cell, Scan()) for cell in (lstm(1), gru(1)))


def _last(ys: jax.Array, targets: Any) -> jax.Array:
    return jnp.sum(ys[-1])


# ---------------------------------------------------------------- frozen gates


def lstm_gates(dtype: Any, extended_range: bool = True) -> Values:
    """Measure the growth of the gradient with respect to c over steps back; gates depend on the inputs alone."""
    xs, w_x, b = gaussian(0, 40, 1, 2), gaussian(1, 2, 4), gaussian(2, 4)
    params = LSTMParams(jnp.asarray(w_x, dtype), jnp.zeros((1, 4), dtype), jnp.asarray(b, dtype))
    log_norm = _profile(LAYER_LSTM, params, LSTMCarry, xs, dtype, extended_range).c[:, 0]
    forget = np.log(sigmoid(xs[:, 0] @ w_x + b))[:, 1]
    return Values(_products(forget), _differences(log_norm))


def lstm_gates_by_a_tap(dtype: Any) -> Values:
    """The same, with the derivative taken by a tap."""
    return lstm_gates(dtype, extended_range=False)


def gru_gates(dtype: Any) -> Values:
    """Measure the growth for h of a GRU, whose update gate is the share of h that stays (as in PyTorch)."""
    xs, w_x, b = gaussian(3, 40, 1, 2), gaussian(4, 2, 3), gaussian(5, 3)
    params = GRUParams(*(jnp.asarray(a, dtype) for a in (w_x, np.zeros((1, 3)), b, np.zeros(3))))
    log_norm = _profile(
        LAYER_GRU, params, lambda h: type(LAYER_GRU.initial_carry(params, h))(h), xs, dtype, True
    )
    keep = np.log(sigmoid(xs[:, 0] @ w_x + b))[:, 1]
    return Values(_products(keep), _differences(log_norm.h[:, 0]))


def _profile(layer: Any, params: Any, carry: Any, xs: np.ndarray, dtype: Any, extended_range: bool) -> Any:
    entering = jnp.zeros((1, 1), dtype)
    carry = carry(entering, entering) if carry is LSTMCarry else carry(entering)
    measure = functools.partial(gradient_profile, loss=_last, extended_range=extended_range)
    return jax.jit(measure)(bind(layer, params), batch=jnp.asarray(xs, dtype), carry=carry).log_norm


def _products(log_gate: np.ndarray) -> np.ndarray:
    """Multiply the gates t, ..., T-2 between the carries entering step t and the last step."""
    return np.cumsum(log_gate[-2::-1])


def _differences(log_norm: jax.Array) -> np.ndarray:
    norms = np.asarray(log_norm, np.float64)
    return norms[-2::-1] - norms[-1]


# ---------------------------------------------------------------- biases


BIASES = (0.0, 1.0, 2.0, math.log(99), math.log(999))


def forget_bias(dtype: Any) -> Values:
    """Fit the e-folding length of the profile of an LSTM without inputs."""
    carry = LSTMCarry(jnp.full((1, 1), 0.5, dtype), jnp.zeros((1, 1), dtype))
    xs = jnp.zeros((64, 1, 1), dtype)

    @jax.jit
    def measure(bias: Any) -> Any:
        zeros = jnp.zeros((1, 4), dtype)
        params = LSTMParams(zeros, zeros, zeros[0].at[1].set(bias))
        return gradient_profile(bind(LAYER_LSTM, params), _last, xs, carry=carry).log_norm.c[:, 0]

    lengths = [fit_decay(np.asarray(measure(b))[::-1]).exponential_length for b in BIASES]
    return Values([-1 / math.log(sigmoid(b)) for b in BIASES], lengths)


def gate_time_constants(dtype: Any) -> Values:
    """Measure these lengths as the time constants of the gates of five units."""
    b = np.zeros((4, 5))
    b[1] = BIASES
    zeros = jnp.zeros((1, 5), dtype)
    params = LSTMParams(jnp.zeros((1, 20), dtype), jnp.zeros((5, 20), dtype), jnp.asarray(b.ravel(), dtype))

    @jax.jit
    def measure(params: Any) -> Any:
        quantiles = (0.0, 0.25, 0.5, 0.75, 1.0)
        found = gate_statistics(bind(recurrent(lstm(5)), params), zeros[None, :, :1], quantiles=quantiles)
        return found.gates[1].time_constants, found.decays[0].time_constants  # type: ignore[union-attr]

    exact = [-1 / math.log(sigmoid(b)) for b in BIASES]
    return Values([exact, exact], measure(params))


def chrono_bias(dtype: Any) -> Values:
    """Measure the mean e-folding length of 4096 units; the exact mean is an integral over the time constant."""
    t_max = 1000.0
    cell, x = chrono_lstm(16, t_max=t_max, param_dtype=dtype), jnp.zeros((1, 1), dtype)
    keys = jax.random.split(jax.random.key(0), 256)
    b = np.asarray(jax.jit(jax.vmap(lambda key: cell.init(key, x).b[16:32]))(keys), np.float64)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    u = 1 + (t_max - 2) * (nodes + 1) / 2
    return Values(weights @ (1 / np.log1p(1 / u)) / 2, np.mean(-1 / np.log(sigmoid(b))))


CHECKS = (
    # One rounding per step over 40 steps, in numbers up to 40.
    Check("C7", "LSTM, frozen gates: dc_T/dc_t = prod f", lstm_gates, 1e-12, 1e-4),
    Check("C7", "LSTM, frozen gates: the same by a tap", lstm_gates_by_a_tap, 1e-12, 1e-4),
    Check("C7", "GRU, frozen gates: dh_T/dh_t = prod z", gru_gates, 1e-12, 1e-4),
    # Float32 resolves 1 - sigmoid(ln 999) = .001 to 3e-5.
    relative("C8", "forget bias 0, 1, 2, ln 99, ln 999: e-folding length", forget_bias, 1e-3),
    relative("C8", "the same biases: time constants of the gates", gate_time_constants, 1e-3),
    # The mean of 4096 lengths uniform from 1.4 to 1000 has a relative deviation of .9%; four of these.
    relative("C8", "chrono initialization: mean e-folding length, T_max=1000", chrono_bias, 0.036),
)
