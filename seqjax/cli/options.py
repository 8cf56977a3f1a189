"""Options of a command, made from the fields of a record of settings."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any

import typer

from seqjax.cli.common import UsageError
from seqjax.fields import flag

Command = Callable[..., None]


def options_of(
    record: type,
    *,
    leave_out: Container[str] = (),
    help: Mapping[str, str] = {},  # noqa: A002, B006 (the word of command lines; only read)
    otherwise: Callable[[str], str] = lambda name: "by default",
) -> Callable[[Command], Command]:
    """Give a command one option for each field of a record of settings.

    The command has a keyword parameter ``given``. In its place the command line has an option for each field, with the
    field's type and help text. The command gets in ``given`` the values of the options that the user gave.

    Args:
        record: a dataclass whose fields are made by `seqjax.fields.setting`.
        leave_out: names of fields without an option.
        help: help texts in place of those of the fields.
        otherwise: ``name -> text`` that says when the default applies, for the help text.

    Example:
        >>> from seqjax.cli.options import options_of
        >>> from seqjax.training.recipe import Recipe
        >>> @options_of(Recipe, leave_out=("task", "data", "data_sha256"))
        ... def show(*, given):
        ...     print(given)
        >>> show(hidden_size=8, depth=None)
        {'hidden_size': 8}
    """
    wanted = [each for each in dataclasses.fields(record) if each.name not in leave_out]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != "given":
                parameters.append(parameter)
                continue
            for each in wanted:
                text = _help(help.get(each.name, each.metadata["help"]), each.default, otherwise(each.name))
                parameters.append(_option(each, text))

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {each.name: _read(each, values.pop(each.name, None)) for each in wanted}
            command(**values, given={name: value for name, value in given.items() if value is not None})

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _option(field: dataclasses.Field, text: str) -> inspect.Parameter:
    """Return the parameter of a field; its default None shows that the user did not give the option."""
    of: Any = str if field.type in (tuple[int, ...], tuple[str, ...]) else field.type
    option = typer.Option(flag(field.name), help=text, show_default=False)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=None, annotation=Annotated[of | None, option])


def _help(text: str, default: Any, otherwise: str) -> str:
    if default is None or default is False or default == ():
        return f"{text}."
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text}; {shown} {otherwise}."


def _read(field: dataclasses.Field, value: Any) -> Any:
    """Return the value of a field from that of its option, which separates the values of a tuple by commas."""
    if value is None or field.type not in (tuple[int, ...], tuple[str, ...]):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if field.type == tuple[str, ...]:
        if not parts:
            raise UsageError(f"{flag(field.name)}: expected at least one name, got {value!r}.")
        return tuple(dict.fromkeys(parts))
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if not numbers:
        raise UsageError(f"{flag(field.name)}: expected whole numbers separated by commas, got {value!r}.")
    return tuple(sorted(set(numbers)))
