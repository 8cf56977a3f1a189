"""Checks of number formats (C26)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.calibration.base import Check, Values, relative
from seqjax.calibration.networks import network
from seqjax.probes.profile import gradient_profile
from seqjax.probes.time_constants import longest_time_constant, unrepresentable_share

# Digits of precision, the leading one included.
DIGITS = {"bfloat16": 8, "float16": 11, "tf32": 11, "float32": 24}


def time_constants(dtype: Any) -> Values:
    """Compare the time constant of the largest number below one, 1 - 2^-p with p digits of precision."""
    exact = [-1 / math.log1p(-(2.0**-digits)) for digits in DIGITS.values()]
    return Values(exact, [longest_time_constant(name) for name in DIGITS])


def rounded_to_one(dtype: Any) -> Values:
    """Compare the decay .999 in bfloat16, and the share of .9 and .999 that bfloat16 cannot represent."""
    rounded = float(jnp.asarray(0.999, jnp.bfloat16))
    return Values([1.0, 0.5], [rounded, unrepresentable_share(np.array([0.9, 0.999]), "bfloat16")])


def _profile(num_steps: int, dtype: Any, extended_range: bool) -> np.ndarray:
    """Return log norms by lag at lambda = .9, from lag 1 of the carry entering the last step."""
    step, xs = network(np.array([[0.9]]), dtype), jnp.zeros((num_steps, 1, 1), dtype)
    measure = functools.partial(
        gradient_profile, loss=lambda ys, _: jnp.sum(ys[-1]), extended_range=extended_range
    )
    log_norm = jax.jit(measure)(step, batch=xs).log_norm.h
    return np.asarray(log_norm, np.float64)[::-1, 0]


def float32_range(dtype: Any) -> Values:
    """Find the smallest lag at which a plain backward pass leaves the normal range of float32."""
    below = _profile(1000, jnp.float32, extended_range=False) < math.log(np.finfo(np.float32).tiny)
    return Values(829, 1 + int(np.argmax(below)))


def beyond_the_range(dtype: Any) -> Values:
    """Measure the log norm at lag 8000, e^-843, which no format represents."""
    decay = float(jnp.asarray(0.9, dtype))
    return Values(8000 * math.log(decay), _profile(8000, dtype, extended_range=True)[-1])


CHECKS = (
    relative("C26", "longest time constant: bf16, fp16, tf32, fp32", time_constants, 1e-12),
    Check("C26", ".999 in bf16 is 1; the share of .9 and .999 beyond bf16", rounded_to_one, 0, 0),
    Check("C26", "lambda=.9: first lag below the normal fp32 range", float32_range, 0, 0),
    # A rounding per step: 8000 eps over 843.
    relative("C26", "lambda=.9: log norm at lag 8000 by extended range", beyond_the_range, 1e-13, 1e-5),
)
