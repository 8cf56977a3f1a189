"""Write the results of a benchmark: ``<name>.json`` with every sample, and ``<name>.md``, which is made from it."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from benchmarks.timing import Arm, paired_ratio, summary
from seqjax.files import put_text

LIBRARIES = ("jax", "jaxlib", "flax", "dm-haiku", "equinox", "optax", "torch")


@dataclass(frozen=True)
class Measured:
    """The samples of an arm in seconds. A skipped arm has no samples, and its note gives the reason."""

    name: str
    seconds: list[float] = field(default_factory=list)
    compile_seconds: float | None = None
    temp_bytes: int | None = None
    error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Case:
    """The arms at one shape; ratios are relative to the baseline."""

    label: str
    baseline: str
    arms: list[Measured]


@dataclass(frozen=True)
class Table:
    """Quantities derived from the cases, as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Group:
    """The cases of one table. `rows` is the head of the column of labels; `tables` stand before the cases.

    `data` are the numbers behind the tables, which only the JSON file holds.
    """

    title: str
    rows: str
    cases: list[Case]
    tables: list[Table] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)


def measured(arm: Arm, seconds: list[float], error: float | None, note: str = "") -> Measured:
    """Return the samples of an arm with its compile time and memory."""
    return Measured(arm.name, seconds, arm.compile_seconds, arm.temp_bytes, error, note)


def header() -> dict[str, str]:
    """Return the device, the versions of libraries, the commit and the date."""
    device = jax.devices()[0]
    lines = {
        "device": f"{device.platform}, {_cpu_model() if device.platform == 'cpu' else device.device_kind}",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            lines[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            lines[library] = "not installed"
    return {**lines, "commit": _commit(), "date": datetime.date.today().isoformat()}


def save(
    name: str, title: str, about: str, command: str, groups: Sequence[Group], folder: Path
) -> list[Path]:
    """Write both files, each as a whole, and return their paths."""
    document = {
        "name": name,
        "title": title,
        "about": about,
        "command": command,
        "header": header(),
        "groups": [asdict(group) for group in groups],
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    for path, text in zip(paths, (json.dumps(document, indent=1) + "\n", render(document))):
        put_text(path, text)
    return paths


def beside_other_versions(groups: Sequence[Group], path: Path) -> list[Group]:
    """Add the rows that other versions of JAX wrote into tables of the same title and columns.

    The tables have a column "jax", and before it the labels of a row. Rows of one label stand together, by version.

    Args:
        groups: the tables that this version measured.
        path: the JSON file of earlier runs; it may be missing.
    """
    if not path.exists():
        return list(groups)
    earlier = {
        (table["title"], *table["columns"]): table["rows"]
        for group in json.loads(path.read_text())["groups"]
        for table in group["tables"]
    }

    def add(table: Table) -> Table:
        at = table.columns.index("jax")
        others = [row for row in earlier.get((table.title, *table.columns), []) if row[at] != jax.__version__]
        labels = list(dict.fromkeys(tuple(row[:at]) for row in (*table.rows, *others)))

        def place(row: list[str]) -> tuple[int, list[int]]:
            return labels.index(tuple(row[:at])), [int(number) for number in re.findall(r"\d+", row[at])]

        return replace(table, rows=sorted((*table.rows, *others), key=place))

    return [replace(group, tables=[add(table) for table in group.tables]) for group in groups]


def render(document: Mapping[str, Any]) -> str:
    """Return the Markdown text of a document, which has the form of the JSON file."""
    parts = [f"# {document['title']}", document["about"], f"    {document['command']}"]
    parts.append(_table(["", ""], [[key, value] for key, value in document["header"].items()]))
    for group in document["groups"]:
        parts.append(f"## {group['title']}")
        for table in group.get("tables", []):
            parts += [f"### {table['title']}", _table(table["columns"], table["rows"])]
        if group["cases"]:
            parts += [_ratios(group), _details(group)]
    return "\n\n".join(parts) + "\n"


def _ratios(group: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(arm["name"] for case in group["cases"] for arm in case["arms"]))
    rows = []
    for case in group["cases"]:
        arms = {arm["name"]: arm for arm in case["arms"]}
        rows.append([case["label"], *(_ratio(arms.get(name), arms[case["baseline"]]) for name in names)])
    return _table([group["rows"], *names], rows)


def _ratio(arm: Mapping[str, Any] | None, baseline: Mapping[str, Any]) -> str:
    if arm is None or not arm["seconds"]:
        return arm["note"] if arm else ""
    if arm["name"] == baseline["name"]:
        return "**1**"
    ratio = paired_ratio(arm["seconds"], baseline["seconds"])
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _details(group: Mapping[str, Any]) -> str:
    columns = [
        group["rows"],
        "arm",
        "min ms",
        "median ms",
        "p95 ms",
        "compile s",
        "temporaries MB",
        "error",
        "note",
    ]
    rows = []
    for case in group["cases"]:
        for arm in (arm for arm in case["arms"] if arm["seconds"]):
            times = [f"{1e3 * value:.2f}" for value in summary(arm["seconds"])]
            compile_seconds, temp_bytes, error = arm["compile_seconds"], arm["temp_bytes"], arm["error"]
            compiled = "" if compile_seconds is None else f"{compile_seconds:.2f}"
            memory = "" if temp_bytes is None else f"{temp_bytes / 1e6:.1f}"
            rows.append(
                [case["label"], arm["name"], *times, compiled, memory]
                + ["" if error is None else f"{error:.0e}", arm["note"]]
            )
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
