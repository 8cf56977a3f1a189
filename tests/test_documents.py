"""Test the documents: links have targets, and lists are complete."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax import calibration
from seqjax.testing import check_method

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/report/*.md",
        "examples/*.md",
        "benchmarks/results/*.md",
        "seqjax/datasets/*.md",
    )
    for path in ROOT.glob(pattern)
)


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document):
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    ):
        if target.startswith("http"):
            continue
        place, _, anchor = target.partition("#")
        path = (ROOT / document).parent / place if place else ROOT / document
        assert path.exists(), f"{document}: {target} does not exist"
        assert not anchor or anchor in anchors(path), f"{document}: {target} names no heading"


def test_the_index_lists_every_page():
    index = (ROOT / "docs/index.md").read_text()
    missing = [
        path.name for path in ROOT.glob("docs/*.md") if path.name != "index.md" and path.name not in index
    ]
    assert not missing


def test_the_page_of_the_report_lists_every_section():
    names = pytest.importorskip("seqjax.report.sections").NAMES
    page = (ROOT / "docs/gradient_report.md").read_text().partition("## The sections")[2]
    assert tuple(re.findall(r"^\| (\w+) \| ", page, re.MULTILINE)[1:]) == names


def test_every_closed_form_is_explained():
    ids = set(re.findall(r"^## (C\d+):", (ROOT / "docs/closed_forms.md").read_text(), re.MULTILINE))
    assert ids == set(calibration.IDS)


def execute(block, **names):
    """Run an example and return its names, next to those given to it."""
    names["__name__"] = "example"
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_method_the_probe_and_the_section_added_in_contributing_work(monkeypatch):
    """The blocks after those of the cell, each put in its place as the guide says."""
    pytest.importorskip("seqjax.study.measurement")
    from seqjax.calibration.base import Check, Values, run_checks
    from seqjax.calibration.networks import network
    from seqjax.calibration.singular import MATRIX
    from seqjax.report.results import StudyResults
    from seqjax.study import sections
    from seqjax.study.rows import SCHEMA, Part

    polars = pytest.importorskip("polars")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    method, probe, closed_form, measurement, section = blocks[3:]

    check_method(execute(method)["Rematerialized"](), sj.lstm(3), jnp.ones((2, 3)), strict=True)

    norm = execute(probe)["jacobian_norm"]
    given = {"jax": jax, "jnp": jnp, "np": np, "Any": Any, "Check": Check, "Values": Values}
    check = execute(closed_form, network=network, MATRIX=MATRIX, jacobian_norm=norm, **given)[
        "JACOBIAN_CHECK"
    ]
    assert all(row.passed for dtype in ("float64", "float32") for row in run_checks([check], dtype))

    monkeypatch.setattr(sj.probes, "jacobian_norm", norm, raising=False)
    module = ModuleType("seqjax.study.sections.jacobian")
    exec(compile(measurement, "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sections, "jacobian", module, raising=False)
    layer, xs = sj.recurrent(sj.lstm(3)), jnp.ones((5, 2, 3))
    inner = SimpleNamespace(layer=layer, params=layer.init(jax.random.key(0), xs[0]), xs=xs)
    experiment = SimpleNamespace(
        settings=SimpleNamespace(seeds=1),
        inner=lambda *of: inner,
        keep=lambda key, make: make(),
        jit=lambda function, steps: jax.jit(function),
    )
    part = Part(module.NAME, "lstm", 5, 0)
    rows = [part._asdict() | {"part": part.name} | row for row in module.measure(experiment, part)]
    assert [row["t"] for row in rows] == list(range(5))

    frame = polars.DataFrame(rows, schema=SCHEMA)
    results = StudyResults(frame, {"settings": {"cells": ["lstm"]}})
    (table,) = execute(section)["SECTION"].view(results).blocks
    assert len(table.groups[0][1]) == 1
