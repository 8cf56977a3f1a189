"""Compare the cells by the quantities of the other sections: dots with intervals, and what they say."""

from collections.abc import Sequence

from seqjax.report.content import Block, Caption, Note, Table, Text, View, bold, columns, figure_of, say
from seqjax.report.dots import dot_plot
from seqjax.report.quantities import QUANTITIES, measured
from seqjax.report.results import StudyResults
from seqjax.report.section import Section
from seqjax.report.verdict import outcome, sentences


def view(results: StudyResults) -> View:
    """Show a dot plot per quantity, and a table of what each quantity means and which cell is ahead."""
    values = measured(results)
    if not values:
        return View("", [Note("Nothing that compares cells has been measured.", muted=True)])
    intro = (
        "The values of the table at the head of the page, after training and at the greatest length. A cell is ahead "
        "where its interval lies apart from that of every other cell, on the better side."
    )
    numbers = {quantity: number for number, quantity in enumerate(QUANTITIES)}
    panels = [dot_plot(each, by_cell, results.places, numbers[each]) for each, by_cell in values.items()]
    caption = Caption(
        "The value of each cell as a dot, and its 95\u00a0% interval as a line, a panel per quantity. A dot without a "
        "line has no interval.",
        "In the sections above. Values over seeds are interquartile means with bootstrap intervals; the intervals of "
        "reach also resample sequences, and those of tasks are Wilson's.",
        say(" ").join(sentences(values, results.cells)),
    )
    blocks: list[Block] = [figure_of("Cells compared", panels, caption)]
    lines: list[Sequence[Text]] = []
    for quantity, by_cell in values.items():
        found = outcome(quantity, by_cell)
        ahead = bold(found.winner) if found.winner else say("none: {}", found.why)
        lines.append([bold(quantity.name), quantity.meaning, quantity.better, f"{len(by_cell)}", ahead])
    heads = columns(["quantity", "meaning", ""], ["cells"], ["ahead"])
    blocks.append(Table("Quantities", heads, [("", lines)]))
    return View(intro, blocks)


SECTION = Section("summary", "Summary", view)
