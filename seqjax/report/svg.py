"""Prepare matplotlib's SVG for a page: themed colors, unique ids, text as text, no metadata."""

import io
import re
import warnings
from xml.etree import ElementTree

from matplotlib.figure import Figure

# Colors that no drawing uses otherwise; in the SVG they are replaced by the colors of the page's theme.
INK, GRID, LOST, ABSENT = "#0a0b0c", "#0d0e0f", "#0b0a0c", "#0c0a0b"
# Groups of this id get an outline in the color of the page, so that text on top of lines is legible.
HALO = "halo"
_THEME = {INK: "currentColor", GRID: "var(--grid, #8c939b)"}
# Small patterns in place of matplotlib's hatchings, which take 100 kB each.
_PATTERNS = {
    LOST: ("lost", "#000000", '<circle cx="3" cy="3" r="0.9" fill="#d5d8dc"/>'),
    ABSENT: (
        "absent",
        "#a9adb2",
        '<path d="M-1 7L7 -1M-1 1L1 -1M5 7L7 5" stroke="#4d5258" stroke-width="1"/>',
    ),
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STANDALONE = (
    "svg{color:#1d2126;background:#fff;--ground:#fff;--grid:#dde0e4}@media "
    "(prefers-color-scheme:dark){svg{color:#e4e6e8;background:#14171a;--ground:#14171a;--grid:#353c43}}"
)
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def standalone(svg: str) -> str:
    """Add light and dark colors to a drawing, so that it can be viewed as a separate file."""
    head, rest = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}><style>{_STANDALONE}</style>{rest}\n'


def write(figure: Figure, name: str, label: str) -> str:
    """Write a figure as one SVG element with prefixed ids, colors of the theme, short numbers and no metadata."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The browser shows the text in other fonts than the one that matplotlib measured.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    theme = _THEME | {sentinel: f"url(#{pattern[0]})" for sentinel, pattern in _PATTERNS.items()}
    root.append(ElementTree.fromstring(_pattern_definitions()))
    for element in root.iter():
        if element.get("id", "").startswith(HALO):
            element.set("style", "paint-order: stroke; stroke: var(--ground, none); stroke-width: 3")
        for key, value in element.attrib.items():
            for sentinel, replacement in theme.items():
                value = value.replace(sentinel, replacement)
            if key == "id":
                value = f"{name}-{value}"
            elif key == "d":
                value = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", value)
            elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            element.set(
                key, value.replace("url(#", f"url(#{name}-").replace("font-family: 'DejaVu Sans'; ", "")
            )
    width, height = (str(round(72 * side)) for side in figure.get_size_inches())
    root.attrib.update({"width": width, "height": height, "role": "img", "aria-label": printable(label)})
    root.set("style", f"font-family: {_FONT}; stroke-linejoin: round; stroke-linecap: butt")
    return ElementTree.tostring(root, encoding="unicode")


def _pattern_definitions() -> str:
    patterns = (
        f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" fill="{ground}"/>{marks}</pattern>'
        for name, ground, marks in _PATTERNS.values()
    )
    return f'<defs xmlns="{_SVG}">{"".join(patterns)}</defs>'


def printable(text: str) -> str:
    """Replace characters that XML cannot hold, such as control characters."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
