"""The command line, one file per command."""

import inspect
import sys
from collections.abc import Callable

import typer

from seqjax.cli.check import check
from seqjax.cli.common import UsageError
from seqjax.cli.compare import compare_
from seqjax.cli.data import data
from seqjax.cli.gradients import gradients, render
from seqjax.cli.list import list_
from seqjax.cli.train import train

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train recurrent networks, and measure how their gradients travel through time.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "gradients": gradients,
    "render": render,
    "check": check,
    "compare": compare_,
    "train": train,
    "list": list_,
}
for name, command in COMMANDS.items():
    # The lines of a paragraph are joined, so that they break only at the width of the terminal.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    app.command(name, help="\n\n".join(" ".join(each.split()) for each in paragraphs))(command)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line. Bad input prints one line on stderr and exits with status 2."""
    try:
        code = app(standalone_mode=False)
    except (UsageError, typer.TyperException) as error:
        # Typer's own message names the option.
        message = str(error) if isinstance(error, UsageError) else error.format_message()
        if message:  # empty when no command was given and the help is shown
            print(f"seqjax: {message}", file=sys.stderr)
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        print("seqjax: interrupted.", file=sys.stderr)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
