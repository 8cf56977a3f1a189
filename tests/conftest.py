"""Settings of every test; there are no fixtures here."""

import itertools
import os
import signal
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)
# float32 means float32: on a GPU or TPU, products would be rounded to fewer digits.
jax.config.update("jax_default_matmul_precision", "highest")

# Most of a run's time is compilation, so its results are kept. Several workers may share the folder: an entry is
# named by a hash of the program, and one that is read half-written only costs a warning and a compilation.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_configure(config):
    """The fast tier has barely optimised programs, which take half the time; `make test-full` optimises them.

    Tests that send Ctrl-C need a process that does not ignore it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.markexpr == "not slow":
        from seqjax.compat import QUICK_TO_COMPILE

        jax.config.update("jax_disable_most_optimizations", True)
        flags = (f"--{name}={value}".lower() for name, value in QUICK_TO_COMPILE.items())
        os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *flags))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What has a parameter ``name`` shares programs with the other tests of that name: one worker compiles them."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if "name" in params:
            group = f"{item.path.stem}-{params['name']}-{params.get('method', '')}"
            item.add_marker(pytest.mark.xdist_group(group))


pytest.register_assert_rewrite("helpers")  # their asserts show values, as those of tests do

TESTS_DONE = itertools.count(1)


def pytest_runtest_teardown():
    """Let compiled programs go now and then: each holds memory maps, of which Linux allows a process 65,530."""
    if next(TESTS_DONE) % 200 == 0:
        jax.clear_caches()


# Annotations such as Float[Array, "T B"] are executed here and nowhere else; seqjax must not be imported before.
# Where users come in (factories, layers), seqjax's own checks are what is tested.
install_import_hook(["seqjax.ops", "seqjax.datasets", "seqjax.tasks"], "beartype.beartype")

# The first example compiles, so there is no deadline; the same examples in every run.
hypothesis.settings.register_profile(
    "seqjax", deadline=None, derandomize=True, max_examples=20, database=None
)
hypothesis.settings.load_profile("seqjax")
