"""Weights of Keras: SimpleRNN, LSTM, GRU, Bidirectional and Sequential models of these, in and out."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer, Params
from seqjax.cells import ElmanParams, GRUParams, LSTMParams, elman, gru, lstm
from seqjax.checks import check_whole
from seqjax.interop.cells import elman_like, general_elman, general_gru, general_lstm, gru_like, lstm_like
from seqjax.interop.common import (
    Direction,
    Imported,
    Stack,
    assemble,
    cell_of,
    check_shapes,
    host,
    refuse,
    reorder,
    stack_of,
)
from seqjax.interop.nonlinearities import SIGMOID, TANH, Nonlinearity

ACTIVATIONS = {
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "relu": Nonlinearity("relu"),
    "linear": Nonlinearity("identity"),
    "softsign": Nonlinearity("softsign"),
    "softplus": Nonlinearity("softplus"),
    "elu": Nonlinearity("elu", 1.0),
    "hard_sigmoid": Nonlinearity("hard_sigmoid", 1 / 6, 0.5),
}
OLD_HARD_SIGMOID = Nonlinearity("hard_sigmoid", 0.2, 0.5)
"""What "hard_sigmoid" is in Keras 1 and 2."""

KINDS = ("SimpleRNN", "LSTM", "GRU")


def from_keras(
    layer: Any, weights: Sequence | None = None, *, version: int = 3, ignore_dropout: bool = False
) -> Imported:
    """Return the layer that equals a Keras layer, and its params.

    The layer is time-major and returns the outputs of all steps, whatever ``return_sequences`` says. Masked steps give
    zeros here; Keras repeats the last output. Regularizers and constraints are left out.

    Args:
        layer: a built keras.layers.SimpleRNN, LSTM, GRU or Bidirectional, or a keras.Sequential of these; or the part
            of a saved model's JSON that describes one, ``{"class_name": ..., "config": {...}}``.
        weights: the arrays in the order of ``get_weights()``, for a description; a layer brings its own.
        version: 3, or 2 for a description that Keras 1 or 2 wrote: its "hard_sigmoid" is clip(0.2 x + 0.5, 0, 1), its
            GRU resets before the product unless the description says otherwise, and gates are "hard_sigmoid" there.
        ignore_dropout: whether to leave out ``dropout`` and ``recurrent_dropout``, which act in training only.

    Raises:
        TypeError: for other layers, and for arguments of a layer that seqjax has no counterpart for.
        ValueError: for weights of the wrong number or shape.

    Example:
        >>> import numpy as np, seqjax as sj
        >>> description = {"class_name": "GRU", "config": {"units": 3, "reset_after": False}}
        >>> weights = [np.zeros(shape, np.float32) for shape in ((2, 9), (3, 9), (9,))]
        >>> sj.interop.from_keras(description, weights).layer
        recurrent(cell=gru(hidden_size=3, reset_after=False))
    """
    check_whole("from_keras(version)", version, 2, 3)
    if not isinstance(layer, Mapping):
        if not hasattr(layer, "get_config") or not hasattr(layer, "get_weights"):
            raise TypeError(
                f"from_keras(layer): expected a Keras layer or its description, got {type(layer).__name__}."
            )
        weights = layer.get_weights()
        layer = {"class_name": type(layer).__name__, "config": layer.get_config()}
    left = [host(array) for array in weights or ()]
    stack: Stack = []
    for each in _flat(layer):
        stack.append(_directions(each, left, version, ignore_dropout))
    if left or not stack:
        raise ValueError(
            f"from_keras(weights): expected the weights of {len(stack)} recurrent layers, got {len(left)} more arrays."
        )
    return assemble(stack)


def to_keras(layer: Layer, params: Params) -> Any:
    """Return a keras.Sequential that equals a layer, with its weights; batch-major, as Keras is.

    Dropout between layers becomes keras.layers.Dropout.

    Raises:
        TypeError: for layers that Keras cannot express; the error names the argument.
    """
    import keras

    stack, rate = _checked_stack("to_keras", layer, params)
    layers: list = [keras.Input((None, stack[0][0].params.w_x.shape[0]))]
    dtype = str(stack[0][0].params.w_x.dtype)
    for directions in stack:
        if rate and len(layers) > 1:
            layers.append(keras.layers.Dropout(rate, dtype=dtype))
        kind, options = _options("to_keras", directions[0])
        made = getattr(keras.layers, kind)(return_sequences=True, dtype=dtype, **options)
        layers.append(keras.layers.Bidirectional(made, dtype=dtype) if len(directions) == 2 else made)
    model = keras.Sequential(layers)
    model.set_weights([host(value) for value in keras_weights(layer, params)])
    return model


def keras_weights(layer: Layer, params: Params) -> list[jax.Array]:
    """Return params as the list that ``set_weights`` of the Keras layer, or model, takes; needs no Keras.

    The map is linear, and its transpose (`jax.vjp`) turns gradients of Keras' weights into those of params.

    Raises:
        TypeError: for layers that Keras cannot express; the error names the argument.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.gru(3))
        >>> weights = sj.interop.keras_weights(layer, layer.init(jax.random.key(0), jnp.ones((1, 2))))
        >>> [w.shape for w in weights]
        [(2, 9), (3, 9), (2, 9)]
    """
    stack, _ = _checked_stack("keras_weights", layer, params)
    return [value for directions in stack for each in directions for value in _write(each)]


# ---------------------------------------------------------------- in


def _flat(description: Mapping) -> list[Mapping]:
    """Return the recurrent layers of a description."""
    name = description["class_name"]
    if name in (*KINDS, "Bidirectional"):
        return [description]
    if name == "Sequential":
        config = description["config"]
        layers = config["layers"] if isinstance(config, Mapping) else config  # a list in Keras 1
        return [one for each in layers if each["class_name"] != "InputLayer" for one in _flat(each)]
    raise TypeError(
        f"from_keras(layer): expected SimpleRNN, LSTM, GRU, Bidirectional or a Sequential of these, got {name}. Pass "
        "the recurrent layers alone; other layers are flax modules in pointwise."
    )


def _directions(description: Mapping, left: list[Any], version: int, ignore_dropout: bool) -> list[Direction]:
    config = description["config"]
    if description["class_name"] != "Bidirectional":
        if config.get("go_backwards"):
            raise refuse(
                "from_keras",
                "go_backwards",
                True,
                "False",
                "Keras returns its outputs in reversed order; use reverse(layer) around the layer with False.",
            )
        return [_read(description, left, version, ignore_dropout)]
    if config.get("merge_mode", "concat") != "concat":
        raise refuse(
            "from_keras", "merge_mode", config["merge_mode"], "'concat'", "Import the two directions apart."
        )
    forward = config["layer"]
    backward = config.get("backward_layer") or forward
    halves = [_read(half, left, version, ignore_dropout) for half in (forward, backward)]
    return [halves[0], halves[1]._replace(backward=True)]


def _read(description: Mapping, left: list[Any], version: int, ignore_dropout: bool) -> Direction:
    """Take the weights of one direction from the front of a list."""
    kind, config = description["class_name"], description["config"]
    if kind not in KINDS:
        raise TypeError(f"from_keras(layer): expected {', '.join(KINDS)} in Bidirectional, got {kind}.")
    for name in ("dropout", "recurrent_dropout"):
        if config.get(name) and not ignore_dropout:
            raise refuse(
                "from_keras", name, config[name], "0", "Pass ignore_dropout=True for the layer without."
            )
    size, bias = config["units"], config.get("use_bias", True)
    count = 3 if bias else 2
    gates = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}[kind]
    reset_after = kind == "GRU" and config.get("reset_after", version == 3)
    if len(left) < count:
        raise ValueError(
            f"from_keras(weights): expected {count} more arrays for a {kind}, got {len(left)} of them."
        )
    w_x, w_h, *biases = (left.pop(0) for _ in range(count))
    shape = (2, gates * size) if reset_after else (gates * size,)
    b: Any = biases[0] if bias else np.zeros(shape, w_x.dtype)
    check_shapes(
        "from_keras(weights)",
        {
            f"the kernel of {kind}": (w_x, (w_x.shape[0], gates * size)),
            f"the recurrent kernel of {kind}": (w_h, (size, gates * size)),
            f"the bias of {kind}": (b, shape),
        },
    )
    candidate = _activation(config, "activation", "tanh", version)
    if kind == "SimpleRNN":
        return Direction(elman_like(size, candidate, param_dtype=w_x.dtype), ElmanParams(w_x, w_h, b))
    gate = _activation(config, "recurrent_activation", "sigmoid" if version == 3 else "hard_sigmoid", version)
    if kind == "LSTM":
        cell = lstm_like(size, (gate, candidate, candidate), param_dtype=w_x.dtype)
        return Direction(cell, LSTMParams(w_x, w_h, b))
    cell = gru_like(size, (gate, candidate), reset_after=reset_after, param_dtype=w_x.dtype)
    both = b if reset_after else (b, np.zeros_like(b))
    return Direction(cell, GRUParams(*(reorder(value, "zrn", "rzn") for value in (w_x, w_h, *both))))


def _activation(config: Mapping, name: str, default: str, version: int) -> Nonlinearity:
    value = config.get(name, default)
    if isinstance(value, Mapping):  # as Keras 3 writes functions
        value = value.get("config")
    value = "linear" if value is None else value
    if version == 2 and value == "hard_sigmoid":
        return OLD_HARD_SIGMOID
    if value not in ACTIVATIONS:
        raise refuse(
            "from_keras",
            name,
            value,
            f"one of {', '.join(ACTIVATIONS)}",
            "Write the cell as a seqjax.Cell.",
        )
    return ACTIVATIONS[value]


# ---------------------------------------------------------------- out


def _checked_stack(who: str, layer: Layer, params: Params) -> tuple[Stack, float]:
    """Return the stack of a layer that Keras can express."""
    stack, rate = stack_of(who, layer, params)
    for directions in stack:
        for each in directions:
            _options(who, each)
        if len(directions) == 2 and directions[0].cell != directions[1].cell:
            raise TypeError(f"{who}: expected one cell in both directions, got {layer!r}.")
        if len(directions) == 1 and directions[0].backward:
            raise TypeError(f"{who}: expected layers that run forward, or bidirectional ones, got {layer!r}.")
    return stack, rate


def _options(who: str, direction: Direction) -> tuple[str, dict[str, Any]]:
    """Return the class and the arguments of the Keras layer for a direction."""
    wanted = (elman, gru, lstm, general_elman, general_gru, general_lstm)
    factory, arguments = cell_of(who, direction, wanted)
    for name in ("clip", "peephole", "coupled"):
        if arguments.get(name):
            raise refuse(who, name, arguments[name], "None or False", "Keras has no such argument.")
    kind = {elman: "SimpleRNN", general_elman: "SimpleRNN", gru: "GRU", general_gru: "GRU"}.get(
        factory, "LSTM"
    )
    options = {"units": arguments["hidden_size"]}
    if kind == "GRU":
        options["reset_after"] = arguments["reset_after"]
    if kind == "SimpleRNN":
        found = arguments["activation"]
        return kind, options | {
            "activation": _name(who, Nonlinearity(found) if isinstance(found, str) else found)
        }
    gate, candidate, *output = arguments.get("activations", (SIGMOID, TANH))
    if any(one != candidate for one in output):
        raise refuse(
            who,
            "activations",
            (gate, candidate, *output),
            "an output activation that equals the candidate's",
            "Keras has one argument for both.",
        )
    return kind, options | {
        "activation": _name(who, candidate),
        "recurrent_activation": _name(who, gate),
    }


def _name(who: str, nonlinearity: Nonlinearity) -> str:
    for name, value in ACTIVATIONS.items():
        if value == nonlinearity:
            return name
    raise refuse(
        who,
        "activation",
        nonlinearity,
        f"one of {', '.join(ACTIVATIONS)}",
        "Keras 3 has no name for it.",
    )


def _write(direction: Direction) -> list[jax.Array]:
    params = direction.params
    if not isinstance(params, GRUParams):
        return list(params)
    _, arguments = cell_of("to_keras", direction, (gru, general_gru))
    w_x, w_h, b, b_h = (reorder(value, "rzn", "zrn") for value in params)
    return [w_x, w_h, jnp.stack([b, b_h]) if arguments["reset_after"] else b + b_h]
