"""Which tests go to the same worker, where several workers share a run (``pytest -n 2``)."""

import re
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

OF_ALL_CELLS = ("test_cells", "test_conformance", "test_time_sharded")


def file_of(nodeid):
    """The name of the test's file, without ending."""
    return Path(nodeid.partition("::")[0]).stem


def group_of(nodeid):
    """The tests of a file share programs and data, so one worker runs them.

    The tests of all cells are many: there a group is a cell, or a cell and a method, which come first in a test's name.
    """
    file = file_of(nodeid)
    if file in OF_ALL_CELLS and (found := re.search(r"\[([^-\]]+)(-\w+\([^)]*\))?", nodeid)):
        return f"{file}-{found[1]}{found[2] or ''}"
    return file


class LoadGroups(LoadScopeScheduling):
    """Give each worker that is free the next group."""

    def _split_scope(self, nodeid):
        return group_of(nodeid)
