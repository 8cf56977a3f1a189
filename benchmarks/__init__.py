"""Measurements: ``python -m benchmarks --help``. A result is checked before its time is taken."""
