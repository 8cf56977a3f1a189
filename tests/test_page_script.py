"""Test the page's controls in a JavaScript engine, with the part of a document that `page.js` needs (`dom.js`)."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers.studies import write_study

from seqjax.report import page
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import Caption, Figure, View
from seqjax.report.drawing import COLORS
from seqjax.report.heat import heat_map
from seqjax.report.results import Profile
from seqjax.report.section import Section
from seqjax.study.rows import SCHEMA

engine = pytest.importorskip(
    "py_mini_racer", reason="the page's script runs in mini-racer, which is not installed"
)

CELLS, LENGTHS, SEEDS = ("gru", "lru"), (8, 16), (0, 1)
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def lag(length):
    return np.arange(length)


def decades(cell, length, seed):
    """Logarithms to base 10: a line down that bends with the seed."""
    return -(1 + seed) * lag(length) ** 0.5 - 1 - CELLS.index(cell)


def mean(cell, length):
    return sum(decades(cell, length, seed) for seed in SEEDS) / 2


def lines(length):
    """Norms of both cells, with bands and seeds; at length 8 the second cell has the first seed only."""
    series = []
    for place, cell in enumerate(CELLS):
        middle, known = mean(cell, length), SEEDS[: 1 if (cell, length) == ("lru", 8) else 2]
        seeds = {seed: decades(cell, length, seed) for seed in known}
        series.append(Series(cell, lag(length), middle, place, cell, middle - 0.2, middle + 0.2, seeds))
    return series


def norms(series, name, length=None):
    y, x = Axis("norm", "decades", (-12, 0)), Axis("lag: steps back", limits=(0, 15))
    return chart(series, name, title=name, x=x, y=y, label=name, length=length)


def exponents(y, name, seeds):
    """Points and a line of all cells on axes of logarithms; a number below zero has no place there."""
    x = Axis("steps", "log", (1, 1e4), ticks=(1, 100), names=("1", "100"))
    at = 10.0 ** np.arange(5)
    series = [Series("both", at, y, 0, seeds=seeds, marks="both"), Series("no seeds", at, [0.5] * 5, 1)]
    return chart(series, name, title=name, x=x, y=Axis("error", "log", (1e-4, 1)), label=name)


FIRST, SECOND = [0.5, 0.1, 0.02, 0.3, 0.4], [0.25, 3e-4, np.nan, 0.7, -0.1]


def heat(cell, length):
    """Two snapshots: the norm at step t and training step r is 10^-(t + r/10), exactly 0 at the first of the second."""
    values = -(np.arange(length)[None] + np.array([[0.0], [0.9]]))
    values[1, 0] = -np.inf
    return heat_map(Profile(cell, length, (0, 9), values[None]), (-20, 0), f"heat-{cell}-{length}")


def section():
    figures = [
        *(Figure("maps", [heat(cell, n) for cell in CELLS], Caption("", "", ""), length=n) for n in LENGTHS),
        *(
            Figure("lines", [norms(lines(n), f"lines-{n}", n)], Caption("", "", ""), length=n)
            for n in LENGTHS
        ),
        Figure("points", [exponents(FIRST, "points", dict(enumerate((FIRST, SECOND))))], Caption("", "", "")),
    ]
    return Section("shown", "Shown", lambda data: View("", figures))


class Tree(HTMLParser):
    """The elements of a page as lists [tag, attributes, children]."""

    def __init__(self, text):
        super().__init__()
        self.open = [["html", {}, []]]
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        node = [tag, {name: value or "" for name, value in attrs}, []]
        self.open[-1][2].append(node)
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1][2].append([tag, {name: value or "" for name, value in attrs}, []])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.open[-1][2].append(data)


class Page:
    """A page with its script running; a call runs JavaScript, with the helpers of `dom.js`, and returns its value."""

    def __init__(self, text):
        self.context = engine.MiniRacer()
        self.context.eval((Path(__file__).parent / "helpers" / "dom.js").read_text("utf-8"))
        self.context.eval(f"load({json.dumps(Tree(text).open[0])}); null")
        (script,) = SCRIPT.findall(text)
        self.context.eval(script + ";null")

    def __call__(self, code):
        return json.loads(self.context.eval(f"JSON.stringify(eval({json.dumps(code)}) ?? null)"))

    def outline(self, identity):
        lines = f"$('{identity}').querySelectorAll('path').filter(path => !path.closest('defs'))"
        return self(f"{lines}[0].getAttribute('d')")

    def path(self, identity):
        """The corners of a line as it is drawn, in pixels."""
        return np.array(re.findall(r"[ML] ?(-?[\d.]+) (-?[\d.]+)", self.outline(identity)), float)

    def shown(self, identity):
        return self(f"$('{identity}').style.display") != "none"

    def hidden(self, selector):
        return self(f'document.querySelectorAll("{selector}").map(n => n.hidden)')


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = [
        dict.fromkeys(SCHEMA)
        | {"part": "p", "section": "training", "cell": c, "length": n, "seed": s, "value": 0.0}
        for c in CELLS
        for n in LENGTHS
        for s in SEEDS
    ]
    rows = pl.DataFrame(rows, schema=SCHEMA).with_columns(quantity=pl.lit("x"))
    write_study(folder, rows, {"settings": {"cells": CELLS, "lengths": LENGTHS}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "chosen", lambda names: [section()])
        return page.render(folder).read_text("utf-8")


@pytest.fixture
def shown(text):
    return Page(text)


def place(frame, x, y):
    """Where a value lies in a drawing, in its pixels, by the frame that the script is told."""
    left, top, right, bottom = frame["box"]
    (x0, x1, _), (y0, y1, _) = frame["x"], frame["y"]
    return left + (x - x0) / (x1 - x0) * (right - left), bottom + (y - y0) / (y1 - y0) * (top - bottom)


def point(page, panel, x, y):
    """Point at a value of a drawing, and read what is told."""
    px, py = place(panel.data, x, y)
    page(f"point('{panel.name}-figure_1', {px}, {py})")
    return page("tip()")


def test_controls_show_where_there_is_something_to_choose(text, shown):
    assert not shown("$('choose').hidden")
    assert shown("[...$('length').options, ...$('seed').options].map(o => o.value)") == [
        "",
        "8",
        "16",
        "",
        "0",
        "1",
    ]
    one = re.sub(r'<label><input type="checkbox" checked value="lru">.*?</label>', "", text)
    for n in (*LENGTHS[1:], *SEEDS[1:]):
        one = one.replace(f"<option>{n}</option>", "")
    alone = Page(one.replace('"c":"lru"', '"c":"gru"'))
    assert alone("$('choose').hidden")


def test_choice_of_cells(shown):
    shown("tick('gru')")
    assert shown.hidden("[data-cell='gru']") == [True, True] and shown.hidden("[data-cell='lru']") == [
        False,
        False,
    ]
    assert not shown.shown("lines-8-s0") and not shown.shown("lines-8-s0-band")
    assert shown.shown("lines-8-s1") and shown.shown("lines-8-s1-band") and shown.shown("points-s0")
    assert [row[0] for row in point(shown, norms(lines(8), "lines-8"), 4, -6)] == ["lag 4", "lru"]
    shown("tick('lru')")
    assert point(shown, norms(lines(8), "lines-8"), 4, -6) is None
    shown("tick('gru')"), shown("tick('lru')")
    assert (
        not any(shown.hidden("[data-cell]")) and shown.shown("lines-8-s0") and shown.shown("lines-8-s0-band")
    )


def test_double_click_shows_one_cell_alone_then_all(shown):
    shown("tick('lru', 'dblclick')")
    assert shown("document.querySelectorAll('input').map(i => i.checked)") == [False, True]
    assert shown.hidden("[data-cell='gru']") == [True, True] and shown.hidden("[data-cell='lru']") == [
        False,
        False,
    ]
    shown("tick('lru', 'dblclick')")
    assert not any(shown.hidden("[data-cell]"))


def test_choice_of_length(shown):
    shown("choose('length', '8')")
    assert all(shown.hidden("[data-length='16']")) and not any(shown.hidden("[data-length='8']"))
    shown("choose('length', '')")
    assert not any(shown.hidden("[data-length]"))


@pytest.mark.parametrize("seed", SEEDS)
def test_choice_of_a_seed_draws_what_the_drawing_of_that_seed_alone_has(shown, seed):
    before = shown.path("lines-16-s0")
    shown(f"choose('seed', '{seed}')")
    alone = [Series(cell, lag(16), decades(cell, 16, seed), i, cell) for i, cell in enumerate(CELLS)]
    drawn = Page(f"<body>{norms(alone, 'alone').svg}<script></script></body>")
    for line in ("s0", "s1"):
        expected = drawn.path(f"alone-{line}")
        assert np.abs(np.ptp(expected, axis=0)).min() > 20
        np.testing.assert_allclose(shown.path(f"lines-16-{line}")[[0, -1]], expected[[0, -1]], atol=0.11)
        between = np.interp(shown.path(f"lines-16-{line}")[:, 0], *expected.T)
        np.testing.assert_allclose(shown.path(f"lines-16-{line}")[:, 1], between, atol=0.2)
    assert not shown.shown("lines-16-s0-band") and shown.shown("lines-16-s0")
    shown("choose('seed', '')")
    np.testing.assert_array_equal(shown.path("lines-16-s0"), before)
    assert shown.shown("lines-16-s0-band")


def test_choice_of_a_seed_moves_points(shown):
    at = "$('points-s0').querySelectorAll('use').map(u => [+u.getAttribute('y'), u.style.display !== 'none'])"
    before = shown(at)
    drawn = Page(f"<body>{exponents(SECOND, 'alone', {}).svg}<script></script></body>")
    expected = drawn("$('alone-s0').querySelectorAll('use').map(u => +u.getAttribute('y'))")
    shown("choose('seed', '1')")
    np.testing.assert_allclose([y for y, seen in shown(at) if seen], expected[:3], atol=0.11)
    assert [seen for _, seen in shown(at)] == [True, True, False, True, False]
    # A line through two neighbors, a gap, a dash where a point has none.
    assert re.sub(r"[\d. ]+", "", shown.outline("points-s0")) == "MLMh"
    assert shown.shown("points-s1") and len(shown.path("points-s1")) == 5
    shown("choose('seed', '')")
    assert shown(at) == before and all(seen for _, seen in before)


def test_a_line_that_lacks_the_chosen_seed_is_not_there(shown):
    shown("choose('seed', '1')")
    assert shown.shown("lines-8-s0") and shown.shown("lines-16-s1") and not shown.shown("lines-8-s1")
    assert [row[0] for row in point(shown, norms(lines(8), "lines-8"), 4, -6)] == ["lag 4", "gru"]
    shown("choose('seed', '0')")
    assert shown.shown("lines-8-s1")


def test_choices_that_a_browser_restores_are_shown(shown):
    shown("document.querySelector(\"input[value='gru']\").checked = false; document.fire('pageshow')")
    assert shown.hidden("[data-cell='gru']") == [True, True] and not shown.shown("lines-8-s0")


def test_an_axis_has_the_ticks_that_were_asked_for():
    axis = Axis("lag", limits=(0, 23), ticks=(0, 6, 12, 18, 23))
    svg = chart([], "ticks", title="", x=axis, y=Axis("y"), label="").svg
    assert svg.count("xtick_") == 5


def test_a_point_between_gaps_is_seen():
    y = np.array([np.nan, -3.0, np.nan, -4.0, -5.0, np.nan, -6.0])
    drawn = Page(f"<body>{norms([Series('a', np.arange(7), y, 0)], 'gaps').svg}<script></script></body>")
    frame = norms([], "empty").data
    dots = drawn(
        "$('gaps-s0').querySelectorAll('use').map(u => [+u.getAttribute('x'), +u.getAttribute('y')])"
    )
    np.testing.assert_allclose(dots, [place(frame, 1, -3), place(frame, 6, -6)], atol=0.01)


def test_pointing_at_a_line_tells_the_values_there(shown):
    panel = norms(lines(16), "lines-16")
    assert point(shown, panel, 3.8, -6) == [["lag 4"], ["gru", "1.0×10⁻⁴"], ["lru", "1.0×10⁻⁵"]]
    dots = shown("document.body.children.at(-1).querySelectorAll('i').map(i => i.style.background)")
    assert dots == list(COLORS[:2])
    x = shown(
        "document.querySelectorAll('line').filter(l => l.style.display === 'inline').map(l => +l.getAttribute('x1'))"
    )
    np.testing.assert_allclose(x, [place(panel.data, 4, 0)[0]])
    shown("choose('seed', '0')")
    assert point(shown, panel, 4.3, -11)[1:] == [["gru", "0.001"], ["lru", "1.0×10⁻⁴"]]
    assert point(shown, panel, -2, -6) is None and point(shown, panel, 4, 1) is None
    assert point(shown, panel, 4, -6) and shown("$('lines-16-figure_1').fire('pointerleave')") is None
    assert shown("tip()") is None
    assert shown("document.querySelectorAll('line').filter(l => l.style.display === 'inline')") == []


def test_pointing_tells_the_place_on_an_axis_of_logarithms(shown):
    panel = exponents(FIRST, "points", {})
    left, top, right, bottom = panel.data["box"]
    for i, (x, value) in enumerate(zip(["1", "10", "100", "1000", "10000"], FIRST, strict=True)):
        shown(f"point('points-figure_1', {left + i / 4 * (right - left)}, {(top + bottom) / 2})")
        (head,), *rows = shown("tip()")
        assert head == f"steps {x}" and sorted(rows) == [["both", f"{value:g}"], ["no seeds", "0.5"]]


def test_pointing_at_a_map_tells_step_training_step_and_norm(shown):
    panel = heat("lru", 16)
    assert point(shown, panel, 5.2, 0.1) == [["step 5, training step 0"], ["norm", "1.0×10⁻⁵"]]
    assert point(shown, panel, 5.2, 0.9) == [["step 5, training step 9"], ["norm", "1.3×10⁻⁶"]]
    assert point(shown, panel, 2, 0) == [["step 2, training step 0"], ["norm", "0.01"]]
    assert point(shown, panel, 0, 1)[1] == ["norm", "exactly 0, or masked"]


def test_numbers_are_those_of_the_tables(shown):
    y = np.log10([1234.56, 9.97e-6, 3.0, 2e-300])
    panel = norms([Series("a", np.arange(4), y, 0)], "numbers")
    markup = f"<body><div>{panel.svg}<script type='application/json'>{panel.json}</script></div>"
    told = Page(f"{markup}<script>{(page.FOLDER / 'page.js').read_text('utf-8')}</script></body>")
    assert [point(told, panel, x, -6)[1][1] for x in range(4)] == ["1235", "1.0×10⁻⁵", "3", "2.0×10⁻³⁰⁰"]


def test_what_is_told_stays_in_the_window(shown):
    move, box = "point('lines-16-figure_1', 300, 100)", "document.body.children.at(-1).style"
    shown(move)  # at (700, 250), in a window of 1280 by 800; the box has 200 by 60
    assert shown(box) == {"left": "716px", "top": "264px"}
    shown(f"innerWidth = 900; innerHeight = 300; {move}")
    assert shown(box) == {"left": "488px", "top": "236px"}


def test_a_touch_tells_the_values_too(shown):
    shown("point('lines-16-figure_1', 300, 100, 'pointerdown')")
    assert len(shown("tip()")) == 3


def test_values_with_a_unit_are_told_with_their_prefix():
    series = [Series("a", [1e3, 2e6], [3.4e-4, 0.25], 0, marks="both")]
    x, y = Axis("memory", "log", (1e2, 1e7), unit="B"), Axis("time", "log", (1e-5, 10), unit="s")
    panel = chart(series, "units", title="", x=x, y=y, label="")
    markup = f"<body><div>{panel.svg}<script type='application/json'>{panel.json}</script></div>"
    told = Page(f"{markup}<script>{(page.FOLDER / 'page.js').read_text('utf-8')}</script></body>")
    left, top, right, bottom = panel.data["box"]
    for share, head, value in (
        (0.2, "memory 1\u00a0kB", "340\u00a0µs"),
        (0.86, "memory 2\u00a0MB", "250\u00a0ms"),
    ):
        told(f"point('units-figure_1', {left + share * (right - left)}, {(top + bottom) / 2})")
        assert told("tip()") == [[head], ["a", value]]


def test_names_at_the_ends_of_lines_go_with_their_cells_and_seeds():
    cells = [f"c{n}" for n in range(len(COLORS) + 1)]
    series = [
        Series(cell, lag(8), -lag(8) / 2 - n, n, cell, seeds={0: -lag(8) - 0.5})
        for n, cell in enumerate(cells)
    ]
    bar = '<div id="choose"><input type="checkbox" checked value="c0"><input type="checkbox" value="c1">'
    for name, values in (("length", [""]), ("seed", ["", "0"])):
        options = "".join(f'<option value="{value}">{value}</option>' for value in values)
        bar += f'<select id="{name}">{options}</select>'
    bar += "</div>"
    panel = norms(series, "many")
    markup = f"<body>{bar}<div>{panel.svg}<script type='application/json'>{panel.json}</script></div>"
    told = Page(f"{markup}<script>{(page.FOLDER / 'page.js').read_text('utf-8')}</script></body>")
    told("document.fire('pageshow')")
    for part in ("-end", "-lead"):
        assert told.shown(f"many-s0{part}") and not told.shown(f"many-s1{part}")
        assert told(f"$('many-s0{part}').getAttribute('transform')") == "translate(0 0.0)"
    told("choose('seed', '0')")
    moved = place(panel.data, 0, -7.5)[1] - place(panel.data, 0, -3.5)[1]
    for part in ("-end", "-lead"):
        assert told(f"$('many-s0{part}').getAttribute('transform')") == f"translate(0 {moved:.1f})"
