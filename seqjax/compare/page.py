"""Write a comparison as a self-contained page, and as JSON."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from markupsafe import Markup

from seqjax.compare import curves
from seqjax.compare.difference import Difference
from seqjax.compare.divergence import Comparison
from seqjax.compare.evaluate import BY_STEP
from seqjax.compare.runs import FEWEST, RunsComparison
from seqjax.report.content import Caption, templates
from seqjax.report.text import number

Table = tuple[list[str], list[list[str]], list[bool]]
"""Column heads, rows of text, and which rows differ. The most important columns come first."""
_KEY = {"length": "T = {}", "x": "at {:g}"}
"""Formats of parts of a row's key; other parts are written unchanged."""


def to_json(found: Comparison | RunsComparison, command: str) -> dict[str, Any]:
    """Return all results as JSON; numbers that are not finite become null."""
    name = "differences" if isinstance(found, Comparison) else "rows"
    parts = [_plain(each._asdict()) for each in getattr(found, name)]
    head = {key: list(value) if isinstance(value, tuple) else value for key, value in found._asdict().items()}
    return head | {"equal": found.equal, name: parts, "command": command, "environment": _environment()}


def to_html(found: Comparison | RunsComparison, command: str) -> str:
    """Return the page."""
    template = templates(Path(__file__).parent).get_template("page.html.jinja")
    figures = []
    if isinstance(found, Comparison):
        drawn = [each for each in found.differences if each.quantity in BY_STEP and len(each.errors) > 1]
        for i, each in enumerate(drawn):
            figures.append((Markup(curves.draw(each, f"curve{i}")), caption(each, found.reference)))
    return template.render(
        of_runs=isinstance(found, RunsComparison),
        found=found,
        table=table(found),
        verdict=verdict(found),
        mark=_mark(found),
        figures=figures,
        command=command,
        environment=_environment(),
    )


def verdict(found: Comparison | RunsComparison) -> str:
    """Return the verdict in one or two sentences."""
    if isinstance(found, RunsComparison):
        count, of = sum(row.differs for row in found.rows), len(found.rows)
        if count:
            return f"{count} of {of} quantities differ (sign-flip test on the pairs; at most 5% of these by chance)."
        if found.undecided:
            few = found.rows[0].paired.pairs
            are = "is" if few == 1 else "are"
            return f"Undecided: the test needs {FEWEST} common seeds to show a difference, and there {are} {few}."
        return f"The test shows no difference in any of {of} quantities."
    if found.equal:
        closest = max(found.differences, key=lambda each: each.excess)
        if not closest.excess:
            return f"Equal to the last bit in all {len(found.differences)} quantities."
        return (
            f"Equal: roundings of {found.dtype} explain every difference; the closest to its tolerance is "
            f"{closest.label}, at {number(closest.excess)} of it."
        )
    first = found.first
    assert first is not None
    where = "" if first.first is None else f", first at step {first.first}"
    count = sum(not each.equal for each in found.differences)
    how = (
        f", by up to {number(first.excess)} times the tolerance"
        if first.finite
        else "; not every number is finite"
    )
    return (
        f"Different: {first.label}{where}{how} ({count} of {len(found.differences)} quantities). "
        f"{_culprit(first)}"
    ).rstrip()


def _mark(found: Comparison | RunsComparison) -> str:
    """Return the CSS class of the verdict; "open" where the test cannot show a difference."""
    undecided = isinstance(found, RunsComparison) and found.undecided
    return "bad" if not found.equal else "open" if undecided else ""


def table(found: Comparison | RunsComparison) -> Table:
    """Return the table, one row per quantity."""
    return _runs_table(found) if isinstance(found, RunsComparison) else _table(found)


def _table(found: Comparison) -> Table:
    heads = ["quantity", "÷ tolerance", "first", "difference", "tolerance", "at step", "largest"]
    heads += ["A to ref.", "B to ref."]
    rows = []
    for each in found.differences:
        place = each.worst or 0
        worst, first = ("" if step is None else str(step) for step in (each.worst, each.first))
        at = [_size(each.errors[place]), number(each.tolerances[place])]
        errors = [each.largest, *((each.a_error, each.b_error) if found.reference else ())]
        against = [*map(_size, errors), *["–"] * (3 - len(errors))]
        rows.append([each.label, number(each.excess), first, *at, worst, *against])
    return heads, rows, [not each.equal for each in found.differences]


def _runs_table(found: RunsComparison) -> Table:
    heads = ["quantity", "A", "B", "B − A (or B/A)", "p", "95% interval"]
    heads += ["B above A", "95% interval", "seeds"]
    rows = []
    for row in found.rows:
        d = row.paired.difference
        sign = "×" if row.ratio else ""
        name = ", ".join(_KEY.get(name, "{}").format(value) for name, value in row.key.items())
        difference = [sign + number(d.estimate), number(row.paired.p), _interval(d.low, d.high)]
        above = [number(row.above.estimate), _interval(row.above.low, row.above.high)]
        rows.append([name, number(row.a), number(row.b), *difference, *above, str(row.paired.pairs)])
    return heads, rows, [row.differs for row in found.rows]


def caption(difference: Difference, reference: str) -> Caption:
    """Return the caption of a figure; `reference` is "" where there is none."""
    order = (
        " Values are computed from left to right, so later differences may follow from the first one."
        if difference.quantity == BY_STEP[0]
        else " Gradients are computed from right to left, so differences at earlier steps may follow from later ones."
    )
    if not difference.finite:
        conclusion = (
            f"At step {difference.worst} the difference is not finite and cannot be drawn on the axis."
        )
        conclusion += order
    elif not difference.equal:
        times = number(difference.excess)
        conclusion = f"At step {difference.worst} the difference is {times} times the tolerance." + order
    elif not difference.errors.any():
        conclusion = "A and B are equal to the last bit, so there is no line."
    else:
        conclusion = "Roundings explain the difference at every step."
    stretch = math.ceil(len(difference.errors) / curves.MOST_POINTS)  # the number of steps that share a point
    gaps = stretch == 1 and difference.finite and difference.errors.any() and not difference.errors.all()
    return Caption(
        "The difference of A and B, and its tolerance, by step."
        + (" The line breaks off where A and B are equal to the last bit." if gaps else "")
        + (f" Each point is the worst of up to {stretch} neighboring steps." if stretch > 1 else ""),
        "Norm of A − B over batch and features, divided by the root mean square over steps of the norm of "
        f"{'the reference' if reference else '(A + B)/2'}. The tolerance is "
        + (
            "the response of the float64 reference to noise of the size of roundings."
            if reference
            else "K u √(n + T), since there is no reference."
        ),
        conclusion,
    )


def _size(value: float) -> str:
    return number(value) if math.isfinite(value) else "not finite"


def _culprit(first: Difference) -> str:
    """Return a sentence that names the side further from the reference; "" where both are about as far."""
    a, b = first.a_error, first.b_error
    if math.isfinite(a) and not math.isfinite(b) or b > 4 * a:
        return "B is further from the float64 reference than A."
    if math.isfinite(b) and not math.isfinite(a) or a > 4 * b:
        return "A is further from the float64 reference than B."
    return ""


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{number(low)} to {number(high)}"


def _environment() -> dict[str, str]:
    device = jax.devices()[0]
    return {"jax": jax.__version__, "device": f"{device.platform} ({device.device_kind})"}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | list):
        return [_plain(each) for each in value]
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, float):  # np.float64 is one
        return float(value) if math.isfinite(value) else None
    return value
