"""Render a folder of measurements as one self-contained page and separate figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from seqjax.files import check_can_write, put_text
from seqjax.report.answer import Answer, answer
from seqjax.report.content import Block, Figure, Fold, Panel, View, templates
from seqjax.report.drawing import color_of
from seqjax.report.results import StudyResults, drawable
from seqjax.report.section import Section
from seqjax.report.sections import chosen
from seqjax.report.svg import standalone
from seqjax.study.reading import read_study

FOLDER = Path(__file__).parent


def render(folder: str | Path) -> Path:
    """Write `index.html` and `figures/*.svg` beside the measurements in a folder.

    All sections are drawn before the first file is written, and each file is written as a whole.

    Args:
        folder: the folder of a study, complete or not. Another process may be measuring.

    Returns:
        the path of the page.

    Raises:
        ValueError: when the folder holds no study, a file differs from what was written, or the results cannot be
            drawn. Nothing is written then.
        OSError: when the folder cannot be written; most such folders are found before the page is drawn.
    """
    folder = Path(folder)
    summary, rows = read_study(folder)
    check_can_write(folder)
    with drawable(folder):
        page, panels = _drawn(StudyResults(rows, summary))
    (folder / "figures").mkdir(exist_ok=True)
    for panel in panels:
        put_text(folder / "figures" / f"{panel.name}.svg", standalone(panel.svg))
    put_text(folder / "index.html", page)
    return folder / "index.html"


def _drawn(results: StudyResults) -> tuple[str, list[Panel]]:
    """Return the text of the page, and its panels."""
    first, sections = contents(results)
    panels = [first.panel] if first.panel else []
    panels += [panel for _, view in sections for panel in panels_of(view.blocks)]
    return templates(FOLDER).get_template("page.html.jinja").render(
        _context(results, first, sections)
    ), panels


def contents(results: StudyResults) -> tuple[Answer, list[tuple[Section, View]]]:
    """Return the first screen and the sections of a study, from which the page and the figures of a paper are made."""
    names = tuple(results.settings.get("sections") or ())
    return answer(results), [(section, section.show(results)) for section in chosen(names)]


def panels_of(blocks: Sequence[Block]) -> Iterator[Panel]:
    """Yield the panels of all figures among the blocks."""
    for block in blocks:
        if isinstance(block, Fold):
            yield from panels_of(block.blocks)
        elif isinstance(block, Figure):
            yield from block.panels
            yield from (each for each in block.aside if isinstance(each, Panel))


def _context(
    results: StudyResults, first: Answer, sections: Sequence[tuple[Section, View]]
) -> dict[str, Any]:
    summary = results.summary
    measured = set(results.frame["part"].unique())
    finished = max(summary.get("runs_finished") or 0, len(measured))
    planned = summary.get("runs_planned")
    # The section "success" has separate seeds, which the page's choice does not offer.
    seeds = results.frame.filter(pl.col("section") != "success")["seed"].drop_nulls().unique().sort()
    return {
        "title": str(summary.get("title") or "Gradients over long sequences"),
        "complete": bool(summary.get("complete", planned is None or finished >= planned)),
        "finished": finished,
        "planned": planned,
        "absent": _absent([name for name in summary.get("runs_absent") or () if name not in measured]),
        "settings": facts_of(results.settings),
        "environment": facts_of((summary.get("environment") or {}) | _changes(summary)),
        "times": facts_of(
            {key: str(summary[key]).replace("T", " ") for key in ("started", "finished") if summary.get(key)}
        ),
        "method": results.settings.get("method"),
        "command": summary.get("command") or results.settings.get("command"),
        "answer": first,
        "sections": sections,
        "cells": [(cell, color_of(place)) for cell, place in results.places.items()],
        "lengths": results.lengths,
        "seeds": seeds.to_list(),
        "css": Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        "js": Markup((FOLDER / "page.js").read_text(encoding="utf-8")),
    }


def _absent(names: Sequence[str]) -> list[str]:
    """Name the parts that are not finished, at most a dozen of them."""
    shown = [name.replace("/", " · ") for name in names[:12]]
    return shown + ([f"and {len(names) - 12} more"] if len(names) > 12 else [])


def _changes(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions that changed while the study was measured."""
    changes: dict[str, list[str]] = {}
    for change in summary.get("changes") or ():
        for name, values in change.items():
            if isinstance(values, list):
                changes.setdefault(f"{name} before", []).append(str(values[0]))
    return changes


def facts_of(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten settings into names and texts; settings without a value are left out."""
    facts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            facts += [(f"{key} {name}", text) for name, text in facts_of(value)]
        elif isinstance(value, list | tuple):
            if value:
                facts.append((str(key), ", ".join(map(str, value))))
        elif value is not None:
            facts.append((str(key), str(value)))
    return [(name.replace("_", " "), text) for name, text in facts]
