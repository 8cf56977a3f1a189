"""Render a folder of measurements as one self-contained page and separate figures."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seqjax.report import figures, tables
from seqjax.report.figures import Profile
from seqjax.report.store import SCHEMA
from seqjax.report.svg import standalone

LOSSES = ("last", "mean")


def render(folder: str | Path) -> Path:
    """Write `index.html` and `figures/*.svg` beside the measurements in a folder.

    Everything is drawn before anything is written, and each file is put in place whole.

    Args:
        folder: holds `results.parquet` (absent before the first run is finished) and `summary.json`.

    Returns:
        the path of the page.
    """
    folder = Path(folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    drawings: dict[str, str] = {}
    context = _context(_load(folder), summary, drawings)
    page = _environment().get_template("template.html.jinja").render(context)
    (folder / "figures").mkdir(exist_ok=True)
    for name, svg in drawings.items():
        _write(folder / "figures" / f"{name}.svg", standalone(svg))
    _write(folder / "index.html", page)
    return folder / "index.html"


def _load(folder: Path) -> pl.DataFrame:
    path = folder / "results.parquet"
    if not path.exists():
        return pl.DataFrame(schema=SCHEMA)
    return pl.read_parquet(path, columns=list(SCHEMA)).cast(pl.Schema(SCHEMA))


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _write(path: Path, text: str) -> None:
    """Put a text file in place whole: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _context(frame: pl.DataFrame, summary: Mapping[str, Any], drawings: dict[str, str]) -> dict[str, Any]:
    settings = summary.get("settings") or {}
    cells = list(dict.fromkeys([*map(str, settings.get("cells") or ()), *sorted(frame["cell"].unique())]))
    places = {cell: place for place, cell in enumerate(cells)}
    scalars = tables.Scalars(frame)
    groups = {loss: _profiles(frame, loss, places) for loss in LOSSES}
    runs = frame.select("cell", "length", "seed").unique()
    pairs = runs.select("length", "cell").unique().iter_rows()
    measured = sorted(pairs, key=lambda pair: (pair[0], places[pair[1]]))
    names = {cell: _file_name(cell, place) for cell, place in places.items()}
    finished = summary.get("runs_finished", runs.height)
    planned = summary.get("runs_planned")
    baselines = {
        str(name).replace("_", " "): float(value)
        for name, value in (summary.get("baselines") or {}).items()
        if isinstance(value, int | float)
    }
    return {
        "title": str(summary.get("title") or "Gradients over long sequences"),
        "complete": bool(summary.get("complete", planned is None or finished >= planned)),
        "finished": finished,
        "planned": planned,
        "absent": _absent(runs, settings, cells),
        "settings": _facts(settings),
        "environment": _facts(summary.get("environment") or {}),
        "times": _facts(
            {key: str(summary[key]).replace("T", " ") for key in ("started", "finished") if summary.get(key)}
        ),
        "method": settings.get("method"),
        "task": settings.get("task"),
        "command": summary.get("command") or settings.get("command"),
        "heat": {loss: _heat_groups(groups[loss], loss, names, drawings) for loss in LOSSES},
        "curves": {loss: _curve_groups(groups[loss], loss, places, drawings) for loss in LOSSES},
        "horizons": tables.horizons(measured, scalars, groups["last"]),
        "losses": tables.losses(measured, scalars, baselines),
        "baselines": {name: tables.number(value, 4) for name, value in baselines.items()},
        "against": [(f"held out − {name}", "number") for name in baselines],
        "parameters": tables.parameters(measured, scalars, LOSSES),
    }


def _file_name(cell: str, place: int) -> str:
    """Name a cell in a file name: names with other letters get a number behind a dot, and stay unique."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", cell)[:24]
    return plain if plain == cell else f"{plain}.{place}"


def _absent(runs: pl.DataFrame, settings: Mapping[str, Any], cells: Sequence[str]) -> list[str]:
    """Name the cells and lengths whose runs are not all there."""
    seeds = settings.get("seeds")
    planned = seeds if isinstance(seeds, int) else len(seeds or [0])
    pairs = list(runs.select("cell", "length").iter_rows())
    found = {
        (cell, int(n)): pairs.count((cell, int(n))) for n in settings.get("lengths") or () for cell in cells
    }
    return [
        f"{cell}, T = {length}" + (f" ({count} of {planned} seeds)" if count else "")
        for (cell, length), count in found.items()
        if count < planned
    ]


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten settings into names and texts, without those that are not given."""
    facts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            facts += [(f"{key} {name}", text) for name, text in _facts(value)]
        elif isinstance(value, list | tuple):
            facts.append((str(key), ", ".join(map(str, value))))
        elif value is not None:
            facts.append((str(key), str(value)))
    return [(name.replace("_", " "), text) for name, text in facts]


def _profiles(frame: pl.DataFrame, loss: str, places: Mapping[str, int]) -> dict[int, list[Profile]]:
    """Arrange the norms of the whole carry by length, then by cell, in log10."""
    wanted = (pl.col("quantity") == "log_norm") & (pl.col("leaf") == "carry") & (pl.col("loss") == loss)
    groups: dict[int, list[Profile]] = {}
    for (cell, length), rows in frame.filter(wanted & pl.col("t").is_not_null()).group_by("cell", "length"):
        seeds, seed = np.unique(rows["seed"].to_numpy(), return_inverse=True)
        steps, step = np.unique(rows["training_step"].to_numpy(), return_inverse=True)
        values = np.full((len(seeds), len(steps), int(str(length))), np.nan)
        values[seed, step, rows["t"].to_numpy()] = rows["value"].fill_null(math.nan).to_numpy() / math.log(10)
        profile = Profile(str(cell), values.shape[2], tuple(map(int, steps)), values)
        groups.setdefault(profile.length, []).append(profile)
    return {
        length: sorted(groups[length], key=lambda profile: places[profile.cell]) for length in sorted(groups)
    }


def _heat_groups(
    groups: Mapping[int, list[Profile]], loss: str, names: Mapping[str, str], drawings: dict[str, str]
) -> list[dict[str, Any]]:
    result = []
    for length, profiles in groups.items():
        means = {profile.cell: profile.mean() for profile in profiles}
        pooled = _pool(means.values())
        finite = pooled[np.isfinite(pooled)]
        scale = figures.limits(pooled, figures.COLOUR_FLOOR, figures.COLOUR_CEILING)
        drawn = {}
        for profile in profiles:
            name = f"heat-{loss}-T{length}-{names[profile.cell]}"
            drawn[name] = figures.heat_map(profile, scale, name)
        bar = f"scale-{loss}-T{length}"
        drawings |= drawn | {bar: figures.colour_bar(pooled, scale, bar)}
        result.append(
            {
                "length": length,
                "panels": [Markup(svg) for svg in drawn.values()],
                "scale": Markup(drawings[bar]),
                "low": scale[0],
                "high": scale[1],
                "clipped_low": bool(finite.size and finite.min() < scale[0]),
                "clipped_high": bool(finite.size and finite.max() > scale[1]),
                "any_lost": bool(np.any(pooled < figures.FLOAT32_ZERO)),
                "lost": [(cell, _share(mean < figures.FLOAT32_ZERO)) for cell, mean in means.items()],
                "blank": finite.size < pooled.size,
            }
        )
    return result


def _curve_groups(
    groups: Mapping[int, list[Profile]], loss: str, places: Mapping[str, int], drawings: dict[str, str]
) -> list[dict[str, Any]]:
    result = []
    for length, profiles in groups.items():
        snapshots = [0, -1] if len(profiles[0].steps) > 1 else [0]
        drawn_values = _pool(profile.values[:, [0, -1]] for profile in profiles)
        scale = figures.limits(drawn_values, figures.CURVE_FLOOR, figures.CURVE_CEILING)
        names = [f"curves-{loss}-T{length}-{'init' if snapshot == 0 else 'after'}" for snapshot in snapshots]
        drawn = {
            name: figures.curves(profiles, places, snapshot, scale, name, by_lag=loss == "last")
            for name, snapshot in zip(names, snapshots, strict=True)
        }
        drawings |= drawn
        falls = {p.cell: [tables.fall(p, place) for place in (0, 1)] for p in profiles}
        latest = [(fall[len(snapshots) - 1], cell) for cell, fall in falls.items()]
        ranked = sorted(pair for pair in latest if not math.isnan(pair[0]))
        result.append(
            {
                "length": length,
                "panels": [Markup(svg) for svg in drawn.values()],
                "ends": [
                    end
                    for end, beyond in zip(
                        scale, (drawn_values < scale[0], drawn_values > scale[1]), strict=True
                    )
                    if np.any(beyond & np.isfinite(drawn_values))
                ],
                "falls": [(cell, *map(tables.decades, fall)) for cell, fall in falls.items()],
                "when": "After training" if len(snapshots) > 1 else "At initialisation",
                "extremes": [(c, tables.decades(f)) for f, c in ranked[:: len(ranked) - 1]]
                if ranked[1:]
                else [],
            }
        )
    return result


def _pool(values: Iterable[figures.Array]) -> figures.Array:
    return np.concatenate([each.ravel() for each in values])


def _share(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    percent = 100 * float(mask.mean())
    return "under 1\u00a0%" if 0 < percent < 0.5 else f"{percent:.0f}\u00a0%"
