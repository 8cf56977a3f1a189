"""Checks of the losses of the memoryless baseline on tasks (C23, C24)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.calibration.base import Check, Values, relative
from seqjax.tasks import adding, copying

DELAYS = (100, 500, 1000)


def copying_baseline(dtype: Any) -> Values:
    """Measure the mean loss of logits that depend on the time alone, on sampled batches; it has no variance."""

    @functools.partial(jax.jit, static_argnums=0)
    def blind(delay: int) -> Any:
        task = copying(delay + 20)
        targets = task.sample(jax.random.key(0), 4)[1]
        recalling = np.arange(delay + 20)[:, None] >= delay + 10
        is_blank = np.arange(9) == 8
        # The logit of an excluded symbol: its probability of 1e-87 is negligible in either dtype.
        logits = np.where(recalling == is_blank, -200.0, 0.0)
        ys = jnp.broadcast_to(jnp.asarray(logits, dtype)[:, None], (delay + 20, 4, 9))
        return jnp.mean(task.loss(ys, targets))

    measured = [float(blind(delay)) for delay in DELAYS]
    return Values([10 * math.log(8) / (delay + 20) for delay in DELAYS], measured)


def copying_stated(dtype: Any) -> Values:
    """Read the baseline that the task states."""
    exact = [10 * math.log(8) / (delay + 20) for delay in DELAYS]
    return Values(exact, [copying(delay + 20).baseline for delay in DELAYS])


def adding_baseline(dtype: Any) -> Values:
    """Measure the mean squared error of the prediction 1 on 2^18 sampled sequences."""

    @jax.jit
    def blind() -> Any:
        task, batch = adding(4), 2**18
        _, targets = task.sample(jax.random.key(0), batch)
        return jnp.mean(task.loss(jnp.ones((1, batch, 1), dtype), targets[-1:].astype(dtype)))

    return Values(1 / 6, float(blind()))


def adding_stated(dtype: Any) -> Values:
    """Read the baseline that the task states."""
    return Values(1 / 6, adding(4).baseline)


CHECKS = (
    # A mean of equal numbers: some roundings; in float32 1e-7 each, over sums of 4,000 terms.
    relative("C23", "copying: blind loss on samples, 10 ln 8/(T+20)", copying_baseline, 1e-13, 1e-6),
    relative("C23", "copying: the baseline that the task states", copying_stated, 1e-15),
    # (s - 1)^2 has the standard deviation sqrt(1/15 - 1/36) = .197, its mean over 2^18 one of .0004; four of these.
    Check("C24", "adding: blind squared error on samples, 1/6", adding_baseline, 1.6e-3, 1.6e-3),
    relative("C24", "adding: the baseline that the task states", adding_stated, 1e-15),
)
