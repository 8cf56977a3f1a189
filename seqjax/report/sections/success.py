"""Show which tasks are learned at which length."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from seqjax.report.content import (
    Caption,
    Note,
    Panel,
    Table,
    Text,
    View,
    bold,
    columns,
    figure_of,
    listed,
    say,
)
from seqjax.report.grid import grid
from seqjax.report.quantities import SOLVED
from seqjax.report.results import StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import file_names, number, plural
from seqjax.statistics import wilson
from seqjax.study.sections.success import LAST, MEASUREMENT, NAME
from seqjax.tasks import TASKS


def view(results: StudyResults) -> View:
    """Show one map per task, and a table with intervals."""
    rows = results.rows(NAME)
    found = _rates(results, rows)
    if not found:
        return View("", [Note("Not measured.", muted=True)])
    sizes = results.sizes
    intro = say(
        "Each cell is trained from scratch on synthetic tasks. A run succeeds where its loss falls below {} of the "
        "<i>blind baseline</i>, the lowest loss of a model without memory.",
        f"{SOLVED:.0%}".replace("%", "\u00a0%"),
    )
    names = list(dict.fromkeys(task for task, _, _ in found))
    panels = [_panel(results, name, file, found) for name, file in file_names(names).items()]
    left_out = [name for name in TASKS if name not in names]
    measured = say(
        "{} seeds, {} steps of Adam on fresh batches of {}, width {}; the loss is the mean over the last {} steps. The "
        "table has 95\u00a0% Wilson intervals, which are wide for few seeds.",
        sizes.success_seeds,
        sizes.success_steps,
        sizes.success_batch,
        results.settings.get("hidden_size", "?"),
        min(LAST, sizes.success_steps),
    )
    if left_out:
        measured += say(
            " Not trained under this preset: {} (<code>seqjax list</code>).", plural(len(left_out), "task")
        )
    trained = {cell for _, cell, _ in found}
    idle = [cell for cell in results.cells if cell not in trained]
    if idle:
        measured += say(" Cells not trained on tasks under this preset: {}.", listed(idle))
    for name, length, why in (
        rows.filter(quantity="not_measured").select("group", "length", "note").unique().iter_rows()
    ):
        measured += say(" {} is not defined at T = {}: {}", name, length, why)
    shows = "The share of seeds that succeed, by cell (rows) and length (columns), a map per task."
    caption = Caption(shows, measured, _conclusion(found))
    return View(intro, [figure_of("Success", panels, caption), _table(found)])


Rates = dict[tuple[str, str, int], tuple[int, int, float]]


def _rates(results: StudyResults, rows: pl.DataFrame) -> Rates:
    """Return, by task, cell and length: successes, seeds, and the median loss over the baseline."""
    found: Rates = {}
    wanted = rows.filter(pl.col("quantity").is_in(["final_loss", "baseline"]))
    for (task, cell, length), some in wanted.group_by("group", "cell", "length", maintain_order=True):
        baseline = some.filter(quantity="baseline")["value"][0]
        shares = values(some.filter(quantity="final_loss"), "seed") / baseline
        shares = np.where(np.isfinite(shares), shares, np.inf)
        won, middle = int((shares < SOLVED).sum()), float(np.median(shares))
        found[str(task), str(cell), int(str(length))] = won, len(shares), middle
    return dict(sorted(found.items(), key=lambda item: (item[0][0], results.places[item[0][1]], item[0][2])))


def _panel(results: StudyResults, task: str, file: str, found: Rates) -> Panel:
    lengths = sorted({length for name, _, length in found if name == task})
    cells = [cell for cell in results.cells if any((task, cell, length) in found for length in lengths)]
    values = np.full((len(cells), len(lengths)), np.nan)
    texts = [["" for _ in lengths] for _ in cells]
    for i, cell in enumerate(cells):
        for j, length in enumerate(lengths):
            if (task, cell, length) in found:
                won, of, _ = found[task, cell, length]
                values[i, j], texts[i][j] = won / of, f"{won} of {of}"
    heads = [f"T = {length}" for length in lengths]
    return grid(values, texts, cells, heads, f"success-{file}", task, f"Share of successful seeds, {task}.")


def _conclusion(found: Rates) -> Text:
    said = say("")
    for task in dict.fromkeys(task for task, _, _ in found):
        own = {(length, cell): rates for (name, cell, length), rates in found.items() if name == task}
        whole = [at for at, (won, of, _) in own.items() if won == of]
        some = [cell for (_, cell), (won, _, _) in own.items() if won]
        if whole:
            longest = max(whole)[0]
            best = listed(cell for length, cell in whole if length == longest)
            said += say("<b>{}</b>: every seed succeeds at T = {} for {}. ", task, longest, best)
        elif some:
            partly = "<b>{}</b>: some seeds succeed for {}, but no cell succeeds with all. "
            said += say(partly, task, listed(dict.fromkeys(some)))
        else:
            left, cell = min((share, cell) for (_, cell), (_, _, share) in own.items())
            closest = "<b>{}</b>: no seed succeeds; {} is closest, with {} times the baseline's loss. "
            said += say(closest, task, cell, number(left, 2))
    return said + "The result is for these few steps; a long training could do better."


def _table(found: Rates) -> Table:
    groups: dict[str, list[Sequence[Text]]] = {}
    for (task, cell, length), (won, of, share) in found.items():
        _, low, high = wilson(won, of)
        line = [bold(cell), str(length), f"{won} of {of}", f"{low:.2f} to {high:.2f}", number(share, 3)]
        groups.setdefault(task, []).append(line)
    heads = columns(["cell"], ["T", "successes", "Wilson interval", "median loss ÷ baseline"])
    return Table("Table of successes", heads, list(groups.items()))


SECTION = Section(NAME, "What is learned, by task and length", view, MEASUREMENT)
