"""Settings of every test."""

import gc
import signal
import sys
from pathlib import Path

import helpers.shapes  # noqa: F401 (named in the import hook)
import hypothesis
import jax
import pytest
from helpers.quick_compilation import compile_quickly, keep_programs
from helpers.tiers import leave_few_cases
from helpers.workers import LoadGroups, file_of, group_of
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)
# float32 means float32: on a GPU or TPU, products would be rounded to fewer digits.
jax.config.update("jax_default_matmul_precision", "highest")

keep_programs()  # most of a run's time is compilation


def pytest_configure(config):
    """The fast tier has barely optimized programs, which take half the time; `make test-full` optimizes them.

    Tests that send Ctrl-C need a process that does not ignore it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.markexpr == "not slow":
        compile_quickly()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave some cases to the slow tier; put short groups of tests last, when workers wait for each other."""
    leave_few_cases(items)
    items.sort(key=lambda item: group_of(item.nodeid) != file_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Send all tests of a group to one worker.

    Groups by ``--dist loadgroup`` have no effect with pytest 9.2 and pytest-xdist 3.8: each test is a group by itself.
    """
    return LoadGroups(config, log)


pytest.register_assert_rewrite("helpers.cells", "helpers.cell_checks")  # as the asserts of test files


def pytest_collection_finish():
    """Look for garbage among new objects only, and less often: a tenth of the time went there."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


MAPS = Path("/proc/self/maps")  # on Linux


def pytest_runtest_teardown(item, nextitem):
    """Let compiled programs go where a group ends and there are many.

    Each holds memory maps, of which Linux allows a process 65,530, and half a megabyte or more. Groups share few
    programs; one that is needed again comes from the folder, but is traced again.
    """
    if nextitem is not None and group_of(item.nodeid) == group_of(nextitem.nodeid):
        return
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 5_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def curves_only_where_they_are_looked_at(request, monkeypatch):
    """Drawing takes longer than the short trainings of the tests: `@pytest.mark.draws_curves` asks for pictures."""
    logs = sys.modules.get("seqjax.training.metrics_log")
    if logs is not None and request.node.get_closest_marker("draws_curves") is None:
        monkeypatch.setattr(logs, "draw_curves", lambda log, out: Path(out).touch())


# Annotations such as Float[Array, "T B"] are executed here and nowhere else; seqjax must not be imported before.
install_import_hook(["seqjax.ops", "seqjax.datasets", "seqjax.tasks"], "beartype.beartype")
# Where users come in, seqjax's own checks are what is tested: shapes are compared after them. Cells, blocks and
# methods are left out: they pass trees on, whose shapes the conformance suite checks.
install_import_hook(
    [
        f"seqjax.{name}"
        for name in ("combinators", "decode", "gradients", "layers", "probes", "statistics", "training")
    ],
    "helpers.shapes.checked_afterwards",
)

# The first example compiles, so there is no deadline; the same examples in every run.
hypothesis.settings.register_profile(
    "seqjax", deadline=None, derandomize=True, max_examples=20, database=None
)
hypothesis.settings.load_profile("seqjax")
