"""Run the command line inside the test's process."""

import sys
from pathlib import Path

import pytest

from seqjax import cli

ROOT = Path(__file__).parents[2]
SMALL = "--sections training,decay --batch-size 2 --hidden-size 3".split()


def run(monkeypatch, *args):
    """The exit status of ``seqjax args``."""
    monkeypatch.setattr(sys, "argv", ["seqjax", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code
