"""Fields of a record of settings: each field carries its help text and its checks.

`setting` declares a field of a frozen dataclass, and `check_fields` checks a record. The command line makes its options
from the same fields, so that defaults, help texts and checks are written once.
"""

from collections.abc import Callable, Iterable
from dataclasses import field, fields
from typing import Any

from seqjax.names import known_name

Check = Callable[[Any], None]
"""``value -> None``; raises a ValueError whose text says what was expected, without the name of the field."""


class SettingError(ValueError):
    """A setting has a value that cannot be used.

    Args:
        template: the text of the error. ``{name}`` stands for a value if one of that name is given, otherwise for the
            field of that name.
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
        default: its default value.
        help: its help text, without a full stop; the command line adds the default.
        checks: are called with its value, or with each value of a tuple.
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
                    check(one)
                except ValueError as error:
                    raise SettingError(f"{{{each.name}}}: {{text}}", text=error) from None


def at_least_one(value: int) -> None:
    """Check that a whole number is 1 or more."""
    if value < 1:
        raise ValueError(f"expected a whole number of at least 1, got {value}.")


def above_zero(value: float) -> None:
    """Check that a number is finite and above 0."""
    if not 0 < value < float("inf"):
        raise ValueError(f"expected a number above 0, got {value}.")


def at_least_zero(value: float) -> None:
    """Check that a number is finite and 0 or more."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"expected a number of at least 0, got {value}.")


def one_of(known: Iterable[str]) -> Check:
    """Return the check that a name is one of the known ones."""

    def check(name: str) -> None:
        known_name(name, known)

    return check


def flag(name: str) -> str:
    """Return the option of the command line for a field: ``--hidden-size`` for ``hidden_size``."""
    return f"--{name.replace('_', '-')}"
