"""The help of the command line: options and commands in groups, as plain text.

Typer's own help imports rich, which takes as long as all the rest, and reads square brackets as markup.
"""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

SETTINGS = {"max_content_width": 1000}
"""Settings of each context: lines break at the width of the terminal alone."""

WHOLE_SENTENCE = 1000
"""The first sentence of a command's help is shown up to this length, instead of its beginning with three dots."""


class Command(TyperCommand):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the groups of options."""
        _write(formatter, _options(self, ctx))


class Group(TyperGroup):
    """A command with commands of its own, whose help shows them in groups; alone it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, print the help and end with the status of bad input."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options and the groups of commands."""
        sections = _options(self, ctx)
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            panel = getattr(command, "rich_help_panel", None)
            rows = sections.setdefault(panel if isinstance(panel, str) else "Commands", [])
            rows.append((name, command.get_short_help_str(WHOLE_SENTENCE) if command else ""))
        _write(formatter, sections)


def _options(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return the lines of the help by section: arguments, groups in their order, and options of no group."""
    found: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    others: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        panel = getattr(parameter, "rich_help_panel", None)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            found["Arguments"].append(record)
        elif isinstance(panel, str):
            found.setdefault(panel, []).append(record)
        else:
            others.append(record)
    return found | {"Options": others}


def _write(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    for name, rows in sections.items():
        if rows:
            with formatter.section(name):
                formatter.write_dl(rows)
