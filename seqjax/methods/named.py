"""Methods by name, as the command line and saved settings write them."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from seqjax.base import Method
from seqjax.methods.associative_scan import AssociativeScan
from seqjax.methods.auto import Auto
from seqjax.methods.chunked import Chunked
from seqjax.methods.fused import Fused
from seqjax.methods.newton import Newton
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
