"""The first screen of the page: the verdict, the decay of the gradient, and one table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqjax.report.charts import decade_limits
from seqjax.report.content import Panel, Table, Text, bold, columns, say
from seqjax.report.quantities import measured
from seqjax.report.results import StudyResults
from seqjax.report.sections.decay import curve_panel
from seqjax.report.text import plural
from seqjax.report.verdict import Values, outcome, sentences

FEW = 8
"""Intervals from fewer seeds are too narrow to compare cells."""


@dataclass(frozen=True)
class Answer:
    """The first screen.

    Attributes:
        warning: what makes the results unreliable; "" for nothing.
        verdict: two or three sentences.
        basis: what the intervals rest on, in a sentence.
        panel: the decay after training at the greatest length; None before a profile is measured.
        table: the values of all cells; None where nothing is measured.
    """

    warning: Text
    verdict: Sequence[Text]
    basis: Text
    panel: Panel | None
    table: Table | None


def answer(results: StudyResults) -> Answer:
    """Return the first screen of a study, complete or not."""
    values = measured(results)
    table = _table(results, values) if values else None
    return Answer(
        _warning(results), sentences(values, results.cells), _basis(results), _decay(results), table
    )


def _warning(results: StudyResults) -> Text:
    failed = results.rows("calibration", quantity="passed", value=0.0).height
    if not failed:
        return ""
    return say("{} failed: see <a href='#calibration'>calibration</a>.", plural(failed, "closed form"))


def _basis(results: StudyResults) -> Text:
    seeds = results.rows("training")["seed"].n_unique()
    if not seeds:
        return ""
    steps = results.rows("training")["training_step"].max()
    text = say("In brackets: 95\u00a0% intervals over {}. ", plural(seeds, "seed"))
    if seeds < 2:
        text = say("With one seed there are no intervals. ")
    elif seeds < FEW:
        text += say("With fewer than {} seeds they are too narrow. ", FEW)
    text += say("T = {}, after {}.", max(results.lengths), plural(int(str(steps or 0)), "training step"))
    passed = results.rows("calibration", quantity="passed", value=1.0).height
    if passed and not results.rows("calibration", quantity="passed", value=0.0).height:
        text += say(" All {} that check the probes pass.", plural(passed, "closed form"))
    return text


def _decay(results: StudyResults) -> Panel | None:
    """Draw the last loss at the greatest length after training again, under a name of its own."""
    profiles = results.profiles("last")
    if not profiles:
        return None
    length, found = max(profiles), profiles[max(profiles)]
    limits = decade_limits(np.concatenate([profile.values[:, -1].ravel() for profile in found]))
    last = -1 if len(found[0].steps) > 1 else 0
    panel = curve_panel(results, "last", length, found, last, limits, name="answer-decay")
    return panel if panel.points is None or panel.points > 1 else None


def _table(results: StudyResults, values: Values) -> Table:
    """Return the values by cell; the value of a winner is bold."""
    winners = {quantity: outcome(quantity, by_cell).winner for quantity, by_cell in values.items()}
    lines: list[Sequence[Text]] = []
    for cell in results.cells:
        line: list[Text] = [bold(cell)]
        for quantity, by_cell in values.items():
            text = quantity.text(by_cell[cell]) if cell in by_cell else "–"
            line.append(bold(text) if winners[quantity] == cell else text)
        lines.append(line)
    heads = [
        say('{}, {}<span class="hint">{}</span>', quantity.name, quantity.unit, quantity.better)
        for quantity in values
    ]
    return Table("Cells compared", columns(["cell"], heads), [("", lines)])
