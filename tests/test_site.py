"""The documentation site: every public name has an entry, and every page is in the sidebar."""

import ast
import inspect
import sys
from pathlib import Path

import pytest

import seqjax as sj

ROOT = Path(sj.__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

from website import names, pages  # noqa: E402

ENTRIES = {name: value for page in names.pages().values() for name, value in page.items()}


def exported(package):
    """The names that the file of a package imports from below itself, or lists."""
    module = sys.modules[f"seqjax.{package}"]
    if hasattr(module, "__all__"):
        return set(module.__all__)
    tree = ast.parse(Path(module.__file__).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    inside = [node for node in imports if node.module.startswith(module.__name__)]
    return {alias.name for node in inside for alias in node.names}


def test_every_name_of_the_library_has_an_entry():
    packages = {name for name in sj.__all__ if inspect.ismodule(getattr(sj, name))}
    assert packages <= set(names.PACKAGES)
    last = {name.rpartition(".")[2] for name in ENTRIES}
    assert set(sj.__all__) - packages - {"__version__"} - last == set()


@pytest.mark.parametrize("package", [name for name in names.PACKAGES if name != "ops"])
def test_every_name_of_a_package_has_an_entry(package):
    module = sys.modules[f"seqjax.{package}"]
    known = {id(value) for value in ENTRIES.values()}
    wanted = [name for name in exported(package) if not inspect.ismodule(getattr(module, name))]
    missing = [name for name in wanted if id(getattr(module, name)) not in known]
    assert set(missing) <= names.NOT_FOR_USERS


@pytest.mark.parametrize("package", [name for name in names.PACKAGES if name not in ("ops", "base")])
def test_a_package_lists_what_it_imports_from_below(package):
    """For type checkers of users, which refuse an imported name of a typed package that ``__all__`` lacks."""
    module = sys.modules[f"seqjax.{package}"]
    tree = ast.parse(Path(module.__file__).read_text())
    inside = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith(module.__name__)
        for alias in node.names
    }
    public = {name for name in inside if names.is_public(module, name)}
    listed = set(getattr(module, "__all__", ()))
    assert public <= listed or package == "training.distributed"
    assert all(hasattr(module, name) for name in listed)


def test_every_entry_has_a_docstring():
    def text(name, value):
        package, _, constant = name.rpartition(".")
        return names.docstring_of(package, constant) if names.is_constant(value) else value.__doc__

    assert [name for name, value in ENTRIES.items() if not text(name, value)] == []


def test_every_page_is_in_the_sidebar():
    there = {
        name.rpartition("/")[2]
        for lists in pages.NAVIGATION.values()
        for part in lists.values()
        for name in part
    }
    assert {path.stem for path in ROOT.glob("docs/*.md")} - {"index"} <= there
