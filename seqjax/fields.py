"""Fields of a record of settings: each field carries its help text and its checks.

`setting` declares a field of a frozen dataclass, and `check_fields` checks a record. The command line makes its options
from the same fields, so that defaults, help texts and checks are written once.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from typing import Any

from seqjax.checks import check_above, check_at_least, check_whole
from seqjax.names import known_name

Check = Callable[[str, Any], Any]
"""``(name, value)``; raises a ValueError whose text begins with the name, as the functions of `seqjax.checks` do."""

at_least_one: Check = check_whole
above_zero: Check = check_above
at_least_zero: Check = functools.partial(check_at_least, least=0, finite=True)


class SettingError(ValueError):
    """A setting has a value that cannot be used.

    Args:
        template: the text of the error. ``{name}`` stands for the value of that name if `values` has one, otherwise for
            the field of that name.
        values: the values in the text.

    Example:
        >>> from seqjax.fields import SettingError
        >>> error = SettingError("{data}: expected {least} bytes for {length} 6.", least=70)
        >>> print(error)
        data: expected 70 bytes for length 6.
        >>> print(error.spelled(lambda name: f"--{name}"))
        --data: expected 70 bytes for --length 6.
    """

    def __init__(self, template: str, **values: Any) -> None:
        self._template, self._values = template, values
        super().__init__(self.spelled(str))

    def spelled(self, spell: Callable[[str], str]) -> str:
        """Return the text with ``spell(name)`` for the name of each field."""

        class Names(dict):
            def __missing__(self, name: str) -> str:
                return spell(name)

        return self._template.format_map(Names(self._values))


def setting(default: Any, help: str, *checks: Check) -> Any:  # noqa: A002 (the word of command lines)
    """Declare a field of a frozen dataclass of settings.

    Args:
        default: the default value.
        help: the help text, without a full stop; the command line adds the default.
        checks: functions that check the value, or each value of a tuple.
    """
    return field(default=default, metadata={"help": help, "checks": checks})


def check_fields(record: Any) -> None:
    """Check every field of a record; a field that is None is not checked.

    Raises:
        SettingError: for the first value that cannot be used.

    Example:
        >>> from dataclasses import dataclass
        >>> from seqjax.fields import at_least_one, check_fields, setting
        >>> @dataclass(frozen=True)
        ... class Sizes:
        ...     length: int = setting(64, "Time steps T", at_least_one)
        >>> try:
        ...     check_fields(Sizes(length=0))
        ... except ValueError as error:
        ...     print(error)
        length: expected a whole number of at least 1, got 0.
    """
    for each in fields(record):
        value = getattr(record, each.name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        for one in values:
            for check in each.metadata.get("checks", ()):
                try:
                    check(each.name, one)
                except ValueError as error:
                    text = str(error).removeprefix(each.name)
                    raise SettingError(f"{{{each.name}}}{{text}}", text=text) from None


def one_of(known: Iterable[str]) -> Check:
    """Return the check that a value is one of the known names."""

    def check(name: str, value: str) -> None:
        try:
            known_name(value, known)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return check


def at_most(most: int) -> Check:
    """Return the check that a value is a whole number from 1 to a bound."""
    return functools.partial(check_whole, most=most)


def flag(name: str) -> str:
    """Return the option of the command line for a field: ``--hidden-size`` for ``hidden_size``."""
    return f"--{name.replace('_', '-')}"
