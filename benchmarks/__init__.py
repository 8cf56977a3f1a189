"""Benchmarks: ``python -m benchmarks --help``. Each checks results before it measures times."""
