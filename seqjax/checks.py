"""Checks of arguments, shared by the whole package; most return the value that they accept.

`what` names the argument in the error, such as "lstm(hidden_size)". A `note` extends the expected value, such as
", or None"; a `hint` follows as a sentence of its own. NumPy numbers are accepted and returned as Python numbers, so
that definitions compare and hash by value.
"""

import math
import numbers
import operator
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import jax
import numpy as np

LARGEST = 2**31 - 1
"""Largest size: the sizes and positions of JAX's programs are int32."""
LARGEST_FLOAT = float(np.finfo(np.float32).max)
_PLAIN = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number in the range of float32",
    str: "a string",
    NoneType: "None",
}
Interval = Literal["[0, 1)", "(0, 1]", "[0, 1]", "(0, 1)"]


def check_whole(what: str, value: Any, least: int = 1, most: int | None = None, *, note: str = "") -> int:
    """Return the value as an int; raise a ValueError unless it is a whole number from `least` to `most`, or 2^31 - 1.

    Whole numbers are the integers of Python and NumPy, and all other values that Python accepts as an index. Booleans
    and floats are not whole numbers.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= (LARGEST if most is None else most):
        too_large = number is not None and number > LARGEST
        bounds = (
            f"of at least {least}{' and below 2^31' * too_large}"
            if most is None
            else f"from {least} to {most}"
        )
        _refuse(what, f"a whole number {bounds}{note}", value)
    return number


def check_whole_or_none(what: str, value: Any, least: int = 1) -> int | None:
    """Return None for None, otherwise the result of `check_whole`; the error also names None."""
    return None if value is None else check_whole(what, value, least, note=", or None")


def check_whole_numbers(who: str, **values: Any) -> None:
    """Raise a ValueError unless all arguments of `who` are whole numbers of at least 1."""
    for name, value in values.items():
        check_whole(f"{who}({name})", value)


def is_whole(value: Any, least: int = 1) -> bool:
    """Return whether `check_whole` accepts the value."""
    try:
        check_whole("", value, least)
    except ValueError:
        return False
    return True


def check_divisor(what: str, value: int, of: str, total: int, *, hint: str = "") -> None:
    """Raise a ValueError unless a positive value divides the total; `of` names the total in the error."""
    if total % value:
        _refuse(what, f"a divisor of {of}", value, hint)


def check_multiple(what: str, value: int, divisor: int = 2) -> None:
    """Raise a ValueError unless a positive value is a multiple of the divisor."""
    if value % divisor:
        _refuse(what, f"a multiple of {divisor}", value)


def check_at_least(
    what: str, value: Any, least: float, *, finite: bool = False, note: str = "", hint: str = ""
) -> Any:
    """Return a number; raise a ValueError unless it is at least `least`, and not infinite with ``finite=True``."""
    number = _number(value)
    if number is None or not number >= least or (finite and number == math.inf):
        _refuse(what, f"a {'finite ' * finite}number of at least {least}{note}", value, hint)
    return number


def check_above(what: str, value: Any, bound: float = 0, *, note: str = "", hint: str = "") -> Any:
    """Return a finite number; raise a ValueError unless it is above the bound."""
    number = _number(value)
    if number is None or not bound < number < math.inf:
        _refuse(what, f"a finite number above {bound}{note}", value, hint)
    return number


def check_within(what: str, value: Any, within: Interval = "[0, 1)", *, note: str = "") -> Any:
    """Return a number; raise a ValueError unless it lies within the interval."""
    number = _number(value)
    inside = number is not None and (
        0 < number < 1 or (number == 0 and within[0] == "[") or (number == 1 and within[-1] == "]")
    )
    if not inside:
        _refuse(what, f"a number in {within}{note}", value)
    return number


def check_lengths(who: str, lengths: Any, num_steps: int) -> Any:
    """Return lengths as an array; raise a ValueError unless they are whole numbers from 0 to `num_steps`.

    The values of a traced array are unknown: its dtype alone is checked.
    """
    array = lengths if hasattr(lengths, "dtype") else np.asarray(lengths)
    if not array.size:
        array = array.astype(np.int32)
    shape = list(array.shape)
    if not (np.issubdtype(array.dtype, np.signedinteger) or np.issubdtype(array.dtype, np.unsignedinteger)):
        raise ValueError(
            f"{who}(lengths): expected whole numbers of steps, of an integer dtype, got {array.dtype} {shape}."
        )
    if array.size and not is_traced(array):
        least, most = int(array.min()), int(array.max())
        if least < 0 or most > num_steps:
            found = least if least < 0 else most
            raise ValueError(f"{who}(lengths): expected lengths from 0 to T = {num_steps}, got {found}.")
    return array


def is_traced(tree: Any) -> bool:
    """Return whether a tree contains arrays whose values are unknown, as under `jax.jit`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def is_addressable(array: Any) -> bool:
    """Return whether this process can read all values of a concrete array."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable


def check_range(what: str, low: float, high: float) -> None:
    """Raise a ValueError unless 0 < low <= high, both finite; `what` is of the form "s5(step_min, step_max)"."""
    if not 0 < low <= high < math.inf:
        names = what[what.index("(") + 1 : -1].split(", ")
        raise ValueError(f"{what}: expected 0 < {' <= '.join(names)}, got {low} and {high}.")


def check_one_of(what: str, value: Any, choices: Iterable[str]) -> None:
    """Raise a ValueError unless the value is one of the choices."""
    names = tuple(choices)
    if not isinstance(value, str) or value not in names:
        _refuse(what, f"one of {', '.join(map(repr, names))}", value)


def check_type(what: str, value: Any, annotation: Any) -> None:
    """Raise a ValueError unless a value fits an annotation made of bool, int, float, str, Literal, tuple and None.

    Numbers must be finite, floats in the range of float32 and whole numbers below 2^31 in size. An annotation that
    contains any other type accepts every value.

    Example:
        >>> from seqjax.checks import check_type
        >>> check_type("f(width)", 3, int | None)
        >>> try:
        ...     check_type("f(width)", "3", int | None)
        ... except ValueError as error:
        ...     print(error)
        f(width): expected a whole number or None, got '3'.
    """
    wanted = _wanted(annotation)
    if None not in wanted and not _fits(value, annotation):
        _refuse(what, " or ".join(str(each) for each in wanted), value)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _wanted(annotation: Any) -> list[str | None]:
    """Return what each alternative of an annotation expects, in words; None for a type that is not checked."""
    words: list[str | None] = []
    for each in _alternatives(annotation):
        args = [arg for arg in get_args(each) if arg is not Ellipsis]
        if get_origin(each) is Literal:
            words.append(f"one of {', '.join(map(repr, args))}")
        elif get_origin(each) is tuple:
            inner = [word for arg in args for word in _wanted(arg)]
            words.append(
                None if None in inner else f"a tuple of {' and '.join(dict.fromkeys(map(str, inner)))}"
            )
        else:
            words.append(_PLAIN.get(each))
    return words


def _fits(value: Any, annotation: Any) -> bool:
    for each in _alternatives(annotation):
        args = get_args(each)
        if each is int and is_whole(value, -LARGEST):
            return True
        if each is float and (number := _number(value)) is not None and abs(number) <= LARGEST_FLOAT:
            return True
        if each in (bool, str, NoneType) and isinstance(value, each):
            return True
        if get_origin(each) is Literal and value in args:
            return True
        if get_origin(each) is tuple and isinstance(value, tuple):
            of = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
            if len(of) == len(value) and all(map(_fits, value, of)):
                return True
    return False


def _number(value: Any) -> Any:
    """Return a real number as a Python number; None for anything else, including booleans and arrays."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _refuse(what: str, wanted: str, value: Any, hint: str = "") -> NoReturn:
    raise ValueError(f"{what}: expected {wanted}, got {value!r}.{hint and ' ' + hint}")
