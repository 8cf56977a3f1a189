"""How far the gradient of a trained model reaches back: the figure that the notebooks share."""

from typing import Any

import jax
import numpy as np

import seqjax as sj
from seqjax.probes import bind, gradient_profile, total_log_norm
from seqjax.training import cross_entropy, last_step

LOSS = last_step(cross_entropy)
_profile = jax.jit(gradient_profile, static_argnames=("loss",))


def gradient_by_lag(model: sj.Layer, params: Any, xs: Any, labels: Any) -> list[float]:
    r"""Return the mean over examples of :math:`\ln \lVert \partial L / \partial s_{T - \tau} \rVert` for each lag.

    L is the cross entropy of the last output, and s are all arrays of the carry together.

    Shapes: xs ``[T, B, ...]``, labels ``[B]`` -> ``[T]``, from lag 0 on; values below ``1e-300`` become its logarithm.
    """
    found = _profile(bind(model, params), loss=LOSS, batch=sj.Batch(xs, labels))
    by_step = np.asarray(total_log_norm(found.log_norm), np.float64)
    lowest = np.log(1e-300)
    return [round(float(value), 4) for value in np.maximum(by_step, lowest).mean(1)[::-1]]
