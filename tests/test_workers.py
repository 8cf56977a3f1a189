"""Test which tests share a worker, and which cases are left to the slow tier."""

from types import SimpleNamespace

import pytest
from helpers.tiers import leave_few_cases
from helpers.workers import group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/test_decode.py::test_seeds", "test_decode"),
        ("tests/test_decode.py::test_beams[lstm-0.0]", "test_decode"),
        ("tests/test_cells.py::test_a_loop[lstm]", "test_cells-lstm"),
        ("tests/test_conformance.py::test_a_silent_broadcast", "test_conformance"),
        (
            "tests/test_conformance.py::test_layers[parallel tuple-compiles_once]",
            "test_conformance-parallel tuple",
        ),
        (
            "tests/test_conformance.py::test_cells[gru-Scan(chunk=4, keep_gates=True)-compiles_once]",
            "test_conformance-gru-Scan(chunk=4, keep_gates=True)",
        ),
        ("tests/test_conformance.py::test_params[gru-Newton()]", "test_conformance-gru-Newton()"),
    ],
)
def test_a_group_is_a_file_or_a_cell_and_its_method(nodeid, group):
    assert group_of(nodeid) == group


@pytest.mark.parametrize(
    ("count", "slow", "left"),
    [(1, (), [0]), (2, (), [0, 4]), (3, (), [0, 2, 4]), (9, (), [0, 1, 2, 3, 4]), (2, (0, 4), [1, 3])],
)
def test_the_cases_left_in_the_fast_tier_are_spread_evenly(count, slow, left):
    marks = [{"fast_cases": pytest.mark.fast_cases(count).mark} for _ in range(5)]
    for i in slow:
        marks[i]["slow"] = pytest.mark.slow
    items = [
        SimpleNamespace(
            path="f.py",
            originalname="test_f",
            get_closest_marker=found.get,
            add_marker=lambda mark, found=found: found.update({mark.name: mark}),
        )
        for found in marks
    ]
    leave_few_cases(items)
    assert [i for i, found in enumerate(marks) if "slow" not in found] == left
