"""Test the pictures of the instruments: every probe has one, on its closed form, with the numbers that it measures."""

import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import seqjax as sj

pytest.importorskip("matplotlib")
pytest.importorskip("polars")

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

from pictures import PICTURES, drawn, numbers, numbers_in  # noqa: E402

FOLDER = ROOT / "docs/pictures/instruments"
PAGE = (ROOT / "docs/instruments.md").read_text(encoding="utf-8")
NAMES = [picture.name for picture in PICTURES]
PROBES = {name for name, value in vars(sj.probes).items() if inspect.isfunction(value)} - {"bind"}


def committed(picture):
    """The numbers of a picture in the repository."""
    return numbers_in((FOLDER / f"{picture.name}.svg").read_text(encoding="utf-8"))


def test_every_probe_has_one_picture_on_the_page():
    assert sorted(probe for picture in PICTURES for probe in picture.probes) == sorted(PROBES)
    shown = re.findall(r"!\[(.*)\]\(pictures/instruments/(\w+)\.svg\)", PAGE)
    assert [name for _, name in shown] == NAMES == list(dict.fromkeys(NAMES))
    assert {path.stem for path in FOLDER.iterdir()} == set(NAMES)
    assert all(len(alt) > 40 for alt, _ in shown)


def test_the_page_explains_every_probe_and_calls_it():
    parts = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    for picture, part in zip(PICTURES, parts, strict=True):
        heading, _, text = part.partition("\n")
        assert sorted(re.findall(r"`(\w+)`", heading)) == sorted(picture.probes)
        for probe in picture.probes:
            assert f"`{probe}`" in text.partition("![")[0] and re.search(rf"sj\.probes\.{probe}\b", text), (
                probe
            )


@pytest.mark.parametrize("picture", PICTURES, ids=NAMES)
def test_the_measurements_lie_on_the_closed_form(picture):
    """Within 7% of the height of the picture, or with the closed form inside the interval."""
    scale = np.log if "y" in picture.log else np.asarray
    curves = committed(picture)
    heights = np.concatenate(
        [scale(curve[name]) for curve in curves for name in ("y", "exact") if name in curve]
    )
    assert any("exact" in curve for curve in curves)
    for curve in curves:
        if "exact" in curve:
            near = np.abs(scale(curve["y"]) - scale(curve["exact"])) <= 0.07 * np.ptp(heights)
            if "low" in curve:
                near |= (np.array(curve["low"]) <= curve["exact"]) & (
                    np.array(curve["exact"]) <= curve["high"]
                )
            assert near.all(), curve["label"]


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize("picture", PICTURES, ids=NAMES)
def test_the_committed_picture_shows_what_the_probe_measures(picture):
    """`make pictures` draws anew what has changed."""
    curves = picture.measure()
    assert numbers_in(drawn(picture, curves)) == numbers(curves)
    for found, expected in zip(numbers(curves), committed(picture), strict=True):
        assert found["label"] == expected["label"] and found.keys() == expected.keys()
        for name in found.keys() - {"label"}:
            close = {"rtol": picture.tolerance, "atol": 1e-6}
            np.testing.assert_allclose(
                found[name], expected[name], **close, err_msg=f"{found['label']}: {name}"
            )


def test_pictures_are_small_with_legible_text_on_any_page():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")}
    assert sum(map(len, texts.values())) < 400_000
    for name, text in texts.items():
        assert min(map(float, re.findall(r"font-size: ([\d.]+)px", text))) >= 12, name
        assert "background:#fff" in text and "prefers-color-scheme:dark" in text, name
        assert 'width="480"' in text and 'role="img" aria-label="' in text and "<dc:date>" not in text, name
