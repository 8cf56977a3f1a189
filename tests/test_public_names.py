"""What ``import seqjax`` gives: the same names to Python, to type checkers and in ``__all__``, loaded on first use."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import seqjax as sj

SOURCE = Path(sj.__file__).read_text()


def names_for_type_checkers():
    """Each name that the block under TYPE_CHECKING imports, with the module that it comes from."""
    (block,) = (node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_python_and_type_checkers_see_the_same_names():
    found = names_for_type_checkers()
    assert len(sj.__all__) == len(set(sj.__all__))
    assert {*found, "__version__"} == set(sj.__all__)
    assert {name: home for name, home in found.items() if home != "seqjax"} == sj._HOME
    assert sorted(sj.__all__) == dir(sj)


@pytest.mark.parametrize("name", sj.__all__)
def test_every_public_name_is_there(name):
    value = getattr(sj, name)
    home = names_for_type_checkers().get(name)
    if home == "seqjax":
        assert value is sys.modules[f"seqjax.{name}"]
    elif home is not None:
        assert value is getattr(sys.modules[home], name)


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(AttributeError, match=r"module 'seqjax' has no attribute 'Sequentia'"):
        sj.Sequentia  # noqa: B018


def test_importing_seqjax_imports_nothing_else():
    """Help texts come at once, and Ctrl-C is heard while JAX is being imported."""
    code = "import sys, seqjax; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layers_import_neither_kernels_nor_other_packages():
    """So that what most programs use is there at little more than the cost of JAX, Flax and Optax."""
    code = """if True:
        import sys, jax, flax.linen, optax
        packages = lambda: {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
        before = packages()
        import seqjax as sj
        sj.recurrent(sj.lstm(4)), sj.serial, sj.pointwise
        heavy = {"jax.experimental.pallas", "scipy.stats", "seqjax.training", "seqjax.tasks"} & set(sys.modules)
        sys.exit(f"{sorted(packages() - before)} {heavy}")
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr == "['jaxtyping', 'seqjax'] set()\n"


def test_the_package_and_its_metadata_have_one_version():
    """The metadata of the package come from ``seqjax/version.py``; two files for citations repeat it."""
    root = Path(sj.__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    assert "version" in settings["project"]["dynamic"] and "version" not in settings["project"]
    assert settings["tool"]["hatch"]["version"]["path"] == "seqjax/version.py"
    assert f"\nversion: {sj.__version__}\n" in (root / "CITATION.cff").read_text()
    assert f"version = {{{sj.__version__}}}" in (root / "docs/citing.md").read_text()


def test_subpackages_need_no_import_of_their_own():
    code = "import seqjax as sj; sj.training.fit, sj.tasks.TASKS, sj.testing.check_cell, sj.gradients.rtrl"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
