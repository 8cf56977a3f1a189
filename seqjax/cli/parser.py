"""The parser of the command line, made from ``options.json``; it does not import JAX."""

import importlib.metadata
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from seqjax.cli.commands import COMMANDS, GROUPS, OPTIONS, TYPES, function_of
from seqjax.cli.errors import UsageError
from seqjax.cli.help import SETTINGS, Command, Group
from seqjax.install import install_command
from seqjax.interrupts import ending_at_once
from seqjax.version import __version__


def make_app() -> typer.Typer:
    """Return the program: the options of every command, and commands that are imported when they run."""
    app = typer.Typer(
        cls=Group,
        context_settings=SETTINGS,
        rich_markup_mode=None,
        help="Train recurrent networks, and measure how their gradients travel through time.",
    )
    app.callback()(_program)
    groups: dict[str, typer.Typer] = {}
    described = json.loads(OPTIONS.read_text(encoding="utf-8"))
    for name, place in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group and group not in groups:
            groups[group] = typer.Typer(cls=Group, rich_markup_mode=None, help=GROUPS[group])
            app.add_typer(groups[group], name=group, rich_help_panel=place.panel)
        add = groups[group].command if group else app.command
        panel = None if group else place.panel
        add(last, cls=Command, help=described[name]["help"], rich_help_panel=panel)(
            _command(name, described[name]["parameters"])
        )
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seqjax {__version__}, jax {importlib.metadata.version('jax')}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the versions of seqjax and JAX.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Take the options that go before the name of a command."""


def _command(name: str, parameters: list[dict[str, Any]]) -> Callable[..., None]:
    """Return a function with the signature of a command, which imports the command and runs it."""

    def run(**values: Any) -> None:
        _imported(name)(**values)

    kind = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(each["name"], kind, default=_default(each), annotation=_annotation(each))
            for each in parameters
        ]
    )
    run.__name__ = name
    return run


def _imported(name: str) -> Callable[..., None]:
    try:
        with ending_at_once():  # importing takes seconds
            return function_of(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("seqjax"):
            raise
        needed = f"{name} needs the package {error.name}: {install_command('report')}."
        raise UsageError(needed) from None


def _default(described: dict[str, Any]) -> Any:
    if "default" not in described:
        return inspect.Parameter.empty
    default = described["default"]
    return Path(default) if described["type"] == "Path" and default is not None else default


def _annotation(described: dict[str, Any]) -> Any:
    of = TYPES[described["type"]]
    of = of | None if described.get("optional") else of
    texts: dict[str, Any] = {name: described.get(name) for name in ("help", "metavar")}
    shown = described.get("show_default", True)
    if described.get("argument"):
        return Annotated[of, typer.Argument(show_default=shown, **texts)]
    flags, panel = described.get("flags", ()), described.get("panel")
    return Annotated[of, typer.Option(*flags, show_default=shown, rich_help_panel=panel, **texts)]
