"""Write the page's texts and tables as LaTeX, and its tables as CSV."""

import csv
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser

from markupsafe import Markup, escape

from seqjax.report.content import Table, Text

_TAGS = {
    "b": r"\textbf{",
    "i": r"\textit{",
    "code": r"\texttt{",
    "sub": r"\textsubscript{",
    "sup": r"\textsuperscript{",
}
_SPECIAL = {character: rf"\{character}" for character in "{}$&#_%"}
_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u00a0": "~"}
_SPECIAL |= {
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
    "‖": r"$\Vert$",
    "½": r"$\frac{1}{2}$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
}
_NAMES = {
    "λ": "lambda",
    "τ": "tau",
    "σ": "sigma",
    "Σ": "Sigma",
    "µ": "mu",
    "×": "times",
    "÷": "div",
    "±": "pm",
}
_NAMES |= {"∂": "partial", "∞": "infty", "·": "cdot", "⋯": "cdots", "≈": "approx", "∝": "propto", "→": "to"}
_SPECIAL |= {character: rf"$\{name}$" for character, name in _NAMES.items()}
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RANGE = re.compile(r'^(.*?) <span class="span">\((.*?) to (.*?)\)</span>(.*)$', re.DOTALL)
_MEASURED = re.compile(r"(-?[\d.]+(?:e-?\d+)?) (\w+)")
_HINT = re.compile('<span class="hint">.*?</span>')
_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def latex(text: Text) -> str:
    r"""Return plain text or the page's markup as LaTeX for any engine.

    Example:
        >>> from markupsafe import Markup
        >>> latex(Markup("<b>lag<sub>90</sub></b> 50&nbsp;%")), latex("λ₁: −1.0×10⁻⁶")
        ('\\textbf{lag\\textsubscript{90}} 50~\\%', '$\\lambda$$_{1}$: $-$1.0$\\times$10$^{-6}$')
    """
    parser = _Converter()
    parser.feed(_HINT.sub("", str(escape(text))))
    parser.close()
    return "".join(parser.parts)


class _Converter(HTMLParser):
    """Collects LaTeX from the few tags that the page's texts have; others, such as spans, are left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.parts.append(
            _TAGS.get(tag, " " if self.parts and tag == "span" and self.parts[-1][-1:] != " " else "")
        )

    def handle_endtag(self, tag: str) -> None:
        self.parts.append("}" if tag in _TAGS else "")

    def handle_data(self, data: str) -> None:
        for some in re.split("([⁻⁰¹²³⁴-⁹]+|[₀-₉]+)", data):
            if re.match("[⁻⁰¹²³⁴-⁹]", some):
                self.parts.append(f"$^{{{some.translate(_RAISED)}}}$")
            elif re.match("[₀-₉]", some):
                self.parts.append(f"$_{{{some.translate(_LOWERED)}}}$")
            else:
                self.parts.append("".join(_SPECIAL.get(character, character) for character in some))


def latex_table(table: Table) -> str:
    """Return a table as a LaTeX ``tabular`` with the rules of the package booktabs."""
    columns = len(table.columns)
    form = "".join("r" if kind else "l" for _, kind in table.columns)
    lines = [
        rf"% {_plain(table.label)}; needs \usepackage{{booktabs}}",
        rf"\begin{{tabular}}{{{form}}}",
        r"\toprule",
    ]
    lines += [_line(title for title, _ in table.columns), r"\midrule"]
    for place, (heading, rows) in enumerate(table.groups):
        if place:
            lines.append(r"\addlinespace")
        if heading:
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{latex(heading)}}}}} \\")
        lines += [_line(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _line(cells: object) -> str:
    return " & ".join(latex(cell) for cell in cells) + r" \\"  # type: ignore[attr-defined]


def csv_table(table: Table) -> str:
    """Return a table as CSV: numbers in base units, and a value with its interval in three columns."""
    rows = [(heading, list(row)) for heading, some in table.groups for row in some]
    grouped = any(heading for heading, _ in rows)
    heads, columns = [], []
    for place, (title, _) in enumerate(table.columns):
        cells = [row[place] if place < len(row) else "" for _, row in rows]
        wide = any(_RANGE.match(_inner(cell)) for cell in cells)
        name = _plain(title)
        units = {base for cell in cells if (base := _base_unit(cell))}
        name += f", {units.pop()}" if len(units) == 1 else ""
        heads += [name, f"{name} low", f"{name} high"] if wide else [name]
        columns.append((cells, wide))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["group"] * grouped + heads)
    for place, (heading, _) in enumerate(rows):
        line = [_plain(heading)] * grouped
        for cells, wide in columns:
            line += _parts(cells[place]) if wide else [_number(cells[place])]
        writer.writerow(line)
    return buffer.getvalue()


def _inner(cell: Text) -> str:
    """Return the markup of a cell without bold type."""
    return re.sub("</?b>", "", str(escape(cell)))


def _parts(cell: Text) -> list[str]:
    """Return a value and the ends of its interval; a text after them stays with the value."""
    found = _RANGE.match(_inner(cell))
    if not found:
        return [_number(cell), "", ""]
    value, low, high, rest = found.groups()
    return [_number(Markup(value + rest)), *(_number(Markup(end)) for end in (low, high))]


def _number(cell: Text) -> str:
    """Return a cell as a plain number where it is one, and as text otherwise."""
    raised = re.fullmatch(r"10<sup>(−?[\d.]+)</sup>", _inner(cell))
    if raised:
        exponent = float(raised[1].replace("−", "-"))
        return f"{10**exponent:.3g}" if abs(exponent) < 300 else f"1e{exponent:g}"
    text = _plain(cell)
    if text == "–":
        return ""
    text = re.sub("×10([⁻⁰¹²³⁴-⁹]+)", lambda power: "e" + power[1].translate(_RAISED), text).replace("−", "-")
    measured = _MEASURED.fullmatch(text)
    if measured and measured[2] in _UNITS:
        return f"{float(measured[1]) * _UNITS[measured[2]]:.12g}"
    return text


def _base_unit(cell: Text) -> str:
    """Return "B" or "s" for a cell of bytes or seconds, "" for others."""
    measured = _MEASURED.fullmatch(_plain(cell))
    return {"B": "B", "s": "s"}.get(measured[2][-1], "") if measured and measured[2] in _UNITS else ""


def _plain(text: Text) -> str:
    """Return a text without markup, on one line."""
    spaced = str(escape(text)).replace('<span class="span">', ' <span class="span">')
    return " ".join(Markup(_HINT.sub("", spaced)).striptags().split())


def tables_of(blocks: object) -> Iterator[Table]:
    """Yield the tables of blocks, in the order of the page."""
    for block in blocks:  # type: ignore[attr-defined]
        if isinstance(block, Table):
            yield block
        for inner in (getattr(block, "blocks", ()), getattr(block, "aside", ())):
            yield from tables_of(inner)
