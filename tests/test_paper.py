"""Test the figures and tables for papers: they open, and hold the numbers of the page."""

import csv
import math
import re
import subprocess
import zlib
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from helpers import looks
from helpers.command_line import run
from helpers.studies import write_study
from markupsafe import Markup

from seqjax.report import paper
from seqjax.report.content import Table, columns, say
from seqjax.report.latex import csv_table, latex, latex_table
from seqjax.report.page import contents, panels_of
from seqjax.report.results import StudyResults
from seqjax.study.rows import SCHEMA

CELLS, LENGTH = ("lru", "x.py:build_$"), 64
SETTINGS = {
    "cells": list(CELLS),
    "lengths": [LENGTH],
    "preset": "smoke",
    "sections": ["training", "decay", "summary"],
}


def rows():
    """Profiles that bend, with zeros at the far end of the second cell, and losses."""
    found = []
    for place, cell in enumerate(CELLS):
        for seed in range(3):
            for step in (0, 8):
                at = {"section": "training", "cell": cell, "seed": seed, "training_step": step}
                carry = at | {"loss": "last", "leaf": "carry"}
                found.append(carry | {"quantity": "lag_90", "value": 20.0 + 10 * place + seed})
                found.append(at | {"quantity": "held_out_loss", "value": 3.0 - step / 8 * (1 + place)})
                norms = -(1 + place + seed / 9) * np.sqrt(np.arange(LENGTH)[::-1])
                norms[:4] = -math.inf if place else norms[:4]
                found += [
                    carry | {"quantity": "log_norm", "t": t, "value": norm} for t, norm in enumerate(norms)
                ]
    tidy = [dict.fromkeys(SCHEMA) | {"part": "p", "length": LENGTH} | row for row in found]
    return pl.DataFrame(tidy, schema=SCHEMA)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("paper") / "s", rows(), {"settings": SETTINGS})


@pytest.fixture(scope="module")
def written(study):
    with pytest.MonkeyPatch.context() as patch:  # neither LaTeX nor another program is needed
        patch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail(f"started {args}"))
        return paper.write_figures(study)


@pytest.fixture(scope="module")
def panels():
    first, sections = contents(StudyResults(rows(), {"settings": SETTINGS}))
    return [first.panel, *(panel for _, view in sections for panel in panels_of(view.blocks))]


def test_every_drawing_and_table_of_the_page_has_its_files(written, panels):
    names = {path.name for path in written.folder.iterdir()}
    assert written.figures == len(panels) == len({panel.name for panel in panels}) >= 8
    assert {f"{panel.name}.{form}" for panel in panels for form in ("pdf", "pgf")} <= names
    tables = {name.removesuffix(".tex") for name in names if name.endswith(".tex")}
    assert {
        "table-answer-cells-compared",
        "table-decay-table-of-horizons",
        "table-summary-quantities",
    } <= tables
    assert len(tables) == written.tables and {f"{name}.csv" for name in tables} <= names


def streams(pdf):
    """The compressed streams of a PDF."""
    for found in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            yield zlib.decompress(found[1]).decode("latin-1")
        except zlib.error:
            continue


def test_pdf_files_open_at_the_width_of_a_column(written, panels):
    for panel in panels:
        pdf = (written.folder / f"{panel.name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF-1.") and pdf.rstrip().endswith(b"%%EOF")
        start = int(re.search(rb"startxref\s+(\d+)\s+%%EOF\s*$", pdf)[1])
        assert pdf[start:].startswith(b"xref")
        width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)[1])
        assert width == pytest.approx(72 * paper.WIDTH)
        sizes = [float(size) for text in streams(pdf) for size in re.findall(r"/F\S+ ([\d.]+) Tf", text)]
        assert sizes and min(sizes) == max(sizes) == pytest.approx(8.0, abs=0.05)


def on_page(panel, line):
    """The corners of a line of the page's drawing, as shares of its width, from the lower left corner."""
    root = ElementTree.fromstring(panel.svg)
    width, height = (float(root.get(side)) for side in ("width", "height"))
    path = next(looks.group(panel.svg, f"{panel.name}-{line}").iter(f"{looks.SVG}path"))
    corners = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d")), float)
    return (corners * [1, -1] + [0, height]) / width


def polylines(text, move, line):
    """The lines of PDF or PGF code, by the patterns of their corners."""
    found = []
    for begins, a, b, _, c, d in re.findall(f"(?:({move})|({line}))", text):
        corner = [float(a or c), float(b or d)]
        if begins:
            found.append([])
        if found:
            found[-1].append(corner)
    return [np.array(each) for each in found if len(each) > 2]


@pytest.mark.parametrize("line", ["s0", "s1"])
def test_lines_hold_the_numbers_of_the_page(written, panels, line):
    panel = panels[0]
    expected = on_page(panel, line)
    assert len(expected) > 10
    number = r"([-\d.]+)"
    pdf = max(streams((written.folder / f"{panel.name}.pdf").read_bytes()), key=len)
    pgf = (written.folder / f"{panel.name}.pgf").read_text()
    point = rf"{{\\pgfqpoint{{{number}in}}{{{number}in}}}}"
    forms = {
        "pdf": (polylines(pdf, rf"\n{number} {number} m", rf"\n{number} {number} l"), 72 * paper.WIDTH),
        "pgf": (polylines(pgf, rf"\\pgfpathmoveto{point}", rf"\\pgfpathlineto{point}"), paper.WIDTH),
    }
    for form, (lines, width) in forms.items():
        gaps = []
        for each in lines:
            corners = each / width
            if np.ptp(corners[:, 0]) < 0.9 * np.ptp(expected[:, 0]) or np.any(np.diff(corners[:, 0]) < 0):
                continue
            at = np.linspace(expected[0, 0] + 0.02, expected[-1, 0] - 0.02, 50)
            found, wanted = (np.interp(at, *some.T) for some in (corners, expected))
            gaps.append(np.abs(found - wanted).max())
        assert gaps and min(gaps) < 0.002, form


def test_pgf_is_latex_of_balanced_groups_without_special_letters(written, panels):
    for panel in panels:
        text = (written.folder / f"{panel.name}.pgf").read_text()
        bare = text.replace("\\{", "").replace("\\}", "")
        assert bare.count("{") == bare.count("}") and text.count(r"\begin{pgf") == text.count(r"\end{pgf")
        assert text.isascii() and f"{{{paper.WIDTH:f}in}}" in text
        for image in re.findall(r"\\pgfimage\[.*?\]{(.*?)}", text):
            assert (written.folder / image).read_bytes().startswith(b"\x89PNG")
    heat = (written.folder / "heat-last-T64-lru.pgf").read_text()
    assert "heat-last-T64-lru-image0.png" in heat and "training step" in heat
    assert r"build\_\$" in (written.folder / "answer-decay.pgf").read_text()


def test_tables_hold_the_numbers_of_the_page(written):
    name = written.folder / "table-answer-cells-compared"
    first, *lines = csv.reader(name.with_suffix(".csv").read_text().splitlines())
    assert first[:4] == ["cell", "reach, steps", "reach, steps low", "reach, steps high"]
    assert lines[0][:4] == ["lru", "21", "20", "22"] and lines[1][:4] == [CELLS[1], "31", "30", "32"]
    tex = name.with_suffix(".tex").read_text()
    assert (
        r"\textbf{lru} & 21 (20 to 22)" in tex and r"\textbf{x.py:build\_\$} & \textbf{31 (30 to 32)}" in tex
    )
    assert tex.count(r"\\") == 3 and r"\toprule" in tex and "better" not in tex.split(r"\midrule")[0]


def test_a_table_in_csv_has_plain_numbers_in_base_units():
    rows = [
        [
            "a",
            say('1.50 <span class="span">(−1.0 to 2×10⁻³)</span>'),
            "12.3\u00a0kB",
            say("10<sup>−2.0</sup>"),
            "–",
        ],
        ["b", "3.0×10⁷", "200\u00a0µs", say("10<sup>−400</sup>"), say("none: <b>x</b>, y")],
    ]
    table = Table("t", columns(["cell"], ["v", "memory", "p", "q"]), [("T = 1", rows)])
    assert list(csv.reader(csv_table(table).splitlines())) == [
        ["group", "cell", "v", "v low", "v high", "memory", "p", "q"],
        ["T = 1", "a", "1.50", "-1.0", "2e-3", "12300", "0.01", ""],
        ["T = 1", "b", "3.0e7", "", "", "0.0002", "1e-400", "none: x, y"],
    ]
    bytes_only = Table("t", columns(["cell"], ["memory"]), [("", [["a", "1.00\u00a0MB"], ["b", "5\u00a0B"]])])
    assert csv_table(bytes_only) == 'cell,"memory, B"\na,1000000\nb,5\n'
    assert r"\multicolumn{5}{l}{\textit{T = 1}} \\" in latex_table(table)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50 % of $x^2$ {#}", r"a\_b \& 50 \% of \$x\textasciicircum{}2\$ \{\#\}"),
        ("10⁻⁴⁵", "10$^{-45}$"),
        (Markup("<b>λ<sub>1</sub></b> &lt; 0"), r"\textbf{$\lambda$\textsubscript{1}} $<$ 0"),
        ("|λ₁| ∂\\", r"$|$$\lambda$$_{1}$$|$ $\partial$\textbackslash{}"),
        (Markup('reach<span class="hint">more is better</span>'), "reach"),
        (Markup('2 <span class="span">(1 to 3)</span>'), "2 (1 to 3)"),
    ],
)
def test_texts_become_latex(text, expected):
    assert latex(text) == expected


def test_results_that_cannot_be_drawn_write_nothing(tmp_path):
    broken = rows().with_columns(t=pl.when(pl.col("quantity") == "log_norm").then(pl.col("t") + LENGTH))
    folder = write_study(tmp_path / "s", broken, {"settings": SETTINGS})
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match="its results cannot be drawn"):
        paper.write_figures(folder)
    assert sorted(folder.rglob("*")) == before


def test_the_command_writes_the_files_at_a_width_and_says_where(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper, "panels_of", lambda blocks: ())  # the first screen is enough
    assert (
        run(monkeypatch, "figures", study, "--style", "paper", "--width", "6.5", "--out", tmp_path / "p") == 0
    )
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith("Wrote 1 figure (PDF, PGF) and 4 tables (LaTeX, CSV) to ")
    pdf = (tmp_path / "p" / "answer-decay.pdf").read_bytes()
    assert b"/MediaBox [ 0 0 468 " in pdf
    (size,) = {float(s) for text in streams(pdf) for s in re.findall(r"/F\S+ ([\d.]+) Tf", text)}
    assert size == pytest.approx(16.0105, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--style", "poster"], "--style: "),
        (["--width", "0"], "width: expected 1 to 20 inches, got 0.0."),
        (["--width", "nan"], "width: expected 1 to 20 inches, got nan."),
        (["--out", "{file}"], "cannot be written"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(study, tmp_path, monkeypatch, capsys, options, error):
    (tmp_path / "file").write_text("x")
    given = [each.format(file=tmp_path / "file") for each in options]
    before = sorted(study.rglob("*"))
    assert run(monkeypatch, "figures", study, *given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert error in line and sorted(study.rglob("*")) == before and (tmp_path / "file").read_text() == "x"


def test_a_folder_without_a_study_is_one_line(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "figures", tmp_path) == 2
    assert "expected a report, got a folder without summary.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
