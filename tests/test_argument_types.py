"""Test that every factory refuses arguments of a wrong type or size, by their names."""

import inspect
import math
import typing
from functools import partial

import pytest

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.testing.layers import LAYERS
from seqjax.values import Definition, origin

WRONG = {
    bool: ["int8", 2, 0, None, 1.5],
    int: ["8", 1.5, True, None, math.nan, 10**20],
    float: ["a", True, None, math.nan, math.inf, -math.inf, 1e308],
    str: [3, True, None],
}


def alternatives(annotation):
    of = typing.get_args(annotation)
    return set(of) if of and typing.get_origin(annotation) not in (typing.Literal, tuple) else {annotation}


def factories():
    """The factories of all registered cells and layers, and of the definitions that those are made of."""
    waiting = [entry.make(8) for entry in REGISTRY.values()]
    waiting += [entry.make(sj.Scan()) for entry in LAYERS.values()]
    found = {}
    while waiting:
        each = waiting.pop()
        if isinstance(each, tuple):
            waiting += each
        elif isinstance(each, Definition) and origin(each) is not None:
            factory, arguments = origin(each)
            found.setdefault(factory.__name__, (factory, arguments))
            waiting += arguments.values()
    return found


def cases(factory):
    """Parameters of plain types, each with values that no alternative of its annotation takes."""
    for name, parameter in inspect.signature(factory).parameters.items():
        of = alternatives(parameter.annotation)
        if of <= {*WRONG, type(None)} and parameter.kind is not parameter.VAR_POSITIONAL:
            for value in (value for kind in of & WRONG.keys() for value in WRONG[kind]):
                if not (value is None and type(None) in of) and not (value is True and bool in of):
                    yield name, value


def taken(made, name, value):
    """Whether a factory takes a value; an error must name the parameter."""
    factory, arguments = made
    call = {**arguments, name: value}
    variable = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.VAR_POSITIONAL]
    args = [each for key in variable for each in call.pop(key)]
    try:
        factory(*args, **call)
    except (ValueError, TypeError) as error:
        return name not in str(error).split(", got")[0]
    return True


def test_every_registered_factory_names_arguments_that_it_cannot_take():
    made = factories()
    tried = [(each, name, value) for each in sorted(made) for name, value in cases(made[each][0])]
    assert len(made) > 60 and len(tried) > 800
    assert [case for case in tried if taken(made[case[0]], *case[1:])] == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(sj.gru, 8, reset_after="int8"), r"gru\(reset_after\): expected True or False, got 'int8'"),
        (
            partial(sj.attention, 8, num_heads=2, window=4, use_bias="float99"),
            r"attention\(use_bias\): expected True or False",
        ),
        (partial(sj.gla, 8, num_heads=2, temperature=1e999), r"gla\(temperature\): expected a finite number"),
        (
            partial(sj.lstm, 8, forget_bias=1e308),
            r"lstm\(forget_bias\): expected a finite number in the range of float32",
        ),
        (
            partial(sj.mlstm, 8, num_heads=2, forget_bias=(3.0, math.nan)),
            r"mlstm\(forget_bias\): expected a tuple of a ",
        ),
        (partial(sj.Scan, keep_gates=1), r"Scan\(keep_gates\): expected True or False, got 1"),
        (
            partial(sj.Newton, batch_ndim="x"),
            r"Newton\(batch_ndim\): expected a whole number of at least 0, or None, got 'x'",
        ),
    ],
)
def test_a_wrong_type_is_named_with_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
