"""Weights of Flax: recurrent modules of flax.linen and flax.nnx in, those of flax.linen out; `nnx_out` writes nnx."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer, Params
from seqjax.cells import ElmanParams, GRUParams, LSTMParams, elman, gru, lstm
from seqjax.interop.cells import elman_like, gru_like, lstm_like
from seqjax.interop.common import Direction, Imported, assemble, cell_of, host, refuse, stack_of
from seqjax.interop.nonlinearities import SIGMOID, TANH, Nonlinearity

ACTIVATIONS: dict[Callable, Nonlinearity] = {
    jax.nn.sigmoid: SIGMOID,
    jnp.tanh: TANH,
    jax.nn.relu: Nonlinearity("relu"),
    jax.nn.hard_sigmoid: Nonlinearity("hard_sigmoid", 1 / 6, 0.5),
    jax.nn.soft_sign: Nonlinearity("softsign"),
    jax.nn.softplus: Nonlinearity("softplus"),
    jax.nn.elu: Nonlinearity("elu", 1.0),
}
CELLS = ("SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell")


class FlaxModule(NamedTuple):
    """A flax.linen module and its variables, ``{"params": ...}``."""

    module: nn.Module
    variables: dict


def from_flax(module: Any, variables: Mapping | None = None) -> Imported:
    """Return the layer that equals a recurrent module of Flax, and its params.

    The layer is time-major, whatever ``time_major`` says. Its carries have the cell's leaves in the cell's order.

    Args:
        module: a SimpleCell, LSTMCell, OptimizedLSTMCell or GRUCell, an RNN or Bidirectional of these, or a Sequential
            of such layers, of flax.linen or flax.nnx.
        variables: what ``module.init`` returned, or its "params" alone, for flax.linen; an nnx module holds its own.

    Raises:
        TypeError: for other modules, and for attributes that seqjax has no counterpart for.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> rnn = nn.RNN(nn.GRUCell(3))
        >>> variables = rnn.init(jax.random.key(0), jnp.ones((1, 5, 2)))
        >>> sj.interop.from_flax(rnn, variables).layer
        recurrent(cell=gru(hidden_size=3))
    """
    if not isinstance(module, nn.Module):
        from flax import nnx

        if not isinstance(module, nnx.Module):
            raise TypeError(f"from_flax(module): expected a module of Flax, got {type(module).__name__}.")
        variables = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    elif variables is None:
        raise TypeError(
            f"from_flax(variables): expected the variables of {type(module).__name__}, got None. Pass what "
            "module.init returned."
        )
    tree: Any = variables.get("params", variables)
    if type(module).__name__ != "Sequential":
        return assemble([_directions(module, tree)])
    name = "layers_{}" if isinstance(module, nn.Module) else "{}"
    trees = {str(key): value for key, value in tree.get("layers", tree).items()}
    return assemble(
        [_directions(each, trees.get(name.format(i), {})) for i, each in enumerate(module.layers)]
    )


def to_flax(layer: Layer, params: Params) -> FlaxModule:
    """Return a flax.linen module that equals a layer, time-major, with its variables. Params may be traced.

    One layer becomes an RNN or a Bidirectional, several a Sequential of these. `to_nnx` returns modules of flax.nnx.

    Raises:
        TypeError: for layers that these modules cannot express; the error names the argument.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.lstm(3))
        >>> xs = jnp.ones((5, 1, 2))                                    # [T, B, D]
        >>> module, variables = sj.interop.to_flax(layer, layer.init(jax.random.key(0), xs[0]))
        >>> module.apply(variables, xs).shape
        (5, 1, 3)
    """
    stack, rate = stack_of("to_flax", layer, params)
    if rate:
        raise refuse("to_flax", "rate", rate, "no dropout", "Write the nn.Dropout between the modules.")
    made = [_write_layer(directions) for directions in stack]
    if len(made) == 1:
        return FlaxModule(made[0][0], {"params": made[0][1]})
    modules, trees = zip(*made)
    return FlaxModule(
        nn.Sequential(modules), {"params": {f"layers_{i}": tree for i, tree in enumerate(trees)}}
    )


# ---------------------------------------------------------------- in


def _directions(module: Any, tree: Mapping) -> list[Direction]:
    kind = type(module).__name__
    if kind == "Bidirectional":
        if getattr(module.merge_fn, "__name__", "") != "_concatenate":
            raise refuse(
                "from_flax", "merge_fn", module.merge_fn, "the default", "Import the two directions apart."
            )
        forward, backward = (_half(module, tree, name) for name in ("forward_rnn", "backward_rnn"))
        return [forward, backward._replace(backward=True)]
    if kind == "RNN":
        if module.reverse and not module.keep_order:
            raise refuse(
                "from_flax",
                "keep_order",
                False,
                "True where reverse=True",
                "Import the RNN with reverse=False.",
            )
        return [_read(module.cell, tree.get("cell"))._replace(backward=bool(module.reverse))]
    return [_read(module, tree)]


def _half(module: Any, tree: Mapping, name: str) -> Direction:
    """Return one direction of a Bidirectional, which ignores its RNN's ``reverse`` and ``keep_order``."""
    rnn = getattr(module, name)
    if type(rnn).__name__ != "RNN":
        raise refuse("from_flax", name, rnn, "an RNN", "Import the two directions apart.")
    return _read(rnn.cell, tree.get(name, {}).get("cell"))


def _read(cell: Any, tree: Mapping | None) -> Direction:
    kind = type(cell).__name__
    if kind not in CELLS:
        raise TypeError(
            f"from_flax(module): expected RNN, Bidirectional, {', '.join(CELLS)}, got {kind}. "
            "Use seqjax.interop.flax_cell to run any cell of Flax as it is."
        )
    if not tree:
        raise TypeError(
            f"from_flax(variables): expected the params of {kind}, got none. Pass the variables of this module; "
            "clone a module that stands in two places."
        )
    _check_attributes(cell, jax.tree.leaves(tree)[0].dtype)
    candidate = _activation(cell, "activation_fn")
    if kind == "SimpleCell":
        if cell.residual:
            raise refuse("from_flax", "residual", True, "False", "Use seqjax.interop.flax_cell.")
        values = (
            _leaves(tree, "i", "dense_i", "kernel"),
            _leaves(tree, "h", "dense_h", "kernel"),
            _leaves(tree, "i", "dense_i", "bias"),
        )
        size, dtype = values[1].shape[0], values[1].dtype
        return Direction(elman_like(size, candidate, param_dtype=dtype), ElmanParams(*values))
    gates = "rzn" if kind == "GRUCell" else "ifgo"
    w_x = _columns(tree, "i", gates, "kernel")
    w_h = _columns(tree, "h", gates, "kernel")
    size, dtype = w_h.shape[0], w_h.dtype
    b, b_h = (_columns(tree, side, gates, "bias", like=w_h[0]) for side in "ih")
    gate = _activation(cell, "gate_fn")
    if kind == "GRUCell":
        return Direction(gru_like(size, (gate, candidate), param_dtype=dtype), GRUParams(w_x, w_h, b, b_h))
    made = lstm_like(size, (gate, candidate, candidate), param_dtype=dtype)
    return Direction(made, LSTMParams(w_x, w_h, b + b_h))


def _leaves(tree: Mapping, linen: str, nnx: str, leaf: str) -> Any:
    return host(tree[linen if linen in tree else nnx][leaf])


def _columns(tree: Mapping, side: str, gates: str, leaf: str, like: Any = None) -> Any:
    """Return the columns of all gates for one side, "i" or "h"; zeros where a bias is absent."""
    if f"dense_{side}" in tree:  # nnx: all gates in one
        part = tree[f"dense_{side}"]
        return host(part[leaf]) if part.get(leaf) is not None else np.zeros_like(like)
    blocks: list[Any] = []
    for number, gate in enumerate(gates):
        part = tree.get(f"{side}{gate}", tree.get(f"{side}{gate}_"))  # nnx writes if_
        value = part.get(leaf)
        blank = None if like is None else np.split(np.zeros_like(like), len(gates))[number]
        blocks.append(blank if value is None else host(value))
    return np.concatenate(blocks, -1)


def _check_attributes(cell: Any, dtype: Any) -> None:
    """Refuse a cell that computes in another dtype than that of its params, or starts from another carry than zeros."""
    if cell.dtype is not None and jnp.dtype(cell.dtype) != dtype:
        wanted = f"None or {dtype}, the dtype of the params"
        raise refuse(
            "from_flax", "dtype", jnp.dtype(cell.dtype).name, wanted, "Use seqjax.interop.flax_cell."
        )
    if cell.carry_init not in (None, nn.initializers.zeros_init()):
        raise refuse(
            "from_flax",
            "carry_init",
            cell.carry_init,
            "zeros",
            "Set it to zeros, and pass the carry to unroll.",
        )


def _activation(cell: Any, name: str) -> Nonlinearity:
    function = getattr(cell, name)
    if function not in ACTIVATIONS:
        raise refuse(
            "from_flax",
            name,
            function,
            "an activation of jax.nn such as relu or tanh",
            "Use seqjax.interop.flax_cell to run the cell as it is.",
        )
    return ACTIVATIONS[function]


# ---------------------------------------------------------------- out


def _write_layer(directions: list[Direction]) -> tuple[Any, dict]:
    halves = [_write(each) for each in directions]
    if len(halves) == 1:
        (module, tree), backward = halves[0], directions[0].backward
        return nn.RNN(module, time_major=True, reverse=backward, keep_order=backward), {"cell": tree}
    (ahead, first), (back, second) = halves
    module = nn.Bidirectional(nn.RNN(ahead), nn.RNN(back), time_major=True)
    return module, {"forward_rnn": {"cell": first}, "backward_rnn": {"cell": second}}


def _write(direction: Direction) -> tuple[Any, dict]:
    factory, arguments = cell_of("to_flax", direction, (elman, gru, lstm))
    params, size = direction.params, arguments["hidden_size"]
    dtype = params.w_x.dtype
    if factory is elman:
        activation: Any = {"tanh": jnp.tanh, "relu": jax.nn.relu}.get(arguments["activation"])
        if activation is None:
            raise refuse(
                "to_flax", "activation", arguments["activation"], "'tanh' or 'relu'", "Use one of these."
            )
        module = nn.SimpleCell(size, activation_fn=activation, param_dtype=dtype)
        return module, {"i": {"kernel": params.w_x, "bias": params.b}, "h": {"kernel": params.w_h}}
    if factory is gru and not arguments["reset_after"]:
        raise refuse("to_flax", "reset_after", False, "True", "flax.linen.GRUCell has that form only.")
    gates = "rzn" if factory is gru else "ifgo"
    w_x, w_h, b, *b_h = (jnp.split(value, len(gates), -1) for value in params)
    tree: dict = {}
    for number, gate in enumerate(gates):
        inner: dict = {"kernel": w_x[number]}
        outer: dict = {"kernel": w_h[number]}
        if factory is lstm:
            outer["bias"] = b[number]
        elif gate == "n":  # the candidate's two biases stay apart
            inner["bias"], outer["bias"] = b[number], b_h[0][number]
        else:
            inner["bias"] = b[number] + b_h[0][number]
        tree |= {f"i{gate}": inner, f"h{gate}": outer}
    cell = nn.GRUCell if factory is gru else nn.OptimizedLSTMCell
    return cell(size, param_dtype=dtype), tree
