"""Read what a drawing looks like from its SVG: its hues, the sizes of its text, and where things stand."""

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def hues(svg):
    """The colors of a drawing that are no grey: their channels differ by more than a sixth of the range."""
    colors = set(re.findall(r"#[0-9a-f]{6}", svg))
    channels = {color: [int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors}
    return {color for color, values in channels.items() if max(values) - min(values) > 42}


def font_sizes(svg):
    """The sizes of all texts in pixels."""
    found = re.findall(r"font(?:-size)?: ?(?:\w+ )?([\d.]+)px", svg)
    return [float(size) for size in found] or [float("inf")]


def texts(svg):
    """The texts of a drawing, each with the middle of its height."""
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def group(svg, identity):
    """The element of this id."""
    root = ElementTree.fromstring(svg)
    return next(each for each in root.iter() if each.get("id") == identity)


def markers(svg, identity):
    """Where the markers of a line stand, in pixels."""
    uses = group(svg, identity).iter(f"{SVG}use")
    return [(float(use.get("x")), float(use.get("y"))) for use in uses]


def source(element):
    """The text of an element and all that it holds."""
    return ElementTree.tostring(element, encoding="unicode")
