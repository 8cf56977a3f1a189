"""The command line, one file per command."""

import os
import sys

from typer.main import get_command

from seqjax.cli.ending import ends
from seqjax.cli.parser import make_app

COMPLETE = "_SEQJAX_COMPLETE"
"""The environment variable by which a shell asks for the possible next words."""


def main() -> None:
    """Run the command line; `seqjax.cli.ending` says how it ends.

    Typer's own ``app()`` is not called: it ends with status 130 at Ctrl-C, without a line, and takes a file that is too
    short for a Ctrl-C.
    """
    with ends():
        program = get_command(make_app())
        if os.environ.get(COMPLETE):
            program.main(prog_name="seqjax")
        with program.make_context("seqjax", sys.argv[1:]) as context:
            program.invoke(context)
