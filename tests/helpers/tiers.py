"""What runs in the slow tier only: cases that follow from the others of their test."""

import collections

import pytest


def slow(*values):
    """Cases that follow from the others of their test: another dtype, size or option of the same kind."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def leave_few_cases(items):
    """Of a test with ``@pytest.mark.fast_cases(n)``, leave n in the fast tier, spread evenly."""
    cases = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("fast_cases") and not item.get_closest_marker("slow"):
            cases[item.path, item.originalname].append(item)
    for of_one in cases.values():
        (count,) = of_one[0].get_closest_marker("fast_cases").args
        fast = {round(i * (len(of_one) - 1) / max(1, count - 1)) for i in range(count)}
        for i, item in enumerate(of_one):
            if i not in fast:
                item.add_marker(pytest.mark.slow)
