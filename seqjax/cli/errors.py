"""Errors of the command line, in one line; nothing here imports JAX."""

LONGEST_TEXT = 1000
"""Largest number of letters in an error; the middle of a longer text is left out."""


class UsageError(Exception):
    """Bad input: the program prints the text and exits with status 2."""


def one_line(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return a text in one line; the middle of a longer text is left out."""
    line = " ".join(str(text).split())
    if len(line) > longest:
        line = f"{line[: longest // 2]} [...] {line[-longest // 2 :]}"
    return line
