"""Weights of ONNX: the operators RNN, LSTM and GRU, in and out."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell
from seqjax.cells import ElmanParams, GRUParams, LSTMParams, PeepholeLSTMParams
from seqjax.combinators import learned_carry
from seqjax.combinators.learned_carry import LearnedCarryParams
from seqjax.install import missing
from seqjax.interop.cells import elman_like, gru_like, lstm_like
from seqjax.interop.common import Direction, Imported, assemble, check_shapes, host, refuse, reorder
from seqjax.interop.nonlinearities import Nonlinearity

GATES = {"RNN": "h", "GRU": "zrn", "LSTM": "iofg"}
"""The order of the columns in ONNX, by operator; n and g are the candidates."""
OURS = {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"}

ACTIVATIONS: dict[str, tuple[str, tuple]] = {
    "Affine": ("affine", (None, None)),
    "Elu": ("elu", (1.0,)),
    "HardSigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "LeakyRelu": ("leaky_relu", (0.01,)),
    "Relu": ("relu", ()),
    "ScaledTanh": ("scaled_tanh", (None, None)),
    "Sigmoid": ("sigmoid", ()),
    "Softplus": ("softplus", ()),
    "Softsign": ("softsign", ()),
    "Tanh": ("tanh", ()),
    "ThresholdedRelu": ("thresholded_relu", (1.0,)),
}
"""Our name, and the defaults of alpha and beta; None where a value must be given."""


class _Node(NamedTuple):
    """One operator: its attributes, and its inputs by name; an input that is no constant is None."""

    kind: str
    name: str
    attributes: dict[str, Any]
    inputs: dict[str, Any]


def from_onnx(model: Any, node: str | None = None) -> Imported:
    """Return the layer that equals an operator RNN, LSTM or GRU of an ONNX model, and its params.

    The layer is time-major, whatever ``layout`` says, and joins the directions of Y: ``[T, B, directions * H]``. Y_h
    and Y_c are its last carry. Lengths that are an input of the model are a mask here: ``lengths_to_mask(lengths, T)``.
    Initial states that are an input are the carry of `unroll`; constant ones become `seqjax.learned_carry`. A model
    with several operators gives one layer per call; join the layers with `seqjax.serial`.

    Args:
        model: an onnx.ModelProto, or the path of a model (both need the package onnx).
        node: the name of the operator, or of one of its outputs; by default the only one there is.

    Raises:
        TypeError: for attributes and inputs that seqjax has no counterpart for.
        ValueError: where there is no such operator, or weights that are no constants or of the wrong shape.
    """
    try:
        import onnx
    except ImportError:
        raise missing("from_onnx", "onnx", "interop") from None

    if isinstance(model, str | os.PathLike):
        model = onnx.load(os.fspath(model))
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(
            f"from_onnx(model): expected an onnx.ModelProto or a path, got {type(model).__name__}."
        )
    found = _find(model.graph, node)
    attributes, who = found.attributes, f"from_onnx: {found.kind} {found.name!r}"
    direction = attributes.get("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    if found.inputs.get("sequence_lens") is not None:
        raise refuse(
            who, "sequence_lens", found.inputs["sequence_lens"].tolist(), "an input", "Pass a mask to unroll."
        )
    _check_weights(who, found, count)
    activations = _activations(who, found, count)
    made = [_read(who, found, number, activations[number]) for number in range(count)]
    if count == 1:
        made = [made[0]._replace(backward=direction == "reverse")]
    else:
        made[1] = made[1]._replace(backward=True)
    return assemble([made])


# ---------------------------------------------------------------- the operator


INPUTS = {
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and the graphs inside its operators, such as the branches of If."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _find(graph: Any, name: str | None) -> _Node:
    from onnx import helper, numpy_helper

    graphs = list(_graphs(graph))
    nodes = [node for each in graphs for node in each.node if node.op_type in GATES]
    wanted = [node for node in nodes if name is None or name == node.name or name in node.output]
    if len(wanted) != 1:
        names = [node.name or next(filter(None, node.output)) for node in nodes]
        raise ValueError(
            f"from_onnx(node): expected the name of one operator RNN, LSTM or GRU, got {name!r}. There are {names}."
        )
    (node,) = wanted
    constants = {one.name: one for each in graphs for one in each.initializer}
    for each in graphs:
        for one in each.node:
            if one.op_type == "Constant" and one.attribute[0].name == "value":
                constants[one.output[0]] = one.attribute[0].t
    inputs: dict[str, Any] = {}
    for place, given in zip(INPUTS[node.op_type], node.input):
        if given:
            inputs[place] = numpy_helper.to_array(constants[given]) if given in constants else None
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    attributes = {
        key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()
    }
    return _Node(node.op_type, node.name or node.output[0], attributes, inputs)


def _check_weights(who: str, found: _Node, count: int) -> None:
    """Raise a ValueError unless all weights are constants of their shapes."""
    gates = len(GATES[found.kind])
    for name in ("W", "R", "B", "P"):
        if name in found.inputs and found.inputs[name] is None:
            raise ValueError(f"{who}: expected a constant {name}, got the output of another operator.")
    w_x: Any = found.inputs["W"]
    size: Any = found.attributes.get("hidden_size", found.inputs["R"].shape[-1])
    expected = {
        "W": (count, gates * size, w_x.shape[-1]),
        "R": (count, gates * size, size),
        "B": (count, 2 * gates * size),
        "P": (count, 3 * size),
    }
    check_shapes(
        who, {name: (found.inputs[name], shape) for name, shape in expected.items() if name in found.inputs}
    )


def _activations(who: str, found: _Node, count: int) -> list[tuple[Nonlinearity, ...]]:
    """Return the activations of each direction."""
    defaults = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[found.kind]
    given = found.attributes.get("activations") or count * defaults
    given = [name.decode() if isinstance(name, bytes) else name for name in given]
    if len(given) != count * len(defaults):
        raise refuse(who, "activations", given, f"{count * len(defaults)} names", "Mend the model.")
    lists = [list(found.attributes.get(f"activation_{name}", ())) for name in ("alpha", "beta")]
    by_lower_case = {name.lower(): value for name, value in ACTIVATIONS.items()}
    made = []
    for name in given:
        if name.lower() not in by_lower_case:
            raise refuse(who, "activations", name, f"some of {', '.join(ACTIVATIONS)}", "Mend the model.")
        ours, standard = by_lower_case[name.lower()]
        values = [
            list_.pop(0) if list_ else default
            for list_, default, _ in zip(lists, (*standard, None), range(len(standard)))
        ]
        if None in values:
            raise refuse(
                who,
                "activation_alpha",
                None,
                f"a value for {name}",
                "Give activation_alpha and activation_beta.",
            )
        made.append(Nonlinearity(ours, *(round(float(value), 9) for value in values)))
    return [tuple(made[i * len(defaults) : (i + 1) * len(defaults)]) for i in range(count)]


# ---------------------------------------------------------------- one direction in


def _read(who: str, found: _Node, number: int, activations: tuple[Nonlinearity, ...]) -> Direction:
    kind, attributes = found.kind, found.attributes
    w_x, w_h = (host(found.inputs[name][number].T) for name in ("W", "R"))
    size, dtype = w_h.shape[0], w_x.dtype
    b = found.inputs.get("B")
    halves = np.zeros((2, w_x.shape[1]), dtype) if b is None else host(b[number]).reshape(2, -1)
    gates = [reorder(value, GATES[kind], OURS[kind]) for value in (w_x, w_h, *halves)]
    clip = attributes.get("clip")
    clip = None if clip is None else float(clip)
    cell: Cell
    params: Any
    if kind == "RNN":
        cell = elman_like(size, activations[0], clip, param_dtype=dtype)
        params = ElmanParams(gates[0], gates[1], gates[2] + gates[3])
    elif kind == "GRU":
        after = bool(attributes.get("linear_before_reset", 0))
        cell = gru_like(size, activations, clip, reset_after=after, param_dtype=dtype)  # type: ignore[arg-type]
        params = GRUParams(*gates)
    else:
        peepholes = found.inputs.get("P")
        cell = lstm_like(
            size,
            activations,  # type: ignore[arg-type]
            clip,
            peephole=peepholes is not None,
            coupled=bool(attributes.get("input_forget", 0)),
            param_dtype=dtype,
        )
        params = LSTMParams(gates[0], gates[1], gates[2] + gates[3])
        if peepholes is not None:
            w_ci, w_co, w_cf = map(jnp.asarray, np.split(host(peepholes[number]), 3))
            params = PeepholeLSTMParams(params.w_x, params.w_h, params.b, w_ci, w_cf, w_co)
    start = _initial(who, found, number)
    if start is None:
        return Direction(cell, params)
    return Direction(learned_carry(cell, param_dtype=dtype), LearnedCarryParams(params, start))


def _initial(who: str, found: _Node, number: int) -> tuple | None:
    """Return the constant initial states of one direction as carry leaves; None for zeros or inputs."""
    names = ("initial_c", "initial_h") if found.kind == "LSTM" else ("initial_h",)
    size = found.inputs["R"].shape[-1]
    leaves = []
    for name in names:
        value = found.inputs.get(name)
        if value is None:
            leaves.append(np.zeros(size, np.float32))
            continue
        rows = value[:, number] if found.attributes.get("layout", 0) else value[number]
        if (rows != rows[:1]).any():
            raise refuse(
                who, name, rows.tolist(), "the same in every row of the batch", "Pass the carry to unroll."
            )
        leaves.append(host(rows[0]))
    if not any(leaf.any() for leaf in leaves):
        return None
    dtype = found.inputs["W"].dtype
    return tuple(host(leaf.astype(dtype)) for leaf in leaves)
