"""Tables of calls that are refused: ``{what is wrong: (call, error, pattern of its text)}``."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest


def refusals(table: Mapping[str, tuple[Callable, type[Exception], str]]) -> Any:
    """Give a test the arguments `call`, `error` and `message` of each row."""
    return pytest.mark.parametrize(
        ("call", "error", "message"), [pytest.param(*row, id=name) for name, row in table.items()]
    )
