"""Test the hints for what users of other libraries write first: each hint is a program that runs."""

import re

import flax.linen
import jax
import jax.numpy as jnp
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax import hints

PLACES = {
    "hidden_size": 8,
    "features": 8,
    "width": 8,
    "kernel_size": 3,
    "num_embeddings": 5,
    "num_layers": 2,
    "rate": 0.1,
    "cell": sj.lstm(8),
    "layer": sj.recurrent(sj.lstm(8)),
    "method": sj.Scan(),
    "flax": flax,
    "sj": sj,
}
CODE = [name for name, hint in hints.NAMES.items() if hint.startswith("sj.")]


def expressions(hint):
    """The calls in a hint, such as ``sj.recurrent(cell)``: balanced brackets after a name."""
    for start in re.finditer(r"\bsj\.\w+\(", hint):
        depth, end = 1, start.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(hint[end], 0)
            end += 1
        yield hint[start.start() : end]


@pytest.mark.parametrize("name", CODE)
def test_what_a_hint_says_makes_a_definition(name):
    assert not hasattr(sj, name)
    with pytest.raises(AttributeError, match=r"module 'seqjax' has no attribute '\w+'\. Write sj\."):
        getattr(sj, name)
    found = list(expressions(hints.NAMES[name]))
    values = [eval(each, dict(PLACES)) for each in found]  # noqa: S307 (our own text)
    assert values and all(isinstance(value, sj.Layer | sj.Cell | sj.Method) for value in values)


@pytest.mark.parametrize(
    "package", ["datasets", "gradients", "interop", "models", "probes", "tasks", "training"]
)
def test_names_of_packages_are_found_without_importing_them(package):
    for name in getattr(sj, package).__all__:
        assert hints.home_of(name, [package]) == package


def test_a_name_of_a_package_is_answered_with_the_package():
    for name, where in {
        "make_train_step": "training",
        "bucketed": "datasets",
        "from_torch": "interop",
    }.items():
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'\. Write sj\.{where}\.{name}\."):
            getattr(sj, name)


@pytest.mark.parametrize("argument", [a for a, hint in hints.ARGUMENTS.items() if "sj." in hint])
def test_what_a_hint_for_an_argument_says_is_there(argument):
    hint = hints.argument_hint("lstm", argument, ["hidden_size"]).replace("(...)", "(hidden_size)")
    outer = [each for each in expressions(hint) if not each.startswith(("sj.last", "sj.lstm"))]
    assert all(isinstance(eval(each, dict(PLACES)), sj.Layer) for each in outer)  # noqa: S307 (our own text)
    assert all(hasattr(sj, name) for name in re.findall(r"sj\.(\w+)", hint))


def test_arguments_that_hints_name_are_refused_by_cells():
    """A hint for an argument that the cell has would never be seen."""
    for entry in sj.REGISTRY.values():
        with pytest.raises(
            TypeError, match="got an unexpected keyword argument 'num_layers'.* Write sj.stack"
        ):
            entry.make(4, num_layers=2)


REFUSED = {
    "a class of another library": (lambda: sj.LRU, AttributeError, "no attribute 'LRU'. Did you mean 'lru'"),
    "a class in capitals": (lambda: sj.MinGRU, AttributeError, "Did you mean 'min_gru'"),
    "a module": (lambda: sj.nn, AttributeError, "Take feed-forward modules from flax.linen or flax.nnx"),
    "a word like none": (lambda: sj.zzzz, AttributeError, "no attribute 'zzzz'.$"),
    "layers of a cell": (
        lambda: sj.lstm(8, num_layers=2),
        TypeError,
        "^lstm: got an unexpected keyword argument 'num_layers'. It takes hidden_size, .* sj.stack",
    ),
    "the width in the words of Keras": (
        lambda: sj.gru(units=8),
        TypeError,
        "'units'.* Did you mean 'hidden_size'",
    ),
    "the batch first": (
        lambda: sj.gru(8, batch_first=True),
        TypeError,
        r"\[T, B, D\]; sj.batch_major\(layer\) takes",
    ),
    "a slip": (lambda: sj.gru(8, reset_aftr=False), TypeError, "Did you mean 'reset_after'"),
    "an argument without a hint": (
        lambda: sj.gru(8, zzz=1),
        TypeError,
        "It takes hidden_size, .*param_dtype.$",
    ),
    "a missing argument": (
        lambda: sj.gru(),
        TypeError,
        "^gru: missing a required argument: 'hidden_size'. It takes",
    ),
}


@refusals(REFUSED)
def test_names_and_arguments_of_other_libraries_are_answered_with_ours(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_time_major_layer_becomes_batch_major_as_the_hint_says():
    layer = sj.batch_major(sj.recurrent(sj.lstm(4)))
    xs = jnp.ones((2, 5, 3))

    def run(key):
        return layer.unroll(layer.init(key, xs[:, 0]), None, xs)[1]

    assert jax.eval_shape(run, jax.random.key(0)).shape == (2, 5, 4)


@pytest.mark.parametrize(
    ("definition", "name", "message"),
    [
        (
            sj.recurrent(sj.lstm(8)),
            "apply",
            r"'Layer' object has no .* Write layer\.unroll\(params, carry, xs\)",
        ),
        (
            sj.lstm(8),
            "unroll",
            r"'Cell' object has no .* Write sj\.recurrent\(cell\)\.unroll\(params, carry, xs\)",
        ),
        (sj.lstm(8), "eval", "There is no training mode: with key="),
        (sj.full_bptt(), "apply", r"has no attribute 'apply'\.$"),
    ],
)
def test_methods_of_other_libraries_are_answered(definition, name, message):
    assert not hasattr(definition, name)
    with pytest.raises(AttributeError, match=message):
        getattr(definition, name)
