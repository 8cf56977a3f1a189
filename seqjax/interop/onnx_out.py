"""Layers as ONNX models of the operators RNN, LSTM and GRU."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer, Params
from seqjax.cells import elman, gru, lstm, peephole_lstm
from seqjax.install import missing
from seqjax.interop.cells import general_elman, general_gru, general_lstm
from seqjax.interop.common import Direction, cell_of, host, refuse, reorder, stack_of
from seqjax.interop.nonlinearities import SIGMOID, TANH, Nonlinearity
from seqjax.interop.onnx import ACTIVATIONS, GATES, OURS

OPSET, IR_VERSION = 14, 8
KINDS = {
    elman: "RNN",
    general_elman: "RNN",
    gru: "GRU",
    general_gru: "GRU",
    lstm: "LSTM",
    peephole_lstm: "LSTM",
    general_lstm: "LSTM",
}


def to_onnx(layer: Layer, params: Params, *, lengths: bool = False, carry: bool = False) -> Any:
    """Return an onnx.ModelProto that equals a layer: from xs ``[T, B, D]`` to ys ``[T, B, directions * H]``.

    Args:
        layer: a recurrent layer, reverse or bidirectional of one, or serial of these; dropout between layers is left
            out.
        params: its params.
        lengths: whether the model has an input ``lengths`` int32 ``[B]``; outputs after a length are zero.
        carry: whether the model has the inputs ``h_0``, ``c_0``, ``h_1``, ... ``[directions, B, H]``, one per layer and
            state, and the outputs ``h_0_last`` and so on.

    Raises:
        TypeError: for layers that the operators cannot express; the error names the argument.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise missing("to_onnx", "onnx", "interop") from None

    stack, _ = stack_of("to_onnx", layer, params)
    operators = [_operator(directions) for directions in stack]
    first = operators[0][2]["W"]
    kind = helper.np_dtype_to_tensor_dtype(first.dtype)
    inputs = [helper.make_tensor_value_info("xs", kind, ["T", "B", first.shape[-1]])]
    if lengths:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]))
    outputs, nodes = [], []
    constants = [numpy_helper.from_array(np.array([0, 0, -1]), "joined")]
    value = "xs"
    for number, (operator, attributes, weights) in enumerate(operators):
        names = {name: f"{name}_{number}" for name in weights}
        constants += [numpy_helper.from_array(weights[name], names[name]) for name in weights]
        count, size = weights["R"].shape[0], weights["R"].shape[-1]
        states = ["h", "c"] if operator == "LSTM" else ["h"]
        given = [value, names["W"], names["R"], names["B"], "lengths" if lengths else ""]
        made = [f"Y_{number}"]
        if carry:
            given += [f"{state}_{number}" for state in states]
            made += [f"{state}_{number}_last" for state in states]
            for state in states:
                shape = [count, "B", size]
                inputs.append(helper.make_tensor_value_info(f"{state}_{number}", kind, shape))
                outputs.append(helper.make_tensor_value_info(f"{state}_{number}_last", kind, shape))
        if "P" in names:
            given += [""] * (7 - len(given)) + [names["P"]]
        nodes += [
            helper.make_node(operator, given, made, name=f"{operator}_{number}", **attributes),
            helper.make_node("Transpose", [made[0]], [f"rows_{number}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"rows_{number}", "joined"], [f"ys_{number}"]),
        ]
        value = f"ys_{number}"
    nodes.append(helper.make_node("Identity", [value], ["ys"]))
    outputs.insert(0, helper.make_tensor_value_info("ys", kind, ["T", "B", count * size]))
    graph = helper.make_graph(nodes, "seqjax", inputs, outputs, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="seqjax"
    )


def _operator(directions: list[Direction]) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Return the operator, its attributes and its weights for the directions of one layer."""
    made = [cell_of("to_onnx", each, KINDS) for each in directions]
    kinds = {KINDS[factory] for factory, _ in made}
    limits = {arguments.get("clip") for _, arguments in made}
    shared: list[dict[str, Any]] = [
        {name: arguments.get(name) for name in ("hidden_size", "reset_after", "peephole", "coupled")}
        for _, arguments in made
    ]
    if len(kinds) > 1 or len(limits) > 1 or any(one != shared[0] for one in shared):
        raise refuse(
            "to_onnx",
            "directions",
            [each.cell for each in directions],
            "cells that differ in their activations alone",
            "ONNX has one operator for both.",
        )
    (kind,), (clip,) = kinds, limits
    attributes: dict[str, Any] = {"hidden_size": shared[0]["hidden_size"]}
    attributes["direction"] = (
        "bidirectional" if len(made) == 2 else "reverse" if directions[0].backward else "forward"
    )
    if clip is not None:
        attributes["clip"] = clip
    if kind == "GRU":
        attributes["linear_before_reset"] = int(shared[0]["reset_after"])
    if shared[0]["coupled"]:
        attributes["input_forget"] = 1
    weights = [_weights(kind, each.params) for each in directions]
    stacked = {name: np.stack([one[name] for one in weights]) for name in weights[0]}
    return kind, attributes | _activations(kind, [arguments for _, arguments in made]), stacked


def _weights(kind: str, params: Any) -> dict[str, np.ndarray]:
    b_h = getattr(params, "b_h", jnp.zeros_like(params.b))
    w_x, w_h, b, b_h = (
        host(reorder(value, OURS[kind], GATES[kind])) for value in (params.w_x, params.w_h, params.b, b_h)
    )
    found = {"W": w_x.T, "R": w_h.T, "B": np.concatenate([b, b_h])}
    if hasattr(params, "w_ci"):
        found["P"] = host(np.concatenate([params.w_ci, params.w_co, params.w_cf]))
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _activations(kind: str, arguments: list[dict[str, Any]]) -> dict[str, list]:
    """Return the attributes that name the activations; none for the defaults of the operator."""
    standard = {"RNN": (TANH,), "GRU": (SIGMOID, TANH), "LSTM": (SIGMOID, TANH, TANH)}[kind]
    found: list[Nonlinearity] = []
    for one in arguments:
        if "activation" in one:
            value = one["activation"]
            found.append(Nonlinearity(value) if isinstance(value, str) else value)
        else:
            found += one.get("activations", standard)
    if tuple(found) == standard * len(arguments):
        return {}
    names: dict[str, tuple[str, int]] = {
        ours: (name, len(defaults)) for name, (ours, defaults) in ACTIVATIONS.items()
    }
    attributes: dict[str, list] = {"activations": [], "activation_alpha": [], "activation_beta": []}
    for each in found:
        each = Nonlinearity("affine", 1.0, 0.0) if each.name == "identity" else each
        name, count = names[each.name]
        attributes["activations"].append(name)
        for key, value in list(zip(("activation_alpha", "activation_beta"), (each.alpha, each.beta)))[:count]:
            attributes[key].append(value)
    return {key: value for key, value in attributes.items() if value}
