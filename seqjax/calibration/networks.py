"""Small bound networks with given weights."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell
from seqjax.cells.elman import ElmanParams, elman
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Scan
from seqjax.probes.bound import Bound, bind


def network(
    w: np.ndarray, dtype: Any, activation: Literal["identity", "tanh"] = "identity", w_x: Any = None
) -> Bound:
    """Bind ``h' = phi(h W + x W_x)``, W ``[N, N]``; without W_x the inputs ``[*B, 1]`` have no effect."""
    w_x = np.zeros((1, len(w))) if w_x is None else w_x
    params = ElmanParams(*(jnp.asarray(a, dtype) for a in (w_x, w, np.zeros(len(w)))))
    return bind(recurrent(elman(len(w), activation=activation), Scan()), params)


def initialized(cell: Cell, xs: np.ndarray, dtype: Any) -> tuple[Bound, Any, jax.Array]:
    """Return a bound cell with its initial params, these params in float64 for closed forms, and the inputs."""
    layer, inputs = recurrent(cell, Scan()), jnp.asarray(xs, dtype)
    params = jax.jit(layer.init)(jax.random.key(0), inputs[0])
    return bind(layer, params), jax.tree.map(lambda p: np.asarray(p, np.float64), params), inputs
