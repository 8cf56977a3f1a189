"""Render a folder of measurements as one self-contained page and separate figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from seqjax.files import put_text
from seqjax.report.content import Block, Figure, Fold, Panel, templates
from seqjax.report.drawing import COLORS
from seqjax.report.results import StudyResults
from seqjax.report.sections import chosen
from seqjax.report.svg import INK, standalone
from seqjax.study.store import SCHEMA, read_results

FOLDER = Path(__file__).parent


def render(folder: str | Path) -> Path:
    """Write `index.html` and `figures/*.svg` beside the measurements in a folder.

    All sections are drawn before the first file is written, and each file is written as a whole.

    Args:
        folder: folder with `summary.json` and, once a part is finished, `results.parquet`.

    Returns:
        the path of the page.
    """
    folder = Path(folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    results = StudyResults(_load(folder), summary)
    names = tuple(results.settings.get("sections") or ())
    sections = [(section, section.show(results)) for section in chosen(names)]
    page = templates(FOLDER).get_template("page.html.jinja").render(_context(results, sections))
    panels = [panel for _, view in sections for panel in _panels(view.blocks)]
    (folder / "figures").mkdir(exist_ok=True)
    for panel in panels:
        put_text(folder / "figures" / f"{panel.name}.svg", standalone(panel.svg))
    put_text(folder / "index.html", page)
    return folder / "index.html"


def _load(folder: Path) -> pl.DataFrame:
    path = folder / "results.parquet"
    if not path.exists():
        return pl.DataFrame(schema=SCHEMA)
    return read_results(path)


def _panels(blocks: Sequence[Block]) -> Iterator[Panel]:
    for block in blocks:
        if isinstance(block, Fold):
            yield from _panels(block.blocks)
        elif isinstance(block, Figure):
            yield from block.panels
            yield from (each for each in block.aside if isinstance(each, Panel))


def _context(results: StudyResults, sections: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    summary = results.summary
    finished = summary.get("runs_finished", results.frame["part"].n_unique())
    planned = summary.get("runs_planned")
    colors = [
        "currentColor" if (color := COLORS[place % len(COLORS)]) == INK else color
        for place in range(len(results.cells))
    ]
    # The section "success" has separate seeds, which the page's choice does not offer.
    seeds = results.frame.filter(pl.col("section") != "success")["seed"].drop_nulls().unique().sort()
    return {
        "title": str(summary.get("title") or "Gradients over long sequences"),
        "complete": bool(summary.get("complete", planned is None or finished >= planned)),
        "finished": finished,
        "planned": planned,
        "absent": _absent(summary.get("runs_absent") or ()),
        "settings": _facts(results.settings),
        "environment": _facts(summary.get("environment") or {}),
        "times": _facts(
            {key: str(summary[key]).replace("T", " ") for key in ("started", "finished") if summary.get(key)}
        ),
        "method": results.settings.get("method"),
        "command": summary.get("command") or results.settings.get("command"),
        "sections": sections,
        "cells": list(zip(results.cells, colors, strict=True)),
        "lengths": results.lengths,
        "seeds": seeds.to_list(),
        "css": Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        "js": Markup((FOLDER / "page.js").read_text(encoding="utf-8")),
    }


def _absent(names: Sequence[str]) -> list[str]:
    """Name the parts that are not finished, at most a dozen of them."""
    shown = [name.replace("/", " · ") for name in names[:12]]
    return shown + ([f"and {len(names) - 12} more"] if len(names) > 12 else [])


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten settings into names and texts; settings without a value are left out."""
    facts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            facts += [(f"{key} {name}", text) for name, text in _facts(value)]
        elif isinstance(value, list | tuple):
            if value:
                facts.append((str(key), ", ".join(map(str, value))))
        elif value is not None:
            facts.append((str(key), str(value)))
    return [(name.replace("_", " "), text) for name, text in facts]
