"""Test definitions as values: they compare, hash, print and pickle by their factory and arguments."""

import dataclasses
import enum
import functools
import importlib
import itertools
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax.cells import REGISTRY

# Expressions and what they print as: what is at its default is left out, and names are the shortest public ones.
METHODS = {
    "sj.Scan()": "Scan()",
    "sj.Scan(chunk=4, gradient='autodiff')": "Scan(chunk=4, gradient='autodiff')",
    "sj.AssociativeScan()": "AssociativeScan()",
    "sj.TimeSharded(inner=sj.AssociativeScan())": "TimeSharded(inner=AssociativeScan())",
    "sj.Auto()": None,  # the default of recurrent
}
LAYERS = {
    "sj.residual(sj.recurrent(sj.lstm(8)))": "residual(layer=recurrent(cell=lstm(hidden_size=8)))",
    "sj.recurrent(sj.lstm(hidden_size=8, forget_bias=0.0))": "recurrent(cell=lstm(hidden_size=8, forget_bias=0.0))",
    "sj.serial(sj.pointwise(nn.Embed(256, 8)), sj.recurrent(sj.gru(8)), sj.pointwise(nn.Dense(2)))": (
        "serial(pointwise(module=Embed(num_embeddings=256, features=8)), "
        "recurrent(cell=gru(hidden_size=8)), pointwise(module=Dense(features=2)))"
    ),
    "sj.serial()": "serial()",
    "sj.bidirectional(sj.recurrent(sj.gru(8)))": "bidirectional(forward=recurrent(cell=gru(hidden_size=8)))",
    "sj.bidirectional(sj.recurrent(sj.gru(8)), sj.recurrent(sj.lstm(8)), merge='sum')": (
        "bidirectional(forward=recurrent(cell=gru(hidden_size=8)), backward=recurrent(cell=lstm(hidden_size=8)), "
        "merge='sum')"
    ),
    "sj.checkpointed(sj.recurrent(sj.lru(8)), every=16)": (
        "checkpointed(layer=recurrent(cell=lru(hidden_size=8)), every=16)"
    ),
    "sj.dropout(0.5)": "dropout(rate=0.5)",
    "sj.running_mean()": "running_mean()",
    "sj.pointwise(jnp.tanh)": "pointwise(module=jax.numpy.tanh)",
    "sj.pointwise(jax.nn.relu)": "pointwise(module=jax.nn.relu)",
    "sj.pointwise(nn.LayerNorm(), event_ndim=2)": "pointwise(module=LayerNorm(), event_ndim=2)",
    "sj.pointwise(nn.Dense(2, kernel_init=nn.initializers.zeros))": (
        "pointwise(module=Dense(features=2, kernel_init=jax.nn.initializers.zeros))"
    ),
    "sj.lru(8, param_dtype=jnp.bfloat16)": "lru(hidden_size=8, param_dtype=bfloat16)",
    "sj.gru(8, reset_after=False)": "gru(hidden_size=8, reset_after=False)",
}
for method, text in METHODS.items():
    part = "" if text is None else f", method={text}"
    LAYERS[f"sj.recurrent(sj.lru(8), {method})"] = f"recurrent(cell=lru(hidden_size=8){part})"
CELLS = {f"REGISTRY[{name!r}].make(8)": None for name in REGISTRY}
ALL = {**LAYERS, **CELLS}


def make(expression):
    return eval(expression, globals())


@sj.definition
def scaled(factor=1, *layers):
    """A factory of a test's own, at the top level of a module."""
    return sj.pointwise(jnp.tanh) if not layers else layers[0]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = 1
    rate: float = 0.5


# ---------------------------------------------------------------- equality, hash, text, pickle


@pytest.mark.parametrize("expression", ALL)
def test_the_same_expression_makes_an_equal_value(expression):
    a, b = make(expression), make(expression)
    assert a is not b and a == b and hash(a) == hash(b) and {a: 1}[b] == 1 and not a != b


def test_different_expressions_make_different_values():
    values = {expression: make(expression) for expression in ALL}
    for (i, a), (j, b) in itertools.combinations(values.items(), 2):
        # Auto() is the default of recurrent, and a default may be written out.
        assert (a != b) == (repr(a) != repr(b)), (i, j)
    assert sj.recurrent(sj.lstm(8)) != sj.lstm(8) and sj.lstm(8) != "lstm(hidden_size=8)"


@pytest.mark.parametrize("expression", [e for e, text in ALL.items() if text])
def test_a_value_prints_as_the_call_that_makes_it(expression):
    assert repr(make(expression)) == ALL[expression]


@pytest.mark.parametrize("expression", ALL)
def test_what_is_printed_makes_the_value_again(expression):
    names = {
        **vars(nn),
        **{name: getattr(sj, name) for name in sj.__all__},
        "Dense": nn.Dense,
        "jax": jax,
        "bfloat16": jnp.bfloat16,
    }
    assert eval(repr(make(expression)), names) == make(expression)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("expression", ALL)
def test_a_pickled_value_is_equal_after_loading(expression, protocol):
    value = make(expression)
    loaded = pickle.loads(pickle.dumps(value, protocol))
    assert loaded == value and hash(loaded) == hash(value) and repr(loaded) == repr(value)


def test_a_loaded_layer_computes_the_same():
    layer = make("sj.residual(sj.recurrent(sj.lstm(8)))")
    loaded = pickle.loads(pickle.dumps(layer))
    xs = jnp.ones((2, 1, 8))

    def run(layer):
        params = layer.init(jax.random.key(0), xs[0])
        return layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]

    np.testing.assert_array_equal(jax.jit(run, static_argnums=0)(layer), jax.jit(lambda: run(loaded))())


REFUSED = {
    "an argument too many": (
        lambda: sj.gru(3, hidden=3), TypeError,
        "^gru: got an unexpected keyword argument 'hidden'. It takes hidden_size, "),
    "an argument too few": (
        sj.lstm, TypeError, "^lstm: missing a required argument: 'hidden_size'"),
    "a flag as a size": (
        lambda: sj.lstm(True), ValueError, r"lstm\(hidden_size\): expected a whole number .* got True"),
    "a float as a size": (
        lambda: sj.lstm(1.0), ValueError, r"lstm\(hidden_size\): expected a whole number .* got 1\.0"),
    "a flag as a number": (
        lambda: sj.lstm(8, forget_bias=False), ValueError,
        r"lstm\(forget_bias\): expected a finite number .* got False"),
    "a flag as a rate": (
        lambda: sj.dropout(False), ValueError, r"dropout\(rate\): expected a number in \[0, 1\), got False"),
}  # fmt: skip


@refusals(REFUSED)
def test_arguments_that_do_not_fit_are_refused_by_the_factory_of_that_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_how_an_argument_is_passed_makes_no_difference():
    assert sj.lstm(8) == sj.lstm(hidden_size=8) == sj.lstm(8, forget_bias=1.0)
    assert scaled() == scaled(1) == scaled(factor=1)
    assert sj.pointwise(nn.Dense(4)) == sj.pointwise(nn.Dense(features=4, use_bias=True))
    assert sj.pointwise(nn.LayerNorm()) == sj.pointwise(nn.LayerNorm(epsilon=float("1e-6")))


# ---------------------------------------------------------------- arguments


def test_arguments_that_compare_equal_but_differ_in_type_make_different_values():
    values = [
        True,
        1,
        1.0,
        1 + 0j,
        "1",
        b"1",
        (1,),
        (1.0,),
        (True,),
        None,
        "None",
        np.dtype("int32"),
        "int32",
    ]
    for a, b in itertools.combinations(values, 2):
        assert scaled(a) != scaled(b)
        assert hash(scaled(a)) != hash(scaled(b))
    assert all(scaled(value) == scaled(value) for value in values)
    assert all(
        repr(scaled(value)) == f"scaled(factor={value!r})" for value in values if value not in (1, "int32")
    )


def test_numbers_given_to_seqjax_keep_their_types():
    assert len({sj.dropout(0), sj.dropout(0.0)}) == 2
    assert len({sj.lstm(8, forget_bias=0), sj.lstm(8, forget_bias=0.0)}) == 2
    assert len({scaled(0), scaled(0.0), scaled(False), scaled(1), scaled(1.0), scaled(True)}) == 6


def test_floats_are_equal_when_they_print_the_same():
    assert scaled(math.nan) == scaled(float("nan")) and scaled(0.1) == scaled(float("0.1"))
    assert scaled(0.0) != scaled(-0.0) and scaled(math.inf) != scaled(-math.inf)
    assert (
        pickle.loads(pickle.dumps(scaled((math.nan, -0.0))))
        == scaled((math.nan, -0.0))
        != scaled((math.nan, 0.0))
    )


def test_lists_are_tuples_and_numpy_scalars_are_numbers():
    assert scaled([1, [2, (3,)]]) == scaled((1, (2, (3,))))
    assert scaled(np.int64(3)) == scaled(3) and scaled(np.float32(0.5)) == scaled(0.5)
    assert scaled([np.bool_(True)]) == scaled((True,))
    received = []

    @sj.definition
    def keeps(sizes):
        received.append(sizes)
        return sj.dropout(0.5)

    keeps([1, [2]])
    assert received == [(1, (2,))] and type(received[0]) is tuple and type(received[0][1]) is tuple


def test_dtypes_are_equal_however_they_are_written():
    values = [
        scaled(dtype) for dtype in (jnp.float32, np.float32, np.dtype("float32"), jnp.dtype(jnp.float32))
    ]
    assert len(set(values)) == 1 and values[0] != scaled(jnp.float64)
    assert pickle.loads(pickle.dumps(scaled(jnp.bfloat16))) == scaled(jnp.bfloat16)


def test_enums_and_dataclasses_and_partials_are_values():
    for value, other in [
        (Color.RED, Color.BLUE),
        (Color.RED, "red"),
        (Options(2), Options(3)),
        (Options(2), (2, 0.5)),
        (functools.partial(jnp.clip, min=0), functools.partial(jnp.clip, min=1)),
    ]:
        assert scaled(value) == scaled(value) != scaled(other)
        assert pickle.loads(pickle.dumps(scaled(value))) == scaled(value)
    assert scaled(Options(1, 0.5)) == scaled(Options())
    clip = sj.pointwise(functools.partial(jnp.clip, min=0.5))
    loaded = pickle.loads(pickle.dumps(clip))
    np.testing.assert_array_equal(loaded.unroll((), (), jnp.zeros((1, 1, 1)))[1], [[[0.5]]])
    assert repr(clip) == "pointwise(module=partial(jax.numpy.clip, min=0.5))"


@pytest.mark.parametrize(
    "array",
    [np.ones(2), np.ones(()), jnp.ones(2), jnp.asarray(1.0), jnp.float32(1)],
    ids=lambda a: type(a).__name__,
)
def test_an_array_is_refused_and_its_argument_named(array):
    kind = type(array).__name__
    message = rf"scaled\(factor=\.\.\.\): expected a number, .*, got {kind}: an array belongs in the params\."
    for value in (array, (1, array), [[array]]):
        with pytest.raises(TypeError, match=message):
            scaled(value)
    with pytest.raises(TypeError, match=r"pointwise\(module=\.\.\.\)\.features: expected a number"):
        sj.pointwise(nn.Dense(array))


def test_a_traced_value_is_refused():
    with pytest.raises(TypeError, match=r"scaled\(factor=\.\.\.\): .* an array belongs in the params"):
        jax.jit(lambda rate: scaled(rate).unroll((), (), jnp.ones((1, 1, 1)))[1])(0.5)


@pytest.mark.parametrize("value", [{"a": 1}, {1}, object(), range(3)], ids=lambda v: type(v).__name__)
def test_a_value_without_a_name_is_refused_and_its_argument_named(value):
    message = rf"scaled\(factor=\.\.\.\): .* got {type(value).__name__}: a value of this type has no name\."
    with pytest.raises(TypeError, match=message):
        scaled(value)


# ---------------------------------------------------------------- functions without a name


def test_lambdas_are_equal_by_identity_alone():
    def square(x):
        return x * x

    for function in (square, lambda x: x * x):
        assert sj.pointwise(function) == sj.pointwise(function)
        assert hash(sj.pointwise(function)) == hash(sj.pointwise(function))
    assert sj.pointwise(lambda x: x * x) != sj.pointwise(lambda x: x * x)
    assert repr(sj.pointwise(square)) == "pointwise(module=square)"
    assert repr(sj.pointwise(lambda x: x)) == "pointwise(module=<lambda>)"


def test_pickling_a_lambda_names_the_argument():
    message = r"pointwise\(module=\.\.\.\): expected something that can be found by name to save it, got <function .*"
    for value in (
        sj.pointwise(lambda x: x),
        sj.serial(sj.dropout(0.1), sj.residual(sj.pointwise(lambda x: x))),
    ):
        with pytest.raises(TypeError, match=message + r"Define it at the top level of a module\."):
            pickle.dumps(value)
    with pytest.raises(TypeError, match=r"pointwise\(module=\.\.\.\)\.kernel_init: expected something"):
        pickle.dumps(sj.pointwise(nn.Dense(2, kernel_init=nn.initializers.normal(0.1))))


def test_a_local_factory_cannot_be_pickled_and_is_named():
    @sj.definition
    def local():
        return sj.dropout(0.5)

    assert local() == local()
    with pytest.raises(TypeError, match=r"local: expected something that can be found by name"):
        pickle.dumps(local())


def test_a_cell_written_by_hand_equals_itself_alone():
    def handwritten():
        return sj.Cell(
            init=lambda key, x: (),
            initial_carry=lambda params, x: jnp.zeros_like(x),
            recurrence=sj.Step(lambda params, h, u: (h + u, h + u)),
        )

    cell = handwritten()
    assert cell == cell and cell != handwritten() and repr(cell) == "<Cell without origin>"
    assert sj.recurrent(cell) == sj.recurrent(cell) != sj.recurrent(handwritten())
    with pytest.raises(
        TypeError, match=r"recurrent\(cell=\.\.\.\): expected something that can be found by name"
    ):
        pickle.dumps(sj.recurrent(cell))


# ---------------------------------------------------------------- origins


def test_replacing_a_field_drops_the_origin():
    cell = sj.lstm(8)
    same = dataclasses.replace(cell)
    doubled = dataclasses.replace(cell, readout=lambda params, hs, xs: 2 * hs)
    assert len({cell, same, doubled}) == 3
    assert repr(doubled) == "<Cell without origin>" and repr(cell) == "lstm(hidden_size=8)"


def test_a_factory_that_returns_its_argument_leaves_the_argument_its_origin():
    inner = sj.recurrent(sj.lstm(8))
    outer = scaled(2, inner)
    assert repr(inner) == "recurrent(cell=lstm(hidden_size=8))"
    assert repr(outer) == f"scaled(factor=2, {inner!r})"
    assert inner == sj.recurrent(sj.lstm(8)) != outer and pickle.loads(pickle.dumps(outer)) == outer


def test_a_static_argument_retraces_for_another_value_alone():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(cell, params, xs):
        traces.append(cell)
        layer = sj.recurrent(cell)
        return layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]

    xs = jnp.ones((2, 1, 3))
    cell = sj.lstm(4)
    params = jax.jit(cell.init)(jax.random.key(0), xs[0])
    ys = run(cell, params, xs)
    np.testing.assert_array_equal(run(sj.lstm(hidden_size=4), params, xs), ys)
    np.testing.assert_array_equal(run(pickle.loads(pickle.dumps(cell)), params, xs), ys)
    assert len(traces) == 1
    doubled = dataclasses.replace(cell, readout=lambda params, hs, xs: 2 * hs)
    np.testing.assert_array_equal(run(doubled, params, xs), 2 * ys)
    assert len(traces) == 2
    run(sj.lstm(4, forget_bias=0.0), params, xs)
    assert len(traces) == 3
    run(doubled, params, xs)
    run(sj.lstm(4), params, xs)
    assert len(traces) == 3


# ---------------------------------------------------------------- other processes

USERS_MODULE = """
import jax.numpy as jnp
import seqjax as sj


def half(x):
    return x / 2


@sj.definition
def leaky(rate=0.5, *, sizes=(1, 2), activation=half, inner=None):
    return sj.pointwise(activation)


class Nested:
    @staticmethod
    @sj.definition
    def factory(rate):
        return sj.dropout(rate)
"""

LOADER = """
import pickle, sys
for value, text in pickle.load(open(sys.argv[1], "rb")):
    assert repr(value) == text, (value, text)
    assert value == pickle.loads(pickle.dumps(value)) and len({value, pickle.loads(pickle.dumps(value))}) == 1
import users_layers
values = [value for value, _ in pickle.load(open(sys.argv[1], "rb"))]
assert users_layers.leaky(0.25, sizes=[3, 4]) in values
assert users_layers.Nested.factory(0.5) in values
print("loaded", len(values))
"""


def test_values_travel_to_another_process_with_a_users_own_factories(tmp_path, monkeypatch):
    (tmp_path / "users_layers.py").write_text(USERS_MODULE)
    (tmp_path / "load.py").write_text(LOADER)
    monkeypatch.syspath_prepend(tmp_path)
    users = importlib.import_module("users_layers")
    values = [
        users.leaky(0.25, sizes=[3, 4]),
        users.leaky(activation=jnp.tanh, inner=sj.residual(sj.recurrent(sj.lstm(8)))),
        users.Nested.factory(0.5),
        sj.serial(sj.recurrent(sj.gru(4), sj.Scan(chunk=2)), users.leaky(), sj.pointwise(users.half)),
        *map(make, ALL),
    ]
    assert repr(values[0]) == "leaky(rate=0.25, sizes=(3, 4))"
    assert repr(values[3]).endswith("leaky(), pointwise(module=users_layers.half))")
    (tmp_path / "values.pickle").write_bytes(pickle.dumps([(value, repr(value)) for value in values]))
    path = os.pathsep.join([str(tmp_path), str(Path(sj.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, tmp_path / "load.py", tmp_path / "values.pickle"],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"loaded {len(values)}\n"
