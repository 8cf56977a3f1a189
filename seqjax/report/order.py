"""Say how sure the order of cells by one quantity is."""

from collections.abc import Mapping

import numpy as np

from seqjax.report.content import Text, bold, listed, say
from seqjax.statistics import Interval


def has_interval(found: Interval) -> bool:
    """Return whether a value has an interval."""
    return bool(np.isfinite([found.estimate, found.low, found.high]).all())


def apart(a: Interval, b: Interval) -> bool:
    """Return whether two intervals have no point in common; False where one is missing."""
    return has_interval(a) and has_interval(b) and bool(a.high < b.low or b.high < a.low)


def certainty(values: Mapping[str, Interval], best: str) -> Text:
    """Return a sentence on whether a cell that was named as an extreme can be told from the others.

    Example:
        >>> certainty({"a": Interval(1, 0, 2), "b": Interval(3, 1, 5), "c": Interval(9, 8, 10)}, "a").striptags()
        'The interval of a overlaps with that of b.'
    """
    others = [cell for cell in values if cell != best]
    if not others:
        return say("")
    if not all(map(has_interval, values.values())):
        return say("Not every value has an interval, so this order is not certain. ")
    near = [cell for cell in others if not apart(values[best], values[cell])]
    if not near:
        return say("The interval of {} lies apart from all others. ", bold(best))
    return say("The interval of {} overlaps with that of {}. ", bold(best), listed(map(bold, near)))
