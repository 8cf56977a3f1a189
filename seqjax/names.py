"""Read names and calls that a user writes, such as ``lstm`` or ``lru(r_min=0.9)``, without running any code."""

import ast
import difflib
import warnings
from collections.abc import Iterable
from typing import Any

MANY = 30
"""Errors list the known names only when there are fewer than this (the registry of cells has more)."""

LONGEST_CALL = 1000
"""Largest number of letters in a call. Python's parser fails on deeply nested expressions, in several ways."""


def known_name(name: str, known: Iterable[str]) -> str:
    """Return the name if it is one of the known names.

    Raises:
        ValueError: for any other name; the text suggests the nearest known name.

    Example:
        >>> from seqjax.names import known_name
        >>> try:
        ...     known_name("grru", ["lstm", "gru"])
        ... except ValueError as error:
        ...     print(error)
        unknown name 'grru'. Did you mean 'gru'? There are lstm, gru.
    """
    choices = list(known)
    if name in choices:
        return name
    near = difflib.get_close_matches(name, choices, 1, 0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    there = f"There are {', '.join(choices)}." if len(choices) < MANY else "'seqjax list' shows all."
    raise ValueError(f"unknown name {name!r}.{hint} {there}")


def parse_call(expression: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return name, arguments and keyword arguments of ``name`` or ``name(1, key=2)``; all arguments are literals.

    Raises:
        ValueError: for any other expression.

    Example:
        >>> from seqjax.names import parse_call
        >>> parse_call("lru(r_min=0.9)")
        ('lru', [], {'r_min': 0.9})
    """
    if len(expression) > LONGEST_CALL:
        raise ValueError(
            f"expected a name, or a call with plain values such as lstm(8), of at most {LONGEST_CALL} letters, got "
            f"{len(expression)}: {expression[:20]!r}..."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strings such as "\\d": the error below says enough
            node = ast.parse(expression, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and all(k.arg for k in node.keywords)
        ):
            keywords = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
            return node.func.id, [ast.literal_eval(each) for each in node.args], keywords
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    shown = expression if len(expression) <= 100 else f"{expression[:100]}..."
    raise ValueError(f"expected a name, or a call with plain values such as lstm(8), got {shown!r}.")


def split(text: str) -> list[str]:
    """Split a text at the commas that stand outside brackets and quotation marks.

    Example:
        >>> from seqjax.names import split
        >>> split("lstm, method=Chunked(1, 2)")
        ['lstm', 'method=Chunked(1, 2)']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (not quote) * ((letter in "([{") - (letter in ")]}"))
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
