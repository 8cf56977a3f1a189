"""The command line, one file per command."""

import inspect
import sys
from collections.abc import Callable

import typer
from typer.main import get_command

from seqjax.cli.check import check
from seqjax.cli.compare import compare_
from seqjax.cli.data import data
from seqjax.cli.ending import ends
from seqjax.cli.evaluate import evaluate
from seqjax.cli.generate import generate
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
    "generate": generate,
    "evaluate": evaluate,
    "list": list_,
}
for name, command in COMMANDS.items():
    # The lines of a paragraph are joined, so that they break only at the width of the terminal.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    app.command(name, help="\n\n".join(" ".join(each.split()) for each in paragraphs))(command)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; `seqjax.cli.ending` says how it ends.

    Typer's own ``app()`` is not called: it ends with status 130 at Ctrl-C, without a line, and takes a file that is too
    short for a Ctrl-C.
    """
    with ends():
        program = get_command(app)
        with program.make_context("seqjax", sys.argv[1:]) as context:
            program.invoke(context)
