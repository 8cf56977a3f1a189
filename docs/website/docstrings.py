"""Docstrings as this project writes them, turned into what Sphinx reads."""

import re
from typing import Any

LEADS = re.compile(r"^(Shapes|Gradients|Cost|Work|Memory|Deviation|Range): ")
"""Words that begin a paragraph, as a heading inside the line does."""


LETTER = re.compile(r"^( +\w+: [A-Za-z])\.(?= |$)")
"""A description that begins with a symbol and a period, which is no numbered list."""


def references(lines: list[str]) -> list[str]:
    """Return the lines with each entry of a References section as an item of a list. An entry ends with a period."""
    found, inside, fresh = [], False, True
    for line in lines:
        heading = re.fullmatch(r"\w[\w ]*:", line)
        if heading:
            inside, fresh = line == "References:", True
        elif inside and line.strip():
            text = line.strip()
            line = f"    {'* ' if fresh else '  '}{text}"
            fresh = text.endswith((".", ")"))
        found.append(line)
    return found


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring before napoleon reads its sections."""
    lines[:] = [LETTER.sub(r"\1\.", LEADS.sub(r"**\1:** ", line)) for line in references(lines)]


def skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of NamedTuples, which the docstring of their class describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict:
    """Connect, before napoleon."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
