"""Run the Python examples of a document."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_blocks(document):
    """The Python examples of a document."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def run_block(block, document, **names):
    """The names that a block defines, next to those given to it."""
    names["__name__"] = "example"
    exec(compile(block, document, "exec"), names)
    return names
