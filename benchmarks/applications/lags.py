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
    r"""Return the median over examples of :math:`\ln \lVert \partial L / \partial s_{T - \tau} \rVert` for each lag.

    L is the cross entropy of the last output, and s are all arrays of the carry together.

    Shapes: xs ``[T, B, ...]``, labels ``[B]`` -> ``[T]``, from lag 0 on. Norms below
    ``1e-300``, zero among them, count as ``1e-300``.
    """
    found = _profile(bind(model, params), loss=LOSS, batch=sj.Batch(xs, labels))
    by_step = np.asarray(total_log_norm(found.log_norm), np.float64)
    return [round(float(value), 4) for value in np.maximum(np.median(by_step, 1), np.log(1e-300))[::-1]]
