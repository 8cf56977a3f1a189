"""The report renderer, on synthetic measurements whose numbers are known."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from PIL import Image

from seqjax.report import figures, page, tables

CELLS, LENGTHS, SEEDS, STEPS = ("plain", "gated", "linear"), (16, 40), (0, 1), (0, 1, 4, 9)
ENTROPY = 3.0
SVG = "{http://www.w3.org/2000/svg}"


def rate(cell: str, seed: int, step: int) -> float:
    """Nats per step of lag: "plain" falls to about -30,000 nats at length 40, "gated" decays slowly."""
    return {"plain": -800.0, "gated": -0.1}[cell] * (1 + 0.2 * seed) / (1 + step / 9)


def exponent(seed: int, step: int) -> float:
    """Of the power law that "linear" (and any other cell) follows."""
    return -0.8 - 0.1 * seed + 0.02 * step


def profile(cell: str, length: int, seed: int, step: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Natural logarithms of the norms, by step t."""
    lag = np.arange(length)[::-1]
    if cell in ("plain", "gated"):
        return rate(cell, seed, step) * lag - 1.0
    return np.asarray(exponent(seed, step) * np.log1p(lag) - 1.0, dtype=np.float64)


def write_study(
    folder: Path,
    cells: Sequence[str] = CELLS,
    skip: Callable[[str, int, int], bool] | None = None,
    **summary: Any,
) -> Path:
    """Write a folder as the study does; `skip` leaves out runs by cell, length and seed."""
    rows: list[tuple[Any, ...]] = []
    runs = [(c, n, s) for c in cells for n in LENGTHS for s in SEEDS if not (skip and skip(c, n, s))]
    for cell, length, seed in runs:
        for step in STEPS:
            norms = profile(cell, length, seed, step)
            if (cell, length, step) == ("gated", 40, 4):
                norms[3], norms[5] = -math.inf, math.nan
            start = (cell, length, seed, step)
            for loss in ("last", "mean"):
                rows += [(*start, loss, "log_norm", "carry", t, norm) for t, norm in enumerate(norms)]
                rows += [(*start, loss, "log_norm", "h", t, norm - 50) for t, norm in enumerate(norms)]
                rows += [(*start, loss, "zero_share", "carry", None, 0.25)]
                rows += [(*start, loss, "parameter_gradient_norm", ".w_h", None, 0.5 + seed + step)]
            exponential = cell in ("plain", "gated")
            slope = rate(cell, seed, step) if exponential else -0.05
            fits = {
                "exponential_rate": slope,
                "exponential_length": -1 / slope,
                "power_exponent": exponent(seed, step),
                "exponential_aic": -100.0 if exponential else 100.0,
                "power_aic": 0.0,
                "lag_50": 3 + seed,
                "lag_90": 7 + step,
            }
            rows += [(*start, "last", name, "carry", None, value) for name, value in fits.items()]
        for step in range(10):
            rows.append(
                (cell, length, seed, step, None, "train_loss", None, None, 4.5 - 0.2 * step + 0.1 * seed)
            )
        rows.append((cell, length, seed, 9, None, "held_out_loss", None, None, 2.4 + 0.2 * seed))
    folder.mkdir(exist_ok=True)
    pl.DataFrame(rows, schema=page.SCHEMA, orient="row").write_parquet(folder / "results.parquet")
    planned = len(cells) * len(LENGTHS) * len(SEEDS)
    settings = {
        "cells": list(cells),
        "lengths": list(LENGTHS),
        "seeds": 2,
        "task": "text",
        "dtype": "float32",
    }
    content = {
        "title": "A synthetic study",
        "settings": settings,
        "environment": {"python": "3.11"},
        "complete": len(runs) == planned,
        "runs_planned": planned,
        "runs_finished": len(runs),
        "started": "2025-01-01T10:00:00",
        "finished": None,
        "baselines": {"unigram_entropy": ENTROPY},
    }
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder


class Rows(HTMLParser):
    """Collects the text of a page's table rows, and every id and fetched address."""

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and addresses, and open rows and cells."""
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.addresses.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        """Close cells."""
        if tag in ("td", "th"):
            self._open = False
            self.rows[-1][-1] = " ".join(self.rows[-1][-1].split())

    def handle_data(self, data: str) -> None:
        """Keep the text of open cells."""
        self.text.append(data)
        if self._open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete study, rendered."""
    folder = write_study(tmp_path_factory.mktemp("study") / "complete")
    assert page.render(folder) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def text(study: Path) -> str:
    """The page of the complete study."""
    return (study / "index.html").read_text(encoding="utf-8")


def test_page_loads_nothing_and_is_small(text: str) -> None:
    addresses = Rows(text).addresses + re.findall(r"url\(\s*['\"]?([^)'\"]+)", text)
    assert any(address.startswith("data:image/png") for address in addresses)
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    assert "@import" not in text and "<script" not in text
    assert len(text.encode()) < 5_000_000


def test_page_shows_every_cell_and_length(text: str) -> None:
    for cell in CELLS:
        for length in LENGTHS:
            assert f">{cell}, T = {length}</text>" in text
    assert "runs finished" not in text


def test_ids_are_unique_and_references_resolve(text: str) -> None:
    parsed = Rows(text)
    assert [name for name, count in Counter(parsed.ids).items() if count > 1] == []
    references = {address[1:] for address in parsed.addresses if address.startswith("#")}
    references |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert references and references <= set(parsed.ids)


def test_figures_are_valid_and_follow_the_theme(study: Path) -> None:
    files = sorted((study / "figures").iterdir())
    # For each loss and length: a map by cell, their scale, and curves at both ends of training.
    assert len(files) == 2 * len(LENGTHS) * (len(CELLS) + 1 + 2)
    for file in files:
        content = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(content.encode())
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img" and root.get("aria-label")
        assert "prefers-color-scheme" in content and "currentColor" in content
        assert not re.search("#0a0b0c|#0d0e0f|#0b0a0c|#0c0a0b|<metadata|DejaVu", content)


def test_heat_map_pixels_are_the_colours_of_the_mean_norms(study: Path) -> None:
    root = ElementTree.parse(study / "figures" / "heat-last-T40-gated.svg").getroot()
    image = root.find(f".//{SVG}image")
    assert image is not None
    encoded = image.attrib["{http://www.w3.org/1999/xlink}href"].split(",", 1)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))
    upside_down = float(image.attrib["transform"].split()[3]) < 0
    pixels = pixels if upside_down else pixels[::-1]
    assert pixels.shape[:2] == (len(STEPS), 40)
    # "plain" lies far below the floor, so the shared scale is 1e-45 to 1e0 (its last step is at e^-1).
    for row, step in enumerate(STEPS):
        for t in (0, 20, 39):
            mean = sum(profile("gated", 40, seed, step)[t] for seed in SEEDS) / 2 / math.log(10)
            colour = mpl.colormaps["viridis"]((mean + 45) / 45, bytes=True)
            assert np.abs(pixels[row, t].astype(int) - np.array(colour, dtype=int)).max() <= 3
    assert list(pixels[2, [3, 5], 3]) == [0, 0]  # minus infinity and not a number have no colour


def test_exponential_curve_is_straight_and_power_law_is_not(study: Path) -> None:
    root = ElementTree.parse(study / "figures" / "curves-last-T40-init.svg").getroot()
    bend = {}
    for cell, colour in (("gated", "#d55e00"), ("linear", "#009e73")):
        lines = [
            path.attrib["d"]
            for path in root.iter(f"{SVG}path")
            if f"stroke: {colour}" in path.get("style", "") and "clip-path" in path.attrib
        ]
        points = np.array(re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", lines[0]), dtype=float)
        chord = np.interp(points[:, 0], points[[0, -1], 0], points[[0, -1], 1])
        bend[cell] = np.abs(points[:, 1] - chord).max()
    assert bend["gated"] < 0.05 < 1 < bend["linear"]


def horizon_rows(text: str, length: int) -> dict[tuple[str, str], list[str]]:
    """The rows of the horizon table at one length, by cell and time."""
    table = next(part for part in text.split("<table") if "better fit" in part)
    body = next(part for part in table.split("<tbody") if f"T = {length}<" in part)
    found: dict[tuple[str, str], list[str]] = {}
    cell = ""
    for row in Rows("<table" + body).rows[1:]:
        if len(row) == 8:
            cell, *row = row
        found[cell, row[0]] = row[1:]
    return found


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("when", "step"), [("initialisation", 0), ("after training", 9)])
def test_horizons_show_the_numbers(text: str, length: int, when: str, step: int) -> None:
    rows = horizon_rows(text, length)
    assert len(rows) == 2 * len(CELLS)
    low, high = sorted(-1 / rate("gated", seed, step) for seed in SEEDS)
    mean = sum(rate("gated", seed, step) for seed in SEEDS) / 2 * (length - 1) / math.log(10)
    assert rows["gated", when] == [
        "exponential",
        f"e-folding {(low + high) / 2:#.3g} ({low:#.3g} to {high:#.3g}) steps",
        "3.5 (3 to 4)",
        f"{7 + step}",
        f"10{mean:.1f}".replace("-", "−"),
        "25",
    ]
    slopes = [f"−{each - 0.02 * step:.3f}" for each in (0.85, 0.9, 0.8)]
    assert rows["linear", when][:2] == ["power law", "exponent {} ({} to {})".format(*slopes)]
    fall = sum(rate("plain", seed, step) for seed in SEEDS) / 2 * (length - 1) / math.log(10)
    assert rows["plain", when][4] == f"10{fall:.0f}".replace("-", "−")


def test_losses_and_parameters_show_the_numbers(text: str) -> None:
    rows = Rows(text).rows
    losses = ["4.550 (4.500 to 4.600)", "2.750 (2.700 to 2.800)", "2.500 (2.400 to 2.600)"]
    assert ["gated", *losses, "−0.500 (−0.600 to −0.400)"] in rows
    norms = ["1.00 (0.500 to 1.50)", "10.0 (9.50 to 10.5)"]
    assert ["linear", ".w_h", *norms, *norms] in rows


def test_caption_tells_what_the_data_say(text: str) -> None:
    words = " ".join("".join(Rows(text).text).replace("\xa0", " ").split())
    assert "from 10−45 to 100. Smaller norms are drawn in its lowest colour. Hatched grey" in words
    values = [np.mean([profile("plain", 40, s, step) for s in SEEDS], axis=0) for step in STEPS]
    share = np.mean(np.array(values) < math.log(2.0**-149))
    assert f"plain {100 * share:.0f} %" in words
    last = {cell: np.mean([profile(cell, 40, s, 9) for s in SEEDS], axis=0) / math.log(10) for cell in CELLS}
    falls = {cell: f"10{each[0] - each[-1]:.1f}".replace("-", "−") for cell, each in last.items()}
    least = f"10{last['plain'][0] - last['plain'][-1]:.0f}".replace("-", "−")
    assert f"is largest for gated ({falls['gated']}) and smallest for plain ({least})" in words
    assert "The axis ends at 10−60;" in words


def test_incomplete_study_says_so_and_shows_what_there_is(tmp_path: Path) -> None:
    def skip(cell: str, length: int, seed: int) -> bool:
        return (cell == "linear" and length == 40) or (cell, length, seed) == ("gated", 16, 1)

    content = page.render(write_study(tmp_path / "s", skip=skip)).read_text(encoding="utf-8")
    assert "9 of 12 runs finished" in content and "--resume" in content
    assert "linear, T = 40; " not in content.replace("gated, T = 16 (1 of 2 seeds); linear, T = 40", "")
    assert "gated, T = 16 (1 of 2 seeds)" in content
    assert ">linear, T = 16</text>" in content and ">linear, T = 40</text>" not in content
    assert ("linear", "initialisation") not in horizon_rows(content, 40)


@pytest.mark.parametrize("with_file", [True, False])
def test_empty_study_renders(tmp_path: Path, with_file: bool) -> None:
    folder = write_study(tmp_path / "s", skip=lambda *_: True)
    if not with_file:
        (folder / "results.parquet").unlink()
    content = page.render(folder).read_text(encoding="utf-8")
    assert "0 of 12 runs finished" in content and "nothing to draw yet" in content
    assert "No run is finished yet." in content


def test_summary_may_lack_everything(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s")
    (folder / "summary.json").write_text("{}")
    assert ">gated, T = 40</text>" in page.render(folder).read_text(encoding="utf-8")


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    names = ['</text><script>alert("1")</script>', "_a $\\frac{1}{2}$ & \x01", "../../上"]
    folder = write_study(tmp_path / "s", cells=names, title="<b>bold</b> & {{ 1 }}")
    content = page.render(folder).read_text(encoding="utf-8")
    parsed = Rows(content)
    assert "script" not in parsed.tags and "b" in parsed.tags
    assert "<b>bold" not in content and "&lt;b&gt;bold&lt;/b&gt; &amp; {{ 1 }}" in content
    assert any(row[0] == names[0] for row in parsed.rows)
    assert [name for name, count in Counter(parsed.ids).items() if count > 1] == []
    assert sorted(path.name for path in folder.parent.iterdir()) == ["s"]
    files = list((folder / "figures").iterdir())
    assert len(files) == 2 * len(LENGTHS) * 6
    for file in files:
        ElementTree.fromstring(file.read_bytes())


def test_rendering_again_gives_the_same_bytes(study: Path) -> None:
    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in study.rglob("*") if path.is_file()}

    before = everything()
    page.render(study)
    assert everything() == before


def test_failing_template_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_study(tmp_path / "s")
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(tables, "losses", lambda *_: [{"length": 16}])
    with pytest.raises(Exception, match="cell"):
        page.render(folder)
    assert sorted(folder.rglob("*")) == before


def test_failing_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_study(tmp_path / "s")
    (folder / "index.html").write_text("old")

    def refuse(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        page.render(folder)
    assert (folder / "index.html").read_text() == "old"
    assert not list(folder.rglob("*.tmp"))


def test_a_single_snapshot_has_no_end_of_training(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s")
    frame = pl.read_parquet(folder / "results.parquet").filter(pl.col("training_step") == 0)
    frame.write_parquet(folder / "results.parquet")
    content = page.render(folder).read_text(encoding="utf-8")
    assert not list((folder / "figures").glob("*after*"))
    assert horizon_rows(content, 16)["gated", "after training"] == ["–", "", "–", "–", "–", "–"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (0.0, "0"),
        (12.345, "12.3"),
        (-0.5, "−0.500"),
        (1024.0, "1024"),
        (3.2e-12, "3.2×10⁻¹²"),
        (4.0e7, "4.0×10⁷"),
    ],
)
def test_numbers_read_well(value: float | None, expected: str) -> None:
    assert tables.number(value) == expected


def test_growth_shows_a_rate_and_exploding_norms_are_clipped() -> None:
    aic = {"exponential_aic": [0.0], "power_aic": [5.0]}
    growing = {"exponential_length": [math.inf], "exponential_rate": [0.02], "power_exponent": [1.0]}
    fit = tables._fit(aic | growing)
    assert (fit["measure"], fit["value"].mean, fit["unit"]) == ("rate", "0.0200", "per step")
    assert figures.limits(np.array([-5.5, 1e4, np.inf, np.nan]), -45, 39) == (-6, 39)
    assert figures.limits(np.array([-1e4, -900.0]), -45, 39) == (-45, -44)
