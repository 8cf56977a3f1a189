"""Show the losses of the short training, and the gradient norms of the params."""

import numpy as np

from seqjax.report.aggregate import interval, shown, spread
from seqjax.report.content import Block, Fold, Note, Table, Text, View, bold, columns, say
from seqjax.report.results import StudyResults, by_length
from seqjax.report.section import Section
from seqjax.report.text import number
from seqjax.statistics import paired_comparison


def view(results: StudyResults) -> View:
    """Show the table of losses against the baselines, and gradient norms by parameter in a fold."""
    if not results.measured:
        return View("", [Note("No run is finished yet.", muted=True)])
    adding = results.settings.get("task") == "adding"
    unit = "in the unit of the task's loss" if adding else "in nats per step"
    intro = say(
        "The losses are interquartile means over seeds with their 95\u00a0% bootstrap intervals, {}.", unit
    )
    if "unigram entropy" in results.baselines:
        intro += " A model whose loss is below the unigram entropy uses the order of its input."
    if results.baselines:
        known = ", ".join(f"{name} {number(value, 4)}" for name, value in results.baselines.items())
        intro += say(" Baseline: {}.", known)
    intro += " The last column compares each cell with the cell of the lowest held-out loss; "
    intro += "p is from a sign-flip test."
    blocks: list[Block] = [_losses(results)]
    table = _parameters(results)
    if table.groups:
        blocks.append(Fold("Gradient norms of the parameters", [Note(_ABOUT_PARAMETERS), table]))
    return View(intro, blocks)


_ABOUT_PARAMETERS = (
    "The table has the norm of the gradient with respect to each parameter, for the last and for the mean loss. Where "
    "the gradient with respect to the carry vanishes, a recurrent weight learns from recent steps only, but the norm "
    "of its gradient need not be small."
)


def _against_best(values: list[float], best: list[float]) -> Text:
    """Return the difference on the same seeds, and p of the sign-flip test."""
    if len(values) != len(best) or len(best) < 2 or not np.isfinite([*values, *best]).all():
        return "–"
    found = paired_comparison([best], [values])
    return shown(found.difference) + say(", p\u00a0=\u00a0{}", number(found.p, 2))


def _losses(results: StudyResults) -> Table:
    rows: list[tuple[int, list[Text]]] = []
    best: dict[int, tuple[str, list[float]]] = {}
    for length, cell in results.measured:
        final = (found := results.scalars.ends("held_out_loss", cell, length))[1] or found[0]
        middle = interval(final).estimate
        if length not in best or middle < interval(best[length][1]).estimate:
            best[length] = (cell, final)
    for length, cell in results.measured:
        first, last = results.scalars.ends("train_loss", cell, length)
        held_out = results.scalars.ends("held_out_loss", cell, length)
        final = held_out[1] or held_out[0]
        cells: list[Text] = [bold(cell), spread(first, 4), spread(last, 4), spread(final, 4)]
        cells += [spread([value - baseline for value in final]) for baseline in results.baselines.values()]
        cells.append(_against_best(final, best[length][1]) if cell != best[length][0] else "the lowest")
        rows.append((length, cells))
    numbers = ["training, initial", "training, final", "held out"]
    numbers += [*(f"held out − {name}" for name in results.baselines), "held out − lowest, on the same seeds"]
    return Table("Table of losses", columns(["cell"], numbers), by_length(rows))


def _parameters(results: StudyResults) -> Table:
    name = "parameter_gradient_norm"
    rows = [
        (
            length,
            [
                bold(cell),
                say("<code>{}</code>", leaf),
                *(
                    spread(end)
                    for loss in ("last", "mean")
                    for end in results.scalars.ends(name, cell, length, loss, leaf)
                ),
            ],
        )
        for length, cell in results.measured
        for leaf in results.scalars.leaves(name, cell, length)
    ]
    numbers = ("last, initialization", "last, after", "mean, initialization", "mean, after")
    heads = columns(["cell", "parameter"], numbers)
    return Table("Table of parameter gradient norms", heads, by_length(rows))


SECTION = Section("losses", "Losses", view)
