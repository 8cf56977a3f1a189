"""Test that files are found by name: each cell is in a file of its name, and the package exports the factory."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import seqjax as sj
from seqjax.cells import REGISTRY

CELLS = Path(sj.__file__).parent / "cells"


def factory_name(entry) -> str:
    """The name of the factory behind a `functools.partial` or `two_heads`."""
    return getattr(entry.make, "func", entry.make).__name__


@pytest.mark.parametrize("name", REGISTRY)
def test_a_cell_is_found_by_its_file_name(name):
    # The rule: the file has the name of the factory, and the registered name contains the name of the factory.
    factory = factory_name(REGISTRY[name])
    assert factory in name
    tree = ast.parse((CELLS / f"{factory}.py").read_text())
    assert factory in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", sorted({factory_name(entry) for entry in REGISTRY.values()}))
def test_the_package_exports_the_factory_of_a_file(name):
    module = importlib.import_module(f"seqjax.cells.{name}")
    assert getattr(sj.cells, name) is getattr(sj, name) is getattr(module, name)


def test_a_file_has_one_factory():
    stems = {path.stem for path in CELLS.glob("*.py")} - {"__init__"}
    assert stems == {factory_name(entry) for entry in REGISTRY.values()}


def test_an_import_of_a_file_first_does_not_hide_its_factory():
    lines = [
        f"import seqjax.cells.{name}; from seqjax.cells import {name}; assert {name}.__name__ == '{name}', {name}"
        for name in ("lstm", "delta_net", "min_gru", "para_gru", "elman")
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=CELLS.parent.parent)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("bptt", ("full_bptt", "truncated_bptt")),
        ("randomized", ("randomized_truncated_bptt",)),
        ("reversible", ("reversible",)),
        *((f"online.{name}", (name,)) for name in ("rtrl", "snap", "uoro", "kf_rtrl")),
        *((f"local.{name}", (name,)) for name in ("eprop", "rflo")),
    ],
)
def test_an_estimator_is_found_by_its_file_name(file, names):
    module = importlib.import_module(f"seqjax.gradients.{file}")
    for name in names:
        assert getattr(sj.gradients, name) is getattr(sj, name) is getattr(module, name)
