"""Test how the report's drawings look: hues, sizes of text, names at the ends of lines, markers side by side, units."""

import itertools
import re

import numpy as np
import pytest
from helpers import looks

from seqjax.base import Activation, Gated
from seqjax.cells import REGISTRY
from seqjax.report import page
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import Caption, Figure, Note, figure_of
from seqjax.report.drawing import COLORS, GREY, TEXT, WIDTH, color_of
from seqjax.report.gates import gate_names
from seqjax.report.grid import grid
from seqjax.report.placing import LINE, REACH, spread_out
from seqjax.report.text import with_unit

MANY = [f"cell{n}" for n in range(len(COLORS) + 3)]
LAGS = np.arange(10.0)


def drawn(series, **axes):
    x, y = axes.get("x", Axis("lag, steps")), axes.get("y", Axis("norm"))
    return chart(series, "it", title="a title", x=x, y=y, label="it")


def lines_of(cells):
    """Straight lines whose ends lie close together."""
    return [Series(cell, LAGS, LAGS * (1 + place / 50), place, cell) for place, cell in enumerate(cells)]


def test_hues_are_distinct_and_grey_is_none():
    assert len(set(COLORS)) == len(COLORS) >= 7
    assert looks.hues(" ".join([*COLORS, GREY, "#000000", "#d5d8dc"])) == set(COLORS)
    assert color_of(None) == GREY and color_of(len(COLORS)) == COLORS[0]


def contrast(color, ground):
    """The ratio of luminances by WCAG 2."""

    def luminance(code):
        channels = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05

    ratio = luminance(color) / luminance(ground)
    return max(ratio, 1 / ratio)


@pytest.mark.parametrize("color", [*COLORS, GREY])
def test_lines_are_seen_on_a_light_and_on_a_dark_page(color):
    css = (page.FOLDER / "page.css").read_text("utf-8")
    grounds = [code if len(code) == 7 else "#ffffff" for code in re.findall(r"--ground: (#\w+)", css)]
    assert len(grounds) == 2 and all(contrast(color, ground) >= 2.9 for ground in grounds)


def test_a_line_has_the_hue_of_its_cell_and_other_lines_are_grey():
    fit = Series("fit", LAGS, LAGS + 1, None, pattern=1)
    svg = drawn([Series("lstm", LAGS, LAGS, 3, "lstm", marks="both"), fit]).svg
    assert looks.hues(svg) == {COLORS[3]} and GREY in svg
    assert looks.hues(drawn([fit]).svg) == set()


def test_text_is_large_enough_where_a_page_is_narrow():
    css = (page.FOLDER / "page.css").read_text("utf-8")
    narrow = float(re.search(r"svg \{[^}]*min-width: (\d+)px", css)[1])
    smallest = min(looks.font_sizes(drawn(lines_of(MANY)).svg))
    assert smallest == TEXT and smallest * narrow / WIDTH >= 12


def test_more_cells_than_hues_have_their_names_at_the_ends_of_their_lines():
    few, many = drawn(lines_of(MANY[: len(COLORS)])), drawn(lines_of(MANY))
    assert 'id="it-legend_1"' in few.svg and 'id="it-s0-end"' not in few.svg
    assert 'id="it-legend_1"' not in many.svg
    right = many.data["box"][2]
    places = []
    for place, name in enumerate(MANY):
        label = looks.group(many.svg, f"it-s{place}-end")
        assert "".join(label.itertext()).strip() == name
        (text,) = label.iter(f"{looks.SVG}text")
        x, y = re.findall(r"[\d.]+", text.get("transform", "") or f"{text.get('x')} {text.get('y')}")[-2:]
        places.append((float(x), float(y)))
    across, down = np.array(places).T
    assert (across > right).all() and (np.diff(-down) >= LINE - 0.1).all()  # greater ends stand higher


def test_markers_that_would_cover_each_other_stand_side_by_side():
    y = np.array([1.0, 2.0, 3.0])
    same = [Series(f"c{n}", [8.0, 64.0, 512.0], y + [0, 0, n], n, f"c{n}", marks="both") for n in range(3)]
    panel = drawn(same, x=Axis("T", "log"), y=Axis("error", limits=(0, 6)))
    places = np.array([looks.markers(panel.svg, f"it-s{n}") for n in range(3)])  # [line, point, xy]
    for point in (0, 1):
        across = places[:, point, 0]
        np.testing.assert_allclose(np.diff(across), REACH, atol=0.01)
    # Their middle is the true place, and markers far apart stay where they are.
    left, _, right, _ = panel.data["box"]
    low, high, _ = panel.data["x"]
    true = left + np.log([8 / low, 64 / low, 512 / low]) / np.log(high / low) * (right - left)
    np.testing.assert_allclose(places[:, :2, 0].mean(0), true[:2], atol=0.02)
    np.testing.assert_allclose(places[:, 2, 0], true[2], atol=0.02)
    # What the page tells at the pointer are the values, not the places.
    assert all(list(each["x"]) == [8.0, 64.0, 512.0] for each in panel.data["s"])


def test_markers_of_one_line_stay_and_dense_lines_move_by_less_than_their_spacing():
    dense = np.arange(64.0)
    panel = drawn([Series(f"c{n}", dense, -dense, n, f"c{n}", marks="points") for n in range(2)])
    first, second = (np.array(looks.markers(panel.svg, f"it-s{n}"))[:, 0] for n in range(2))
    assert 0 < (second - first).max() < np.diff(first).min()
    alone = drawn([Series("c", dense, 0 * dense, 0, "c", marks="points")])
    assert np.ptp(np.diff(np.array(looks.markers(alone.svg, "it-s0"))[:, 0])) < 0.01


def test_intervals_move_with_their_markers():
    series = [
        Series(f"c{n}", [1.0, 2.0], [1.0, 2.0], n, f"c{n}", [0.5, 1.0], [1.5, 3.0], marks="points")
        for n in range(2)
    ]
    panel = drawn(series)
    for n in range(2):
        bars = re.findall(
            r"M ([\d.]+) [\d.]+ *\n?L ([\d.]+)", looks.source(looks.group(panel.svg, f"it-s{n}-band"))
        )
        across = [x for x, _ in looks.markers(panel.svg, f"it-s{n}")]
        np.testing.assert_allclose(np.array(bars, float), np.repeat(across, 2).reshape(-1, 2), atol=0.02)


def test_places_spread_out_are_the_closest_with_these_gaps():
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted, gap = rng.integers(0, 20, size=3).astype(float), 4.0
        found = spread_out(wanted, gap, 0.0, 30.0)
        order = np.argsort(wanted, kind="stable")
        assert (np.diff(found[order]) >= gap - 1e-9).all() and found.min() >= 0 and found.max() <= 30
        grid_ = itertools.product(np.arange(0, 31.0), repeat=3)
        best = min(
            sum((a - b) ** 2 for a, b in zip(each, wanted[order], strict=True))
            for each in grid_
            if each[1] - each[0] >= gap and each[2] - each[1] >= gap
        )
        assert np.square(found - wanted).sum() <= best + 1e-9


def test_one_position_is_not_drawn_and_the_figure_says_so():
    one = drawn([Series(cell, [8.0], [float(n)], n, cell, marks="both") for n, cell in enumerate("ab")])
    two = drawn([Series("a", [8.0, 16.0], [1.0, 2.0], 0, "a")])
    nothing = drawn([Series("a", [8.0, 16.0], [1.0, np.nan], 0, "a")])
    caption = Caption("Shows this.", "Measured so.", "Concluded that.")
    assert (one.points, two.points, nothing.points) == (1, 2, 1)
    note = figure_of("Error", [one, nothing], caption)
    assert (
        isinstance(note, Note)
        and "Error</b>: too few values to draw." in note.text
        and "Concluded" in note.text
    )
    figure = figure_of("Error", [one, two], caption)
    assert isinstance(figure, Figure) and figure.panels == [two]
    assert figure.caption.shows == "Shows this. Too few values to draw: a title."
    assert isinstance(
        figure_of("Map", [grid(np.array([[0.5]]), [["1 of 2"]], ["a"], ["T"], "g", "g", "g")], caption), Note
    )


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (500, "B", "500 B"), (999, "B", "999 B"), (1000, "B", "1.00 kB"), (12_345, "B", "12.3 kB"),
        (999_999, "B", "1.00 MB"), (2.5e9, "B", "2.50 GB"), (0, "B", "0 B"), (float("nan"), "s", "–"),
        (3.4e-4, "s", "340 µs"), (0.2, "s", "200 ms"), (1.5, "s", "1.50 s"), (2e-8, "s", "20.0 ns"),
    ],
)  # fmt: skip
def test_bytes_and_seconds_have_prefixes(value, unit, text):
    assert with_unit(value, unit).replace("\u00a0", " ") == text


def test_ticks_have_units():
    series = [Series("a", [1e3, 1e4, 1e5], [1e-6, 1e-4, 1e-2], 0, marks="points")]
    texts = looks.texts(drawn(series, x=Axis("memory", "log", unit="B"), y=Axis("time", "log", unit="s")).svg)
    shown = [text.replace("\u00a0", " ") for text in texts]
    assert {"1 kB", "10 kB", "100 kB"} <= set(shown) and {"100 µs", "10 ms"} & set(shown)


@pytest.mark.parametrize("cell", REGISTRY)
def test_gates_have_the_names_of_their_formula(cell):
    recurrence = REGISTRY[cell].make(4).recurrence
    names = gate_names(cell)
    if isinstance(recurrence, Gated):
        gates = {
            f"gate {place}"
            for place, activation in enumerate(recurrence.activations)
            if activation is Activation.SIGMOID and place not in recurrence.split
        }
        assert gates <= set(names) and len(set(names.values())) == len(names)
    assert not any(re.search(r"\d", name) for name in names.values())


def test_names_of_gates_are_those_of_the_lstm_and_the_gru():
    assert gate_names("gru") == {"gate 0": "reset gate", "gate 1": "update gate", "decay 0": "decay of h"}
    assert gate_names("slstm")["gate 3"] == "output gate" and gate_names("x.py:build") == {}
    with pytest.raises(
        ValueError, match=r"Gated\(names\): expected one name per gate \(1\), got \('a', 'b'\)"
    ):
        Gated((Activation.TANH,), 1, lambda w, state, h: (h,), names=("a", "b"))
