"""Execute the shapes in annotations of functions that check their own arguments.

`beartype` checks arguments before a function runs, so a user's mistake would never reach the function's own error, and
the tests are about that error. `checked_afterwards` compares shapes when the function has returned: arguments, results,
and the fields of a record that a public function returns, all with one meaning of the letters ``T``, ``B``, ... Types
without shapes are left to mypy.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from beartype import beartype
from beartype.door import die_if_unbearable
from jaxtyping import AbstractArray, PyTree

RESULT = "ret0"
"""The argument with which jaxtyping passes the result to its check after the call; the check before has none."""


def checked_afterwards(check: Callable) -> Callable:
    """A type checker for `jaxtyping.install_import_hook`, which has a function checked before a call, one after it.

    Inner functions may run under `jax.vmap`, where records have fewer axes; only a public function's record is checked.
    """
    if RESULT not in inspect.signature(check).parameters:
        return check
    hints = {name: hint for name, hint in check.__annotations__.items() if name != RESULT}
    check.__annotations__ |= {name: hint if has_shape(hint) else Any for name, hint in hints.items()}
    if any(map(has_shape, hints.values())):
        check = beartype(check)
    if (
        "<locals>" in check.__qualname__
        or check.__name__.startswith("_")
        or not fields_of(hints.get("return"))
    ):
        return check

    @functools.wraps(check)
    def with_fields(*args: Any, **kwargs: Any) -> None:
        check_fields(check(*args, **kwargs))

    return with_fields


def check_fields(record: Any) -> None:
    """Compare the fields of a record with the shapes in its class."""
    for name, hint in fields_of(type(record)).items():
        die_if_unbearable(getattr(record, name), hint, exception_prefix=f"{type(record).__name__}.{name} ")


@functools.cache
def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a named tuple whose annotations have shapes; none for any other annotation."""
    if not (isinstance(record, type) and issubclass(record, tuple) and hasattr(record, "_fields")):
        return {}
    return {name: hint for name, hint in typing.get_type_hints(record).items() if has_shape(hint)}


def has_shape(hint: Any) -> bool:
    """Whether an annotation names the shape of an array, by itself, as an alternative, or for the leaves of a tree."""
    if isinstance(hint, type) and (issubclass(hint, AbstractArray) or issubclass(hint, PyTree)):
        return True
    return any(map(has_shape, typing.get_args(hint)))
