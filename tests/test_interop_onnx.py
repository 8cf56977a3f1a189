"""The operators of ONNX against onnxruntime: in, out, and what is refused. onnxruntime has float32 kernels only."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity import normal, random_like
from helpers.refusals import refusals

import seqjax as sj
from seqjax import interop

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.peers

T, B, D, H = 5, 3, 2, 4
XS = normal(0, T, B, D).astype(np.float32)
LENGTHS = np.array([5, 2, 3], np.int32)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
HARD = {"activations": ["HardSigmoid", "Softsign"], "activation_alpha": [0.3], "activation_beta": [0.4]}


def operator(kind, *, peepholes=False, lengths=False, initial=None, constant=(), **attributes):
    """A model of one operator with random weights; what `initial` holds becomes constants."""
    count, gates = 2 if attributes.get("direction") == "bidirectional" else 1, GATES[kind]
    shapes = {"W": (count, gates * H, D), "R": (count, gates * H, H), "B": (count, 2 * gates * H)}
    weights = {
        name: normal(i, *shape).astype(np.float32) / 2 for i, (name, shape) in enumerate(shapes.items())
    }
    names = ["X", "W", "R", "B", "lengths" if lengths else ""]
    inputs = [onnx.helper.make_tensor_value_info("X", 1, ["T", "B", D])]
    if lengths is True:
        inputs.append(onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, ["B"]))
    elif lengths:
        weights["lengths"] = LENGTHS
    for name, value in (initial or {}).items():
        names.append(name)
        weights[name] = value
    if peepholes:
        names += [""] * (7 - len(names)) + ["P"]
        weights["P"] = normal(8, count, 3 * H).astype(np.float32)
    node = onnx.helper.make_node(kind, names, ["Y"], name="it", hidden_size=H, **attributes)
    outputs = [onnx.helper.make_tensor_value_info("Y", 1, ["T", count, "B", H])]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs, constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)


def run_onnx(model, **inputs):
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


CASES = {
    "rnn": operator("RNN"),
    "rnn_affine_clip": operator(
        "RNN", activations=["Affine"], activation_alpha=[0.8], activation_beta=[0.1], clip=0.5
    ),
    "rnn_both": operator(
        "RNN",
        direction="bidirectional",
        activations=["LeakyRelu", "ScaledTanh"],
        activation_alpha=[0.1, 1.5],
        activation_beta=[0.7],
    ),  # fmt: skip
    "gru_before": operator("GRU", direction="reverse"),
    "gru_after": operator("GRU", direction="bidirectional", linear_before_reset=1),
    "gru_hard": operator("GRU", linear_before_reset=1, **HARD),
    "gru_clip": operator("GRU", clip=0.5),
    "lstm": operator("LSTM", direction="bidirectional"),
    "lstm_peepholes": operator("LSTM", peepholes=True),
    "lstm_hard": operator("LSTM", activations=["HardSigmoid", "Tanh", "Relu"]),
    "lstm_clip": operator("LSTM", clip=0.4),
    "lstm_coupled": operator("LSTM", input_forget=1),
    "lstm_start": operator(
        "LSTM",
        initial={
            n: np.repeat(normal(i, 1, 1, H), B, 1).astype(np.float32) for i, n in enumerate(("h0", "c0"))
        },
    ),
    "gru_start": operator("GRU", initial={"h0": np.repeat(normal(3, 1, 1, H), B, 1).astype(np.float32)}),
}


def ours(model, mask=None):
    layer, params = interop.from_onnx(model)
    ys = jax.jit(lambda p, xs: layer.unroll(p, None, xs, mask=mask)[1])(params, jnp.asarray(XS))
    return layer, params, np.asarray(ys)


@pytest.mark.parametrize("name", CASES)
def test_operators_equal_onnxruntime(name):
    (ys,) = run_onnx(CASES[name], X=XS)  # [T, directions, B, H]
    layer, params, found = ours(CASES[name])
    expected = np.moveaxis(ys, 1, 2).reshape(T, B, -1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    if "start" not in name:
        again = run_onnx(interop.to_onnx(layer, params), xs=XS)[0]
        np.testing.assert_allclose(again, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", GATES)
def test_lengths_are_a_mask(kind):
    model = operator(kind, direction="bidirectional", lengths=True)
    (ys,) = run_onnx(model, X=XS, lengths=LENGTHS)
    found = ours(model, sj.lengths_to_mask(LENGTHS, T))[2]
    np.testing.assert_allclose(found, np.moveaxis(ys, 1, 2).reshape(T, B, -1), rtol=0, atol=2e-6)


def test_constant_initial_states_are_learned_carries():
    layer, params, _ = ours(CASES["lstm_start"])
    assert layer == sj.recurrent(sj.learned_carry(sj.lstm(H)))
    np.testing.assert_allclose(params.carry[0], normal(1, 1, 1, H)[0, 0], rtol=1e-6)  # c, then h
    np.testing.assert_allclose(params.carry[1], normal(0, 1, 1, H)[0, 0], rtol=1e-6)


def test_the_layout_changes_no_weight():
    same = [interop.from_onnx(operator("GRU", layout=layout)) for layout in (0, 1)]
    assert same[0].layer == same[1].layer
    jax.tree.map(np.testing.assert_array_equal, same[0].params, same[1].params)


@pytest.mark.parametrize("cell", [sj.gru(H), sj.peephole_lstm(H)], ids=repr)
def test_a_stack_goes_out_with_lengths_and_carries(cell):
    """A stream in two parts equals the whole."""
    half = sj.recurrent(cell)
    layer = sj.serial(half, sj.dropout(0.1), half)
    params = random_like(jax.eval_shape(layer.init, jax.random.key(0), XS[0]))
    expected = np.asarray(jax.jit(layer.unroll)(params, None, jnp.asarray(XS))[1])
    model = interop.to_onnx(layer, params, carry=True)
    states = {i.name: np.zeros((1, B, H), np.float32) for i in model.graph.input if i.name != "xs"}
    assert set(states) == ({"h_0", "h_1", "c_0", "c_1"} if "lstm" in repr(cell) else {"h_0", "h_1"})
    parts = []
    for part in (XS[:2], XS[2:]):
        ys, *last = run_onnx(model, xs=part, **states)
        parts.append(ys)
        names = [output.name.removesuffix("_last") for output in model.graph.output[1:]]
        states = dict(zip(names, last, strict=True))
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=2e-6)
    layer = sj.bidirectional(half)
    params = random_like(jax.eval_shape(layer.init, jax.random.key(0), XS[0]))
    mask = sj.lengths_to_mask(LENGTHS, T)
    expected = np.asarray(jax.jit(layer.unroll)(params, None, jnp.asarray(XS), mask=mask)[1])
    found = run_onnx(interop.to_onnx(layer, params, lengths=True), xs=XS, lengths=LENGTHS)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_an_operator_is_found_by_name_in_a_file(tmp_path):
    layer = sj.serial(sj.recurrent(sj.gru(H)), sj.recurrent(sj.elman(H, activation="identity")))
    params = random_like(jax.eval_shape(layer.init, jax.random.key(0), XS[0]))
    onnx.save(interop.to_onnx(layer, params), tmp_path / "model.onnx")
    found, values = interop.from_onnx(tmp_path / "model.onnx", "Y_0")
    assert found == sj.recurrent(sj.gru(H))
    jax.tree.map(np.testing.assert_array_equal, values, params[0])
    with pytest.raises(
        ValueError, match=r"the name of one operator .*, got None\. There are \['GRU_0', 'RNN_1'\]"
    ):
        interop.from_onnx(tmp_path / "model.onnx")


def without_constants():
    model = operator("GRU")
    del model.graph.initializer[:]
    return model


def two_sizes():
    layer = sj.bidirectional(sj.recurrent(sj.gru(H)), sj.recurrent(sj.gru(3)))
    return layer, random_like(jax.eval_shape(layer.init, jax.random.key(0), XS[0]))


REFUSED = {
    "number": (lambda: interop.from_onnx(3), TypeError, "expected an onnx.ModelProto or a path, got int"),
    "activation": (
        lambda: interop.from_onnx(operator("RNN", activations=["Gelu"])),
        TypeError,
        "from_onnx: RNN 'it': expected activations=some of Affine, .*, got activations='Gelu'",
    ),
    "number of activations": (
        lambda: interop.from_onnx(operator("GRU", activations=["Tanh"])),
        TypeError,
        "expected activations=2 names",
    ),
    "no alpha": (
        lambda: interop.from_onnx(operator("RNN", activations=["Affine"])),
        TypeError,
        "expected activation_alpha=a value for Affine",
    ),
    "constant lengths": (
        lambda: interop.from_onnx(operator("RNN", lengths="constant")),
        TypeError,
        r"expected sequence_lens=an input, got sequence_lens=\[5, 2, 3\]. Pass a mask",
    ),
    "rows differ": (
        lambda: interop.from_onnx(operator("RNN", initial={"h0": normal(0, 1, B, H).astype(np.float32)})),
        TypeError,
        "expected initial_h=the same in every row of the batch",
    ),
    "computed weights": (lambda: interop.from_onnx(without_constants()), ValueError, "expected a constant W"),
    "size": (
        lambda: interop.from_onnx(resized()),
        ValueError,
        r"expected W \[1, 15, 2\], got \[1, 12, 2\]",
    ),
    "two sizes": (
        lambda: interop.to_onnx(*two_sizes()),
        TypeError,
        "cells that differ in their activations alone",
    ),
    "another cell": (
        lambda: interop.to_onnx(sj.recurrent(sj.lem(H)), None),
        TypeError,
        "expected a layer of one of the cells elman, general_elman",
    ),
}


def resized():
    model = operator("GRU")
    next(a for a in model.graph.node[0].attribute if a.name == "hidden_size").i = 5
    return model


@refusals(REFUSED)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_whole_models_convert_by_jax2onnx(tmp_path):
    """The program of the page, which compares with onnxruntime, in its own process: jax2onnx changes jax.numpy."""
    if importlib.util.find_spec("jax2onnx") is None:
        pytest.skip("jax2onnx is not installed")
    page = (Path(__file__).parent.parent / "docs/interop.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert {each.name for each in tmp_path.iterdir()} == {"step.onnx", "whole.onnx"}
