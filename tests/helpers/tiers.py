"""Parametrized cases that run in the slow tier only."""

import pytest


def slow(*values):
    """Cases that follow from the others of their test: another dtype, size or option of the same kind."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
