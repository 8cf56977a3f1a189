"""Test the threads of a study: cells in parallel, sections of a cell in sequence, timed ones alone, Ctrl-C."""

import threading
from concurrent.futures import wait

import pytest

from seqjax.study import measuring
from seqjax.study.measuring import Measuring
from seqjax.study.rows import Part
from seqjax.study.settings import Settings
from seqjax.study.store import Store


class Section:
    """Parts of cells a and b, by a function of one's own; what happened, in order."""

    def __init__(self, name, happen, events, timed=False):
        self.name, self.timed, self.happen, self.events = name, timed, happen, events

    def parts(self):
        return [(self, Part(self.name, cell, 4, seed)) for cell in "ab" for seed in range(2)]

    def work(self, settings, part):
        return 1.0

    def measure(self, experiment, part):
        self.events.append(("begin", self.name, part.cell, part.seed))
        experiment.advance(0.25)
        self.happen(part)
        yield {"quantity": "x", "value": float(part.seed)}
        self.events.append(("end", self.name, part.cell, part.seed))


@pytest.fixture
def bench(tmp_path):
    store = Store(tmp_path)

    def make(advance=lambda work: None, describe=lambda what: None):
        (tmp_path / "parts").mkdir(exist_ok=True)
        return Measuring(Settings(), None, store, advance, describe)

    return make


def test_cells_are_measured_together_their_sections_in_turn_and_timed_ones_alone(bench):
    events, told = [], []
    both = threading.Barrier(2)  # each cell waits for the other: one after the other would never come through
    first = Section("first", lambda part: both.wait(300), events)
    second = Section("second", lambda part: None, events)
    timed = Section("timed", lambda part: events.append(threading.current_thread()), events, timed=True)
    jobs = [job for section in (timed, first, second) for job in section.parts()]
    measured = bench(told.append)
    measured.run(jobs, workers=2)
    assert measured.done == {part.name for _, part in jobs} and sum(told) == len(jobs)
    threads = [event for event in events if isinstance(event, threading.Thread)]
    assert threads == [threading.main_thread()] * 4
    events = [event for event in events if not isinstance(event, threading.Thread)]
    assert [name for _, name, _, _ in events[-8:]] == ["timed"] * 8
    for cell in "ab":
        mine = [(kind, name, seed) for kind, name, of, seed in events if of == cell]
        assert mine == [
            (kind, name, seed)
            for name in ("first", "second", "timed")
            for seed in (0, 1)
            for kind in ("begin", "end")
        ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_keeps_what_is_finished_and_begins_nothing_more(bench, monkeypatch, error):
    events, described, stopped = [], [], threading.Event()

    def happen(part):
        if part.cell == "a" and part.seed == 1:
            stopped.set()
            raise error
        if part.cell == "b":
            stopped.wait(300)
            measured._stop.wait(300)

    def late(
        futures,
    ):  # the thread that waits for the others hears of the error when they have nothing left to do
        return wait(futures).done

    monkeypatch.setattr(measuring, "as_completed", late)
    section, later = Section("first", happen, events), Section("later", lambda part: None, events)
    measured = bench(describe=described.append)
    with pytest.raises(error):
        measured.run([*section.parts(), *later.parts()], workers=2)
    assert bench().done == measured.done == {"first/a/4/0"}
    assert described[-1].startswith("stopping")
    assert not any(name == "later" for _, name, _, _ in events)


def test_what_is_measured_already_is_left_alone(bench):
    events = []
    section = Section("first", lambda part: None, events)
    bench().run(section.parts()[:3])
    events.clear()
    bench().run(section.parts())
    assert events == [("begin", "first", "b", 1), ("end", "first", "b", 1)]
