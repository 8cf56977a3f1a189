"""Quasi-recurrent network."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.linear import glorot
from seqjax.checks import check_one_of, check_whole
from seqjax.ops.select import wide
from seqjax.values import definition

GATES = {"f": 2, "fo": 3, "ifo": 4}


class QRNNParams(NamedTuple):
    """w_x ``[D, G*H]``, b ``[G*H]``; columns in the order z, f, o, i, without those that the pooling lacks."""

    w_x: jax.Array
    b: jax.Array


@definition
def qrnn(
    hidden_size: int, *, pooling: Literal["f", "fo", "ifo"] = "fo", param_dtype: Any = jnp.float32
) -> Cell:
    r"""Quasi-recurrent network: gates depend on the input alone, and the recurrence only pools.

    .. math::
        (z_t, f_t, o_t, i_t) &= x_t W_x + b \\
        c_t &= \sigma(f_t) \odot c_{t-1} + (1 - \sigma(f_t)) \odot \tanh(z_t) && \text{(f, fo)} \\
        c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(z_t) && \text{(ifo)} \\
        h_t &= \sigma(o_t) \odot c_t, \quad\text{or } c_t \text{ (f)}

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry c ``[*B, H]``, float32 at least; params `QRNNParams`.

    The paper's gates read a window of inputs; a cell reads one input, so here the window is 1. For a window of 2, use
    ``serial(token_shift(num_outputs=2), recurrent(qrnn(H)))``: two different mixtures of :math:`x_t` and
    :math:`x_{t-1}` span the maps of the paper's eq. 2. The paper also applies zoneout to f. The paper states no
    initialization; weights start uniform by Glorot and Bengio per gate, biases at zero.

    Gradients: :math:`\partial c_T / \partial c_t = \prod \sigma(f_s)` over the steps between, in (0, 1), and 1/2 per
    step at initialization.

    Args:
        hidden_size: H.
        pooling: "f", "fo" or "ifo", the gates that the cell has.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for another pooling or a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.serial(sj.token_shift(num_outputs=2), sj.recurrent(sj.qrnn(3)))
        >>> xs = jnp.ones((10, 5, 2))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> params[1].w_x.shape, layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        ((4, 9), (10, 5, 3))

    References:
        Bradbury, Merity, Xiong, Socher 2017, "Quasi-recurrent neural networks", arXiv:1611.01576: eq. 1 (gates), 3
        (f-pooling), 4 (fo-pooling), 5 (ifo-pooling).
    """
    check_whole("qrnn(hidden_size)", hidden_size)
    check_one_of("qrnn(pooling)", pooling, GATES)
    num_gates = GATES[pooling]

    def init(key: jax.Array, x: jax.Array) -> QRNNParams:
        w_x = glorot(key, x.shape[-1], hidden_size, num_gates, param_dtype)
        return QRNNParams(w_x, jnp.zeros((num_gates * hidden_size,), param_dtype))

    def gate(params: QRNNParams, xs: jax.Array, first: int, last: int) -> list[jax.Array]:
        """Return the pre-activations of the gates `first` to `last`, exclusive, in float32 at least."""
        columns = slice(first * hidden_size, last * hidden_size)
        us = affine(xs, params.w_x[:, columns], params.b[columns]).astype(wide(xs.dtype))
        return jnp.split(us, last - first, -1)

    def project(params: QRNNParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        z, f = gate(params, xs, 0, 2)
        i = gate(params, xs, 3, 4)[0] if pooling == "ifo" else -f  # 1 - sigmoid(f) = sigmoid(-f)
        return DiagonalInputs(jax.nn.sigmoid(f), jax.nn.sigmoid(i) * jnp.tanh(z))

    def readout(params: QRNNParams, cs: jax.Array, xs: jax.Array) -> jax.Array:
        if pooling == "f":
            return cs.astype(xs.dtype)
        (o,) = gate(params, xs, 2, 3)
        return (jax.nn.sigmoid(o) * cs).astype(xs.dtype)

    start = wide_zeros(hidden_size)
    return Cell(init=init, initial_carry=start, recurrence=Diagonal(), project=project, readout=readout)
