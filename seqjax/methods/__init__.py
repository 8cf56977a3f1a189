"""Methods: algorithms that run a cell over time. Params do not depend on the method, so methods are interchangeable."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from seqjax.base import Cell, Method
from seqjax.methods.associative_scan import AssociativeScan
from seqjax.methods.auto import Auto
from seqjax.methods.chunked import Chunked
from seqjax.methods.common import at_step
from seqjax.methods.fused import Fused
from seqjax.methods.newton import Newton, NewtonReport
from seqjax.methods.scan import Scan
from seqjax.methods.time_sharded import TimeSharded
from seqjax.names import known_name, parse_call

METHODS: tuple[type, ...] = (Scan, AssociativeScan, Chunked, Fused, Newton, TimeSharded, Auto)
"""Every method, in the order of the tables."""

NAMED: dict[str, Any] = {
    "auto": Auto(),
    "scan": Scan(chunk=64),
    "autodiff": Scan(gradient="autodiff"),
    "associative_scan": AssociativeScan(),
    "chunked": Chunked(64),
    "fused": Fused(),
    "newton": Newton(),
}
"""The methods that commands, studies and training runs select by name."""

CALLED: dict[str, Callable[..., Method]] = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", each.__name__).lower(): each for each in METHODS
}
"""The classes of methods by the names that a call has on the command line."""


def named_method(text: str) -> Any:
    """Return the method of a name such as ``scan``, or of a call such as ``scan(chunk=8)``.

    A name stands for the method in `NAMED`; a call makes a method with these arguments, the others at their defaults.
    The class names of Python, such as ``AssociativeScan()``, are read too.

    Raises:
        ValueError: for another name, and for arguments that the method refuses.

    Example:
        >>> from seqjax.methods import named_method
        >>> named_method("scan"), named_method("scan(chunk=8)"), named_method("AssociativeScan()")
        (Scan(chunk=64), Scan(chunk=8), AssociativeScan())
    """
    name, args, keywords = parse_call(text)
    classes = {each.__name__: each for each in CALLED.values()}  # type: ignore[attr-defined]
    if name in classes:
        made: Callable[..., Method] = classes[name]
    elif "(" not in text:
        return NAMED[known_name(name, NAMED)]
    else:
        made = CALLED[known_name(name, CALLED)]
    try:
        return made(*args, **keywords)
    except TypeError as error:
        takes = ", ".join(each.name for each in dataclasses.fields(made) if each.init)  # type: ignore[arg-type]
        raise ValueError(f"{str(error).replace('.__init__()', ':')}. It takes {takes}.") from None


def check_name(field: str, text: str) -> None:
    """Raise a ValueError that begins with the field unless `named_method` knows the text."""
    try:
        named_method(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def check_method(method: Method, cell: Cell) -> None:
    """Raise a TypeError unless `method` is a method that runs the cell's kind of recurrence."""
    if isinstance(method, type) or not isinstance(method, Method):
        named = [m.__name__ for m in METHODS if m is method or m.__name__.lower() == str(method).lower()]
        remedy = f"Write {named[0]}()." if named else "Write Auto(), or leave the argument out."
        found = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
        raise TypeError(
            f"recurrent(method): expected a method such as Auto() or Chunked(), got {found}. {remedy}"
        )
    if isinstance(cell.recurrence, method.kinds):
        return
    kind = type(cell.recurrence)
    can = ", ".join(m.__name__ for m in METHODS if kind in m.kinds)  # type: ignore[attr-defined]
    runs = ", ".join(k.__name__ for k in method.kinds)
    raise TypeError(
        f"{method!r} cannot run {cell!r}: its recurrence is {kind.__name__}; "
        f"{type(method).__name__} runs {runs}. Methods that can: {can}."
    )


__all__ = [
    "AssociativeScan", "Auto", "Chunked", "Fused", "METHODS", "NAMED", "Newton", "NewtonReport", "Scan",
    "TimeSharded", "at_step", "check_method", "named_method",
]  # fmt: skip
