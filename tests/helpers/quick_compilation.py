"""Compile quickly, and cache compiled programs; also a plugin: ``pytest -p tests.helpers.quick_compilation``.

The fast tier and the examples of the docstrings use both; `make test-full` optimizes its programs.
"""

import os
from pathlib import Path

import jax


def keep_programs():
    """Keep compiled programs in a folder.

    Several workers may share the folder: an entry is named by a hash of the program, and an entry that is read
    half-written only costs a warning and a compilation.
    """
    folder = Path(__file__).parents[2] / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compile_quickly():
    """Leave programs almost unoptimized: they compile in half the time or less."""
    from seqjax.compat import QUICK_TO_COMPILE  # later than conftest.py, whose import hook comes first

    jax.config.update("jax_disable_most_optimizations", True)
    flags = (f"--{name}={value}".lower() for name, value in QUICK_TO_COMPILE.items())
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *flags))


def pytest_configure(config):
    """As a plugin: both."""
    keep_programs()
    compile_quickly()
