"""Arguments of probes that compare methods at several sequence lengths."""

from collections.abc import Mapping
from typing import Any

from seqjax.base import Layer
from seqjax.checks import is_whole


def by_method(who: str, layer: Any, methods: Any) -> dict[str, Layer]:
    """Return layers by the name of their method, from one layer, or from a function of a method.

    Raises:
        TypeError: for a layer together with methods, or a function without methods.
        ValueError: for an empty choice of methods.
    """
    if isinstance(layer, Layer):
        if methods is not None:
            raise TypeError(
                f"{who}: expected with methods a function of one, such as lambda method: recurrent(cell, method), "
                f"got the layer {layer!r}."
            )
        return {repr(layer): layer}
    return made_by_method(who, layer, methods, "layer")


def made_by_method(who: str, make: Any, methods: Any, kind: str) -> dict[str, Any]:
    """Return the results of a function of a method, by the name of the method."""
    if methods is None or not callable(make):
        raise TypeError(f"{who}: expected a {kind}, or a function together with methods, got {make!r}.")
    named = dict(methods) if isinstance(methods, Mapping) else {repr(method): method for method in methods}
    if not named:
        raise ValueError(f"{who}(methods): expected one method at least, got none.")
    return {name: make(method) for name, method in named.items()}


def check_lengths(who: str, lengths: Any, least: int, total: int | None = None) -> list[int]:
    """Return the lengths as a list.

    Raises:
        ValueError: unless all are whole numbers above 0, at most `total`, and `least` of them differ.
    """
    found = list(lengths)
    if not all(map(is_whole, found)) or len(set(found)) < least:
        number = "one whole number" if least == 1 else f"{least} different whole numbers"
        raise ValueError(f"{who}(lengths): expected at least {number} above zero, got {found}.")
    if total is not None and max(found) > total:
        raise ValueError(f"{who}(lengths): expected at most the {total} steps of xs, got {max(found)}.")
    return [int(n) for n in found]
