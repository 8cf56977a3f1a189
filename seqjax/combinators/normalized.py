"""Layer normalization inside a gated cell."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.affine import affine, spread
from seqjax.base import Carry, Cell, Dense, Gated, GatedWeights, Key, Step
from seqjax.cells.common.heads import normalize
from seqjax.cells.common.labels import elementwise
from seqjax.ops.select import wide
from seqjax.ops.step import gated_step
from seqjax.values import definition


@elementwise("gain_x", "gain_h", "gain_s", "shift_s")
class NormalizedParams(NamedTuple):
    """The cell's params; gain_x, gain_h ``[G*H]``; gain_s, shift_s ``[H]``, or () where the output is the state."""

    cell: Any
    gain_x: jax.Array
    gain_h: jax.Array
    gain_s: Any
    shift_s: Any


@definition
def normalized(cell: Cell, *, epsilon: float = 1e-5, param_dtype: Any = jnp.float32) -> Cell:
    r"""Layer normalization inside a `Gated` cell with a `Dense` projection, in three places.

    .. math::
        u_t &= g_x \odot N(x_t W_x) + b, \qquad r_t = g_h \odot N(h_{t-1} W_h) + b_h \\
        h_t &= \mathrm{emit}(g_s \odot N(s_t) + \beta_s, \dots), \qquad
        N(z) = (z - \mathrm{mean}(z)) / \sqrt{\mathrm{var}(z) + \epsilon}

    N runs over all G*H pre-activations of an example at a step, and over the H entries of the state that `emit` reads
    (an LSTM's c before tanh; the c of the next step is not normalized). A cell without `emit` (GRU, elman) has no third
    place; nor has a cell with several states, whose scales belong together. The shifts of the first two places are the
    cell's own biases. Statistics are computed in float32 at least.

    Gradients: through the recurrent product they do not depend on the scale of W_h; along c they are the cell's.

    Shapes: as the cell; params `NormalizedParams`. The recurrence is a `Step`.

    Args:
        cell: a `Gated` cell.
        epsilon: added to the variance.
        param_dtype: of the gains and shifts, which start at 1 and 0.

    Raises:
        TypeError: for a cell of another kind, or a cell whose projection is not declared as `Dense`.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.normalized(sj.lstm(3)).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.gain_x.shape, params.gain_s.shape
        ((12,), (3,))

    References:
        Ba, Kiros, Hinton 2016, "Layer normalization", arXiv:1607.06450: eq. 4 (the RNN, where N is over the sum of both
        products), eq. 20-22 of the supplement (the LSTM, which this is).
    """
    gated, dense = _gated_and_dense(cell)

    layer_norm = partial(_layer_norm, epsilon=epsilon)

    def init(key: Key, x: jax.Array) -> NormalizedParams:
        params = cell.init(key, x)
        w, _ = dense.weights(params)
        carry = jax.eval_shape(cell.initial_carry, params, x)
        width, hidden = w.shape[-1], jax.tree.leaves(carry)[-1].shape[-1]
        third = gated.emit is not None and len(jax.tree.leaves(carry)) == 2
        state = (jnp.ones(hidden, param_dtype), jnp.zeros(hidden, param_dtype)) if third else ((), ())
        return NormalizedParams(params, jnp.ones(width, param_dtype), jnp.ones(width, param_dtype), *state)

    def project(params: NormalizedParams, xs: jax.Array, key: Key | None = None) -> jax.Array:
        w, b = dense.weights(params.cell)
        if xs.shape[-1] != w.shape[0]:
            raise ValueError(
                f"expected xs [..., {w.shape[0]}] (the input weights are {list(w.shape)}), got {list(xs.shape)}."
            )
        return layer_norm(affine(xs, w), params.gain_x, b)

    def step(params: NormalizedParams, carry: Carry, u: jax.Array) -> Any:
        weights = GatedWeights(*gated.weights(params.cell))
        third = not isinstance(params.gain_s, tuple)
        return gated_step(
            gated,
            weights._replace(b_h=None),
            carry,
            u,
            on_r=lambda r: layer_norm(r, params.gain_h, weights.b_h),
            on_state=(lambda s: layer_norm(s, params.gain_s, params.shift_s)) if third else None,
        )

    return Cell(
        init=init,
        initial_carry=lambda params, x: cell.initial_carry(params.cell, x),
        recurrence=Step(step),
        project=project,
        readout=lambda params, hs, xs: cell.readout(params.cell, hs, xs),
    )


def _gated_and_dense(cell: Any) -> tuple[Gated, Dense]:
    """Return recurrence and projection of a cell; raise a TypeError for another kind of either."""
    if not isinstance(cell, Cell):
        raise TypeError(f"normalized(cell): expected a Cell such as lstm(256), got {cell!r}.")
    gated, dense = cell.recurrence, cell.project
    if not isinstance(gated, Gated) or not isinstance(dense, Dense):
        raise TypeError(
            f"normalized({cell!r}): expected a Gated cell with a Dense projection, got "
            f"{type(gated).__name__} with {type(dense).__name__}. Normalize the cell's inputs or outputs instead: "
            "serial(pointwise(flax.linen.LayerNorm()), recurrent(cell))."
        )
    return gated, dense


def _layer_norm(
    z: Float[Array, "*B N"], gain: Float[Array, " N"], shift: Float[Array, " N"] | None, epsilon: float
) -> Float[Array, "*B N"]:
    """Return ``gain * N(z) + shift``; a shift of None is zero."""
    unit = normalize(z.astype(wide(z.dtype)), center=True, epsilon=epsilon)
    out = unit.astype(z.dtype) * spread(gain, z)
    return out if shift is None else out + spread(shift, z)
