"""Weights of PyTorch: torch.nn.RNN, LSTM and GRU, and their cells, in and out."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer, Params
from seqjax.cells import (
    ElmanParams,
    GRUParams,
    LSTMParams,
    ProjectionLSTMParams,
    elman,
    gru,
    lstm,
    projection_lstm,
)
from seqjax.checks import check_one_of
from seqjax.install import missing
from seqjax.interop.common import (
    Direction,
    Imported,
    Stack,
    assemble,
    cell_of,
    check_shapes,
    host,
    refuse,
    stack_of,
)

FIRST = "weight_ih_l0"
GATES = {1: "RNN", 3: "GRU", 4: "LSTM"}


def from_torch(
    source: Any,
    *,
    prefix: str = "",
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    dropout: float = 0.0,
) -> Imported:
    r"""Return the layer that equals a torch.nn.RNN, LSTM or GRU, and its params.

    The layer is time-major, whatever ``batch_first`` says; put `seqjax.batch_major` around the model for the other
    layout. Biases: PyTorch adds two in RNN and LSTM, and b is their sum; a GRU keeps both. Gates have PyTorch's order
    here, so weights are transposed only. PyTorch's states come as (h, c), ours as ``LSTMCarry(c, h)``.

    Args:
        source: a torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell; or a state_dict with tensors or arrays; or the
            path of a safetensors file (needs the package safetensors).
        prefix: what the names of the weights begin with in a state_dict or file, such as "encoder.rnn".
        nonlinearity: of a torch.nn.RNN, which its state_dict does not hold.
        dropout: the rate between layers, which a state_dict does not hold either.

    Raises:
        TypeError: for other modules.
        ValueError: for missing weights or weights of the wrong shape.

    Example:
        >>> import numpy as np, seqjax as sj
        >>> zeros = {"weight_ih_l0": np.zeros((12, 2)), "weight_hh_l0": np.zeros((12, 3))}
        >>> layer, params = sj.interop.from_torch({f"rnn.{k}": v for k, v in zeros.items()}, prefix="rnn")
        >>> layer
        recurrent(cell=lstm(hidden_size=3))
        >>> params.w_x.shape
        (2, 12)
    """
    check_one_of("from_torch(nonlinearity)", nonlinearity, ("tanh", "relu"))
    if isinstance(source, str | os.PathLike):
        try:
            from safetensors.numpy import load_file
        except ImportError:
            raise missing("from_torch", "safetensors", "interop") from None

        source = load_file(Path(source))
    elif hasattr(source, "state_dict"):
        _check_module(source)
        nonlinearity = getattr(source, "nonlinearity", nonlinearity)
        dropout = getattr(source, "dropout", dropout)
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(
            "from_torch(source): expected a torch.nn.RNN, LSTM or GRU, a state_dict, or the path of a safetensors "
            f"file, got {type(source).__name__}."
        )
    weights = _weights_under(source, prefix)
    stack: Stack = []
    while f"weight_ih_l{len(stack)}" in weights:
        number = len(stack)
        directions = ["", "_reverse"] if f"weight_ih_l{number}_reverse" in weights else [""]
        stack.append([_read(weights, f"l{number}{suffix}", nonlinearity) for suffix in directions])
    if weights:
        raise ValueError(
            f"from_torch(source): expected weights of layers 0 to {len(stack) - 1} alone, got also {sorted(weights)}."
        )
    return assemble(stack, dropout)


def torch_state_dict(layer: Layer, params: Params) -> dict[str, jax.Array]:
    """Return params as a state_dict of torch.nn.RNN, LSTM or GRU, with JAX arrays; needs no PyTorch.

    The second bias of RNN and LSTM is zero. ``safetensors.flax.save_file`` writes the result. The map is linear, and
    its transpose (`jax.vjp`) turns gradients of PyTorch's weights into those of params.

    Raises:
        TypeError: for layers that torch.nn.RNN, LSTM and GRU cannot express.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.bidirectional(sj.recurrent(sj.gru(3)))
        >>> params = layer.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> sorted(sj.interop.torch_state_dict(layer, params))[-2:]
        ['weight_ih_l0', 'weight_ih_l0_reverse']
    """
    stack, _ = _checked_stack("torch_state_dict", layer, params)
    found: dict[str, jax.Array] = {}
    for number, directions in enumerate(stack):
        for each in directions:
            suffix = f"l{number}{'_reverse' if each.backward else ''}"
            found |= {f"{name}_{suffix}": value for name, value in _write(each.params).items()}
    return found


def to_torch(layer: Layer, params: Params) -> Any:
    """Return the torch.nn.RNN, LSTM or GRU that equals a layer, with its weights; time-major.

    Raises:
        TypeError: for layers that these modules cannot express; the error names the argument.
    """
    import torch

    stack, rate = _checked_stack("to_torch", layer, params)
    first = stack[0][0]
    factory, arguments = cell_of("to_torch", first, (elman, lstm, gru, projection_lstm))
    projected = factory is projection_lstm
    options: dict[str, Any] = {"nonlinearity": arguments["activation"]} if factory is elman else {}
    if projected:
        options["proj_size"] = first.params.w_p.shape[1]
    kind = "RNN" if factory is elman else "GRU" if factory is gru else "LSTM"
    weights = {name: _tensor(host(value)) for name, value in torch_state_dict(layer, params).items()}
    module = getattr(torch.nn, kind)(
        first.params.w_x.shape[0],
        first.params.w_p.shape[0] if projected else first.params.w_h.shape[0],
        num_layers=len(stack),
        bidirectional=len(stack[0]) == 2,
        dropout=rate,
        dtype=weights[FIRST].dtype,
        **options,
    )
    module.load_state_dict(weights)
    return module


# ---------------------------------------------------------------- one direction


def _read(weights: dict[str, Any], suffix: str, nonlinearity: Any) -> Direction:
    """Take the weights of one direction out of the dict."""
    who = "from_torch(source)"
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    w_x, w_h, b, b_h, w_p = (weights.pop(f"{name}_{suffix}", None) for name in names)
    if w_x is None or w_h is None or (b is None) != (b_h is None):
        raise ValueError(f"{who}: expected weight_hh_{suffix}, and both biases or none, got no such weights.")
    width = w_h.shape[1] if w_p is None else w_p.shape[1]
    gates, rest = divmod(w_h.shape[0], width)
    if rest or gates not in GATES or (w_p is not None and gates != 4):
        raise ValueError(
            f"{who}: expected weight_hh_{suffix} [H, H] (RNN), [3H, H] (GRU) or [4H, H] (LSTM), got {list(w_h.shape)}."
        )
    if b is None or b_h is None:
        b = b_h = np.zeros(len(w_x), w_x.dtype)
    rows = gates * width
    check_shapes(
        who,
        {
            f"weight_ih_{suffix}": (w_x, (rows, w_x.shape[1])),
            f"bias_ih_{suffix}": (b, (rows,)),
            f"bias_hh_{suffix}": (b_h, (rows,)),
        },
    )
    dtype = w_x.dtype
    if w_p is not None:
        cell = projection_lstm(w_p.shape[0], cell_size=width, param_dtype=dtype)
        return Direction(cell, ProjectionLSTMParams(w_x.T, w_h.T, b + b_h, w_p.T))
    if gates == 1:
        cell = elman(width, activation=nonlinearity, param_dtype=dtype)
        return Direction(cell, ElmanParams(w_x.T, w_h.T, b + b_h))
    if gates == 3:
        return Direction(gru(width, param_dtype=dtype), GRUParams(w_x.T, w_h.T, b, b_h))
    return Direction(lstm(width, param_dtype=dtype), LSTMParams(w_x.T, w_h.T, b + b_h))


def _write(params: Any) -> dict[str, jax.Array]:
    """Return the weights of one direction under PyTorch's names."""
    found = {
        "weight_ih": params.w_x.T,
        "weight_hh": params.w_h.T,
        "bias_ih": params.b,
        "bias_hh": getattr(params, "b_h", jnp.zeros_like(params.b)),
    }
    if hasattr(params, "w_p"):
        found["weight_hr"] = params.w_p.T
    return found


# ---------------------------------------------------------------- checks


def _check_module(module: Any) -> None:
    import torch

    if not isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase):
        raise TypeError(
            f"from_torch(source): expected a torch.nn.RNN, LSTM or GRU, got {type(module).__name__}. Pass the "
            "recurrent module inside it, or its state_dict with prefix=."
        )


def _weights_under(source: Mapping, prefix: str) -> dict[str, Any]:
    """Return the recurrent weights under a prefix as arrays, the names of cells as those of a first layer."""
    start = prefix.rstrip(".") + "." if prefix else ""
    pattern = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?$")
    found = {}
    for name, value in source.items():
        rest = name.removeprefix(start)
        if name.startswith(start) and pattern.fullmatch(rest):
            found[rest if "_l" in rest else f"{rest}_l0"] = _array(value)
    if FIRST not in found:
        ends = ("weight_ih_l0", "weight_ih")
        others = [name.removesuffix(end).rstrip(".") for name in source for end in ends if name.endswith(end)]
        hint = f" Weights of recurrent layers are under prefix={sorted(set(others))}." if others else ""
        raise ValueError(
            f"from_torch(source): expected a weight {start}{FIRST}, got {list(source)[:6]}.{hint}"
        )
    return found


def _array(value: Any) -> Any:
    if not hasattr(value, "detach"):
        return host(value)
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none of its own
        return tensor.float().numpy().astype(jnp.bfloat16)
    return host(tensor.numpy())


def _tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.ascontiguousarray(array).copy())


def _checked_stack(who: str, layer: Layer, params: Params) -> tuple[Stack, float]:
    """Return the stack of a layer that torch.nn.RNN, LSTM or GRU can express."""
    stack, rate = stack_of(who, layer, params)
    first, *_ = everywhere = [each for directions in stack for each in directions]
    for each in everywhere:
        _, arguments = cell_of(who, each, (elman, lstm, gru, projection_lstm))
        if arguments.get("reset_after") is False:
            raise refuse(
                who,
                "reset_after",
                False,
                "True",
                "torch.nn.GRU has that form only; train the layer with reset_after=True.",
            )
        if arguments.get("activation") == "identity":
            raise refuse(
                who,
                "activation",
                "identity",
                "'tanh' or 'relu'",
                "torch.nn.RNN has no other nonlinearity.",
            )
    if any(each.cell != first.cell for each in everywhere):
        raise TypeError(f"{who}: expected one cell in all layers and directions, got {layer!r}.")
    alone = any(len(directions) == 1 and directions[0].backward for directions in stack)
    if alone or len({len(directions) for directions in stack}) > 1:
        raise TypeError(
            f"{who}: expected all layers to be bidirectional, or all to run forward, got {layer!r}."
        )
    return stack, rate
