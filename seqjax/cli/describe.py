"""Write ``options.json``, the options of all commands, from the signatures and docstrings of the commands.

Importing a command imports JAX, which takes seconds. The command line is therefore parsed with the help of that file,
and a command is imported when its turn comes. ``make tables`` calls ``python -m seqjax.cli.describe``.
"""

import inspect
import json
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from typer.models import ArgumentInfo

from seqjax.cli.commands import COMMANDS, OPTIONS, TYPES, function_of


def describe(name: str) -> dict[str, Any]:
    """Return the help text and the parameters of a command, as JSON holds them.

    The lines of a paragraph are joined, so that they break only at the width of the terminal.
    """
    function = function_of(name)
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    found: list[dict[str, Any]] = []
    panel = None
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        panel = COMMANDS[name].groups.get(parameter.name, panel)
        found.append(_described(parameter, panel))
    return {"help": "\n\n".join(" ".join(each.split()) for each in paragraphs), "parameters": found}


def _described(parameter: inspect.Parameter, panel: str | None) -> dict[str, Any]:
    """Return an argument or an option as JSON holds it; what is None or empty is left out."""
    if get_origin(parameter.annotation) is not Annotated:
        raise TypeError(
            f"{parameter.name}: expected Annotated[type, typer.Option()], got {parameter.annotation}."
        )
    of, info = get_args(parameter.annotation)
    optional = type(None) in get_args(of)
    (of,) = (each for each in get_args(of) if each is not type(None)) if optional else (of,)
    (kind,) = (name for name, known in TYPES.items() if known == of)
    argument = isinstance(info, ArgumentInfo)
    facts: dict[str, Any] = {
        "name": parameter.name,
        "type": kind,
        "optional": optional,
        "argument": argument,
        # In Annotated, Typer takes the first flag for a default.
        "flags": [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)],
        "help": info.help,
        "metavar": info.metavar,
        "panel": None if argument else panel,
    }
    kept = {name: value for name, value in facts.items() if value not in (None, False, [])}
    if not info.show_default:
        kept["show_default"] = False
    if parameter.default is not parameter.empty:
        default = parameter.default
        kept["default"] = str(default) if isinstance(default, Path) else default
    return kept


def text() -> str:
    """Return the content of the file of options."""
    return json.dumps({name: describe(name) for name in COMMANDS}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OPTIONS.write_text(text(), encoding="utf-8")
