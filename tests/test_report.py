"""Test the report's page on synthetic measurements with known numbers."""

import base64
import dataclasses
import io
import math
import os
import re
import shutil
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from helpers import studies
from helpers.page import Parsed, page_script
from PIL import Image

from seqjax.report import drawing, page, sections
from seqjax.report import text as words
from seqjax.report.sections import decay, losses
from seqjax.study.rows import SCHEMA, Part

CELLS, LENGTHS, SEEDS, STEPS = ("plain", "gated", "linear"), (16, 40), (0, 1), (0, 1, 4, 9)
SVG = "{http://www.w3.org/2000/svg}"


def rate(cell, seed, step):
    """Nats per step of lag: "plain" falls by some 30,000 nats at length 40, others by a few."""
    return (-800.0 if cell == "plain" else -0.1) * (1 + 0.2 * seed) / (1 + step / 9)


def exponent(seed, step):
    return -0.8 - 0.1 * seed + 0.02 * step


def profile(cell, length, seed, step):
    lag = np.arange(length)[::-1]
    return (exponent(seed, step) * np.log1p(lag) if cell == "linear" else rate(cell, seed, step) * lag) - 1.0


def decades(cell, length, step):
    """Mean over seeds of log10 of the first step's norm over the last's."""
    profiles = [profile(cell, length, seed, step) for seed in SEEDS]
    return sum(each[0] - each[-1] for each in profiles) / len(SEEDS) / math.log(10)


def write_study(folder, cells=CELLS, lengths=LENGTHS, skip=lambda cell, length, seed: False, **summary):
    """Write a folder as the study does, without the runs that `skip` names."""
    rows = []
    all_runs = [(c, n, s) for c in cells for n in lengths for s in SEEDS]
    runs = [run for run in all_runs if not skip(*run)]
    for cell, length, seed in runs:
        for step in STEPS:
            norms = profile(cell, length, seed, step)
            if (cell, length, step) == ("gated", 40, 4):
                norms[3], norms[5] = -math.inf, math.nan
            start = (cell, length, seed, step)
            for loss in ("last", "mean"):
                rows += [(*start, loss, "log_norm", "carry", t, norm) for t, norm in enumerate(norms)]
                rows += [(*start, loss, "log_norm", "h", t, norm - 50) for t, norm in enumerate(norms)]
                rows.append((*start, loss, "zero_share", "carry", None, 0.25))
                rows.append((*start, loss, "parameter_gradient_norm", ".w_h", None, 0.5 + seed + step))
            slope = -0.05 if cell == "linear" else rate(cell, seed, step)
            aic = 100.0 if cell == "linear" else -100.0
            fits = {"exponential_rate": slope, "exponential_length": -1 / slope, "exponential_aic": aic}
            fits |= {"power_exponent": exponent(seed, step), "power_aic": 0.0}
            fits |= {"lag_50": 3 + seed, "lag_90": 7 + step}
            rows += [(*start, "last", name, "carry", None, value) for name, value in fits.items()]
        for step in range(10):
            loss = 4.5 - 0.2 * step + 0.1 * seed
            rows.append((cell, length, seed, step, None, "train_loss", None, None, loss))
        rows.append((cell, length, seed, 9, None, "held_out_loss", None, None, 2.4 + 0.2 * seed))
    names = "cell length seed training_step loss quantity leaf t value".split()
    tidy = [
        dict.fromkeys(SCHEMA) | dict(zip(names, row, strict=True)) | {"section": "training"} for row in rows
    ]
    tidy = [row | {"part": Part("training", row["cell"], row["length"], row["seed"]).name} for row in tidy]
    planned = len(cells) * len(lengths) * len(SEEDS)
    settings = {"cells": list(cells), "lengths": list(lengths), "seeds": 2, "task": "text"}
    settings["sections"] = ["training", "decay", "losses"]
    content = {"title": "A synthetic study", "settings": settings, "environment": {"python": "3.11"}}
    content |= {"complete": len(runs) == planned, "runs_planned": planned, "runs_finished": len(runs)}
    content |= {"runs_absent": [Part("training", *run).name for run in all_runs if run not in runs]}
    content |= {"started": "2025-01-01T10:00:00", "finished": None, "baselines": {"unigram_entropy": 3.0}}
    return studies.write_study(folder, pl.DataFrame(tidy, schema=SCHEMA), content | summary)


def horizons(text, length):
    table = next(part for part in text.split("<table") if "better fit" in part)
    body = next(part for part in table.split("<tbody") if f"T = {length}<" in part)
    found, cell = {}, ""
    for row in Parsed("<table><tbody" + body).rows[1:]:
        if len(row) == 8:
            cell, *row = row
        found[cell, row[0]] = row[1:]
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("report") / "study")
    assert page.render(str(folder)) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def text(study):
    return (study / "index.html").read_text(encoding="utf-8")


def test_page_is_complete_and_loads_nothing(text):
    addresses = Parsed(text).addresses + re.findall(r"url\(\s*['\"]?([^)'\"]+)", text)
    assert any(address.startswith("data:image/png") for address in addresses)
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    assert "@import" not in text and Parsed(text).tags.count("link") == 1
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval|Function|WebSocket)\b", page_script(text))
    assert len(text.encode()) < 5_000_000 and "runs finished" not in text
    assert all(f">{cell}, T = {length}</text>" in text for cell in CELLS for length in LENGTHS)


def test_ids_are_unique_and_references_resolve(text):
    parsed = Parsed(text)
    references = {address[1:] for address in parsed.addresses if address.startswith("#")}
    references |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert len(parsed.ids) == len(set(parsed.ids))
    assert references and references <= set(parsed.ids)


def test_figures_are_valid_and_follow_the_theme(study):
    files = sorted((study / "figures").iterdir())
    # For each loss and length: a map by cell, their scale, curves at both ends of training; fits at the greatest.
    # The first screen has the curves of the last loss after training at the greatest length once more.
    assert len(files) == 2 * len(LENGTHS) * (len(CELLS) + 1 + 2) + len(CELLS) + 1
    for file in files:
        content = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(content.encode())
        assert root.tag == f"{SVG}svg" and root.get("role") == "img" and root.get("aria-label")
        assert "prefers-color-scheme" in content and "currentColor" in content
        assert not re.search("#0a0b0c|#0d0e0f|#0b0a0c|#0c0a0b|<metadata|DejaVu", content)


def test_heat_map_pixels_are_the_colors_of_the_mean_norms(study):
    root = ElementTree.parse(study / "figures" / "heat-last-T40-gated.svg").getroot()
    image = root.find(f".//{SVG}image")
    encoded = image.attrib["{http://www.w3.org/1999/xlink}href"].split(",", 1)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"), dtype=int)
    assert pixels.shape[:2] == (len(STEPS), 40)
    upside_down = float(image.attrib["transform"].split()[3]) < 0
    rows = pixels if upside_down else pixels[::-1]
    # "plain" lies far below the floor of the shared scale, 1e-45; its top is the decade of the last step, e^-1.
    for row, step in zip(rows, STEPS, strict=True):
        for t in (0, 20, 39):
            mean = sum(profile("gated", 40, seed, step)[t] for seed in SEEDS) / 2 / math.log(10)
            color = np.array(mpl.colormaps["gray"]((mean + 45) / 45, bytes=True), dtype=int)
            assert np.abs(row[t] - color).max() <= 3
    assert rows[2, [3, 5], 3].tolist() == [0, 0]  # no color at minus infinity and NaN: two hatched boxes
    hatched = [each.get("d") for each in root.iter(f"{SVG}path") if "-absent)" in each.get("style", "")]
    assert [outline.count("M") for outline in hatched] == [2]


def test_exponential_curve_is_straight_and_power_law_is_not(study):
    root = ElementTree.parse(study / "figures" / "curves-last-T40-init.svg").getroot()
    bend = {}
    for cell, color in (("gated", "#d55e00"), ("linear", "#009e73")):
        paths = [each for each in root.iter(f"{SVG}path") if f"stroke: {color}" in each.get("style", "")]
        line = next(each.get("d") for each in paths if each.get("clip-path"))  # the legend's is not clipped
        points = np.array(re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", line), dtype=float)
        chord = np.interp(points[:, 0], points[[0, -1], 0], points[[0, -1], 1])
        assert points[0, 1] < points[-1, 1]  # downwards on the page, from lag 0
        bend[cell] = np.abs(points[:, 1] - chord).max()
    assert bend["gated"] < 0.05 and bend["linear"] > 1


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("when", "step"), [("initialization", 0), ("after training", 9)])
def test_horizons_show_the_numbers(text, length, when, step):
    rows = horizons(text, length)
    assert len(rows) == 2 * len(CELLS)
    low, high = sorted(-1 / rate("gated", seed, step) for seed in SEEDS)
    folding = f"e-folding {math.sqrt(low * high):#.3g} ({low:#.3g} to {high:#.3g}) steps"
    ratio = f"10−{-decades('gated', length, step):.1f}"
    assert rows["gated", when] == ["exponential", folding, "3.5 (3 to 4)", f"{7 + step}", ratio, "25.0"]
    slopes = [f"−{each - 0.02 * step:.3f}" for each in (0.85, 0.9, 0.8)]
    assert rows["linear", when][:2] == ["power law", "exponent {} ({} to {})".format(*slopes)]
    assert rows["plain", when][4] == f"10−{-decades('plain', length, step):.0f}"


def test_losses_and_parameters_show_the_numbers(text):
    rows = Parsed(text).rows
    losses = ["4.550 (4.500 to 4.600)", "2.750 (2.700 to 2.800)", "2.500 (2.400 to 2.600)"]
    # On the same seeds no cell is ahead of another.
    assert ["gated", *losses, "−0.500 (−0.600 to −0.400)", "0, p = 1.0"] in rows
    norms = ["1.00 (0.500 to 1.50)", "10.0 (9.50 to 10.5)"]
    assert ["linear", ".w_h", *norms, *norms] in rows


def test_captions_tell_what_the_data_say(text):
    words = Parsed(text).text
    assert "from 10−45 to 100. Smaller norms are drawn in its darkest shade. Hatched grey" in words
    assert "2 seeds" in words
    maps = [np.mean([profile("plain", 40, seed, step) for seed in SEEDS], axis=0) for step in STEPS]
    assert f"plain {100 * np.mean(np.array(maps) < math.log(2.0**-149)):.0f} %" in words
    most, least = f"10−{-decades('gated', 40, 9):.1f}", f"10−{-decades('plain', 40, 9):.0f}"
    assert f"is largest for gated ({most}) and smallest for plain ({least})." in words
    least = f"10−{-decades('plain', 40, 9):.1f}"
    assert f"is {most} times the norm at the last step for gated, {least} times for plain." in words
    assert "The axis ends at 10−60;" in words


def test_incomplete_study_says_so_and_shows_what_there_is(tmp_path):
    missing = [("linear", 40, 0), ("linear", 40, 1), ("gated", 16, 1)]
    content = page.render(write_study(tmp_path / "s", skip=lambda *run: run in missing)).read_text("utf-8")
    assert "9 of 12 runs finished" in content and "--resume" in content
    absent = [Part("training", *run).name.replace("/", " · ") for run in sorted(missing)]
    assert all(name in content for name in absent)
    assert ">linear, T = 16</text>" in content and ">linear, T = 40</text>" not in content
    assert ("linear", "initialization") not in horizons(content, 40)


def test_empty_study_renders(tmp_path):
    folder = write_study(tmp_path / "s", skip=lambda *run: True)
    content = page.render(folder).read_text(encoding="utf-8")
    assert "0 of 12 runs finished" in content and "nothing to draw yet" in content
    shutil.rmtree(folder / "parts")
    assert page.render(folder).read_text(encoding="utf-8") == content


def test_hostile_names_are_escaped(tmp_path):
    names = ['</text><script>alert("1")</script>', "_a $\\frac{1}{2}$ & \x01", "../../上"]
    folder = write_study(tmp_path / "s", names, [16], title="<b>bold</b> & {{ 1 }}")
    content = page.render(folder).read_text(encoding="utf-8")
    parsed = Parsed(content)
    assert "alert(" in content and "<script>alert" not in content and "</text><script" not in content
    assert page_script(content).strip() == (page.FOLDER / "page.js").read_text(encoding="utf-8").strip()
    assert any(row[0] == names[0] for row in parsed.rows)
    assert "<b>bold" not in content and "&lt;b&gt;bold&lt;/b&gt; &amp; {{ 1 }}" in content
    assert len(parsed.ids) == len(set(parsed.ids))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    words = ["".join(ElementTree.parse(each).getroot().itertext()) for each in folder.glob("figures/*")]
    assert len(words) == 2 * (len(names) + 1 + 2) + len(names) + 1
    # As text: its maps, every legend, its fits, the first screen.
    assert sum("$\\frac{1}{2}$" in each for each in words) == 2 + 2 * 2 + 1 + 1


def test_rendering_again_gives_the_same_bytes(study):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    page.render(study)
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_failing_template_leaves_nothing_behind(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "s", ["gated"], [16])
    before = sorted(folder.rglob("*"))
    failing = dataclasses.replace(losses.SECTION, view=lambda data: object())
    monkeypatch.setattr(sections, "SECTIONS", (failing,))
    with pytest.raises(Exception, match="no attribute 'blocks'|no attribute 'intro'"):
        page.render(folder)
    assert sorted(folder.rglob("*")) == before


def test_failing_write_keeps_the_old_page(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "s", ["gated"], [16])
    (folder / "index.html").write_text("old")
    monkeypatch.setattr("os.replace", lambda source, target: os.remove(folder / "absent"))
    with pytest.raises(FileNotFoundError):
        page.render(folder)
    assert (folder / "index.html").read_text() == "old"
    assert not list(folder.rglob("*.tmp"))


def test_single_snapshot_and_bare_summary(tmp_path):
    folder = write_study(tmp_path / "s", ["gated", "linear"], [16])
    first = pl.read_parquet(folder / "results.parquet").filter(pl.col("training_step") == 0)
    studies.write_study(folder, first, {})
    rows = horizons(page.render(folder).read_text(encoding="utf-8"), 16)
    assert " ".join(rows["gated", "after training"]) == "–  – – – –"
    assert not decay.fit_cells({"exponential_aic": [math.nan], "power_aic": [1.0]})[1]
    assert not list((folder / "figures").glob("*after*"))


def test_numbers_growth_and_exploding_norms():
    values = [None, math.nan, math.inf, 0.0, 12.345, -0.5, 1024.0, 3.2e-12, 4.0e7, 0.99996, 9.9996]
    assert list(map(words.number, values)) == "– – ∞ 0 12.3 −0.500 1024 3.2×10⁻¹² 4.0×10⁷ 1.00 10.0".split()
    aic = {"exponential_aic": [0.0], "power_aic": [5.0]}
    growing = {"exponential_length": [math.inf], "exponential_rate": [0.02], "power_exponent": [1.0]}
    assert decay.fit_cells(aic | growing) == ("exponential", "rate 0.0200 per step")
    assert drawing.limits(np.array([-5.5, 1e4, np.inf, np.nan]), -45.0, 39.0) == (-6, 39)
    assert drawing.limits(np.array([-1e4, -900.0]), -45.0, 39.0) == (-45, -44)
