"""Numbers as text for people."""

import math
import re

from markupsafe import Markup

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: int) -> str:
    """Write a power of ten with superscript digits."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def ten(exponent: float | str) -> Markup:
    """Write a power of ten for the page, the exponent raised."""
    return Markup("10<sup>{}</sup>").format(str(exponent).replace("-", "−"))


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, in powers of ten where it is far from one."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        text = "0"
    elif 1e-3 <= abs(value) < 1e5:
        exponent = int(f"{value:.{digits - 1}e}".split("e")[1])  # after rounding: 0.9999 is 1.00
        text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    else:
        mantissa, decade = f"{value:.1e}".split("e")
        text = f"{mantissa}×{power(int(decade))}"
    return text.replace("-", "−")


def between(middle: str | Markup, low: str | Markup, high: str | Markup) -> Markup:
    """A value and the ends of its range."""
    return Markup('{} <span class="span">({} to {})</span>').format(middle, low, high)


def decades(value: float) -> Markup:
    """Write ten to a power that was measured: a dash where unknown, "exactly 0" where the number itself is 0."""
    if not math.isfinite(value):
        return Markup("exactly 0" if value == -math.inf else "–")
    return ten(f"{value:.{int(abs(value) < 10)}f}")


def percent(share: float) -> str:
    """A share in whole percent, never rounded to nothing."""
    value = 100 * share
    if math.isnan(value):
        return "–"
    return "under 1\u00a0%" if 0 < value < 0.5 else f"{value:.0f}\u00a0%"


def plural(count: int, noun: str) -> str:
    """A count and its noun."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def file_name(cell: str, place: int) -> str:
    """Name a cell in a file name: names with other letters get a number behind a dot, and stay unique."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", cell)[:24]
    return safe if safe == cell else f"{safe}.{place}"
