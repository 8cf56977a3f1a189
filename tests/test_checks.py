"""Test checks of arguments: accepted and returned values, and the errors for all other values."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax import checks

NAN = math.nan
BAD_NUMBERS = (True, np.True_, "1", None, 1j, [1])
WHOLE, WHOLE_0 = "a whole number of at least 1", "a whole number of at least 0"


@pytest.mark.parametrize(
    ("check", "value", "found"),
    [
        (checks.check_whole, 4, 4),
        (checks.check_whole, np.int64(4), 4),
        (checks.check_whole, np.uint8(4), 4),
        (checks.check_whole, jnp.asarray(4), 4),
        (checks.check_whole_or_none, None, None),
        (checks.check_whole_or_none, np.int32(4), 4),
        (checks.check_at_least, 1, 1),
        (checks.check_at_least, np.float32(1.5), 1.5),
        (checks.check_at_least, math.inf, math.inf),
        (checks.check_above, 2, 2),
        (checks.check_above, np.float64(1e-9), 1e-9),
        (checks.check_within, 0, 0),
        (checks.check_within, np.float16(0.5), 0.5),
    ],
)
def test_what_is_accepted_is_returned_as_a_number_of_python(check, value, found):
    least = (1,) if check is checks.check_at_least else ()
    result = check("f(x)", value, *least)
    assert result == found and type(result) is type(found)


@pytest.mark.parametrize(
    ("check", "arguments", "values", "expected"),
    [
        (checks.check_whole, (), (0, -1, 1.0, np.float64(2), NAN, np.ones(1, int), *BAD_NUMBERS), WHOLE),
        (checks.check_whole, (0,), (-1, *BAD_NUMBERS), WHOLE_0),
        (checks.check_whole, (1, 3), (0, 4), "a whole number from 1 to 3"),
        (checks.check_whole_or_none, (), (0, 1.0, True, "1"), f"{WHOLE}, or None"),
        (checks.check_at_least, (1,), (0, 0.9, NAN, *BAD_NUMBERS), "a number of at least 1"),
        (
            functools.partial(checks.check_at_least, finite=True),
            (0,),
            (-1, math.inf),
            "a finite number of at least 0",
        ),
        (checks.check_above, (), (0, -0.0, -1, NAN, math.inf, *BAD_NUMBERS), "a finite number above 0"),
        (checks.check_within, (), (1, -0.1, NAN, math.inf, *BAD_NUMBERS), "a number in [0, 1)"),
        (checks.check_within, ("(0, 1]",), (0, 1.1), "a number in (0, 1]"),
        (checks.check_within, ("(0, 1)",), (0, 1), "a number in (0, 1)"),
        (checks.check_within, ("[0, 1]",), (-1, 2), "a number in [0, 1]"),
        (checks.check_one_of, (("a", "b"),), ("c", None, 0, ["a"]), "one of 'a', 'b'"),
        (checks.check_multiple, (), (3,), "a multiple of 2"),
        (checks.check_divisor, ("size=4", 4), (3,), "a divisor of size=4"),
    ],
)
def test_the_error_says_what_is_expected(check, arguments, values, expected):
    for value in values:
        with pytest.raises(ValueError) as error:
            check("f(x)", value, *arguments)
        assert str(error.value) == f"f(x): expected {expected}, got {value!r}."


@pytest.mark.parametrize("interval", ["[0, 1)", "(0, 1]", "[0, 1]", "(0, 1)"])
def test_the_ends_of_an_interval(interval):
    for end, bracket in ((0, interval[0]), (1, interval[-1])):
        if bracket in "[]":
            assert checks.check_within("f(x)", end, interval) == end
        else:
            with pytest.raises(ValueError, match="expected a number in"):
                checks.check_within("f(x)", end, interval)


def test_numbers_that_fit_are_taken():
    checks.check_whole_numbers("f", x=1, y=np.int64(2))
    assert checks.is_whole(np.int64(3), 3) and not checks.is_whole(2, 3) and not checks.is_whole(True)


@pytest.mark.parametrize(
    ("by_numpy", "by_python"),
    [
        (lambda: sj.lstm(np.int64(4)), lambda: sj.lstm(4)),
        (lambda: sj.cornn(4, step_size=np.float64(0.5)), lambda: sj.cornn(4, step_size=0.5)),
        (
            lambda: sj.clockwork(4, periods=[np.int64(1), np.int64(2)]),
            lambda: sj.clockwork(4, periods=(1, 2)),
        ),
        (lambda: sj.Chunked(np.int64(4)), lambda: sj.Chunked(4)),
        (lambda: sj.Scan(chunk=np.int32(4)), lambda: sj.Scan(chunk=4)),
        (lambda: sj.Newton(damping=np.float32(0.5)), lambda: sj.Newton(damping=0.5)),
        (lambda: sj.truncated_bptt(np.int64(4)), lambda: sj.truncated_bptt(4)),
        (lambda: sj.categorical(top_k=np.int64(4)), lambda: sj.categorical(top_k=4)),
    ],
)
def test_definitions_do_not_depend_on_the_kind_of_number(by_numpy, by_python):
    found, expected = by_numpy(), by_python()
    assert found == expected and hash(found) == hash(expected) and repr(found) == repr(expected)


REFUSED = {
    "a note": (
        lambda: checks.check_whole("f(x)", 0, note=", or 'all'"), ValueError,
        r"f\(x\): expected a whole number of at least 1, or 'all', got 0\."),
    "a hint": (
        lambda: checks.check_above("f(x)", 0, hint="Use g()."), ValueError,
        r"expected a finite number above 0, got 0\. Use g\(\)\."),
    "one of several numbers": (
        lambda: checks.check_whole_numbers("f", x=1, y=0), ValueError,
        r"f\(y\): expected a whole number of at least 1, got 0\."),
    "a range": (
        lambda: checks.check_range("f(low, high)", 2, 1), ValueError,
        r"f\(low, high\): expected 0 < low <= high, got 2 and 1\."),
    "an array in a method": (
        lambda: sj.Chunked(jnp.asarray(4)), TypeError, r"Chunked\(size=\.\.\.\): .* an array belongs in the params"),
    "zero, where None is not allowed": (
        lambda: sj.Chunked(0), ValueError, rf"Chunked\(size\): expected {WHOLE}, got 0\."),
    "None, where it is not allowed": (
        lambda: sj.Chunked(None), ValueError, rf"Chunked\(size\): expected {WHOLE}, got None\."),
    "zero, where None is allowed": (
        lambda: sj.Scan(chunk=0), ValueError, rf"Scan\(chunk\): expected {WHOLE}, or None, got 0\."),
}  # fmt: skip


@refusals(REFUSED)
def test_the_error_of_one_check(call, error, message):
    with pytest.raises(error, match=message):
        call()
