"""Weights of Flax: recurrent modules of flax.nnx out."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from seqjax.base import Layer, Params
from seqjax.cells import elman, gru, lstm
from seqjax.interop.common import Direction, cell_of, refuse, stack_of

if TYPE_CHECKING:
    from flax import nnx


def to_nnx(layer: Layer, params: Params) -> "nnx.Module":
    """Return a flax.nnx module that equals a layer, time-major, and holds its params. Params may be traced.

    One layer becomes an RNN or a Bidirectional, several a Sequential of these. The cells are SimpleCell,
    OptimizedLSTMCell and GRUCell, whose carries have the leaves of ours in the same order. Flax's GRUCell has one bias;
    here its linear layer ``dense_h`` has a bias as well, the second one of `seqjax.gru`. As every RNN of nnx, the
    module starts with a carry in the dtype of the params, so inputs must not be wider than the params.

    Raises:
        TypeError: for layers that these modules cannot express; the error names the argument.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.lstm(3))
        >>> xs = jnp.ones((5, 1, 2))                                    # [T, B, D]
        >>> module = sj.interop.to_nnx(layer, layer.init(jax.random.key(0), xs[0]))
        >>> type(module.cell).__name__, module(xs).shape
        ('OptimizedLSTMCell', (5, 1, 3))
    """
    from flax import nnx

    stack, rate = stack_of("to_nnx", layer, params)
    if rate:
        raise refuse("to_nnx", "rate", rate, "no dropout", "Write the nnx.Dropout between the modules.")
    modules = [_module(directions) for directions in stack]
    return modules[0] if len(modules) == 1 else nnx.Sequential(*modules)


def _module(directions: list[Direction]) -> Any:
    from flax import nnx

    cells = [_cell(each) for each in directions]
    if len(cells) == 2:
        return nnx.Bidirectional(*map(nnx.RNN, cells), time_major=True)
    backward = directions[0].backward
    return nnx.RNN(cells[0], time_major=True, reverse=backward, keep_order=backward)


def _cell(direction: Direction) -> Any:
    from flax import nnx

    factory, arguments = cell_of("to_nnx", direction, (elman, gru, lstm))
    params, hidden_size = direction.params, arguments["hidden_size"]
    sizes = (params.w_x.shape[0], hidden_size)
    dtypes: dict = {"dtype": None, "param_dtype": params.w_x.dtype}
    activation: Any = {"tanh": jnp.tanh, "relu": jax.nn.relu}.get(arguments.get("activation", "tanh"))
    if activation is None:
        raise refuse("to_nnx", "activation", arguments["activation"], "'tanh' or 'relu'", "Use one of these.")
    if factory is gru and not arguments["reset_after"]:
        raise refuse("to_nnx", "reset_after", False, "True", "flax.nnx.GRUCell has that form only.")

    def make() -> Any:
        rngs = nnx.Rngs(0)
        if factory is elman:
            return nnx.SimpleCell(*sizes, activation_fn=activation, rngs=rngs, **dtypes)
        if factory is lstm:
            return nnx.OptimizedLSTMCell(*sizes, rngs=rngs, **dtypes)
        cell = nnx.GRUCell(*sizes, rngs=rngs, **dtypes)
        cell.dense_h = nnx.Linear(hidden_size, 3 * hidden_size, rngs=rngs, **dtypes)
        return cell

    cell = nnx.eval_shape(make)  # without drawing the weights that are replaced here
    cell.dense_i.kernel, cell.dense_h.kernel = nnx.Param(params.w_x), nnx.Param(params.w_h)
    if factory is gru:
        cell.dense_i.bias, cell.dense_h.bias = nnx.Param(params.b), nnx.Param(params.b_h)
    else:  # one bias, of the product with h in the LSTM, and of that with x in the other
        (cell.dense_h if factory is lstm else cell.dense_i).bias = nnx.Param(params.b)
    return cell
