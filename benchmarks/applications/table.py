"""Write ``docs/applications.md`` from the result files: ``python -m benchmarks.applications.table``."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.applications.application import APPLICATIONS
from benchmarks.applications.runner import RESULTS
from seqjax.files import put_text, read_json

PAGE = Path(__file__).parent.parent.parent / "docs" / "applications.md"

INTRODUCTION = """\
# Applications

What recurrent networks are for, on real data. Each application is a notebook in `notebooks/` that trains one model in
minutes on two CPU cores. This page has the results of `python -m benchmarks applications`, which trains
every variant with several seeds; the [files](../benchmarks/results/applications/README.md) have every run with its
settings.

The minutes are those of one core of two, of which other programs took up to two thirds; on two idle cores a run is
several times as fast. Variants without a row were not run yet.

Settings were chosen by the validation part; the numbers here are those of the test part. Numbers of models are means
over the seeds, with the lowest and the highest in brackets. `make tables` writes this page from the files.

`seqjax train DATA --as KIND` trains such models [on files of your own](training.md#from-the-command-line).
"""
NOT_RUN = "Not run yet: `python -m benchmarks applications {}`."


def page(folder: Path = RESULTS) -> str:
    """Return the text of the page."""
    documents = {name: _read(name, folder) for name in APPLICATIONS}
    rows = [row for document in documents.values() if document for row in _bars(document)]
    columns = ["application", "metric", "bar", "variant", "seeds", "result", "minutes", "reached"]
    parts = [INTRODUCTION, "## Bars\n", _table(columns, rows) if rows else "No results yet."]
    for name in APPLICATIONS:
        parts += [f"\n## {APPLICATIONS[name].title}\n", section(name, folder)]
    return "\n".join(parts).rstrip() + "\n"


def section(name: str, folder: Path = RESULTS) -> str:
    """Return the table of an application as Markdown: variants and baselines by metrics."""
    document = _read(name, folder)
    if document is None:
        return NOT_RUN.format(name)
    baselines = document.get("baselines", {"metrics": {}})["metrics"]
    of_variants = {variant: _runs(document, variant) for variant in _variants(document)}
    metrics = dict.fromkeys(
        metric
        for found in (*(run["metrics"]["test"] for run in document["runs"]), *baselines.values())
        for metric in found
    )
    rows = []
    for variant, runs in of_variants.items():
        cells = [_spread(_values(runs, "test", metric)) for metric in metrics]
        minutes = f"{statistics.mean(run['minutes'] for run in runs):.1f}"
        rows.append([f"**{variant}**", *cells, f"{runs[0]['parameters']:,}", str(len(runs)), minutes])
    for baseline, found in baselines.items():
        rows.append([baseline, *(_number(found.get(metric)) for metric in metrics), "", "", ""])
    table = _table(["", *metrics, "params", "seeds", "minutes"], rows)
    return f"{table}\n\nTuning: {document['tuning']}\n"


def reached(document: Mapping[str, Any], bar: Mapping[str, Any]) -> tuple[str, list[float], bool | None]:
    """Return the variant that a bar is about, its values by seed, and whether their mean reaches the bar.

    The values are differences where the bar has an "over". The last item is None where there are no values.
    """
    variant = bar["variant"] or _best(document, bar)
    values = _values(_runs(document, variant), "test", bar["metric"])
    if bar["over"] is not None:
        baselines = document.get("baselines", {"metrics": {}})["metrics"]
        others = [baselines.get(bar["over"], {}).get(bar["metric"])]
        if others == [None]:
            others = _values(_runs(document, bar["over"]), "test", bar["metric"])
        values = [value - statistics.mean(others) for value in values] if others else []
    if not values:
        return variant, values, None
    mean = statistics.mean(values)
    low, high = bar["at_least"], bar["at_most"]
    return variant, values, (low is None or mean >= low) and (high is None or mean <= high)


def _best(document: Mapping[str, Any], bar: Mapping[str, Any]) -> str:
    """Return the variant with the best mean on the validation part, of those that have the metric there."""
    means = {}
    for variant in _variants(document):
        values = _values(_runs(document, variant), "validation", bar["metric"])
        if values:
            means[variant] = statistics.mean(values)
    if not means:
        return ""
    low, high = bar["at_least"], bar["at_most"]
    if low is not None and high is not None:  # a range has no direction: the variant nearest to its middle
        return min(means, key=lambda variant: abs(means[variant] - (low + high) / 2))
    return (min if low is None else max)(means, key=lambda variant: means[variant])


def _bars(document: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for bar in document["bars"]:
        variant, values, is_reached = reached(document, bar)
        low, high = bar["at_least"], bar["at_most"]
        limits = (
            f"{low} to {high}" if None not in (low, high) else f"≥ {low}" if high is None else f"≤ {high}"
        )
        limits += f" above {bar['over']}" if bar["over"] else ""
        runs = _runs(document, variant)
        minutes = f"{statistics.mean(run['minutes'] for run in runs):.1f}" if runs else ""
        verdict = {True: "yes", False: "**no**", None: "not run"}[is_reached]
        rows.append(
            [
                document["name"],
                bar["metric"],
                limits,
                variant,
                str(len(values)),
                _spread(values),
                minutes,
                verdict,
            ]
        )
    return rows


def _read(name: str, folder: Path) -> dict[str, Any] | None:
    path = folder / f"{name}.json"
    return read_json(path) if path.exists() else None


def _variants(document: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(run["variant"] for run in document["runs"]))


def _runs(document: Mapping[str, Any], variant: str) -> list[Mapping[str, Any]]:
    return [run for run in document["runs"] if run["variant"] == variant]


def _values(runs: Sequence[Mapping[str, Any]], part: str, metric: str) -> list[float]:
    found = [run["metrics"].get(part, {}).get(metric) for run in runs]
    return [value for value in found if value is not None]


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(map(_number, values))
    return f"{_number(statistics.mean(values))} [{_number(min(values))}, {_number(max(values))}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


if __name__ == "__main__":
    put_text(PAGE, page())
