"""The verdict of a study: which cell is ahead in which quantity, as far as the intervals say so."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from seqjax.report.content import Text, bold, listed, say
from seqjax.report.order import has_interval
from seqjax.report.quantities import Quantity
from seqjax.report.text import plural
from seqjax.statistics import Interval

SHOWN = 3
"""Cells whose values the first sentence gives."""
Values = Mapping[Quantity, Mapping[str, Interval]]


class Outcome(NamedTuple):
    """What the intervals of one quantity say.

    Attributes:
        winner: the cell whose interval is better than that of every other measured cell, or None.
        why: why there is no winner: "one cell", "no interval" or "overlap"; "" for a winner.
    """

    winner: str | None
    why: str


def outcome(quantity: Quantity, values: Mapping[str, Interval]) -> Outcome:
    """Return the winner of a quantity among the cells that have a value.

    A cell without an interval could lie anywhere, so no cell wins a quantity in which some value has no interval.
    """
    if len(values) < 2:
        return Outcome(None, "one cell")
    if not all(map(has_interval, values.values())):
        return Outcome(None, "no interval")
    for cell, found in values.items():
        if all(quantity.ahead(found, other) for name, other in values.items() if name != cell):
            return Outcome(cell, "")
    return Outcome(None, "overlap")


def best_everywhere(values: Values, cells: Sequence[str]) -> str | None:
    """Return the cell that is ahead of every other cell in every quantity in which the two can be compared.

    Two cells can be compared where both have an interval; a quantity that one of them lacks decides nothing. With no
    quantity to compare two cells, neither is ahead of the other.
    """
    for cell in cells:
        compared = [_compared(values, cell, other) for other in cells if other != cell]
        if compared and all(
            some and all(quantity.ahead(a, b) for quantity, a, b in some) for some in compared
        ):
            return cell
    return None


def each_is_behind(values: Values, cells: Sequence[str]) -> bool:
    """Return whether every cell is behind another one in some quantity: then none is best everywhere."""
    return len(cells) > 1 and all(
        any(
            quantity.ahead(b, a)
            for other in cells
            if other != cell
            for quantity, a, b in _compared(values, cell, other)
        )
        for cell in cells
    )


def _compared(values: Values, cell: str, other: str) -> list[tuple[Quantity, Interval, Interval]]:
    return [
        (quantity, by_cell[cell], by_cell[other])
        for quantity, by_cell in values.items()
        if cell in by_cell
        and other in by_cell
        and has_interval(by_cell[cell])
        and has_interval(by_cell[other])
    ]


def sentences(values: Values, cells: Sequence[str]) -> list[Text]:
    """Return the verdict in at most three sentences: the first quantity, the others, and what is open."""
    if not values:
        return ["Nothing that compares cells has been measured."]
    outcomes = {quantity: outcome(quantity, by_cell) for quantity, by_cell in values.items()}
    first = next(iter(values))
    found = [_first(first, values[first], outcomes[first])]
    if len(cells) < 2:
        return [*found, "With one cell there is nothing to compare."]
    found.append(_others(values, cells, outcomes, first))
    found.append(_open({quantity: each for quantity, each in outcomes.items() if quantity != first}))
    return [sentence for sentence in found if sentence]


def _first(quantity: Quantity, values: Mapping[str, Interval], found: Outcome) -> Text:
    """Say where the first measured quantity stands, with the values of the best cells."""
    ranked = sorted(values, key=lambda cell: values[cell].estimate, reverse=quantity.more)
    best, others = ranked[0], ranked[1:]
    what = say("{}, {}", quantity.name, quantity.meaning)

    def of(cells: Sequence[str]) -> Text:
        shown = [say("{} for {}", quantity.text(values[cell]), bold(cell)) for cell in cells[:SHOWN]]
        more = len(cells) - SHOWN
        return listed(shown if more < 1 else [*shown, say("those of {}", plural(more, "more cell"))])

    value = quantity.with_unit(values[best])
    if found.winner:
        return say("{} is ahead in {}: {}, against {}.", bold(best), what, value, of(others[:1]))
    if found.why == "one cell":
        return say("Only {} was measured in {}: {}.", bold(best), what, value)
    if found.why == "overlap":
        near = [cell for cell in others if not quantity.ahead(values[best], values[cell])]
        return say("No cell is ahead in {}. The best intervals overlap: {}.", what, of([best, *near]))
    known = "Not every" if any(map(has_interval, values.values())) else "No"
    return say("No cell is ahead in {}. {} value has an interval: {}.", what, known, of(ranked))


def _others(
    values: Values, cells: Sequence[str], outcomes: Mapping[Quantity, Outcome], first: Quantity
) -> Text:
    """Say who is ahead in the other quantities, and whether one cell is ahead in all or none can be."""
    won: dict[str, list[Text]] = {}
    for quantity, found in outcomes.items():
        if found.winner and quantity is not first:
            value = quantity.text(values[quantity][found.winner])
            number = len(values[quantity])
            scope = "" if number == len(cells) else f" among the {number} measured cells"
            won.setdefault(found.winner, []).append(say("in {} with {}{}", quantity.name, value, scope))
    whole = best_everywhere(values, cells)
    if whole:
        names = [quantity.name for quantity, found in outcomes.items() if found.winner == whole]
        which = say(": {}", listed(names)) if names else ""
        return say(
            "{} is ahead of every other cell in every quantity that can be compared{}.", bold(whole), which
        )
    said = Markup("; ").join(say("{} is ahead {}", bold(cell), listed(names)) for cell, names in won.items())
    if each_is_behind(values, cells):
        return say("No cell is best in every quantity{}.", say(": {}", said) if said else "")
    return say("{}.", said) if said else ""


def _open(outcomes: Mapping[Quantity, Outcome]) -> Text:
    """Name the quantities without a winner, and why."""
    reasons = {
        "overlap": "where intervals overlap",
        "no interval": "where some values have no interval",
        "one cell": "where one cell was measured",
    }
    said = []
    for why, reason in reasons.items():
        names = [quantity.name for quantity, found in outcomes.items() if found.why == why]
        if names:
            said.append(say("in {}, {}", listed(names, " or "), reason))
    return say("No cell is ahead {}.", Markup(", nor ").join(said)) if said else ""
