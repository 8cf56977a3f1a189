"""Show one table of the results of the other sections, by cell."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl
from markupsafe import Markup

from seqjax.report.content import Note, Table, Text, View, bold, columns, listed, say
from seqjax.report.results import StudyResults
from seqjax.report.section import Section
from seqjax.report.sections.success import SOLVED
from seqjax.report.text import number
from seqjax.statistics import interquartile_mean
from seqjax.study.experiment import MOMENTS

# ---------------------------------------------------------------- axes: values by cell, and how they become scores


def _middle(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(interquartile_mean(known)) if known else math.nan


def _reach(results: StudyResults, cell: str) -> float:
    length = max(results.lengths, default=0)
    return _middle(results.scalars.ends("lag_90", cell, length, "last", "carry")[1])


def _exponent(results: StudyResults, cell: str) -> float:
    return _middle(results.rows("lyapunov", cell=cell, quantity="exponent", group=MOMENTS[-1], t=0)["value"])


def _isometry(results: StudyResults, cell: str) -> float:
    rows = results.rows("singular", cell=cell, quantity="isometry", group=MOMENTS[-1])
    return _middle(rows.filter(pl.col("x") == rows["x"].max())["value"]) if rows.height else math.nan


def _precision(results: StudyResults, cell: str) -> float:
    rows = results.rows("precision", cell=cell, quantity="error", group="bfloat16")
    return _middle(rows.filter(pl.col("x") == rows["x"].max())["value"]) if rows.height else math.nan


def _success(results: StudyResults, cell: str) -> float:
    losses = results.rows("success", cell=cell, quantity="final_loss")
    bases = results.rows("success", cell=cell, quantity="baseline").select("length", "group", base="value")
    joined = losses.join(bases, on=["length", "group"])
    return float((joined["value"] < SOLVED * joined["base"]).mean()) if joined.height else math.nan  # type: ignore[arg-type]


def _learning(results: StudyResults, cell: str) -> float:
    length = max(results.lengths, default=0)
    first, last = results.scalars.ends("held_out_loss", cell, length)
    return _middle(b / a for a, b in zip(first, last, strict=False) if a)


def _horizon(results: StudyResults) -> float:
    return float(max(max(results.lengths, default=2) - 1, 1))


AXES: dict[str, tuple[Callable[[StudyResults, str], float], Callable[[float, StudyResults], float], str]] = {
    "reach": (_reach, lambda v, d: v / _horizon(d), "lag<sub>90</sub>, seed by seed, over T − 1"),
    "λ₁ near 0": (
        _exponent,
        lambda v, d: math.exp(-abs(v) * 10),
        "exp(−10 |λ<sub>1</sub>|): 1 where ten steps change nothing",
    ),
    "isometry": (_isometry, lambda v, d: v, "share of singular values within a factor of two of 1"),
    "bfloat16": (
        _precision,
        lambda v, d: -math.log10(max(v, 1e-3)) / 3,
        "correct decades of the gradient, out of three; the value is its error",
    ),
    "tasks": (_success, lambda v, d: v, "share of successful runs"),
    "learning": (
        _learning,
        lambda v, d: 1 - v,
        "share of the held-out loss that training removed; the value is the remaining share",
    ),
}
"""By name: the value of a cell, its score from 0 to 1, and a description of the score."""


def view(results: StudyResults) -> View:
    """Show the table of values and scores, and a conclusion."""
    values = {name: {cell: axis[0](results, cell) for cell in results.cells} for name, axis in AXES.items()}
    known = [name for name, by_cell in values.items() if any(map(math.isfinite, by_cell.values()))]
    if len(known) < 3:
        return View("", [Note("A summary needs at least three measured quantities.", muted=True)])
    scores = [[_score(name, values[name][cell], results) for name in known] for cell in results.cells]
    meaning = Markup("; ").join(say("<b>{}</b> (", name) + say(AXES[name][2]) + ")" for name in known)
    intro = say(
        "Values with scores from 0 to 1 in brackets: {}. They come from the sections above, after training, at the "
        "greatest length, as interquartile means over seeds. A dash means that the quantity was not measured for this "
        "cell.",
        meaning,
    )
    lines: list[Sequence[Text]] = [
        [bold(cell), *(_cell(values[name][cell], score) for name, score in zip(known, line, strict=True))]
        for cell, line in zip(results.cells, scores, strict=True)
    ]
    table = Table("Summary", columns(["value (score)"], known), [("", lines)])
    return View(intro, [table, Note(_conclusion(results, known, np.array(scores)))])


def _score(name: str, value: float, results: StudyResults) -> float:
    return min(max(0.0, AXES[name][1](value, results)), 1.0) if math.isfinite(value) else math.nan


def _cell(value: float, score: float) -> Text:
    if not math.isfinite(value):
        return "–"
    return say('{} <span class="span">({})</span>', number(value), f"{score:.2f}")


def _conclusion(results: StudyResults, names: Sequence[str], scores: np.ndarray) -> Text:
    if len(results.cells) < 2:
        return "With one cell there is nothing to compare."
    said = []
    for place, name in enumerate(names):
        column = {
            cell: score for cell, score in zip(results.cells, scores[:, place], strict=True) if score == score
        }
        if len(column) < 2:
            continue
        best = [cell for cell, score in column.items() if score == max(column.values())]
        said.append(say("{}: {}", name, "all equal" if len(best) == len(column) else listed(best)))
    beaten = [
        cell
        for i, cell in enumerate(results.cells)
        if any(_beats(scores[j], scores[i]) for j in range(len(results.cells)) if j != i)
    ]
    text = say("The best cells by quantity: {}. ", Markup("; ").join(said))
    if beaten:
        return text + say(
            "For {} there is a cell that is at least as good in every quantity and better in one.",
            listed(beaten),
        )
    tie = "No cell is at least as good as another in every quantity, so the best cell depends on the task."
    return text + tie


def _beats(left: np.ndarray, right: np.ndarray) -> bool:
    both = ~(np.isnan(left) | np.isnan(right))
    return bool(both.all() and (left >= right).all() and (left > right).any())


SECTION = Section("summary", "Summary", view)
