"""Format numbers as text."""

import math
import re
from collections.abc import Iterable

from markupsafe import Markup

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: int) -> str:
    """Write a power of ten with superscript digits."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def ten(exponent: float | str) -> Markup:
    """Write a power of ten for the page, with a raised exponent."""
    return Markup("10<sup>{}</sup>").format(str(exponent).replace("-", "−"))


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with `digits` significant digits; far from one, with a power of ten and two digits."""
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


_PREFIXES = {
    "B": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
}


def with_unit(value: float, unit: str, digits: int = 3, *, short: bool = False) -> str:
    r"""Write bytes ("B") or seconds ("s") with the prefix that fits; `short` leaves out zeros at the end.

    Example:
        >>> with_unit(12_345, "B"), with_unit(3.4e-4, "s"), with_unit(500, "B"), with_unit(2000, "B", short=True)
        ('12.3\xa0kB', '340\xa0µs', '500\xa0B', '2\xa0kB')
    """
    if not math.isfinite(value):
        return number(value)
    rounded = abs(float(f"{value:.{digits - 1}e}"))
    size, name = next(((s, n) for s, n in _PREFIXES[unit] if rounded >= s), _PREFIXES[unit][-1])
    whole = name == "B" and value == round(value)
    text = f"{value:.0f}" if whole else number(value / size, digits)
    if short and "." in text and "×" not in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}\u00a0{name}".replace("-", "−")


def between(middle: str | Markup, low: str | Markup, high: str | Markup) -> Markup:
    """Write a value and the ends of its range."""
    return Markup('{} <span class="span">({} to {})</span>').format(middle, low, high)


def decades(value: float) -> Markup:
    """Write ten to a measured power; a dash where it is unknown, "exactly 0" for an exponent of minus infinity."""
    if not math.isfinite(value):
        return Markup("exactly 0" if value == -math.inf else "–")
    return ten(f"{value:.{int(abs(value) < 10)}f}")


def percent(share: float) -> str:
    """Write a share in whole percent; a small positive share becomes "under 1 %"."""
    value = 100 * share
    if math.isnan(value):
        return "–"
    return "under 1\u00a0%" if 0 < value < 0.5 else f"{value:.0f}\u00a0%"


def plural(count: int, noun: str) -> str:
    """Write a count and its noun."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def file_name(name: str, place: int) -> str:
    """Return a file name for a cell or a group; where characters were replaced, its place makes the name unique.

    Example:
        >>> from seqjax.report.text import file_name
        >>> file_name("lstm", 0), file_name("../x.py:build", 1)
        ('lstm', '-x-py-build.1')
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:24]
    return safe if safe and safe == name else f"{safe}.{place}"


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return a different file name for each name."""
    return {name: file_name(name, place) for place, name in enumerate(dict.fromkeys(names))}
